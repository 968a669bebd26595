package pipedream

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	configPath = "config"

	defaultScope          = "connect:accounts:read"
	defaultEnvironment    = "production"
	defaultBaseURL        = "https://api.pipedream.com/v1"
	defaultRequestTimeout = 20 * time.Second
	defaultMaxRetries     = 2
	defaultRateLimit      = 100
	defaultMinTTL         = 5 * time.Minute
	defaultStaticTTL      = time.Hour

	// maxRequestTimeout keeps an answer within the 60 s after which Vault's own
	// Go client gives up.
	maxRequestTimeout = 59 * time.Second
	mostRetries       = 10
	maxSecretLength   = 4096
)

// config is the connection to Pipedream as it stands in storage.
type config struct {
	opaque

	// Pipedream is asked with APIKey, or else with ClientID and ClientSecret.
	APIKey       secret `json:"api_key,omitempty"`
	ClientID     string `json:"client_id,omitempty"`
	ClientSecret secret `json:"client_secret,omitempty"`
	Scope        string `json:"scope"`

	// ProjectID is a Connect project, whose accounts in Environment are served;
	// without it those of the workspace are.
	ProjectID   string `json:"project_id,omitempty"`
	Environment string `json:"environment"`

	BaseURL            string        `json:"base_url"`
	CACert             string        `json:"ca_cert,omitempty"`
	RequestTimeout     time.Duration `json:"request_timeout"`
	MaxRetries         int           `json:"max_retries"`
	RateLimit          int           `json:"rate_limit"`
	MinTTL             time.Duration `json:"min_ttl"`
	StaticTTL          time.Duration `json:"static_ttl"`
	ExposeRefreshToken bool          `json:"expose_refresh_token,omitempty"`
	AllowAccountIDs    bool          `json:"allow_account_ids"`

	// CacheID ties stored credentials to the connection that they were fetched
	// with. A new key or URL gets a new one, and whatever is still stored under
	// the old one is never served, whoever wrote it and however late.
	CacheID string `json:"cache_id"`
}

func defaultConfig() *config {
	return &config{
		Scope:           defaultScope,
		Environment:     defaultEnvironment,
		BaseURL:         defaultBaseURL,
		RequestTimeout:  defaultRequestTimeout,
		MaxRetries:      defaultMaxRetries,
		RateLimit:       defaultRateLimit,
		MinTTL:          defaultMinTTL,
		StaticTTL:       defaultStaticTTL,
		AllowAccountIDs: true,
	}
}

// errBadConfig stands for the decoder's own error, which may quote what it read.
var errBadConfig = logical.CodedError(http.StatusInternalServerError, "the stored config cannot be read; write it anew")

// readConfig returns the stored configuration, nil where there is none.
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

// renewCacheID makes everything that was fetched so far unusable.
func (c *config) renewCacheID() error {
	id, err := uuid.GenerateUUID()
	if err != nil {
		return fmt.Errorf("no random bytes for a cache id: %w", err)
	}
	c.CacheID = id
	return nil
}

// sameSource tells whether c and other ask the same accounts of the same place
// in the same name, so that what was fetched over one may be served by the other.
func (c *config) sameSource(other *config) bool {
	return c.APIKey == other.APIKey && c.ClientID == other.ClientID && c.ClientSecret == other.ClientSecret &&
		c.BaseURL == other.BaseURL && c.ProjectID == other.ProjectID && c.Environment == other.Environment
}

// validate checks what is in c; its errors name the field and never show a secret.
func (c *config) validate() error {
	if err := c.validateAuthentication(); err != nil {
		return err
	}
	if _, err := parseBaseURL(c.BaseURL); err != nil {
		return err
	}
	if _, err := newTransport(c.CACert); err != nil {
		return badRequest("ca_cert is not a PEM certificate: %s", err)
	}
	switch {
	case c.RequestTimeout < time.Second || c.RequestTimeout > maxRequestTimeout:
		return badRequest("request_timeout must be from 1s to %s", maxRequestTimeout)
	case c.MaxRetries < 0 || c.MaxRetries > mostRetries:
		return badRequest("max_retries must be from 0 to %d", mostRetries)
	case c.RateLimit < 0:
		return badRequest("rate_limit must not be negative; 0 lifts the limit")
	case c.StaticTTL < time.Second:
		return badRequest("static_ttl must be at least 1s")
	}
	return nil
}

var projectIDPattern = regexp.MustCompile(`^proj_[A-Za-z0-9_-]{1,100}$`)

func (c *config) validateAuthentication() error {
	switch {
	case c.ProjectID != "" && c.ClientID == "":
		return badRequest("project_id needs client_id and client_secret: an API key cannot read a Connect project. " +
			"For the accounts of the workspace leave project_id out, or empty it with project_id=")
	case c.ClientID == "" && c.ClientSecret != "":
		return badRequest("client_id is missing: it goes with client_secret")
	case c.ClientID != "" && c.ClientSecret == "":
		return badRequest("client_secret is missing: it goes with client_id; give it with client_secret=- to have it read from standard input")
	case c.ClientID != "":
		if err := validSecret("client_id", secret(c.ClientID)); err != nil {
			return err
		}
		if err := validSecret("client_secret", c.ClientSecret); err != nil {
			return err
		}
	case c.APIKey == "":
		return badRequest("api_key is missing, or else client_id and client_secret: give a secret as api_key=- to have it read from standard input")
	default:
		if err := validSecret("api_key", c.APIKey); err != nil {
			return err
		}
	}
	switch {
	case strings.ContainsFunc(c.Scope, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsGraphic(r) }):
		return badRequest("scope must be names of scopes with spaces between them, such as %s", defaultScope)
	case c.ProjectID != "" && !projectIDPattern.MatchString(c.ProjectID):
		return badRequest("project_id must look like proj_1aBcDeF")
	case c.Environment != "production" && c.Environment != "development":
		return badRequest("environment must be production or development")
	}
	return nil
}

func validSecret(field string, s secret) error {
	switch {
	case s == "":
		return badRequest("%s is missing", field)
	case len(s) > maxSecretLength:
		return badRequest("%s is longer than %d characters", field, maxSecretLength)
	case strings.ContainsAny(string(s[:1]+s[len(s)-1:]), "\"'`"):
		return badRequest("%s is in quotes: leave them out", field)
	}
	for _, r := range string(s) {
		if r > unicode.MaxASCII || !unicode.IsGraphic(r) || unicode.IsSpace(r) {
			return badRequest("%s holds a character that cannot be part of it, such as a space or a line break", field)
		}
	}
	return nil
}

// parseBaseURL accepts https, and http for a loopback address alone: a key
// must not cross a network in clear.
func parseBaseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil: // not shown: it repeats the URL, and with it any password in it
		return nil, badRequest("base_url is not a URL")
	case u.User != nil:
		return nil, badRequest("base_url must not hold a user name or password")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(raw, "#"):
		return nil, badRequest("base_url must not hold a query or fragment")
	case u.Hostname() == "" || u.Opaque != "":
		return nil, badRequest("base_url must name a host, such as %s", defaultBaseURL)
	case !utf8.ValidString(u.Host) || strings.ContainsFunc(u.Host, func(r rune) bool { return !unicode.IsGraphic(r) }):
		return nil, badRequest("base_url must name a host in characters that can be printed") // errors name it
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, badRequest("base_url must begin with https://")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, badRequest("base_url must begin with https://; http is for a loopback address alone")
	}
	return u, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// normalizeBaseURL is the form in which base URLs are stored and compared.
func normalizeBaseURL(raw string) string {
	return strings.TrimRight(strings.TrimSpace(raw), "/")
}
