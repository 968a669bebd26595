package api

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestAPageComesInTwoForms(t *testing.T) {
	const info, accounts = `"page_info":{"total_count":250,"count":2,"start_cursor":"a","end_cursor":"b"}`, `[{"id":"apn_github"},{"id":"apn_stripe"}]`
	want := &Page{Accounts: []*Account{{ID: github, Healthy: true}, {ID: stripe, Healthy: true}}, Count: 2, Next: "b", Total: 250}
	for name, body := range map[string]string{
		"a list":           `{` + info + `,"data":` + accounts + `}`,
		"a list in object": `{` + info + `,"data":{"accounts":` + accounts + `}}`,
	} {
		t.Run(name, func(t *testing.T) {
			p, err := page(t, body)
			require.NoError(t, err)
			require.Equal(t, want, p)
		})
	}
}

func TestAPageWithLittleInformation(t *testing.T) {
	for body, want := range map[string]*Page{
		`{"data":[]}`:                  {},
		`{"page_info":null,"data":[]}`: {},
		`{"page_info":{"end_cursor":null,"total_count":null},"data":[]}`:         {},
		`{"page_info":{"end_cursor":17,"total_count":"many"},"data":[]}`:         {},
		`{"page_info":{"end_cursor":"c","total_count":-1},"data":[]}`:            {Next: "c"},
		`{"page_info":{"end_cursor":"c","total_count":1e400},"data":[]}`:         {Next: "c"},
		`{"page_info":{"end_cursor":"c","total_count":1.5},"data":[]}`:           {Next: "c"},
		`{"page_info":{"end_cursor":"","total_count":3},"data":{"accounts":[]}}`: {Total: 3},
	} {
		t.Run(body, func(t *testing.T) {
			p, err := page(t, body)
			require.NoError(t, err)
			require.Equal(t, want, p)
		})
	}
	for _, body := range []string{``, `[]`, `{}`, `{"data":{}}`, `{"data":{"accounts":null}}`, `{"data":"x"}`, `{"data":17}`, `{"error":17}`, `{"page_info":[],"data":[]}`} {
		t.Run(body, func(t *testing.T) {
			_, err := page(t, body)
			isError(t, err, BadAnswer, "Pipedream's answer could not be understood: it is not the JSON that was expected")
		})
	}
}

// An element that makes no sense must not hide the others. It counts, because the
// list has moved past it.
func TestABadElementHidesNoOther(t *testing.T) {
	for name, element := range map[string]string{
		"a number": `17`, "a text": `"apn_x"`, "null": `null`, "a list": `[]`, "true": `true`, "an account without an id": `{}`,
		"an invalid id": `{"id":17}`, "an invalid end": `{"id":"apn_x","expires_at":"soon"}`, "invalid credentials": `{"id":"apn_x","credentials":[]}`,
	} {
		t.Run(name, func(t *testing.T) {
			p, err := page(t, `{"data":[{"id":"apn_github"},`+element+`,{"id":"apn_stripe"}]}`)
			require.NoError(t, err)
			require.Equal(t, 3, p.Count)
			require.Equal(t, []*Account{{ID: github, Healthy: true}, {ID: stripe, Healthy: true}}, p.Accounts)
		})
	}
}

func TestAPageIsBounded(t *testing.T) {
	accounts := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat(`{"id":"apn_x"},`, n), ",") + "]" }
	cursor := func(n int) string { return fmt.Sprintf(`{"page_info":{"end_cursor":%s},"data":[]}`, textOf(n+2)) }
	for name, tc := range map[string]struct{ within, beyond, text string }{
		"in accounts": {`{"data":` + accounts(MaxPage) + `}`, `{"data":` + accounts(MaxPage+1) + `}`, "it has more than 200 accounts on a page"},
		"in the older form too": {
			`{"data":{"accounts":` + accounts(MaxPage) + `}}`, `{"data":{"accounts":` + accounts(MaxPage+1) + `}}`, "it has more than 200 accounts on a page",
		},
		"in its cursor": {cursor(MaxCursor), cursor(MaxCursor + 1), "its cursor has more than 1024 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := page(t, tc.within)
			require.NoError(t, err)
			_, err = page(t, tc.beyond)
			isError(t, err, TooLarge, "Pipedream's answer is too large: "+tc.text)
		})
	}
}

