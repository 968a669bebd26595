package main

import (
	"maps"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// checked is what check finds in a page that stands at docs/page.md beside a few other files.
func checked(t *testing.T, page string) []string {
	t.Helper()
	files := fstest.MapFS{
		"README.md":             {Data: []byte("# The engine\n\n## Set-up, in short\n")},
		"main.go":               {},
		"docs/page.md":          {Data: []byte(page)},
		"docs/other page.md":    {Data: []byte("# Other\n")},
		"docs/examples/one.hcl": {},
	}
	problems, err := check(files, slices.Sorted(maps.Keys(files)))
	require.NoError(t, err)
	return problems
}

func TestGoodLinks(t *testing.T) {
	for _, page := range []string{
		"[a](../README.md)",
		"[a](../README.md#set-up-in-short)",
		"[a](../main.go) and [b](examples) and [c](examples/) and [d](examples/one.hcl)",
		"[a](<other page.md#other>) and [b](other%20page.md)",
		"![picture](examples/one.hcl)",
		"[a][b]\n\n[b]: ../README.md",
		"# What `ttl` is: 2 (or 3)\n\n[a](#what-ttl-is-2-or-3)",
		"# allow_account_ids\n\n[a](#allow_account_ids)",
		"# Twice\n\n# Twice\n\n[a](#twice) [b](#twice-1)",
		"# Ärger & Co\n\n[a](#ärger--co)",
		"[a](https://example.com/x?y=z#w), https://example.com and <http://127.0.0.1:8200>",
		"<someone@example.com>",
		"`[a](gone.md)` and `[a][b]`, and\n\n```\n[a](gone.md)\n```",
		"- [a](#one)\n- [b](#two), [c](#three)\n\n## One\n\n### More\n\n## Two\n\n## Three",
		"[a](#one)\n\n## One\n\n- [b](#one)\n\n## Two",
		"a[1] and [2], <br> and <!-- [a](gone.md) -->",
	} {
		require.Empty(t, checked(t, page), page)
	}
}

func TestBadLinks(t *testing.T) {
	for page, problem := range map[string]string{
		"[a](gone.md)":                          "docs/page.md:1: gone.md: no such file in the repository",
		"text\n\n- one\n- [a](gone.md)":         "docs/page.md:4: gone.md: no such file",
		"| a |\n| - |\n| b |\n| [a](gone.md) |": "docs/page.md:4: gone.md: no such file",
		"[a](readme.md)":                        "readme.md: no such file",
		"[a](../README.md#set-up)":              "../README.md#set-up: no such heading",
		"[a](#nowhere)":                         "docs/page.md:1: #nowhere: no such heading",
		"# Once\n\n[a](#once-1)":                "docs/page.md:3: #once-1: no such heading",
		"[a](../main.go#L3)":                    "../main.go#L3: an anchor into a file that is not a page",
		"[a](../../outside.md)":                 "../../outside.md: no such file",
		"[a](/README.md)":                       "/README.md: begins with /",
		"[a](../README.md?raw=1)":               "a link to a file cannot have a query",
		"[a]()":                                 "the link is empty",
		"![picture](gone.png)":                  "gone.png: no such file",
		"[a][b]\n\n[b]: gone.md":                "docs/page.md:1: gone.md: no such file",
		"[a][b]":                                "[a][b]: leads nowhere",
		"[a](other page.md)":                    "[a](other page.md): leads nowhere",
		"[a](http://example.com)":               "http://example.com: uses http instead of https",
		"[a](https:///x)":                       "https:///x: has no host",
		"[a](https://example)":                  "https://example: has no host",
		"[a](//example.com)":                    "//example.com: neither a file nor a URL",
		"[a](htps://example.com)":               "htps://example.com: neither a file nor a URL",
		"[a](https://exa%mple.com)":             "not a URL",
		"[a](mailto:nobody)":                    "mailto:nobody: has no mailbox",
		"<a href=\"gone.md\">a</a>":             "docs/page.md:1: a link or anchor in HTML",
		"text <a id=\"here\"></a>":              "docs/page.md:1: a link or anchor in HTML",
		"- [a](#one)\n\n## One\n\n## Two":       "docs/page.md:5: the contents of the page lack #two",
		"<div>\n<img src=\"x.png\">\n</div>":    "a link or anchor in HTML",
	} {
		problems := checked(t, page)
		require.Len(t, problems, 1, page)
		require.Contains(t, problems[0], problem, page)
	}
}

func TestNoPages(t *testing.T) {
	_, err := check(fstest.MapFS{"main.go": {}}, []string{"main.go"})
	require.Error(t, err)
}
