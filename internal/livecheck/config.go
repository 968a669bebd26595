package livecheck

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/redact"
)

// DefaultBaseURL is the address of the real API.
const DefaultBaseURL = "https://api.pipedream.com/v1"

// Config says what to look at, and how.
type Config struct {
	redact.Opaque

	BaseURL *url.URL
	// APIKey, or else ClientID and ClientSecret.
	APIKey       redact.Secret
	ClientID     string
	ClientSecret redact.Secret
	OrgID        string // workspace of an API key; empty for none
	// ProjectID is a Connect project; empty to look at the workspace alone. Environments are those of the project.
	ProjectID    string
	Environments []string
	PerMinute    int           // requests a minute at most
	Timeout      time.Duration // for one request
	// Watch is how long to wait until an account gets a new token; 0 for not at all.
	Watch time.Duration
	// Write allows requests that make something: a Connect token that lives for a minute, for an external user that is
	// made up and removed again.
	Write bool
	// LinkApp is the slug of an app. If it is set, and Write too, a link is given to Show, and the check waits for
	// LinkWait until somebody connects an account with it. Then the external user is removed with the account.
	LinkApp  string
	LinkWait time.Duration
	Show     func(link string)

	Version   string // of this program
	Transport http.RoundTripper
}

// The errors of [Config.Check].
var (
	errNoKey       = errors.New("it needs PIPEDREAM_API_KEY, or PIPEDREAM_CLIENT_ID and PIPEDREAM_CLIENT_SECRET, in its environment or with -stdin")
	errTwoKeys     = errors.New("it takes an API key or an OAuth client, not both")
	errHalfClient  = errors.New("the id and the secret of an OAuth client go together")
	errProject     = errors.New("the project id must look like proj_… ")
	errKeyProject  = errors.New("a Connect project needs an OAuth client: API keys do not work there")
	errEnvironment = errors.New("an environment is production or development")
	errBase        = errors.New("the base URL must be https://… without user, query and fragment; http is for loopback addresses")
	errPerMinute   = errors.New("the requests a minute must be from 1 to 100")
	errTimes       = errors.New("times must not be negative, and a request needs some")
	errWrite       = errors.New("a Connect token needs a project")
	errLink        = errors.New("a link goes with writing")
)

// Check returns what is wrong with a configuration. Its errors show nothing of it.
func (c *Config) Check() error {
	client := c.ClientID != "" || c.ClientSecret != ""
	switch {
	case c.APIKey == "" && !client:
		return errNoKey
	case c.APIKey != "" && client:
		return errTwoKeys
	case client && (c.ClientID == "" || c.ClientSecret == ""):
		return errHalfClient
	case c.ProjectID != "" && !isProject(c.ProjectID):
		return errProject
	case c.ProjectID != "" && !client:
		return errKeyProject
	case c.PerMinute < 1 || c.PerMinute > 100:
		return errPerMinute
	case c.Timeout <= 0 || c.Watch < 0 || c.LinkWait < 0:
		return errTimes
	case c.Write && c.ProjectID == "":
		return errWrite
	case c.LinkApp != "" && !c.Write:
		return errLink
	}
	for _, environment := range c.Environments {
		if environment != production && environment != development {
			return errEnvironment
		}
	}
	for _, secret := range []redact.Secret{c.APIKey, redact.Secret(c.ClientID), c.ClientSecret} {
		if secret == "" {
			continue
		}
		if err := api.CheckSecret(secret); err != nil {
			return errors.New("the key, or the id or secret of the client, " + err.Error())
		}
	}
	u := c.BaseURL
	if u == nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		u.Scheme != "https" && (u.Scheme != "http" || !api.IsLoopback(u.Hostname())) {
		return errBase
	}
	return nil
}

// isProject reports whether id can be that of a project. It becomes a part of a path.
func isProject(id string) bool {
	rest, ok := strings.CutPrefix(id, "proj_")
	return ok && rest != "" && len(id) <= 128 && strings.Trim(rest, letters) == ""
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

// The environments of a Connect project.
const (
	production  = "production"
	development = "development"
)

// place is where accounts are looked for.
type place struct{ project, environment string }

// places returns where to look: in the workspace, and in each environment of the project.
func (c *Config) places() (all []place) {
	if c.ProjectID != "" {
		for _, environment := range c.Environments {
			all = append(all, place{c.ProjectID, environment})
		}
	}
	return append(all, place{})
}

// name is what the report calls the place.
func (p place) name() string {
	switch {
	case p.project == "":
		return "workspace"
	case p.environment == development:
		return "Connect, development"
	default:
		return "Connect, production"
	}
}

func (p place) path(more ...string) []string {
	path := more
	if p.project != "" {
		path = append([]string{"connect", p.project}, more...)
	}
	return path
}
