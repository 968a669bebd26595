package pipedream

import (
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

func TestErrorsOfInvalidPaths(t *testing.T) {
	tests := map[string]struct {
		operation logical.Operation
		path      string
		code      int
		text      string
	}{
		"no account":             {logical.ReadOperation, "accounts/github", http.StatusBadRequest, "account_id must look like"},
		"account and more":       {logical.ReadOperation, "accounts/" + github + "/x", http.StatusBadRequest, "account_id must look like"},
		"account of a dash":      {logical.ReadOperation, "accounts/-x", http.StatusBadRequest, "account_id must look like"},
		"role of a dash":         {logical.CreateOperation, "roles/-x", http.StatusBadRequest, "a role's name must be"},
		"role and more":          {logical.DeleteOperation, "roles/a/b", http.StatusBadRequest, "a role's name must be"},
		"credentials of neither": {logical.ReadOperation, "creds/-x", http.StatusBadRequest, "and a role's name must be"},
		"accounts read":          {logical.ReadOperation, "accounts", http.StatusMethodNotAllowed, "accounts can only be listed: vault list pipedream/accounts"},
		"roles read":             {logical.ReadOperation, "roles", http.StatusMethodNotAllowed, "roles can only be listed: vault list pipedream/roles"},
		"roles written":          {logical.UpdateOperation, "roles", http.StatusMethodNotAllowed, "by its name, pipedream/roles/<role>"},
		"roles deleted":          {logical.DeleteOperation, "roles/", http.StatusMethodNotAllowed, "by its name, pipedream/roles/<role>"},
		"connect read":           {logical.ReadOperation, "connect/github", http.StatusMethodNotAllowed, "vault write -force pipedream/connect/github"},
		"connect of a dash":      {logical.UpdateOperation, "connect/-x", http.StatusBadRequest, "a role's name must be"},
		"refresh read":           {logical.ReadOperation, "refresh/" + github, http.StatusMethodNotAllowed, "vault write -force pipedream/refresh/" + github},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(_ *testing.T, m *mount) {
				_, err := m.handle(test.operation, test.path, map[string]any{})
				m.refused(err, test.code, test.text)
				if strings.HasPrefix(test.path, "accounts/") {
					require.NotContains(t, err.Error(), "role")
				}
				require.Empty(t, m.sim.Requests())
			})
		})
	}
}

// An error shows no value, because it would be in clear in the audit log and in
// Vault's own log.
func TestNoErrorShowsAValue(t *testing.T) {
	const key = "pdkey_in_the_wrong_place"
	for name, data := range map[string]map[string]any{
		"a map":      {"client_id": map[string]any{"client_secret": key}},
		"a list":     {"ca_cert": []any{key, "b"}},
		"a bool":     {"verify": key},
		"a number":   {"rate_limit": key},
		"a duration": {"min_ttl": key},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				req := &logical.Request{Operation: logical.UpdateOperation, Path: "config", Data: data, Storage: m.storage}
				_, _, err := m.b.HandleExistenceCheck(t.Context(), req)
				require.Error(t, err)
				require.NotContains(t, err.Error(), key)
				_, err = m.write("config", data)
				m.refused(err, http.StatusBadRequest)
				require.NotContains(t, err.Error(), key)
			})
		})
	}
	bubble(t, func(t *testing.T, m *mount) {
		for _, operation := range []logical.Operation{logical.ReadOperation, logical.DeleteOperation} {
			_, err := m.handle(operation, "config", map[string]any{"api_key": []any{key, key}}) // ?api_key=…&api_key=…
			m.refused(err, http.StatusBadRequest)
			require.NotContains(t, err.Error(), key)
		}
	})
}

// JSON of another type than that of the field is refused and changes nothing.
func TestValuesOfTheWrongTypeAreRefused(t *testing.T) {
	for name, test := range map[string]struct {
		path string
		data map[string]any
	}{
		"no limit":              {"config", map[string]any{"rate_limit": false}},
		"a limit of one":        {"config", map[string]any{"rate_limit": true}},
		"a limit of nothing":    {"config", map[string]any{"rate_limit": []any{}}},
		"no retries":            {"config", map[string]any{"max_retries": false}},
		"every scope":           {"config", map[string]any{"scope": nil}},
		"the system's roots":    {"config", map[string]any{"ca_cert": nil}},
		"every account":         {"config", map[string]any{"allow_account_ids": []any{}}},
		"a second":              {"config", map[string]any{"static_ttl": true}},
		"for ever":              {"config", map[string]any{"static_ttl": 1e300}},
		"every field":           {"roles/ci", map[string]any{"fields": nil}},
		"every field, by {}":    {"roles/ci", map[string]any{"fields": map[string]any{}}},
		"a field of nothing":    {"roles/ci", map[string]any{"fields": []any{nil}}},
		"another user, rounded": {"roles/new", map[string]any{"app": "github", "external_user_id": float64(9007199254740993)}},
		"user 1":                {"roles/new", map[string]any{"app": "github", "external_user_id": true}},
		"a list of users":       {"roles/new", map[string]any{"app": "github", "external_user_id": []any{"alice"}}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				m.role("ci", map[string]any{"account_id": github, "fields": "oauth_uid"})
				before, err := m.read(test.path)
				require.NoError(t, err)
				_, err = m.write(test.path, test.data)
				m.refused(err, http.StatusBadRequest)
				after, err := m.read(test.path)
				require.NoError(t, err)
				require.Equal(t, before, after)
			})
		})
	}
}

// A parameter cannot override the name in a path.
func TestParametersCannotNameAnotherPath(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		for _, name := range []any{stripe, []any{stripe}, map[string]any{"a": stripe}, 1.5, nil} {
			resp, err := m.handle(logical.UpdateOperation, "creds/"+github, map[string]any{"name": name})
			require.NoError(t, err)
			require.Equal(t, github, resp.Data["pipedream_account_id"])
		}
	})
}
