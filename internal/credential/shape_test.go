package credential

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
)

// made returns the credential of an account whose credentials Pipedream wrote that
// way.
func made(t *testing.T, credentials string, keepRefreshToken bool) *Credential {
	t.Helper()
	var raw map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(credentials), &raw))
	c, err := New(&api.Account{ID: "apn_github", Credentials: raw, Healthy: true}, fetched, keepRefreshToken)
	require.NoError(t, err)
	return c
}

// fieldsOf returns the app's fields that a read returns.
func fieldsOf(c *Credential, exposeRefreshToken bool) map[string]any {
	data := c.Data(exposeRefreshToken, nil)
	delete(data, FieldAccountID)
	return data
}

func TestAFieldIsItsExactText(t *testing.T) {
	for name, tc := range map[string]struct{ json, text string }{
		"a text":                          {`"sk_live_1"`, "sk_live_1"},
		"a text of escapes":               {`"a\u0041\n\"<>&"`, "aA\n\"<>&"},
		"no text at all":                  {`""`, ""},
		"a number that no float can hold": {`1152921504606846977`, "1152921504606846977"},
		"a number with zeros at its end":  {`2.50`, "2.50"},
		"a number with an exponent":       {`1e400`, "1e400"},
		"true":                            {`true`, "true"},
		"a list without its white space":  {`[ 1, 2.50 ,"<>" ]`, `[1,2.50,"<>"]`},
		"an object in its own order":      {`{"b": 1, "a": {"c": null}}`, `{"b":1,"a":{"c":null}}`},
		"a text that is JSON stays as is": {`"{ \"b\": 1.50 }"`, `{ "b": 1.50 }`},
		"what is no UTF-8":                {"[\"\xff\"]", "[\"\uFFFD\"]"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, map[string]any{"f": tc.text}, fieldsOf(made(t, `{"f":`+tc.json+`}`, false), false))
		})
	}
	require.Equal(t, map[string]any{"a": "1"}, fieldsOf(made(t, `{"a":"1","b":null}`, false), false), "null is nothing")
}

func TestARefreshTokenIsLeftOutUnderAnyName(t *testing.T) {
	for _, name := range []string{
		"refresh_token", "oauth_refresh_token", "refreshToken", "RefreshToken", "REFRESH_TOKEN", "REFRESH_TOKEN_2", "refresh-token",
		"google-refresh-token-v2", "refresh token", "refresh.token", "my_refresh_token_secret", `refresh\u001b_token`, `refresh\u200btoken`,
	} {
		t.Run(name, func(t *testing.T) {
			credentials := `{"access_token":"a","` + name + `":"r"}`
			c := made(t, credentials, false)
			require.Equal(t, map[string]string{"access_token": "a"}, c.Fields)
			require.True(t, c.RefreshTokenOmitted)
			require.False(t, c.RefreshTokenKept)

			kept := made(t, credentials, true)
			require.ElementsMatch(t, []string{"a", "r"}, slices.Collect(maps.Values(kept.Fields)))
			require.True(t, kept.RefreshTokenKept)
			require.False(t, kept.RefreshTokenOmitted)
			require.Equal(t, map[string]any{"access_token": "a"}, fieldsOf(kept, false), "a read without refresh tokens")
			require.Len(t, fieldsOf(kept, true), 2)
		})
	}
	for _, name := range []string{"refresh", "token", "refresh_at_token", "token_refresh", "refreshing_tokens"} {
		c := made(t, `{"`+name+`":"x"}`, false)
		require.Equal(t, map[string]string{name: "x"}, c.Fields)
		require.False(t, c.RefreshTokenOmitted)
	}
}

