package acceptance

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

const (
	// alertTimeout is far longer than any alert takes at the speed of these tests.
	alertTimeout = 5 * time.Minute
	// lookEvery is how often credentials are read and the alerts are checked.
	lookEvery = 400 * time.Millisecond
	// metricsType is the content type of Prometheus's text format.
	metricsType = "text/plain; version=0.0.4; charset=utf-8"
)

// incident is the condition that an alert is for.
type incident struct {
	reads []string // the accounts that somebody reads all the while, in turns
	// cause starts the incident and returns a function that ends it. If it returns nil, the incident goes on.
	cause func(t *testing.T, m *mount) (end func())
}

// shortLived is github with tokens that live for seconds. Pipedream does not say when it replaces them, so each read of
// a token that is about to expire asks for the next one.
func shortLived() pipedreamtest.Account {
	return githubWith(func(a *pipedreamtest.Account) {
		a.TokenLife, a.RefreshBefore, a.OmitNextRefresh = 6*time.Second, 3*time.Second, true
	})
}

// fleet is enough accounts that at any time one of them is to be fetched again. The engine waits for up to half a
// minute after a failure, which is long at the speed of these tests.
var fleet = func() (ids []string) {
	for i := range 40 {
		ids = append(ids, fmt.Sprintf("apn_fleet_%d", i))
	}
	return ids
}()

// incidents has one incident for each alert, by the name of the alert.
var incidents = map[string]incident{
	"PipedreamEngineMissing": {reads: []string{githubID}, cause: func(t *testing.T, m *mount) func() {
		require.NoError(t, m.vault.root.Sys().Unmount(m.path))
		return func() { require.NoError(t, m.vault.root.Sys().Mount(m.path, &api.MountInput{Type: pluginName})) }
	}},
	"PipedreamNotConfigured": {reads: []string{githubID}, cause: func(t *testing.T, m *mount) func() {
		m.deleteConfig(t)
		return func() { m.configure(t, nil) }
	}},
	"PipedreamKeyRefused": {reads: []string{stripeID}, cause: func(t *testing.T, m *mount) func() {
		m.apiKey = "pdkey_its_successor"
		m.sim.SetAPIKey(m.apiKey)
		return func() { m.configure(t, nil) }
	}},
	"PipedreamStorageFailing": {reads: []string{githubID}, cause: func(t *testing.T, m *mount) func() {
		// Vault's storage takes no entry of more than 1 MiB. The per-minute pass ends the state, so this goes on.
		tooLarge := map[string]any{"account_id": githubID, "fields": slices.Repeat([]string{strings.Repeat("a", 20<<10)}, 100)}
		client := m.vault.client(m.vault.rootToken)
		_, err := client.Logical().Write(m.in("roles/too-large"), tooLarge)
		require.Error(t, err)
		var stop atomic.Bool
		var writer sync.WaitGroup
		writer.Go(func() {
			for ; !stop.Load(); time.Sleep(lookEvery) {
				_, _ = client.Logical().Write(m.in("roles/too-large"), tooLarge)
			}
		})
		end := func() { stop.Store(true); writer.Wait() }
		t.Cleanup(end)
		return func() { end(); m.write(t, "roles/small", map[string]any{"account_id": githubID}) }
	}},
	"PipedreamClockWrong": {reads: []string{stripeID}, cause: func(t *testing.T, m *mount) func() {
		var ahead atomic.Int64 // in seconds
		way := &gate{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(-time.Duration(ahead.Load())*time.Second).UTC().Format(http.TimeFormat))
			m.sim.ServeHTTP(w, r)
		})}
		require.NoError(t, way.open())
		t.Cleanup(way.close)
		m.configure(t, map[string]any{"base_url": way.url()})
		change := func(seconds int64) {
			ahead.Store(seconds)
			_, err := m.vault.root.Logical().List(m.in("accounts"))
			require.NoError(t, err)
		}
		change(90)
		return func() { change(0) }
	}},
	"PipedreamUnreachable": {reads: fleet, cause: func(t *testing.T, m *mount) func() {
		for _, id := range fleet {
			m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.ID = id }))
		}
		way := &gate{handler: m.sim}
		require.NoError(t, way.open())
		t.Cleanup(way.close)
		m.configure(t, map[string]any{"base_url": way.url()})
		way.close()
		return func() { require.NoError(t, way.open()) }
	}},
	"PipedreamBudgetNearlyUsedUp": {reads: []string{githubID}, cause: func(t *testing.T, m *mount) func() {
		m.sim.SetAccount(shortLived())
		m.write(t, "config", map[string]any{"rate_limit": 10})
		m.write(t, "refresh/"+githubID, nil) // otherwise the token that lives for an hour stays
		return func() { m.write(t, "config", map[string]any{"rate_limit": 1000}) }
	}},
	"PipedreamThrottled": {reads: []string{stripeID}, cause: func(_ *testing.T, m *mount) func() {
		return m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusTooManyRequests})
	}},
	"PipedreamAccountsDead": {reads: []string{stripeID}, cause: func(t *testing.T, m *mount) func() {
		m.sim.Update(stripeID, func(a *pipedreamtest.Account) { a.Dead = true })
		return func() {
			m.sim.Update(stripeID, func(a *pipedreamtest.Account) { a.Dead = false })
			m.write(t, "refresh/"+stripeID, nil)
		}
	}},
	"PipedreamAccountsFailing": {reads: []string{stripeID}, cause: func(t *testing.T, m *mount) func() {
		m.sim.DeleteAccount(stripeID)
		return func() {
			m.sim.SetAccount(stripe())
			m.write(t, "refresh/"+stripeID, nil)
		}
	}},
	"PipedreamTokensRefreshedLate": {reads: []string{githubID}, cause: func(t *testing.T, m *mount) func() {
		m.sim.SetAccount(shortLived())
		m.write(t, "refresh/"+githubID, nil) // otherwise the token that lives for an hour stays
		return nil
	}},
}

