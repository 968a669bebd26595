package pipedream

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// secretType is stored with every lease and must never change.
const secretType = "pipedream_credential"

const pathCredsHelpSyn = `Read the credentials of a connected account, by its id or a role, as a lease.`

const pathCredsHelpDesc = `
Returns the credentials of a connected Pipedream account, named by its id or by
a role. The lease ends when the credentials do. It cannot be renewed: read
again for the next credentials.

Every value is a string. The fields are the app's own, such as
oauth_access_token, and expires_at (absent if the credentials never expire),
pipedream_account_id, pipedream_app and pipedream_account_name. Where the name
of an app's field means something else in Vault, such as ttl, the field is
returned as credential_ttl.

    $ vault read pipedream/creds/apn_XehyZPr
    $ vault read pipedream/creds/my-role
    $ vault read -field=oauth_access_token pipedream/creds/apn_XehyZPr

A role with app and external_user_id returns one account of that user. If the
user has several with the app, choose one with account: its id or its name.

    $ vault read pipedream/creds/my-role account=octocat

If the role has allowed_external_user_ids, the path names the user.

    $ vault read pipedream/creds/crm/acme:42

With a role for tokens, the fields are connect_token or access_token, expires_at
and where to use it: pipedream_api_url, pipedream_project_id,
pipedream_environment and pipedream_external_user_id (experimental).

Credentials with less life left than min_ttl are fetched again before they are
served, unless Pipedream has announced that it refreshes them later. The
parameter min_ttl asks for more than the role's or the mount's own min_ttl.

With token_fingerprint in config, pipedream_token_sha256 is the SHA-256 of
oauth_access_token in base64, as in GitHub's audit log.
`

func (b *backend) pathCreds() *framework.Path {
	return b.credentialsPath(pathCreds+"/", "credentials", pathCredsHelpSyn, pathCredsHelpDesc, credentialFields(), b.credsRead)
}

// credentialsPath returns a path that hands out credentials. An update does the same
// as a read, for clients that can send parameters only with a PUT.
func (b *backend) credentialsPath(prefix, suffix, synopsis, description string,
	fields map[string]*framework.FieldSchema, handler framework.OperationFunc,
) *framework.Path {
	operation := func(verb string) *framework.PathOperation {
		return &framework.PathOperation{
			Callback:                  handler,
			Summary:                   synopsis,
			DisplayAttrs:              &framework.DisplayAttributes{OperationVerb: verb, OperationSuffix: forUserToo(suffix)},
			ForwardPerformanceStandby: true, // a fetch writes to storage, and the cache of one node serves all
			Responses:                 answerOf(fields),
		}
	}
	return &framework.Path{
		Pattern:      prefix + nameRegex(),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields: map[string]*framework.FieldSchema{
			fieldName:    nameField(),
			fieldUser:    userField(),
			fieldAccount: accountField(),
			fieldMinTTL: parameter(framework.TypeDurationSecond, "Minimum TTL",
				"Fetch again if the cached credentials have less life left than this. No effect below the role's min_ttl, or else the mount's."),
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   operation("read"),
			logical.UpdateOperation: operation("generate"),
		},
		HelpSynopsis:    synopsis,
		HelpDescription: description,
	}
}

// credentialFields describes the fields of every response, except the app's own.
func credentialFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"expires_at": {
			Type:        framework.TypeString,
			Description: "When the credentials end, RFC 3339 in UTC. Absent if they never do.",
		},
		"pipedream_account_id": {
			Type:        framework.TypeString,
			Description: "Id of the account. Absent for a token of a role without app.",
		},
		"pipedream_app": {
			Type:        framework.TypeString,
			Description: "Slug of the account's app, else the app's name.",
		},
		"pipedream_account_name": {
			Type:        framework.TypeString,
			Description: "Name of the account, where it has one.",
		},
		fieldTokenSHA256: {
			Type:        framework.TypeString,
			Description: "SHA-256 of oauth_access_token, in base64. Present if token_fingerprint is set in config.",
		},
		fieldConnectToken: {
			Type:        framework.TypeString,
			Description: "With a role of credential_type=connect_token: the token, which opens accounts of one external user.",
		},
		fieldAccessToken: {
			Type:        framework.TypeString,
			Description: "With a role of credential_type=access_token: the token, which opens accounts of all users.",
		},
		"pipedream_project_id": {
			Type:        framework.TypeString,
			Description: "With a token: the Connect project.",
		},
		"pipedream_environment": {
			Type:        framework.TypeString,
			Description: "With a token: the environment of the project, production or development.",
		},
		"pipedream_external_user_id": {
			Type:        framework.TypeString,
			Description: "With a Connect token: the external user it is for.",
		},
		"pipedream_api_url": {
			Type:        framework.TypeString,
			Description: "With a token: the root of Pipedream's API, as in base_url.",
		},
	}
}

func (b *backend) credentialSecret() *framework.Secret {
	return &framework.Secret{
		Type:   secretType,
		Fields: credentialFields(),
		// There is no Renew, because it would extend the lease past the token's life.
		Revoke: revoke,
	}
}

// revoke does nothing and never fails. Pipedream cannot revoke a token, and a lease
// that cannot be revoked would block disabling the mount.
func revoke(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	return nil, nil
}

func (b *backend) credsRead(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	got, err := b.credential(ctx, req, data)
	if err != nil {
		return nil, b.refuse(req, err)
	}
	ttl := got.capTTL(got.credential.Lease(got.config.policy(), b.clock.Now()))
	if most := b.System().MaxLeaseTTL(); most > 0 {
		ttl = min(ttl, most)
	}
	resp := b.Secret(secretType).Response(got.data(), map[string]any{fieldAccountID: got.credential.AccountID})
	resp.Secret.TTL, resp.Secret.MaxTTL = ttl, ttl
	return got.warn(req, resp), nil
}
