package cache

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/clock"
	"vault-plugin-secrets-pipedream/internal/credential"
)

const (
	generation = "now"
	place      = "here"
	github     = "apn_github"
	stripe     = "apn_stripe"
)

var policy = credential.Policy{MinTTL: 5 * time.Minute, StaticTTL: time.Hour}

// swept is a cache with its storage and sweeper.
type swept struct {
	*Cache
	*testing.T

	storage *logical.InmemStorage
	sweeper *Sweeper
}

func newSwept(t *testing.T) *swept {
	t.Helper()
	storage := &logical.InmemStorage{}
	sweeper := NewSweeper(storage, hclog.NewNullLogger)
	return &swept{
		Cache: New(t.Context(), storage, generation, place, new(Removed), nil, clock.New(nil), hclog.NewNullLogger),
		T:     t, storage: storage, sweeper: sweeper,
	}
}

// stores puts JSON into storage below the cache.
func (s *swept) stores(key string, value any) {
	s.Helper()
	entry, err := logical.StorageEntryJSON(Prefix+key, value)
	require.NoError(s, err)
	require.NoError(s, s.storage.Put(context.Background(), entry))
}

// stored returns the keys below the cache, sorted.
func (s *swept) stored() []string {
	s.Helper()
	keys, err := logical.CollectKeys(context.Background(), logical.NewStorageView(s.storage, Prefix))
	require.NoError(s, err)
	slices.Sort(keys)
	return keys
}

func (s *swept) sweep() {
	s.Helper()
	s.sweeper.Sweep(s.Context(), func() *Cache { return s.Cache }, policy)
}

// lives returns a credential that ends after d; 0 means never.
func lives(id string, d time.Duration) *credential.Credential {
	now := time.Now()
	c := &credential.Credential{AccountID: id, Fields: map[string]string{"token": "t"}, FetchedAt: now, CheckedAt: now}
	if d != 0 {
		c.ExpiresAt = now.Add(d)
	}
	return c
}

func user(name string) string { return User{App: "github", ExternalID: name}.Key() }

func TestASweepDeletesUselessEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwept(t)
		s.stores("now/"+github, lives(github, time.Hour))
		s.stores("now/apn_ended", lives("apn_ended", -time.Second))
		s.stores("now/apn_key", lives("apn_key", 0))
		abandoned := lives("apn_abandoned", 0)
		abandoned.CheckedAt = abandoned.CheckedAt.Add(-8 * 24 * time.Hour)
		s.stores("now/apn_abandoned", abandoned)
		s.stores("now/apn_nonsense", "nonsense")
		s.stores("now/apn_renamed", lives(github, time.Hour))
		s.stores("here/"+user("a"), found{User: user("a"), AccountID: github})
		s.stores("here/"+user("b"), found{User: user("b"), AccountID: "apn_unknown"})
		s.stores("before/"+github, lives(github, time.Hour))
		s.stores("elsewhere/"+user("a"), found{User: user("a"), AccountID: github})
		s.sweep()
		require.ElementsMatch(t, []string{"now/" + github, "now/apn_key", "here/" + user("a"), "here/" + user("b")}, s.stored(),
			"whether the account of a user is cached makes no difference")
	})
}

func TestASweepWithoutAConnectionKeepsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwept(t)
		s.stores("now/"+github, lives(github, time.Hour))
		s.stores("before/"+github, lives(github, time.Hour))
		s.sweeper.Sweep(t.Context(), func() *Cache { return nil }, policy)
		require.Empty(t, s.stored())
	})
}

func TestASweepKeepsEntriesInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwept(t)
		s.credentials.Update(github, func(*entry, bool) (*entry, bool) { return &entry{Credential: lives(github, -time.Hour)}, true })
		s.sweep()
		require.Equal(t, []string{"now/" + github}, s.stored(), "it is left to the sweep of memory")
		s.SweepMemory(t.Context(), policy)
		require.Empty(t, s.stored())
		require.Zero(t, s.Len())
	})
}

func TestInvalidStoredEntriesAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, value := range map[string]any{
			"no JSON object": []int{1}, "of another account": lives(stripe, time.Hour), "without fields": credential.Credential{AccountID: github},
			"invalid fields": map[string]any{"account_id": github, "fields": "pd_secret"},
		} {
			s := newSwept(t)
			s.stores("now/"+github, value)
			_, ok, err := s.credentials.Load(t.Context(), github)
			require.NoError(t, err)
			require.False(t, ok, name)
			raw, err := json.Marshal(value)
			require.NoError(t, err)
			_, err = credentialCodec(clock.New(nil)).Decode(github, raw)
			require.Equal(t, errNotOurs, err, "it repeats nothing of what it read")
		}
		for name, value := range map[string]any{
			"no JSON object": []int{1}, "of another user": found{User: user("b"), AccountID: github}, "no account's id": found{User: user("a"), AccountID: "../config"},
		} {
			s := newSwept(t)
			s.stores("here/"+user("a"), value)
			_, ok, err := s.users.Load(t.Context(), user("a"))
			require.NoError(t, err)
			require.False(t, ok, name)
		}
	})
}

func TestASweepLooksAtABatchAPassAndListsOnceAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwept(t)
		for i := range 2*sweepBatch + 1 {
			s.stores(fmt.Sprintf("before/apn_%04d", i), "x")
		}
		for _, left := range []int{sweepBatch + 1, 1, 0} {
			s.sweep()
			require.Len(t, s.stored(), left)
		}
		s.stores("before/apn_late", "x")
		s.sweep()
		time.Sleep(sweepEvery - time.Nanosecond)
		s.sweep()
		require.Len(t, s.stored(), 1)
		time.Sleep(time.Nanosecond)
		s.sweep()
		require.Empty(t, s.stored())
	})
}

func TestASweepEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwept(t)
		s.stores("before/"+github, "x")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s.sweeper.Sweep(ctx, func() *Cache { return s.Cache }, policy)
		require.Len(t, s.stored(), 1)
	})
}

func TestEmptyDeletesOneFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwept(t)
		s.stores("now/"+github, "x")
		s.stores("now-not/"+github, "x")
		s.stores("here/"+user("a"), "x")
		s.stores("before/"+github, "x")
		s.stores("before/"+stripe, "x")
		s.sweeper.Empty(t.Context(), "before")
		synctest.Wait()
		require.ElementsMatch(t, []string{"now/" + github, "now-not/" + github, "here/" + user("a")}, s.stored())
	})
}

// A sweep that has no time left goes on where it ended.
func TestASweepLosesNothingOfItsBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwept(t)
		for i := range 10 {
			s.stores(fmt.Sprintf("before/apn_%04d", i), "x")
		}
		ctx, cancel := context.WithCancel(t.Context())
		looked := 0
		s.sweeper.Sweep(ctx, func() *Cache {
			if looked++; looked == 4 {
				cancel()
			}
			return nil
		}, policy)
		require.NotEmpty(t, s.stored())
		s.sweep()
		require.Empty(t, s.stored())
	})
}

// A key that another node changed is loaded again.
func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwept(t)
		s.stores("now/"+github, lives(github, time.Hour))
		s.stores("here/"+user("a"), found{User: user("a"), AccountID: github})
		load := func() {
			_, ok, err := s.credentials.Load(t.Context(), github)
			require.NoError(t, err)
			require.True(t, ok)
			_, ok, err = s.users.Load(t.Context(), user("a"))
			require.NoError(t, err)
			require.True(t, ok)
		}
		load()
		for _, key := range []string{"before/" + github, "before/users/" + user("a"), github, "now/", "now/" + stripe} {
			s.Forget(Prefix + key)
		}
		require.Equal(t, 1, s.Len())
		require.Equal(t, 1, s.Users())
		s.Forget(Prefix + "now/" + github)
		require.Zero(t, s.Len())
		require.Equal(t, 1, s.Users())
		s.Forget(Prefix + "here/" + user("a"))
		require.Zero(t, s.Users())
		load()
	})
}

// After refreshes that bring nothing new, no request goes out for longer and longer.
// So a loop of refreshes cannot use up the budget.
func TestRefreshesInVainAreQuietForLongerAndLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &View{Cache: newSwept(t).Cache}
		for _, wait := range strings.Fields("5s 10s 20s 40s 1m 1m 1m") {
			d, err := time.ParseDuration(wait)
			require.NoError(t, err)
			require.False(t, v.isQuiet(github))
			v.noteRefresh(github, false, false)
			require.False(t, v.isQuiet(stripe))
			time.Sleep(d - time.Nanosecond)
			require.True(t, v.isQuiet(github), wait)
			time.Sleep(time.Nanosecond)
			require.False(t, v.isQuiet(github), wait)
		}
		v.noteRefresh(github, false, false)
		v.noteRefresh(github, true, false)
		require.False(t, v.isQuiet(github), "a new token ends it")
		v.noteRefresh(github, false, false)
		time.Sleep(5 * time.Second)
		require.False(t, v.isQuiet(github), "it starts over")
	})
}
