package pipedream

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const pathStaticCredsHelpSyn = `Read the credentials of a connected account, by its id or a role, without a lease.`

const pathStaticCredsHelpDesc = `
Returns the same credentials as creds/, without a lease. It is for programs that
read on every request, and for the Vault Secrets Operator's static credentials.

Three fields tell a client when to read again: ttl (seconds until the
credentials are due, at least 1), rotation_period (their total lifetime in
seconds) and last_vault_rotation (when these credentials were first seen, RFC
3339).

    $ vault read pipedream/static-creds/apn_XehyZPr

With a role that has allowed_external_user_ids, the path names the user:

    $ vault read pipedream/static-creds/crm/acme:42
`

func (b *backend) pathStaticCreds() *framework.Path {
	fields := credentialFields()
	fields[fieldTTL] = &framework.FieldSchema{
		Type:        framework.TypeInt64,
		Required:    true,
		Description: "Seconds until the credentials should be read again: when they are due, and before they end. At least 1.",
	}
	fields["rotation_period"] = &framework.FieldSchema{
		Type:        framework.TypeInt64,
		Required:    true,
		Description: "Total lifetime of the credentials in seconds. static_ttl if they never expire.",
	}
	fields["last_vault_rotation"] = &framework.FieldSchema{
		Type:        framework.TypeString,
		Required:    true,
		Description: "When these credentials were first seen, RFC 3339 in UTC.",
	}
	return b.credentialsPath(pathStaticCreds+"/", "static-credentials", pathStaticCredsHelpSyn, pathStaticCredsHelpDesc, fields, b.staticCredsRead)
}

func (b *backend) staticCredsRead(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	got, err := b.credential(ctx, req, data)
	if err != nil {
		return nil, b.refuse(req, err)
	}
	policy, now := got.config.policy(), b.clock.Now()
	again := got.capTTL(got.credential.ReadAgainIn(policy, got.reader.Demand, now))
	fields := got.data()
	fields[fieldTTL] = int64(again.Seconds())
	fields["rotation_period"] = int64(got.credential.Life(policy, now).Seconds())
	fields["last_vault_rotation"] = got.credential.FetchedAt.UTC().Format(time.RFC3339)
	return got.warn(req, &logical.Response{Data: fields}), nil
}
