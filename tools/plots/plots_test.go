package main

import (
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// measured is a run of make bench, as its programs write it.
var measured = map[string]string{
	readsFile: `{"reads":[
		{"name":"creds/<id>, leased","engine":{"rounds":[900,1100],"rate":1100,"p99_ms":50},"nothing":{"rounds":[1000,1000],"rate":1000,"p99_ms":40}},
		{"name":"static-creds/<id>, no lease","engine":{"rounds":[3000,2000],"rate":3000,"p99_ms":20},"nothing":{"rounds":[2000,2000],"rate":2000,"p99_ms":25}}],
		"memory":[{"accounts":0,"bytes":30408704},{"accounts":10000,"bytes":79691776}]}`,
	engineFile: `goos: linux
BenchmarkWarmRead/creds-2     	  300000	      4000 ns/op	    2900 B/op	      37 allocs/op
BenchmarkMemory/10000-2       	       1	1000000000 ns/op	       860.0 B/account	         8.200 MiB
BenchmarkMemory/100000-2      	       1	1000000000 ns/op	       860.0 B/account	        26.90 MiB
PASS
`,
	requestsFile: `=== RUN   TestSteadyState
=== ATTR  TestSteadyState/late,_shuffled steady-state {"accounts":5000,"by_minute":[0,39,1],"most_per_minute":39,"per_life":914,"refresh_before_minutes":5,"shuffled":true,"spread_minutes":55}
=== ATTR  TestSteadyState/at_once steady-state {"accounts":5000,"by_minute":[50,0,0],"most_per_minute":50,"per_life":50,"refresh_before_minutes":5,"shuffled":false,"spread_minutes":0}
=== ATTR  TestCold/8,_in_order cold-fleet {"accounts":1000,"connections":8,"list":true,"requests":23,"seconds":0.72}
=== ATTR  TestCold/8,_shuffled cold-fleet {"accounts":1000,"connections":8,"list":true,"requests":25,"seconds":0.7}
=== ATTR  TestOneByOne/8 cold-fleet {"accounts":1000,"connections":8,"list":false,"requests":1001,"seconds":7.5}
--- PASS: TestSteadyState (3.00s)
`,
}

func write(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, content := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	return dir
}

func TestTables(t *testing.T) {
	r, err := load(write(t, measured))
	require.NoError(t, err)
	var tables strings.Builder
	writeTables(&tables, r)
	require.Equal(t, "\n"+`| read | engine /s | do-nothing /s | ratio | engine p99 | do-nothing p99 | ratio |
| --- | --- | --- | --- | --- | --- | --- |
| `+"`creds/<id>`"+`, leased | 1100 | 1000 | 1.10 | 50.0 ms | 40.0 ms | 1.25 |
| `+"`static-creds/<id>`"+`, no lease | 3000 | 2000 | 1.50 | 20.0 ms | 25.0 ms | 0.80 |

| accounts | connections | requests | time |  |
| --- | --- | --- | --- | --- |
| 1,000 | 8 | 25 | 0.7 s |  |
| 1,000 | 8 | 1,001 | 7.5 s | the list is refused |

| in one life of the tokens | requests | most in a minute |
| --- | --- | --- |
| connected at once, refreshed 5 minutes before they expire | 50 | 50 |
| connected over 55 minutes, refreshed 5 minutes before they expire, no order in the list | 914 | 39 |

| accounts that were read | heap | resident memory of the plugin process |
| --- | --- | --- |
| 0 |  | 29 MiB |
| 10,000 | 8 MiB | 76 MiB |
| 100,000 | 27 MiB |  |
`, tables.String())
}

// Each picture is an SVG with the names of what it shows, drawn so that no viewer needs their font.
func TestPictures(t *testing.T) {
	pictures := t.TempDir()
	require.NoError(t, run([]string{write(t, measured), pictures}))
	for name, texts := range map[string][]string{
		"warm-reads.svg":   {"creds/<id>, leased", "static-creds/<id>, no lease", "engine / do-nothing plugin (ratio)"},
		"cold-fleet.svg":   {"A cold fleet of 1,000 accounts, on logarithmic axes", "one request per account: the list is refused"},
		"steady-state.svg": {"connected at once, refreshed 5 minutes before they expire", "requests for 5,000 accounts"},
		"memory.svg":       {"memory (MiB)", "resident, the plugin's process"},
	} {
		f, err := os.Open(filepath.Join(pictures, name)) //nolint:gosec // below the test's own directory
		require.NoError(t, err)
		shown := textsOf(t, f)
		require.NoError(t, f.Close())
		for _, text := range texts {
			require.Contains(t, shown, text, name)
		}
	}
}

func textsOf(t *testing.T, svg io.Reader) (all []string) {
	t.Helper()
	for d := xml.NewDecoder(svg); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		element, _ := token.(xml.StartElement)
		require.NotEqual(t, "text", element.Name.Local)
		for _, attribute := range element.Attr {
			if attribute.Name.Local == "aria-label" {
				all = append(all, attribute.Value)
			}
		}
	}
}

// A run of which a part is missing or damaged makes no pictures.
func TestIncompleteResults(t *testing.T) {
	for name, change := range map[string]func(map[string]string){
		"no file":           func(m map[string]string) { delete(m, engineFile) },
		"no attributes":     func(m map[string]string) { m[requestsFile] = "PASS\n" },
		"no benchmarks":     func(m map[string]string) { m[engineFile] = "PASS\n" },
		"cut short":         func(m map[string]string) { m[readsFile] = m[readsFile][:200] },
		"a round less":      func(m map[string]string) { m[readsFile] = strings.Replace(m[readsFile], "[900,1100]", "[900]", 1) },
		"another attribute": func(m map[string]string) { m[requestsFile] = strings.Replace(m[requestsFile], "25,", "many,", 1) },
	} {
		t.Run(name, func(t *testing.T) {
			files := maps.Clone(measured)
			change(files)
			pictures := filepath.Join(t.TempDir(), "pictures")
			require.Error(t, run([]string{write(t, files), pictures}))
			require.NoDirExists(t, pictures)
		})
	}
}
