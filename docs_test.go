package pipedream

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	testInText = regexp.MustCompile("`((?:Test|Benchmark|Fuzz)[A-Z][A-Za-z0-9]+)`")
	testInCode = regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz)[A-Za-z0-9]+)\(`)
)

// The pages name the tests behind their promises. These tests must exist.
func TestTestsInThePagesExist(t *testing.T) {
	exists := map[string]bool{}
	for _, pattern := range []string{"*_test.go", "*/*_test.go", "*/*/*_test.go"} {
		for _, file := range read(t, pattern) {
			for _, match := range testInCode.FindAllStringSubmatch(file, -1) {
				exists[match[1]] = true
			}
		}
	}
	named := 0
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		for name, page := range read(t, pattern) {
			for _, match := range testInText.FindAllStringSubmatch(page, -1) {
				named++
				assert.True(t, exists[match[1]], "%s names %s", name, match[1])
			}
		}
	}
	require.Greater(t, named, 50, "the pages name tests")
}

// README.md must stay short, and link to the rest.
func TestREADMEIsShort(t *testing.T) {
	page, err := os.ReadFile("README.md")
	require.NoError(t, err)
	require.LessOrEqual(t, len(page), 9<<10, "bytes of README.md")
	for _, link := range []string{"docs/api.md", "docs/production.md", "docs/troubleshooting.md", "docs/connect.md", "SECURITY.md"} {
		require.Contains(t, string(page), "("+link)
	}
}

var demoTitle = regexp.MustCompile(`(?m)^  title "(.+)"$`)

// The recording of the demo shows all of its chapters.
func TestTheRecordingIsOfThisDemo(t *testing.T) {
	script, err := os.ReadFile("scripts/demo.sh")
	require.NoError(t, err)
	recording, err := os.ReadFile("docs/demo.cast")
	require.NoError(t, err)
	titles := demoTitle.FindAllStringSubmatch(string(script), -1)
	require.Greater(t, len(titles), 10)
	for _, title := range titles {
		require.Contains(t, string(recording), ". "+title[1], "make record-demo")
	}
}

var phony = regexp.MustCompile(`(?m)^\.PHONY: (.+)$`)

// TestMakeHelpListsEveryTarget: what it leaves out are files, notices and what scripts ask for.
func TestMakeHelpListsEveryTarget(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("make is not there")
	}
	help, err := exec.CommandContext(t.Context(), "make", "--no-print-directory", "help").Output()
	require.NoError(t, err)
	listed := 0
	for _, pattern := range []string{"Makefile", "*.mk"} {
		for name, makefile := range read(t, pattern) {
			for _, match := range phony.FindAllStringSubmatch(makefile, -1) {
				for target := range strings.FieldsSeq(match[1]) {
					if strings.Contains(target, "/") || strings.HasSuffix(target, "-notice") || strings.HasPrefix(target, "print-") {
						continue
					}
					listed++
					assert.Regexp(t, `(?m)^  `+regexp.QuoteMeta(target)+` +\S`, string(help), "%s: make help", name)
				}
			}
		}
	}
	require.Greater(t, listed, 30, "targets were looked for")
}

// read returns the files that match a pattern, by name.
func read(t *testing.T, pattern string) map[string]string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	require.NoError(t, err)
	files := map[string]string{}
	for _, name := range names {
		content, err := os.ReadFile(name) //nolint:gosec // a file of the repository
		require.NoError(t, err)
		files[name] = string(content)
	}
	return files
}
