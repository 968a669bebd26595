package pipedream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/durable"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// For hours everything happens at once, with several seeds. Pipedream fails in changing
// ways, keys are rotated, config is rewritten, the plugin restarts and passes run, while
// accounts of all lives are read.
func TestHoursOfTrouble(t *testing.T) {
	t.Parallel()
	for seed := range 2 {
		for name, connect := range map[string]bool{"workspace": false, "project": true} {
			t.Run(fmt.Sprintf("%s %d", name, seed), func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t *testing.T, m *mount) {
					slow := time.Duration(seed) * 100 * time.Millisecond
					m.slow(slow, 2*slow, 3*slow)
					h := &hours{
						mount: m, connect: connect, until: time.Now().Add(time.Hour), known: map[string]time.Time{},
						requests: make(chan struct{}, 100), writing: make(chan struct{}, 1),
					}
					h.run(rand.New(rand.NewPCG(uint64(seed), 1))) //nolint:gosec // dice, and few of them
					m.noSecretIn(m.logs.String())
					require.NotContains(t, m.logs.String(), "panic")
					require.Greater(t, h.served, 500)
					t.Logf("%d reads were served and %d not, with %d requests", h.served, h.refused, len(m.sim.Requests()))
				})
			})
		}
	}
}

type hours struct {
	*mount
	connect bool // a role for each user of a project, read as an OAuth client
	until   time.Time

	// requests has a place for each request under way. A restart takes all of them, so that it comes between requests.
	// It is not an RWMutex, because the clock of a bubble stops while a goroutine waits for one.
	requests chan struct{}
	writing  chan struct{} // has one place, for a write of config

	mu              sync.Mutex // guards the fields below
	epoch           int        // changes when the whole cache is dropped
	known           map[string]time.Time
	rotating        bool // whether reads may use the old key or the new one
	served, refused int
	key             string
}

func (h *hours) run(r *rand.Rand) {
	const fleet = 40
	lives := []time.Duration{0, 20 * time.Second, 3 * time.Minute, 20 * time.Minute, time.Hour, 8 * time.Hour}
	h.key = testKey
	if h.connect {
		h.key = testClientSecret
		h.sim.SetOAuthClient(testClientID, h.key, 20*time.Minute)
		h.configureClient(map[string]any{"project_id": testProject})
	}
	var group sync.WaitGroup
	for i := range fleet {
		a := keyAccount(accountName(i))
		if life := lives[i%len(lives)]; life > 0 {
			a = oauthAccount(accountName(i), life)
			a.OmitNextRefresh = i%4 == 0
		}
		name := a.ID
		if h.connect {
			name = fmt.Sprintf("role-%d", i)
			a.Project, a.Environment, a.ExternalUserID = testProject, "production", fmt.Sprintf("user-%d", i)
			h.role(name, map[string]any{"app": a.App.Slug, "external_user_id": a.ExternalUserID})
		}
		h.sim.SetAccount(a)
		own := rand.New(rand.NewPCG(r.Uint64(), 2)) //nolint:gosec // dice
		group.Go(func() {
			for time.Now().Before(h.until) {
				h.readOne(name, a.ID)
				time.Sleep(time.Duration(1+own.IntN(90)) * time.Second)
			}
		})
	}
	every := func(least, most time.Duration, f func(*rand.Rand)) {
		own := rand.New(rand.NewPCG(r.Uint64(), 3)) //nolint:gosec // dice
		group.Go(func() {
			for time.Sleep(least); time.Now().Before(h.until); time.Sleep(least + time.Duration(own.Int64N(int64(most-least)))) {
				f(own)
			}
		})
	}
	every(time.Minute, time.Minute+time.Second, func(*rand.Rand) {
		defer h.enter(1)()
		h.periodic()
	})
	every(10*time.Second, 4*time.Minute, h.fault)
	every(5*time.Minute, 20*time.Minute, func(r *rand.Rand) {
		h.rewrite("config", map[string]any{"static_ttl": 60 + r.IntN(600), "max_retries": r.IntN(4), "min_ttl": r.IntN(600), "rate_limit": 60 + r.IntN(40)})
	})
	every(20*time.Minute, 40*time.Minute, func(*rand.Rand) { h.rotate() })
	every(10*time.Minute, 30*time.Minute, func(*rand.Rand) {
		defer h.enter(cap(h.requests))()
		h.start()
	})
	group.Wait()
}

