package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// said is what a command printed, and its exit code.
type said struct {
	out, err string
	code     int
}

// cli runs a vault command with the server's root token. An argument that begins with a slash is a path below the
// mount.
func (m *mount) cli(t *testing.T, args ...string) said {
	t.Helper()
	return m.cliWith(t, m.vault.rootToken, "", args...)
}

func (m *mount) cliWith(t *testing.T, token, input string, args ...string) said {
	t.Helper()
	words := make([]string, len(args))
	for i, arg := range args {
		words[i] = arg
		if path, ok := strings.CutPrefix(arg, "/"); ok {
			words[i] = strings.TrimSuffix(m.in(path), "/")
		}
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), vaultBin, words...) //nolint:gosec // the program under test
	cmd.Env = append(m.vault.environment(), "VAULT_ADDR="+m.vault.addr, "VAULT_TOKEN="+token)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	_ = cmd.Run() // the exit code is part of the result
	return said{out: out.String(), err: errs.String(), code: cmd.ProcessState.ExitCode()}
}

// rows returns the rows of a table by the value in the first column.
func (s said) rows(t *testing.T) map[string]string {
	t.Helper()
	require.Zero(t, s.code, s.err)
	rows := map[string]string{}
	for line := range strings.Lines(s.out) {
		key, value, _ := strings.Cut(line, " ")
		rows[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	return rows
}

func TestCLIReadsCredentials(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	token := m.sim.Token(githubID)

	table := m.cli(t, "read", "/creds/"+githubID).rows(t)
	assert.Equal(t, token, table["oauth_access_token"])
	assert.Equal(t, "false", table["lease_renewable"])
	assert.Regexp(t, `^(1h|59m\d+s)$`, table["lease_duration"])
	assert.Equal(t, "octocat", table["pipedream_account_name"])

	// When piped, a field is printed without a line break, as scripts need it.
	assert.Equal(t, said{out: token}, m.cli(t, "read", "-field=oauth_access_token", "/creds/"+githubID))

	static := m.cli(t, "read", "/static-creds/"+githubID).rows(t)
	assert.Equal(t, token, static["oauth_access_token"])
	assert.Regexp(t, `^(55m|54m\d+s)$`, static["ttl"])
	assert.NotContains(t, static, "lease_id")

	var secret struct {
		LeaseID       string            `json:"lease_id"`
		LeaseDuration int               `json:"lease_duration"`
		Renewable     bool              `json:"renewable"`
		Data          map[string]string `json:"data"` // decoding fails if a value is not a string
		Warnings      []string          `json:"warnings"`
	}
	sent := time.Now()
	asJSON := m.cli(t, "read", "-format=json", "/creds/"+githubID)
	require.NoError(t, json.Unmarshal([]byte(asJSON.out), &secret), asJSON.err)
	assert.Equal(t, token, secret.Data["oauth_access_token"])
	assert.True(t, strings.HasPrefix(secret.LeaseID, m.in("creds/"+githubID+"/")))
	lasts(t, m.sim.ExpiresAt(githubID).Sub(sent), sent, secret.LeaseDuration)
	assert.False(t, secret.Renewable)
	assert.Empty(t, secret.Warnings)

	assert.Equal(t, token, m.cli(t, "write", "-field=oauth_access_token", "-force", "/creds/"+githubID).out)
	assert.Equal(t, token, m.cli(t, "read", "-field=oauth_access_token", "/creds/"+githubID, "min_ttl=2m").out)
	assert.Contains(t, m.cli(t, "read", "/creds/"+githubID, "mint_tll=2m").err, "ignored these unrecognized parameters: [mint_tll]")
}

func TestCLIWrapsCredentials(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	wrapped := m.cli(t, "read", "-wrap-ttl=5m", "/creds/"+githubID)
	assert.NotContains(t, wrapped.out, m.sim.Token(githubID))
	rows := wrapped.rows(t)
	assert.Equal(t, "5m", rows["wrapping_token_ttl:"])
	assert.Equal(t, m.in("creds/"+githubID), rows["wrapping_token_creation_path:"])

	unwrapped := m.cliWith(t, "", "", "unwrap", "-field=oauth_access_token", rows["wrapping_token:"])
	assert.Equal(t, said{out: m.sim.Token(githubID)}, unwrapped)
}

func TestCLIListsAccounts(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.sim.SetAccount(stripe())
	for _, path := range []string{"/accounts", "/accounts/"} {
		detailed := m.cli(t, "list", "-detailed", path)
		rows := detailed.rows(t)
		assert.Equal(t, []string{"app", "expires_at", "healthy", "name"}, strings.Fields(rows["Keys"]))
		assert.Regexp(t, `^github +\S+Z +true +octocat$`, rows[githubID])
		assert.Regexp(t, `^stripe +n/a +true +Acme payments$`, rows[stripeID])
	}
	assert.Equal(t, "Keys\n----\n"+githubID+"\n"+stripeID+"\n", m.cli(t, "list", "/accounts").out)
	var found struct {
		Data struct {
			Keys []string `json:"keys"`
		} `json:"data"`
	}
	filtered := m.cli(t, "read", "-format=json", "/accounts", "list=true", "app=stripe")
	require.NoError(t, json.Unmarshal([]byte(filtered.out), &found), filtered.err)
	assert.Equal(t, []string{stripeID}, found.Data.Keys)
}

// TestCLIKeepsTheKeyOutOfSight stores the key as the README shows.
func TestCLIKeepsTheKeyOutOfSight(t *testing.T) {
	t.Parallel()
	m := unconfigured(t)
	written := m.cliWith(t, m.vault.rootToken, m.apiKey+"\n", "write", "/config", "api_key=-", "base_url="+m.apiURL)
	assert.Equal(t, "Success! Data written to: "+m.in("config")+"\n", written.out, written.err)
	config := m.cli(t, "read", "/config")
	assert.NotContains(t, config.out, m.apiKey)
	assert.Equal(t, "1h", config.rows(t)["static_ttl"])
}

// TestCLIWithKVHabits is for people who treat every secret as a KV secret. It shows what read returns with and without
// KV commands.
func TestCLIWithKVHabits(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	for _, args := range [][]string{
		{"kv", "get", "-field=oauth_access_token", "/creds/" + githubID},
		{"kv", "get", "-field=oauth_access_token", "-mount=" + m.path, "creds/" + githubID},
	} {
		assert.Equal(t, said{out: m.sim.Token(githubID)}, m.cli(t, args...))
	}
	assert.Contains(t, m.cli(t, "kv", "get", "/creds/"+githubID).rows(t), "expires_at")
	assert.Contains(t, m.cli(t, "kv", "list", "/accounts").out, githubID)
}

// TestCLISaysWhatToDoNext tries common mistakes. The error must name what was wrong or the command that helps.
func TestCLISaysWhatToDoNext(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.ID, a.Dead, a.Error = "apn_dead", true, "invalid_grant" }))
	m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.ID, a.NoCredentials = "apn_bare", true }))
	m.sim.SetAccount(github())
	m.write(t, "roles/one", map[string]any{"account_id": githubID, "fields": "api_key"})
	listAccounts, listRoles := cliName+" list "+m.in("accounts"), cliName+" list "+m.in("roles")

	for name, test := range map[string]struct {
		args  []string
		words []string
	}{
		"unknown account":                 {[]string{"read", "/creds/apn_nobody"}, []string{"apn_nobody", listAccounts}},
		"dead account":                    {[]string{"read", "/creds/apn_dead"}, []string{"apn_dead is dead", "Reconnect", cliName + " read " + m.in("accounts/apn_dead")}},
		"account without credentials":     {[]string{"read", "/creds/apn_bare"}, []string{"apn_bare", "reconnect it in Pipedream"}},
		"no such role":                    {[]string{"read", "/creds/nobody"}, []string{`no role "nobody"`, "apn_", listRoles, listAccounts}},
		"role with unknown fields":        {[]string{"read", "/creds/one"}, []string{githubID, "none of the role's fields"}},
		"neither account nor role":        {[]string{"read", "/creds"}, []string{"role", "apn_"}},
		"a field in the path":             {[]string{"read", "/creds/" + githubID + "/oauth_access_token"}, []string{"apn_"}},
		"read in place of list, accounts": {[]string{"read", "/accounts"}, []string{listAccounts}},
		"read in place of list, roles":    {[]string{"read", "/roles"}, []string{listRoles}},
		"metadata by account name":        {[]string{"read", "/accounts/github"}, []string{"account_id", "apn_"}},
		"read in place of write, refresh": {[]string{"read", "/refresh/" + githubID}, []string{cliName + " write -force " + m.in("refresh/"+githubID)}},
		"role named like an account":      {[]string{"write", "/roles/apn_x", "account_id=" + githubID}, []string{"name", "apn_"}},
		"role without an account":         {[]string{"write", "/roles/empty", "ttl=5m"}, []string{"account_id", "external_user_id"}},
		"malformed parameter":             {[]string{"read", "/creds/" + githubID, "min_ttl=soon"}, []string{"min_ttl", "soon"}},
		"a wrong key":                     {[]string{"write", "/config", "api_key=wrong"}, []string{"refused api_key", "nothing was changed"}},
		"a new URL without the key":       {[]string{"write", "/config", "base_url=https://example.com"}, []string{"base_url", "api_key"}},
		"a URL in clear":                  {[]string{"write", "/config", "api_key=x", "base_url=http://192.0.2.1"}, []string{"base_url", "https://"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer := m.cli(t, test.args...)
			assert.NotZero(t, answer.code)
			for _, word := range test.words {
				assert.Contains(t, answer.err, word)
			}
		})
	}
}

