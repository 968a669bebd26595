package acceptance

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// endpoint is an operation in the OpenAPI document.
type endpoint struct {
	method, path string // below the mount
	id           string
	parameters   []string // in path and query
	request      []string // fields of the body
	response     []string // fields of the answer; none if it has no content
	text         bool     // the answer is text, and so has no fields
}

var (
	credentialsAnswer = []string{
		"access_token", "connect_token", "expires_at", "pipedream_account_id", "pipedream_account_name", "pipedream_api_url", "pipedream_app",
		"pipedream_environment", "pipedream_external_user_id", "pipedream_project_id", "pipedream_token_sha256",
	}
	staticAnswer = append([]string{"last_vault_rotation", "rotation_period", "ttl"}, credentialsAnswer...)
	configAnswer = []string{
		"allow_access_tokens", "allow_account_ids", "allowed_token_scopes", "base_url", "ca_cert", "client_id", "connect_token_scope", "environment",
		"expose_refresh_token", "max_retries", "min_ttl", "org_id", "project_id", "rate_limit", "request_timeout", "scope", "static_ttl", "token_fingerprint",
	}
	roleAnswer = []string{
		"account_id", "allowed_external_user_ids", "allowed_origins", "allowed_redirect_hosts", "app", "app_override_id", "credential_type", "enforce_scopes",
		"external_user_id", "fields", "min_ttl", "oauth_app_id", "oauth_scope_profile", "required_scopes", "scope", "token_ttl", "ttl",
	}
)

var endpoints = []endpoint{
	{method: "get", path: "config", id: "read-configuration", response: configAnswer},
	{method: "post", path: "config", id: "configure", request: append([]string{"api_key", "client_secret", "verify"}, configAnswer...)},
	{method: "delete", path: "config", id: "delete-configuration"},
	{method: "get", path: "creds/{name}", id: "read-credentials", parameters: []string{"account", "min_ttl", "name"}, response: credentialsAnswer},
	{
		method: "post", path: "creds/{name}", id: "generate-credentials",
		parameters: []string{"name"}, request: []string{"account", "min_ttl"}, response: credentialsAnswer,
	},
	{
		method: "get", path: "static-creds/{name}", id: "read-static-credentials",
		parameters: []string{"account", "min_ttl", "name"}, response: staticAnswer,
	},
	{
		method: "post", path: "static-creds/{name}", id: "generate-static-credentials",
		parameters: []string{"name"}, request: []string{"account", "min_ttl"}, response: staticAnswer,
	},
	{
		method: "get", path: "accounts/", id: "list-accounts",
		parameters: []string{"app", "external_user_id", "list"}, response: []string{"key_info", "keys"},
	},
	{
		method: "get", path: "accounts/{account_id}", id: "read-account", parameters: []string{"account_id"},
		response: []string{
			"app", "app_id", "app_name", "auth_type", "created_at", "dead", "error", "expires_at", "external_user_id", "healthy", "id",
			"last_refreshed_at", "name", "next_refresh_at", "updated_at",
		},
	},
	{
		method: "post", path: "refresh/{name}", id: "refresh-account",
		parameters: []string{"name"}, request: []string{"account"}, response: []string{"changed", "expires_at"},
	},
	{
		method: "post", path: "connect/{name}", id: "connect-account",
		parameters: []string{"name"},
		request:    []string{"account", "all", "error_redirect_uri", "expires_in", "link_id", "new", "reconnect", "success_redirect_uri", "wait"},
		response:   []string{"app", "connect_link_url", "expires_at", "external_user_id", "link_id", "reconnects_account_id"},
	},
	{
		method: "get", path: "connect/{name}", id: "read-connection",
		parameters: []string{"account", "all", "link_id", "name", "wait"},
		response:   []string{"account_id", "accounts", "app", "connected", "external_user_id", "link_account_id", "link_status"},
	},
	{
		method: "delete", path: "connect/{name}", id: "disconnect-account",
		parameters: []string{"account", "all", "link_id", "name", "wait"}, response: []string{"disconnected"},
	},
	{method: "delete", path: "accounts/{account_id}", id: "disconnect-by-id-account", parameters: []string{"account_id"}, response: []string{"disconnected"}},
	{method: "get", path: "users/{external_user_id}", id: "read-user", parameters: []string{"external_user_id"}, response: []string{"accounts", "external_user_id"}},
	{method: "delete", path: "users/{external_user_id}", id: "remove-user", parameters: []string{"external_user_id"}, response: []string{"disconnected"}},
	{method: "get", path: "roles/", id: "list-roles", parameters: []string{"list"}, response: []string{"keys"}},
	{method: "get", path: "roles/{name}", id: "read-role", parameters: []string{"name"}, response: roleAnswer},
	{method: "post", path: "roles/{name}", id: "write-role", parameters: []string{"name"}, request: roleAnswer},
	{method: "delete", path: "roles/{name}", id: "delete-role", parameters: []string{"name"}},
	{method: "get", path: "status", id: "read-status", response: []string{
		"budget_left", "cache_hits", "cache_misses", "cached_accounts", "clock_ahead", "configured", "failures", "held_off_accounts", "held_off_until",
		"last_error", "last_error_time", "last_success", "rate_limit", "requests", "storage_error", "version",
	}},
	{method: "get", path: "metrics", id: "read-metrics", text: true},
}

