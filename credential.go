package pipedream

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"
	"time"
)

// minServable is the least life a credential must have left to be handed out.
// Vault's leases count whole seconds, and a TTL of 0 means 768 hours. One of 1 s
// is not enough: consul-template, and so Vault Agent, tell two answers apart by
// the second they came in (dependency.respWithMetadata), so that a read in the
// second of the one before is lost to them, for the whole life of its lease.
const minServable = 2 * time.Second

// overdueLease is how long a credential that never expires is leased where
// it could not be confirmed with Pipedream in time.
const overdueLease = time.Minute

// credential is what Pipedream handed out for one account. It is never
// changed once made. Its JSON form is what Vault's storage keeps.
type credential struct {
	opaque

	AccountID   string `json:"account_id"`
	AccountName string `json:"account_name,omitempty"`
	App         string `json:"app,omitempty"`
	// ExternalUser is whose account it is, in a Connect project.
	ExternalUser string `json:"external_user,omitempty"`
	// Fields are the credential fields under the names that a read returns.
	Fields map[string]string `json:"fields"`
	// RefreshTokenOmitted is set where a refresh token was left out of Fields,
	// and RefreshTokenKept where one is in it.
	RefreshTokenOmitted bool `json:"refresh_token_omitted,omitempty"`
	RefreshTokenKept    bool `json:"refresh_token_kept,omitempty"`
	// ExpiresAt is zero where the credential never expires.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	// NextRefreshAt is when Pipedream itself refreshes the token; zero if unknown.
	NextRefreshAt time.Time `json:"next_refresh_at,omitzero"`
	// FetchedAt is when this token was first seen.
	FetchedAt time.Time `json:"fetched_at"`
}

// newCredential makes a credential of what Pipedream answered for account id
// at now. Its errors are those of the account: dead, without credentials, or
// another one.
func newCredential(a *account, id string, now time.Time, keepRefreshToken bool) (*credential, error) {
	switch {
	case a.ID != id:
		return nil, &apiError{kind: failWrongAccount, account: id}
	case a.Dead:
		return nil, &apiError{kind: failDead, account: id, detail: knownReason(a.Error)}
	}
	fields := flatten(a.Credentials)
	hasRefreshToken := false
	maps.DeleteFunc(fields, func(name, _ string) bool {
		is := isRefreshToken(name)
		hasRefreshToken = hasRefreshToken || is
		return is && !keepRefreshToken
	})
	if len(fields) == 0 {
		detail := ""
		if hasRefreshToken {
			detail = " but a refresh token, which reads return only with expose_refresh_token=true"
		}
		return nil, &apiError{kind: failNoCredentials, account: id, detail: detail}
	}
	return &credential{
		AccountID:           id,
		AccountName:         a.Name,
		App:                 a.App.slug(),
		ExternalUser:        a.ExternalID,
		Fields:              renameReserved(fields),
		RefreshTokenOmitted: hasRefreshToken && !keepRefreshToken,
		RefreshTokenKept:    hasRefreshToken && keepRefreshToken,
		ExpiresAt:           a.ExpiresAt,
		NextRefreshAt:       a.NextRefreshAt,
		FetchedAt:           now,
	}, nil
}

// oauthErrors are the error codes of RFC 6749, sections 4.1.2.1 and 5.2.
var oauthErrors = []string{
	"invalid_grant", "invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope", "invalid_request", "access_denied",
}

// knownReason is the OAuth error code that Pipedream gives for an account's
// death, to go behind a text; empty for anything else. Errors land in the audit
// log in clear, so nothing of Pipedream's own words gets into them.
func knownReason(text string) string {
	for _, code := range oauthErrors {
		if strings.Contains(text, code) {
			return " (" + code + ")"
		}
	}
	return ""
}

// flatten turns every value into a string: a string into itself, anything
// else into its JSON text, so that a number keeps all its digits. Null is
// left out.
func flatten(raw map[string]json.RawMessage) map[string]string {
	fields := make(map[string]string, len(raw))
	for name, value := range raw {
		value = bytes.TrimSpace(value)
		if len(value) == 0 || bytes.Equal(value, []byte("null")) {
			continue
		}
		var text string
		if json.Unmarshal(value, &text) == nil {
			fields[name] = text
			continue
		}
		var compact bytes.Buffer // so that Pipedream's white space cannot change the bytes of a read
		if json.Compact(&compact, value) == nil {
			// What is no UTF-8 would become so in storage and on the way to Vault.
			fields[name] = strings.ToValidUTF8(compact.String(), "\uFFFD")
		}
	}
	return fields
}

func isRefreshToken(name string) bool {
	name = strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(name))
	return strings.HasSuffix(name, "refreshtoken")
}

// expires tells whether the credential ends at all.
func (c *credential) expires() bool { return !c.ExpiresAt.IsZero() }

// announcesRefresh tells whether Pipedream said when it refreshes the
// credential, and that before its end.
func (c *credential) announcesRefresh() bool {
	return !c.NextRefreshAt.IsZero() && c.NextRefreshAt.Before(c.ExpiresAt)
}

// untilNext is how long to wait before Pipedream is asked for c's successor.
func (c *credential) untilNext(now time.Time) time.Duration {
	wait := time.Second
	for _, at := range []time.Time{c.NextRefreshAt, c.ExpiresAt} {
		if left := at.Sub(now); left > 0 {
			wait = min(wait, left+10*time.Millisecond)
		}
	}
	return wait
}

// servable tells whether the credential may be handed out at now.
func (c *credential) servable(now time.Time) bool {
	return !c.expires() || c.ExpiresAt.Sub(now) >= minServable
}

// sameToken tells whether c and other carry the same secret until the same time.
func (c *credential) sameToken(other *credential) bool {
	return other != nil && c.ExpiresAt.Equal(other.ExpiresAt) && maps.Equal(c.Fields, other.Fields)
}

// life is how long the credential lives from when it was first seen;
// staticTTL where it never expires.
func (c *credential) life(staticTTL time.Duration) time.Duration {
	if !c.expires() {
		return staticTTL
	}
	return max(minServable, c.ExpiresAt.Sub(c.FetchedAt))
}

// data is the flat map that a read returns: strings only, and the same bytes
// on every read of the same token. only, where not nil, picks credential fields.
func (c *credential) data(exposeRefreshToken bool, only func(name string) bool) map[string]any {
	data := make(map[string]any, len(c.Fields)+4)
	hideRefreshToken := c.RefreshTokenKept && !exposeRefreshToken
	for name, value := range c.Fields {
		if (only == nil || only(name)) && (!hideRefreshToken || !isRefreshToken(name)) {
			data[name] = value
		}
	}
	data["pipedream_account_id"] = c.AccountID
	if c.App != "" {
		data["pipedream_app"] = c.App
	}
	if c.AccountName != "" {
		data["pipedream_account_name"] = c.AccountName
	}
	if c.expires() {
		data["expires_at"] = c.ExpiresAt.UTC().Format(time.RFC3339)
	}
	return data
}
