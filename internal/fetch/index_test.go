package fetch

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
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
	x.saw(listed(0, 2), "")
	x.saw(listed(1, 2), "cursor")
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
	x.setWhole(true)
	require.False(t, x.isWhole(), "else every account would be unproven")
	x.saw(listed(0, 1), "")
	require.False(t, x.isWhole())
	x.setWhole(true)
	require.True(t, x.isWhole())
}

func TestTheIndexIsBounded(t *testing.T) {
	x := newIndex()
	for first := 0; first+api.MaxPage <= maxIndexed; first += api.MaxPage {
		x.saw(listed(first, api.MaxPage), "")
	}
	x.setWhole(true)
	before := len(x.after)
	require.LessOrEqual(t, before, maxIndexed)
	x.saw(listed(maxIndexed, api.MaxPage), "cursor")
	require.Len(t, x.after, api.MaxPage, "it starts over")
	require.False(t, x.isWhole(), "and no longer has all accounts")
}
