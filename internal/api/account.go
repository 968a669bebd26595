package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"vault-plugin-secrets-pipedream/internal/redact"
)

// The bounds of what is accepted of an answer. One fat account must not take the
// memory of thousands.
const (
	// MaxAnswer bounds an answer's size in bytes: 100 accounts of 40 kB each.
	MaxAnswer = 4 << 20
	// MaxAccountAnswer bounds the answer about one account, in bytes.
	MaxAccountAnswer = 1 << 20
	// MaxCredential bounds an account's credentials in bytes of JSON.
	MaxCredential = 256 << 10
	// MaxFields bounds how many fields an account's credentials have, and MaxField
	// the size of each in bytes of JSON.
	MaxFields = 200
	MaxField  = 64 << 10
	// MaxPage bounds how many accounts are on a page.
	MaxPage = 200
	// MaxCursor bounds a cursor in bytes.
	MaxCursor = 1 << 10
	// MaxText bounds a text of Pipedream's that is shown, in characters.
	MaxText = 300
	// MaxScopes bounds how many OAuth scopes of an account are read, and MaxScope the
	// size of each in bytes. What is beyond counts as unknown.
	MaxScopes = 500
	MaxScope  = 500
	// MaxAccountID bounds an account's id in bytes. The id becomes a storage key.
	MaxAccountID = 128
)

var accountIDPattern = regexp.MustCompile(`^` + AccountIDPrefix + `\w(([\w-.]+)?\w)?$`)

// AccountIDPrefix begins the id of every account.
const AccountIDPrefix = "apn_"

// ValidAccountID reports whether id looks like apn_XehyZPr.
func ValidAccountID(id string) bool {
	return len(id) <= MaxAccountID && accountIDPattern.MatchString(id)
}

// Account is one connected account as Pipedream describes it. The API is in beta
// and its fields come and go, so only those that a lease depends on must make
// sense: the id, the credentials and expires_at. Texts have passed through
// [Printable], except ID, ExternalID and those in Credentials.
type Account struct {
	redact.Opaque

	ID         string
	Name       string
	ExternalID string // exactly as Pipedream has it
	App        App
	Healthy    bool
	Dead       bool
	Error      string // why it is unhealthy or dead, in Pipedream's words
	CreatedAt  time.Time
	UpdatedAt  time.Time
	// LastRefreshAt is when Pipedream last refreshed the credentials.
	LastRefreshAt time.Time
	// NextRefreshAt is when Pipedream next refreshes the credentials; zero if unknown.
	NextRefreshAt time.Time
	// ExpiresAt is when the credentials end; zero for never.
	ExpiresAt time.Time
	// Scopes are the OAuth scopes that the account was given, exactly as Pipedream has
	// them; nil if it says nothing of them.
	Scopes      []string
	Credentials map[string]json.RawMessage
}

// Complete reports whether a, which came with a list, is all that a request for it
// alone would bring.
func (a *Account) Complete() bool { return len(a.Credentials) > 0 || a.Dead }

// Size returns about how many bytes a takes in memory.
func (a *Account) Size() int {
	size := 512 + len(a.ID) + len(a.ExternalID)
	for _, scope := range a.Scopes {
		size += len(scope) + 16
	}
	for name, value := range a.Credentials {
		size += len(name) + len(value) + 64
	}
	return size
}

// App is the app of an account.
type App struct {
	// ID is the id of the app or of a custom OAuth client; empty for some apps.
	ID       string
	Slug     string
	Name     string
	AuthType string
}

// Label returns the app's slug, or its name if it has no slug.
func (a App) Label() string {
	if a.Slug != "" {
		return a.Slug
	}
	return a.Name
}

// OAuthApp returns the id of the OAuth client that an account of the app is connected
// with; empty if the app does not tell.
func (a App) OAuthApp() string {
	if strings.HasPrefix(a.ID, "oa_") {
		return a.ID
	}
	return ""
}

// The details of errors about answers that cannot be used.
var (
	errNotJSON        = errors.New("it is not the JSON that was expected")
	errBadExpiry      = errors.New("its expires_at is not a time")
	errBadCredentials = errors.New("its credentials are not an object")
	errNoToken        = errors.New("its oauth_access_token is empty or missing")
	errNotFound       = errors.New("record not found")
	errInstead        = errors.New("an error stands in place of what was asked for")
)

// tooLargeError is the detail of an error about a bound.
type tooLargeError string

