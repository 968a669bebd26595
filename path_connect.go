package pipedream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/pace"
)

const (
	// maxLinksOfCaller is how many links one caller may ask for in a minute.
	// maxLinkRequests is how many requests for links a mount sends in a minute.
	// Pipedream allows 100 a minute for each external user.
	maxLinksOfCaller = 10
	maxLinkRequests  = 90

	defaultLinkLife = 15 * time.Minute
	shortestLink    = time.Minute
	longestLink     = 4 * time.Hour // Pipedream's own limit
)

const pathConnectHelpSyn = `Make a link for the caller to connect an account of their own.`

const pathConnectHelpDesc = `
Returns a link to Pipedream's page on which an account of the role's app is
connected. The account will belong to whoever made the link, no matter who opens
it. So open it yourself, and share it with nobody. It works once, until expires_at.

    $ vault write -force pipedream/connect/github
    $ vault read pipedream/creds/github

The role needs an app and an external user, in a Connect project. If the user
has no account of the app, the link connects one. If the account is dead,
unhealthy or lacks one of the role's required_scopes, the link signs in to it
again, and its id stays. If it is healthy, say what you want: reconnect=true
signs in to it again, account=<id or name> signs in to that one, and new=true
connects another one.

While a link is open, reads of creds/ check what it did every 3 seconds, and
every 15 after two minutes. A read of this path shows what is connected, and
with link_id and wait what a link did:

    $ vault read pipedream/connect/github link_id=... wait=10s

A delete disconnects the caller's account at Pipedream, for good. If there are
several, name one with account, or disconnect all with all=true:

    $ vault delete pipedream/connect/github

success_redirect_uri and error_redirect_uri are where the browser goes at the
end. They begin with https://, or with http:// for a loopback address, and the
role's allowed_redirect_hosts must name their host. There is no lease, and each
caller may make 10 links a minute.

With a role that has allowed_external_user_ids, the path names the user to whom the
account will belong. The caller passes the link on to that user, and to nobody else:

    $ vault write -force pipedream/connect/crm/acme:42
`

func (b *backend) pathConnect() *framework.Path {
	redirect := func(when, name string) *framework.FieldSchema {
		return &framework.FieldSchema{
			Type:         framework.TypeString,
			Description:  "Where the browser goes " + when + ". Its host must be one of the role's allowed_redirect_hosts. Default: Pipedream's own page.",
			DisplayAttrs: &framework.DisplayAttributes{Name: name},
		}
	}
	return &framework.Path{
		Pattern:      pathConnect + "/" + nameRegex(),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields: map[string]*framework.FieldSchema{
			fieldName: {
				Type:         framework.TypeString,
				Required:     true,
				Description:  "Name of a role with app, for an external user.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Role name"},
			},
			fieldUser:               userField(),
			fieldAll:                allField(),
			fieldSuccessRedirectURI: redirect("once the account is connected", "Success redirect URI"),
			fieldErrorRedirectURI:   redirect("if no account was connected", "Error redirect URI"),
			fieldExpiresIn: settingOr(framework.TypeDurationSecond, int(defaultLinkLife.Seconds()), "Expires in",
				"How long the link is valid. From 1m to 4h. Default 15m."),
			fieldReconnect: setting(framework.TypeBool, "Reconnect",
				"Sign in again to the account that reads get, even if it is healthy. Default false."),
			fieldNew: setting(framework.TypeBool, "New",
				"Connect another account in addition to the existing ones. Reads without account do not change. Default false."),
			fieldAccount: parameter(framework.TypeString, "Account",
				"Not for a read. Sign in again to this one of the caller's accounts, or disconnect it: its id, or its name, exactly."),
			fieldLinkID: parameter(framework.TypeString, "Link id", "Only for a read: the link_id of a link, to see what it did."),
			fieldWait: parameter(framework.TypeDurationSecond, "Wait",
				"Only for a read: how long to wait for what the link did, 10s at most. Default 0s."),
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:                  b.connectionRead,
				Summary:                   pathConnectReadSyn,
				DisplayAttrs:              &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: forUserToo("connection")},
				ForwardPerformanceStandby: true,
				Responses:                 answerOf(connectionFields()),
			},
			logical.DeleteOperation: b.connectDelete(),
			logical.UpdateOperation: &framework.PathOperation{
				Callback:                  b.connectLink,
				Summary:                   pathConnectHelpSyn,
				DisplayAttrs:              &framework.DisplayAttributes{OperationVerb: "connect", OperationSuffix: forUserToo("account")},
				ForwardPerformanceStandby: true, // the active node reads for the user, and has the quota
				Responses:                 answerOf(linkFields()),
			},
		},
		HelpSynopsis:    pathConnectHelpSyn,
		HelpDescription: pathConnectHelpDesc,
	}
}

