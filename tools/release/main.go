// Command release packs the binaries of a release: an archive with licence notices and an SBOM for each platform, the
// release notes, and SHA256SUMS. The same source and binaries always produce the same bits.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// options says what to pack and where it is.
type options struct {
	name, version string
	source        string // the root of the source tree
	binaries      string // has the binary of each platform in a directory such as linux_amd64
	out           string
	platforms     []string // such as linux/amd64
}

// release is options with everything that is the same for all platforms.
type release struct {
	options
	date time.Time
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	changelog, err := os.ReadFile(filepath.Join(o.source, "CHANGELOG.md"))
	if err != nil {
		return err
	}
	// Each file has the date of the release, so neither the clock nor the checkout matters.
	date, notes, err := releaseNotes(string(changelog), o.version)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil { //nolint:gosec // for everybody to read
		return err
	}
	if err := writeFile(filepath.Join(o.out, "RELEASE_NOTES.md"), []byte(notes)); err != nil {
		return err
	}
	r := &release{options: *o, date: date}
	for _, p := range o.platforms {
		if err := r.pack(p); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return writeSums(o.out)
}

func parseOptions(args []string) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	flags.StringVar(&o.name, "name", "", "name of the program")
	flags.StringVar(&o.version, "version", "", "version, such as v1.2.3")
	flags.StringVar(&o.source, "source", ".", "root of the source tree")
	flags.StringVar(&o.binaries, "binaries", "", "directory with the binary of each platform")
	flags.StringVar(&o.out, "out", "", "directory to write to")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if o.platforms = flags.Args(); o.name == "" || o.version == "" || o.binaries == "" || o.out == "" || len(o.platforms) == 0 {
		return nil, errors.New("it needs -name NAME -version VERSION -source DIR -binaries DIR -out DIR OS/ARCH")
	}
	return o, nil
}

// pack writes the archive and the SBOM of one platform.
func (r *release) pack(platform string) error {
	goos, goarch, found := strings.Cut(platform, "/")
	if !found {
		return errors.New("a platform looks like linux/amd64")
	}
	program, extension := r.name, ".tar.gz"
	if goos == "windows" {
		program, extension = r.name+".exe", ".zip"
	}
	binary := filepath.Join(r.binaries, goos+"_"+goarch, program)
	content, err := os.ReadFile(binary) //nolint:gosec // it is what there is to pack
	if err != nil {
		return err
	}
	modules, err := linkedModules(r.source, "./cmd/"+r.name, goos, goarch)
	if err != nil {
		return err
	}
	files := []file{
		{name: program, mode: 0o755, content: content},
		{name: "THIRD_PARTY_NOTICES.txt", mode: 0o644, content: r.notices(platform, modules)},
	}
	for _, name := range []string{"CHANGELOG.md", "LICENSE", "README.md"} {
		content, err := os.ReadFile(filepath.Join(r.source, name)) //nolint:gosec // one of the three
		if errors.Is(err, os.ErrNotExist) && name == "LICENSE" {
			continue // until the owner has chosen one
		}
		if err != nil {
			return err
		}
		files = append(files, file{name: name, mode: 0o644, content: content})
	}
	base := fmt.Sprintf("%s_%s_%s_%s", r.name, r.version, goos, goarch)
	if err := writeArchive(filepath.Join(r.out, base+extension), r.date, files); err != nil {
		return err
	}
	bom, err := r.sbom(binary, modules)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(r.out, base+".cdx.json"), bom)
}

// writeFile writes a file that everyone may read.
func writeFile(name string, content []byte) error {
	return os.WriteFile(name, content, 0o644) //nolint:gosec // nothing of a release is secret
}
