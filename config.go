package pipedream

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/redact"
)

const (
	configPath = "config"

	defaultScope = "connect:accounts:read"
	// defaultConnectTokenScope is what the page of a Connect link needs to connect an
	// account.
	defaultConnectTokenScope = "connect:accounts:write connect:apps:*"

	// defaultTokenScope lets a token use Pipedream's proxy, and nothing else.
	defaultTokenScope = "connect:proxy"

	defaultEnvironment    = "production"
	defaultBaseURL        = "https://api.pipedream.com/v1"
	defaultRequestTimeout = 20 * time.Second
	defaultMaxRetries     = 2
	defaultMinTTL         = 5 * time.Minute
	defaultStaticTTL      = time.Hour

	// Pipedream allows 100 requests a minute for accounts. For the accounts of a
	// Connect project it allows 2,000 in five minutes.
	// https://pipedream.com/docs/connect/api-reference/rate-limits
	defaultRateLimit        = 100
	defaultProjectRateLimit = 400

	// maxRequestTimeout keeps an answer within 60 s, after which Vault's own Go
	// client gives up.
	maxRequestTimeout = 59 * time.Second
	maxMaxRetries     = 10
	// maxRateLimit is far beyond what Pipedream allows. The engine remembers that many
	// requests for a minute.
	maxRateLimit = 1_000_000
)

// config is the stored configuration of the connection to Pipedream.
type config struct {
	redact.Opaque

	// Requests use APIKey, or otherwise ClientID and ClientSecret.
	APIKey       redact.Secret `json:"api_key,omitempty"`
	ClientID     string        `json:"client_id,omitempty"`
	ClientSecret redact.Secret `json:"client_secret,omitempty"`
	Scope        string        `json:"scope"`

	// ProjectID is the Connect project whose accounts in Environment are served. If it
	// is empty, those of the workspace are.
	ProjectID   string `json:"project_id,omitempty"`
	Environment string `json:"environment"`
	// ConnectTokenScope is what the token in a Connect link may do.
	ConnectTokenScope string `json:"connect_token_scope"`
	// AllowedTokenScopes are the scopes that tokens of roles may have, and
	// AllowAccessTokens says whether roles may hand out access tokens. No role goes
	// beyond them, whenever it was written.
	AllowedTokenScopes []string `json:"allowed_token_scopes"`
	AllowAccessTokens  bool     `json:"allow_access_tokens,omitempty"`
	// OrgID is the workspace that a user's API key is used for.
	OrgID string `json:"org_id,omitempty"`

	BaseURL            string        `json:"base_url"`
	CACert             string        `json:"ca_cert,omitempty"`
	RequestTimeout     time.Duration `json:"request_timeout"`
	MaxRetries         int           `json:"max_retries"`
	RateLimit          *int          `json:"rate_limit,omitempty"` // nil for what Pipedream allows
	MinTTL             time.Duration `json:"min_ttl"`
	StaticTTL          time.Duration `json:"static_ttl"`
	ExposeRefreshToken bool          `json:"expose_refresh_token,omitempty"`
	TokenFingerprint   bool          `json:"token_fingerprint,omitempty"`
	AllowAccountIDs    bool          `json:"allow_account_ids"`

	// CacheID is the generation of the cache. It ties stored credentials to the
	// connection that they were fetched with. A new key or URL gets a new CacheID, and
	// what is stored under the old one is never served, however late it is stored.
	CacheID string `json:"cache_id"`
	// UsersID likewise ties stored users to the project that their accounts are in. A
	// new key or client of the same project keeps it.
	UsersID string `json:"users_id"`
}

func defaultConfig() *config {
	return &config{
		Scope:              defaultScope,
		Environment:        defaultEnvironment,
		ConnectTokenScope:  defaultConnectTokenScope,
		AllowedTokenScopes: []string{defaultTokenScope},
		BaseURL:            defaultBaseURL,
		RequestTimeout:     defaultRequestTimeout,
		MaxRetries:         defaultMaxRetries,
		MinTTL:             defaultMinTTL,
		StaticTTL:          defaultStaticTTL,
		AllowAccountIDs:    true,
	}
}

