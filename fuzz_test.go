package pipedream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// FuzzDecodeAccount feeds the decoder answers for one account. What it takes
// for an account has an id, and an end that is not just missing from sight.
func FuzzDecodeAccount(f *testing.F) {
	for _, seed := range []string{
		`{"data":{"id":"apn_a","name":"n","app":{"id":"app_1","name_slug":"s","name":"N"},"healthy":true,"dead":false,"credentials":{"oauth_access_token":"t"},"expires_at":"2030-02-11T05:18:46.000Z","next_refresh_at":null}}`,
		`{"id":"apn_a","credentials":null,"expires_at":null}`,
		`{"id":"apn_a","credentials":{},"expires_at":"soon"}`,
		`{"id":"apn_a","data":{"id":"apn_b"},"expires_at":17}`,
		`{"error":"record not found"}`,
		`{"data":null,"error":"Record Not Found"}`,
		`{"data":[1]}`,
		`[]`, `null`, `"x"`, ``, "\xff", `{"id":"apn_a","id":"apn_b","credentials":{"a":1,"a":2}}`,
		`{"id":"apn_a","expires_at":"9999-12-31T23:59:59-23:59"}`, `{"id":"apn_a","expires_at":"0001-01-01T00:00:00Z"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := decodeAccount(body)
		if err != nil {
			require.Nil(t, a)
			ownWords(t, err)
			return
		}
		require.NotEmpty(t, a.ID)
		again, err := decodeAccount(body)
		require.NoError(t, err)
		require.Equal(t, a, again)
		if a.ExpiresAt.IsZero() {
			var top map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(body, &top))
			if data := top["data"]; top["id"] == nil {
				top = nil // else it would be added to
				require.NoError(t, json.Unmarshal(data, &top))
			}
			require.True(t, isNull(top["expires_at"]), "an end was overlooked: %s", body)
		}
	})
}

// ownWords holds for every error about an answer: it is one of ours, which
// repeats nothing of what was read.
func ownWords(t *testing.T, err error) {
	t.Helper()
	for _, known := range []error{errNotJSON, errBadExpiry, errBadCredentials, errRecordNotFound} {
		if errors.Is(err, known) {
			return
		}
	}
	t.Errorf("an error that may hold what was read: %q", err)
}

func FuzzDecodePage(f *testing.F) {
	for _, seed := range []string{
		`{"page_info":{"total_count":1,"count":1,"start_cursor":"a","end_cursor":"b"},"data":[{"id":"apn_a"},{"id":"apn_b","expires_at":"x"}]}`,
		`{"page_info":{"end_cursor":""},"data":{"accounts":[{"id":"apn_a"}]}}`,
		`{"page_info":{"end_cursor":17},"data":[]}`, `{"page_info":null,"data":[null,{}]}`, `{"data":{"accounts":null}}`, `{"data":null}`, `{}`, `[]`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := decodePage(body)
		if err != nil {
			require.Nil(t, p)
			ownWords(t, err)
			return
		}
		for _, a := range p.accounts {
			require.NotNil(t, a)
			require.NotEmpty(t, a.ID)
		}
	})
}

func FuzzDecodeToken(f *testing.F) {
	for _, seed := range []string{
		`{"access_token":"t","token_type":"Bearer","expires_in":3600,"created_at":1700000000}`,
		`{"access_token":"t","expires_in":"3600"}`, `{"access_token":"t","expires_in":1e400}`, `{"access_token":"t","expires_in":-1}`,
		`{"access_token":"t","expires_in":0.0000001}`, `{"access_token":"a\r\nb","expires_in":1}`, `{"access_token":["t"]}`, `null`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		asked := time.Now()
		token, err := decodeToken(body, asked)
		if err != nil {
			require.Nil(t, token)
			if len(body) > 0 && len(err.Error()) > 100 {
				t.Errorf("an error that may hold what was read: %q", err)
			}
			return
		}
		require.NotEmpty(t, string(token.token))
		require.False(t, strings.ContainsFunc(string(token.token), func(r rune) bool { return r <= ' ' || r > '~' }), "no header takes %q", string(token.token))
		require.False(t, token.until.Before(asked))
		require.False(t, token.until.After(asked.Add(24*time.Hour)))
	})
}

// FuzzCredentialFields takes credentials of any names and values through all
// that is done to them on the way to a reader.
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
			if isNull(value) {
				require.NotContains(t, fields, name)
				continue
			}
			require.Contains(t, fields, name)
			sameValue(t, value, fields[name])
		}
		renamed := renameReserved(maps.Clone(fields))
		require.ElementsMatch(t, slices.Collect(maps.Values(fields)), slices.Collect(maps.Values(renamed)), "a value was lost or made up")
		for name, value := range fields {
			if !isReserved(name) {
				require.Equal(t, value, renamed[name], "a name that is free was taken from its field")
			}
		}
		for name := range renamed {
			require.False(t, isReserved(name), name)
		}
		for range 5 {
			require.Equal(t, renamed, renameReserved(flatten(raw)), "it depends on the order of a map")
		}
		madeReadAndStored(t, raw)
	})
}

// sameValue asserts that a field's text is the JSON value: a string's own
// characters, or else the very same JSON but for its white space.
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

// madeReadAndStored makes a credential of raw fields, and takes it through
// storage: what a reader gets is the same before and after.
func madeReadAndStored(t *testing.T, raw map[string]json.RawMessage) {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Millisecond)
	for _, expose := range []bool{false, true} {
		c, err := newCredential(&account{ID: github, Credentials: raw, ExpiresAt: now.Add(time.Hour)}, github, now, expose)
		if err != nil {
			require.ErrorContains(t, err, "no credentials for account "+github)
			continue
		}
		data := c.data(expose, nil)
		for name, value := range data {
			require.IsType(t, "", value)
			require.False(t, !expose && isRefreshToken(name), name)
		}
		require.Equal(t, github, data["pipedream_account_id"])
		require.Equal(t, c.ExpiresAt.Format(time.RFC3339), data["expires_at"])

		entry, err := logical.StorageEntryJSON("x", storedEntry{Credential: c, CacheID: "id", CheckedAt: now})
		require.NoError(t, err)
		var stored storedEntry
		require.NoError(t, entry.DecodeJSON(&stored))
		require.Equal(t, data, stored.Credential.data(expose, nil))
		require.True(t, c.sameToken(stored.Credential))
	}
}

// FuzzStoredEntry has storage hold anything at all where the cache, a role
// and a user's account are looked for.
func FuzzStoredEntry(f *testing.F) {
	for _, seed := range []string{
		`{"credential":{"account_id":"apn_github","fields":{"a":"b"},"fetched_at":"2024-01-01T00:00:00Z","expires_at":"2124-01-01T00:00:00Z"},"cache_id":"id","checked_at":"2024-01-01T00:00:00Z"}`,
		`{"credential":{"account_id":"apn_github","fields":{"a":"b"},"expires_at":"9999-12-31T23:59:59Z","next_refresh_at":"0001-01-01T00:00:00Z"},"cache_id":"id"}`,
		`{"credential":null,"cache_id":"id"}`, `{"credential":{"fields":{"ttl":"x"}},"cache_id":"id"}`, `[]`, `null`, ``, `{`,
		`{"account_id":"apn_github","fields":["a"],"ttl":1e30}`, `{"app":"github","external_user_id":"{{"}`, `{"user":"x","account_id":"","cache_id":"id"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		m := fuzzMount(t)
		defer m.b.Cleanup(t.Context())
		c := defaultConfig()
		c.APIKey, c.BaseURL, c.CacheID = testKey, "http://127.0.0.1:1/v1", "id"
		c.RequestTimeout, c.MaxRetries = time.Second, 0
		require.NoError(t, writeConfig(t.Context(), m.storage, c))
		for _, key := range []string{"cache/" + github, "role/one", usersPrefix + user{app: "github", externalID: "alice"}.key()} {
			require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: value}))
		}
		for _, path := range []string{"creds/" + github, "static-creds/" + github, "roles/one", "creds/one", "config"} {
			resp, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: m.storage})
			require.NotContains(t, m.logs.String(), "recovered from a panic", path)
			if err != nil || resp == nil || resp.Secret == nil {
				continue
			}
			require.GreaterOrEqual(t, resp.Secret.TTL, time.Second, path)
			for name := range resp.Data {
				if !slices.Contains([]string{"expires_at", "pipedream_account_id", "pipedream_app", "pipedream_account_name"}, name) {
					require.False(t, isReserved(name), "%s: %q", path, name)
				}
			}
		}
		_, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
		require.NoError(t, err)
		require.NotContains(t, m.logs.String(), "recovered from a panic")
	})
}

