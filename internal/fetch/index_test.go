package fetch

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// listed returns a page of n accounts, from number first on.
func listed(first, n int) *api.Page {
	p := &api.Page{}
	for i := range n {
		p.Accounts = append(p.Accounts, &api.Account{ID: fmt.Sprintf("apn_%d", first+i)})
	}
	return p
}

func TestTheIndexKnowsTheLatestPageOfAnAccount(t *testing.T) {
	x := newIndex()
	_, known := x.of("apn_0")
	require.False(t, known)
	x.note(listed(0, 2), "")
	x.note(listed(1, 2), "cursor")
	for id, want := range map[string]string{"apn_0": "", "apn_1": "cursor", "apn_2": "cursor"} {
		after, known := x.of(id)
		require.True(t, known, id)
		require.Equal(t, want, after, id)
	}
	x.forget("apn_1")
	_, known = x.of("apn_1")
	require.False(t, known)
	_, known = x.of("apn_2")
	require.True(t, known)
}

func TestAnEmptyIndexIsNeverWhole(t *testing.T) {
	x := newIndex()
	x.setWhole()
	require.False(t, x.isWhole(), "else every account would be unproven")
	x.note(listed(0, 1), "")
	require.False(t, x.isWhole())
	x.setWhole()
	require.True(t, x.isWhole())
}

func TestTheIndexIsBounded(t *testing.T) {
	x := newIndex()
	for first := 0; first+api.MaxPage <= maxIndexed; first += api.MaxPage {
		x.note(listed(first, api.MaxPage), "")
	}
	x.setWhole()
	before := len(x.after)
	require.LessOrEqual(t, before, maxIndexed)
	x.note(listed(maxIndexed, api.MaxPage), "cursor")
	require.Len(t, x.after, api.MaxPage, "it starts over")
	require.False(t, x.isWhole(), "and no longer has all accounts")
}

func TestDemandCountsDifferentAccountsOfTheLastMinute(t *testing.T) {
	var d demand
	now := time.Now()
	require.Zero(t, d.count(now, time.Minute))
	for i := range 60 {
		at := now.Add(time.Duration(i) * time.Second)
		d.note(fmt.Sprint("apn_", i), at)
		d.note(fmt.Sprint("apn_", i/2), at) // was wanted before
	}
	require.Equal(t, 60, d.count(now.Add(60*time.Second), time.Minute))
	require.Equal(t, 59, d.count(now.Add(60*time.Second+1), time.Minute))
	require.Equal(t, 10, d.count(now.Add(60*time.Second), 10*time.Second))
	d.note("apn_0", now.Add(61*time.Second)) // was forgotten
	require.Equal(t, 11, d.count(now.Add(61*time.Second), 11*time.Second))
	require.Len(t, d.ids, 11)
	d.reset()
	require.Zero(t, d.count(now, time.Hour))
	d.note("apn_0", now)
	require.Equal(t, 1, d.count(now, time.Minute))
}

func TestDemandIsBounded(t *testing.T) {
	var d demand
	now := time.Now()
	for i := range maxIndexed + 10 {
		d.note(strconv.Itoa(i), now)
	}
	require.Equal(t, maxIndexed, d.count(now, time.Minute))
	require.Len(t, d.ids, maxIndexed)
}

func TestListTime(t *testing.T) {
	require.Zero(t, listTime(pace.NewBudget(0), 1000))
	require.Zero(t, listTime(pace.NewBudget(100), 0))
	require.Equal(t, time.Minute, listTime(pace.NewBudget(100), 80))
	require.Equal(t, 10*time.Minute, listTime(pace.NewBudget(1), 10))
}