func (t tooLargeError) Error() string { return string(t) }

// decodeAccount reads the answer for one account: {"data": {account}}, or the
// bare {account} of newer Connect answers.
func decodeAccount(body []byte) (*Account, error) {
	var top map[string]json.RawMessage
	if json.Unmarshal(body, &top) != nil {
		return nil, errNotJSON
	}
	if data, ok := top["data"]; ok && top["id"] == nil && !isNull(data) {
		top = nil
		if json.Unmarshal(data, &top) != nil {
			return nil, errNotJSON
		}
	}
	if top["id"] == nil {
		return nil, errorInstead(body)
	}
	return newAccount(top)
}

// Page is one page of a list of accounts.
type Page struct {
	Accounts []*Account
	// Count is how many accounts are on the page, including those that made no sense.
	Count int
	Next  string // cursor of the next page; empty if there is none
	Total int    // accounts on all pages; 0 if unknown
}

// decodePage reads one page of the list, in either of its two forms.
func decodePage(body []byte) (*Page, error) {
	var answer struct {
		PageInfo struct {
			EndCursor  json.RawMessage `json:"end_cursor"`
			TotalCount json.RawMessage `json:"total_count"`
		} `json:"page_info"`
		Data json.RawMessage `json:"data"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return nil, errNotJSON
	}
	var raw []json.RawMessage
	if isNull(answer.Data) {
		return nil, errorInstead(body)
	}
	if json.Unmarshal(answer.Data, &raw) != nil {
		var older struct {
			Accounts []json.RawMessage `json:"accounts"`
		}
		if json.Unmarshal(answer.Data, &older) != nil || older.Accounts == nil {
			return nil, errNotJSON
		}
		raw = older.Accounts
	}
	p := &Page{Next: text(answer.PageInfo.EndCursor), Count: len(raw)}
	switch {
	case len(raw) > MaxPage:
		return nil, tooLargeError(fmt.Sprintf("it has more than %d accounts on a page", MaxPage))
	case len(p.Next) > MaxCursor:
		return nil, tooLargeError(fmt.Sprintf("its cursor has more than %d bytes", MaxCursor))
	}
	if json.Unmarshal(answer.PageInfo.TotalCount, &p.Total) != nil || p.Total < 0 {
		p.Total = 0
	}
	for _, element := range raw {
		if a := onPage(element); a != nil {
			p.Accounts = append(p.Accounts, a)
		}
	}
	return p, nil
}

// onPage reads an element of a list. It returns nil if the element makes no sense,
// so that it does not hide the others. If the credentials are too large or lack the
// token, the account comes without them.
func onPage(element json.RawMessage) *Account {
	var fields map[string]json.RawMessage
	if json.Unmarshal(element, &fields) != nil {
		return nil
	}
	a, err := newAccount(fields)
	if large := tooLargeError(""); errors.As(err, &large) || errors.Is(err, errNoToken) {
		delete(fields, "credentials")
		a, err = newAccount(fields)
	}
	if err != nil {
		return nil
	}
	return a
}

func newAccount(raw map[string]json.RawMessage) (*Account, error) {
	a := &Account{
		ID:            text(raw["id"]),
		Name:          Printable(text(raw["name"])),
		ExternalID:    text(raw["external_id"]),
		App:           newApp(raw["app"]),
		Healthy:       isNull(raw["healthy"]) || flag(raw["healthy"]), // healthy unless it says otherwise
		Dead:          flag(raw["dead"]),
		Error:         Printable(text(raw["error"])),
		CreatedAt:     moment(raw["created_at"]),
		UpdatedAt:     moment(raw["updated_at"]),
		LastRefreshAt: moment(raw["last_refreshed_at"]),
		NextRefreshAt: moment(raw["next_refresh_at"]),
		ExpiresAt:     moment(raw["expires_at"]),
		Scopes:        scopes(raw["authorized_scopes"]),
	}
	if a.ID == "" {
		return nil, errNotJSON
	}
	// To read an invalid end as "never" would serve a dead token.
	if a.ExpiresAt.IsZero() && !isNull(raw["expires_at"]) {
		return nil, errBadExpiry
	}
	var err error
	if a.Credentials, err = credentials(raw["credentials"]); err != nil {
		return nil, err
	}
	if !a.Dead && lacksToken(a.Credentials) {
		return nil, errNoToken
	}
	return a, nil
}

// lacksToken reports whether credentials have nothing where the access token of an
// OAuth app is. Such credentials are of no use, and replace none that are. Without the
// field, they are those of an OAuth app if they say for which of its clients or users they
// are. An app of OAuth 1 can do without: it has a URI that signs requests.
func lacksToken(fields map[string]json.RawMessage) bool {
	token, ok := fields["oauth_access_token"]
	if !ok {
		has := func(name string) bool { return !isNull(fields[name]) }
		return (has("oauth_client_id") || has("oauth_uid")) && !has("oauth_signer_uri")
	}
	var written string
	return isNull(token) || json.Unmarshal(token, &written) == nil && strings.TrimSpace(written) == ""
}

// credentials reads the credentials of an account within their bounds.
func credentials(raw json.RawMessage) (map[string]json.RawMessage, error) {
	if len(raw) > MaxCredential {
		return nil, tooLargeError(fmt.Sprintf("its credentials have more than %d KiB", MaxCredential>>10))
	}
	var fields map[string]json.RawMessage
	if !isNull(raw) && json.Unmarshal(raw, &fields) != nil {
		return nil, errBadCredentials
	}
	if len(fields) > MaxFields {
		return nil, tooLargeError(fmt.Sprintf("its credentials have more than %d fields", MaxFields))
	}
	for _, value := range fields {
		if len(value) > MaxField {
			return nil, tooLargeError(fmt.Sprintf("a field of its credentials has more than %d KiB", MaxField>>10))
		}
	}
	return fields, nil
}

// scopes reads the scopes of an account: a list, or one text with spaces between them,
// as OAuth writes them.
func scopes(raw json.RawMessage) []string {
	var found []string
	if json.Unmarshal(raw, &found) != nil {
		found = strings.Fields(text(raw))
	}
	if len(found) == 0 || len(found) > MaxScopes {
		return nil
	}
	return slices.DeleteFunc(found, func(scope string) bool {
		return scope == "" || len(scope) > MaxScope || strings.ContainsFunc(scope, func(r rune) bool { return !unicode.IsPrint(r) })
	})
}

func newApp(raw json.RawMessage) App {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return App{}
	}
	return App{
		ID:       Printable(text(fields["id"])),
		Slug:     Printable(text(fields["name_slug"])),
		Name:     Printable(text(fields["name"])),
		AuthType: Printable(text(fields["auth_type"])),
	}
}

func isNull(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) == 0 || bytes.Equal(raw, []byte("null"))
}

// text returns the value of a JSON string; empty for anything else.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// flag returns the value of a JSON bool, or of what some APIs write for one: a
// number other than 0, or a string such as "true", "1" or "yes".
func flag(raw json.RawMessage) bool {
	switch strings.ToLower(strings.Trim(string(bytes.TrimSpace(raw)), `"`)) {
	case "", "null", "false", "0", "no":
		return false
	case "true", "1", "yes":
		return true
	}
	var n float64
	return json.Unmarshal(raw, &n) == nil && n != 0
}

