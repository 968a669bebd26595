package pipedreamtest

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		require.Equal(t, []string{"pd_test_key"}, s.Secrets())

		s.SetAPIKey("pd_next_key")
		s.SetOAuthClient("client", "client_secret", 0)
		workspace := member[string](t, c.token("client", "client_secret", "").object(t), "access_token")

		s.SetAccount(github)
		s.SetAccount(Account{ID: "apn_x", Credentials: map[string]any{
			"longer_than_a_value": "short",
			"nested":              map[string]any{"list": []string{"in a list"}},
			"raw":                 json.RawMessage(`{"twice":"the first","twice":"the last","n":12345678}`),
		}})
		require.Len(t, s.Secrets(), 4, "nothing was handed out yet")

		first := s.Token("apn_github")
		s.Rotate("apn_github")
		got := c.as("pd_next_key").get("/accounts/apn_github?include_credentials=1").credentials(t)
		c.as("pd_next_key").get("/accounts?include_credentials=true")
		require.ElementsMatch(t, []string{
			"pd_test_key", "pd_next_key", "client_secret", workspace,
			first, member[string](t, got, "oauth_access_token"), member[string](t, got, "oauth_refresh_token"), "pdclient_apn_github", "pduid_apn_github",
			"in a list", "the first", "the last",
		}, s.Secrets())

		time.Sleep(time.Hour)
		c.as("pd_next_key").get("/accounts/apn_github?include_credentials=1")
		require.Len(t, s.Secrets(), 13)
		require.Contains(t, s.Secrets(), s.Token("apn_github"))
	})
}

func TestStringValues(t *testing.T) {
	for text, want := range map[string][]string{
		`"top"`:            {"top"},
		`{"name":"value"}`: {"value"},
		`{"a":{"b":["c",{"d":"e"},"f"],"g":"h"},"i":"j"}`: {"c", "e", "f", "h", "j"},
		`{"a":1,"b":null,"c":true,"d":"e"}`:               {"e"},
		`[["a"],"b"]`:                                     {"a", "b"},
		`{"a":"b","c":<html>`:                             {"b"},
		``:                                                nil,
		`null`:                                            nil,
	} {
		require.Equal(t, want, stringValues(json.RawMessage(text)), text)
	}
}
