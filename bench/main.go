// Command bench measures warm reads of the engine against a plugin that does
// nothing, side by side on one real Vault server, in rounds that take turns: a
// ratio of rates measured seconds apart says something on a machine that is
// shared, a rate does not. Before that it measures the memory of the engine's
// process. It prints the results as JSON, which tools/plots reads.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

const (
	engine   = "vault-plugin-secrets-pipedream"
	nothing  = "donothing"
	apiKey   = "pd_benchmark_key"
	accounts = 10_000  // that the rows read
	fleet    = 100_000 // more than the engine holds in memory
)

type options struct {
	vault, plugins, version string
	readers, rounds         int
	round                   time.Duration
	only                    *regexp.Regexp // names of the rows; nil for all rows, and memory
}

func main() {
	var o options
	flag.StringVar(&o.vault, "vault", "", "the vault program")
	flag.StringVar(&o.plugins, "plugins", "", "directory with both plugins")
	flag.StringVar(&o.version, "version", "", "version of the engine's plugin")
	flag.IntVar(&o.readers, "readers", 32, "readers at a time")
	flag.IntVar(&o.rounds, "rounds", 8, "rounds of each of the two")
	flag.DurationVar(&o.round, "round", 3*time.Second, "length of a round")
	flag.Func("only", "measure only the rows whose names match this regular expression, and no memory", func(text string) (err error) {
		o.only, err = regexp.Compile(text)
		return err
	})
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// results is what is printed.
type results struct {
	Readers      int         `json:"readers"`
	Rounds       int         `json:"rounds"`
	RoundSeconds float64     `json:"round_seconds"`
	Reads        []read      `json:"reads"`
	Memory       []footprint `json:"memory"`
}

// read is what a kind of read took with the engine and with the other plugin.
type read struct {
	Name    string  `json:"name"`
	Engine  figures `json:"engine"`
	Nothing figures `json:"nothing"`
}

type figures struct {
	Rounds []float64 `json:"rounds"` // reads per second of each
	Rate   float64   `json:"rate"`   // reads per second, the median of the rounds
	P99ms  float64   `json:"p99_ms"` // over all reads
}

// footprint is the resident memory of the engine's process after so many
// accounts were read.
type footprint struct {
	Accounts int   `json:"accounts"`
	Bytes    int64 `json:"bytes"`
}

func run(o options) error {
	sim := pipedreamtest.New(pipedreamtest.WithAPIKey(apiKey), pipedreamtest.WithLimit(0))
	defer sim.Close()
	for i := range fleet {
		sim.SetAccount(pipedreamtest.Account{
			ID: account(i), Name: "Octo Cat", App: pipedreamtest.App{Slug: "github"}, TokenLife: 12 * time.Hour,
		})
	}
	url, err := sim.Start()
	if err != nil {
		return err
	}
	res := results{Readers: o.readers, Rounds: o.rounds, RoundSeconds: o.round.Seconds()}
	// A server each: what the one does to the process is no part of the other.
	if o.only == nil {
		if err := onServer(o, url, func(s *server) (err error) {
			res.Memory, err = memory(s)
			return err
		}); err != nil {
			return err
		}
	}
	if err := onServer(o, url, func(s *server) error {
		user, err := eachUsersOwn(s, sim, url)
		if err != nil {
			return err
		}
		res.Reads, err = measure(o, s, user)
		return err
	}); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(res)
}

// onServer runs f with a server of its own that has both plugins.
func onServer(o options, url string, f func(*server) error) error {
	plugins, err := filepath.EvalSymlinks(o.plugins)
	if err != nil {
		return err
	}
	s, err := startServer(o.vault, plugins)
	if s != nil {
		defer s.stop()
	}
	if err != nil {
		return err
	}
	if err := errors.Join(s.enable(filepath.Join(plugins, engine), o.version), s.enable(filepath.Join(plugins, nothing), "")); err != nil {
		return err
	}
	if _, err := s.client.Logical().Write(engine+"/config", map[string]any{"api_key": apiKey, "base_url": url, "rate_limit": 0}); err != nil {
		return err
	}
	if _, err := s.client.Logical().Write(engine+"/roles/bench", map[string]any{"account_id": account(0)}); err != nil {
		return err
	}
	return f(s)
}

// memory measures the engine's process while the whole fleet is read, each
// account once.
func memory(s *server) (all []footprint, err error) {
	read := 0
	for _, upTo := range []int{0, 10_000, 20_000, 32_768, 50_000, fleet} {
		from := read
		if upTo > from {
			path := func(i int) string { return engine + "/static-creds/" + account(from+i) }
			if _, err := load(s.client, 512, path, time.Time{}, upTo-from); err != nil {
				return nil, err
			}
		}
		read = upTo
		bytes, err := s.rss(engine)
		if err != nil {
			return nil, err
		}
		all = append(all, footprint{upTo, bytes})
		fmt.Fprintf(os.Stderr, "%d accounts read: %d MiB\n", upTo, bytes>>20)
	}
	return all, nil
}

// eachUsersOwn enables the engine at connect/ for a Connect project, with the
// roles own and token for each Vault user's own account and token, and the roles named
// and tokens for users whom the path names, and returns a client of a user.
func eachUsersOwn(s *server, sim *pipedreamtest.Server, url string) (*api.Client, error) {
	const clientID, clientSecret, project = "benchmark", "pd_benchmark_secret", "proj_bench"
	sim.SetOAuthClient(clientID, clientSecret, 12*time.Hour)
	sim.SetAccount(pipedreamtest.Account{
		ID: "apn_alice", Name: "Octo Cat", App: pipedreamtest.App{Slug: "github"}, TokenLife: 12 * time.Hour,
		Project: project, Environment: "production", ExternalUserID: "alice",
	})
	if err := s.client.Sys().Mount("connect", &api.MountInput{Type: engine}); err != nil {
		return nil, err
	}
	user, accessor, err := s.login("alice")
	if err != nil {
		return nil, err
	}
	if _, err := s.client.Logical().Write("connect/config", map[string]any{
		"client_id": clientID, "client_secret": clientSecret, "project_id": project, "base_url": url, "rate_limit": 0,
	}); err != nil {
		return nil, err
	}
	template := "{{identity.entity.aliases." + accessor + ".name}}"
	for role, fields := range map[string]map[string]any{
		"own":    {"app": "github", "external_user_id": template},
		"named":  {"app": "github", "allowed_external_user_ids": "*"},
		"token":  {"credential_type": "connect_token", "scope": "connect:proxy", "external_user_id": template},
		"tokens": {"credential_type": "connect_token", "scope": "connect:proxy", "allowed_external_user_ids": "*"},
	} {
		if _, err := s.client.Logical().Write("connect/roles/"+role, fields); err != nil {
			return nil, err
		}
	}
	return user, nil
}

func account(i int) string { return fmt.Sprintf("apn_%06d", i) }

func measure(o options, s *server, user *api.Client) (all []read, err error) {
	one := func(path string) func(int) string { return func(int) string { return path } }
	inTurn := func(prefix string) func(int) string {
		return func(i int) string { return prefix + account(i%accounts) }
	}
	// Makes every account warm, by pages of the list.
	if _, err := load(s.client, 512, inTurn(engine+"/static-creds/"), time.Time{}, accounts); err != nil {
		return nil, err
	}
	for _, c := range []struct {
		name             string
		engine, baseline func(int) string
		client           *api.Client // root's where nil
	}{
		{"creds/<id>, leased", one(engine + "/creds/" + account(0)), one(nothing + "/creds/a"), nil},
		{"static-creds/<id>, no lease", one(engine + "/static-creds/" + account(0)), one(nothing + "/static-creds/a"), nil},
		{"creds/<role>, leased", one(engine + "/creds/bench"), one(nothing + "/creds/a"), nil},
		{"static-creds/<role>, no lease", one(engine + "/static-creds/bench"), one(nothing + "/static-creds/a"), nil},
		{"static-creds/<role>, each user's own account", one("connect/static-creds/own"), one(nothing + "/static-creds/a"), user},
		{"static-creds/<role>/<user>, named by the path", one("connect/static-creds/named/alice"), one(nothing + "/static-creds/a"), user},
		{"static-creds/<role>, a Connect token", one("connect/static-creds/token"), one(nothing + "/static-creds/a"), user},
		{"static-creds/<role>/<user>, a Connect token", one("connect/static-creds/tokens/alice"), one(nothing + "/static-creds/a"), user},
		{"static-creds/<id>, 10,000 accounts in turn", inTurn(engine + "/static-creds/"), inTurn(nothing + "/static-creds/"), nil},
	} {
		if o.only != nil && !o.only.MatchString(c.name) {
			continue
		}
		if c.client == nil {
			c.client = s.client
		}
		a, b, err := takeTurns(o, c.client, c.engine, c.baseline)
		if err != nil {
			return nil, err
		}
		all = append(all, read{c.name, a.figures(), b.figures()})
		fmt.Fprintf(os.Stderr, "%s: %.0f and %.0f reads a second, ratio %.2f\n", c.name, a.rate(), b.rate(), a.rate()/b.rate())
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no row matches -only %s", o.only)
	}
	return all, nil
}

// result is what a number of rounds measured.
type result struct {
	took   time.Duration
	spent  []time.Duration // by each read
	rounds []float64
}

func (r *result) figures() figures {
	return figures{Rounds: r.rounds, Rate: r.rate(), P99ms: float64(r.p99()) / float64(time.Millisecond)}
}

func (r *result) rate() float64 {
	sorted := slices.Sorted(slices.Values(r.rounds)) // r.rounds stay in the order of the other plugin's
	return sorted[len(sorted)/2]
}

func (r *result) p99() time.Duration {
	slices.Sort(r.spent)
	return r.spent[len(r.spent)*99/100]
}

func (r *result) add(o *result) {
	r.took += o.took
	r.spent = append(r.spent, o.spent...)
	r.rounds = append(r.rounds, float64(len(o.spent))/o.took.Seconds())
}

// takeTurns measures a and b in rounds A B A B, after one of each that does not count.
func takeTurns(o options, client *api.Client, a, b func(int) string) (ra, rb *result, err error) {
	ra, rb = &result{}, &result{}
	for round := range o.rounds + 1 {
		for _, of := range []struct {
			path func(int) string
			sum  *result
		}{{a, ra}, {b, rb}} {
			r, err := load(client, o.readers, of.path, time.Now().Add(o.round), 0)
			if err != nil {
				return nil, nil, err
			}
			if round > 0 {
				of.sum.add(r)
			}
		}
	}
	return ra, rb, nil
}

// load reads with so many readers until a time, or else a number of reads in all.
func load(client *api.Client, readers int, path func(int) string, until time.Time, reads int) (*result, error) {
	var (
		group sync.WaitGroup
		mu    sync.Mutex // guards the results
		sum   result
		errs  []error
	)
	start := time.Now()
	for reader := range readers {
		group.Go(func() {
			var spent []time.Duration
			var err error
			for i := reader; err == nil; i += readers {
				began := time.Now()
				if reads > 0 && i >= reads || reads == 0 && began.After(until) {
					break
				}
				_, err = client.Logical().ReadWithContext(context.Background(), path(i))
				spent = append(spent, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			sum.spent = append(sum.spent, spent...)
			errs = append(errs, err)
		})
	}
	group.Wait()
	sum.took = time.Since(start)
	return &sum, errors.Join(errs...)
}
