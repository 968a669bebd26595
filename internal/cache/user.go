package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/durable"
)

// User is an external user and an app. It stands for the account that the user has
// with the app.
type User struct {
	App        string // slug or id; empty for all apps
	OAuthApp   string // id of a custom OAuth client; empty for any
	ExternalID string
}

// Key returns a name for u that any storage accepts, whatever characters u has.
func (u User) Key() string {
	parts := []string{u.App, u.ExternalID}
	if u.OAuthApp != "" {
		parts = append(parts, u.OAuthApp)
	}
	text, err := json.Marshal(parts)
	if err != nil { // strings always marshal
		panic(err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// owns reports whether a is an account of u. Pipedream was asked for such accounts
// only, but no credential may depend on how it reads a filter.
func (u User) owns(a *api.Account) bool {
	return u.ExternalID != "" && a.ExternalID == u.ExternalID && u.isOfApp(a.App)
}

// isOfApp compares u's app with that of an account, as far as they can be compared.
// For an account on a custom OAuth client, the app's id is that of the client.
func (u User) isOfApp(app api.App) bool {
	switch custom := app.OAuthApp(); {
	case u.App == "":
		return true
	case app.Slug == "" && app.ID == "":
		return false
	case u.OAuthApp != "" && custom != "" && custom != u.OAuthApp:
		return false
	default:
		return app.Slug == "" || app.Slug == u.App
	}
}

// found is the account that a user was found to have, and the user's Connect links. It
// never changes once it is made.
type found struct {
	User      string `json:"user"`                 // key
	AccountID string `json:"account_id,omitempty"` // empty for none
	Links     []link `json:"links,omitempty"`
}

var userCodec = durable.Codec[found]{
	Name:   "user's account",
	Encode: func(f found) ([]byte, error) { return json.Marshal(f) },
	Decode: func(key string, stored []byte) (f found, err error) {
		if json.Unmarshal(stored, &f) != nil || f.User != key || f.AccountID == "" && len(f.Links) == 0 ||
			f.AccountID != "" && !api.ValidAccountID(f.AccountID) {
			return found{}, errNotOurs
		}
		return f, nil
	},
	Size: func(f found) int {
		size := 256 + len(f.User) + len(f.AccountID)
		for i := range f.Links {
			size += f.Links[i].size()
		}
		return size
	},
}

// heldName returns the name of a user in the hold-offs.
func heldName(key string) string { return "users/" + key }
