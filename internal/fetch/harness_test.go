package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// fetcher is a Fetcher of a simulated Pipedream, in fake time.
type fetcher struct {
	*Fetcher
	*testing.T

	sim    *pipedreamtest.Server
	budget *pace.Budget
	bare   func(predecessor *Fetcher) *Fetcher
}

// Deliver gives everybody the account and its time.
type fetched struct {
	account *api.Account
	at      time.Time
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
		budget, holdOffs := pace.NewBudget(0), backoff.NewHoldOffs()
		config := api.Config{BaseURL: base, APIKey: "pd_test_key", Timeout: timeout}
		client := api.New(t.Context(), config, sim.Transport(), budget, holdOffs, nobody{}, hclog.NewNullLogger)
		t.Cleanup(client.Close)
		bare := func(predecessor *Fetcher) *Fetcher {
			inner := New(t.Context(), client, budget, holdOffs, predecessor, hclog.NewNullLogger)
			inner.DeliverTo(func(w *Want) { w.Deliver(fetched{w.Account, w.At}, w.Err) })
			return inner
		}
		f(t, &fetcher{Fetcher: bare(nil), T: t, sim: sim, budget: budget, bare: bare})
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
		got, err := f.Account(ctx, id, class, caller, newerThan)
		r.account, r.at = got.account, got.at
		r.err = err
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

// Account waits for an account, like a reader.
func (f *fetcher) Account(ctx context.Context, id string, class pace.Class, caller string, newerThan time.Time) (fetched, error) {
	until, _ := ctx.Deadline()
	w := f.Want(id, Wish{Class: class, Caller: caller, NewerThan: newerThan, Until: until})
	defer w.Leave()
	select {
	case <-w.Done:
		got, _ := w.Value.(fetched)
		return got, w.Failed
	case <-ctx.Done():
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return fetched{}, ctx.Err()
	}
	return fetched{}, f.Overdue(id)
}

// fetchFirstPage has the first page fetched ahead of readers. It returns once that was
// asked for, and has come if it takes no time.
func (f *fetcher) fetchFirstPage() {
	f.Helper()
	claim := f.budget.NewClaim(pace.Ahead, pace.Caller{})
	require.NoError(f, claim.Reserve(f.Context()))
	f.budget.Do(func(now time.Time) { f.sendPage(f.pageAt(""), claim, now) })
	synctest.Wait()
}

// page returns the cursor of the page that an account was last seen on.
func (f *fetcher) page(id string) (after string, known bool) { return f.fleet.index.of(id) }

// listWanted has that many accounts on unknown pages wanted ahead.
func (f *fetcher) listWanted(n int) {
	var due []Due
	for i := range n {
		due = append(due, Due{ID: id(i), By: time.Now()})
	}
	f.Ahead(due...)
}

// isIdle asserts that no work is left behind.
func (f *fetcher) isIdle() {
	f.Helper()
	synctest.Wait()
	f.budget.Do(func(time.Time) {
		require.Empty(f, f.Fetcher.wants)
		require.Empty(f, f.running)
		require.Empty(f, f.singles)
		require.Empty(f, f.ahead)
		require.Zero(f, f.single.Len()+f.paged.Len()+f.unlisted.Len()+f.late.Len())
		require.False(f, f.walkIsReady(time.Now()))
		for _, pg := range f.pages {
			require.Empty(f, pg.wants)
		}
	})
}
