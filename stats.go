package pipedream

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/cache"
)

// stats counts what a mount did since its plugin process started. It observes the
// client and the cache, and status and metrics show it.
type stats struct {
	requests atomic.Int64 // attempts sent to Pipedream, retries included
	failures atomic.Int64 // requests that failed after their retries
	hits     atomic.Int64 // reads served from the cache
	misses   atomic.Int64 // reads that a fetch had to serve

	registry *prometheus.Registry
	answered *prometheus.CounterVec
	took     *prometheus.HistogramVec
	reads    *prometheus.CounterVec
	asServed map[servedAs]prometheus.Counter // those of reads; looked up once, since every read needs one
	ahead    prometheus.Counter
	late     prometheus.Counter

	mu          sync.Mutex // guards the fields below; never held across I/O
	lastSuccess time.Time
	lastError   error
	lastErrorAt time.Time
}

type servedAs struct {
	path string
	how  cache.How
}

const metricPrefix = "vault_pipedream_"

// howNames are the results of served reads as metrics name them.
var howNames = map[cache.How]string{cache.Hit: "hit", cache.Fetched: "fetched", cache.Stale: "stale"}

func newStats() *stats {
	s := &stats{
		registry: prometheus.NewRegistry(),
		answered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricPrefix + "requests_total", Help: "Requests to Pipedream that ended, by what they were for and how they ended.",
		}, []string{"kind", "outcome"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: metricPrefix + "request_duration_seconds", Help: "How long requests to Pipedream took, retries included, by what they were for.",
			Buckets: []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60},
		}, []string{"kind"}),
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricPrefix + "reads_total", Help: "Reads and refreshes of credentials, by path and result.",
		}, []string{"path", "result"}),
		asServed: map[servedAs]prometheus.Counter{},
	}
	refreshed := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metricPrefix + "tokens_refreshed_total", Help: "New tokens of accounts that were cached: fetched ahead of their readers, or late, while one waited.",
	}, []string{"when"})
	s.ahead, s.late = refreshed.WithLabelValues("ahead"), refreshed.WithLabelValues("late")
	// All of them exist from the start, at 0. Otherwise a rate would miss the first
	// event of each.
	for _, path := range []string{pathCreds, pathStaticCreds, pathRefresh} {
		for how, name := range howNames {
			s.asServed[servedAs{path, how}] = s.reads.WithLabelValues(path, name)
		}
		for _, code := range []int{http.StatusBadRequest, http.StatusTooManyRequests, http.StatusBadGateway} {
			s.reads.WithLabelValues(path, refusedWith(code))
		}
	}
	for _, kind := range []string{
		api.ForAccount, api.ForPage, api.ForSearch, api.ForMetadata, api.ForList, api.ForToken, api.ForCheck, api.ForLink,
		api.ForConnectToken, api.ForAccessToken, api.ForRemoval,
	} {
		s.took.WithLabelValues(kind)
		for _, end := range api.Outcomes() {
			s.answered.WithLabelValues(kind, end)
		}
	}
	s.registry.MustRegister(s.answered, s.took, s.reads, refreshed)
	return s
}

// Sent counts an attempt that goes out.
func (s *stats) Sent() { s.requests.Add(1) }

// Served counts a read that was served.
func (s *stats) Served(path string, how cache.How) {
	if how == cache.Fetched {
		s.misses.Add(1)
	} else {
		s.hits.Add(1)
	}
	if counter := s.asServed[servedAs{path, how}]; counter != nil {
		counter.Inc()
	}
}

// Missed counts a read that a fetch should have served but did not.
func (s *stats) Missed() { s.misses.Add(1) }

// refused counts a read that was answered with an error.
func (s *stats) refused(path string, code int) {
	s.reads.WithLabelValues(path, refusedWith(code)).Inc()
}

func refusedWith(code int) string { return "refused_" + strconv.Itoa(code) }

// Refreshed counts a new token of an account that was cached.
func (s *stats) Refreshed(ahead bool) {
	if ahead {
		s.ahead.Inc()
	} else {
		s.late.Inc()
	}
}

// Answered records how a request to Pipedream ended.
func (s *stats) Answered(what string, took time.Duration, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	if api.KindOf(err) != api.NoBudget { // with NoBudget, no request went out
		s.answered.WithLabelValues(what, api.Outcome(err)).Inc()
		s.took.WithLabelValues(what).Observe(took.Seconds())
		if err != nil {
			s.failures.Add(1)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.lastSuccess = time.Now()
		return
	}
	s.lastError, s.lastErrorAt = err, time.Now()
}

func (s *stats) last() (success, failure time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastSuccess, s.lastErrorAt, s.lastError
}