// TestPrometheusWatchesTheEngine has a real Prometheus read the metrics of mounts, and waits for each alert. Each
// incident has its own mount, and one mount has none.
func TestPrometheusWatchesTheEngine(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"PROMETHEUS_BIN", "PROMTOOL_BIN"} {
		programOf(t, program) // before a server is started
	}
	vault := newVault(t)
	mounts := map[string]*mount{"": nil}
	for name := range incidents {
		mounts[name] = nil
	}
	var policy strings.Builder
	var paths []string
	for name := range mounts {
		m := enable(t, vault, cmp.Or(slug(name), "pipedream"), pipedreamtest.WithLimit(0))
		m.configure(t, nil)
		m.sim.SetAccount(github())
		m.sim.SetAccount(stripe())
		m.read(t, "static-creds/"+githubID)
		mounts[name] = m
		paths = append(paths, m.path)
		policy.WriteString("path \"" + m.in("metrics") + "\" { capabilities = [\"read\"] }\n")
	}
	well := mounts[""]
	require.Equal(t, "pipedream", well.path)
	front := vault.behindTLS(t)
	tokenFile := well.keepMetricsToken(t, policy.String())
	first := readFile(t, tokenFile)
	p := startPrometheus(t, front, tokenFile, paths)

	require.ElementsMatch(t, slices.Collect(maps.Keys(incidents)), p.alertNames(t), "each alert needs an incident, and each incident an alert")
	require.NoError(t, poll(readyTimeout, "every mount to be scraped", func() (bool, error) {
		return len(p.query(t, `up{job="vault-pipedream"} == 1`)) == len(mounts), nil
	}))
	well.metricsAreSound(t, front, tokenFile)
	well.mayReadNothingElse(t, front, tokenFile)

	t.Run("alerts", func(t *testing.T) {
		for name, what := range incidents {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p.sees(t, name, what, mounts[name])
			})
		}
	})

	well.read(t, "static-creds/"+githubID)
	// On a loaded machine Prometheus may be right that there were no metrics for a while.
	assert.Empty(t, p.query(t, `count_over_time(ALERTS{mount="pipedream", alertstate="firing", alertname!="PipedreamEngineMissing"}[1h])`))
	p.showsTheDashboard(t)
	p.survives(t, well, first)
	well.metricsAreAudited(t)
}

// metricsTokenTTL is short enough for Agent to log in again during the test.
const metricsTokenTTL = 30 * time.Second

