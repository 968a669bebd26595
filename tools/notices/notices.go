package main

import (
	"bytes"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"github.com/google/licensecheck"
)

// enough is the percentage of a file that must be the text of known licences.
const enough = 75

// patents is the name that licensecheck uses for the file PATENTS of Go and its libraries. It is a grant in addition to
// the licence.
const patents = "GooglePatentsFile"

// licencesIn returns the SPDX names of the licences in the files of a module, or none for files with other terms.
func licencesIn(texts []legalText) []string {
	var names []string
	for _, text := range texts {
		coverage := licensecheck.Scan([]byte(text.text))
		if coverage.Percent < enough {
			continue
		}
		for _, match := range coverage.Match {
			if match.ID != patents && !slices.Contains(names, match.ID) {
				names = append(names, match.ID)
			}
		}
	}
	slices.Sort(names)
	return names
}

const rule = "\n--------------------------------------------------------------------------------\n"

// notices returns the licence terms of all modules. Identical texts are given once.
func notices(name, version string, modules map[string]*linkedModule) ([]byte, error) {
	var out bytes.Buffer
	fmt.Fprintf(&out, "The programs of %s %s are linked from their own code and the modules below, under the terms that follow.\n"+
		"Some modules are linked on some platforms only. The SBOM of each program lists its own.\n"+
		"Get the source of a module with: go mod download <module>@<version>\n"+
		"The source of %s is that of the Go toolchain: https://go.dev/dl/\n\n", name, version, standard)
	var texts []string
	owners := map[string][]string{}
	for _, path := range slices.Sorted(maps.Keys(modules)) {
		m := modules[path]
		legal, err := m.legalTexts()
		if err != nil {
			return nil, err
		}
		fmt.Fprintln(&out, strings.TrimRight(fmt.Sprintf("%-70s %-45s %s", m.path, m.version, strings.Join(licencesIn(legal), ", ")), " "))
		for _, l := range legal {
			if owners[l.text] == nil {
				texts = append(texts, l.text)
			}
			owners[l.text] = append(owners[l.text], l.name)
		}
	}
	for _, text := range texts {
		fmt.Fprintf(&out, "%s%s%s\n%s\n", rule, strings.Join(owners[text], "\n"), rule, text)
	}
	return out.Bytes(), nil
}

// goroot returns the directory of the Go toolchain.
var goroot = sync.OnceValue(func() string { return goEnv("GOROOT") })

// toolchain returns the version of the Go toolchain, such as go1.2.3.
var toolchain = sync.OnceValue(func() string { return goEnv("GOVERSION") })

func goEnv(name string) string {
	out, err := exec.Command("go", "env", name).Output() //nolint:gosec,noctx // a name of this program's own
	if err != nil {
		panic(err) // go has just been run
	}
	return strings.TrimSpace(string(out))
}
