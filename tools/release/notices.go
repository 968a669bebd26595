package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"github.com/google/licensecheck"
)

// enough is how much of a file, in percent, has to be the text of known licences for it to count as those.
const enough = 75

// patents is what licensecheck calls the file PATENTS of Go and its libraries: a grant beside the licence, and no licence.
const patents = "GooglePatentsFile"

// licencesIn returns the SPDX names of the licences in a module's files with terms. Files with other terms have none.
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

// notices returns the terms of everything that is linked into the program. Texts that are the same are given once.
func (r *release) notices(platform string, modules []*linkedModule) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s %s for %s is linked from its own code and the modules below, under the terms that follow.\n"+
		"The source of each is had with: go mod download <module>@<version>\n"+
		"That of %s is the Go toolchain's: https://go.dev/dl/\n\n", r.name, r.version, platform, standard)
	var texts []string
	owners := map[string][]string{}
	for _, m := range modules {
		fmt.Fprintln(&out, strings.TrimRight(fmt.Sprintf("%-70s %-45s %s", m.path, m.version, strings.Join(m.licences, ", ")), " "))
		for _, l := range m.legal {
			if owners[l.text] == nil {
				texts = append(texts, l.text)
			}
			owners[l.text] = append(owners[l.text], l.name)
		}
	}
	for _, text := range texts {
		fmt.Fprintf(&out, "%s%s%s\n%s\n", rule, strings.Join(owners[text], "\n"), rule, text)
	}
	return out.Bytes()
}

// goroot is where the toolchain lies that builds.
var goroot = sync.OnceValue(func() string { return goEnv("GOROOT") })

// toolchain is the version of Go that builds, such as go1.2.3.
var toolchain = sync.OnceValue(func() string { return goEnv("GOVERSION") })

func goEnv(name string) string {
	out, err := exec.Command("go", "env", name).Output() //nolint:gosec,noctx // a name of this program's own
	if err != nil {
		panic(err) // go has just been run
	}
	return strings.TrimSpace(string(out))
}
