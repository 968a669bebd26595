package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// linkedModule is a module that is linked into the program, with the directories of the linked packages.
type linkedModule struct {
	path, version string
	root          string // of the toolchain for the standard library: its licence lies above its packages
	dirs          []string
}

// legalText is a file of licence terms.
type legalText struct {
	name string // begins with the module's path
	text string
}

// standard stands for the standard library. Its licence is treated like any other.
const standard = "std"

// addLinked adds the modules that are linked into packages on a platform. They include the standard library but not the
// module of the packages themselves.
func addLinked(modules map[string]*linkedModule, source string, packages []string, goos, goarch string) error {
	list := exec.Command("go", append([]string{"list", "-deps", "-json=Dir,Standard,Module"}, packages...)...) //nolint:gosec,noctx // of the caller's choosing
	list.Dir = source
	list.Env = append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0", "GOWORK=off")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Dir      string
			Standard bool
			Module   *struct {
				Path, Version, Dir string
				Main               bool
				Replace            *struct{ Path, Version string }
			}
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		m := &linkedModule{path: standard, version: toolchain(), root: goroot()}
		if !p.Standard {
			if p.Module.Main {
				continue
			}
			if p.Module.Replace != nil {
				return fmt.Errorf("%s is replaced, so its licence and source may be different", p.Module.Path)
			}
			m = &linkedModule{path: p.Module.Path, version: p.Module.Version, root: p.Module.Dir}
		}
		if known := modules[m.path]; known != nil {
			m = known
		}
		modules[m.path] = m
		m.dirs = append(m.dirs, p.Dir)
	}
}

// legal matches the names of files with licence terms.
var legal = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|unlicense)([._-].*)?$`)

// legalTexts returns the files with licence terms beside a module's linked packages, or above them within the module.
// It is an error if there are none, because the terms would be unknown.
func (m *linkedModule) legalTexts() ([]legalText, error) {
	searched := map[string]bool{}
	var found []legalText
	for _, dir := range m.dirs {
		for ; !searched[dir] && (dir == m.root || strings.HasPrefix(dir, m.root+string(filepath.Separator))); dir = filepath.Dir(dir) {
			searched[dir] = true
			texts, err := m.legalTextsIn(dir)
			if err != nil {
				return nil, err
			}
			found = append(found, texts...)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s %s has no licence file in %s", m.path, m.version, m.root)
	}
	slices.SortFunc(found, func(a, b legalText) int { return strings.Compare(a.name, b.name) })
	return found, nil
}

func (m *linkedModule) legalTextsIn(dir string) ([]legalText, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	below, err := filepath.Rel(m.root, dir)
	if err != nil {
		return nil, err
	}
	var found []legalText
	for _, entry := range entries {
		if !entry.Type().IsRegular() || !legal.MatchString(entry.Name()) || filepath.Ext(entry.Name()) == ".go" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, entry.Name())) //nolint:gosec // of a module
		if err != nil {
			return nil, err
		}
		found = append(found, legalText{
			name: path.Join(m.path, filepath.ToSlash(below), entry.Name()),
			text: strings.TrimSpace(strings.ReplaceAll(string(content), "\r\n", "\n")),
		})
	}
	return found, nil
}
