package pipedream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
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

	maxRedirectURI = 2048
)

const pathConnectHelpSyn = `Make a link by which the caller connects an account of their own.`

const pathConnectHelpDesc = `
Returns a link to Pipedream's page on which an account of the role's app is
connected. The account will belong to whoever made the link, no matter who opens
it: so open it yourself, and give it to nobody else. It works once, until expires_at.

    $ vault write -force pipedream/connect/github
    $ vault read pipedream/creds/github

The role is one by app and external_user_id, in a Connect project. While the
link is good, reads look for the account every 3 seconds at most, so that they
find it a moment after it was connected.

success_redirect_uri and error_redirect_uri are where the browser goes in the
end. They begin with https://, or with http:// for a loopback address, and the
role's allowed_redirect_hosts must name their host. Nothing is stored, there is
no lease, and each caller may make 10 links a minute.
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
		Pattern:      "connect/" + framework.GenericNameRegex("name"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields: map[string]*framework.FieldSchema{
			"name": {
				Type:         framework.TypeString,
				Required:     true,
				Description:  "Name of a role by app and external_user_id.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Role name"},
			},
			fieldSuccessRedirectURI: redirect("once the account is connected", "Success redirect URI"),
			fieldErrorRedirectURI:   redirect("where no account was connected", "Error redirect URI"),
			fieldExpiresIn: {
				Type:         framework.TypeDurationSecond,
				Default:      int(defaultLinkLife.Seconds()),
				Description:  "How long the link is good. From 1m to 4h. Default 15m.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Expires in"},
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback:                  b.connectLink,
				Summary:                   pathConnectHelpSyn,
				DisplayAttrs:              &framework.DisplayAttributes{OperationVerb: "connect", OperationSuffix: "account"},
				ForwardPerformanceStandby: true, // the active node reads for the user, and has the quota
				Responses: map[int][]framework.Response{
					http.StatusOK: {{Description: http.StatusText(http.StatusOK), Fields: linkFields()}},
				},
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
	return map[string]*framework.FieldSchema{
		"connect_link_url":  field("The link. Whoever opens it connects an account that is the caller's from then on."),
		"expires_at":        field("When the link ends, RFC 3339 in UTC."),
		fieldApp:            field("App that the link connects."),
		fieldExternalUserID: field("External user whose account it will be."),
	}
}

func (b *backend) connectLink(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := b.refuseUnknown(req); err != nil {
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
	if wait := b.linkQuota.Take(t.reader.Caller); wait > 0 {
		return nil, logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("you have made %d Connect links in the last minute, which is the limit for one caller; "+
			"use one of them, or try again in %d s", maxLinksOfCaller, int(math.Ceil(wait.Seconds()))))
	}
	link, err := t.makeLink(ctx, t.user, wanted)
	if err != nil {
		return nil, toLogical(req, err)
	}
	return &logical.Response{Data: map[string]any{
		"connect_link_url":  string(link.URL),
		"expires_at":        link.ExpiresAt.UTC().Format(time.RFC3339),
		fieldApp:            t.role.App,
		fieldExternalUserID: t.user.ExternalID,
	}}, nil
}

// linkTarget returns the external user that a link is for. It is the same one as for
// a read through that role.
func (b *backend) linkTarget(ctx context.Context, req *logical.Request, data *framework.FieldData) (*target, error) {
	name := data.Get("name").(string)
	if len(name) > maxNameLength || strings.HasPrefix(name, accountIDPrefix) {
		return nil, badRequest("Connect links are for roles by app and external_user_id, not for account ids: %s", errBadRoleName)
	}
	c, err := b.connections.get(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	t := &target{connection: c, reader: cache.Reader{Caller: caller(req)}, roleName: name}
	t.role, err = b.roles.get(ctx, req.Storage, name)
	switch {
	case err != nil:
		return nil, err
	case t.role == nil:
		return nil, badRequest("%s", atMount(req, fmt.Sprintf("there is no role %q; list them with: "+cli+" list <mount>/roles", name)))
	case t.role.ofTokens() && t.role.App == "":
		return nil, badRequest("role %q hands out tokens and names no app: Connect links are for roles by app and external_user_id", name)
	case !t.role.ofUser():
		return nil, badRequest("role %q is for one account: Connect links are for roles by app and external_user_id", name)
	}
	return t, b.resolveRole(req, t)
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
	if r.SuccessURI, err = t.role.redirectURI(data, fieldSuccessRedirectURI); err != nil {
		return r, err
	}
	r.ErrorURI, err = t.role.redirectURI(data, fieldErrorRedirectURI)
	return r, err
}

// makeLink makes a link for u. While the link is valid, reads by u search for the
// account every few seconds at most.
func (c *connection) makeLink(ctx context.Context, u cache.User, r api.LinkRequest) (*api.Link, error) {
	held := u.Key()
	if err := c.linkHoldOffs.Check(held); err != nil {
		return nil, err
	}
	began := time.Now()
	link, err := c.links.Link(ctx, r)
	var e *api.Error
	if errors.As(err, &e) && e.Kind == api.Throttled {
		c.linkHoldOffs.Failed(held, pace.Failure{Err: e, Least: e.Wait})
	}
	if err != nil {
		return nil, err
	}
	c.linkHoldOffs.Succeeded(held)
	c.view.Expect(u, began.Add(r.Life))
	return link, nil
}

// redirectHostPattern matches the name or address of a host, with or without a port.
var redirectHostPattern = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:]+\])(:[1-9][0-9]{0,4})?$`)

