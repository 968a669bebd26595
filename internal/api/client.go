// Package api speaks Pipedream's REST API for connected accounts. It knows
// nothing of Vault.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-retryablehttp"
	lru "github.com/hashicorp/golang-lru/v2"

	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/clock"
	"vault-plugin-secrets-pipedream/internal/guard"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/redact"
)

// PageLimit is the most accounts that Pipedream lists in one answer.
const PageLimit = 100

// What a request is for, as observers see it.
const (
	ForAccount  = "account"
	ForPage     = "page"
	ForSearch   = "search"
	ForMetadata = "metadata"
	ForList     = "list"
	ForToken    = "token"
	ForCheck    = "verify"
	ForLink     = "link"

	ForConnectToken = "connect_token"
	ForAccessToken  = "access_token"
	ForRemoval      = "removal"
)

// Config says where and how to reach Pipedream.
type Config struct {
	redact.Opaque

	BaseURL *url.URL
	// APIKey, or else ClientID and ClientSecret.
	APIKey       redact.Secret
	ClientID     string
	ClientSecret redact.Secret
	Scope        string // of an OAuth client's access token; empty for all that the client may have
	// ProjectID is a Connect project, and Environment one of its two environments.
	// Both are empty for the accounts of the workspace.
	ProjectID, Environment string
	// OrgID is the workspace that a user's API key is used for; empty for the
	// user's own choice.
	OrgID      string
	Timeout    time.Duration // for one piece of work, retries included
	MaxRetries int
	UserAgent  string
	// Clock learns the time from Pipedream's answers, and tells until when to wait; nil to
	// learn nothing.
	Clock *clock.Clock
	// Makes is set for a client that makes links or tokens and nothing else.
	Makes Product
	// Removes is set for a client that removes accounts or external users and nothing
	// else.
	Removes bool
}

// Observer learns of the requests of a client.
type Observer interface {
	// Sent is called for each attempt that goes out.
	Sent()
	// Answered is called once for each request, after its retries.
	Answered(what string, took time.Duration, err error)
}

// Client speaks Pipedream's API with one configuration. Its errors are of type
// *Error, or context.Canceled.
type Client struct {
	redact.Opaque

	ctx      context.Context // of what requests share
	config   Config
	auth     authorizer
	http     *retryablehttp.Client
	budget   *pace.Budget
	holdOffs *backoff.HoldOffs
	observer Observer
	logger   func() hclog.Logger
	proxyFor func(*http.Request) (*url.URL, error) // nil for a transport without proxies

	mu       sync.Mutex               // guards the fields below; never held across I/O
	timing   *timing                  // the latest attempt to be told the time; nil before the first
	waiting  *probe                   // not sent yet; nil for none
	latest   *probe                   // nil before the first
	proven   []string                 // accounts that Pipedream last answered for
	believed *lru.Cache[string, Kind] // the last refusal of each account, if it was confirmed
}

