package pipedream

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/credential"
)

const pathRefreshHelpSyn = `Fetch an account's credentials again, now.`

const pathRefreshHelpDesc = `
Use it when the app refuses a token that has not expired. It fetches the account's
credentials from Pipedream, whatever is cached, and caches them. The response
says when they end and whether they changed. Read creds/ for the credentials
themselves.

Read again afterwards, whatever the response says: another caller may have been
faster. A call within 5 seconds of a fetch costs no request to Pipedream. If a
refresh brings nothing new, that time becomes 10, 20 and up to 60 seconds. While
Pipedream cannot be reached, what is cached stays.

With a role for tokens, a call makes a new token. The old one works until it
ends. Each caller may have 10 tokens a minute replaced.

    $ vault write -force pipedream/refresh/apn_XehyZPr
    $ vault write pipedream/refresh/github account=octocat

With a role that has allowed_external_user_ids, the path names the user:

    $ vault write -force pipedream/refresh/crm/acme:42
`

func (b *backend) pathRefresh() *framework.Path {
	return &framework.Path{
		Pattern:      pathRefresh + "/" + nameRegex(),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields:       map[string]*framework.FieldSchema{fieldName: nameField(), fieldUser: userField(), fieldAccount: accountField()},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback:                  b.refresh,
				Summary:                   pathRefreshHelpSyn,
				DisplayAttrs:              &framework.DisplayAttributes{OperationVerb: "refresh", OperationSuffix: forUserToo("account")},
				ForwardPerformanceStandby: true,
				Responses: answerOf(map[string]*framework.FieldSchema{
					"expires_at": {
						Type:        framework.TypeString,
						Description: "When the credentials end, RFC 3339 in UTC. Absent if they never do.",
					},
					"changed": {
						Type:        framework.TypeBool,
						Required:    true,
						Description: "Whether a read now returns other credentials than a read just before this call.",
					},
				}),
			},
		},
		HelpSynopsis:    pathRefreshHelpSyn,
		HelpDescription: pathRefreshHelpDesc,
	}
}

func (b *backend) refresh(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	t, err := b.target(ctx, req, data)
	if err != nil {
		return nil, b.refuse(req, err)
	}
	var changed bool
	var c *credential.Credential
	switch {
	case t.role.ofTokens():
		if err := b.takeRenewal(t); err != nil {
			return nil, b.refuse(req, err)
		}
		t.view.RetryAccount(t.user)
		tokens, key := t.tokens()
		c, changed, err = tokens.Renew(ctx, t.who(), key)
	case t.accountID != "":
		c, changed, err = t.view.Refresh(ctx, t.reader, t.accountID)
	case t.named != "":
		c, changed, err = t.view.RefreshChosen(ctx, t.reader, t.user, t.named)
	default:
		c, changed, err = t.view.RefreshForUser(ctx, t.reader, t.user)
	}
	if err != nil {
		return nil, b.refuse(req, t.about(err))
	}
	result := map[string]any{"changed": changed}
	if c.Expires() {
		result["expires_at"] = c.ExpiresAt.UTC().Format(time.RFC3339)
	}
	return &logical.Response{Data: result}, nil
}
