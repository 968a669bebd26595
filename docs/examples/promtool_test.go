package examples

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPrometheusUnderstandsTheExamples has Prometheus's own tool look at them: make test-prometheus.
func TestPrometheusUnderstandsTheExamples(t *testing.T) {
	promtool := os.Getenv("PROMTOOL_BIN")
	if promtool == "" {
		t.Skip("PROMTOOL_BIN names no promtool: make test-prometheus builds one")
	}
	run := func(args ...string) {
		out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput() //nolint:gosec // the caller's own
		require.NoError(t, err, "promtool %q: %s", args, out)
	}
	run("check", "config", "--syntax-only", "--lint=all", "--lint-fatal", "prometheus-scrape.yml")
	run("check", "rules", "--lint=all", "--lint-fatal", "prometheus-rules.yml")
	run("test", "rules", "prometheus-rules-test.yml")

	var dashboard any
	require.NoError(t, json.Unmarshal([]byte(read(t, "grafana-dashboard.json")), &dashboard))
	for _, expression := range valuesOf(dashboard, "expr") {
		run("--experimental", "promql", "format", strings.ReplaceAll(expression, "$__rate_interval", "5m"))
	}
}