// New returns a client that sends over transport. It keeps within budget, and a
// 401 or 429 holds everything off in holdOffs. Fetches of access tokens, and other
// work that requests share, end with ctx.
func New(ctx context.Context, config Config, transport http.RoundTripper, budget *pace.Budget, holdOffs *backoff.HoldOffs,
	observer Observer, logger func() hclog.Logger,
) *Client {
	believed, err := lru.New[string, Kind](maxBelieved)
	if err != nil { // only for a size below 1
		panic(err)
	}
	c := &Client{
		ctx: ctx, config: config, budget: budget, holdOffs: holdOffs, observer: observer, logger: logger,
		auth: apiKey{key: config.APIKey}, believed: believed,
	}
	if config.ClientID != "" {
		c.auth = newOAuthClient(ctx, config.Timeout, c.guardedToken)
	}
	if t, ok := transport.(*http.Transport); ok {
		c.proxyFor = t.Proxy
	}
	c.http = &retryablehttp.Client{
		HTTPClient: &http.Client{
			Transport: &meter{next: transport, client: c},
			// Redirects are never followed. The API has none, and the key must not
			// go where one points.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		RetryMax:     config.MaxRetries,
		RetryWaitMin: firstRetryWait,
		RetryWaitMax: longestRetryWait,
		CheckRetry:   c.checkRetry,
		Backoff:      c.backoff,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	return c
}

// Close closes idle connections. Those in use stay open until their request ends.
func (c *Client) Close() { c.http.HTTPClient.CloseIdleConnections() }

// Timeout returns how long one piece of work may take, retries included.
func (c *Client) Timeout() time.Duration { return c.config.Timeout }

// accountsPath returns the path of the accounts of the Connect project, or of the
// workspace if there is none.
func (c *Client) accountsPath(more ...string) []string {
	path := []string{"accounts"}
	if c.config.ProjectID != "" {
		path = []string{"connect", url.PathEscape(c.config.ProjectID), "accounts"}
	}
	return append(path, more...)
}

// Account fetches one account with its credentials.
func (c *Client) Account(ctx context.Context, id string) (*Account, error) {
	return c.account(ctx, ForAccount, id, url.Values{"include_credentials": {"true"}})
}

// Metadata fetches one account without its credentials.
func (c *Client) Metadata(ctx context.Context, id string) (*Account, error) {
	return c.account(ctx, ForMetadata, id, url.Values{})
}

func (c *Client) account(ctx context.Context, what, id string, query url.Values) (*Account, error) {
	var a *Account
	err := c.get(ctx, request{what: what, path: c.accountsPath(url.PathEscape(id)), query: query, account: id, decode: func(body []byte) (err error) {
		a, err = decodeAccount(body)
		return err
	}})
	if err == nil && a.ID != id {
		return nil, c.facts(&Error{Kind: WrongAccount, Account: id})
	}
	return a, err
}

// Filter narrows a list of accounts. The zero value lets all of them through.
type Filter struct {
	App          string // slug or id
	OAuthApp     string // id of a custom OAuth client
	ExternalUser string // in a Connect project
}

// Page fetches the page of accounts, with their credentials, that begins after a
// cursor.
func (c *Client) Page(ctx context.Context, after string) (*Page, error) {
	return c.page(ctx, ForPage, Filter{}, true, after)
}

// PageOf is like [Client.Page], of the accounts that a filter lets through.
func (c *Client) PageOf(ctx context.Context, filter Filter, after string) (*Page, error) {
	return c.page(ctx, ForSearch, filter, true, after)
}

// Search fetches all accounts of the filter's external user that the filter lets
// through, with their credentials.
func (c *Client) Search(ctx context.Context, filter Filter) (found []*Account, err error) {
	err = c.each(ctx, ForSearch, filter, true, func(p *Page) error {
		for _, a := range p.Accounts {
			if a.ExternalID == filter.ExternalUser { // whatever Pipedream made of the filter
				found = append(found, a)
			}
		}
		return nil
	})
	return found, err
}

// List fetches the accounts that the filter lets through, without their
// credentials, and calls each with every page. It stops at the first error of each.
func (c *Client) List(ctx context.Context, filter Filter, each func(*Page) error) error {
	return c.each(ctx, ForList, filter, false, each)
}

func (c *Client) each(ctx context.Context, what string, filter Filter, withCredentials bool, each func(*Page) error) error {
	for walk := (Walk{}); !walk.Done(); {
		p, err := c.page(ctx, what, filter, withCredentials, walk.After())
		if err != nil {
			return err
		}
		if err := each(p); err != nil {
			return err
		}
		walk.Note(p)
	}
	return nil
}

func (c *Client) page(ctx context.Context, what string, filter Filter, withCredentials bool, after string) (*Page, error) {
	query := url.Values{"limit": {strconv.Itoa(PageLimit)}}
	for name, value := range map[string]string{
		"app": filter.App, "oauth_app_id": filter.OAuthApp, "external_user_id": filter.ExternalUser, "after": after,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if withCredentials {
		query.Set("include_credentials", "true")
	}
	c.addOrg(query)
	var p *Page
	err := c.get(ctx, request{what: what, path: c.accountsPath(), query: query, decode: func(body []byte) (err error) {
		p, err = decodePage(body)
		return err
	}})
	if err != nil {
		return nil, err
	}
	c.listed(p)
	return p, nil
}

// addOrg adds the workspace to the query, if one is configured. A list with a
// user's API key shows one workspace only.
func (c *Client) addOrg(query url.Values) {
	if c.config.OrgID != "" {
		query.Set("org_id", c.config.OrgID)
	}
}

// Verify checks that Pipedream accepts the key or client, and that it is Pipedream that
// answers. Whether accounts may be read shows only on the path of the accounts. none
// is set if Verify saw there that there are no accounts.
func (c *Client) Verify(ctx context.Context) (none bool, err error) {
	if c.config.ClientID == "" {
		if err := c.get(ctx, c.user()); err != nil || c.config.OrgID == "" {
			return false, err
		}
	}
	var first Page
	err = c.get(ctx, c.firstPage(&first))
	return err == nil && first.Count == 0 && first.Total == 0, err
}

func (c *Client) guardedToken(ctx context.Context) (token *accessToken, err error) {
	err = guard.Run(c.logger(), func() (err error) {
		asked := time.Now()
		token, err = c.requestToken(ctx, c.config.Scope)
		c.note(ForToken, asked, err)
		return err
	})
	return token, err
}

// requestToken fetches an access token for the OAuth client.
func (c *Client) requestToken(ctx context.Context, scope string) (*accessToken, error) {
	fields := map[string]string{
		"grant_type":    "client_credentials",
		"client_id":     c.config.ClientID,
		"client_secret": string(c.config.ClientSecret),
	}
	if scope != "" {
		fields["scope"] = scope
	}
	body, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	asked := time.Now()
	var token *accessToken
	err = c.send(ctx, request{what: ForToken, method: http.MethodPost, path: []string{"oauth", "token"}, body: body, decode: func(body []byte) (err error) {
		token, err = decodeToken(body, asked)
		return err
	}})
	return token, err
}

// get sends an authorized request to read something.
func (c *Client) get(ctx context.Context, r request) error {
	r.method = http.MethodGet
	err := c.do(ctx, r)
	if err == nil {
		c.SettleTime(ctx)
	}
	return err
}

// do sends an authorized request. If its bearer is refused and a new one can be
// had, do sends it once more.
func (c *Client) do(ctx context.Context, r request) error {
	began := time.Now()
	for retried := false; ; retried = true {
		bearer, err := c.auth.bearer(ctx)
		if err != nil {
			if errors.Is(err, context.DeadlineExceeded) { // while the shared fetch of the token went on
				err = c.connectionError(ctx, err)
			}
			return WithAccount(err, r.account)
		}
		r.bearer = bearer
		err = c.send(ctx, r)
		if r.account != "" {
			err = c.confirmed(ctx, r, err)
		}
		if KindOf(err) == KeyRefused && !retried && c.auth.refused(bearer) {
			continue
		}
		c.note(r.what, began, err)
		return err
	}
}

// note tells the observer and the hold-offs how a request ended.
func (c *Client) note(what string, began time.Time, err error) {
	c.observer.Answered(what, time.Since(began), err)
	var e *Error
	switch {
	case err == nil:
		c.holdOffs.SucceededAll()
	case errors.As(err, &e) && e.Kind == KeyRefused:
		c.holdOffs.FailedAll(backoff.Failure{Err: e})
		c.budget.Do(func(time.Time) {}) // those in line hear of it now
	}
}

// facts adds to e how and where Pipedream was asked.
func (c *Client) facts(e *Error) *Error {
	e.OAuth = c.config.ClientID != ""
	e.Project, e.Environment, e.Scope = c.config.ProjectID, c.config.Environment, c.config.Scope
	return e
}

// NoAccount returns the error for an external user without an account of the app.
func (c *Client) NoAccount(user, app string) error {
	return c.facts(&Error{Kind: NoAccount, User: user, App: app})
}
