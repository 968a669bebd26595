package pipedream

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"runtime"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"vault-plugin-secrets-pipedream/internal/api"
)

const pathMetricsHelpSyn = `Show the engine's metrics in Prometheus's text format. Sends no request to Pipedream.`

const pathMetricsHelpDesc = `
Returns the engine's counters in Prometheus's text format. Scrape it with a Vault
token that may read this path and nothing else. To look at the counters:

    $ vault read -format=raw pipedream/metrics

No metric names an account, a user, a role or an entity.
`

func (b *backend) pathMetrics() *framework.Path {
	return &framework.Path{
		Pattern:      "metrics",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:                  b.metricsRead,
				Summary:                   pathMetricsHelpSyn,
				DisplayAttrs:              &framework.DisplayAttributes{OperationSuffix: "metrics"},
				ForwardPerformanceStandby: true, // the active node has the cache and the budget
				Responses: map[int][]framework.Response{
					http.StatusOK: {{Description: http.StatusText(http.StatusOK), MediaType: "text/plain"}},
				},
			},
		},
		HelpSynopsis:    pathMetricsHelpSyn,
		HelpDescription: pathMetricsHelpDesc,
	}
}

func (b *backend) metricsRead(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c, err := b.connections.get(ctx, req.Storage)
	if err != nil && !errors.Is(err, errNotConfigured) && !errors.Is(err, errBadConfig) {
		return nil, err
	}
	now := prometheus.NewRegistry()
	if err := now.Register(b.gauges(c)); err != nil {
		return nil, err
	}
	families, err := prometheus.Gatherers{b.stats.registry, now}.Gather()
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	format := expfmt.NewFormat(expfmt.TypeTextPlain)
	encoder := expfmt.NewEncoder(&text, format)
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return nil, err
		}
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode:  http.StatusOK,
		logical.HTTPContentType: string(format),
		logical.HTTPRawBody:     text.Bytes(),
	}}, nil
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
