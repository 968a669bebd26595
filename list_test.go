package pipedream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/fetch"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestAFewAccountsAreAskedForOneByOne(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(200)
		m.readAll(fetch.MaxSingles)
		require.Equal(t, fetch.MaxSingles, m.sim.Count(pipedreamtest.KindAccount))
		require.Zero(t, m.sim.Count(pipedreamtest.KindList))
	})
}

func TestOnlyAccountsThatAreReadAreKept(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(900)
		m.sim.AddFault(pipedreamtest.Fault{Delay: 100 * time.Millisecond})
		m.readAll(300)
		require.Positive(t, m.sim.Count(pipedreamtest.KindList))
		keys, err := m.cachedKeys()
		require.NoError(t, err)
		require.Len(t, keys, 300)
		require.Equal(t, 300, m.cachedInMemory())
	})
}

// 90 accounts of 100,000 are cheaper one by one, as the first page of the list shows.
func TestAFewAccountsOfManyAreAskedForOneByOne(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(90)
		m.sim.AddFault(pipedreamtest.Fault{
			Kind: pipedreamtest.KindList, Status: http.StatusOK,
			Body: `{"page_info":{"total_count":100000,"end_cursor":"more"},"data":[{"id":"apn_other","credentials":{"a":"b"}}]}`,
		})
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 100 * time.Millisecond})
		m.readAll(90)
		require.Equal(t, 90, m.sim.Count(pipedreamtest.KindAccount))
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindList))
	})
}

func TestTheListFallsBackToSingleRequests(t *testing.T) {
	const accounts = 40
	faults := map[string]pipedreamtest.Fault{
		"no credentials": {Status: http.StatusOK, Body: `{"page_info":{"total_count":40},"data":[{"id":"apn_00039"},{"id":"apn_00038"}]}`},
		"no accounts":    {Status: http.StatusOK, Body: `{"page_info":{"total_count":0},"data":[]}`},
		"other accounts": {Status: http.StatusOK, Body: `{"page_info":{},"data":[{"id":"apn_other","credentials":{"a":"b"}}]}`},
		"forbidden":      {Status: http.StatusForbidden},
		"not there":      {Status: http.StatusNotFound},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				m.fleet(accounts)
				fault.Kind = pipedreamtest.KindList
				m.sim.AddFault(fault)
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 100 * time.Millisecond})
				m.readAll(accounts)
				require.Equal(t, accounts, m.sim.Count(pipedreamtest.KindAccount))
				require.Equal(t, 1, m.sim.Count(pipedreamtest.KindList))
			})
		})
	}
}

// An account that the list has without credentials is asked for by itself. The reader
// of a dead one gets an error that says so.
func TestAccountsWithoutCredentialsInTheList(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(60)
		m.sim.Update(accountName(50), func(a *pipedreamtest.Account) { a.NoCredentials = true })
		m.sim.Update(accountName(51), func(a *pipedreamtest.Account) { a.Dead = true })
		m.sim.AddFault(pipedreamtest.Fault{Delay: 100 * time.Millisecond})
		var readers sync.WaitGroup
		var served atomic.Int32
		for i := range 60 {
			readers.Go(func() {
				_, err := m.read("creds/" + accountName(i))
				switch i {
				case 50:
					m.refused(err, http.StatusBadRequest, accountName(i), "no credentials")
				case 51:
					m.refused(err, http.StatusBadRequest, accountName(i), "dead")
				default:
					if err == nil {
						served.Add(1)
					}
				}
			})
		}
		readers.Wait()
		require.Equal(t, int32(58), served.Load())
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindList))
	})
}

// A reader who comes during the fetch of the list, after the page with the account,
// need not wait for the end of the list.
func TestLatecomersNeedNotWaitForTheList(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(1500)
		m.sim.SetAccount(oauthAccount("apn_0late", time.Hour))
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Delay: 500 * time.Millisecond})
		var readers sync.WaitGroup
		readers.Go(func() { m.readAll(1500) })
		time.Sleep(3 * time.Second)
		before := time.Now()
		m.creds("apn_0late")
		require.LessOrEqual(t, time.Since(before), 3*time.Second+time.Second)
		readers.Wait()
	})
}

