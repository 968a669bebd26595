package acceptance

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestDocsCommandsCanBePasted: readers paste blocks into an interactive shell, which may be zsh. There, "#" begins no
// comment, an unquoted pattern that matches no file is an error, and a read takes the next pasted line.
func TestDocsCommandsCanBePasted(t *testing.T) {
	t.Parallel()
	zsh, err := exec.LookPath("zsh")
	if err != nil {
		t.Log("no zsh: its own parser is left out")
	}
	seen := 0
	for _, page := range pageNames(t) {
		var all strings.Builder
		for _, b := range blocksOf(t, page) {
			if b.kind != blockCommands {
				continue
			}
			seen++
			commands, _ := b.split()
			all.WriteString(commands)
			bare := unquoted(commands)
			assert.NotRegexp(t, `(?m)(^|\s)#`, bare, "%s:%d: a comment among the commands:\n%s", page, b.line, b.text)
			assert.NotRegexp(t, `[*?]`, bare, "%s:%d: a pattern without quotes:\n%s", page, b.line, b.text)
			if readsTyped.MatchString(bare) {
				assert.Len(t, strings.Split(strings.TrimSpace(bare), "\n"), 1, "%s:%d: a read takes what is pasted after it:\n%s", page, b.line, b.text)
			}
		}
		if zsh != "" {
			parse := exec.CommandContext(t.Context(), zsh, "-fn") //nolint:gosec // that of this machine
			parse.Stdin = strings.NewReader(all.String())
			out, err := parse.CombinedOutput()
			assert.NoError(t, err, "%s: zsh: %s", page, out) //nolint:testifylint // the others are to be seen too
		}
	}
	require.Greater(t, seen, 80, "blocks of commands were looked for")
}

var (
	readsTyped = regexp.MustCompile(`(?m)^\s*read\s`)
	hereDoc    = regexp.MustCompile(`<<-?\s*(['"]?)(\w+)['"]?`)
	quoted     = regexp.MustCompile(`'[^']*'|"(?:[^"\\]|\\.)*"|\\.|\$[?#*]`)
)

// unquoted returns commands without what stands in quotes and in here-documents.
func unquoted(commands string) string {
	var kept strings.Builder
	end := ""
	for line := range strings.Lines(commands) {
		switch {
		case end == "":
			kept.WriteString(line)
			if m := hereDoc.FindStringSubmatch(strings.ReplaceAll(line, "<<<", "")); m != nil {
				end = m[2]
			}
		case strings.TrimSpace(line) == end:
			end = ""
		}
	}
	return quoted.ReplaceAllString(kept.String(), "")
}
