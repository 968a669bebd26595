package pipedreamtest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const askGithub = "/accounts/apn_github?include_credentials=1"

// newFaultyServer is newServer with apn_github and a fault.
func newFaultyServer(t *testing.T, f Fault) (*Server, caller) {
	t.Helper()
	s, c := newServer(t)
	s.SetAccount(github)
	s.AddFault(f)
	return s, c
}

func TestFaultsMeetWhatTheyName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		s.SetAccount(stripe)
		statuses := func() []int {
			return []int{
				c.get("/accounts/apn_github").status, c.get("/accounts/apn_stripe").status,
				c.get("/accounts").status, c.get("/users/me").status,
			}
		}
		for _, tt := range []struct {
			fault Fault
			want  []int
		}{
			{Fault{}, []int{503, 503, 503, 503}},
			{Fault{Kind: KindAccount}, []int{503, 503, 200, 200}},
			{Fault{AccountID: "apn_github"}, []int{503, 200, 200, 200}},
			{Fault{Kind: KindList}, []int{200, 200, 503, 200}},
			{Fault{Kind: KindMe}, []int{200, 200, 200, 503}},
			{Fault{Kind: KindToken}, []int{200, 200, 200, 200}},
			{Fault{Times: 2}, []int{503, 503, 200, 200}},
			{Fault{After: 1, Times: 2}, []int{200, 503, 503, 200}},
			{Fault{After: 3}, []int{200, 200, 200, 503}},
			{Fault{Kind: KindAccount, After: 1}, []int{200, 503, 200, 200}},
		} {
			tt.fault.Status = http.StatusServiceUnavailable
			remove := s.AddFault(tt.fault)
			require.Equal(t, tt.want, statuses(), "%+v", tt.fault)
			remove()
			remove()
			require.Equal(t, []int{200, 200, 200, 200}, statuses())
		}
	})
}

func TestFaultsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.AddFault(Fault{Status: 500, Times: 1})
		s.AddFault(Fault{Status: 502, Times: 2})
		s.AddFault(Fault{Status: 503, After: 1, Times: 1})
		for _, want := range []int{500, 502, 502, 200, 503, 200} {
			require.Equal(t, want, c.get("/users/me").status)
		}
	})
}

func TestFaultOfTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetOAuthClient("client", "client_secret", 0)
		s.AddFault(Fault{Kind: KindToken, Status: 500, Times: 1})
		c.token("client", "client_secret", "").failed(t, http.StatusInternalServerError)
		require.Equal(t, http.StatusOK, c.token("client", "client_secret", "").status)
	})
}

func TestFaultsAreLoggedAndAuthorized(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		for _, tt := range []struct {
			fault  Fault
			status int
		}{
			{Fault{Status: 503}, 503},
			{Fault{Cut: true}, 0},
			{Fault{CutBody: true}, 200},
			{Fault{Garbage: true}, 200},
			{Fault{Redirect: "https://elsewhere.example.com"}, 302},
		} {
			s.ResetRequests()
			remove := s.AddFault(tt.fault)
			// Each uses a connection of its own: on a reused one, net/http would retry.
			c.http.CloseIdleConnections()
			c.get(askGithub)
			remove()
			log := s.Requests()
			require.Len(t, log, 1)
			require.Equal(t, tt.status, log[0].Status)
			require.True(t, log[0].Authorized)
		}
	})
}

func TestFaultStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{Status: 503})
		r := c.get(askGithub)
		r.failed(t, http.StatusServiceUnavailable)
		require.JSONEq(t, `{"error":"service unavailable"}`, r.body)
	})
	header := http.Header{"Retry-After": {"7"}, "Content-Type": {"text/plain"}}
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{Status: 429, Header: header, Body: "slow down"})
		header["Retry-After"][0] = "8" // the server has a copy
		r := c.get(askGithub)
		require.Equal(t, http.StatusTooManyRequests, r.status)
		require.Equal(t, "7", r.header.Get("Retry-After"))
		require.Equal(t, "text/plain", r.header.Get("Content-Type"))
		require.Equal(t, "slow down", r.body)
	})
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{Status: 204})
		r := c.get(askGithub)
		require.NoError(t, r.err)
		require.Equal(t, http.StatusNoContent, r.status)
		require.Empty(t, r.body)
	})
}

func TestFaultHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newFaultyServer(t, Fault{Hang: true, Times: 1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		begin := time.Now()
		r := c.do(ctx, http.MethodGet, askGithub, "")
		require.ErrorIs(t, r.err, context.DeadlineExceeded)
		require.Equal(t, time.Hour, time.Since(begin))
		require.Zero(t, s.Requests()[0].Status)
		require.Equal(t, http.StatusOK, c.get(askGithub).status)
	})
}

func TestFaultDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newFaultyServer(t, Fault{Delay: time.Minute})
		begin := time.Now()
		done := make(chan reply)
		go func() { done <- c.get(askGithub) }()
		synctest.Wait()
		s.Rotate("apn_github")
		r := <-done
		require.Equal(t, time.Minute, time.Since(begin))
		require.Equal(t, s.Token("apn_github"), r.credentials(t)["oauth_access_token"], "the answer is from after the delay")
	})
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{Delay: time.Minute, Status: 500})
		begin := time.Now()
		c.get(askGithub).failed(t, http.StatusInternalServerError)
		require.Equal(t, time.Minute, time.Since(begin))
	})
	synctest.Test(t, func(t *testing.T) {
		s, c := newFaultyServer(t, Fault{Delay: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, c.do(ctx, http.MethodGet, askGithub, "").err, context.DeadlineExceeded)
		time.Sleep(time.Hour)
		require.Zero(t, s.Requests()[0].Status, "the server saw the client go away")
	})
}

// TestFaultDelayOfALongBody is TestFaultDelay in a case in which net/http does not see that the client has gone away
// before the body was read.
func TestFaultDelayOfALongBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newFaultyServer(t, Fault{Delay: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r := c.do(ctx, http.MethodPost, "/oauth/token", strings.Repeat(" ", 2*maxRequestBody))
		require.ErrorIs(t, r.err, context.DeadlineExceeded)
		time.Sleep(time.Hour)
		require.Zero(t, s.Requests()[0].Status)
	})
}

func TestFaultCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newFaultyServer(t, Fault{Cut: true})
		require.ErrorIs(t, c.get(askGithub).err, io.EOF)
		require.Equal(t, 1, s.Count(""))
	})
}

func TestFaultCutOnAUsedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newFaultyServer(t, Fault{Cut: true, After: 1, Times: 1})
		require.Equal(t, http.StatusOK, c.get(askGithub).status)
		require.Equal(t, http.StatusOK, c.get(askGithub).status)
		require.Equal(t, 3, s.Count(""), "net/http retried by itself")
	})
}

func TestFaultCutBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{CutBody: true})
		r := c.get(askGithub)
		require.ErrorIs(t, r.err, io.ErrUnexpectedEOF)
		require.Equal(t, http.StatusOK, r.status)
		require.True(t, strings.HasPrefix(r.body, `{"data":{"app":`), r.body)
		require.False(t, json.Valid([]byte(r.body)))
	})
}

func TestFaultGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{Garbage: true})
		r := c.get(askGithub)
		require.Equal(t, http.StatusOK, r.status)
		require.Equal(t, "text/html; charset=utf-8", r.header.Get("Content-Type"))
		require.Contains(t, r.body, "<html>")
	})
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{Garbage: true, Status: 502})
		r := c.get(askGithub)
		require.Equal(t, http.StatusBadGateway, r.status)
		require.Contains(t, r.body, "<html>")
	})
}

func TestFaultTruncatedJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{TruncatedJSON: true})
		r := c.get(askGithub)
		require.NoError(t, r.err)
		require.Equal(t, http.StatusOK, r.status)
		require.True(t, strings.HasPrefix(r.body, `{"data":{"app":`), r.body)
		require.False(t, json.Valid([]byte(r.body)))
	})
}

func TestFaultEmpty(t *testing.T) {
	for want, fault := range map[int]Fault{200: {Empty: true}, 503: {Empty: true, Status: 503}} {
		synctest.Test(t, func(t *testing.T) {
			_, c := newFaultyServer(t, fault)
			r := c.get(askGithub)
			require.NoError(t, r.err)
			require.Equal(t, want, r.status)
			require.Empty(t, r.body)
		})
	}
}

func TestFaultHugeBody(t *testing.T) {
	const size = 3<<20 + 1
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{HugeBody: size})
		r := c.get(askGithub)
		require.NoError(t, r.err)
		require.Empty(t, r.header.Get("Content-Length"))
		require.Len(t, r.body, size)
		require.True(t, json.Valid([]byte(r.body)))
	})
}

// TestFaultHugeBodyUnread has a client that stops reading. When it ends, the server must stop writing.
func TestFaultHugeBodyUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{HugeBody: 1 << 50})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.base+"/accounts", nil)
		require.NoError(t, err)
		res, err := c.http.Do(req)
		require.NoError(t, err)
		_, err = io.ReadFull(res.Body, make([]byte, 1<<20))
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
	})
}

func TestFaultSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{SlowBody: time.Second})
		begin := time.Now()
		r := c.get("/accounts/apn_none")
		r.failed(t, http.StatusNotFound)
		require.Equal(t, time.Duration(len(r.body)-1)*time.Second, time.Since(begin))

		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second+time.Millisecond)
		defer cancel()
		r = c.do(ctx, http.MethodGet, askGithub, "")
		require.ErrorIs(t, r.err, context.DeadlineExceeded)
		require.Len(t, r.body, 11)
	})
}

func TestFaultDeepNesting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newFaultyServer(t, Fault{DeepNesting: 1000})
		r := c.get(askGithub)
		require.Contains(t, r.body, strings.Repeat("[", 1000)+strings.Repeat("]", 1000))
		require.Equal(t, s.Token("apn_github"), r.credentials(t)["oauth_access_token"])
	})
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{DeepNesting: 1e6})
		var v any
		require.Error(t, json.Unmarshal([]byte(c.get(askGithub).body), &v))
	})
}

func TestFaultDuplicateKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newFaultyServer(t, Fault{DuplicateKeys: true})
		r := c.get(askGithub)
		require.Equal(t, 2, strings.Count(r.body, `"oauth_access_token":`))
		got := r.data(t)
		require.Equal(t, "apn_github", got["id"])
		require.Equal(t, stamp(s.ExpiresAt("apn_github")), got["expires_at"])
		require.Equal(t, s.Token("apn_github"), member[map[string]any](t, got, "credentials")["oauth_access_token"])
	})
}

func TestFaultRedirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{Redirect: "https://elsewhere.example.com/"})
		r := c.get(askGithub)
		require.Equal(t, http.StatusFound, r.status)
		require.Equal(t, "https://elsewhere.example.com/v1"+askGithub, r.header.Get("Location"))
	})
}

func TestFaultWrongAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newFaultyServer(t, Fault{WrongAccount: "apn_alice"})
		s.SetAccount(alice)
		got := c.get(askGithub).data(t)
		require.Equal(t, "apn_alice", got["id"])
		require.Equal(t, s.Token("apn_alice"), member[map[string]any](t, got, "credentials")["oauth_access_token"])
		require.Equal(t, "apn_github", s.Requests()[0].AccountID)
		s.DeleteAccount("apn_alice")
		c.get(askGithub).failed(t, http.StatusNotFound)
	})
}

func TestFaultsMisuseTheRealAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{DuplicateKeys: true})
		r := c.as("wrong_key").get(askGithub)
		r.failed(t, http.StatusUnauthorized)
		require.Contains(t, r.body, `"error":"duplicate","error":"unauthorized"`)
	})
}

func TestFaultInformational(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newFaultyServer(t, Fault{Informational: []int{http.StatusProcessing, http.StatusEarlyHints}})
		var seen []int
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
				seen = append(seen, code)
				require.Equal(t, code == http.StatusEarlyHints, header.Get("Link") != "")
				return nil
			},
		})
		r := c.do(ctx, http.MethodGet, askGithub, "")
		require.Equal(t, s.Token("apn_github"), r.credentials(t)["oauth_access_token"])
		require.Equal(t, []int{http.StatusProcessing, http.StatusEarlyHints}, seen)
		require.Empty(t, r.header.Get("Link"))
	})
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{Informational: []int{http.StatusEarlyHints}, Status: http.StatusServiceUnavailable})
		c.get(askGithub).failed(t, http.StatusServiceUnavailable)
	})
}

func TestFaultTrailer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newFaultyServer(t, Fault{Trailer: http.Header{"X-Checksum": {"abc"}}})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.base+askGithub, nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+c.auth)
		res, err := c.http.Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Contains(t, string(body), s.Token("apn_github"))
		require.EqualValues(t, -1, res.ContentLength)
		require.Equal(t, []string{"chunked"}, res.TransferEncoding)
		require.Equal(t, http.Header{"X-Checksum": {"abc"}}, res.Trailer)
	})
}

func TestFaultLengthOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newFaultyServer(t, Fault{LengthOff: -10})
		short := c.get(askGithub)
		require.NoError(t, short.err)
		require.Equal(t, http.StatusOK, short.status)
		require.False(t, json.Valid([]byte(short.body)))
		require.Equal(t, http.StatusOK, s.Requests()[0].Status)
		synctest.Wait() // until the client has seen what is left on the connection, and uses it no more
		require.Equal(t, short.body, c.get(askGithub).body, "the server still works")
	})
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{LengthOff: 10, Times: 1})
		long := c.get(askGithub)
		require.ErrorIs(t, long.err, io.ErrUnexpectedEOF)
		require.True(t, json.Valid([]byte(long.body)))
		require.Equal(t, http.StatusOK, c.get(askGithub).status)
	})
	synctest.Test(t, func(t *testing.T) {
		_, c := newFaultyServer(t, Fault{LengthOff: 10, Leftover: "0123456789"})
		r := c.get("/accounts/apn_none")
		require.NoError(t, r.err)
		require.Equal(t, http.StatusNotFound, r.status)
		require.True(t, strings.HasSuffix(r.body, "}0123456789"), r.body)
	})
}

