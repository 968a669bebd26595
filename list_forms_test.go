package pipedream

import (
	"fmt"
	"slices"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// formsOfLists are the forms in which lists come, and how many requests a list of 252
// accounts costs in each.
var formsOfLists = map[string]struct {
	opts  []pipedreamtest.Option
	pages int
}{
	"as documented":                  {nil, 3},
	"without a cursor at the end":    {[]pipedreamtest.Option{pipedreamtest.WithNoCursorAtEnd()}, 3},
	"older":                          {[]pipedreamtest.Option{pipedreamtest.WithOldConnectForms()}, 3},
	"in small pages":                 {[]pipedreamtest.Option{pipedreamtest.WithPageCap(20)}, 13},
	"without totals":                 {[]pipedreamtest.Option{pipedreamtest.WithoutTotals()}, 4},
	"in small pages, without totals": {[]pipedreamtest.Option{pipedreamtest.WithPageCap(20), pipedreamtest.WithoutTotals()}, 14},
	"filtered after paging":          {[]pipedreamtest.Option{pipedreamtest.WithFiltersAfterPaging()}, 3},
	"in small pages, filtered after paging": {
		[]pipedreamtest.Option{pipedreamtest.WithPageCap(20), pipedreamtest.WithFiltersAfterPaging()}, 13,
	},
	"all of it": {
		[]pipedreamtest.Option{pipedreamtest.WithPageCap(20), pipedreamtest.WithFiltersAfterPaging(), pipedreamtest.WithoutTotals()}, 14,
	},
}

// listBubble runs f with each form of lists, in a project with 252 accounts of GitHub
// and Slack. The last account is that of the user zoe.
func listBubble(t *testing.T, f func(t *testing.T, m *mount, pages int)) {
	t.Helper()
	for name, form := range formsOfLists {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				for i := range 249 {
					a := connectAccount(accountName(i), fmt.Sprintf("user-%d", i))
					if i%25 == 24 {
						a.App = pipedreamtest.App{ID: "app_Slck1", Slug: "slack"}
					}
					m.sim.SetAccount(a)
				}
				m.sim.SetAccount(connectAccount("apn_zoe", "zoe"))
				f(t, m, form.pages)
			}, form.opts...)
		})
	}
}

// listed lists the accounts that the parameters let through.
func (m *mount) listed(data map[string]any) (ids []string) {
	m.Helper()
	resp, err := m.handle(logical.ListOperation, "accounts/", data)
	require.NoError(m, err)
	ids, _ = resp.Data["keys"].([]string)
	return ids
}

func TestNoFormOfListsLosesAnAccount(t *testing.T) {
	listBubble(t, func(t *testing.T, m *mount, pages int) {
		before := m.sim.Count(pipedreamtest.KindList)
		all := m.listed(nil)
		require.Equal(t, pages, m.sim.Count(pipedreamtest.KindList)-before)
		require.Len(t, all, 252)
		require.Len(t, slices.Compact(slices.Sorted(slices.Values(all))), 252)
		require.Len(t, m.listed(map[string]any{"app": "slack"}), 9)
		require.Equal(t, []string{"apn_zoe"}, m.listed(map[string]any{"external_user_id": "zoe"}))
	})
}

func TestNoFormOfListsLosesAUsersAccount(t *testing.T) {
	listBubble(t, func(t *testing.T, m *mount, _ int) {
		m.role("github", eachUsersGithub)
		resp, err := m.as("zoe")
		require.NoError(t, err)
		require.Equal(t, "apn_zoe", resp.Data["pipedream_account_id"])
	})
}

func TestAColdFleetIsServedInEveryFormOfLists(t *testing.T) {
	listBubble(t, func(t *testing.T, m *mount, _ int) {
		require.Empty(t, m.readFleet(0, 249))
		require.Equal(t, 249, m.cachedInMemory())
	})
}
