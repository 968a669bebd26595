package pipedream

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const troubleshootingPages = "docs/troubleshooting*.md"

// TestTroubleshootingPage compares the pages of troubleshooting with the texts in the
// code. A search of them must find every error, warning and log line by its fixed words,
// whatever ids, names and numbers it has. internal/livecheck is a program of its own,
// whose texts docs/live-check.md explains.
func TestTroubleshootingPage(t *testing.T) {
	text, lines := "", ""
	for name, page := range read(t, troubleshootingPages) {
		require.Less(t, len(page), 40_000, "bytes of %s", name)
		page = strings.NewReplacer(`\<`, "<", `\|`, "|").Replace(page)
		text, lines = text+squeeze(page)+"\n", lines+page
	}
	found := 0
	for _, pattern := range []string{"*.go", "internal/*/*.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") || ofAnotherProgram(filepath.ToSlash(file)) {
				continue
			}
			for _, shown := range textsIn(t, filepath.ToSlash(file)) {
				if words := fixedWords(shown); words != "" && !strings.Contains(lines, words) {
					t.Errorf("%s says %q, and no line of %s has it", file, words, troubleshootingPages)
				}
				for _, piece := range pieces(shown) {
					found++
					if !strings.Contains(text, piece) { // the page itself would be no help in the message
						t.Errorf("%s says %q, and %s do not", file, piece, troubleshootingPages)
					}
				}
			}
		}
	}
	require.Greater(t, found, 100, "texts were looked for")
}

// ofAnotherProgram reports whether a file is not part of the engine.
func ofAnotherProgram(file string) bool {
	return strings.HasPrefix(file, "internal/pipedreamtest/") || strings.HasPrefix(file, "internal/livecheck/")
}

// unshown are texts that no user sees.
var unshown = []string{
	"record not found",                           // becomes one of the texts of errors.go
	"an error stands in place of the account",    // likewise
	"overtaken",                                  // between packages
	"no configuration was passed to the backend", // Vault always passes one
	"is missing",                                 // config.go asks first for what is missing
}

// hole stands for what is put into a text at run time.
const hole = "\x00"

// textsIn returns the texts for users in a file.
func textsIn(t *testing.T, file string) (texts []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	add := func(e ast.Expr) {
		if text := fold(e); strings.Contains(text, " ") {
			texts = append(texts, text)
		}
	}
	everything, ofRoot := file == "errors.go", !strings.Contains(file, "/")
	ast.Inspect(parsed, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if everything || showsItsText(n) {
				for _, argument := range n.Args {
					add(argument)
				}
			}
		case *ast.ReturnStmt:
			if ofRoot {
				for _, result := range n.Results {
					add(result)
				}
			}
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Detail" {
				add(n.Value)
			}
		case *ast.AssignStmt:
			for i, left := range n.Lhs {
				if name := lastName(left); i < len(n.Rhs) && (name == "Detail" || name == "detail" || name == "meant" || name == "missing") {
					add(n.Rhs[i])
				}
			}
		}
		return true
	})
	return texts
}

// showsItsText reports whether users see the arguments of a function.
func showsItsText(call *ast.CallExpr) bool {
	switch name := lastName(call.Fun); name {
	case "badRequest", "CodedError", "AddWarning", "tooLargeError", "Warn":
		return true
	case "New": // errors.New
		selector, ok := call.Fun.(*ast.SelectorExpr)
		return ok && lastName(selector.X) == "errors"
	case "Error", "Log": // of a logger
		return len(call.Args) > 0
	default:
		return false
	}
}

func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	default:
		return ""
	}
}

// fold returns the text of an expression, with holes for what is not literal.
func fold(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return text
		}
	case *ast.Ident:
		if e.Name == "cli" {
			return "vault"
		}
	case *ast.BinaryExpr:
		if e.Op == token.ADD {
			return fold(e.X) + fold(e.Y)
		}
	case *ast.CallExpr:
		if lastName(e.Fun) == "Sprintf" {
			return fold(e.Args[0])
		}
	}
	return hole
}

var verb = regexp.MustCompile(`%[a-z]|` + hole)

// pieces returns the parts of a text between its holes, except single words.
func pieces(text string) (out []string) {
	for _, piece := range verb.Split(text, -1) {
		piece = squeeze(piece)
		if strings.Contains(piece, " ") && !slices.Contains(unshown, piece) {
			out = append(out, piece)
		}
	}
	return out
}

var placeholder = regexp.MustCompile(`<[^>]+>`)

// fixedWords returns the longest part of a text that is the same whatever ids, names and
// numbers an error has. It is what one searches for with grep, which reads line by line.
func fixedWords(text string) (longest string) {
	for _, piece := range pieces(placeholder.ReplaceAllString(text, hole)) {
		if len(piece) > len(longest) {
			longest = piece
		}
	}
	return longest
}

func squeeze(text string) string { return strings.Join(strings.Fields(text), " ") }