func TestCLISaysThatItIsNotConfigured(t *testing.T) {
	t.Parallel()
	m := unconfigured(t)
	for _, args := range [][]string{
		{"read", "/creds/" + githubID},
		{"read", "/static-creds/" + githubID},
		{"list", "/accounts"},
		{"read", "/accounts/" + githubID},
		{"write", "-force", "/refresh/" + githubID},
	} {
		answer := m.cli(t, args...)
		assert.Equal(t, 2, answer.code, args)
		assert.Contains(t, answer.err, fmt.Sprintf("%s write %s api_key=-", cliName, m.in("config")), args)
	}
	assert.Contains(t, m.cli(t, "write", "/config", "min_ttl=1m").err, "api_key=-")
	assert.Contains(t, m.cli(t, "read", "/config").err, "No value found")
	assert.Equal(t, "false", m.cli(t, "read", "-field=configured", "/status").out)
}

// TestCLIPathHelp asks for help for the mount, for each path that the help lists, and for the first part of each path.
func TestCLIPathHelp(t *testing.T) {
	t.Parallel()
	m := unconfigured(t)
	top := m.cli(t, "path-help", "/")
	require.Zero(t, top.code, top.err)
	assert.Contains(t, top.out, cliName+" write pipedream/config")

	for _, path := range []string{"config", "creds", "static-creds", "accounts", "refresh", "roles", "status"} {
		assert.Regexp(t, `(?m)^ +\^`+regexp.QuoteMeta(path)+`\b`, top.out)
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			for _, below := range []string{path, path + "/" + githubID} {
				if (path == "config" || path == "status") && below != path {
					continue
				}
				help := m.cli(t, "path-help", "/"+below)
				assert.Zero(t, help.code, "%s: %s", below, help.err)
				assert.Contains(t, help.out, "## DESCRIPTION", below)
			}
		})
	}
}
