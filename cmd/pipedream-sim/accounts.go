package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// demoClient is the custom OAuth client of the Connect project.
const demoClient = "oa_demo"

// demoAccounts returns the default accounts. The tokens of one of them live for shortLife, so that a demo sees them
// replaced.
func demoAccounts(shortLife time.Duration) []pipedreamtest.Account {
	github := pipedreamtest.App{ID: "app_OrZhaO", Slug: "github", Name: "GitHub", AuthType: "oauth"}
	sheets := pipedreamtest.App{ID: "app_168hvn", Slug: "google_sheets", Name: "Google Sheets", AuthType: "oauth"}
	slack := pipedreamtest.App{ID: "app_mWnheL", Slug: "slack", Name: "Slack", AuthType: "oauth"}
	stripe := pipedreamtest.App{ID: "app_OkrhR1", Slug: "stripe", Name: "Stripe", AuthType: "keys"}
	return []pipedreamtest.Account{
		{ID: "apn_github", Name: "octocat", App: github, TokenLife: time.Hour},
		{ID: "apn_sheets", Name: "Quarterly figures", App: sheets, TokenLife: time.Hour},
		{ID: "apn_slack", Name: "Demo workspace", App: slack, TokenLife: shortLife},
		{ID: "apn_stripe", Name: "Demo shop", App: stripe, Credentials: map[string]any{"api_key": "demo_stripe_key_that_opens_nothing"}},
		{ID: "apn_dead", Name: "Left behind", App: github, TokenLife: time.Hour, Dead: true, Error: "invalid_grant"},
		{ID: "apn_alice1", Name: "alice", App: github, Project: "proj_demo", ExternalUserID: "alice", OAuthAppID: demoClient, TokenLife: time.Hour},
		{ID: "apn_bob1", Name: "bob", App: github, Project: "proj_demo", ExternalUserID: "bob", OAuthAppID: demoClient, TokenLife: time.Hour},
		{ID: "apn_alice2", Name: "alice", App: slack, Project: "proj_demo", ExternalUserID: "alice", NoCredentials: true, TokenLife: time.Hour},
	}
}

// accountInFile is an account in the file of -accounts. Fields that the API has too have the same names.
type accountInFile struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	App  struct {
		ID       string `json:"id"`
		Slug     string `json:"name_slug"`
		Name     string `json:"name"`
		AuthType string `json:"auth_type"`
	} `json:"app"`
	Project         string                     `json:"project"`
	Environment     string                     `json:"environment"`
	ExternalUserID  string                     `json:"external_user_id"`
	OAuthAppID      string                     `json:"oauth_app_id"`
	Credentials     map[string]json.RawMessage `json:"credentials"` // raw, to keep numbers exact
	TokenLife       duration                   `json:"token_life"`
	RefreshBefore   duration                   `json:"refresh_before"`
	Scopes          []string                   `json:"scopes"`
	NoRefresh       bool                       `json:"no_refresh"`
	Dead            bool                       `json:"dead"`
	Unhealthy       bool                       `json:"unhealthy"`
	Error           string                     `json:"error"`
	NoCredentials   bool                       `json:"no_credentials"`
	OmitNextRefresh bool                       `json:"omit_next_refresh"`
	HideExpiry      bool                       `json:"hide_expiry"`
	PlainApp        bool                       `json:"plain_app"`
	Times           pipedreamtest.TimeForm     `json:"times"`
	CreatedAt       time.Time                  `json:"created_at"`
	UpdatedAt       time.Time                  `json:"updated_at"`
}

// duration is a time.Duration in the format of time.ParseDuration.
type duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = duration(v)
	return err
}

// readAccounts reads the file of -accounts.
func readAccounts(name string) ([]pipedreamtest.Account, error) {
	f, err := os.Open(name) //nolint:gosec // the file is for the caller to choose
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	accounts, err := decodeAccounts(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return accounts, nil
}

// decodeAccounts decodes the accounts. It rejects likely mistakes: unknown fields and repeated ids.
func decodeAccounts(r io.Reader) ([]pipedreamtest.Account, error) {
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	var list []accountInFile
	if err := dec.Decode(&list); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one JSON list")
	}
	seen := map[string]bool{}
	var accounts []pipedreamtest.Account
	for i, a := range list {
		switch {
		case a.ID == "":
			return nil, fmt.Errorf("account %d has no id", i+1)
		case seen[a.ID]:
			return nil, fmt.Errorf("account %s is listed twice", a.ID)
		case a.TokenLife < 0:
			return nil, fmt.Errorf("account %s: token_life must not be negative", a.ID)
		case a.Environment != "" && a.Environment != "production" && a.Environment != "development":
			return nil, fmt.Errorf("account %s: environment must be production or development", a.ID)
		case !a.Times.Valid():
			return nil, fmt.Errorf("account %s: unknown format in times", a.ID)
		}
		seen[a.ID] = true
		accounts = append(accounts, a.account())
	}
	return accounts, nil
}

// account returns the account for the simulated API.
func (a *accountInFile) account() pipedreamtest.Account {
	credentials := make(map[string]any, len(a.Credentials))
	for name, value := range a.Credentials {
		credentials[name] = value
	}
	return pipedreamtest.Account{
		ID:              a.ID,
		Name:            a.Name,
		App:             pipedreamtest.App(a.App),
		ExternalUserID:  a.ExternalUserID,
		Project:         a.Project,
		Environment:     a.Environment,
		OAuthAppID:      a.OAuthAppID,
		Credentials:     credentials,
		TokenLife:       time.Duration(a.TokenLife),
		RefreshBefore:   time.Duration(a.RefreshBefore),
		Scopes:          a.Scopes,
		NoRefresh:       a.NoRefresh,
		Dead:            a.Dead,
		Unhealthy:       a.Unhealthy,
		Error:           a.Error,
		NoCredentials:   a.NoCredentials,
		OmitNextRefresh: a.OmitNextRefresh,
		HideExpiry:      a.HideExpiry,
		PlainApp:        a.PlainApp,
		Times:           a.Times,
		CreatedAt:       a.CreatedAt,
		UpdatedAt:       a.UpdatedAt,
	}
}