// Unix times below firstMilliseconds are in seconds, and others in milliseconds.
// In seconds it is the year 5138, in milliseconds March 1973.
const firstMilliseconds = 1e11

// moment returns a time that Pipedream wrote in ISO 8601 or as a Unix time. It is
// zero for anything else, and for a year that JSON cannot hold.
func moment(raw json.RawMessage) time.Time {
	t := parseTime(raw).UTC()
	if t.Year() < 1970 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

func parseTime(raw json.RawMessage) time.Time {
	var unix json.Number
	if json.Unmarshal(raw, &unix) == nil && len(raw) > 0 && raw[0] != '"' {
		seconds, err := unix.Float64()
		switch {
		case err != nil || seconds < 1e9 || seconds > 1e15: // before 2001 it is some other number
			return time.Time{}
		case seconds < firstMilliseconds:
			return time.UnixMilli(int64(seconds * 1000))
		default:
			return time.UnixMilli(int64(seconds))
		}
	}
	written := strings.ToUpper(text(raw))
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05Z0700"} {
		if t, err := time.Parse(layout, written); err == nil {
			return t
		}
	}
	return time.Time{}
}

// Printable cuts text to [MaxText] characters and drops control characters.
func Printable(text string) string {
	if len(text) > 4*MaxText { // saves looking at each character of a long text
		text = strings.ToValidUTF8(text[:4*MaxText], "")
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text)
	if runes := []rune(text); len(runes) > MaxText {
		return string(runes[:MaxText]) + "…"
	}
	return text
}
