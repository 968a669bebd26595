package pipedream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// fleetCase is a fleet of accounts that is read, and what goes on meanwhile.
type fleetCase struct {
	accounts, limit, connections int
	shuffled                     bool
	state                        string // what is known before
	list                         string // how Pipedream's list behaves
	readers                      string // what those do who are refused
}

var (
	fleetStates  = []string{"cold", "known pages, ended tokens", "half new", "connected meanwhile"}
	fleetLists   = []string{"works", "fails once", "is refused", "hangs", "comes bare", "is throttled", "is reordered"}
	fleetReaders = []string{"obey", "poll", "give up"}
)

func (c fleetCase) String() string {
	order := "in order"
	if c.shuffled {
		order = "shuffled"
	}
	return fmt.Sprintf("%d accounts, limit %d, %d connections, %s, %s, list %s, readers %s", c.accounts, c.limit, c.connections, order, c.state, c.list, c.readers)
}

// listIsUseless reports whether accounts can only be asked for one by one.
func (c fleetCase) listIsUseless() bool {
	return c.list == "is refused" || c.list == "hangs" || c.list == "comes bare"
}

// feasible reports whether the case ends within hours of simulated time.
func (c fleetCase) feasible() bool { return !c.listIsUseless() || c.accounts <= 1000 }

// all returns how many accounts are read.
func (c fleetCase) all() int {
	if c.state == "connected meanwhile" {
		return c.accounts + c.accounts/10
	}
	return c.accounts
}

// needed returns how many requests nobody can do without who does not know the future.
func (c fleetCase) needed() int {
	pages := (c.all() + 99) / 100
	switch {
	case c.listIsUseless() && c.state == "half new":
		return c.accounts / 2
	case c.listIsUseless():
		return c.all()
	}
	needed := pages
	if c.connections < pages && c.state != "known pages, ended tokens" {
		needed += pages // that the list pays shows only after as many accounts were wanted one by one
	}
	switch c.list {
	case "is reordered":
		needed += 20 // accounts that are no longer where they were
	case "fails once", "is throttled":
		needed++
	}
	return needed
}

// fleetResult is what a fleet met.
type fleetResult struct {
	requests, refused, most int
	slowest, took           time.Duration
}

// bareLists asks for lists without credentials.
type bareLists struct{ next http.RoundTripper }

func (b bareLists) RoundTrip(r *http.Request) (*http.Response, error) {
	if query := r.URL.Query(); query.Has("limit") {
		r = r.Clone(r.Context())
		query.Del("include_credentials")
		r.URL.RawQuery = query.Encode()
	}
	return b.next.RoundTrip(r)
}

// listsComeBare starts a new backend whose lists have no credentials.
func (m *mount) listsComeBare() {
	m.Helper()
	m.b.Cleanup(m.Context())
	m.b = newBackend(m.storage, bareLists{m.sim.Transport()})
	require.NoError(m, m.b.Setup(m.Context(), &logical.BackendConfig{Logger: hclog.NewNullLogger(), System: m.system, StorageView: m.storage}))
}

// run reads the fleet.
func (c fleetCase) run(t *testing.T) (met fleetResult) {
	t.Helper()
	bubble(t, func(_ *testing.T, m *mount) {
		if c.list == "comes bare" {
			m.listsComeBare()
		}
		m.sim.SetLimit(0)
		m.configure(map[string]any{"rate_limit": 0})
		c.prepare(m)
		m.configure(map[string]any{"rate_limit": c.limit})
		time.Sleep(2 * time.Minute)
		c.spoil(m)
		m.sim.AddFault(pipedreamtest.Fault{Delay: 60 * time.Millisecond})
		m.sim.ResetRequests()
		met = c.read(m)
		met.requests, met.most = m.sim.Count(pipedreamtest.KindAccount)+m.sim.Count(pipedreamtest.KindList), m.mostPerMinute()
		time.Sleep(10 * time.Second) // until the list is reordered
	})
	return met
}