// TestFaultLeftover looks at the connection itself, because net/http shows what is left there only in its own log.
func TestFaultLeftover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newFaultyServer(t, Fault{Leftover: "and more\n", LengthOff: -2})
		transport, ok := s.Transport().(*http.Transport)
		require.True(t, ok)
		conn, err := transport.DialContext(t.Context(), "tcp", "")
		require.NoError(t, err)
		_, err = fmt.Fprintf(conn, "GET /v1/users/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", c.auth)
		require.NoError(t, err)
		r := bufio.NewReader(conn)
		res, err := http.ReadResponse(r, nil)
		require.NoError(t, err)
		_, err = io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		left, err := r.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "}}and more\n", left)
		s.Close() // with the connection still open
		_, err = r.ReadByte()
		require.Error(t, err)
	})
}

// walk follows the cursors of a list for that many pages, and returns the cursors and the number of accounts.
func walk(t *testing.T, c caller, query string, pages int) (cursors []string, accounts int) {
	t.Helper()
	after := ""
	for range pages {
		ids, info := listed(t, c.get("/accounts?"+query+"&after="+url.QueryEscape(after)))
		require.EqualValues(t, len(ids), info["count"])
		after = member[string](t, info, "end_cursor")
		cursors, accounts = append(cursors, after), accounts+len(ids)
	}
	return cursors, accounts
}

func TestFaultLoopCursors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		numbered(s, 3)
		s.AddFault(Fault{Kind: KindList, LoopCursors: 2})
		cursors, accounts := walk(t, c, "limit=2", 5)
		require.Equal(t, []string{cursors[0], cursors[1], cursors[0], cursors[1], cursors[0]}, cursors)
		require.NotEqual(t, cursors[0], cursors[1])
		require.Equal(t, 10, accounts)
		_, info := listed(t, c.get("/accounts"))
		require.Greater(t, info["total_count"], 1000.0)
	})
}

func TestFaultEndlessList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.AddFault(Fault{Kind: KindList, EndlessList: true})
		ids, _ := listed(t, c.get("/accounts"))
		require.Empty(t, ids, "without accounts there is nothing to repeat")
		numbered(s, 3)
		cursors, accounts := walk(t, c, "limit=100", 50)
		slices.Sort(cursors)
		require.Len(t, slices.Compact(cursors), 50)
		require.Equal(t, 5000, accounts)
	})
}

func TestFaultFat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		numbered(s, 20)
		thin := len(c.get("/accounts").body)
		s.AddFault(Fault{Kind: KindList, Fat: 1 << 20})
		fat := c.get("/accounts")
		require.Greater(t, len(fat.body), thin+10<<20)
		ids, _ := listed(t, fat)
		require.Len(t, ids, 10)
	})
}

func TestFaultsOfLists(t *testing.T) {
	raw := func(text string) json.RawMessage { return json.RawMessage(text) }
	for name, tt := range map[string]struct {
		fault Fault
		want  string
	}{
		"an element that is not an object": {Fault{ListElement: raw(`"text"`)}, `"data":["text",{`},
		"an element that is not JSON":      {Fault{ListElement: raw(`<a>`)}, `"data":[<a>,{`},
		"a total that is null":             {Fault{TotalCount: raw(`null`)}, `"total_count":null}`},
		"a total that is text":             {Fault{TotalCount: raw(`"3"`)}, `"total_count":"3"}`},
		"no total":                         {Fault{NoTotalCount: true}, `"page_info":{"count":2,"end_cursor":"YXBuXzAy","start_cursor":"YXBuXzAx"}`},
		"a cursor that is a number":        {Fault{EndCursor: raw(`7`)}, `"end_cursor":7,`},
		"more accounts than requested":     {Fault{PageSize: 3}, `"count":3,`},
		"several":                          {Fault{PageSize: 1, EndCursor: raw(`""`), NoTotalCount: true}, `"page_info":{"count":1,"end_cursor":"","start_cursor":"YXBuXzAx"}`},
		"with another fault":               {Fault{ListElement: raw(`7`), DeepNesting: 2}, `"deep":[[]],"data":[7,{`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newServer(t)
				numbered(s, 3)
				s.AddFault(tt.fault)
				require.Contains(t, c.get("/accounts?limit=2").body, tt.want)
				require.Equal(t, "apn_01", c.get("/accounts/apn_01").data(t)["id"], "one account is not a list")
			})
		})
	}
}
