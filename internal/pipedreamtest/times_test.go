package pipedreamtest

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStamp(t *testing.T) {
	zone := time.FixedZone("", 3600)
	require.Equal(t, "2024-02-11T05:18:46.000Z", stamp(time.Date(2024, 2, 11, 6, 18, 46, 0, zone)))
	require.Equal(t, "2024-02-11T05:18:46.070Z", stamp(time.Date(2024, 2, 11, 5, 18, 46, 70e6, time.UTC)))
}

func TestTimes(t *testing.T) {
	created := time.Date(2024, 2, 11, 5, 18, 46, 70e6, time.UTC)
	for form, want := range map[TimeForm]string{
		"":                `"2024-02-11T05:18:46.070Z"`,
		TimesISO:          `"2024-02-11T05:18:46.070Z"`,
		TimesOffset:       `"2024-02-11T05:18:46.070+0000"`,
		TimesLower:        `"2024-02-11t05:18:46.070z"`,
		TimesSeconds:      `1707628726`,
		TimesMilliseconds: `1707628726070`,
	} {
		for _, whole := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				a := github
				a.CreatedAt = created
				var options []Option
				if whole {
					options = append(options, WithTimes(form))
				} else {
					a.Times = form
				}
				s, c := newServer(t, options...)
				s.SetAccount(a)
				var got struct {
					Data map[string]json.RawMessage `json:"data"`
				}
				require.NoError(t, json.Unmarshal([]byte(c.get("/accounts/apn_github").body), &got))
				require.Equal(t, want, string(got.Data["created_at"]), form)
				quoted := got.Data["created_at"][0] == '"'
				for _, name := range []string{"updated_at", "expires_at", "last_refreshed_at", "next_refresh_at"} {
					require.Equal(t, quoted, got.Data[name][0] == '"', "%s of %q", name, form)
				}
			})
		}
	}
}

func TestAnAccountsOwnTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithTimes(TimesSeconds))
		a := github
		a.Times = TimesISO
		s.SetAccount(a)
		s.SetAccount(stripe)
		require.Equal(t, stamp(time.Now()), c.get("/accounts/apn_github").data(t)["created_at"])
		require.EqualValues(t, time.Now().Unix(), c.get("/accounts/apn_stripe").data(t)["created_at"])
	})
}

func TestNoSuchTimes(t *testing.T) {
	require.Panics(t, func() { WithTimes("sundial") })
	require.Panics(t, func() { New().SetAccount(Account{ID: "apn_x", Times: "sundial"}) })
}
