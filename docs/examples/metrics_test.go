// Package examples holds what docs/examples has for Prometheus and Grafana to the metrics that there are.
package examples

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// known is a metric of metrics.txt: its labels, and the values of those whose values are listed.
type known map[string][]string

var (
	selector = regexp.MustCompile(`(vault_pipedream_\w+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"`)
	grouping = regexp.MustCompile(`\b(?:by|without) \(([^)]*)\)`)
)

// Labels of the scrape's own, of the alerts', and of a histogram.
var added = []string{"job", "mount", "instance", "le"}

func TestDashboardNamesMetricsThatExist(t *testing.T) {
	var dashboard any
	require.NoError(t, json.Unmarshal([]byte(read(t, "grafana-dashboard.json")), &dashboard))
	expressions := valuesOf(dashboard, "expr", "definition")
	require.Greater(t, len(expressions), 15)
	for _, expression := range expressions {
		check(t, expression)
	}
}

func TestRulesNameMetricsThatExist(t *testing.T) {
	for _, name := range []string{"prometheus-rules.yml", "prometheus-rules-test.yml"} {
		text := read(t, name)
		require.Greater(t, strings.Count(text, "vault_pipedream_"), 5)
		check(t, text)
	}
}

// TestEveryMetricIsLookedAt finds a metric that is on no panel and in no rule.
func TestEveryMetricIsLookedAt(t *testing.T) {
	text := read(t, "grafana-dashboard.json") + read(t, "prometheus-rules.yml")
	for name := range metrics(t) {
		assert.Regexp(t, name+`(_bucket)?\b`, text)
	}
}

// check asserts that each metric of a text exists, with the labels and values that are asked for.
func check(t *testing.T, text string) {
	t.Helper()
	all := metrics(t)
	var labels []string
	for _, found := range selector.FindAllStringSubmatch(text, -1) {
		labelsOf, exists := all[found[1]]
		if !assert.True(t, exists, "there is no metric %s: %s", found[1], text) {
			continue
		}
		for label := range labelsOf {
			labels = append(labels, label)
		}
		for _, match := range matcher.FindAllStringSubmatch(found[2], -1) {
			label, operator, value := match[1], match[2], match[3]
			if slices.Contains(added, label) {
				continue
			}
			values, exists := labelsOf[label]
			assert.True(t, exists, "%s has no label %s: %s", found[1], label, text)
			if len(values) == 0 {
				continue
			}
			wanted := regexp.MustCompile("^(?:" + regexp.QuoteMeta(value) + ")$")
			if strings.HasSuffix(operator, "~") {
				wanted = regexp.MustCompile("^(?:" + value + ")$")
			}
			assert.True(t, slices.ContainsFunc(values, wanted.MatchString), "%s of %s is never %q: %s", label, found[1], value, text)
		}
	}
	for _, found := range grouping.FindAllStringSubmatch(text, -1) {
		for label := range strings.SplitSeq(found[1], ",") {
			assert.Contains(t, append(labels, added...), strings.TrimSpace(label), text)
		}
	}
}

// metrics reads metrics.txt. The series of a histogram are there under their own names.
func metrics(t *testing.T) map[string]known {
	t.Helper()
	all := map[string]known{}
	for line := range strings.Lines(read(t, "metrics.txt")) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		require.GreaterOrEqual(t, len(fields), 2, line)
		require.Contains(t, []string{"counter", "gauge", "histogram"}, fields[0])
		labels := known{}
		for _, field := range fields[2:] {
			name, values, _ := strings.Cut(field, "=")
			labels[name] = strings.FieldsFunc(values, func(r rune) bool { return r == ',' })
		}
		name := fields[1]
		if fields[0] == "histogram" {
			name += "_bucket"
		}
		all[name] = labels
	}
	require.NotEmpty(t, all)
	return all
}

// valuesOf returns the texts that stand under any of the keys, however deep.
func valuesOf(node any, keys ...string) (values []string) {
	switch node := node.(type) {
	case map[string]any:
		for key, value := range node {
			if text, isText := value.(string); isText && slices.Contains(keys, key) {
				values = append(values, text)
			}
			values = append(values, valuesOf(value, keys...)...)
		}
	case []any:
		for _, element := range node {
			values = append(values, valuesOf(element, keys...)...)
		}
	}
	return values
}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name) //nolint:gosec // beside the test
	require.NoError(t, err)
	return string(content)
}
