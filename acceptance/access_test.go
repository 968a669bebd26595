package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPolicyForOneAccountRefusesAnother(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.sim.SetAccount(stripe())
	client := m.vault.login(t, slug(t.Name()), fmt.Sprintf(`path %q { capabilities = ["read"] }`, m.in("creds/"+githubID)))

	secret, err := client.Logical().Read(m.in("creds/" + githubID))
	require.NoError(t, err)
	assert.Equal(t, m.sim.Token(githubID), secret.Data["oauth_access_token"])
	requests := len(m.sim.Requests())

	for _, path := range []string{
		"creds/" + stripeID, "static-creds/" + githubID, "accounts/" + githubID, "config", "status",
	} {
		_, err := client.Logical().Read(m.in(path))
		refused(t, err, http.StatusForbidden, "permission denied")
	}
	for _, path := range []string{"config", "refresh/" + githubID, "creds/" + githubID} {
		_, err := client.Logical().Write(m.in(path), map[string]any{"rate_limit": 0})
		refused(t, err, http.StatusForbidden, "permission denied")
	}
	_, err = client.Logical().List(m.in("accounts"))
	refused(t, err, http.StatusForbidden, "permission denied")
	assert.Len(t, m.sim.Requests(), requests)
}

// policyOfPage returns a policy of docs/production.md.
func policyOfPage(t *testing.T, name string) string {
	t.Helper()
	for _, b := range blocksOf(t, "docs/production.md") {
		if _, rules, found := strings.Cut(b.text, "vault policy write "+name+" - <<'END'\n"); found {
			rules, _, _ = strings.Cut(rules, "\nEND\n")
			return rules
		}
	}
	require.Fail(t, "no such policy on the page", name)
	return ""
}

// TestPoliciesOfThePage uses the policies of docs/production.md for people who look after the engine and its users. Each
// opens what the page says, and nothing else. No answer has a credential in it.
func TestPoliciesOfThePage(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	p := c.people(t, strings.ReplaceAll(policyOfPage(t, "pipedream-github-disconnect"), "pipedream/", c.in("")))
	everything := func() {
		c.configureClient(t, map[string]any{"project_id": projectID})
		for _, role := range []string{"github", "other"} {
			c.write(t, "roles/"+role, p.ownAccount())
		}
		for _, user := range []string{"alice", "bob"} {
			c.sim.SetAccount(connected("apn_"+user, user))
		}
	}
	requests := []string{
		"read config", "write config", "delete config", "list accounts", "list roles", "read roles/other", "write roles/other", "read status", "read metrics",
		"read creds/apn_alice", "write creds/apn_alice", "read static-creds/apn_alice", "write refresh/apn_alice", "read creds/github", "write refresh/github",
		"read connect/github", "write connect/github", "delete connect/github", "read connect/other", "write connect/other", "delete connect/other",
		"read users/bob", "write users/bob", "list users", "read accounts/apn_alice", "write accounts/apn_alice", "delete accounts/apn_alice",
		"delete users/bob", "delete roles/other",
	}
	for name, may := range map[string][]string{
		"pipedream-operator": {
			"read config", "write config", "delete config", "list accounts", "list roles", "read roles/other", "write roles/other", "read status", "read metrics",
			"write refresh/apn_alice", "write refresh/github", "read accounts/apn_alice", "delete roles/other",
		},
		"pipedream-auditor":           {"read config", "list accounts", "list roles", "read roles/other", "read status", "read accounts/apn_alice"},
		"pipedream-github-disconnect": {"write connect/github", "delete connect/github"},
		"pipedream-support":           {"read users/bob", "read accounts/apn_alice", "delete accounts/apn_alice"},
		"pipedream-offboarding":       {"read users/bob", "delete users/bob"},
	} {
		var who *person
		if name == "pipedream-github-disconnect" { // which is for users
			who = p.login(t, "alice")
		} else {
			who = c.asBackend(t, name, strings.ReplaceAll(policyOfPage(t, name), "pipedream/", "MOUNT/"))
		}
		everything()
		for _, request := range requests {
			tokens := []string{c.sim.Token("apn_alice"), c.sim.Token("apn_bob")}
			c.sim.ResetRequests()
			verb, path, _ := strings.Cut(request, " ")
			method := map[string]string{"read": http.MethodGet, "write": http.MethodPut, "list": "LIST", "delete": http.MethodDelete}[verb]
			code, answer := who.send(t, method, c.in(path), "{}", nil)
			if !slices.Contains(may, request) {
				assert.Equal(t, http.StatusForbidden, code, "%s: %s: %s", name, request, answer)
				assert.Empty(t, c.sim.Requests(), "%s: %s", name, request)
				continue
			}
			assert.NotEqual(t, http.StatusForbidden, code, "%s: %s: %s", name, request, answer)
			lacks(t, name+": "+request, answer, tokens...)
			everything()
		}
	}
}