// withUsers returns all endpoints. Those of a role or an account exist for a user in the path, too.
func withUsers() []endpoint {
	all := slices.Clone(endpoints)
	for _, e := range endpoints {
		first, _, ofName := strings.Cut(e.path, "/{name}")
		if !ofName || first == "roles" {
			continue
		}
		verb, what, _ := strings.Cut(e.id, "-")
		e.id = verb + "-user-" + what
		e.path += "/{user}"
		e.parameters = append(slices.Clone(e.parameters), "user")
		all = append(all, e)
	}
	return all
}

// TestOpenAPI reads the document from which Vault's UI and generated clients are made.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	m := unconfigured(t)
	var document *api.Secret
	// Vault asks every mount, and fails if the mount of another test is disabled at that moment.
	require.NoError(t, poll(readyTimeout, "the document of all mounts", func() (bool, error) {
		var err error
		document, err = m.vault.root.Logical().Read("sys/internal/specs/openapi")
		return err == nil, nil
	}))
	paths := asType[map[string]any](t, document.Data["paths"])
	schemas := asType[map[string]any](t, asType[map[string]any](t, document.Data["components"])["schemas"])

	var described []string
	ids := map[string]bool{}
	for path, item := range paths {
		below, ours := strings.CutPrefix(path, "/"+m.path+"/")
		if !ours {
			continue
		}
		item := asType[map[string]any](t, item)
		for _, method := range []string{"get", "post", "patch", "delete"} {
			operation, ok := item[method].(map[string]any)
			if !ok {
				continue
			}
			described = append(described, method+" "+below)
			id := asType[string](t, operation["operationId"])
			assert.False(t, ids[id], "operation id %s is used twice", id)
			ids[id] = true
			assert.NotEmpty(t, operation["summary"], id)
			assert.Equal(t, []any{"secrets"}, operation["tags"], id)
		}
	}
	var expected []string
	for _, e := range withUsers() {
		expected = append(expected, e.method+" "+e.path)
		operation, ok := asType[map[string]any](t, paths["/"+m.path+"/"+e.path])[e.method].(map[string]any)
		if !assert.True(t, ok, "%s %s", e.method, e.path) {
			continue
		}
		e.check(t, asType[map[string]any](t, paths["/"+m.path+"/"+e.path]), operation, schemas)
	}
	assert.ElementsMatch(t, expected, described)
}

// check compares e with the document. Vault loses the references to schemas of external plugins, so the schemas are
// looked up by their known names.
func (e *endpoint) check(t *testing.T, item, operation, schemas map[string]any) {
	t.Helper()
	assert.Equal(t, "pipedream-"+e.id, operation["operationId"])

	var parameters []string
	for _, holder := range []map[string]any{item, operation} {
		list, _ := holder["parameters"].([]any)
		for _, parameter := range list {
			p := asType[map[string]any](t, parameter)
			parameters = append(parameters, asType[string](t, p["name"]))
			assert.NotEmpty(t, p["description"], "%s: %s", e.id, p["name"])
		}
	}
	assert.ElementsMatch(t, e.parameters, parameters, e.id)

	name := regexp.MustCompile(`(^|-)[a-z]`).ReplaceAllStringFunc("pipedream-"+e.id, func(part string) string {
		return strings.ToUpper(strings.TrimPrefix(part, "-"))
	})
	code := "204"
	if len(e.response) > 0 || e.text {
		code = "200"
	}
	assert.Contains(t, operation["responses"], code, e.id)
	assert.Equal(t, len(e.request) > 0, operation["requestBody"] != nil, e.id)
	checkFields(t, schemas, name+"Request", e.request)
	checkFields(t, schemas, name+"Response", e.response)
}

// checkFields asserts that a schema has these fields, each with a type and a description. Without fields there must be
// no schema.
func checkFields(t *testing.T, schemas map[string]any, name string, fields []string) {
	t.Helper()
	schema, ok := schemas[name].(map[string]any)
	if !assert.Equal(t, len(fields) > 0, ok, name) || !ok {
		return
	}
	properties := asType[map[string]any](t, schema["properties"])
	assert.ElementsMatch(t, fields, slices.Collect(maps.Keys(properties)), name)
	for field, property := range properties {
		about := asType[map[string]any](t, property)
		assert.NotEmpty(t, about["type"], "%s: %s", name, field)
		assert.NotEmpty(t, about["description"], "%s: %s", name, field)
		assert.Equal(t, field == "api_key" || field == "client_secret", isSensitive(about), "%s: %s", name, field)
	}
}

func isSensitive(property map[string]any) bool {
	attributes, _ := property["x-vault-displayAttrs"].(map[string]any)
	return attributes["sensitive"] == true
}