func (h *hours) enter(places int) (leave func()) {
	for range places {
		h.requests <- struct{}{}
	}
	return func() {
		for range places {
			<-h.requests
		}
	}
}

func (h *hours) rewrite(path string, data map[string]any) {
	h.writing <- struct{}{}
	defer func() { <-h.writing }()
	defer h.enter(1)()
	if _, err := h.b.HandleRequest(h.Context(), &logical.Request{Operation: logical.UpdateOperation, Path: path, Data: data, Storage: h.storage}); err != nil {
		h.Errorf("config was refused: %v", err)
	}
}

func (h *hours) fault(r *rand.Rand) {
	faults := []pipedreamtest.Fault{
		{Hang: true},
		{Delay: 3 * time.Second},
		{Cut: true},
		{CutBody: true},
		{Status: 500},
		{Status: 429},
		{Garbage: true},
		{TruncatedJSON: true},
		{Status: 429, Header: http.Header{"Retry-After": {"20"}}},
		{HugeBody: 5 << 20, Times: 10},
		{Kind: pipedreamtest.KindList, Hang: true},
		{Kind: pipedreamtest.KindList, Status: 500},
		{Kind: pipedreamtest.KindAccount, Hang: true},
		{SlowBody: 50 * time.Millisecond},
	}
	remove := h.sim.AddFault(faults[r.IntN(len(faults))])
	time.Sleep(time.Duration(1+r.IntN(180)) * time.Second)
	remove()
}

// rotate replaces the key in Pipedream, and a little later in Vault.
func (h *hours) rotate() {
	h.mu.Lock()
	h.key += "1"
	key := h.key
	h.mu.Unlock()
	data := map[string]any{"api_key": key, "verify": false}
	h.sim.SetAPIKey(key)
	if h.connect {
		data = map[string]any{"client_secret": key, "verify": false}
		h.sim.SetOAuthClient(testClientID, key, 20*time.Minute)
		h.sim.RevokeAccessTokens()
	}
	time.Sleep(30 * time.Second)
	h.mu.Lock()
	h.epoch++
	h.rotating = true
	clear(h.known)
	h.mu.Unlock()
	h.rewrite("config", data)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.epoch++
	h.rotating = false
	clear(h.known)
}

// readOne reads an account and checks the outcome. It must be a live token, or a
// documented error while there was no live token to serve.
func (h *hours) readOne(name, id string) {
	defer h.enter(1)()
	h.mu.Lock()
	epoch, alive := h.epoch, h.known[id]
	h.mu.Unlock()
	before := time.Now()
	resp, err := h.b.HandleRequest(h.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "creds/" + name, Storage: h.storage})
	after := time.Now()
	if took := after.Sub(before); took > defaultRequestTimeout+2*durable.Timeout {
		h.Errorf("a read of %s took %s", id, took)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.refused++
		coded, ok := err.(logical.HTTPCodedError) //nolint:errorlint // a wrapped one would lose its code on gRPC
		if !ok || coded.Code() == http.StatusBadRequest && !strings.Contains(err.Error(), "Pipedream refused the ") || coded.Code() == http.StatusInternalServerError {
			h.Errorf("not a documented error: %v", err)
		}
		if epoch == h.epoch && after.Before(alive.Add(-credential.MinServable)) {
			h.Errorf("%s was refused with %s of its token left: %v", id, alive.Sub(after), err)
		}
		return
	}
	h.served++
	if resp.Data["pipedream_account_id"] != id {
		h.Errorf("%s got the credentials of %s", name, resp.Data["pipedream_account_id"])
	}
	end := before.Add(100 * time.Hour)
	if text, ok := resp.Data["expires_at"].(string); ok {
		// Readers see the end rounded down.
		if end, err = time.Parse(time.RFC3339, text); err != nil || !before.Before(end.Add(time.Second)) {
			h.Errorf("%s was served %s after its end", id, before.Sub(end))
		}
	}
	if resp.Secret.TTL < time.Second || resp.Secret.TTL > max(time.Second, end.Add(time.Second).Sub(before)) {
		h.Errorf("%s was leased for %s with %s left", id, resp.Secret.TTL, end.Sub(before))
	}
	if epoch == h.epoch && !h.rotating {
		h.known[id] = end
	}
}