// keepMetricsToken has Vault Agent keep a token as docs/examples/agent-prometheus.hcl does, and returns the file with
// the token.
func (m *mount) keepMetricsToken(t *testing.T, rules string) (path string) {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, m.vault.root.Sys().PutPolicy("pipedream-metrics", rules))
	approle := m.enableAppRole(t, in("role-id"), in("secret-id"), "metrics")
	_, err := m.vault.root.Logical().Write(approle+"/role/app", map[string]any{
		"token_policies": "pipedream-metrics", "token_no_default_policy": true, "token_ttl": metricsTokenTTL.String(),
	})
	require.NoError(t, err)
	path = in("vault-token")
	m.startConsumer(t, vaultBin, "agent", "-config="+example(t, dir, "agent-prometheus.hcl", []string{
		"https://vault.example.com:8200", m.vault.addr, "auth/approle", approle, "/etc/vault-agent/role-id", in("role-id"),
		"/etc/vault-agent/secret-id", in("secret-id"), "/etc/prometheus/vault-token", path,
	}))
	require.NoError(t, poll(readyTimeout, "Agent to log in", func() (bool, error) {
		_, err := os.Stat(path)
		return err == nil, nil
	}))
	return path
}

// survives waits until a token has expired, and then for a scrape.
func (p *prometheusServer) survives(t *testing.T, m *mount, token string) {
	t.Helper()
	require.NoError(t, poll(readyTimeout, "the first token to end", func() (bool, error) {
		_, err := m.vault.root.Auth().Token().Lookup(token)
		return err != nil, nil
	}))
	ended := time.Now().Unix()
	require.NoError(t, poll(readyTimeout, "a scrape with another token", func() (bool, error) {
		return len(p.query(t, fmt.Sprintf(`timestamp(up{mount=%q} == 1) > %d`, m.path, ended))) == 1, nil
	}))
}

// sees starts an incident, waits until its alert fires, ends the incident and waits until the alert is gone.
func (p *prometheusServer) sees(t *testing.T, name string, what incident, m *mount) {
	t.Helper()
	began := time.Now()
	end := what.cause(t, m)
	fired := p.waitFor(t, name, what, m, func(a *alert) bool { return a != nil && a.State == "firing" })
	assert.Contains(t, fired.Annotations["summary"], m.path)
	assert.NotContains(t, fired.Annotations["summary"]+fired.Annotations["description"], "<no value>")
	after := time.Since(began).Round(time.Second)
	if end == nil {
		t.Logf("%-28s fires after %s: %s", name, after, fired.Annotations["summary"])
		return
	}
	began = time.Now()
	end()
	p.waitFor(t, name, what, m, func(a *alert) bool { return a == nil })
	t.Logf("%-28s fires after %s, is over %s after its cause: %s", name, after, time.Since(began).Round(time.Second), fired.Annotations["summary"])
}

// waitFor keeps reading, whatever the answers are, until the alert is in the wanted state.
func (p *prometheusServer) waitFor(t *testing.T, name string, what incident, m *mount, is func(*alert) bool) (last *alert) {
	t.Helper()
	turn := 0
	require.NoError(t, poll(alertTimeout, name, func() (bool, error) {
		_, _ = m.vault.root.Logical().Read(m.in("static-creds/" + what.reads[turn%len(what.reads)]))
		turn++
		if last = p.alert(t, name, m.path); is(last) {
			return true, nil
		}
		time.Sleep(lookEvery)
		return false, nil
	}))
	return last
}

// ask sends a request with the token in a file.
func ask(t *testing.T, front *httptest.Server, tokenFile, method, path string) (status int, contentType, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, front.URL+"/v1/"+path, strings.NewReader("{}"))
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+readFile(t, tokenFile))
	response, err := front.Client().Do(request)
	require.NoError(t, err)
	defer response.Body.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, response.Header.Get("Content-Type"), string(text)
}

// metricsAreSound checks the metrics with promtool.
func (m *mount) metricsAreSound(t *testing.T, front *httptest.Server, tokenFile string) {
	t.Helper()
	status, contentType, text := ask(t, front, tokenFile, http.MethodGet, m.in("metrics"))
	require.Equal(t, http.StatusOK, status, text)
	assert.Equal(t, metricsType, contentType)
	promtool(t, text, "check", "metrics")
	lacks(t, "metrics", text, append(m.sim.Secrets(), githubID, "octocat")...)
	t.Logf("the metrics of a mount after one read:\n%s", text)
}