// errBadConfig replaces the error of the decoder, which may quote what it read.
var errBadConfig = logical.CodedError(http.StatusInternalServerError, "the stored config cannot be read; write it again")

// readConfig returns the stored configuration; nil if there is none.
func readConfig(ctx context.Context, storage logical.Storage) (*config, error) {
	entry, err := storage.Get(ctx, configPath)
	if err != nil || entry == nil {
		return nil, err
	}
	c := defaultConfig()
	if entry.DecodeJSON(c) != nil {
		return nil, errBadConfig
	}
	return c, nil
}

func writeConfig(ctx context.Context, storage logical.Storage, c *config) error {
	entry, err := logical.StorageEntryJSON(configPath, c)
	if err != nil {
		return err
	}
	return storage.Put(ctx, entry)
}

// renew replaces the ids of the cache that c may not share with old, the
// configuration before it; nil for none.
func (c *config) renew(old *config) (err error) {
	if old == nil || !c.sameSource(old) {
		c.CacheID, err = uuid.GenerateUUID()
	}
	if err == nil && (old == nil || !c.samePlace(old)) {
		c.UsersID, err = uuid.GenerateUUID()
	}
	if err != nil {
		return fmt.Errorf("no random bytes for the id of a cache: %w", err)
	}
	return nil
}

// sameSource reports whether c and other ask the same place for the same accounts
// with the same key or client. If so, what was fetched with one may be served by the
// other.
func (c *config) sameSource(other *config) bool {
	return c.APIKey == other.APIKey && c.ClientID == other.ClientID && c.ClientSecret == other.ClientSecret && c.samePlace(other)
}

// samePlace reports whether c and other ask the same place for the same accounts,
// whatever they ask with.
func (c *config) samePlace(other *config) bool {
	return c.BaseURL == other.BaseURL && c.ProjectID == other.ProjectID && c.Environment == other.Environment && c.OrgID == other.OrgID
}

// rateLimit returns how many requests are allowed in any 60 seconds; 0 means no
// limit.
func (c *config) rateLimit() int {
	switch {
	case c.RateLimit != nil:
		return *c.RateLimit
	case c.ProjectID != "":
		return defaultProjectRateLimit
	default:
		return defaultRateLimit
	}
}

func (c *config) policy() credential.Policy {
	return credential.Policy{MinTTL: c.MinTTL, StaticTTL: c.StaticTTL, ExposeRefreshToken: c.ExposeRefreshToken}
}

// validate checks the fields of c. Its errors name the field and never show a
// secret.
func (c *config) validate() error {
	if err := c.validateAuthentication(); err != nil {
		return err
	}
	if err := validateConnectTokenScope(c.ConnectTokenScope); err != nil {
		return err
	}
	if err := validateAllowedScopes(c.AllowedTokenScopes); err != nil {
		return err
	}
	if _, err := parseBaseURL(c.BaseURL); err != nil {
		return err
	}
	if _, err := api.NewTransport(c.CACert); err != nil {
		return badRequest("ca_cert %s", err)
	}
	switch {
	case c.RequestTimeout < time.Second || c.RequestTimeout > maxRequestTimeout:
		return badRequest("request_timeout must be from 1s to %s", maxRequestTimeout)
	case c.MaxRetries < 0 || c.MaxRetries > maxMaxRetries:
		return badRequest("max_retries must be from 0 to %d", maxMaxRetries)
	case c.RateLimit != nil && *c.RateLimit < 0:
		return badRequest("rate_limit must not be negative: 0 lifts the limit, and -1 is what Pipedream allows")
	case c.RateLimit != nil && *c.RateLimit > maxRateLimit:
		return badRequest("rate_limit must be at most %d: 0 lifts the limit", maxRateLimit)
	case c.StaticTTL < credential.MinServable:
		return badRequest("static_ttl must be at least %s", credential.MinServable)
	}
	return nil
}

var (
	projectIDPattern = regexp.MustCompile(`^proj_[A-Za-z0-9_-]{1,100}$`)
	orgIDPattern     = regexp.MustCompile(`^[A-Za-z0-9_-]{1,100}$`)
)

