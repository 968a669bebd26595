package acceptance

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// faster is the factor by which the tests shorten all times in the Prometheus examples: an hour takes two minutes. The
// times of the engine do not change.
const faster = 30

// prometheusServer is a real Prometheus that runs with docs/examples/prometheus-scrape.yml and prometheus-rules.yml.
type prometheusServer struct {
	dir     string
	url     string
	process *process
}

// programOf returns the program that an environment variable names. It skips the test if the variable is not set.
func programOf(t *testing.T, variable string) string {
	t.Helper()
	if os.Getenv(variable) == "" {
		t.Skipf("%s is not set; make test-metrics sets it", variable)
	}
	path, err := locate(variable, "")
	require.NoError(t, err)
	return path
}

// startPrometheus runs Prometheus until the test ends. It reads the metrics of mounts through the front, with the token
// in a file.
func startPrometheus(t *testing.T, front *httptest.Server, tokenFile string, mounts []string) *prometheusServer {
	t.Helper()
	p := &prometheusServer{dir: t.TempDir()}
	caFile := filepath.Join(p.dir, "vault-ca.pem")
	writeFile(t, caFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})))
	config := fasterScrape(t, prometheusExample(t, "prometheus-scrape.yml"))
	for from, to := range map[string]string{
		"vault.example.com:8200":       strings.TrimPrefix(front.URL, "https://"),
		"/etc/prometheus/vault-token":  tokenFile,
		"/etc/prometheus/vault-ca.pem": caFile,
	} {
		config = replaceValue(t, config, from, to)
	}
	writeFile(t, filepath.Join(p.dir, "prometheus.yml"), withMounts(t, config, mounts))
	writeFile(t, filepath.Join(p.dir, "prometheus-rules.yml"), fasterRules(t, prometheusExample(t, "prometheus-rules.yml")))

	log, err := os.Create(filepath.Join(p.dir, "prometheus.log"))
	require.NoError(t, err)
	p.process, err = startProcess(log, []string{"HOME=" + p.dir, "TMPDIR=" + p.dir}, programOf(t, "PROMETHEUS_BIN"),
		"--config.file="+filepath.Join(p.dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(p.dir, "data"),
		"--web.listen-address=127.0.0.1:0", "--web.external-url=http://localhost")
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, p.process.stop())
		assert.NoError(t, log.Close())
		if t.Failed() {
			t.Logf("the end of Prometheus's log:\n%s", tail(readFile(t, log.Name())))
		}
	})
	listening := regexp.MustCompile(`Listening on"? .*address=(127\.0\.0\.1:\d+)`)
	require.NoError(t, poll(readyTimeout, "Prometheus to listen", func() (bool, error) {
		found := listening.FindStringSubmatch(readFile(t, log.Name()))
		switch {
		case found != nil:
			p.url = "http://" + found[1]
			return true, nil
		case p.process.running():
			return false, nil
		default:
			return false, fmt.Errorf("Prometheus ended: %w", p.process.err)
		}
	}))
	require.NoError(t, poll(readyTimeout, "Prometheus to be ready", func() (bool, error) {
		status, _ := p.fetch(t, "/-/ready")
		return status == http.StatusOK, nil
	}))
	return p
}

func prometheusExample(t *testing.T, name string) string {
	t.Helper()
	return readFile(t, filepath.Join("..", "docs", "examples", name))
}

// replaceValue replaces the value of a setting that occurs once.
func replaceValue(t *testing.T, config, from, to string) string {
	t.Helper()
	// In a comment, the path says how to make the file.
	place := regexp.MustCompile(`(?m)^([^#\n]*)` + regexp.QuoteMeta(from) + `$`)
	require.Len(t, place.FindAllString(config, -1), 1, from)
	return place.ReplaceAllString(config, "${1}"+to)
}

// fasterScrape shortens the intervals at which mounts are scraped and rules are evaluated. The example uses the
// defaults of Prometheus, a minute.
func fasterScrape(t *testing.T, config string) string {
	t.Helper()
	interval := (30 * time.Second / faster).String()
	return replaceValue(t, config, "scrape_interval: 30s", "scrape_interval: "+interval) +
		"\nglobal:\n  evaluation_interval: " + interval + "\n"
}

