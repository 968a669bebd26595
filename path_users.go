package pipedream

import (
	"context"
	"fmt"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/pace"
)

const (
	pathUserReadSyn   = `List the accounts of an external user, of all apps, without their credentials.`
	pathUserDeleteSyn = `Remove an external user and all their accounts at Pipedream.`

	pathUserHelpSyn = `List the accounts of an external user, or remove the user with all of them.`

	pathUserHelpDesc = `
For operators, and for off-boarding a person. A read shows all accounts of an
external user of the Connect project, with any app. It returns no credentials.

    $ vault read pipedream/users/alice

A delete removes the person at Pipedream for good, with all their accounts and
all other data there. This mount no longer serves anything of theirs. Tokens
that were already handed out work until they expire.

    $ vault delete pipedream/users/alice

If an id has characters other than letters, digits and @ : _ . ~ + -, write it as
b64: followed by the id in base64url without padding.
`
)

func (b *backend) pathUsers() *framework.Path {
	return &framework.Path{
		Pattern:      pathUsers + "/(?P<" + fieldExternalUserID + ">.+)",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, ItemType: "User"},
		Fields: map[string]*framework.FieldSchema{
			fieldExternalUserID: {
				Type:         framework.TypeString,
				Required:     true,
				Description:  "External user of the Connect project, as written in a path.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "External user id"},
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:                  b.userRead,
				Summary:                   pathUserReadSyn,
				DisplayAttrs:              &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: "user"},
				ForwardPerformanceStandby: true,
				Responses: answerOf(map[string]*framework.FieldSchema{
					fieldExternalUserID: {Type: framework.TypeString, Required: true, Description: "Id of the external user."},
					"accounts": {
						Type: framework.TypeSlice, Required: true,
						Description: "For each account what a read of accounts/ returns, and has_credentials. The one connected last comes first.",
					},
				}),
			},
			logical.DeleteOperation: &framework.PathOperation{
				Callback:                  b.userDelete,
				Summary:                   pathUserDeleteSyn,
				DisplayAttrs:              &framework.DisplayAttributes{OperationVerb: "remove", OperationSuffix: "user"},
				ForwardPerformanceStandby: true,
				Responses:                 answerOf(removedFields()),
			},
		},
		HelpSynopsis:    pathUserHelpSyn,
		HelpDescription: pathUserHelpDesc,
	}
}

// accountsOfUser returns the external user in a path and all their accounts.
func (b *backend) accountsOfUser(ctx context.Context, req *logical.Request, data *framework.FieldData, class pace.Class) (*connection, string, []*cache.Owned, error) {
	user, err := userOfSegment(data.Get(fieldExternalUserID).(string))
	if err != nil {
		return nil, "", nil, err
	}
	c, err := b.inProject(ctx, req)
	if err != nil {
		return nil, "", nil, err
	}
	accounts, err := c.view.Accounts(ctx, class, pace.Caller{Name: callerOf(req)}, cache.User{ExternalID: user}, "")
	return c, user, accounts, toLogical(req, err)
}

func (b *backend) userRead(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := refuseOthers(req); err != nil {
		return nil, err
	}
	_, user, accounts, err := b.accountsOfUser(ctx, req, data, pace.Listing)
	if err != nil {
		return nil, err
	}
	list := []any{}
	for _, a := range accounts {
		one := accountData(a.Account)
		one["has_credentials"] = a.HasCredentials
		list = append(list, one)
	}
	return &logical.Response{Data: map[string]any{fieldExternalUserID: user, "accounts": list}}, nil
}

func (b *backend) userDelete(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := refuseOthers(req); err != nil {
		return nil, err
	}
	c, user, accounts, err := b.accountsOfUser(ctx, req, data, pace.Known)
	if err != nil {
		return nil, err
	}
	r := removal{
		Removal: cache.Removal{ExternalID: user},
		what:    fmt.Sprintf("external user %q", user), not: "removed",
		send: func(ctx context.Context) (bool, error) { return c.users.RemoveUser(ctx, user) },
	}
	for _, a := range accounts {
		r.Accounts = append(r.Accounts, a.ID)
		r.Users = append(r.Users, usersOf(a.Account)...)
	}
	found, err := b.remove(ctx, req, c, r)
	if err != nil {
		return nil, err
	}
	resp := removedResponse(r.Accounts)
	if !found {
		resp.AddWarning(fmt.Sprintf("Pipedream does not know external user %q%s: there was nobody to remove", user, ofProject(c.config.ProjectID, c.config.Environment)))
	}
	resp.AddWarning(tokensLive)
	return resp, nil
}

// usersOf returns all as whom roles can remember an account.
func usersOf(a *api.Account) []cache.User {
	users := []cache.User{{App: a.App.Slug, ExternalID: a.ExternalID}}
	if client := a.App.OAuthApp(); client != "" {
		users = append(users, cache.User{App: a.App.Slug, OAuthApp: client, ExternalID: a.ExternalID})
	}
	return slices.Clip(users)
}