// mayReadNothingElse tries everything that the engine offers and some of what Vault offers.
func (m *mount) mayReadNothingElse(t *testing.T, front *httptest.Server, tokenFile string) {
	t.Helper()
	requests := len(m.sim.Requests())
	parameter := regexp.MustCompile(`\{\w+\}`)
	all := []endpoint{{method: "post", path: "metrics"}, {method: "delete", path: "metrics"}, {method: "get", path: "metrics/?list=true"}}
	for _, e := range append(all, endpoints...) {
		path := parameter.ReplaceAllString(e.path, githubID)
		if slices.Contains(e.parameters, "list") {
			path += "?list=true"
		}
		status, _, text := ask(t, front, tokenFile, strings.ToUpper(e.method), m.in(path))
		if e.method == "get" && e.path == "metrics" {
			assert.Equal(t, http.StatusOK, status, text)
			continue
		}
		assert.Equal(t, http.StatusForbidden, status, "%s %s: %s", e.method, path, text)
	}
	for _, path := range []string{
		"sys/mounts", "sys/policies/acl/pipedream-metrics", "sys/leases/lookup/" + m.path + "/?list=true", "identity/entity/id?list=true",
		"cubbyhole/mine", "auth/token/lookup-self", "auth/token/accessors?list=true", "secret/data/any",
	} {
		status, _, text := ask(t, front, tokenFile, http.MethodGet, path)
		assert.Equal(t, http.StatusForbidden, status, "%s: %s", path, text)
	}
	for _, path := range []string{"auth/token/create", "auth/token/renew-self"} {
		status, _, text := ask(t, front, tokenFile, http.MethodPost, path)
		assert.Equal(t, http.StatusForbidden, status, "%s: %s", path, text)
	}
	assert.Len(t, m.sim.Requests(), requests)
}

// showsTheDashboard runs all queries of the dashboard, as Grafana does with all mounts selected.
func (p *prometheusServer) showsTheDashboard(t *testing.T) {
	t.Helper()
	var dashboard any
	require.NoError(t, json.Unmarshal([]byte(prometheusExample(t, "grafana-dashboard.json")), &dashboard))
	selected := strings.NewReplacer("$job", ".*", "$mount", ".*", "$__rate_interval", "10m")
	expressions := valuesUnder(dashboard, "expr")
	require.Greater(t, len(expressions), 15)
	for _, expression := range expressions {
		result := p.query(t, selected.Replace(expression))
		assert.NotEmpty(t, result, expression)
		for _, one := range result {
			value, err := strconv.ParseFloat(asType[string](t, one.Value[1]), 64)
			require.NoError(t, err)
			assert.False(t, math.IsNaN(value), "%s: %v", expression, one)
		}
	}
	variables := valuesUnder(dashboard, "definition")
	require.NotEmpty(t, variables)
	for _, variable := range variables {
		match := regexp.MustCompile(`^label_values\((.+), (\w+)\)$`).FindStringSubmatch(variable)
		require.NotNil(t, match, variable)
		var values []string
		p.get(t, "label/"+match[2]+"/values", map[string][]string{"match[]": {selected.Replace(match[1])}}, &values)
		assert.Subset(t, []string{"job", "mount"}, []string{match[2]})
		assert.Contains(t, values, map[string]string{"job": "vault-pipedream", "mount": "pipedream"}[match[2]], variable)
	}
	t.Logf("%d queries and %d variables of the dashboard have a result", len(expressions), len(variables))
}

// valuesUnder returns the texts under a key, at any depth.
func valuesUnder(node any, key string) (values []string) {
	switch node := node.(type) {
	case map[string]any:
		for name, value := range node {
			if text, isText := value.(string); isText && name == key {
				values = append(values, text)
			}
			values = append(values, valuesUnder(value, key)...)
		}
	case []any:
		for _, element := range node {
			values = append(values, valuesUnder(element, key)...)
		}
	}
	return values
}

// metricsAreAudited asserts that the audit log records scrapes, but only a hash of their text.
func (m *mount) metricsAreAudited(t *testing.T) {
	t.Helper()
	read := m.audited(t, "metrics")
	assert.Equal(t, "read", read.Request.Operation)
	assert.Contains(t, read.Response.Data["http_raw_body"], "hmac-sha256:")
	for encoding, form := range formsOf("vault_pipedream_build_info") {
		lacks(t, "the audit log, "+encoding, m.audit(t), form)
	}
	t.Logf("the audit log of a scrape: %v", read.Response.Data)
}