// An account whose credentials are too large comes without them: it exists, and
// a request for it alone says what is wrong.
func TestALargeAccountHidesNoOther(t *testing.T) {
	for name, tc := range boundsOfCredentials {
		t.Run(name, func(t *testing.T) {
			p, err := page(t, `{"data":[{"id":"apn_github","name":"n","credentials":`+tc.beyond+`},{"id":"apn_stripe","credentials":{"a":1}}]}`)
			require.NoError(t, err)
			require.Len(t, p.Accounts, 2)
			require.Equal(t, &Account{ID: github, Name: "n", Healthy: true}, p.Accounts[0])
			require.Len(t, p.Accounts[1].Credentials, 1)
		})
	}
}

func TestWhenAListIsComplete(t *testing.T) {
	type noted struct {
		count, total int
		next         string
	}
	for name, tc := range map[string]struct {
		pages []noted
		whole bool
	}{
		"by its total": {[]noted{{100, 250, "a"}, {100, 250, "b"}, {50, 250, "c"}}, true},
		"by its total, at the end of a full page":   {[]noted{{100, 200, "a"}, {100, 200, "b"}}, true},
		"by its total, in short pages":              {[]noted{{20, 50, "a"}, {0, 50, "b"}, {20, 50, "c"}, {10, 50, "d"}}, true},
		"by no cursor, in short pages":              {[]noted{{20, 0, "a"}, {0, 0, "b"}, {20, 0, "c"}, {10, 0, ""}}, true},
		"by a short page, though more was promised": {[]noted{{100, 300, "a"}, {99, 300, ""}}, false},
		"by an empty page without a cursor":         {[]noted{{100, 0, "a"}, {50, 0, "b"}, {0, 0, ""}}, true},
		"by an empty page that repeats its cursor":  {[]noted{{100, 0, "a"}, {0, 0, "a"}}, false},
		"by no cursor":                           {[]noted{{100, 0, "a"}, {100, 0, ""}}, true},
		"by no cursor, though more was promised": {[]noted{{100, 500, ""}}, false},
		"by the same cursor again":               {[]noted{{100, 1000, "a"}, {100, 1000, "a"}}, false},
		"by a cursor that came before the last":  {[]noted{{100, 1000, "a"}, {100, 1000, "b"}, {100, 1000, "a"}}, false},
		"by a loop of three cursors":             {[]noted{{100, 1000, "a"}, {100, 1000, "b"}, {100, 1000, "c"}, {100, 1000, "a"}}, false},
		"by its last total, where it shrinks":    {[]noted{{100, 300, "a"}, {100, 200, "b"}}, true},
		"with nothing in it":                     {[]noted{{0, 0, ""}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			var walk Walk
			seen, after := 0, ""
			for i, p := range tc.pages {
				require.False(t, walk.Done(), "before page %d", i)
				require.False(t, walk.Whole(), "before page %d", i)
				require.Equal(t, after, walk.After())
				walk.Note(&Page{Count: p.count, Total: p.total, Next: p.next})
				seen += p.count
				after = p.next
				require.Equal(t, seen, walk.seen)
			}
			require.True(t, walk.Done())
			require.Equal(t, tc.whole, walk.Whole())
		})
	}
}

// fleet puts n accounts of GitHub into a simulated Pipedream.
func fleet(sim *pipedreamtest.Server, n int) {
	for i := range n {
		sim.SetAccount(pipedreamtest.Account{
			ID: fmt.Sprintf("apn_%04d", i), App: pipedreamtest.App{Slug: "github"}, Credentials: map[string]any{"api_key": "k"},
		})
	}
}

