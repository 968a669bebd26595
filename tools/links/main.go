// Command links checks the links of all Markdown pages of a repository. A link to a file must lead to a file in
// the repository, and an anchor to a heading. For links to other sites only the form is checked; nothing is requested.
// A page with a list of its contents must list all of its sections.
//
//	links [directory]
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
)

func main() {
	dir := "."
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	if err := run(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(dir string) error {
	files := os.DirFS(dir)
	names, err := list(dir, files)
	if err != nil {
		return err
	}
	problems, err := check(files, names)
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		return errors.New(strings.Join(problems, "\n"))
	}
	return nil
}

// list returns the files of a repository: those that git tracks and those that it would add. Links to other files work
// only on this machine.
func list(dir string, files fs.FS) ([]string, error) {
	git := exec.CommandContext(context.Background(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	git.Dir, git.Stderr = dir, os.Stderr
	out, err := git.Output()
	if err != nil {
		return nil, fmt.Errorf("the files of the repository could not be listed: %w", err)
	}
	var names []string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if _, err := fs.Stat(files, name); err == nil { // otherwise it was deleted, but not committed
			names = append(names, name)
		}
	}
	return names, nil
}
