package pipedream

import (
	"encoding/json"
	"fmt"
	"math"
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
		"connect read":           {logical.ReadOperation, "connect/github", http.StatusBadRequest, `there is no role "github"`},
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

// A value means what a person reads in it, or is refused.
func TestValuesMeanWhatTheySay(t *testing.T) {
	refused := struct{}{}
	for field, values := range map[string]map[any]any{
		"rate_limit": {
			"100": 100, "0": 0, json.Number("100"): 100, float64(100): 100, 100: 100,
			"0100": refused, "0x10": refused, "0b11": refused, "0o17": refused, "1_000": refused, "1e3": refused, "1.0": refused, " 100": refused,
			"+100": refused, "00": refused, "-0": refused, "１００": refused, "9223372036854775808": refused, "true": refused,
			json.Number("1e2"): refused, json.Number("100.0"): refused, json.Number("9223372036854775808"): refused,
			100.5: refused, 1e300: refused, -1e300: refused, math.Inf(1): refused, math.NaN(): refused, true: refused,
		},
		"max_retries": {"3": 3, "03": refused, "0x3": refused, json.Number("3.0"): refused},
		"min_ttl": {
			"90": int64(90), "090": int64(90), "5m": int64(300), "1h30m": int64(5400), "1.5m": int64(90), "1d": int64(86400), json.Number("90"): int64(90), float64(90): int64(90),
			"0x10": refused, "1_000": refused, "1e3": refused, "90 s": refused, "1h30": refused, "5 m": refused, "1.5": refused, "500ms": refused, "-90": refused,
			json.Number("90.5"): refused, json.Number("9e1"): refused, 90.5: refused, 1e300: refused, math.NaN(): refused, math.Inf(1): refused, true: refused,
		},
		"expose_refresh_token": {
			"true": true, "false": false, "1": true, "0": false, true: true, false: false, 1: true, 0: false, float64(1): true, float64(0): false, json.Number("1"): true, json.Number("0"): false,
			"-1": refused, "2": refused, "yes": refused, "1.5": refused, "01": refused, " true": refused,
			-1: refused, 2: refused, float64(-1): refused, float64(2): refused, 1.5: refused, math.NaN(): refused,
			json.Number("-1"): refused, json.Number("2"): refused, json.Number("1.5"): refused, json.Number("1.0"): refused,
		},
	} {
		for value, want := range values {
			t.Run(fmt.Sprintf("%s=%T %v", field, value, value), func(t *testing.T) {
				bubble(t, func(t *testing.T, m *mount) {
					before := m.get("config", field)
					_, err := m.write("config", map[string]any{field: value})
					if want == refused {
						m.refused(err, http.StatusBadRequest, field)
						want = before
					} else {
						require.NoError(t, err)
					}
					require.Equal(t, want, m.get("config", field))
				})
			})
		}
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
