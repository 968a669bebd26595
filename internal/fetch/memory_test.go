package fetch

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
)

// withField returns an account with a credential of size bytes.
func withField(id string, size int) *api.Account {
	return &api.Account{ID: id, Credentials: map[string]json.RawMessage{"token": json.RawMessage(`"` + strings.Repeat("x", size) + `"`)}}
}

// remembers puts an account into memory, as of a page that was asked for now.
func remembers(m *pageMemory, a *api.Account) {
	m.put(a, time.Now(), time.Now().Add(time.Minute), false)
}

func TestARememberedAccountIsTakenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, asked, a := newPageMemory(), time.Now(), withField("apn_a", 1)
		remembers(m, a)
		b, ok := m.take("apn_a", time.Time{})
		require.True(t, ok)
		require.Same(t, a, b.account)
		require.Equal(t, asked, b.at)
		_, ok = m.take("apn_a", time.Time{})
		require.False(t, ok)
		require.Zero(t, m.byID.Bytes())
	})
}

func TestAnAccountIsRememberedForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newPageMemory()
		remembers(m, withField("apn_a", 1))
		remembers(m, withField("apn_b", 1))
		time.Sleep(time.Minute - time.Nanosecond)
		_, ok := m.take("apn_a", time.Time{})
		require.True(t, ok)
		time.Sleep(time.Nanosecond)
		_, ok = m.take("apn_b", time.Time{})
		require.False(t, ok)
	})
}

// An account that nobody takes is dropped soon after it is too old.
func TestAccountsThatAreTooOldTakeNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newPageMemory()
		for round := range 3 {
			remembers(m, withField("apn_a", 1))
			time.Sleep(30 * time.Second)
			remembers(m, withField("apn_b", 1))
			time.Sleep(30*time.Second + tidyEvery)
			synctest.Wait()
			_, ok := m.byID.Peek("apn_b")
			require.True(t, ok, "round %d", round)
			require.Equal(t, 1, m.byID.Len(), "round %d", round)
			time.Sleep(30 * time.Second)
			synctest.Wait()
			require.Zero(t, m.byID.Len())
			require.Zero(t, m.byID.Bytes())
			require.Nil(t, m.timer, "there is nothing to tidy")
		}
	})
}

func TestTakeOnlyFromANewerPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := time.Now()
		for name, tc := range map[string]struct {
			newerThan time.Time
			taken     bool
		}{
			"for any reader":                          {time.Time{}, true},
			"for one who has an older account":        {asked.Add(-time.Nanosecond), true},
			"not for one who has one of that time":    {asked, false},
			"not for one who has a newer one already": {asked.Add(time.Second), false},
		} {
			m := newPageMemory()
			m.put(withField("apn_a", 1), asked, asked.Add(time.Minute), false)
			_, ok := m.take("apn_a", tc.newerThan)
			require.Equal(t, tc.taken, ok, name)
			require.Zero(t, m.byID.Len(), "%s: it is of no use to other readers either", name)
		}
	})
}

func TestANewerPageReplacesAnOlderOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, now := newPageMemory(), time.Now()
		early, late := withField("apn_a", 1), withField("apn_a", 100)
		m.put(early, now, now.Add(time.Minute), false)
		m.put(late, now.Add(time.Second), now.Add(time.Minute), false)
		require.Equal(t, late.Size(), m.byID.Bytes())
		m.put(early, now, now.Add(time.Minute), false) // a page that was asked for earlier but came later
		require.Equal(t, late.Size(), m.byID.Bytes())
		b, ok := m.take("apn_a", time.Time{})
		require.True(t, ok)
		require.Same(t, late, b.account)
	})
}

func TestAccountsWithoutCredentialsAreNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newPageMemory()
		remembers(m, &api.Account{ID: "apn_a"})
		dead := withField("apn_b", 1)
		dead.Dead = true
		remembers(m, dead)
		require.Zero(t, m.byID.Len())
	})
}

func TestPageMemoryIsBounded(t *testing.T) {
	t.Run("in accounts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newPageMemory()
			for i := range maxRemembered + 10 {
				remembers(m, withField(fmt.Sprintf("apn_%d", i), 1))
			}
			require.Equal(t, maxRemembered, m.byID.Len())
			_, ok := m.take("apn_9", time.Time{})
			require.False(t, ok, "the oldest went")
			_, ok = m.take("apn_10", time.Time{})
			require.True(t, ok)
			bytes := 0
			for _, b := range m.byID.Values() {
				bytes += b.account.Size()
			}
			require.Equal(t, bytes, m.byID.Bytes())
		})
	})
	t.Run("in bytes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, size := newPageMemory(), withField("apn_x", 1<<20).Size()
			for i := range 40 {
				remembers(m, withField(fmt.Sprintf("apn_%d", i), 1<<20))
				require.LessOrEqual(t, m.byID.Bytes(), maxRememberedBytes)
			}
			require.Equal(t, maxRememberedBytes/size, m.byID.Len())
			_, ok := m.take("apn_39", time.Time{})
			require.True(t, ok, "the newest stays")
		})
	})
}
