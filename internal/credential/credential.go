// Package credential has the credential that Pipedream handed out for one account:
// its shape, as a read returns it, and its times, as pure functions.
package credential

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/redact"
)

// The fields that a read adds to those of the app.
const (
	FieldExpiresAt   = "expires_at"
	FieldAccountID   = "pipedream_account_id"
	FieldAccountName = "pipedream_account_name"
	FieldApp         = "pipedream_app"
)

// Credential is the credential that Pipedream handed out for one account. It never
// changes once it is made. Vault's storage keeps its JSON form.
type Credential struct {
	redact.Opaque

	AccountID   string `json:"account_id"`
	AccountName string `json:"account_name,omitempty"`
	App         string `json:"app,omitempty"`
	// ExternalUser is the user whose account it is, in a Connect project.
	ExternalUser string `json:"external_user,omitempty"`
	// LastUser is whose it was before this token, if nobody says whose it is now.
	LastUser string `json:"last_user,omitempty"`
	// OAuthApp is the id of the custom OAuth client that it is connected with; empty for
	// none, or if that is unknown.
	OAuthApp string `json:"oauth_app,omitempty"`
	// Fields are the credential fields under the names that a read returns.
	Fields map[string]string `json:"fields"`
	// RefreshTokenOmitted is set if a refresh token was left out of Fields, and
	// RefreshTokenKept if Fields has one.
	RefreshTokenOmitted bool `json:"refresh_token_omitted,omitempty"`
	RefreshTokenKept    bool `json:"refresh_token_kept,omitempty"`
	// Unhealthy is set if Pipedream said that the account's last use failed.
	Unhealthy bool `json:"unhealthy,omitempty"`
	// Scopes are the OAuth scopes that the account was given; empty if unknown.
	Scopes []string `json:"scopes,omitempty"`
	// ExpiresAt is zero if the credential never expires.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	// NextRefreshAt is when Pipedream itself refreshes the token; zero if unknown.
	NextRefreshAt time.Time `json:"next_refresh_at,omitzero"`
	// FetchedAt is when this token was first seen.
	FetchedAt time.Time `json:"fetched_at"`
	// CheckedAt is when Pipedream last handed it out; zero if nobody knows.
	CheckedAt time.Time `json:"checked_at"`
	// ReadAt is when it was last read, if it never expires and that is long after
	// CheckedAt.
	ReadAt time.Time `json:"read_at,omitzero"`
}

// New makes a credential of what Pipedream answered at now. It fails with an
// [*api.Error] if the account is dead or has no credentials.
func New(a *api.Account, now time.Time, keepRefreshToken bool) (*Credential, error) {
	if a.Dead {
		return nil, &api.Error{Kind: api.Dead, Account: a.ID, Detail: knownReason(a.Error)}
	}
	fields := flatten(a.Credentials)
	stripped, hadRefreshToken := withoutRefreshTokens(fields)
	if !keepRefreshToken {
		fields = stripped
	}
	if len(fields) == 0 {
		detail := ""
		if hadRefreshToken {
			detail = onlyRefreshToken
		}
		return nil, &api.Error{Kind: api.NoCredentials, Account: a.ID, Detail: detail}
	}
	return &Credential{
		AccountID:           a.ID,
		AccountName:         a.Name,
		App:                 a.App.Label(),
		ExternalUser:        a.ExternalID,
		OAuthApp:            a.App.OAuthApp(),
		Fields:              renameReserved(fields),
		RefreshTokenOmitted: hadRefreshToken && !keepRefreshToken,
		RefreshTokenKept:    hadRefreshToken && keepRefreshToken,
		Unhealthy:           !a.Healthy,
		Scopes:              a.Scopes,
		ExpiresAt:           a.ExpiresAt,
		NextRefreshAt:       a.NextRefreshAt,
		FetchedAt:           now,
		CheckedAt:           now,
	}, nil
}

// onlyRefreshToken is the detail of an error for an account that has a refresh
// token and nothing else.
const onlyRefreshToken = "but a refresh token, which reads return only with expose_refresh_token=true"