// prepare connects accounts, and reads those that were read before.
func (c fleetCase) prepare(m *mount) {
	m.Helper()
	life := 24 * time.Hour
	known := 0
	switch c.state {
	case "known pages, ended tokens":
		life, known = time.Hour, c.accounts
	case "half new":
		known = c.accounts / 2
	}
	for i := range known {
		m.sim.SetAccount(oauthAccount(accountName(i), life))
	}
	require.Empty(m, m.readFleet(0, known))
	for i := known; i < c.accounts; i++ {
		m.sim.SetAccount(oauthAccount(accountName(i), life))
	}
	if life == time.Hour {
		time.Sleep(2 * time.Hour)
	}
}

// spoil has the list misbehave from now on.
func (c fleetCase) spoil(m *mount) {
	fault := pipedreamtest.Fault{Kind: pipedreamtest.KindList}
	switch c.list {
	case "fails once":
		fault.Status, fault.After, fault.Times = http.StatusBadGateway, 2, 1
	case "is refused":
		fault.Status = http.StatusForbidden
	case "hangs":
		fault.Hang = true
	case "is throttled":
		fault.Status, fault.Header, fault.After, fault.Times = http.StatusTooManyRequests, http.Header{"Retry-After": {"12"}}, 3, 1
	case "is reordered":
		go func() {
			for i := 0; i < c.accounts; i += max(1, c.accounts/20) {
				time.Sleep(70 * time.Millisecond)
				m.sim.DeleteAccount(accountName(i))
				m.sim.SetAccount(oauthAccount(accountName(i), 24*time.Hour))
			}
		}()
		return
	default:
		return
	}
	m.sim.AddFault(fault)
}

// read has each account read until it is served.
func (c fleetCase) read(m *mount) (met fleetResult) {
	m.Helper()
	order := inOrder(c.all())
	if c.shuffled {
		order = rand.New(rand.NewPCG(1, 2)).Perm(c.all()) //nolint:gosec // an order, the same each time
	}
	began := time.Now()
	connected := make(chan struct{}) // once the rest is
	if c.all() > c.accounts {
		go func() {
			for m.sim.Count(pipedreamtest.KindList) < max(1, c.accounts/200) && time.Since(began) < time.Minute {
				time.Sleep(time.Millisecond)
			}
			for i := c.accounts; i < c.all(); i++ {
				m.sim.SetAccount(oauthAccount(accountName(i), 24*time.Hour))
			}
			close(connected)
		}()
	}
	places := make(chan struct{}, c.connections)
	var mu sync.Mutex // guards met
	var readers sync.WaitGroup
	for _, i := range order {
		readers.Go(func() {
			if i >= c.accounts {
				<-connected
			}
			first := time.Time{}
			for {
				places <- struct{}{}
				if first.IsZero() {
					first = time.Now()
				}
				err := c.readOne(m, i)
				<-places
				mu.Lock()
				if err == nil {
					met.slowest, met.took = max(met.slowest, time.Since(first)), time.Since(began)
					mu.Unlock()
					return
				}
				met.refused++
				mu.Unlock()
				if time.Since(began) > 12*time.Hour {
					m.Errorf("%s was not served: %v", accountName(i), err)
					return
				}
				c.wait(m, err)
			}
		})
	}
	readers.Wait()
	return met
}

