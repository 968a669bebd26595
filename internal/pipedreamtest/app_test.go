package pipedreamtest

import (
	"encoding/json"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestAppHasAllFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		s.SetAccount(stripe)
		app := func(id string) map[string]any {
			return member[map[string]any](t, c.get("/accounts/"+id).data(t), "app")
		}
		oauth := app("apn_github")
		require.NotEmpty(t, member[string](t, oauth, "description"))
		require.Regexp(t, "^https://", oauth["img_src"])
		require.Equal(t, "[]", oauth["custom_fields_json"])
		require.NotEmpty(t, member[[]any](t, oauth, "categories"))
		require.IsType(t, 0.0, oauth["featured_weight"])
		require.Contains(t, member[map[string]any](t, oauth, "connect"), "base_proxy_target_url")
		require.NotEmpty(t, member[[]any](t, oauth, "scope_profiles"))

		keys := app("apn_stripe")
		require.Empty(t, member[[]any](t, keys, "scope_profiles"))
		var fields []map[string]any
		require.NoError(t, json.Unmarshal([]byte(member[string](t, keys, "custom_fields_json")), &fields))
		require.Len(t, fields, 1)
		require.Equal(t, "api_key", fields[0]["name"])
	})
}

func TestAppID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		for _, tt := range []struct {
			authType, oauthApp string
			want               any
		}{
			{"oauth", "", "app_x"},
			{"oauth", "oa_x", "oa_x"},
			{"keys", "", nil},
			{"none", "", nil},
			{"", "", "app_x"},
		} {
			s.SetAccount(Account{ID: "apn_x", OAuthAppID: tt.oauthApp, App: App{ID: "app_x", Slug: "x", AuthType: tt.authType}})
			app := member[map[string]any](t, c.get("/accounts/apn_x").data(t), "app")
			require.Contains(t, app, "id")
			require.Equal(t, tt.want, app["id"], tt.authType)
			ids, _ := listed(t, c.get("/accounts?app=app_x"))
			require.Equal(t, []string{"apn_x"}, ids, "the id that it shows does not find it")
		}
	})
}

func TestPlainApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		a := stripe
		a.PlainApp = true
		s.SetAccount(a)
		got := c.get("/accounts/apn_stripe").data(t)
		require.Equal(t, map[string]any{"id": "app_OkrhR1", "name": "Stripe"}, got["app"])
	})
}
