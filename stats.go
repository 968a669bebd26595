package pipedream

import (
	"context"
	"errors"
	"net/http"
	"runtime"
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
	served   map[servedAs]prometheus.Counter // those of reads; looked up once, since every read needs one
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
		served: map[servedAs]prometheus.Counter{},
	}
	refreshed := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metricPrefix + "tokens_refreshed_total", Help: "New tokens of accounts that were cached: fetched ahead of their readers, or late, while one waited.",
	}, []string{"when"})
	s.ahead, s.late = refreshed.WithLabelValues("ahead"), refreshed.WithLabelValues("late")
	// All of them exist from the start, at 0. Otherwise a rate would miss the first
	// event of each.
	for _, path := range []string{pathCreds, pathStaticCreds, pathRefresh} {
		for how, name := range howNames {
			s.served[servedAs{path, how}] = s.reads.WithLabelValues(path, name)
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
	if counter := s.served[servedAs{path, how}]; counter != nil {
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

// gauge is a metric whose value is taken at the time of a read.
type gauge struct {
	desc   *prometheus.Desc
	labels []string
	value  float64
}

func newGauge(name, help string, value float64, labels ...label) gauge {
	var names, values []string
	for _, l := range labels {
		names, values = append(names, l.name), append(values, l.value)
	}
	return gauge{desc: prometheus.NewDesc(metricPrefix+name, help, names, nil), labels: values, value: value}
}

// label is a label of a metric. It has one of few values.
type label struct{ name, value string }

// gauges is a collector of gauges.
type gauges []gauge

// Describe sends nothing, because the gauges differ from read to read.
func (g gauges) Describe(chan<- *prometheus.Desc) {}

// Collect sends the gauges.
func (g gauges) Collect(metrics chan<- prometheus.Metric) {
	for _, one := range g {
		metrics <- prometheus.MustNewConstMetric(one.desc, prometheus.GaugeValue, one.value, one.labels...)
	}
}

func flagValue(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

// gauges returns the gauges of the mount. c is nil if the mount is not configured.
func (b *backend) gauges(c *connection) gauges {
	success, _, _ := b.stats.last()
	lastSuccess := 0.0
	if !success.IsZero() {
		lastSuccess = float64(success.Unix())
	}
	all := gauges{
		newGauge("build_info", "The plugin's version; always 1.", 1, label{"version", version}, label{"goversion", runtime.Version()}),
		newGauge("configured", "Whether config has been written.", flagValue(c != nil)),
		newGauge("storage_failing", "Whether the last write to Vault's storage failed.", flagValue(b.writes.failure() != nil)),
		newGauge("budget_limit", "Requests to Pipedream allowed in any minute; 0 for no limit.", float64(b.budget.Limit())),
		newGauge("budget_used", "Requests to Pipedream that count against the limit now.", float64(b.budget.Used())),
		newGauge("last_success_timestamp_seconds", "When Pipedream last answered with success; 0 for never.", lastSuccess),
	}
	if ahead, known := b.clock.Ahead(); known {
		all = append(all, newGauge("clock_ahead_seconds", "How far this server's clock is ahead of Pipedream's; below 0 if it is behind.", ahead.Seconds()))
	}
	if c == nil {
		return all
	}
	const held, heldHelp = "held_off", "What the engine holds off after a failure: everything, or how many accounts and users."
	const failing, failingHelp = "accounts_failing", "Accounts whose credentials could not be fetched when they were last asked for."
	dead, others := c.failing()
	return append(all,
		newGauge("key_refused", "Whether Pipedream refused the API key or OAuth client last.", flagValue(api.KindOf(c.holdOffs.AllError()) == api.KeyRefused)),
		newGauge("cached_accounts", "Accounts whose credentials are in memory.", float64(c.view.Len())),
		newGauge("cached_bytes", "About how many bytes these take.", float64(c.view.Bytes())),
		newGauge("users", "External users whose account is known in memory.", float64(c.view.Users())),
		newGauge(held, heldHelp, flagValue(c.holdOffs.AllUntil().After(time.Now())), label{"scope", "mount"}),
		newGauge(held, heldHelp, float64(c.holdOffs.Count()), label{"scope", "account"}),
		newGauge(failing, failingHelp, float64(dead), label{"reason", "dead"}),
		newGauge(failing, failingHelp, float64(others), label{"reason", "failing"}),
	)
}

// failing counts the accounts whose last fetch failed: those that are dead, and
// others.
func (c *connection) failing() (dead, others int) {
	c.holdOffs.Each(func(name string, err error) {
		switch {
		case !api.ValidAccountID(name):
		case api.KindOf(err) == api.Dead:
			dead++
		default:
			others++
		}
	})
	return dead, others
}
