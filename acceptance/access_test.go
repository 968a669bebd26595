package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
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

// TestPoliciesOfThePage uses the policies of docs/production.md for people who look after the engine.
func TestPoliciesOfThePage(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	for name, mayNot := range map[string][]string{
		"pipedream-operator": {"creds/" + githubID, "static-creds/" + githubID},
		"pipedream-auditor":  {"creds/" + githubID, "static-creds/" + githubID, "metrics"},
	} {
		rules := strings.ReplaceAll(policyOfPage(t, name), "pipedream/", m.in(""))
		client := m.vault.login(t, slug(t.Name()+name), rules)
		may := []string{"config", "accounts/" + githubID, "status"}
		if name == "pipedream-operator" {
			may = append(may, "metrics")
		}
		for _, path := range may {
			response, err := client.Logical().ReadRaw(m.in(path))
			require.NoError(t, err, "%s: %s", name, path)
			assert.NoError(t, response.Body.Close())
		}
		for _, path := range mayNot {
			_, err := client.Logical().Read(m.in(path))
			refused(t, err, http.StatusForbidden, "permission denied")
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
