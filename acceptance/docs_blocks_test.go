package acceptance

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What a fenced block of a page is.
type blockKind int

const (
	blockOther    blockKind = iota // in another language
	blockCommands                  // to be pasted into a shell
	blockOutput                    // what commands print
)

// block is a fenced block of a page.
type block struct {
	page    string // the path of its file in the repository
	section string // the nearest heading of the second level above it
	heading string // the nearest heading above it
	line    int    // of its fence; for messages alone
	kind    blockKind
	text    string
	mark    string // the text of the comment in the line above it, if it is one of marks
}

// marks are the comments that say how a block of commands is run, or why it is not. They stand in the line above it.
var marks = regexp.MustCompile(`^<!-- (not run.*|run in .*) -->$`)

const markTerminal = "run in a terminal of its own"

// notRun tells whether the block is marked with a reason for not running it.
func (b *block) notRun() bool {
	_, reason, found := strings.Cut(b.mark, ": ")
	return found && strings.HasPrefix(b.mark, "not run") && reason != ""
}

// ofAPISample tells whether TestSamplesOfTheAPIPageWork runs the block.
func (b *block) ofAPISample() bool {
	return b.page == apiPage && b.heading == "Sample request"
}

var (
	fence   = regexp.MustCompile("^ *```([a-z]*)$")
	heading = regexp.MustCompile(`^(#+) (.*)$`)

	// firstOfCommand is what the first word of a command looks like: a program, a path or an assignment. A table or a
	// message begins with a capital letter or a mark.
	firstOfCommand = regexp.MustCompile(`^(?:[A-Za-z_][A-Za-z0-9_]*=|[a-z][a-z0-9_./-]*(?:\(\))?(?:\s|$)|\.{0,2}/[a-z]|\.[a-z]|["$(])`)
)

// pageNames are the pages of the repository.
func pageNames(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		found, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(pattern)))
		require.NoError(t, err)
		for _, path := range found {
			name, err := filepath.Rel("..", path)
			require.NoError(t, err)
			names = append(names, filepath.ToSlash(name))
		}
	}
	require.Greater(t, len(names), 10, "pages were looked for")
	return names
}

// kindsOfLanguages are what blocks are by the language in their fence. A block without one is looked at.
var kindsOfLanguages = map[string]blockKind{
	"": blockOutput, "sh": blockCommands, "bash": blockCommands, "shell": blockCommands, "console": blockCommands,
}

// blocksOf returns the fenced blocks of a page, in its order.
func blocksOf(t *testing.T, page string) (blocks []block) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(page)))
	require.NoError(t, err)
	next := block{page: page}
	var open *block
	var text []string
	indent, above := 0, ""
	for i, line := range strings.Split(string(content), "\n") {
		trimmed := strings.TrimSpace(line)
		switch m := fence.FindStringSubmatch(line); {
		case open != nil && trimmed == "```":
			open.text = strings.Join(text, "\n") + "\n"
			open.kind = kindOf(open.text, open.kind)
			blocks, open = append(blocks, *open), nil
		case open != nil:
			text = append(text, line[min(indent, len(line)-len(strings.TrimLeft(line, " "))):])
		case m != nil:
			b := next
			b.line, b.kind = i+1, kindsOfLanguages[m[1]]
			if mark := marks.FindStringSubmatch(above); mark != nil {
				b.mark = mark[1]
			}
			open, text, indent = &b, nil, strings.Index(line, "`")
		default:
			// A mark that is not right above a block says nothing of any.
			assert.False(t, marks.MatchString(above) && !marks.MatchString(trimmed), "%s:%d: a mark above no block", page, i)
			if m := heading.FindStringSubmatch(line); m != nil {
				next.heading = m[2]
				if m[1] == "##" {
					next.section = m[2]
				}
			}
		}
		above = trimmed
	}
	require.Nil(t, open, "%s: a block has no end", page)
	return blocks
}

// kindOf tells commands from output where a block has no language.
func kindOf(text string, kind blockKind) blockKind {
	if kind != blockOutput {
		return kind
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, "$ ") || firstOfCommand.MatchString(line) {
			return blockCommands
		}
		return blockOutput
	}
	return blockOutput
}

// split divides a block whose commands begin with a prompt into these and what they print.
func (b *block) split() (commands, output string) {
	if !strings.HasPrefix(b.text, "$ ") {
		return b.text, ""
	}
	var typed, printed strings.Builder
	for line := range strings.Lines(b.text) {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			typed.WriteString(command)
		} else {
			printed.WriteString(line)
		}
	}
	return typed.String(), printed.String()
}
