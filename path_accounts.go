package pipedream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/pace"
)

const (
	pathAccountsHelpSyn = `List the accounts that the API key or OAuth client sees.`

	pathAccountsHelpDesc = `
Lists every connected account that the configured key or client sees, with its
name, app and health, and when its credentials expire, if they do. app limits
the list to one app, given by its slug or id. In a Connect project,
external_user_id limits it to one external user.

    $ vault list -detailed pipedream/accounts
    $ vault read -format=json pipedream/accounts list=true app=github

A list costs one request to Pipedream for every 100 accounts.
`

	pathAccountHelpSyn = `Read what Pipedream knows of an account, without its credentials, or disconnect it.`

	pathAccountDeleteSyn = `Disconnect an account at Pipedream, no matter whose it is.`

	pathAccountHelpDesc = `
Returns an account's metadata: its name, its app, when it was connected and
refreshed, and whether it is healthy or dead, and why. It never returns a
credential. Each read costs one request to Pipedream.

    $ vault read pipedream/accounts/apn_XehyZPr

A delete disconnects an account of a Connect project at Pipedream, for good,
no matter whose it is. This mount does not serve it from then on. Tokens that
were already handed out work until they expire.

    $ vault delete pipedream/accounts/apn_XehyZPr
`

	// listTimeout bounds a list of many pages. Vault's own Go client gives up after
	// 60 s.
	listTimeout = 55 * time.Second
)

func (b *backend) pathAccounts() []*framework.Path {
	return []*framework.Path{
		{
			Pattern:      "accounts/?$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, Navigation: true, ItemType: "Account"},
			Fields: map[string]*framework.FieldSchema{
				fieldApp: parameter(framework.TypeString, "App", "Only accounts of this app: its slug, such as github, or its id."),
				fieldExternalUserID: parameter(framework.TypeString, "External user id",
					"Only accounts of this external user of the Connect project; at most 250 characters."),
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback:                  b.accountsList,
					Summary:                   pathAccountsHelpSyn,
					DisplayAttrs:              &framework.DisplayAttributes{OperationSuffix: "accounts"},
					ForwardPerformanceStandby: true,
					Responses: answerOf(map[string]*framework.FieldSchema{
						"keys":     {Type: framework.TypeStringSlice, Required: true, Description: "Ids of the accounts."},
						"key_info": {Type: framework.TypeMap, Description: "For each id: name, app, healthy; also external_user_id and expires_at if there are any."},
					}),
				},
			},
			HelpSynopsis:    pathAccountsHelpSyn,
			HelpDescription: pathAccountsHelpDesc,
		},
		{
			Pattern:      "accounts/" + framework.GenericNameRegex(fieldAccountID),
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, ItemType: "Account"},
			Fields: map[string]*framework.FieldSchema{
				fieldAccountID: {
					Type:         framework.TypeString,
					Required:     true,
					Description:  "Id of a connected account, such as " + exampleAccountID + ".",
					DisplayAttrs: &framework.DisplayAttributes{Name: "Account id"},
				},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback:                  b.accountRead,
					Summary:                   pathAccountHelpSyn,
					DisplayAttrs:              &framework.DisplayAttributes{OperationSuffix: "account"},
					ForwardPerformanceStandby: true,
					Responses:                 answerOf(accountFields()),
				},
				logical.DeleteOperation: &framework.PathOperation{
					Callback:                  b.accountDelete,
					Summary:                   pathAccountDeleteSyn,
					DisplayAttrs:              &framework.DisplayAttributes{OperationVerb: "disconnect-by-id", OperationSuffix: "account"},
					ForwardPerformanceStandby: true,
					Responses:                 answerOf(removedFields()),
				},
			},
			HelpSynopsis:    pathAccountHelpSyn,
			HelpDescription: pathAccountHelpDesc,
		},
	}
}

func accountFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"id":                answerField(framework.TypeString, true, "Id of the account."),
		"name":              answerField(framework.TypeString, false, "Name of the account."),
		fieldExternalUserID: answerField(framework.TypeString, false, "Id of the external user, in a Connect project."),
		fieldApp:            answerField(framework.TypeString, false, "Slug of the account's app, else the app's name."),
		"app_id":            answerField(framework.TypeString, false, "Id of the app."),
		"app_name":          answerField(framework.TypeString, false, "Name of the app."),
		"auth_type":         answerField(framework.TypeString, false, "How the app authenticates: oauth, keys or none."),
		"healthy":           answerField(framework.TypeBool, true, "Whether Pipedream's last use of the credentials succeeded."),
		"dead":              answerField(framework.TypeBool, true, "Whether Pipedream has given up refreshing the credentials."),
		"error":             answerField(framework.TypeString, false, "Why the account is unhealthy or dead, in Pipedream's words."),
		"created_at":        answerField(framework.TypeString, false, "When the account was connected, RFC 3339 in UTC."),
		"updated_at":        answerField(framework.TypeString, false, "When the account last changed, RFC 3339 in UTC."),
		"last_refreshed_at": answerField(framework.TypeString, false, "When Pipedream last refreshed the credentials, RFC 3339 in UTC."),
		"next_refresh_at":   answerField(framework.TypeString, false, "When Pipedream next refreshes the credentials, RFC 3339 in UTC."),
		"expires_at":        answerField(framework.TypeString, false, "When the credentials end, RFC 3339 in UTC. Absent if they never do."),
	}
}