func (c *config) validateAuthentication() error {
	switch {
	case c.ProjectID != "" && c.ClientID == "":
		return badRequest("project_id needs client_id and client_secret: an API key cannot read a Connect project. " +
			"For the accounts of the workspace leave project_id out, or clear it with project_id=")
	case c.ClientID == "" && c.ClientSecret != "":
		return badRequest("client_secret needs client_id")
	case c.ClientID != "" && c.ClientSecret == "":
		return badRequest("client_id needs client_secret: client_secret=- reads it from standard input")
	case c.ClientID != "":
		if err := validSecret(fieldClientID, redact.Secret(c.ClientID)); err != nil {
			return err
		}
		if err := validSecret(fieldClientSecret, c.ClientSecret); err != nil {
			return err
		}
	case c.APIKey == "":
		return badRequest("give api_key, or client_id and client_secret: api_key=- reads the key from standard input")
	default:
		if err := validSecret(fieldAPIKey, c.APIKey); err != nil {
			return err
		}
	}
	switch {
	case strings.ContainsFunc(c.Scope, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsGraphic(r) }):
		return badRequest("scope must be names of scopes with spaces between them, such as %s", defaultScope)
	case c.OrgID != "" && c.ClientID != "":
		return badRequest("org_id goes with api_key only: an OAuth client belongs to one workspace")
	case c.OrgID != "" && !orgIDPattern.MatchString(c.OrgID):
		return badRequest("org_id must look like o_1aBcDeF")
	case c.ProjectID != "" && !projectIDPattern.MatchString(c.ProjectID):
		return badRequest("project_id must look like proj_1aBcDeF")
	case c.Environment != "production" && c.Environment != "development":
		return badRequest("environment must be production or development")
	}
	return nil
}

// connectScopePattern matches neither * nor connect:*, which opens all of Connect. No
// link and no token may have that.
var connectScopePattern = regexp.MustCompile(`^connect:[a-z_]{1,50}(:([a-z_]{1,50}|\*))?$`)

const (
	maxConnectTokenScope = 500 // bytes
	maxTokenScopes       = 50
)

// areScopes reports whether names are names of scopes that a link or token may have.
func areScopes(names []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !connectScopePattern.MatchString(name) })
}

func validateConnectTokenScope(scope string) error {
	if len(scope) > maxConnectTokenScope || !areScopes(strings.Split(scope, " ")) {
		return badRequest("connect_token_scope must be names of scopes with spaces between them, such as %s, and never * or connect:*", defaultConnectTokenScope)
	}
	return nil
}

func validateAllowedScopes(scopes []string) error {
	if len(scopes) > maxTokenScopes || !areScopes(scopes) {
		return badRequest("allowed_token_scopes must be names of scopes, such as %s, %d at most, and never * or connect:*", defaultTokenScope, maxTokenScopes)
	}
	return nil
}

func validSecret(field string, s redact.Secret) error {
	if err := api.CheckSecret(s); err != nil {
		return badRequest("%s %s", field, err)
	}
	return nil
}

// parseBaseURL accepts https, and http only for a loopback address: a key must not
// cross a network in clear.
func parseBaseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil: // not shown, because it repeats the URL and any password in it
		return nil, badRequest("base_url is not a URL")
	case u.User != nil:
		return nil, badRequest("base_url must not contain a user name or password")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(raw, "#"):
		return nil, badRequest("base_url must not contain a query or fragment")
	case u.Hostname() == "" || u.Opaque != "":
		return nil, badRequest("base_url must name a host, such as %s", defaultBaseURL)
	case !utf8.ValidString(u.Host) || strings.ContainsFunc(u.Host, func(r rune) bool { return !unicode.IsGraphic(r) }):
		return nil, badRequest("base_url must name a host in characters that can be printed") // errors name it
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, badRequest("base_url must begin with https://")
	case u.Scheme == "http" && !api.IsLoopback(u.Hostname()):
		return nil, badRequest("base_url must begin with https://; http:// is only for loopback addresses")
	}
	return u, nil
}

// normalizeBaseURL returns the form in which base URLs are stored and compared.
func normalizeBaseURL(raw string) string {
	return strings.TrimRight(strings.TrimSpace(raw), "/")
}
