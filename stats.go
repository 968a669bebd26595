package pipedream

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
)

// stats counts what a mount did since its plugin process started. It observes
// the client and the cache.
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

func (s *stats) Sent()        { s.requests.Add(1) }
func (s *stats) Hit()         { s.hits.Add(1) }
func (s *stats) Miss()        { s.misses.Add(1) }
func (*stats) Refreshed(bool) {}

// Answered records how a request to Pipedream ended.
func (s *stats) Answered(_ string, _ time.Duration, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.lastSuccess = time.Now()
		return
	}
	if api.KindOf(err) != api.NoBudget { // no request went out
		s.failures.Add(1)
	}
	s.lastError, s.lastErrorAt = err, time.Now()
}

func (s *stats) last() (success, failure time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastSuccess, s.lastErrorAt, s.lastError
}