func (b *backend) accountsList(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	c, err := b.connections.get(ctx, req.Storage)
	if err != nil {
		return nil, toLogical(req, err)
	}
	if err := c.holdOffs.CheckAll(); err != nil {
		return nil, toLogical(req, err)
	}
	ctx, cancel := context.WithTimeout(b.budget.NewClaim(pace.Listing, pace.Caller{Name: callerOf(req)}).With(ctx), listTimeout)
	defer cancel()

	filter := api.Filter{App: data.Get(fieldApp).(string), ExternalUser: data.Get(fieldExternalUserID).(string)}
	if filter.ExternalUser != "" {
		if err := checkExternalUserID(filter.ExternalUser); err != nil {
			return nil, err
		}
		if c.config.ProjectID == "" {
			return nil, badRequest("external_user_id needs a Connect project: the configuration has no project_id")
		}
	}
	var keys []string
	info := map[string]any{}
	affordable := b.budget.Pages(pace.Listing, time.Minute)
	pages, seen := 0, 0
	err = c.client.List(ctx, filter, func(p *api.Page) error {
		pages, seen = pages+1, seen+p.Count
		if affordable >= 0 && (p.Total > affordable*api.PageLimit || p.Total > seen && pages >= affordable) { // pages can be short
			return &api.Error{Kind: api.ListTooLong, Count: p.Total}
		}
		for _, a := range p.Accounts {
			if api.ValidAccountID(a.ID) {
				keys = append(keys, a.ID)
				info[a.ID] = accountInfo(a)
			}
		}
		return nil
	})
	if err != nil {
		return nil, toLogical(req, err)
	}
	return logical.ListResponseWithInfo(keys, info), nil
}

func accountInfo(a *api.Account) map[string]any {
	info := map[string]any{"name": a.Name, fieldApp: a.App.Label(), "healthy": a.Healthy && !a.Dead}
	if user := api.Printable(a.ExternalID); user != "" {
		info[fieldExternalUserID] = user
	}
	setTime(info, "expires_at", a.ExpiresAt)
	return info
}

func (b *backend) accountRead(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := refuseOthers(req); err != nil {
		return nil, err
	}
	id, err := accountID(data)
	if err != nil {
		return nil, err
	}
	c, err := b.connections.get(ctx, req.Storage)
	if err != nil {
		return nil, toLogical(req, err)
	}
	class := pace.Listing
	if c.fetcher.Class(id, false) == pace.Unproven { // as with its credentials
		class = pace.Unproven
	}
	ctx, cancel := context.WithTimeout(b.budget.NewClaim(class, pace.Caller{Name: callerOf(req)}).With(ctx), c.config.RequestTimeout)
	defer cancel()
	a, err := fetchMetadata(ctx, c, id)
	if err != nil {
		return nil, toLogical(req, err)
	}
	return &logical.Response{Data: accountData(a)}, nil
}

// fetchMetadata fetches an account without its credentials. It has hold-offs of its own,
// because the metadata of an account can be read when its credentials cannot.
func fetchMetadata(ctx context.Context, c *connection, id string) (*api.Account, error) {
	held := "accounts/" + id
	if err := c.holdOffs.Check(held); err != nil {
		return nil, err
	}
	a, err := c.client.Metadata(ctx, id)
	var e *api.Error
	switch {
	case err == nil:
		c.holdOffs.Succeeded(held)
	case errors.As(err, &e) && !e.AffectsAll():
		c.holdOffs.Failed(held, backoff.Failure{Err: e, Lasting: e.IsAccountFault()})
	}
	return a, err
}

func accountData(a *api.Account) map[string]any {
	data := map[string]any{"id": a.ID, "healthy": a.Healthy && !a.Dead, "dead": a.Dead}
	for name, value := range map[string]string{
		"name":              a.Name,
		fieldExternalUserID: api.Printable(a.ExternalID),
		fieldApp:            a.App.Label(),
		"app_id":            a.App.ID,
		"app_name":          a.App.Name,
		"auth_type":         a.App.AuthType,
		"error":             a.Error,
	} {
		if value != "" {
			data[name] = value
		}
	}
	setTime(data, "created_at", a.CreatedAt)
	setTime(data, "updated_at", a.UpdatedAt)
	setTime(data, "last_refreshed_at", a.LastRefreshAt)
	setTime(data, "next_refresh_at", a.NextRefreshAt)
	setTime(data, "expires_at", a.ExpiresAt)
	return data
}

func (b *backend) accountDelete(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := refuseOthers(req); err != nil {
		return nil, err
	}
	id, err := accountID(data)
	if err != nil {
		return nil, err
	}
	c, err := b.inProject(ctx, req)
	if err != nil {
		return nil, err
	}
	found, err := b.remove(ctx, req, c, c.ofAccount(id))
	if err != nil {
		return nil, err
	}
	if !found {
		resp := removedResponse(nil)
		resp.AddWarning(fmt.Sprintf("Pipedream does not know account %s%s: there was nothing to disconnect", id, ofProject(c.config.ProjectID, c.config.Environment)))
		return resp, nil
	}
	resp := removedResponse([]string{id})
	resp.AddWarning(tokensLive)
	return resp, nil
}
