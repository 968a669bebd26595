package pipedream

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/redact/redacttest"
)

// Vault calls the factory at registration too, with an empty configuration.
func TestFactory(t *testing.T) {
	b, err := Factory(t.Context(), &logical.BackendConfig{})
	require.NoError(t, err)
	require.Equal(t, logical.TypeLogical, b.Type())
	require.True(t, strings.HasPrefix(b.(*backend).PluginVersion().Version, "v"))
	b.Cleanup(t.Context())

	_, err = Factory(t.Context(), nil)
	require.Error(t, err)
}

// An entry of SealWrapStorage or LocalStorage without a final slash matches only
// that key.
func TestSpecialPathsMatchWhatIsStored(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		special := m.b.SpecialPaths()
		matches := func(entries []string, key string) bool {
			for _, entry := range entries {
				if entry == key || strings.HasSuffix(entry, "/") && strings.HasPrefix(key, entry) {
					return true
				}
			}
			return false
		}
		keys, err := logical.CollectKeys(t.Context(), logical.NewStorageView(m.storage, ""))
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"config", m.cacheKey(github)}, keys)
		for _, key := range keys {
			require.True(t, matches(special.SealWrapStorage, key), key)
		}
		require.True(t, matches(special.LocalStorage, m.cacheKey(github)))
		require.False(t, matches(special.LocalStorage, "config"))
	})
}

func TestEveryPathIsDocumented(t *testing.T) {
	b := newBackend(&logical.InmemStorage{}, nil)
	defer b.Cleanup(t.Context())
	require.NotEmpty(t, b.Help)
	for _, path := range b.Paths {
		require.NotEmpty(t, path.HelpSynopsis, path.Pattern)
		require.NotEmpty(t, path.HelpDescription, path.Pattern)
		require.NotNil(t, path.DisplayAttrs, path.Pattern)
		for _, name := range fieldsOf(path) {
			field := path.Fields[name]
			require.NotEmpty(t, field.Description, "%s %s", path.Pattern, name)
			require.NotNil(t, field.DisplayAttrs, "%s %s", path.Pattern, name)
		}
		for op, handler := range path.Operations {
			properties := handler.Properties()
			require.NotEmpty(t, properties.Summary, "%s %s", op, path.Pattern)
			require.NotEmpty(t, properties.Responses, "%s %s", op, path.Pattern)
		}
	}
}

func TestHelp(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		for _, path := range []string{"", "config", "creds/" + github, "static-creds/" + github, "accounts", "accounts/" + github, "refresh/" + github, "connect/github", "status"} {
			resp, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.HelpOperation, Path: path, Storage: m.storage})
			require.NoError(t, err, path)
			require.NotContains(t, resp.Data["help"], "<no ", path)
		}
	})
}

// A panic would end the process, which all mounts share.
func TestAPanicBecomesAnError(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.b.Route("config").Operations[logical.ReadOperation] = &framework.PathOperation{
			Callback: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
				panic("holding " + testKey)
			},
		}
		_, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "config", Storage: m.storage})
		m.refused(err, 500)
		require.Contains(t, m.logs.String(), "recovered from a panic")
		m.noSecretIn(m.logs.String())
	})
}

func TestSecretsAreRedacted(t *testing.T) {
	const hidden = "pd_hidden"
	c := &connection{config: &config{APIKey: hidden}}
	got := &served{target: &target{connection: c}, credential: &credential.Credential{Fields: map[string]string{"token": hidden}}}
	redacttest.Check(t, hidden, &config{APIKey: hidden, ClientSecret: hidden}, c, got, got.target)
}

// appliedStorage applies a write and then returns an error, as Vault's storage may
// when a client goes away.
type appliedStorage struct {
	logical.Storage

	lost error
}

func (s *appliedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if err := s.Storage.Put(ctx, entry); err != nil {
		return err
	}
	return s.lost
}

func (s *appliedStorage) Delete(ctx context.Context, key string) error {
	if err := s.Storage.Delete(ctx, key); err != nil {
		return err
	}
	return s.lost
}

