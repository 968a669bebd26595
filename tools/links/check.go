package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"
)

// site is what links can lead to.
type site struct {
	files map[string]bool // and directories
	pages map[string]*page
}

// check returns the problems of the pages among names, each as a line with the page and line number.
func check(files fs.FS, names []string) (problems []string, err error) {
	s := &site{files: map[string]bool{".": true}, pages: map[string]*page{}}
	for _, name := range names {
		for at := name; at != "."; at = path.Dir(at) {
			s.files[at] = true
		}
		if !strings.HasSuffix(name, ".md") {
			continue
		}
		source, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		s.pages[name] = parse(source)
	}
	if len(s.pages) == 0 {
		return nil, errors.New("there are no pages to check")
	}
	for _, name := range names {
		p := s.pages[name]
		if p == nil {
			continue
		}
		found := p.problems
		for _, l := range p.links {
			if err := s.follow(name, l.to); err != nil {
				found = append(found, problem{line: l.line, text: fmt.Sprintf("%s: %s", l.to, err)})
			}
		}
		slices.SortStableFunc(found, func(a, b problem) int { return a.line - b.line })
		for _, f := range found {
			problems = append(problems, fmt.Sprintf("%s:%d: %s", name, f.line, f.text))
		}
	}
	return problems, nil
}

// follow checks one link of a page.
func (s *site) follow(from, to string) error {
	u, err := url.Parse(to)
	switch {
	case err != nil:
		return errors.New("not a URL")
	case u.Scheme != "" || u.Host != "":
		return checkExternal(u)
	case to == "":
		return errors.New("the link is empty")
	case strings.HasPrefix(to, "/"):
		return errors.New("begins with /, which hosts interpret differently")
	case u.RawQuery != "":
		return errors.New("a link to a file cannot have a query")
	}
	target := from
	if u.Path != "" {
		target = path.Join(path.Dir(from), u.Path)
	}
	if !s.files[target] {
		return errors.New("no such file in the repository")
	}
	if !strings.Contains(to, "#") {
		return nil
	}
	p := s.pages[target]
	switch {
	case p == nil:
		return errors.New("an anchor into a file that is not a page")
	case !p.anchors[u.Fragment]:
		return errors.New("no such heading")
	default:
		return nil
	}
}

// checkExternal checks the form of a link that leads elsewhere.
func checkExternal(u *url.URL) error {
	host := u.Hostname()
	switch u.Scheme {
	case "https":
		if !strings.Contains(strings.Trim(host, "."), ".") {
			return errors.New("has no host")
		}
		return nil
	case "http":
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return errors.New("uses http instead of https")
		}
		return nil
	case "mailto":
		if user, domain, ok := strings.Cut(u.Opaque, "@"); !ok || user == "" || domain == "" {
			return errors.New("has no mailbox")
		}
		return nil
	default:
		return errors.New("neither a file nor a URL that begins with https://")
	}
}
