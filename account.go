package pipedream

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"time"
	"unicode"
)

// account is one connected account as Pipedream describes it. The API is in
// beta and its fields come and go, so only what a lease depends on (the id,
// the credentials, expires_at) is insisted upon.
type account struct {
	opaque

	ID            string
	Name          string
	ExternalID    string
	App           app
	Healthy       bool
	Dead          bool
	Error         string
	CreatedAt     time.Time
	UpdatedAt     time.Time
	LastRefreshAt time.Time
	// NextRefreshAt is when Pipedream next refreshes the credentials; zero if unknown.
	NextRefreshAt time.Time
	// ExpiresAt is when the credentials end; zero for never.
	ExpiresAt   time.Time
	Credentials map[string]json.RawMessage
}

// complete tells whether a list brought a as a request for it alone would.
func (a *account) complete() bool { return len(a.Credentials) > 0 || a.Dead }

// maxText bounds how much of a text of Pipedream's is shown, in characters.
const maxText = 300

type app struct {
	ID       string
	Slug     string
	Name     string
	AuthType string
}

// slug is the app's name_slug, else its name.
func (a app) slug() string {
	if a.Slug != "" {
		return a.Slug
	}
	return a.Name
}

// The details of failUnavailable errors about answers that make no sense.
var (
	errNotJSON        = errors.New("its answer is not the JSON that was expected")
	errBadExpiry      = errors.New("the expires_at in its answer is not a time")
	errBadCredentials = errors.New("the credentials in its answer are not an object")
	errEndlessList    = errors.New("the pages of its account list never end")
	errRecordNotFound = errors.New("record not found")
)

// decodeAccount reads the answer for one account: {"data": {account}}, or the
// bare {account} of newer Connect answers.
func decodeAccount(body []byte) (*account, error) {
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
		if strings.Contains(strings.ToLower(text(top["error"])), errRecordNotFound.Error()) {
			return nil, errRecordNotFound
		}
		return nil, errNotJSON
	}
	return newAccount(top)
}

// decodePage reads one page of the list, in either of its forms.
func decodePage(body []byte) (*page, error) {
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
	var raw []map[string]json.RawMessage
	if json.Unmarshal(answer.Data, &raw) != nil {
		var older struct {
			Accounts []map[string]json.RawMessage `json:"accounts"`
		}
		if json.Unmarshal(answer.Data, &older) != nil || older.Accounts == nil {
			return nil, errNotJSON
		}
		raw = older.Accounts
	}
	p := &page{next: text(answer.PageInfo.EndCursor)}
	if json.Unmarshal(answer.PageInfo.TotalCount, &p.total) != nil || p.total < 0 {
		p.total = 0
	}
	for _, fields := range raw {
		// One account that makes no sense must not hide the others.
		if a, err := newAccount(fields); err == nil {
			p.accounts = append(p.accounts, a)
		}
	}
	return p, nil
}

func newAccount(raw map[string]json.RawMessage) (*account, error) {
	a := &account{
		ID:            text(raw["id"]),
		Name:          printable(text(raw["name"])), // whoever connects an account chooses it
		ExternalID:    text(raw["external_id"]),
		App:           newApp(raw["app"]),
		Healthy:       isNull(raw["healthy"]) || flag(raw["healthy"]), // nothing said is nothing wrong
		Dead:          flag(raw["dead"]),
		Error:         text(raw["error"]),
		CreatedAt:     moment(raw["created_at"]),
		UpdatedAt:     moment(raw["updated_at"]),
		LastRefreshAt: moment(raw["last_refreshed_at"]),
		NextRefreshAt: moment(raw["next_refresh_at"]),
		ExpiresAt:     moment(raw["expires_at"]),
	}
	if a.ID == "" {
		return nil, errNotJSON
	}
	// Taking an end that cannot be read for "never" would serve a dead token.
	if a.ExpiresAt.IsZero() && !isNull(raw["expires_at"]) {
		return nil, errBadExpiry
	}
	if credentials := raw["credentials"]; !isNull(credentials) && json.Unmarshal(credentials, &a.Credentials) != nil {
		return nil, errBadCredentials
	}
	return a, nil
}

func newApp(raw json.RawMessage) app {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return app{}
	}
	return app{
		ID:       text(fields["id"]),
		Slug:     text(fields["name_slug"]),
		Name:     printable(text(fields["name"])),
		AuthType: text(fields["auth_type"]),
	}
}

func isNull(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) == 0 || bytes.Equal(raw, []byte("null"))
}

// text is a JSON string's value; empty for anything else.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

func flag(raw json.RawMessage) bool {
	var b bool
	return json.Unmarshal(raw, &b) == nil && b
}

// moment is an ISO 8601 time as Pipedream writes it; zero for anything else.
func moment(raw json.RawMessage) time.Time {
	t, err := time.Parse(time.RFC3339, text(raw))
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// printable cuts text to maxText characters and drops what a terminal might obey.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text)
	if runes := []rune(text); len(runes) > maxText {
		return string(runes[:maxText]) + "…"
	}
	return text
}