// Following returns c merged with previous, the credential of the account that was
// known before; nil for none. store reports whether the result must be stored. One
// write in a token's life is enough. A credential that never expires is stored each
// time, because a restart would otherwise forget when it was last confirmed.
func (c *Credential) Following(previous *Credential) (merged *Credential, store bool) {
	if previous == nil {
		return c, true
	}
	if !c.sameToken(previous) {
		if last := previous.OwnerOrLast(); c.ExternalUser == "" && last != "" {
			following := *c
			following.LastUser = last
			return &following, true
		}
		return c, true
	}
	following := *c
	following.LastUser = previous.LastUser
	following.FetchedAt = previous.FetchedAt
	if following.ExternalUser == "" { // not every answer says whose account it is
		following.ExternalUser = previous.ExternalUser
	}
	if following.OAuthApp == "" {
		following.OAuthApp = previous.OAuthApp
	}
	return &following, !c.Expires() || following.ExternalUser != previous.ExternalUser || following.OAuthApp != previous.OAuthApp || !slices.Equal(following.Scopes, previous.Scopes)
}

// OwnerOrLast returns whose c is, as far as anybody said.
func (c *Credential) OwnerOrLast() string { return cmp.Or(c.ExternalUser, c.LastUser) }

// ClaimedAs returns c with the owner that other has, which is an answer with the same token,
// if nobody knows whose c is.
func (c *Credential) ClaimedAs(other *Credential) (claimed *Credential, ok bool) {
	if c.ExternalUser != "" || other.ExternalUser == "" || !c.sameToken(other) {
		return c, false
	}
	owned := *c
	owned.ExternalUser, owned.OAuthApp = other.ExternalUser, other.OAuthApp
	return &owned, true
}

// sameToken reports whether c and other have the same secret and the same end.
func (c *Credential) sameToken(other *Credential) bool {
	return c.ExpiresAt.Equal(other.ExpiresAt) && c.SameFields(other)
}

// SameFields reports whether c and other have the same secret.
func (c *Credential) SameFields(other *Credential) bool { return maps.Equal(c.Fields, other.Fields) }

// ShowsSame reports whether reads return the same fields of c and other.
func (c *Credential) ShowsSame(other *Credential, exposeRefreshToken bool) bool {
	return maps.Equal(c.shown(exposeRefreshToken), other.shown(exposeRefreshToken))
}

// Size returns about how many bytes c takes in memory.
func (c *Credential) Size() int {
	size := 512 + len(c.AccountName) + len(c.App) + len(c.ExternalUser) + len(c.OAuthApp)
	for name, value := range c.Fields {
		size += len(name) + len(value) + 64
	}
	for _, scope := range c.Scopes {
		size += len(scope) + 16
	}
	return size
}

// Data returns the flat map that a read returns: strings only, and the same bytes
// for every read of the same token. Unless it is nil, only picks the credential
// fields.
func (c *Credential) Data(exposeRefreshToken bool, only func(name string) bool) map[string]any {
	data := make(map[string]any, len(c.Fields)+4)
	for name, value := range c.shown(exposeRefreshToken) {
		if only == nil || only(name) {
			data[name] = value
		}
	}
	if c.AccountID != "" {
		data[FieldAccountID] = c.AccountID
	}
	if c.App != "" {
		data[FieldApp] = c.App
	}
	if c.AccountName != "" {
		data[FieldAccountName] = c.AccountName
	}
	if c.Expires() {
		data[FieldExpiresAt] = c.ExpiresAt.UTC().Format(time.RFC3339)
	}
	return data
}

// Has reports whether a read returns the credential field name.
func (c *Credential) Has(name string, exposeRefreshToken bool) bool {
	_, ok := c.shown(exposeRefreshToken)[name]
	return ok
}

// shown returns the credential fields that a read may return.
func (c *Credential) shown(exposeRefreshToken bool) map[string]string {
	if !c.RefreshTokenKept || exposeRefreshToken {
		return c.Fields
	}
	fields, _ := withoutRefreshTokens(c.Fields)
	return fields
}

// oauthErrors are the error codes of RFC 6749, sections 4.1.2.1 and 5.2.
var oauthErrors = []string{
	"invalid_grant", "invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope", "invalid_request", "access_denied",
}

// knownReason returns the OAuth error code in Pipedream's reason for an account's
// death; empty if there is none. Errors get into the audit log in clear, so
// Pipedream's own words stay out of them.
func knownReason(text string) string {
	for _, code := range oauthErrors {
		if strings.Contains(text, code) {
			return code
		}
	}
	return ""
}