// A write that changed storage takes effect even if its client never learns of it.
func TestAWriteTakesEffectWhenItsClientGoesAway(t *testing.T) {
	tests := map[string]struct {
		write    func(*mount) error
		inEffect func(*mount)
	}{
		"role deleted": {
			func(m *mount) error { return ignoreAnswer(m.handle(logical.DeleteOperation, "roles/ci", nil)) },
			func(m *mount) {
				_, err := m.read("creds/ci")
				m.refused(err, http.StatusBadRequest, `no role "ci"`)
			},
		},
		"role narrowed": {
			func(m *mount) error { return ignoreAnswer(m.write("roles/ci", map[string]any{"fields": "oauth_uid"})) },
			func(m *mount) { require.NotContains(m, m.creds("ci").Data, "oauth_access_token") },
		},
		"config deleted": {
			func(m *mount) error { return ignoreAnswer(m.handle(logical.DeleteOperation, "config", nil)) },
			func(m *mount) {
				_, err := m.read("creds/" + github)
				m.refused(err, http.StatusBadRequest, "not configured")
			},
		},
		"account ids forbidden": {
			func(m *mount) error {
				return ignoreAnswer(m.write("config", map[string]any{"allow_account_ids": false}))
			},
			func(m *mount) {
				_, err := m.read("creds/" + github)
				m.refused(err, http.StatusBadRequest, "allow_account_ids is false")
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				m.role("ci", map[string]any{"account_id": github})
				m.creds("ci")
				m.creds(github)
				storage := &appliedStorage{Storage: m.storage.below(), lost: context.Canceled}
				m.storage.replace(func(logical.Storage) logical.Storage { return storage })
				require.Error(t, test.write(m))
				m.storage.replace(func(logical.Storage) logical.Storage { return storage.Storage })
				test.inEffect(m)
			})
		})
	}
}

// A write to storage goes on when its client goes away.
func TestAWriteGoesOnWithoutItsClient(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.role("ci", map[string]any{"account_id": github})
		m.creds("ci")
		m.slowOnce("delete", "role/ci", 3*time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := m.b.HandleRequest(ctx, &logical.Request{Operation: logical.DeleteOperation, Path: "roles/ci", Storage: m.storage})
		require.NoError(t, err)
		_, err = m.read("creds/ci")
		m.refused(err, http.StatusBadRequest, `no role "ci"`)
	})
}

// One bug must not end the process, which other mounts share. That includes bugs in
// goroutines that the engine starts. Each case runs in a process of its own, which
// would end.
func TestAPanicEndsNoProcess(t *testing.T) {
	const variable = "TEST_A_PANIC_IN"
	reads := map[string]func(*mount) error{
		"an account": func(m *mount) error {
			m.configure(map[string]any{"verify": false})
			return ignoreAnswer(m.read("creds/" + github))
		},
		"metadata": func(m *mount) error {
			m.configure(map[string]any{"verify": false})
			return ignoreAnswer(m.read("accounts/" + github))
		},
		"a list": func(m *mount) error {
			m.configure(map[string]any{"verify": false})
			return ignoreAnswer(m.handle(logical.ListOperation, "accounts/", nil))
		},
		"the check of a key": func(m *mount) error {
			return ignoreAnswer(m.write("config", map[string]any{"api_key": testKey, "base_url": testBaseURL}))
		},
		"the search for a user's account": func(m *mount) error {
			m.configureClient(map[string]any{"verify": false, "project_id": testProject})
			m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
			return ignoreAnswer(m.read("creds/alices"))
		},
		"a workspace token": func(m *mount) error {
			m.configureClient(map[string]any{"verify": false})
			return ignoreAnswer(m.read("creds/" + github))
		},
	}
	if name := os.Getenv(variable); name != "" {
		synctest.Test(t, func(t *testing.T) {
			m := newMount(t)
			m.b.transport = panicking{}
			require.Error(t, reads[name](m))
			require.NotContains(t, m.logs.String(), "pdtok_in_a_panic")
		})
		return
	}
	for name := range reads {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAPanicEndsNoProcess$") //nolint:gosec // this test itself
			again.Env = append(os.Environ(), variable+"="+name)
			output, err := again.CombinedOutput()
			require.NoError(t, err, string(output[:min(len(output), 1000)]))
		})
	}
}

// panicking is a transport that panics, like a bug in any code below it.
type panicking struct{}

func (panicking) RoundTrip(*http.Request) (*http.Response, error) { panic("pdtok_in_a_panic") }
