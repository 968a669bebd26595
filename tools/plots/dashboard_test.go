package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	dashboardFile = "../../docs/examples/grafana-dashboard.json"
	figuresFile   = "dashboard-figures.json"
)

// The picture on the page is of the dashboard beside it: whoever changes a panel draws it again.
func TestThePictureIsOfTheDashboard(t *testing.T) {
	drawn := filepath.Join(t.TempDir(), "dashboard.svg")
	require.NoError(t, run([]string{dashboardFile, figuresFile, drawn}))
	shown := textsIn(t, drawn)
	require.Equal(t, textsIn(t, "../../docs/images/dashboard.svg"), shown, "make dashboard")

	text, err := os.ReadFile(dashboardFile)
	require.NoError(t, err)
	var d dashboard
	require.NoError(t, json.Unmarshal(text, &d))
	require.Greater(t, len(d.Panels), 15)
	for _, p := range d.Panels {
		require.Contains(t, shown, p.Title)
	}
	// What happened in the hours that were recorded.
	for _, text := range []string{"unavailable", "throttled", "stale", "creds refused_502", "dead", "held off: mount"} {
		require.Contains(t, shown, text)
	}
}

// A panel whose query was not asked has no figures.
func TestAPanelWithoutFigures(t *testing.T) {
	text, err := os.ReadFile(dashboardFile)
	require.NoError(t, err)
	dir := t.TempDir()
	changed := filepath.Join(dir, "dashboard.json")
	require.NoError(t, os.WriteFile(changed, []byte(strings.Replace(string(text), "min(vault_pipedream_configured", "max(vault_pipedream_configured", 1)), 0o600))
	err = run([]string{changed, figuresFile, filepath.Join(dir, "dashboard.svg")})
	require.ErrorContains(t, err, "Configured: its query was not asked")
}

func textsIn(t *testing.T, picture string) []string {
	t.Helper()
	f, err := os.Open(picture) //nolint:gosec // the test's own, or the page's
	require.NoError(t, err)
	defer f.Close() //nolint:errcheck // only read
	return textsOf(t, f)
}
