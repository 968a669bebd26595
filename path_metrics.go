package pipedream

import (
	"bytes"
	"context"
	"errors"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
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