// maxHost bounds the name of a host with its port, in bytes.
const maxHost = 260

func validateRedirectHosts(hosts []string) error {
	if len(hosts) > maxRedirectHosts {
		return badRequest("allowed_redirect_hosts must not have more than %d entries", maxRedirectHosts)
	}
	for _, host := range hosts {
		if !isRedirectHost(host) {
			return badRequest("allowed_redirect_hosts must be names of hosts in lower case, such as app.example.com or localhost:3000, without https:// and without *")
		}
	}
	return nil
}

func isRedirectHost(host string) bool {
	if len(host) > maxHost || !redirectHostPattern.MatchString(host) {
		return false
	}
	u, err := url.Parse("https://" + host)
	if err != nil {
		return false
	}
	if _, err := netip.ParseAddr(u.Hostname()); strings.HasPrefix(host, "[") && err != nil {
		return false
	}
	_, err = strconv.ParseUint(u.Port(), 10, 16)
	return u.Port() == "" || err == nil
}

// redirectURI returns the URI in a field, as it is sent to Pipedream; empty for none.
// It fails if the role does not let a link lead back there.
func (r *role) redirectURI(data *framework.FieldData, field string) (string, error) {
	raw := data.Get(field).(string)
	if raw == "" {
		return "", nil
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || len(raw) > maxRedirectURI || u.Opaque != "" || u.Hostname() == "": // not shown: what is in it may be for the page alone
		return "", badRequest("%s is not a URL with a host, of %d characters at most", field, maxRedirectURI)
	case u.User != nil:
		return "", badRequest("%s must not contain a user name or password", field)
	case u.Scheme != "https" && (u.Scheme != "http" || !api.IsLoopback(u.Hostname())):
		return "", badRequest("%s must begin with https://; http:// is only for loopback addresses", field)
	case !r.allowsHost(u):
		return "", badRequest("%s leads to a host that is not in the role's allowed_redirect_hosts", field)
	}
	return u.String(), nil
}

// allowsHost reports whether the role allows the host of u. Ports must match too,
// except on a loopback address if the role names none: a program on the user's own
// machine listens on any free port.
func (r *role) allowsHost(u *url.URL) bool {
	host := strings.ToLower(u.Host)
	standard := map[string]string{"https": ":443", "http": ":80"}[u.Scheme]
	return slices.ContainsFunc(r.AllowedRedirectHosts, func(allowed string) bool {
		return strings.TrimSuffix(allowed, standard) == strings.TrimSuffix(host, standard) ||
			api.IsLoopback(u.Hostname()) && allowed == strings.TrimSuffix(host, ":"+u.Port())
	})
}
