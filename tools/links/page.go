package main

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
)

// page is what is known about a Markdown page.
type page struct {
	links    []link
	anchors  map[string]bool // of its headings
	problems []problem

	contents map[string]bool // what a list above the first section links to, on the page
	sections []link          // the headings of the second level
}

type link struct {
	line int
	to   string
}

type problem struct {
	line int
	text string
}

var (
	// A link that Markdown does not recognize is shown as text.
	broken = regexp.MustCompile(`\[[^\[\]]+\](\[[^\[\]]*\]|\([^()]*\))`)
	inHTML = regexp.MustCompile(`(?i)\s(href|src|id|name)\s*=`)
)

// parse parses a page as forges do: CommonMark with the GitHub extensions.
func parse(source []byte) *page {
	p := &page{anchors: map[string]bool{}, contents: map[string]bool{}}
	root := goldmark.New(goldmark.WithExtensions(extension.GFM)).Parser().Parse(text.NewReader(source))
	_ = ast.Walk(root, func(n ast.Node, entering bool) (ast.WalkStatus, error) { // which fails only where this function does
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			anchor := p.addHeading(shown(n, source))
			if n.Level == 2 {
				p.sections = append(p.sections, link{line: lineOf(n, source), to: anchor})
			}
		case *ast.Link:
			to := string(n.Destination)
			p.links = append(p.links, link{line: lineOf(n, source), to: to})
			if here, ok := strings.CutPrefix(to, "#"); ok && len(p.sections) == 0 && isInList(n) {
				p.contents[here] = true
			}
		case *ast.Image:
			p.links = append(p.links, link{line: lineOf(n, source), to: string(n.Destination)})
		case *ast.AutoLink:
			p.addAutoLink(n, source)
		case *ast.RawHTML:
			p.checkHTML(n, n.Segments, source)
		case *ast.HTMLBlock:
			p.checkHTML(n, n.Lines(), source)
		}
		if n.Type() == ast.TypeBlock {
			for _, written := range broken.FindAllString(plain(n, source), -1) {
				p.problems = append(p.problems, problem{line: lineOf(n, source), text: written + ": leads nowhere, and is shown as it is written"})
			}
		}
		return ast.WalkContinue, nil
	})
	for _, section := range p.sections {
		if len(p.contents) > 0 && !p.contents[section.to] {
			p.problems = append(p.problems, problem{line: section.line, text: "the contents of the page lack #" + section.to})
		}
	}
	return p
}

func isInList(n ast.Node) bool {
	for ; n != nil; n = n.Parent() {
		if n.Kind() == ast.KindListItem {
			return true
		}
	}
	return false
}

// addHeading adds the anchor that forges give to a heading: its text in lower case, with hyphens for spaces, and
// without characters other than letters, digits, hyphens and underscores. A repeated anchor gets a number.
func (p *page) addHeading(heading string) (numbered string) {
	anchor := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r):
			return unicode.ToLower(r)
		default:
			return -1
		}
	}, heading)
	numbered = anchor
	for n := 1; p.anchors[numbered]; n++ {
		numbered = anchor + "-" + strconv.Itoa(n)
	}
	p.anchors[numbered] = true
	return numbered
}

func (p *page) addAutoLink(n *ast.AutoLink, source []byte) {
	to := string(n.URL(source))
	if n.AutoLinkType == ast.AutoLinkEmail && !strings.HasPrefix(to, "mailto:") {
		to = "mailto:" + to
	}
	p.links = append(p.links, link{line: lineOf(n, source), to: to})
}

// checkHTML rejects links and anchors in HTML, which this program does not follow.
func (p *page) checkHTML(n ast.Node, lines *text.Segments, source []byte) {
	if inHTML.Match(lines.Value(source)) {
		p.problems = append(p.problems, problem{line: lineOf(n, source), text: "a link or anchor in HTML: write it in Markdown"})
	}
}

// shown returns the text of a node as a reader sees it.
func shown(n ast.Node, source []byte) string {
	var out strings.Builder
	for c := n.FirstChild(); c != nil; c = c.NextSibling() {
		switch c := c.(type) {
		case *ast.Text:
			out.Write(c.Value(source))
			if c.SoftLineBreak() {
				out.WriteByte(' ')
			}
		case *ast.String:
			out.Write(c.Value)
		default:
			out.WriteString(shown(c, source))
		}
	}
	return out.String()
}

// plain returns the text directly in a block, without code and links.
func plain(block ast.Node, source []byte) string {
	var out strings.Builder
	for c := block.FirstChild(); c != nil; c = c.NextSibling() {
		switch c := c.(type) {
		case *ast.Text:
			out.Write(c.Segment.Value(source))
		case *ast.CodeSpan, *ast.Link, *ast.Image, *ast.AutoLink:
			out.WriteByte('x')
		}
	}
	return out.String()
}

// lineOf returns the line on which a node, or the block that contains it, begins.
func lineOf(n ast.Node, source []byte) int {
	for ; n != nil; n = n.Parent() {
		if at := n.Pos(); at >= 0 && at <= len(source) {
			return 1 + bytes.Count(source[:at], []byte("\n"))
		}
	}
	return 1
}
