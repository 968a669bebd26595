//go:build soak

package acceptance

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

var soakFor = flag.Duration("soak", 10*time.Minute, "how long TestSoak puts load on the plugin")

// explained are the errors that the engine may return during a soak.
var explained = map[int]*regexp.Regexp{
	http.StatusBadRequest:      regexp.MustCompile(`does not know account|refused the API key|refused access to|is dead|no credentials for account|no role "`),
	http.StatusTooManyRequests: regexp.MustCompile(`try again in [0-9]+ s`),
	http.StatusBadGateway:      regexp.MustCompile(`Pipedream is not available: |have already expired|answered for another account|request ended before|is too large: `),
}

// TestSoak puts a mixed load on one plugin process for a long time, while config is rewritten, keys are rotated and
// Pipedream fails. Every error must be a known one, every token must be alive, and the rate limit must be kept. At the
// end the process must be no larger than after it warmed up.
func TestSoak(t *testing.T) {
	vault := newVault(t)
	m := enable(t, vault, "pipedream")
	m.configure(t, nil)
	s := &soak{mount: m, T: t, until: time.Now().Add(*soakFor), counts: map[string]int{}, ends: map[string]time.Time{}}
	for i := range soakAccounts {
		m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) {
			a.ID, a.TokenLife = soakAccount(i), time.Duration(30+5*i*i)*time.Second
		}))
	}
	m.sim.SetAccount(stripe())
	m.write(t, "roles/one", map[string]any{"account_id": stripeID})

	s.go8(func(r *rand.Rand) { s.readOne(r) }, 10*time.Millisecond)
	s.goEvery(50*time.Millisecond, func(*rand.Rand) {
		s.call("unknown", func(c *api.Logical) error { return second(c.Read(m.in("creds/apn_nobody"))) })
	})
	s.goEvery(10*time.Second, func(*rand.Rand) {
		s.call("list", func(c *api.Logical) error { return second(c.List(m.in("accounts"))) })
	})
	s.goEvery(5*time.Second, func(r *rand.Rand) {
		s.call("refresh", func(c *api.Logical) error {
			return second(c.Write(m.in("refresh/"+soakAccount(r.IntN(soakAccounts))), nil))
		})
	})
	s.goEvery(200*time.Millisecond, func(*rand.Rand) { s.rewriteRole() })
	s.goEvery(3*time.Second, s.rewriteConfig) // which ends every hold-off
	s.goEvery(2*time.Minute, func(*rand.Rand) { s.rotateKey() })
	s.goEvery(7*time.Second, s.failForAWhile)
	s.goEvery(20*time.Second, func(*rand.Rand) {
		require.NoError(t, vault.root.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: m.in("creds/"), Prefix: true, Sync: true}))
	})
	samples := s.watch(vault.pluginPID(t))
	s.group.Wait()

	s.report(samples)
	vault.noIrrevocableLease(t)
	assert.LessOrEqual(t, pipedreamtest.MostPerMinute(m.sim.Requests()), 100)
	early, late := samples[len(samples)/6:len(samples)/2], samples[len(samples)*2/3:]
	// This is the process at its smallest, because answers of 10 MB make it larger for a while.
	assert.LessOrEqual(t, smallest(late).rss, smallest(early).rss*3/2, "kB of memory")
	assert.LessOrEqual(t, smallest(late).threads, smallest(early).threads+16, "threads")
	// A connection that is in use when config is written stays open for another 90 s. There are 100 requests a minute.
	assert.LessOrEqual(t, smallest(late).files, smallest(samples).files+150, "open files")
}

const soakAccounts = 24

func soakAccount(i int) string { return fmt.Sprintf("apn_soak_%02d", i) }

func second[T any](_ T, err error) error { return err }

type soak struct {
	*mount
	*testing.T
	until time.Time
	group sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	counts map[string]int
	ends   map[string]time.Time // of tokens
}

func (s *soak) go8(f func(*rand.Rand), pause time.Duration) {
	for range 8 {
		s.goEvery(pause, f)
	}
}

func (s *soak) goEvery(pause time.Duration, f func(*rand.Rand)) {
	s.group.Go(func() {
		r := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) //nolint:gosec // for variety
		for time.Now().Before(s.until) && !s.Failed() {
			f(r)
			time.Sleep(min(pause, time.Until(s.until)))
		}
	})
}

func (s *soak) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
}

// call makes one request. An error must be one of the known ones.
func (s *soak) call(what string, f func(*api.Logical) error) {
	err := f(s.vault.root.Logical())
	if err == nil {
		s.count(what + ": served")
		return
	}
	var answer *api.ResponseError
	if !errors.As(err, &answer) {
		s.Errorf("%s: %v", what, err)
		return
	}
	text := strings.Join(answer.Errors, " ")
	pattern := explained[answer.StatusCode]
	if assert.NotNil(s, pattern, "%s: %d %s", what, answer.StatusCode, text) {
		assert.Regexp(s, pattern, text, what)
	}
	s.count(fmt.Sprintf("%s: %d", what, answer.StatusCode))
}

