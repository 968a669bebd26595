package pipedream

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/credential"
)

// FuzzStoredEntry puts any bytes into storage in place of a cached credential, a role
// and a user's account.
func FuzzStoredEntry(f *testing.F) {
	for _, seed := range []string{
		`{"account_id":"apn_github","fields":{"a":"b"},"fetched_at":"2024-01-01T00:00:00Z","checked_at":"2024-01-01T00:00:00Z","expires_at":"2124-01-01T00:00:00Z"}`,
		`{"account_id":"apn_github","fields":{"a":"b"},"checked_at":"9999-12-31T23:59:59Z","read_at":"9999-12-31T23:59:59Z"}`,
		`{"account_id":"apn_github","fields":{"a":"b"},"expires_at":"9999-12-31T23:59:59Z","next_refresh_at":"0001-01-01T00:00:00Z"}`,
		`{"fields":{"ttl":"x"}}`, `[]`, `null`, ``, `{`,
		`{"account_id":"apn_github","fields":["a"],"ttl":1e30}`, `{"app":"github","external_user_id":"{{"}`, `{"user":"x","account_id":""}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		m := fuzzMount(t)
		defer m.b.Cleanup(t.Context())
		c := defaultConfig()
		c.APIKey, c.BaseURL, c.CacheID, c.UsersID = testKey, "http://127.0.0.1:1/v1", "id", "users"
		c.RequestTimeout, c.MaxRetries = time.Second, 0
		require.NoError(t, writeConfig(t.Context(), m.storage, c))
		for _, key := range []string{
			"cache/" + github, "cache/id/" + github, "role/one", "cache/users/" + githubOfAlice(),
		} {
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
					require.False(t, credential.IsReserved(name), "%s: %q", path, name)
				}
			}
		}
		_, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
		require.NoError(t, err)
		require.NotContains(t, m.logs.String(), "recovered from a panic")
	})
}

// fuzzMount returns a mount without a simulator. Nothing listens at its base_url.
func fuzzMount(t *testing.T) *mount {
	t.Helper()
	m := &mount{T: t, storage: &faultyStorage{storage: &logical.InmemStorage{}}, system: newSystem(), logs: &syncBuffer{}}
	m.b = newBackend(m.storage, nil)
	require.NoError(t, m.b.Setup(context.Background(), &logical.BackendConfig{
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: m.logs}), System: m.system, StorageView: m.storage,
	}))
	return m
}

// FuzzConfigWrite writes config with any values, of each JSON type. A write is either
// refused with an error that does not contain the key, or stored within bounds.
func FuzzConfigWrite(f *testing.F) {
	f.Add("pd_key", "https://api.pipedream.com/v1", "20s", "2", "100", uint8(0), uint8(0))
	f.Add("pd key", "http://user:pw@127.0.0.1/v1", "-1", "1e9", "99999999999999999999", uint8(1), uint8(0))
	f.Add("", "http://[::1", "9223372037s", "", "NaN", uint8(2), uint8(0))
	f.Add("pd_\xff", "https://x/%zz", "1h1", "0x10", "1_000", uint8(3), uint8(0))
	f.Add("pd_key", "https://h/?q#f", "18446744075", " 3 ", "-0", uint8(4), uint8(0))
	f.Add("k", "//h", "58.9s", "2.5", "true", uint8(5), uint8(0))
	f.Add("k", "https://h", "010", "0100", "0b11", uint8(0), uint8(0))
	f.Add("k", "https://h", "1e3", "-1", "1.0", uint8(0b01010101), uint8(0))
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
		// Vault first checks whether the write creates anything. That can fail too.
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
			// The value of another field may be shown, and may be the same.
			if len(key) >= 8 && !strings.Contains(baseURL+duration+number+rate, key) {
				require.NotContains(t, err.Error(), key)
			}
			c, err := readConfig(t.Context(), m.storage)
			require.NoError(t, err)
			require.Equal(t, stored, string(c.APIKey), "a refused write changes nothing")
			return
		}
		c, err := readConfig(t.Context(), m.storage)
		require.NoError(t, err)
		require.NoError(t, c.validate())
		require.Equal(t, strings.TrimSpace(key), string(c.APIKey))
		base, err := parseBaseURL(c.BaseURL)
		require.NoError(t, err)
		require.True(t, base.Scheme == "https" || api.IsLoopback(base.Hostname()), c.BaseURL)
		require.LessOrEqual(t, c.RequestTimeout, maxRequestTimeout)
		require.Equal(t, number, strconv.Itoa(c.MaxRetries), "as a person reads it")
		if rate != "-1" {
			require.Equal(t, rate, strconv.Itoa(c.rateLimit()), "as a person reads it")
		}
		if _, err := m.b.connect(m.storage, c, nil); err != nil {
			t.Errorf("what was stored makes no client: %v", err)
		}
	})
}

// as returns text as a value of one of the JSON types.
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

// FuzzRoleTemplate makes roles with any external_user_id, for callers with any alias.
// No account is ever looked up for an empty user, or for what is still a template.
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
		// A directive becomes what the caller's identity has, and is never empty. A template of "team-" and the
		// caller's team must not find the user "team-".
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