// withMounts adds a target for each additional mount, as the example says.
func withMounts(t *testing.T, config string, mounts []string) string {
	t.Helper()
	target := regexp.MustCompile(`(?m)^ +- targets:\n.*\n +labels:\n +mount: pipedream\n`)
	require.Len(t, target.FindAllString(config, -1), 1)
	return target.ReplaceAllStringFunc(config, func(one string) string {
		var all strings.Builder
		for _, path := range mounts {
			all.WriteString(strings.Replace(one, "mount: pipedream\n", "mount: "+path+"\n", 1))
		}
		return all.String()
	})
}

// fasterRules shortens how long a condition must hold, the ranges of queries, and the seconds without a success. It
// changes nothing else in the rules.
func fasterRules(t *testing.T, rules string) string {
	t.Helper()
	const seconds = 120
	rules = replaceValue(t, rules, fmt.Sprintf("> %d", seconds), fmt.Sprintf("> %d", seconds/faster))
	return regexp.MustCompile(`(\bfor: |\[)(\d+)m\b`).ReplaceAllStringFunc(rules, func(one string) string {
		at := strings.IndexAny(one, "0123456789")
		minutes, err := strconv.Atoi(strings.TrimSuffix(one[at:], "m"))
		require.NoError(t, err)
		return one[:at] + (time.Duration(minutes) * time.Minute / faster).String()
	})
}

func (p *prometheusServer) fetch(t *testing.T, path string) (status int, body []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+path, http.NoBody)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close() //nolint:errcheck // only read
	body, err = io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, body
}

// get queries Prometheus's API and decodes the data of the answer.
func (p *prometheusServer) get(t *testing.T, path string, query url.Values, data any) {
	t.Helper()
	status, body := p.fetch(t, "/api/v1/"+path+"?"+query.Encode())
	require.Equal(t, http.StatusOK, status, "%s %s: %s", path, query, body)
	require.NoError(t, json.Unmarshal(body, &struct{ Data any }{data}))
}

// alert is a pending or firing alert.
type alert struct {
	Labels      map[string]string
	Annotations map[string]string
	State       string
}

// alert returns the alert with that name for a mount, or nil if there is none.
func (p *prometheusServer) alert(t *testing.T, name, path string) *alert {
	t.Helper()
	var active struct{ Alerts []*alert }
	p.get(t, "alerts", nil, &active)
	for _, a := range active.Alerts {
		if a.Labels["alertname"] == name && a.Labels["mount"] == path {
			return a
		}
	}
	return nil
}

// alertNames returns the alerts in the rules that Prometheus has loaded.
func (p *prometheusServer) alertNames(t *testing.T) (names []string) {
	t.Helper()
	var loaded struct {
		Groups []struct{ Rules []struct{ Name string } }
	}
	p.get(t, "rules", url.Values{"type": {"alert"}}, &loaded)
	for _, group := range loaded.Groups {
		for _, rule := range group.Rules {
			names = append(names, rule.Name)
		}
	}
	return names
}

// scrapedSample is a series in the result of a query. Its value is a time and a number as text.
type scrapedSample struct {
	Metric map[string]string
	Value  [2]any
}

func (p *prometheusServer) query(t *testing.T, expression string) []scrapedSample {
	t.Helper()
	var answer struct{ Result []scrapedSample }
	p.get(t, "query", url.Values{"query": {expression}}, &answer)
	return answer.Result
}

// behindTLS puts the server behind TLS, as others in a company would reach it.
func (s *vaultServer) behindTLS(t *testing.T) *httptest.Server {
	t.Helper()
	target, err := url.Parse(s.addr)
	require.NoError(t, err)
	front := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }})
	t.Cleanup(front.Close)
	return front
}

// promtool runs Prometheus's promtool on a text.
func promtool(t *testing.T, input string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), programOf(t, "PROMTOOL_BIN"), args...) //nolint:gosec // the caller's own
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "promtool %q: %s", args, out)
}