// readOne reads an account or a role and checks the answer.
func (s *soak) readOne(r *rand.Rand) {
	path, name := "static-creds/", soakAccount(r.IntN(soakAccounts))
	if r.IntN(10) == 0 {
		path = "creds/"
	}
	if r.IntN(20) == 0 {
		name = "one"
	}
	before := time.Now()
	s.call(strings.TrimSuffix(path, "/"), func(c *api.Logical) error {
		secret, err := c.Read(s.in(path + name))
		if err != nil {
			return err
		}
		if end, ok := secret.Data["expires_at"].(string); ok {
			at, err := time.Parse(time.RFC3339, end)
			if err != nil {
				return err
			}
			assert.True(s, before.Before(at.Add(time.Second)), "served %s after its end", before.Sub(at))
			assert.Contains(s, secret.Data["oauth_access_token"], "pdtok_"+name+"_")
		}
		if path == "creds/" {
			assert.Positive(s, secret.LeaseDuration)
			assert.LessOrEqual(s, secret.LeaseDuration, 3600)
		}
		return nil
	})
	if took := time.Since(before); took > 20*time.Second+slack {
		s.Errorf("a read took %s", took)
	}
}

func (s *soak) rewriteRole() {
	s.call("role", func(c *api.Logical) error {
		if err := second(c.Write(s.in("roles/two"), map[string]any{"account_id": soakAccount(soakAccounts - 1), "ttl": "1m"})); err != nil {
			return err
		}
		if err := second(c.Read(s.in("static-creds/two"))); err != nil {
			return err
		}
		return second(c.Delete(s.in("roles/two")))
	})
}

func (s *soak) rewriteConfig(r *rand.Rand) {
	s.call("config", func(c *api.Logical) error {
		return second(c.Write(s.in("config"), map[string]any{
			"static_ttl": fmt.Sprintf("%ds", 30+r.IntN(60)), "min_ttl": fmt.Sprintf("%ds", 1+r.IntN(30)), "max_retries": r.IntN(3),
			"rate_limit": 80 + r.IntN(21), "request_timeout": fmt.Sprintf("%ds", 2+r.IntN(8)),
		}))
	})
}

// rotateKey does what an operator does: Pipedream rejects the old key before Vault has the new one.
func (s *soak) rotateKey() {
	s.apiKey = "pdkey_" + strconv.FormatInt(time.Now().UnixNano(), 36)
	s.sim.SetAPIKey(s.apiKey)
	time.Sleep(time.Second)
	s.call("rotation", func(c *api.Logical) error {
		return second(c.Write(s.in("config"), map[string]any{"api_key": s.apiKey, "verify": false}))
	})
}

func (s *soak) failForAWhile(r *rand.Rand) {
	faults := []pipedreamtest.Fault{
		{Hang: true},
		{Delay: time.Second},
		{Cut: true},
		{CutBody: true},
		{Status: 500},
		{Status: 429},
		{Status: 429, Header: http.Header{"Retry-After": {"3"}}},
		{Status: 403, Times: 2},
		{Garbage: true},
		{TruncatedJSON: true},
		{HugeBody: 10 << 20},
		{DeepNesting: 100_000},
		{DuplicateKeys: true},
		{Redirect: "http://127.0.0.1:1"},
		{WrongAccount: stripeID},
	}
	remove := s.sim.AddFault(faults[r.IntN(len(faults))])
	defer remove()
	time.Sleep(time.Duration(1+r.IntN(4)) * time.Second)
	s.count("faults")
}

// sample is the size of a process.
type sample struct {
	at             time.Duration
	rss            int // in kB
	files, threads int
}

// smallest returns the smallest value of each size.
func smallest(samples []sample) sample {
	least := samples[0]
	for _, other := range samples {
		least = sample{rss: min(least.rss, other.rss), files: min(least.files, other.files), threads: min(least.threads, other.threads)}
	}
	return least
}

func (s *soak) watch(pid int) []sample {
	var samples []sample
	for began := time.Now(); time.Now().Before(s.until) && !s.Failed(); time.Sleep(*soakFor / 60) {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		require.NoError(s, err)
		status := readFile(s.T, filepath.Join("/proc", strconv.Itoa(pid), "status"))
		samples = append(samples, sample{time.Since(began), fieldOf(s.T, status, "VmRSS"), len(files), fieldOf(s.T, status, "Threads")})
	}
	return samples
}

func fieldOf(t *testing.T, status, name string) int {
	t.Helper()
	match := regexp.MustCompile(`(?m)^` + name + `:\s+([0-9]+)`).FindStringSubmatch(status)
	require.NotNil(t, match, name)
	n, err := strconv.Atoi(match[1])
	require.NoError(t, err)
	return n
}

func (s *soak) report(samples []sample) {
	var text strings.Builder
	for _, what := range slices.Sorted(maps.Keys(s.counts)) {
		fmt.Fprintf(&text, "%-24s %8d\n", what, s.counts[what])
	}
	fmt.Fprintf(&text, "requests to Pipedream    %8d, at most %d a minute\n", len(s.sim.Requests()), pipedreamtest.MostPerMinute(s.sim.Requests()))
	for i := 0; i < len(samples); i += max(1, len(samples)/10) {
		fmt.Fprintf(&text, "after %8s: %6d kB, %3d files, %3d threads\n", samples[i].at.Round(time.Second), samples[i].rss, samples[i].files, samples[i].threads)
	}
	s.Logf("\n%s", text.String())
}
