package pipedream

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/clock"
)

const pathStatusHelpSyn = `Show how the engine is doing. Sends no request to Pipedream.`

const pathStatusHelpDesc = `
Shows the plugin's version, whether it is configured, its counters since the
plugin process started, how many requests may still go out, what is held off
after failures, when Pipedream last answered or failed, and whether Vault's
storage can be written to.

    $ vault read pipedream/status
`

func (b *backend) pathStatus() *framework.Path {
	return &framework.Path{
		Pattern:      "status",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:                  b.statusRead,
				Summary:                   pathStatusHelpSyn,
				DisplayAttrs:              &framework.DisplayAttributes{OperationSuffix: "status"},
				ForwardPerformanceStandby: true, // the active node has the cache and the budget
				Responses:                 answerOf(statusFields()),
			},
		},
		HelpSynopsis:    pathStatusHelpSyn,
		HelpDescription: pathStatusHelpDesc,
	}
}

func statusFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"version":           answerField(framework.TypeString, true, "Version of the plugin."),
		"configured":        answerField(framework.TypeBool, true, "Whether config has been written."),
		"requests":          answerField(framework.TypeInt64, true, "Requests sent to Pipedream, retries included."),
		"failures":          answerField(framework.TypeInt64, true, "Requests that failed after their retries."),
		"cache_hits":        answerField(framework.TypeInt64, true, "Reads served from the cache."),
		"cache_misses":      answerField(framework.TypeInt64, true, "Reads and refreshes that waited for Pipedream, or failed."),
		"cached_accounts":   answerField(framework.TypeInt, true, "Accounts whose credentials are in memory."),
		fieldRateLimit:      answerField(framework.TypeInt, true, "Requests allowed in any 60 seconds; 0 for no limit."),
		"budget_left":       answerField(framework.TypeInt, true, "Requests that may go to Pipedream now; -1 if rate_limit is 0."),
		"held_off_accounts": answerField(framework.TypeInt, true, "Accounts and external users that are not asked for now because they failed."),
		"held_off_until":    answerField(framework.TypeString, false, "After a 401 or 429, no request goes to Pipedream before this time. Absent otherwise."),
		"clock_ahead":       answerField(framework.TypeInt64, false, "Seconds by which this server's clock is ahead of Pipedream's; below 0 if it is behind. Absent until Pipedream has answered."),
		"last_success":      answerField(framework.TypeString, false, "When Pipedream last answered a request, RFC 3339 in UTC."),
		"last_error":        answerField(framework.TypeString, false, "What failed last. It names no account."),
		"last_error_time":   answerField(framework.TypeString, false, "When that was, RFC 3339 in UTC."),
		"storage_error":     answerField(framework.TypeString, false, "Why the last write to Vault's storage failed. Absent if it succeeded."),
	}
}

func (b *backend) statusRead(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c, err := b.connections.get(ctx, req.Storage)
	if err != nil && !errors.Is(err, errNotConfigured) && !errors.Is(err, errBadConfig) {
		return nil, err
	}
	success, lastErrAt, lastErr := b.stats.last()
	data := map[string]any{
		"version":           version,
		"configured":        err == nil,
		"requests":          b.stats.requests.Load(),
		"failures":          b.stats.failures.Load(),
		"cache_hits":        b.stats.hits.Load(),
		"cache_misses":      b.stats.misses.Load(),
		"cached_accounts":   0,
		fieldRateLimit:      b.budget.Limit(),
		"budget_left":       b.budget.Left(),
		"held_off_accounts": 0,
	}
	if c != nil {
		data["cached_accounts"] = c.view.Len()
		data["held_off_accounts"] = c.holdOffs.Count()
		if until := c.holdOffs.AllUntil(); until.After(time.Now()) {
			data["held_off_until"] = until.UTC().Format(time.RFC3339)
		}
	}
	if !success.IsZero() {
		data["last_success"] = success.UTC().Format(time.RFC3339)
	}
	if errors.Is(err, errBadConfig) {
		data["last_error"] = err.Error()
	} else if lastErr != nil {
		data["last_error"] = atMount(req, errorText(api.WithoutAccount(lastErr)))
		data["last_error_time"] = lastErrAt.UTC().Format(time.RFC3339)
	}
	if failure := b.writes.failure(); failure != nil {
		data["storage_error"] = storageText(failure)
	}
	resp := &logical.Response{Data: data}
	if ahead, known := b.clock.Ahead(); known {
		data["clock_ahead"] = int64(ahead.Seconds())
		if ahead.Abs() > clock.Wrong {
			resp.AddWarning(differentClock(ahead) + ": correct it. Until then, the engine judges tokens by Pipedream's clock")
		}
	}
	return resp, nil
}