func linkFields() map[string]*framework.FieldSchema {
	field := func(description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: framework.TypeString, Required: true, Description: description}
	}
	fields := map[string]*framework.FieldSchema{
		"connect_link_url":  field("The link. Whoever opens it connects an account that is the caller's from then on."),
		"expires_at":        field("When the link ends, RFC 3339 in UTC."),
		fieldLinkID:         field("Name of the link, to ask what it did. Not a secret."),
		fieldApp:            field("App that the link connects."),
		fieldExternalUserID: field("External user that the account will belong to."),
	}
	fields["reconnects_account_id"] = &framework.FieldSchema{Type: framework.TypeString, Description: "Account that the link signs in to again. Absent for a new one."}
	return fields
}

func (b *backend) connectLink(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := refuseOthers(req, fieldAccount, fieldReconnect, fieldNew, fieldExpiresIn, fieldSuccessRedirectURI, fieldErrorRedirectURI); err != nil {
		return nil, err
	}
	t, err := b.linkTarget(ctx, req, data)
	if err != nil {
		return nil, toLogical(req, err)
	}
	wanted, err := t.linkRequest(data)
	if err != nil {
		return nil, err
	}
	wish, err := t.linkWish(data)
	if err != nil {
		return nil, err
	}
	if wait := b.linkQuota.Take(t.who()); wait > 0 {
		return nil, logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("you have asked for %d Connect links in the last minute, which is the limit for one caller and user; "+
			"use one of them, or try again in %d s", maxLinksOfCaller, int(math.Ceil(wait.Seconds()))))
	}
	plan, err := t.view.PlanLink(ctx, t.reader, t.user, wish)
	if err != nil {
		return nil, toLogical(req, err)
	}
	if plan.Account != nil {
		wanted.Account = plan.Account.ID
	}
	id, err := uuid.GenerateUUID()
	if err != nil {
		return nil, fmt.Errorf("no random bytes for the id of a link: %w", err)
	}
	link, err := t.makeLink(b.linkBudget.NewClaim(pace.Known, t.who()).With(ctx), wanted, plan, id)
	if err != nil {
		return nil, toLogical(req, err)
	}
	result := map[string]any{
		"connect_link_url":  string(link.URL),
		"expires_at":        link.ExpiresAt.UTC().Format(time.RFC3339),
		fieldLinkID:         id,
		fieldApp:            t.role.App,
		fieldExternalUserID: t.user.ExternalID,
	}
	if plan.Account != nil {
		result["reconnects_account_id"] = plan.Account.ID
	}
	return &logical.Response{Data: result}, nil
}

// linkWish returns what the caller wants a link to do.
func (t *target) linkWish(data *framework.FieldData) (w cache.LinkWish, err error) {
	w = cache.LinkWish{
		Reconnect: data.Get(fieldReconnect).(bool), New: data.Get(fieldNew).(bool),
		Suits: func(scopes []string) bool { return len(t.role.lacking(scopes)) == 0 },
	}
	if w.Account, err = namedAccount(data); err != nil {
		return w, err
	}
	if w.New && (w.Reconnect || w.Account != "") {
		return w, badRequest("new=true connects another account: leave out reconnect and account")
	}
	return w, nil
}

// linkRequest returns the link that the caller asks for, within what the role allows.
func (t *target) linkRequest(data *framework.FieldData) (r api.LinkRequest, err error) {
	r = api.LinkRequest{
		ExternalUser: t.user.ExternalID, App: t.user.App, OAuthApp: t.user.OAuthApp,
		Life: time.Duration(data.Get(fieldExpiresIn).(int)) * time.Second, Scope: t.config.ConnectTokenScope,
		ScopeProfile: t.role.OAuthScopeProfile, AppOverride: t.role.AppOverrideID,
	}
	if r.Life < shortestLink || r.Life > longestLink {
		return r, badRequest("expires_in must be from 1m to 4h")
	}
	if r.SuccessURI, err = redirectURI(data, fieldSuccessRedirectURI, t.role.AllowedRedirectHosts); err != nil {
		return r, err
	}
	r.ErrorURI, err = redirectURI(data, fieldErrorRedirectURI, t.role.AllowedRedirectHosts)
	return r, err
}

// makeLink makes a link for the user of t. While the link is good, reads of that user
// check what it did.
func (t *target) makeLink(ctx context.Context, r api.LinkRequest, plan *cache.LinkPlan, id string) (*api.Link, error) {
	held := t.user.Key()
	if err := t.linkHoldOffs.Check(held); err != nil {
		return nil, err
	}
	began := time.Now()
	link, err := t.links.Link(ctx, r)
	var e *api.Error
	if errors.As(err, &e) && e.Kind == api.Throttled {
		t.linkHoldOffs.Failed(held, backoff.Failure{Err: e, Least: e.Wait})
	}
	if err != nil {
		return nil, err
	}
	t.linkHoldOffs.Succeeded(held)
	return link, t.view.Expect(ctx, t.user, plan, id, began.Add(r.Life))
}
