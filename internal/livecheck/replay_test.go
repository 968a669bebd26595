package livecheck

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// oddReport is a report about a Pipedream that is as odd as the engine can bear. make test-replay uses it.
const oddReport = "testdata/odd-report.json"

// oddForms are those of that report.
var oddForms = []pipedreamtest.Option{
	pipedreamtest.WithOldConnectForms(), pipedreamtest.WithNotFoundAs200(), pipedreamtest.WithNoCursorAtEnd(), pipedreamtest.WithPageCap(2),
	pipedreamtest.WithoutTotals(), pipedreamtest.WithErrorObjects(), pipedreamtest.WithTimes(pipedreamtest.TimesOffset),
	pipedreamtest.WithConnectScopesOnWorkspace(),
}

func TestReplayAnswersAsReported(t *testing.T) {
	for name, tt := range map[string]struct {
		opts  []pipedreamtest.Option
		twist twist
	}{
		"by default":           {},
		"odd forms":            {opts: oddForms},
		"times with an offset": {opts: []pipedreamtest.Option{pipedreamtest.WithTimes(pipedreamtest.TimesOffset)}},
		"filters after paging": {opts: []pipedreamtest.Option{pipedreamtest.WithFiltersAfterPaging()}},
		"filters ignored":      {twist: dropped("app", "external_user_id")},
		"numbers as texts": {twist: infos(func(info map[string]any) {
			info["count"], info["total_count"] = fmt.Sprint(info["count"]), fmt.Sprint(info["total_count"])
		})},
		"no health": {twist: everyAccount(func(a map[string]any) { delete(a, "healthy"); delete(a, "authorized_scopes") })},
	} {
		t.Run(name, func(t *testing.T) {
			reported, _ := check(t, func(c *Config) { c.Transport = tt.twist.over(c.Transport) }, tt.opts...)
			opts, left, err := pipedreamtest.Replay(bytes.NewReader(reported.JSON()))
			require.NoError(t, err)
			require.Empty(t, left)
			replayed, _ := check(t, nil, opts...)
			for i, result := range reported.Results {
				require.Equal(t, result, replayed.Results[i])
			}
		})
	}
}

func TestReplaySaysWhatItCannotDo(t *testing.T) {
	reported, _ := check(t, func(c *Config) {
		c.Transport = lists(func(list map[string]any) { list["data"] = map[string]any{"items": list["data"]} }).over(c.Transport)
	})
	_, left, err := pipedreamtest.Replay(bytes.NewReader(reported.JSON()))
	require.NoError(t, err)
	require.Contains(t, left, "list.form: "+string(otherList))
	for _, bad := range []string{"", "{}", `{"format":2,"results":[{}]}`, "[]"} {
		_, _, err := pipedreamtest.Replay(bytes.NewReader([]byte(bad)))
		require.Error(t, err)
	}
}

// The report that make test-replay uses is what the check says now. UPDATE_REPORT=1 writes it.
func TestTheOddReportIsUpToDate(t *testing.T) {
	report, _ := check(t, nil, oddForms...)
	report.Day = "2026-01-01"
	if os.Getenv("UPDATE_REPORT") != "" {
		require.NoError(t, os.MkdirAll("testdata", 0o750))
		require.NoError(t, os.WriteFile(oddReport, report.JSON(), 0o600))
	}
	saved, err := os.ReadFile(oddReport)
	require.NoError(t, err)
	require.Equal(t, string(saved), string(report.JSON()))
	require.Empty(t, report.NotHandled)
}
