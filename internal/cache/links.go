package cache

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/clock"
)

const (
	// maxLinks is how many links of one user are remembered. The oldest goes first.
	maxLinks = 10
	saltSize = 16
	// strangerFor is how long after a link was made its user is told that somebody else
	// may have signed in with it: long enough for who reads once a day, and no longer,
	// because many change to another user in the app on purpose.
	strangerFor = 24 * time.Hour
)

// link is a Connect link that was made for a user. It is stored with the user until it
// ends, so that a restart forgets nothing. It never changes once it is made.
type link struct {
	ID    string    `json:"id"`
	Made  time.Time `json:"made"`
	Until time.Time `json:"until"`
	// Account is the account that it reconnects; empty for none.
	Account string `json:"account,omitempty"`
	// Beside is set if the account that it connects is only another choice.
	Beside bool `json:"beside,omitempty"`
	// Known are the accounts that the user had when the link was made, and those that
	// other links connected since. An account that is not among them is the link's.
	Known []string `json:"known,omitempty"`
	// Blind is set if the accounts could not be listed then. The first list since shows
	// them, by when they were connected.
	Blind bool `json:"blind,omitempty"`
	// Before is how Account was then.
	Before marks  `json:"before,omitzero"`
	Salt   []byte `json:"salt"`
	// Connected is the account that it connected or reconnected; empty for none so far.
	Connected string `json:"connected,omitempty"`
	// Stranger is set if the account had another name or user in the app before.
	Stranger bool `json:"stranger,omitempty"`
}

// marks tell whether an account was reconnected. They are salted hashes, because
// nothing else of a credential may be stored here.
type marks struct {
	Credentials   string    `json:"credentials"`
	RefreshToken  string    `json:"refresh_token,omitempty"`
	Name          string    `json:"name,omitempty"`
	UserInApp     string    `json:"user_in_app,omitempty"`
	Dead          bool      `json:"dead,omitempty"`
	NextRefreshAt time.Time `json:"next_refresh_at,omitzero"`
}

// newSalt returns the salt for the marks of a link.
func newSalt() []byte {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // it never fails
	return salt
}

// marks returns the marks of an account.
func (k *link) marks(a *api.Account) marks {
	all, _ := json.Marshal(a.Credentials) // sorts the names; what was decoded always marshals
	return marks{
		Credentials:   k.hash(string(all)),
		RefreshToken:  k.hash(string(a.Credentials["oauth_refresh_token"])),
		Name:          k.hash(a.Name),
		UserInApp:     k.hash(string(a.Credentials["oauth_uid"])),
		Dead:          a.Dead,
		NextRefreshAt: a.NextRefreshAt,
	}
}

