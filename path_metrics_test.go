package pipedream

import (
	"bytes"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// metrics reads metrics as a scrape does.
func (m *mount) metrics() (text string, families map[string]*dto.MetricFamily) {
	m.Helper()
	resp, err := m.b.HandleRequest(m.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "metrics", Storage: m.storage})
	require.NoError(m, err)
	require.Equal(m, http.StatusOK, resp.Data[logical.HTTPStatusCode])
	require.Contains(m, resp.Data[logical.HTTPContentType], "text/plain; version=0.0.4")
	raw := resp.Data[logical.HTTPRawBody].([]byte)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err = parser.TextToMetricFamilies(bytes.NewReader(raw))
	require.NoError(m, err)
	return string(raw), families
}

// metric returns the value of a metric with these labels; 0 if there is none.
func (m *mount) metric(name string, labels ...label) float64 {
	m.Helper()
	_, families := m.metrics()
	for _, one := range families[name].GetMetric() {
		if hasLabels(one, labels) {
			return one.GetGauge().GetValue() + one.GetCounter().GetValue()
		}
	}
	return 0
}

func hasLabels(metric *dto.Metric, labels []label) bool {
	for _, l := range labels {
		if !slices.ContainsFunc(metric.GetLabel(), func(pair *dto.LabelPair) bool { return pair.GetName() == l.name && pair.GetValue() == l.value }) {
			return false
		}
	}
	return true
}

func TestMetrics(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		m.creds(github)
		_, err := m.read("static-creds/apn_nobody")
		require.Error(t, err)
		m.sim.SetAccount(pipedreamtest.Account{ID: "apn_dead", Dead: true, Credentials: map[string]any{"a": "b"}})
		_, err = m.read("creds/apn_dead")
		require.Error(t, err)
		for name, want := range map[string]float64{
			"reads_total path=creds result=fetched":            1,
			"reads_total path=creds result=hit":                1,
			"reads_total path=static-creds result=refused_400": 1,
			"requests_total kind=account outcome=success":      2,
			"requests_total kind=account outcome=not_found":    1,
			"accounts_failing reason=dead":                     1,
			"accounts_failing reason=failing":                  1,
			"held_off scope=account":                           2,
			"held_off scope=mount":                             0,
			"budget_limit":                                     100,
			"budget_used":                                      5,
			"cached_accounts":                                  1,
			"configured":                                       1,
			"key_refused":                                      0,
			"last_success_timestamp_seconds":                   float64(time.Now().Unix()),
		} {
			name, rest, _ := strings.Cut(name, " ")
			var labels []label
			for pair := range strings.FieldsSeq(rest) {
				name, value, _ := strings.Cut(pair, "=")
				labels = append(labels, label{name, value})
			}
			require.InDelta(t, want, m.metric(metricPrefix+name, labels...), 0, "%s %s", name, rest)
		}

		time.Sleep(56 * time.Minute)
		m.creds(github)
		m.periodic()
		synctest.Wait()
		require.InDelta(t, 1, m.metric(metricPrefix+"tokens_refreshed_total", label{"when", "ahead"}), 0)

		m.sim.SetAPIKey("pd_rotated")
		_, err = m.read("creds/" + stripe)
		require.Error(t, err)
		require.InDelta(t, 1, m.metric(metricPrefix+"key_refused"), 0)
		require.InDelta(t, 1, m.metric(metricPrefix+"held_off", label{"scope", "mount"}), 0)
	})
}

// The metrics are as documented, and Prometheus's own linter accepts their names and
// help texts. None of them names anything of a caller or of Pipedream.
func TestMetricsAreAsDocumented(t *testing.T) {
	documented, labels := map[string]string{}, map[string][]string{}
	list, err := os.ReadFile("docs/examples/metrics.txt")
	require.NoError(t, err)
	for line := range strings.Lines(string(list)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] != "#" {
			documented[fields[1]], labels[fields[1]] = fields[0], fields[2:]
		}
	}
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("secretrole", map[string]any{"app": "github", "external_user_id": "alice"})
		m.creds("secretrole")
		_, err := m.read("creds/apn_nobody")
		require.Error(t, err)
		time.Sleep(56 * time.Minute)
		m.creds("secretrole")
		text, families := m.metrics()
		for name, family := range families {
			require.Equal(t, documented[name], strings.ToLower(family.GetType().String()), name)
			for _, label := range labels[name] {
				label, values, listed := strings.Cut(label, "=")
				if listed {
					require.ElementsMatch(t, strings.Split(values, ","), valuesOfLabel(family, label), "%s of %s", label, name)
				}
			}
		}
		for name := range documented {
			require.Contains(t, families, name)
		}
		problems, err := promlint.New(strings.NewReader(text)).Lint()
		require.NoError(t, err)
		require.Empty(t, problems)
		for _, word := range []string{"apn_", "alice", "secretrole", "github"} {
			require.NotContains(t, text, word)
		}
		m.noSecretIn(text)
	})
}

func valuesOfLabel(family *dto.MetricFamily, label string) (values []string) {
	for _, one := range family.GetMetric() {
		for _, pair := range one.GetLabel() {
			if pair.GetName() == label && !slices.Contains(values, pair.GetValue()) {
				values = append(values, pair.GetValue())
			}
		}
	}
	return values
}

// A mistyped id does not count as a failing account forever.
func TestAnAccountNobodyAsksForIsNotFailing(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		_, err := m.read("creds/apn_typo")
		require.Error(t, err)
		require.InDelta(t, 1, m.metric(metricPrefix+"accounts_failing", label{"reason", "failing"}), 0)
		time.Sleep(15 * time.Minute)
		require.Zero(t, m.metric(metricPrefix+"accounts_failing", label{"reason", "failing"}))
	})
}

func TestMetricsUnconfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		require.Zero(t, m.metric(metricPrefix+"configured"))
		require.InDelta(t, 1, m.metric(metricPrefix+"build_info", label{"version", version}), 0)
		_, families := m.metrics()
		require.NotContains(t, families, metricPrefix+"key_refused")
	})
}