func TestAListCostsOneRequestAPage(t *testing.T) {
	for accounts, pages := range map[int]int{0: 1, 1: 1, 99: 1, 100: 1, 101: 2, 200: 2, 250: 3} {
		t.Run(strconv.Itoa(accounts), func(t *testing.T) {
			sim := pipedreamtest.New()
			t.Cleanup(sim.Close)
			fleet(sim, accounts)
			c := newClient(t, sim.Transport(), nil)
			found, err := c.Search(t.Context(), Filter{App: "github"})
			require.NoError(t, err)
			require.Len(t, found, accounts)
			require.Equal(t, pages, sim.Count(pipedreamtest.KindList))

			sim.ResetRequests()
			listed := 0
			require.NoError(t, c.List(t.Context(), Filter{}, func(p *Page) error {
				listed += len(p.Accounts)
				for _, a := range p.Accounts {
					require.Empty(t, a.Credentials)
				}
				return nil
			}))
			require.Equal(t, accounts, listed)
			require.Equal(t, pages, sim.Count(pipedreamtest.KindList))
			require.Empty(t, sim.Violations())
		})
	}
}

func TestAListWithLoopingCursorsEnds(t *testing.T) {
	sim := pipedreamtest.New()
	t.Cleanup(sim.Close)
	fleet(sim, 300)
	sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, LoopCursors: 3})
	_, err := newClient(t, sim.Transport(), nil).Search(t.Context(), Filter{})
	require.NoError(t, err)
	require.Equal(t, 4, sim.Count(pipedreamtest.KindList))
}

func TestAListStopsAtAnErrorOfItsCallback(t *testing.T) {
	s := &script{answer: says(`{"page_info":{"end_cursor":"a","total_count":500},"data":[` + strings.TrimSuffix(strings.Repeat(`{"id":"apn_x"},`, 100), ",") + `]}`)}
	enough := errors.New("enough")
	require.ErrorIs(t, newClient(t, s, nil).List(t.Context(), Filter{}, func(*Page) error { return enough }), enough)
	require.Len(t, s.requests(), 1)
}

func TestRequestsForLists(t *testing.T) {
	filter := Filter{App: "github", OAuthApp: "oa_1", ExternalUser: "a b&c"}
	for name, tc := range map[string]struct {
		change  func(*Config)
		ask     func(*Client) error
		request string
	}{
		"a page": {
			ask:     func(c *Client) error { _, err := c.Page(t.Context(), "b=/+"); return err },
			request: "/v1/accounts?after=b%3D%2F%2B&include_credentials=true&limit=100",
		},
		"a page of a workspace": {
			change:  func(c *Config) { c.OrgID = "o_1" },
			ask:     func(c *Client) error { _, err := c.Page(t.Context(), ""); return err },
			request: "/v1/accounts?include_credentials=true&limit=100&org_id=o_1",
		},
		"a search in a project": {
			change:  func(c *Config) { c.ProjectID, c.Environment = "proj_1", "development" },
			ask:     func(c *Client) error { _, err := c.Search(t.Context(), filter); return err },
			request: "/v1/connect/proj_1/accounts?app=github&external_user_id=a+b%26c&include_credentials=true&limit=100&oauth_app_id=oa_1",
		},
		"a list": {
			ask: func(c *Client) error {
				return c.List(t.Context(), Filter{App: "github"}, func(*Page) error { return nil })
			},
			request: "/v1/accounts?app=github&limit=100",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{answer: func(req *http.Request) reply {
				require.Equal(t, "Bearer pd_test_key", req.Header.Get("Authorization"))
				require.Equal(t, strings.Contains(req.URL.Path, "connect"), req.Header.Get("x-pd-environment") == "development")
				return reply{status: http.StatusOK, body: `{"data":[]}`}
			}}
			require.NoError(t, tc.ask(newClient(t, s, tc.change).Client))
			require.Equal(t, []string{tc.request}, s.requests())
		})
	}
}

func TestAPageWithoutAListIsRefused(t *testing.T) {
	for body, why := range map[string]string{
		`{"data":null}`: "it is not the JSON that was expected",
		`{"error":"half of us is down","data":null}`: "an error stands in place of what was asked for",
	} {
		_, err := page(t, body)
		isError(t, err, BadAnswer, "Pipedream's answer could not be understood: "+why)
	}
}

func TestALoopOfCursorsIsNotWhole(t *testing.T) {
	var walk Walk
	walk.Note(&Page{Count: 100, Next: "a"})
	walk.Note(&Page{Count: 100, Next: "a"})
	require.True(t, walk.Done())
	require.False(t, walk.Whole(), "there may be more")
}