// After any trouble no goroutine of a fetch is left, nothing is held off, and accounts
// are served again.
func TestChaosLeavesNothingBehind(t *testing.T) {
	seeds := 12 // make soak runs more
	if more, err := strconv.Atoi(os.Getenv("CHAOS_SEEDS")); err == nil {
		seeds = more
	}
	for seed := range seeds {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, m *mount) {
				m.chaos(rand.New(rand.NewPCG(uint64(seed), 9))) //nolint:gosec // dice
				time.Sleep(6 * time.Minute)
				synctest.Wait()
				stacks := stacksOfBubble(t)
				require.Contains(t, stacks, "TestChaosLeavesNothingBehind")
				require.NotContains(t, stacks, "internal/fetch.(*Fetcher)", "goroutines of a fetch")
				for _, i := range []int{1, 100, 399} {
					require.Equal(t, m.sim.Token(accountName(i)), m.token(accountName(i)))
				}
				resp, err := m.read("status")
				require.NoError(t, err)
				require.Zero(t, resp.Data["held_off_accounts"])
			}, pipedreamtest.WithLimit(0))
		})
	}
}

// stacksOfBubble returns the stacks of the goroutines in the bubble of its caller.
func stacksOfBubble(t *testing.T) string {
	t.Helper()
	stacks := make([]byte, 1<<20)
	n := runtime.Stack(stacks, true)
	for ; n == len(stacks); n = runtime.Stack(stacks, true) {
		stacks = make([]byte, 2*len(stacks))
	}
	all := strings.Split(string(stacks[:n]), "\n\n") // the caller's is the first
	header, _, _ := strings.Cut(all[0], "\n")
	_, bubble, ok := strings.Cut(header, ", synctest bubble ")
	require.True(t, ok, header)
	var own []string
	for _, stack := range all {
		if header, _, _ := strings.Cut(stack, "\n"); strings.HasSuffix(header, ", synctest bubble "+bubble) {
			own = append(own, stack)
		}
	}
	return strings.Join(own, "\n\n")
}

// chaos makes everything happen at once: faults, passes, writes of config, and readers
// who give up.
func (m *mount) chaos(r *rand.Rand) {
	m.fleet(400)
	faults := []pipedreamtest.Fault{
		{Hang: true},
		{Cut: true},
		{Garbage: true},
		{Status: 500},
		{Status: 403},
		{Status: 404},
		{CutBody: true},
		{Delay: 7 * time.Second},
		{Status: 429, Header: http.Header{"Retry-After": {"3"}}},
		{Status: 401},
	}
	var under sync.WaitGroup
	var removes []func()
	for range 200 {
		switch r.IntN(9) {
		case 0:
			fault := faults[r.IntN(len(faults))]
			fault.Times = 1 + r.IntN(20)
			removes = append(removes, m.sim.AddFault(fault))
		case 1:
			if r.IntN(3) == 0 {
				_, _ = m.write("config", map[string]any{"min_ttl": 60 + r.IntN(100), "rate_limit": []int{0, 5, 100}[r.IntN(3)]})
			}
		case 2:
			under.Go(m.periodic)
		default:
			from := r.IntN(350)
			for i := from; i < from+r.IntN(50); i++ {
				under.Go(func() {
					ctx, cancel := context.WithTimeout(m.Context(), time.Duration(i%30+1)*time.Second)
					defer cancel()
					request := &logical.Request{Operation: logical.ReadOperation, Path: "creds/" + accountName(i), Storage: m.storage}
					if i%2 == 1 {
						request.Operation, request.Path = logical.UpdateOperation, "refresh/"+accountName(i)
					}
					_, _ = m.b.HandleRequest(ctx, request)
				})
			}
		}
		time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
	}
	under.Wait()
	for _, remove := range removes {
		remove()
	}
}
