package pipedream

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// stats counts what a mount did since its plugin process started.
type stats struct {
	requests atomic.Int64 // attempts sent to Pipedream, retries included
	failures atomic.Int64 // requests that failed after their retries
	hits     atomic.Int64 // reads served from the cache
	misses   atomic.Int64 // reads that a fetch had to serve

	mu          sync.Mutex // guards the fields below; never held across I/O
	lastSuccess time.Time
	lastError   error
	lastErrorAt time.Time
}

// outcome records how a request to Pipedream ended.
func (s *stats) outcome(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.lastSuccess = time.Now()
		return
	}
	if api := (*apiError)(nil); !errors.As(err, &api) || api.kind != failNoBudget { // no request went out
		s.failures.Add(1)
	}
	s.lastError, s.lastErrorAt = err, time.Now()
}

func (s *stats) last() (success, failure time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastSuccess, s.lastErrorAt, s.lastError
}
