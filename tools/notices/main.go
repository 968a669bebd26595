// Command notices prints the licence terms of everything that is linked into programs, for all platforms of a release.
//
//	notices -source DIR -name NAME -version VERSION -packages ./cmd/a,./cmd/b OS/ARCH...
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "notices:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("notices", flag.ContinueOnError)
	name := flags.String("name", "", "name of what is released")
	version := flags.String("version", "", "version, such as v1.2.3")
	source := flags.String("source", ".", "root of the source tree")
	packages := flags.String("packages", "", "packages of the programs, with commas between them")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *name == "" || *version == "" || *packages == "" || flags.NArg() == 0 {
		return errors.New("it needs -name NAME -version VERSION -packages PACKAGES OS/ARCH")
	}
	modules := map[string]*linkedModule{}
	for _, platform := range flags.Args() {
		goos, goarch, found := strings.Cut(platform, "/")
		if !found {
			return errors.New("a platform looks like linux/amd64")
		}
		if err := addLinked(modules, *source, strings.Split(*packages, ","), goos, goarch); err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
	}
	text, err := notices(*name, *version, modules)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}