// fuzzMount is a mount without a simulator: nothing listens where it asks.
func fuzzMount(t *testing.T) *mount {
	t.Helper()
	m := &mount{T: t, storage: &faultyStorage{Storage: &logical.InmemStorage{}}, system: logical.TestSystemView(), logs: &syncBuffer{}}
	m.b = newBackend(m.storage, nil)
	require.NoError(t, m.b.Setup(context.Background(), &logical.BackendConfig{
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: m.logs}), System: m.system, StorageView: m.storage,
	}))
	return m
}

// FuzzConfigWrite writes config of any values, as each of the types that JSON
// has. It is refused in words that do not hold the key, or else stored so
// that it is within bounds.
func FuzzConfigWrite(f *testing.F) {
	f.Add("pd_key", "https://api.pipedream.com/v1", "20s", "2", "100", uint8(0), uint8(0))
	f.Add("pd key", "http://user:pw@127.0.0.1/v1", "-1", "1e9", "99999999999999999999", uint8(1), uint8(0))
	f.Add("", "http://[::1", "9223372037s", "", "NaN", uint8(2), uint8(0))
	f.Add("pd_\xff", "https://x/%zz", "1h1", "0x10", "1_000", uint8(3), uint8(0))
	f.Add("pd_key", "https://h/?q#f", "18446744075", " 3 ", "-0", uint8(4), uint8(0))
	f.Add("k", "//h", "58.9s", "2.5", "true", uint8(5), uint8(0))
	f.Add("pd_key_in_a_list", "https://h", "20s", "2", "100", uint8(0), uint8(2))
	f.Add("pd_key_in_a_map", "https://h", "20s", "2", "100", uint8(0), uint8(3))
	f.Fuzz(func(t *testing.T, key, baseURL, duration, number, rate string, kind, keyKind uint8) {
		m := fuzzMount(t)
		defer m.b.Cleanup(t.Context())
		const stored = "pd_the_key_that_was_there_before"
		data := map[string]any{"api_key": stored, "verify": false}
		request := &logical.Request{Operation: logical.UpdateOperation, Path: "config", Storage: m.storage, Data: data, MountPoint: "pipedream/"}
		_, err := m.b.HandleRequest(t.Context(), request)
		require.NoError(t, err)

		request.Data = map[string]any{
			"api_key": as(keyKind, key), "base_url": baseURL, "request_timeout": as(kind, duration), "static_ttl": as(kind>>2, duration), "min_ttl": as(kind>>4, duration),
			"max_retries": as(kind, number), "rate_limit": as(kind>>2, rate), "expose_refresh_token": as(kind>>4, number), "verify": false,
			"environment": as(kind>>6, "development"), "ca_cert": as(kind>>6, number),
		}
		// Vault asks first whether the write creates anything, and that can fail too.
		_, _, err = m.b.HandleExistenceCheck(t.Context(), request)
		if err == nil {
			var resp *logical.Response
			if resp, err = m.b.HandleRequest(t.Context(), request); err == nil && resp != nil && resp.IsError() {
				err = resp.Error()
			}
		}
		require.NotContains(t, m.logs.String(), "recovered from a panic")
		require.NotContains(t, m.logs.String(), stored)
		if err != nil {
			require.NotContains(t, err.Error(), stored)
			// A value of another field may be shown, and be the same.
			if len(key) >= 8 && !strings.Contains(baseURL+duration+number+rate, key) {
				require.NotContains(t, err.Error(), key)
			}
			c, err := readConfig(t.Context(), m.storage)
			require.NoError(t, err)
			require.Equal(t, stored, string(c.APIKey), "a write that was refused changed something")
			return
		}
		c, err := readConfig(t.Context(), m.storage)
		require.NoError(t, err)
		require.NoError(t, c.validate())
		require.Equal(t, strings.TrimSpace(key), string(c.APIKey))
		base, err := parseBaseURL(c.BaseURL)
		require.NoError(t, err)
		require.True(t, base.Scheme == "https" || isLoopback(base.Hostname()), c.BaseURL)
		require.LessOrEqual(t, c.RequestTimeout, maxRequestTimeout)
		if _, err := m.b.newSettings(c); err != nil {
			t.Errorf("what was stored makes no client: %v", err)
		}
	})
}

