package fetch

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// fetcher is a Fetcher of a simulated Pipedream, in fake time.
type fetcher struct {
	*Fetcher
	*testing.T

	sim *pipedreamtest.Server
}

// nobody is an observer that does nothing.
type nobody struct{}

func (nobody) Sent()                                 {}
func (nobody) Answered(string, time.Duration, error) {}

const timeout = 20 * time.Second

// bubble runs f with a fetcher without a limit. Its list has that many accounts,
// from apn_0000 on.
func bubble(t *testing.T, accounts int, f func(t *testing.T, f *fetcher)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		sim := pipedreamtest.New(pipedreamtest.WithLimit(0))
		t.Cleanup(sim.Close)
		for i := range accounts {
			sim.SetAccount(pipedreamtest.Account{ID: id(i), TokenLife: time.Hour})
		}
		base, err := url.Parse("http://pipedream.test/v1")
		require.NoError(t, err)
		budget, holdOffs := pace.NewBudget(0), pace.NewHoldOffs()
		config := api.Config{BaseURL: base, APIKey: "pd_test_key", Timeout: timeout}
		client := api.New(t.Context(), config, sim.Transport(), budget, holdOffs, nobody{}, hclog.NewNullLogger)
		t.Cleanup(client.Close)
		f(t, &fetcher{Fetcher: New(t.Context(), client, budget, holdOffs, nil, hclog.NewNullLogger), T: t, sim: sim})
		require.Empty(t, sim.Violations())
	})
}

func id(i int) string { return fmt.Sprintf("apn_%04d", i) }

// answersTake makes Pipedream take d for requests of a kind.
func (f *fetcher) answersTake(kind pipedreamtest.Kind, d time.Duration) {
	f.sim.AddFault(pipedreamtest.Fault{Kind: kind, Delay: d})
}

// reader is somebody who wants an account.
type reader struct {
	ended chan struct{} // closed once the fields below are set

	account *api.Account
	at      time.Time // the time as of which account is
	err     error
	took    time.Duration
}

// wants starts a reader who wants an account and waits for as long as a piece of
// work may take. It returns once the reader waits.
func (f *fetcher) wants(id string) *reader {
	f.Helper()
	r := f.wantsAs(f.Context(), pace.Known, id, time.Time{})
	synctest.Wait()
	return r
}

// wantsAs is like wants, and returns at once.
func (f *fetcher) wantsAs(ctx context.Context, class pace.Class, id string, newerThan time.Time) *reader {
	return f.wantsFor(ctx, "somebody", class, id, newerThan)
}

// wantsFor is like wantsAs, for a caller.
func (f *fetcher) wantsFor(ctx context.Context, caller string, class pace.Class, id string, newerThan time.Time) *reader {
	r := &reader{ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		began := time.Now()
		r.account, r.at, r.err = f.Account(ctx, id, f.budget.NewClaim(class, caller), newerThan)
		r.took = time.Since(began)
	}()
	return r
}

// served waits for r, and asserts that it got the account with its credentials.
func (f *fetcher) served(r *reader, id string) {
	f.Helper()
	<-r.ended
	require.NoError(f, r.err, id)
	require.Equal(f, id, r.account.ID)
	require.NotEmpty(f, r.account.Credentials)
}

// get has a reader want an account and get it.
func (f *fetcher) get(id string) {
	f.Helper()
	f.served(f.wants(id), id)
}

// getAll has readers want the first n accounts at once and get them.
func (f *fetcher) getAll(n int) {
	f.Helper()
	var group sync.WaitGroup
	for i := range n {
		r := f.wantsAs(f.Context(), pace.Known, id(i), time.Time{})
		group.Go(func() { f.served(r, id(i)) })
	}
	group.Wait()
}

// costs asserts how many requests there were since its last call.
func (f *fetcher) costs(singles, pages int) {
	f.Helper()
	synctest.Wait()
	require.Equal(f, singles, f.sim.Count(pipedreamtest.KindAccount), "requests for one account")
	require.Equal(f, pages, f.sim.Count(pipedreamtest.KindList), "pages")
	f.sim.ResetRequests()
}

// isIdle asserts that no work is left behind.
func (f *fetcher) isIdle() {
	f.Helper()
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Empty(f, f.calls)
	require.Zero(f, f.queue.Len())
	require.Zero(f, f.lacking.Len())
	require.Empty(f, f.pages)
	require.Zero(f, f.singles)
	require.False(f, f.list.underWay)
}