func (c fleetCase) readOne(m *mount, i int) error {
	ctx, patience := m.Context(), defaultRequestTimeout
	if c.readers == "give up" {
		patience = 2 * time.Second
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	before := time.Now()
	err := m.request(ctx, fmt.Sprint("entity-", i%20), logical.ReadOperation, "creds/"+accountName(i), nil)
	if took := time.Since(before); took > patience {
		m.Errorf("a reader waited for %s", took)
	}
	return err
}

// wait waits until a refused reader comes again.
func (c fleetCase) wait(m *mount, err error) {
	coded, ok := err.(logical.HTTPCodedError) //nolint:errorlint // a wrapped one would lose its code on gRPC
	switch {
	case c.readers == "poll":
		time.Sleep(time.Second)
	case c.readers == "obey" && ok && coded.Code() == http.StatusTooManyRequests:
		time.Sleep(toldToWait(m.T, err))
	default:
		time.Sleep(5 * time.Second)
	}
}

// check asserts what every fleet can rely on.
func (c fleetCase) check(t *testing.T, met fleetResult) {
	t.Helper()
	t.Logf("%s: %d requests for %d, slowest %s, all after %s, %d refused, %d in a minute", c, met.requests, c.needed(), met.slowest.Round(10*time.Millisecond), met.took.Round(10*time.Millisecond), met.refused, met.most)
	require.LessOrEqual(t, met.requests, c.needed()*13/10+20, "requests")
	if c.limit > 0 {
		require.LessOrEqual(t, met.most, c.limit, "requests in a minute")
	}
}

// allFleets returns every combination that ends within hours of simulated time.
func allFleets() (all []fleetCase) {
	for _, accounts := range []int{100, 1000, 5000, 20_000} {
		for _, limit := range []int{20, 100, 400, 0} {
			for _, connections := range []int{1, 8, 50, 1000} {
				for _, shuffled := range []bool{false, true} {
					for _, state := range fleetStates {
						for _, list := range fleetLists {
							for _, readers := range fleetReaders {
								if c := (fleetCase{accounts, limit, connections, shuffled, state, list, readers}); c.feasible() {
									all = append(all, c)
								}
							}
						}
					}
				}
			}
		}
	}
	return all
}

// Whatever the fleet, the list and the readers, all are served, with hardly more requests
// than are needed and never more in a minute than the limit. FLEETS sets how many of all
// combinations are tried.
func TestFleets(t *testing.T) {
	t.Parallel()
	all := allFleets()
	n := 40
	if largeFleets() {
		n, _ = strconv.Atoi(os.Getenv("FLEETS"))
	} else {
		all = smallFleets(all)
	}
	random := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // a selection, the same each time
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, c := range all[:min(n, len(all))] {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			c.check(t, c.run(t))
		})
	}
}

// largestInSuite is how many accounts a fleet has at most if largeFleets is false.
const largestInSuite = 2500

// largeFleets reports whether fleets may take minutes, as in make test-fleets.
func largeFleets() bool {
	_, err := strconv.Atoi(os.Getenv("FLEETS"))
	return err == nil
}

// smallFleets returns those that are tried quickly.
func smallFleets(all []fleetCase) (small []fleetCase) {
	for _, c := range all {
		if c.accounts <= 1000 && (!c.listIsUseless() || c.accounts <= 100 || c.limit == 0) {
			small = append(small, c)
		}
	}
	return small
}

// A fleet has more pages than a minute's budget allows. The list is fetched on from where
// the budget ended, and readers who come again when they are told to are served.
func TestAFleetBeyondAMinutesPages(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		accounts, limit, connections int
		list                         string
		requests                     int
		within                       time.Duration
	}{
		{2000, 100, 2000, "works", 25, 5 * time.Second},
		{2000, 100, 2000, "is throttled", 25, 17 * time.Second},
		{12_000, 100, 12_000, "works", 130, 70 * time.Second},
		{12_000, 100, 12_000, "is throttled", 130, 85 * time.Second},
		{2500, 20, 2500, "works", 35, 70 * time.Second},
		{1200, 20, 30, "works", 30, 70 * time.Second},
	} {
		c := fleetCase{test.accounts, test.limit, test.connections, false, "cold", test.list, "obey"}
		if !largeFleets() && test.accounts > largestInSuite {
			continue
		}
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			met := c.run(t)
			c.check(t, met)
			require.LessOrEqual(t, met.requests, test.requests)
			require.LessOrEqual(t, met.took, test.within)
		})
	}
}

// Accounts whose pages are known, and whose tokens have all ended, cost a page for each
// hundred, however few programs read them.
func TestAFleetAfterAnOutage(t *testing.T) {
	t.Parallel()
	fleet := 2000
	if largeFleets() {
		fleet = 5000
	}
	for connections, shuffled := range map[int]bool{1: true, 8: false, 50: true, 1000: false} {
		c := fleetCase{fleet, defaultRateLimit, connections, shuffled, "known pages, ended tokens", "works", "obey"}
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			met := c.run(t)
			c.check(t, met)
			require.LessOrEqual(t, met.requests, fleet/api.PageLimit+40)
			require.Zero(t, met.refused)
			require.Less(t, met.took, 6*time.Second)
		})
	}
}