func TestARefreshTokenIsLeftOutOfValues(t *testing.T) {
	for name, tc := range map[string]struct{ json, text string }{
		"of an object":                  {`{"refresh_token":"r","access_token":"a"}`, `{"access_token":"a"}`},
		"of an object in an object":     {`{"a":{"b":{"refreshToken":"r","c":1}}}`, `{"a":{"b":{"c":1}}}`},
		"of an object in a list":        {`[1,{"refresh_token":"r"},[{"refresh_token":"r","d":2}]]`, `[1,{},[{"d":2}]]`},
		"of a text that is JSON":        {`"{\"refresh_token\":\"r\",\"access_token\":\"a\"}"`, `{"access_token":"a"}`},
		"of such a text in white space": {`" \n {\"refresh_token\":\"r\",\"a\":1} "`, `{"a":1}`},
		"of JSON in a text in JSON":     {`{"saved":"{\"refresh_token\":\"r\",\"a\":\"b\"}"}`, `{"saved":"{\"a\":\"b\"}"}`},
		"of JSON in a text in a text":   {`"{\"saved\":\"{\\\"refresh_token\\\":\\\"r\\\"}\"}"`, `{"saved":"{}"}`},
		"numbers keep all digits":       {`{"refresh_token":"r","n":1152921504606846977,"m":2.50}`, `{"m":2.50,"n":1152921504606846977}`},
		"other characters stay":         {`{"refresh_token":"r","u":"<>&é"}`, `{"u":"<>&é"}`},
		"an object in place of one":     {`{"refresh_token":{"value":"r"},"a":1}`, `{"a":1}`},
		"two of them":                   {`{"refresh_token":"r","REFRESH_TOKEN_2":"r","a":1}`, `{"a":1}`},
	} {
		t.Run(name, func(t *testing.T) {
			credentials := `{"tokens":` + tc.json + `}`
			c := made(t, credentials, false)
			require.Equal(t, map[string]string{"tokens": tc.text}, c.Fields)
			require.True(t, c.RefreshTokenOmitted)

			kept := made(t, credentials, true)
			require.True(t, kept.RefreshTokenKept)
			require.Contains(t, kept.Fields["tokens"], "r")
			require.Equal(t, map[string]any{"tokens": tc.text}, fieldsOf(kept, false))
		})
	}
	for name, value := range map[string]string{
		"an object without one":          `{ "b":1, "a":[2.50, "refresh_token"] }`,
		"a text that only looks like it": `{"refresh_token":`,
		"a text about one":               `the refresh_token is gone`,
		"a list of names":                `["refresh_token"]`,
	} {
		t.Run(name, func(t *testing.T) {
			quoted, err := json.Marshal(value)
			require.NoError(t, err)
			c := made(t, `{"tokens":`+string(quoted)+`}`, false)
			require.Equal(t, value, c.Fields["tokens"], "to the byte")
			require.False(t, c.RefreshTokenOmitted)
		})
	}
}

// A read shows the names of fields on a terminal.
func TestControlCharactersAreDroppedFromNames(t *testing.T) {
	for name, tc := range map[string]struct {
		credentials string
		fields      map[string]string
	}{
		"an escape sequence":          {`{"\u001b[31mkey\u001b[0m":"k"}`, map[string]string{"[31mkey[0m": "k"}},
		"a bell, a line break, a tab": {`{"a\u0007b\r\nc\td":"k"}`, map[string]string{"abcd": "k"}},
		"text from right to left":     {`{"a\u202eb":"k"}`, map[string]string{"ab": "k"}},
		"nothing that can be shown":   {`{"\u0000":"k"}`, map[string]string{"_": "k"}},
		"two of those":                {`{"\u0000":"k","\u0001":"l"}`, map[string]string{"_": "k", "__": "l"}},
		"a name that is taken":        {`{"key":"k","key\u0007":"l"}`, map[string]string{"key": "k", "key_": "l"}},
		"letters of any script stay":  {`{"clé 鍵":"k"}`, map[string]string{"clé 鍵": "k"}},
		"what becomes a reserved one": {`{"ttl\u0007":"k"}`, map[string]string{"credential_ttl": "k"}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.fields, made(t, tc.credentials, false).Fields)
		})
	}
}

