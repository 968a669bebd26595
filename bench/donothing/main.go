// Command donothing is a secrets engine that returns the same credentials on
// every read, with a lease at creds/ and without one at static-creds/. The
// benchmark compares the engine with it, because it shows what a read from any
// plugin costs in Vault itself.
package main

import (
	"context"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
)

func main() {
	meta := &api.PluginAPIClientMeta{}
	if err := meta.FlagSet().Parse(os.Args[1:]); err != nil {
		os.Exit(2)
	}
	err := plugin.ServeMultiplex(&plugin.ServeOpts{
		BackendFactoryFunc: factory,
		TLSProviderFunc:    api.VaultPluginTLSProvider(meta.GetTLSConfig()),
	})
	if err != nil {
		hclog.New(&hclog.LoggerOptions{JSONFormat: true}).Error("the plugin has ended", "error", err)
		os.Exit(1)
	}
}

func factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	secret := &framework.Secret{
		Type: "nothing",
		Revoke: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
			return nil, nil
		},
	}
	b := &framework.Backend{
		BackendType: logical.TypeLogical,
		Secrets:     []*framework.Secret{secret},
		Paths: []*framework.Path{
			path("creds/", func() *logical.Response {
				resp := secret.Response(data(), nil)
				resp.Secret.TTL = time.Hour
				return resp
			}),
			path("static-creds/", func() *logical.Response {
				fields := data()
				fields["ttl"], fields["rotation_period"] = 3300, 3600
				fields["last_vault_rotation"] = "2026-01-01T00:00:00Z"
				return &logical.Response{Data: fields}
			}),
		},
	}
	return b, b.Setup(ctx, conf)
}

func path(prefix string, answer func() *logical.Response) *framework.Path {
	return &framework.Path{
		Pattern: prefix + framework.GenericNameRegex("name"),
		Fields:  map[string]*framework.FieldSchema{"name": {Type: framework.TypeString}},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
					return answer(), nil
				},
			},
		},
	}
}

// data returns as much data as the engine does for the benchmark's accounts.
func data() map[string]any {
	return map[string]any{
		"oauth_access_token":     "pdtok_apn_000000_1_0123456789abcdef",
		"oauth_client_id":        "pdclient_apn_000000",
		"oauth_uid":              "pduid_apn_000000",
		"expires_at":             "2026-01-01T01:00:00Z",
		"pipedream_account_id":   "apn_000000",
		"pipedream_app":          "github",
		"pipedream_account_name": "Octo Cat",
	}
}