// The list only saves requests. If it is slow, broken or too large, its readers are
// served one by one, as there is budget for all of them.
func TestAListThatFailsFailsNoReader(t *testing.T) {
	faults := map[string]pipedreamtest.Fault{
		"hangs":     {Hang: true},
		"slow":      {Delay: 25 * time.Second},
		"500":       {Status: http.StatusInternalServerError},
		"403":       {Status: http.StatusForbidden},
		"404":       {Status: http.StatusNotFound},
		"HTML":      {Garbage: true},
		"too large": {HugeBody: 10 << 20},
		"no list":   {Status: http.StatusOK, Body: `{"data":[],"page_info":{"end_cursor":null}}`},
		"endless":   {Status: http.StatusOK, Body: `{"data":[{"id":"apn_other","credentials":{"a":"b"}}],"page_info":{"end_cursor":"x","total_count":5000}}`},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				const fleet = 80
				m.fleet(fleet)
				fault.Kind = pipedreamtest.KindList
				m.sim.AddFault(fault)
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 100 * time.Millisecond})
				errs := m.readFleet(0, fleet)
				require.Empty(t, errs, "%d of %d readers were not served", len(errs), fleet)
				require.LessOrEqual(t, m.mostPerMinute(), defaultRateLimit)
			})
		})
	}
}

// A useless list costs a request or two. Readers wait no longer than the budget makes
// all of them wait.
func TestAColdFleetWithoutAUsefulList(t *testing.T) {
	const accounts, connections = 80, 20
	page := func(total string, with func(i int) string) string {
		var all []string
		for i := range accounts {
			all = append(all, fmt.Sprintf(`{"id":%q%s}`, accountName(i), with(i)))
		}
		return fmt.Sprintf(`{"page_info":{%s"end_cursor":null},"data":[%s]}`, total, strings.Join(all, ","))
	}
	faults := map[string]pipedreamtest.Fault{
		"fails":          {Status: http.StatusInternalServerError},
		"is refused":     {Status: http.StatusForbidden},
		"hangs":          {Hang: true},
		"no credentials": {Status: http.StatusOK, Body: page(`"total_count":80,`, func(int) string { return "" })},
		"no total": {Status: http.StatusOK, Body: page("", func(i int) string {
			return fmt.Sprintf(`,"credentials":{"api_key":"k%d"}`, i)
		})},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				for i := range accounts {
					a := keyAccount(accountName(i))
					a.Credentials = map[string]any{"api_key": fmt.Sprintf("k%d", i)}
					m.sim.SetAccount(a)
				}
				fault.Kind = pipedreamtest.KindList
				m.sim.AddFault(fault)
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 60 * time.Millisecond})
				met := m.readOver(connections, inOrder(accounts))
				t.Logf("%d requests, %d refused, %s", len(m.sim.Requests()), met.refused, met.took)
				require.Equal(t, accounts, met.served)
				require.Zero(t, met.refused)
				require.LessOrEqual(t, len(m.sim.Requests()), accounts+3, "one by one, and the tries of the list")
			})
		})
	}
}

// A list that has the tokens of before fails nobody: a request for the account alone brings
// the live one.
func TestAListOfTokensThatHaveEnded(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 40
		for i := range fleet {
			m.sim.SetAccount(oauthAccount(accountName(i), time.Hour))
		}
		m.b.transport = changedLists{m.sim.Transport(), func(account map[string]any) {
			account["expires_at"] = time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
			account["next_refresh_at"] = time.Now().Add(-6 * time.Minute).UTC().Format(time.RFC3339)
		}}
		m.configure(map[string]any{"rate_limit": 1000})
		for range 12 {
			var all sync.WaitGroup
			for i := range fleet {
				all.Go(func() {
					_, err := m.read("creds/" + accountName(i))
					assert.NoError(t, err)
				})
			}
			all.Wait()
			time.Sleep(2 * time.Hour)
		}
	})
}

// changedLists changes each account of a list.
type changedLists struct {
	next   http.RoundTripper
	change func(account map[string]any)
}

func (c changedLists) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(req)
	if err != nil || !strings.HasSuffix(req.URL.Path, "/accounts") || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	var page map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
		return nil, err
	}
	for _, account := range page["data"].([]any) {
		c.change(account.(map[string]any))
	}
	body, err := json.Marshal(page)
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp.Header.Del("Content-Length")
	return resp, err
}