// as gives a value another of the types that JSON has.
func as(kind uint8, text string) any {
	switch kind % 4 {
	case 0:
		return text
	case 1:
		return json.Number(text)
	case 2:
		return []any{text}
	default:
		return map[string]any{text: text}
	}
}

// FuzzRoleTemplate writes roles with any external_user_id, and reads them as
// callers with any alias. Nobody's account is looked for in an empty name, nor
// in what is still a template.
func FuzzRoleTemplate(f *testing.F) {
	for _, seed := range []string{
		"alice", "{{identity.entity.id}}", "{{identity.entity.aliases.auth_userpass_4b1a.name}}", "x-{{ identity.entity.metadata.team }}-y", "{{identity.entity.name}}{{identity.entity.name}}",
		"{{identity.groups.names.g.id}}", "{{", "}}", "{{}}", "{{identity.entity.metadata.}}", "{{identity.entity.aliases..name}}", "{{identity.entity.aliases.a.b.name}}", "{{time.now}}", "{ {identity.entity.id}}", "{{{identity.entity.id}}}",
	} {
		f.Add(seed, "alice", "team", "red")
	}
	f.Add("{{identity.entity.metadata.team}}", "", "team", "")
	f.Add("team-{{identity.entity.metadata.team}}", "", "team", "")
	f.Add("{{identity.entity.name}}", "{{identity.entity.id}}", "", "}}")
	f.Fuzz(func(t *testing.T, template, alias, key, value string) {
		r := &role{App: "github", ExternalUserID: template}
		if r.validate() != nil {
			return
		}
		req := &logical.Request{EntityID: "entity-1"}
		system := logical.TestSystemView()
		system.EntityVal = &logical.Entity{
			ID: "entity-1", Name: alias, Metadata: map[string]string{key: value},
			Aliases: []*logical.Alias{{ID: "alias-1", MountAccessor: accessor, Name: alias, Metadata: map[string]string{key: value}, CustomMetadata: map[string]string{key: value}}},
		}
		system.GroupsVal = []*logical.Group{{ID: "group-1", Name: "g", Metadata: map[string]string{key: value}}}
		templated := strings.Contains(template, "{{")
		found, err := r.externalUser(req, system)
		if !templated {
			require.NoError(t, err)
			require.Equal(t, template, found)
			return
		}
		_, errOfNobody := r.externalUser(&logical.Request{}, system)
		require.Error(t, errOfNobody, "a caller without an entity")
		if err != nil {
			return
		}
		require.NotEmpty(t, found)
		require.LessOrEqual(t, len([]rune(found)), maxExternalUserID)
		// What comes of a directive is what the caller's identity holds, and never nothing: a template that says
		// "team-" and then the caller's team must not find the user "team-".
		literal := 0
		for i, piece := range strings.Split(template, "{{") {
			if _, rest, ok := strings.Cut(piece, "}}"); i > 0 && ok {
				piece = rest
			}
			literal += len(piece)
		}
		require.Greater(t, len(found), literal, "%q became %q", template, found)
	})
}