// hash returns the salted hash of a text; empty for an empty text.
func (k *link) hash(text string) string {
	if text == "" || text == "null" {
		return ""
	}
	sum := hmac.New(sha256.New, k.Salt)
	_, _ = sum.Write([]byte(text)) // a hash never fails to write
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// warns reports whether the user is still told that somebody else may have signed in.
func (k *link) warns(now time.Time) bool { return k.Stranger && now.Sub(k.Made) < strangerFor }

// isOpen reports whether the link may still connect an account, as far as is known.
func (k *link) isOpen(now time.Time) bool { return k.Connected == "" && now.Before(k.Until) }

// reconnected reports whether the account of the link was signed in to again: its
// credentials changed. A refresh changes them too. It keeps the refresh token, and does
// not come before the time that Pipedream announced.
func (k *link) reconnected(a *api.Account, now marks) bool {
	switch {
	case a.Dead:
		return false
	case k.Before.Dead:
		return true
	case now.Credentials == k.Before.Credentials:
		return false
	default:
		return now.RefreshToken == "" || now.RefreshToken != k.Before.RefreshToken || a.LastRefreshAt.Before(k.Before.NextRefreshAt)
	}
}

// isOfStranger reports whether somebody else may have signed in to the account.
func (m marks) isOfStranger(now marks) bool {
	differ := func(a, b string) bool { return a != "" && b != "" && a != b }
	return differ(m.Name, now.Name) || differ(m.UserInApp, now.UserInApp)
}

// after returns the link as a list of the user's accounts shows it, the one created
// last first, and the account that it connected; nil for none.
func (k link) after(accounts []*api.Account, now clock.Moment) (_ link, connected *api.Account) {
	if k.Blind {
		k.Blind = false
		for _, a := range accounts {
			if !k.isBefore(a, now) {
				k.Known = append(slices.Clip(k.Known), a.ID)
			}
			if a.ID == k.Account {
				k.Before = k.marks(a)
			}
		}
	}
	for _, a := range accounts {
		if !slices.Contains(k.Known, a.ID) {
			k.Connected = a.ID
			return k, a
		}
	}
	for _, a := range accounts {
		if a.ID != k.Account {
			continue
		}
		now := k.marks(a)
		if k.reconnected(a, now) {
			k.Connected, k.Stranger = a.ID, k.Before.isOfStranger(now)
			return k, a
		}
		if now.Credentials != k.Before.Credentials {
			k.Before = now
		}
	}
	return k, nil
}

// isBefore reports whether the link was made before an account was connected.
// Pipedream's times can be in whole seconds.
func (k *link) isBefore(a *api.Account, now clock.Moment) bool {
	return now.ToHere(a.CreatedAt).After(k.Made.Add(-time.Second))
}

func (k *link) size() int { return 256 + len(k.ID) + len(strings.Join(k.Known, "")) + 16*len(k.Known) }

// isAwaited reports whether a link of the user is open.
func (f found) isAwaited(now time.Time) bool {
	return slices.ContainsFunc(f.Links, func(k link) bool { return k.isOpen(now) })
}

// link returns the link with that id; nil for none.
func (f found) link(id string) *link {
	for i := range f.Links {
		if f.Links[i].ID == id {
			return &f.Links[i]
		}
	}
	return nil
}

// lastMade returns when the latest open link was made.
func (f found) lastMade(now time.Time) (made time.Time) {
	for _, k := range f.Links {
		if k.isOpen(now) && k.Made.After(made) {
			made = k.Made
		}
	}
	return made
}

// after returns what is known of the user after a list of their accounts, and which of
// these the user's links connected. What a link connected is served from then on,
// unless it is only another choice, or has no credentials while those of another account
// are served.
func (f found) after(l *listing, now clock.Moment, serves bool) (_ found, connected []*api.Account, changed bool) {
	f.Links = slices.Clone(f.Links)
	for _, i := range f.newFirst() {
		k := f.Links[i]
		if !k.isOpen(now.Here) || l.asked.Before(k.Made) {
			continue
		}
		next, a := k.after(l.accounts, now)
		changed = changed || a != nil || next.Blind != k.Blind || next.Before != k.Before
		f.Links[i] = next
		if a == nil {
			continue
		}
		connected = append(connected, a)
		for j := range f.Links { // what one did is not what another one did
			other := &f.Links[j]
			other.Known = append(slices.Clip(other.Known), a.ID)
			if other.Account == a.ID {
				other.Before = other.marks(a)
			}
		}
		if f.AccountID == "" || !k.Beside && !a.Dead && (len(a.Credentials) > 0 || !serves) {
			f.AccountID = a.ID
		}
	}
	return f, connected, changed
}

// newFirst returns the indexes of the links. Those that reconnect nothing come first,
// because a new account is more likely theirs, and of these the latest: whoever made
// another link has probably left the one before.
func (f found) newFirst() (order []int) {
	for _, reconnects := range []bool{false, true} {
		for i, k := range slices.Backward(f.Links) {
			if (k.Account != "") == reconnects {
				order = append(order, i)
			}
		}
	}
	return order
}

// with returns what is known of the user after another link was made.
func (f found) with(k link) found {
	links := slices.DeleteFunc(slices.Clone(f.Links), func(old link) bool { return !k.Made.Before(old.Until) && !old.warns(k.Made) })
	for len(links) >= maxLinks {
		oldest := max(0, slices.IndexFunc(links, func(old link) bool { return !old.warns(k.Made) }))
		links = slices.Delete(links, oldest, oldest+1)
	}
	f.Links = append(links, k)
	return f
}
