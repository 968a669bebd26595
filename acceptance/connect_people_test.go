package acceptance

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
)

// people are the users of a test's own userpass method. They all have the same policies.
type people struct {
	m        *mount
	path     string
	accessor string
	policies string
}

// people enables a userpass method. Its users may use the role github unless other rules are given.
func (m *mount) people(t *testing.T, rules ...string) *people {
	t.Helper()
	return m.peopleAt(t, slug(t.Name()), rules...)
}

func (m *mount) peopleAt(t *testing.T, path string, rules ...string) *people {
	t.Helper()
	if len(rules) == 0 {
		rules = []string{m.rules("github")}
	}
	sys := m.vault.root.Sys()
	require.NoError(t, sys.EnableAuthWithOptions(path, &api.EnableAuthOptions{Type: "userpass"}))
	require.NoError(t, sys.PutPolicy(path, strings.Join(rules, "\n")))
	m.cleanUp(t, func() error { return sys.DisableAuth(path) })
	m.cleanUp(t, func() error { return sys.DeletePolicy(path) })
	methods, err := sys.ListAuth()
	require.NoError(t, err)
	return &people{m: m, path: path, accessor: methods[path+"/"].Accessor, policies: path}
}

// cleanUp restores the shared server. A server of the test alone may be gone by then.
func (m *mount) cleanUp(t *testing.T, undo func() error) {
	t.Helper()
	if m.vault == shared.server {
		t.Cleanup(func() { require.NoError(t, undo()) })
	}
}

// rules are policy rules for the use of roles. A name may end in *.
func (m *mount) rules(names ...string) string {
	var rules strings.Builder
	for _, name := range names {
		for _, path := range []string{"creds/", "static-creds/", "refresh/"} {
			fmt.Fprintf(&rules, "path %q { capabilities = [\"read\", \"update\"] }\n", m.in(path+name))
		}
	}
	return rules.String()
}

// name is a template for the name that somebody logs in with.
func (p *people) name() string { return "{{identity.entity.aliases." + p.accessor + ".name}}" }

// ownAccount are the fields of a role that gives everybody their own GitHub account.
func (p *people) ownAccount() map[string]any {
	return map[string]any{"app": "github", "external_user_id": p.name()}
}

// person is somebody who has logged in.
type person struct {
	*api.Client

	m      *mount
	name   string
	entity string
}

// login logs somebody in with a password. It adds the user if needed.
func (p *people) login(t *testing.T, name string) *person {
	t.Helper()
	password := rand.Text()
	_, err := p.m.vault.root.Logical().Write("auth/"+p.path+"/users/"+name, map[string]any{"password": password, "token_policies": p.policies})
	require.NoError(t, err)
	client := p.m.vault.client("")
	secret, err := client.Logical().Write("auth/"+p.path+"/login/"+name, map[string]any{"password": password})
	require.NoError(t, err)
	require.NotEmpty(t, secret.Auth.EntityID)
	client.SetToken(secret.Auth.ClientToken)
	p.m.cleanUp(t, func() error {
		_, err := p.m.vault.root.Logical().Delete("identity/entity/id/" + secret.Auth.EntityID)
		return err
	})
	return &person{Client: client, m: p.m, name: name, entity: secret.Auth.EntityID}
}

// holding returns the person with another token.
func (p *person) holding(token string) *person {
	return &person{Client: p.m.vault.client(token), m: p.m, name: p.name, entity: p.entity}
}

// read returns the answer to a read, which must be a secret.
func (p *person) read(t *testing.T, path string) *api.Secret {
	t.Helper()
	secret, err := p.Logical().Read(p.m.in(path))
	require.NoError(t, err, p.name)
	require.NotNil(t, secret, "%s returned nothing", path)
	return secret
}

// errorOf returns the error of a read, which must fail.
func (p *person) errorOf(t *testing.T, path string) error {
	t.Helper()
	secret, err := p.Logical().Read(p.m.in(path))
	require.Error(t, err, p.name)
	require.Nil(t, secret)
	return err
}

// reads asserts that the person gets the token of this account in every way of asking.
func (p *person) reads(t *testing.T, id string) {
	t.Helper()
	for _, path := range []string{"creds/github", "static-creds/github"} {
		data := p.read(t, path).Data
		require.Equal(t, id, data["pipedream_account_id"], "%s at %s", p.name, path)
		require.Equal(t, p.m.sim.Token(id), data["oauth_access_token"], "%s at %s", p.name, path)
	}
}

// isRefused asserts that the person gets nothing in any way of asking.
func (p *person) isRefused(t *testing.T, code int, words ...string) {
	t.Helper()
	for _, path := range []string{"creds/github", "static-creds/github"} {
		refused(t, p.errorOf(t, path), code, words...)
	}
	_, err := p.Logical().Write(p.m.in("refresh/github"), nil)
	refused(t, err, code, words...)
}

// identity writes to Vault's identity store as an administrator.
func (m *mount) identity(t *testing.T, path string, data map[string]any) *api.Secret {
	t.Helper()
	secret, err := m.vault.root.Logical().Write("identity/"+path, data)
	require.NoError(t, err)
	return secret
}

// know sets the metadata that Vault has about somebody.
func (p *person) know(t *testing.T, metadata map[string]string) {
	t.Helper()
	p.m.identity(t, "entity/id/"+p.entity, map[string]any{"metadata": metadata})
}

// alias returns the id of the alias that the login created.
func (p *person) alias(t *testing.T) string {
	t.Helper()
	secret, err := p.m.vault.root.Logical().Read("identity/entity/id/" + p.entity)
	require.NoError(t, err)
	aliases := asType[[]any](t, secret.Data["aliases"])
	require.Len(t, aliases, 1)
	return asType[string](t, asType[map[string]any](t, aliases[0])["id"])
}

// send sends a request exactly as written, with its dots and escapes, and returns the status code and the whole answer.
func (p *person) send(t *testing.T, method, target, body string, header map[string]string) (code int, answer string) {
	t.Helper()
	path, query, _ := strings.Cut(target, "?")
	request, err := http.NewRequestWithContext(t.Context(), method, p.m.vault.addr, strings.NewReader(body))
	require.NoError(t, err)
	request.URL.Opaque, request.URL.RawQuery = "/v1/"+path, query
	request.Header.Set("X-Vault-Token", p.Token())
	request.Header.Set("X-Vault-Request", "true")
	for name, value := range header {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request) // follows redirects
	require.NoError(t, err)
	defer response.Body.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(text)
}

// textOf returns everything that an answer contains, as text.
func textOf(secret *api.Secret) string {
	text, err := json.Marshal(secret)
	if err != nil {
		panic(err) // cannot happen: it was decoded from JSON
	}
	return string(text)
}