func TestReservedNames(t *testing.T) {
	for _, name := range []string{
		"expires_at", "certificate", "expiration", "secret_id", "secret_id_ttl", "rotation_period", "rotation_schedule", "last_vault_rotation",
		"ttl", "metadata", "data", "error", "renewable", "lease_id", "lease_duration", "lease_renewable", "request_id", "refresh_interval", "_raw",
		"http_status_code", "http_", "pipedream_app", "pipedream_account_id", "pipedream_",
	} {
		require.True(t, IsReserved(name), name)
		c := made(t, `{"`+name+`":"v"}`, false)
		require.Equal(t, map[string]any{"credential_" + name: "v"}, fieldsOf(c, false))
	}
	for _, name := range []string{"token", "TTL", "tt", "http", "https_proxy", "my_http_", "pipedream", "credential_ttl", "raw", "account_id"} {
		require.False(t, IsReserved(name), name)
		require.Equal(t, map[string]any{name: "v"}, fieldsOf(made(t, `{"`+name+`":"v"}`, false), false))
	}
}

func TestNoValueIsLostByARename(t *testing.T) {
	c := made(t, `{"ttl":"1","credential_ttl":"2","credential_credential_ttl":"3","data":"4"}`, false)
	require.Equal(t, map[string]any{
		"credential_ttl": "2", "credential_credential_ttl": "3", "credential_credential_credential_ttl": "1", "credential_data": "4",
	}, fieldsOf(c, false), "a field keeps a name that is not reserved")
}

func TestData(t *testing.T) {
	c := made(t, `{"oauth_access_token":"a","oauth_refresh_token":"r","expires_at":"x"}`, true)
	c.AccountName, c.App = "Octo Cat", "github"
	c.ExpiresAt = time.Date(2026, 11, 23, 15, 33, 0, 999e6, time.FixedZone("", 3600))
	require.Equal(t, map[string]any{
		"oauth_access_token": "a", "credential_expires_at": "x",
		"pipedream_account_id": "apn_github", "pipedream_account_name": "Octo Cat", "pipedream_app": "github", "expires_at": "2026-11-23T14:33:00Z",
	}, c.Data(false, nil))
	require.Equal(t, map[string]any{
		"oauth_refresh_token":  "r",
		"pipedream_account_id": "apn_github", "pipedream_account_name": "Octo Cat", "pipedream_app": "github", "expires_at": "2026-11-23T14:33:00Z",
	}, c.Data(true, func(name string) bool { return name == "oauth_refresh_token" }))
	require.True(t, c.Has("oauth_refresh_token", true))
	require.False(t, c.Has("oauth_refresh_token", false))
	require.False(t, c.Has(FieldApp, true), "it is not a field of the app")
}

func TestARefreshTokenInAListOfStrings(t *testing.T) {
	c := made(t, `{"tokens":["{\"refresh_token\":\"r\",\"a\":1}"]}`, false)
	require.Equal(t, map[string]string{"tokens": `["{\"a\":1}"]`}, c.Fields)
}

func TestARefreshTokenAfterTheFirstJSONValue(t *testing.T) {
	c := made(t, `{"tokens":"{\"a\":1}\n{\"refresh_token\":\"rrr\"}"}`, false)
	require.NotContains(t, c.Fields["tokens"], "rrr")
}

func TestJSONAfterAStrippedValueStays(t *testing.T) {
	c := made(t, `{"tokens":"{\"refresh_token\":\"r\"}\n{\"a\":1}"}`, false)
	require.Contains(t, c.Fields["tokens"], `"a"`)
}

func TestARefreshTokenInAQuotedString(t *testing.T) {
	c := made(t, `{"tokens":"\"{\\\"refresh_token\\\":\\\"rrr\\\"}\""}`, false)
	require.NotContains(t, c.Fields["tokens"], "rrr")
}

func TestANameThatIsTakenOncePrintable(t *testing.T) {
	c := made(t, `{"\u0007key":"k","key":"l"}`, false)
	require.Equal(t, map[string]string{"key": "l", "key_": "k"}, c.Fields)
}
