package pipedreamtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// forms are what a report of pipedream-check can have seen, and no other option is for.
type forms struct {
	omitted       []string // members that no account has
	textNumbers   bool     // numbers in page_info are texts
	ignored       []string // query parameters of lists that do nothing
	noCredentials bool     // lists never have credentials
}

// reported is a report of pipedream-check, as far as it matters here.
type reported struct {
	Format  int              `json:"format"`
	Results []reportedResult `json:"results"`
}

type reportedResult struct {
	Name     string         `json:"name"`
	Where    string         `json:"where"`
	Expected []string       `json:"expected"`
	Seen     []string       `json:"seen"`
	Numbers  map[string]int `json:"numbers"`
}

// reportFormat is the form of reports that is known, and maxReport bounds one in bytes.
const (
	reportFormat = 1
	maxReport    = 4 << 20
)

// replays says how to answer in the forms that the facts of a report were seen in.
var replays = map[string]func(reportedResult) Option{
	"list.form: data.accounts is a list":                     plain(WithOldConnectForms),
	"error.no_account: status 200":                           plain(WithNotFoundAs200),
	"error.no_account: error is an object of lists of texts": plain(WithErrorObjects),
	"error.bearer: error is an object of lists of texts":     plain(WithErrorObjects),
	"list.last_cursor: an empty text":                        plain(WithNoCursorAtEnd),
	"list.last_cursor: null":                                 plain(WithNoCursorAtEnd),
	"list.last_cursor: absent":                               plain(WithNoCursorAtEnd),
	"list.limit: shorter pages, though more follow":          func(r reportedResult) Option { return WithPageCap(max(1, r.Numbers["accounts"])) },
	"list.default_limit: another number of accounts":         nothing, // the cap does it
	"list.end: an empty page":                                nothing, // it follows from the others
	"list.end: there is no cursor":                           nothing,
	"filter.paging: after paging":                            plain(WithFiltersAfterPaging),
	"filter.long_user: answered":                             nothing, // it follows from ignored filters
	"filter.total: another number":                           nothing,
	"filter.total: no total_count":                           nothing,
	"list.page_info: no total_count":                         plain(WithoutTotals),
	"list.numbers: absent":                                   nothing,
	"list.total: no total_count":                             nothing,
	"list.numbers: a number as text":                         with(func(f *forms) { f.textNumbers = true }),
	"engine.list: all but total_count":                       nothing,
	"list.credentials: none, though alone there are some":    with(func(f *forms) { f.noCredentials = true }),
	"filter.app: the filter is ignored":                      ignores("app"),
	"filter.no_app: the filter is ignored":                   ignores("app"),
	"filter.app_id: the filter is ignored":                   ignores("app"),
	"filter.oauth_app: the filter is ignored":                ignores("oauth_app_id"),
	"filter.user: the filter is ignored":                     ignores("external_user_id"),
	"filter.no_user: the filter is ignored":                  ignores("external_user_id"),
	"scope.read: answered":                                   onWorkspace(WithConnectScopesOnWorkspace),
	"connect_token.credentials: credentials":                 plain(WithConnectTokenCredentials),
	"field.created_at: Unix seconds":                         timesIn(TimesSeconds),
	"field.created_at: Unix milliseconds":                    timesIn(TimesMilliseconds),
	"field.created_at: a time in lower case":                 timesIn(TimesLower),
	"field.created_at: a time with an offset like +0000":     timesIn(TimesOffset),
	"limit.header: X-RateLimit-Limit":                        func(r reportedResult) Option { return WithConnectLimit(r.Numbers["requests"], limitSpan) },
	"field.next_refresh_at: absent":                          omits("next_refresh_at"),
	"field.last_refreshed_at: absent":                        omits("last_refreshed_at"),
	"field.updated_at: absent":                               omits("updated_at"),
	"field.authorized_scopes: absent":                        omits("authorized_scopes"),
	"field.error: absent":                                    omits("error"),
	"field.dead: absent":                                     omits("dead"),
	"field.healthy: absent":                                  omits("healthy"),
	"field.name: absent":                                     omits("name"),
	"field.others: unknown fields":                           nothing, // it has some
	"account.credential_values: a number":                    nothing, // that is for the accounts
	"account.app_id: oa_… without credentials":               nothing,
	"life.refresh: expires_at without next_refresh_at":       nothing,
}

// Replay returns the options with which a server answers in the forms that a report of pipedream-check was written about.
// left are the forms, with their facts, that differ from the documentation and that no option is for.
func Replay(report io.Reader) (opts []Option, left []string, err error) {
	var r reported
	if err := json.NewDecoder(io.LimitReader(report, maxReport)).Decode(&r); err != nil {
		return nil, nil, errors.New("it is not a report of pipedream-check")
	}
	if r.Format != reportFormat || len(r.Results) == 0 {
		return nil, nil, fmt.Errorf("it is not a report of pipedream-check in format %d", reportFormat)
	}
	for _, result := range r.Results {
		for _, form := range result.Seen {
			fact := result.Name + ": " + form
			replay, known := replays[fact]
			if !known && isTime(result.Name) && replays["field.created_at: "+form] != nil {
				continue // all times have the form of created_at
			}
			switch {
			case known:
				if alone(result) || !strings.HasSuffix(form, "absent") {
					opts = append(opts, replay(result))
				}
			case !slices.Contains(result.Expected, form) && !slices.Contains(left, fact):
				left = append(left, fact)
			}
		}
	}
	return opts, left, nil
}

func isTime(fact string) bool {
	return strings.HasPrefix(fact, "field.") && strings.HasSuffix(fact, "_at")
}

// alone reports whether a fact was seen in one form only. What some accounts lack is not left out of all.
func alone(r reportedResult) bool { return len(r.Seen) == 1 }

func nothing(reportedResult) Option { return func(*Server) {} }

func plain(option func() Option) func(reportedResult) Option {
	return func(reportedResult) Option { return option() }
}

func onWorkspace(option func() Option) func(reportedResult) Option {
	return func(r reportedResult) Option {
		if r.Where != "workspace" {
			return nothing(r)
		}
		return option()
	}
}

func timesIn(form TimeForm) func(reportedResult) Option {
	return func(reportedResult) Option { return WithTimes(form) }
}

func with(change func(*forms)) func(reportedResult) Option {
	return func(reportedResult) Option { return func(s *Server) { change(&s.forms) } }
}

func ignores(parameter string) func(reportedResult) Option {
	return with(func(f *forms) { f.ignored = append(f.ignored, parameter) })
}

func omits(member string) func(reportedResult) Option {
	return with(func(f *forms) { f.omitted = append(f.omitted, member) })
}

// info changes the page_info of a list.
func (f *forms) info(info map[string]any) {
	for name, value := range info {
		if n, ok := value.(int); ok && f.textNumbers {
			info[name] = strconv.Itoa(n)
		}
	}
}