// TestMetricsOnTheCommandLine shows the only form in which the vault command prints the metrics.
func TestMetricsOnTheCommandLine(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	failed := m.cli(t, "read", "/metrics")
	assert.Equal(t, 2, failed.code)
	assert.Contains(t, failed.err, "invalid character '#' looking for beginning of value")
	printed := m.cli(t, "read", "-format=raw", "/metrics")
	assert.Zero(t, printed.code, printed.err)
	assert.Contains(t, printed.out, "\nvault_pipedream_configured 1\n")
}

// auditEntry holds the parts of an audit log line that these tests use.
type auditEntry struct {
	Type  string `json:"type"`
	Error string `json:"error"`
	Auth  struct {
		EntityID string            `json:"entity_id"`
		Metadata map[string]string `json:"metadata"`
	} `json:"auth"`
	Request struct {
		Operation string         `json:"operation"`
		Path      string         `json:"path"`
		Data      map[string]any `json:"data"`
	} `json:"request"`
	Response struct {
		Data   map[string]any `json:"data"`
		Secret struct {
			LeaseID string `json:"lease_id"`
		} `json:"secret"`
	} `json:"response"`
}

// TestAuditLogRecordsReadsButNoSecrets looks at single entries. checkLogs searches both logs for secrets after every
// test.
func TestAuditLogRecordsReadsButNoSecrets(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	secret := m.read(t, "creds/"+githubID)
	_, err := m.vault.root.Logical().Read(m.in("creds/apn_nobody"))
	require.Error(t, err)

	read := m.audited(t, "creds/"+githubID)
	assert.Equal(t, "read", read.Request.Operation)
	assert.Equal(t, secret.LeaseID, read.Response.Secret.LeaseID)
	assert.ElementsMatch(t, keysOf(secret.Data), keysOf(read.Response.Data))
	for name, value := range read.Response.Data {
		if onOpenBao && name == "expires_at" {
			continue // OpenBao does not hash times
		}
		assert.Contains(t, value, "hmac-sha256:", name)
	}
	assert.Contains(t, m.audited(t, "creds/apn_nobody").Error, "apn_nobody")
	written := m.audited(t, "config")
	assert.Contains(t, written.Request.Data["api_key"], "hmac-sha256:")
}

// audited returns the first response in the audit log for a path of the mount.
func (m *mount) audited(t *testing.T, path string) auditEntry {
	t.Helper()
	for line := range strings.Lines(m.audit(t)) {
		if !strings.Contains(line, m.in(path)) {
			continue
		}
		var entry auditEntry
		require.NoError(t, json.Unmarshal([]byte(line), &entry))
		if entry.Type == "response" && entry.Request.Path == m.in(path) {
			return entry
		}
	}
	require.Fail(t, "no entry in the audit log", path)
	return auditEntry{}
}

// auditedRequests returns how many requests in the audit log are such an operation on a path of the mount that begins so.
func (m *mount) auditedRequests(t *testing.T, path, operation string) (n int) {
	t.Helper()
	for line := range strings.Lines(m.audit(t)) {
		var entry auditEntry
		if !strings.Contains(line, m.in(path)) || json.Unmarshal([]byte(line), &entry) != nil { // the last line may be incomplete
			continue
		}
		if entry.Type == "request" && entry.Request.Operation == operation && strings.HasPrefix(entry.Request.Path, m.in(path)) {
			n++
		}
	}
	return n
}
