package credential

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
)

// FuzzCredentialFields takes credential fields of any name and value the whole way
// to a reader.
func FuzzCredentialFields(f *testing.F) {
	for _, seed := range []string{
		`{"oauth_access_token":"t","oauth_refresh_token":"r","ttl":1,"credential_ttl":2,"credential_credential_ttl":"3"}`,
		`{"http_x":[1, 2.50],"pipedream_app":{"a":  null},"_raw":true,"error":"e","":"","data":1152921504606846976,"null":null}`,
		`{"a":"\ud800","b":"\u0000","c":1e5,"d":-0,"e":"<>&","expires_at":"2030-01-01T00:00:00Z"}`,
		`{}`, `null`, `{"credential_":"","credential_credential_":1}`, "{\"0\":{\"\x80\":null}}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var raw map[string]json.RawMessage
		if json.Unmarshal(body, &raw) != nil {
			return
		}
		fields := flatten(raw)
		for name, value := range raw {
			if _, ok := flat(value); !ok {
				continue
			}
			if printable(name) == name {
				sameValue(t, value, fields[name])
			}
		}
		for name := range fields {
			require.Equal(t, printable(name), name)
		}
		renamed := renameReserved(maps.Clone(fields))
		require.ElementsMatch(t, slices.Collect(maps.Values(fields)), slices.Collect(maps.Values(renamed)), "no value is lost or added")
		for name, value := range fields {
			if !IsReserved(name) {
				require.Equal(t, value, renamed[name], "a field keeps a name that is not reserved")
			}
		}
		for name := range renamed {
			require.False(t, IsReserved(name), name)
		}
		for range 5 {
			require.Equal(t, renamed, renameReserved(flatten(raw)), "it must not depend on the order of a map")
		}
		madeReadAndStored(t, raw)
	})
}

// sameValue asserts that text is the JSON value: the characters of a string, or
// the same JSON except for white space.
func sameValue(t *testing.T, value json.RawMessage, text string) {
	t.Helper()
	var s string
	if json.Unmarshal(value, &s) == nil {
		require.Equal(t, s, text)
		return
	}
	var compact bytes.Buffer
	require.NoError(t, json.Compact(&compact, value))
	require.Equal(t, strings.ToValidUTF8(compact.String(), "\uFFFD"), text)
}

// madeReadAndStored makes a credential of raw fields and takes it through storage.
// A reader gets the same before and after.
func madeReadAndStored(t *testing.T, raw map[string]json.RawMessage) {
	t.Helper()
	const id = "apn_github"
	now := time.Now().UTC().Truncate(time.Millisecond)
	for _, expose := range []bool{false, true} {
		c, err := New(&api.Account{ID: id, Credentials: raw, ExpiresAt: now.Add(time.Hour)}, now, expose)
		if err != nil {
			require.Equal(t, api.NoCredentials, api.KindOf(err))
			continue
		}
		data := c.Data(expose, nil)
		for name, value := range data {
			require.IsType(t, "", value)
			require.False(t, !expose && isRefreshToken(name), name)
		}
		require.Equal(t, id, data[FieldAccountID])
		require.Equal(t, c.ExpiresAt.Format(time.RFC3339), data[FieldExpiresAt])

		raw, err := json.Marshal(c)
		require.NoError(t, err)
		var stored Credential
		require.NoError(t, json.Unmarshal(raw, &stored))
		require.Equal(t, data, stored.Data(expose, nil))
		require.True(t, c.sameToken(&stored))
	}
}
