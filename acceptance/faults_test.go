package acceptance

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

const (
	// faultTimeout is the request_timeout of the mounts. Without it, most faults would keep a reader waiting forever.
	faultTimeout = 3 * time.Second
	// slack is the extra time that a loaded machine may take. It is far shorter than an unbounded wait.
	slack = 15 * time.Second
	// longestHoldOff is the longest hold-off of the engine.
	longestHoldOff = 30 * time.Second
	// faultLife is the life of the tokens in these tests. They are due when two thirds of it are left.
	faultLife = 12 * time.Second
)

// outage is a way in which Pipedream can fail.
type outage struct {
	fault pipedreamtest.Fault
	down  bool // nothing listens; there is no fault then
	code  int  // of a read during the outage with nothing cached; 0 if reads succeed
}

func outages(elsewhere string) map[string]outage {
	header := func(seconds string) http.Header { return http.Header{"Retry-After": {seconds}} }
	return map[string]outage{
		"down":                  {down: true, code: http.StatusBadGateway},
		"hangs":                 {fault: pipedreamtest.Fault{Hang: true}, code: http.StatusBadGateway},
		"slow":                  {fault: pipedreamtest.Fault{Delay: time.Second / 2}},
		"too slow":              {fault: pipedreamtest.Fault{Delay: time.Minute}, code: http.StatusBadGateway},
		"a byte at a time":      {fault: pipedreamtest.Fault{SlowBody: 100 * time.Millisecond}, code: http.StatusBadGateway},
		"cuts connections":      {fault: pipedreamtest.Fault{Cut: true}, code: http.StatusBadGateway},
		"cuts answers":          {fault: pipedreamtest.Fault{CutBody: true}, code: http.StatusBadGateway},
		"500":                   {fault: pipedreamtest.Fault{Status: 500, Body: upstreamBody}, code: http.StatusBadGateway},
		"503 with HTML":         {fault: pipedreamtest.Fault{Status: 503, Garbage: true}, code: http.StatusBadGateway},
		"429":                   {fault: pipedreamtest.Fault{Status: 429, Body: upstreamBody}, code: http.StatusTooManyRequests},
		"429 with Retry-After":  {fault: pipedreamtest.Fault{Status: 429, Header: header("4")}, code: http.StatusTooManyRequests},
		"429 and an odd header": {fault: pipedreamtest.Fault{Status: 429, Header: header("-1e99")}, code: http.StatusTooManyRequests},
		"401":                   {fault: pipedreamtest.Fault{Status: 401, Body: upstreamBody}, code: http.StatusBadRequest},
		"HTML":                  {fault: pipedreamtest.Fault{Garbage: true}, code: http.StatusBadGateway},
		"nothing":               {fault: pipedreamtest.Fault{Empty: true}, code: http.StatusBadGateway},
		"truncated JSON":        {fault: pipedreamtest.Fault{TruncatedJSON: true}, code: http.StatusBadGateway},
		"10 MB":                 {fault: pipedreamtest.Fault{HugeBody: 10 << 20}, code: http.StatusBadGateway},
		"nested":                {fault: pipedreamtest.Fault{DeepNesting: 1000}},
		"nested very deep":      {fault: pipedreamtest.Fault{DeepNesting: 1_000_000}, code: http.StatusBadGateway},
		"each member twice":     {fault: pipedreamtest.Fault{DuplicateKeys: true}},
		"redirect":              {fault: pipedreamtest.Fault{Redirect: elsewhere}, code: http.StatusBadGateway},
		"lasting redirect":      {fault: pipedreamtest.Fault{Redirect: elsewhere, Status: http.StatusPermanentRedirect}, code: http.StatusBadGateway},
	}
}

// TestEveryFaultOfPipedream takes a mount through each fault of Pipedream at every stage of a credential's life: before
// there is one, while it is fresh, when it is due and after it has expired. All mounts do this at the same time,
// because most of it is waiting for tokens to expire.
func TestEveryFaultOfPipedream(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var redirected []http.Header
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		redirected = append(redirected, r.Header.Clone())
	}))
	t.Cleanup(elsewhere.Close)

	vault := sharedVault(t)
	var all sync.WaitGroup
	for name, o := range outages(elsewhere.URL) {
		path := "fault-" + slug(name)
		m := enable(t, vault, path)
		t.Cleanup(func() { assert.NoError(t, vault.root.Sys().Unmount(path)) })
		all.Go(func() { newTrial(t, name, m, o).run() })
	}
	all.Wait()
	assert.Empty(t, redirected, "requests that followed a redirect")
}

// trial takes one mount through an outage. It uses assert and never require, because it runs beside others.
type trial struct {
	*mount
	*testing.T
	outage
	name string
	gate *gate
	fix  func() // ends the outage
}

func newTrial(t *testing.T, name string, m *mount, o outage) *trial {
	t.Helper()
	g := &gate{handler: m.sim}
	t.Cleanup(g.close)
	return &trial{mount: m, T: t, outage: o, name: name, gate: g}
}

func (r *trial) run() {
	if err := r.gate.open(); err != nil {
		r.Errorf("%s: %v", r.name, err)
		return
	}
	r.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.TokenLife, a.OmitNextRefresh = faultLife, true }))
	_, err := r.vault.root.Logical().Write(r.in("config"), map[string]any{
		"api_key": r.apiKey, "base_url": r.gate.url(), "request_timeout": faultTimeout.String(), "max_retries": 1,
		"min_ttl": (faultLife * 2 / 3).String(),
	})
	if err != nil {
		r.Errorf("%s: %v", r.name, err)
		return
	}
	r.breakIt()
	r.atFirstRead()
	r.fix()
	token, end := r.recover()
	if r.code == 0 || token == "" {
		return
	}
	r.breakIt()
	r.untilPastTheEnd(token, end)
	r.fix()
	r.recover()
}

func (r *trial) breakIt() {
	if r.down {
		r.gate.close()
		r.fix = func() { assert.NoError(r, r.gate.open(), r.name) }
		return
	}
	f := r.fault
	f.Kind = pipedreamtest.KindAccount
	r.fix = r.sim.AddFault(f)
}

// attempt is a read and when it was made.
type attempt struct {
	secret        *api.Secret
	before, after time.Time
}

// get reads once and asserts that the answer came in time.
func (r *trial) get(path string) (attempt, error) {
	a := attempt{before: time.Now()}
	var err error
	a.secret, err = r.vault.root.Logical().Read(r.in(path + githubID))
	a.after = time.Now()
	assert.Less(r, a.after.Sub(a.before), faultTimeout+slack, "%s: %s", r.name, path)
	if err != nil {
		r.explained(err)
	}
	return a, err
}

// explained checks an error that a reader got.
func (r *trial) explained(err error) {
	var answer *api.ResponseError
	if assert.ErrorAs(r, err, &answer, r.name) {
		assert.Equal(r, r.code, answer.StatusCode, "%s: %v", r.name, answer.Errors)
	}
	lacks(r.T, "the error", err.Error(), append(r.sim.Secrets(), "upstream words", "We'll be right back")...)
}

func (r *trial) atFirstRead() {
	for _, path := range []string{"creds/", "static-creds/", "creds/"} {
		a, err := r.get(path)
		assert.Equal(r, r.code == 0, err == nil, "%s: %v", r.name, err)
		if err == nil {
			assert.Equal(r, r.sim.Token(githubID), a.secret.Data["oauth_access_token"], r.name)
		}
	}
}

// recover waits until reads succeed again, without any intervention. It returns the token that is served then, and its
// expiry.
func (r *trial) recover() (token string, end time.Time) {
	fixed := time.Now()
	r.sim.Rotate(githubID) // so that what is served lives for long
	err := poll(longestHoldOff+slack, "service to return after: "+r.name, func() (bool, error) {
		secret, err := r.vault.root.Logical().Read(r.in("creds/" + githubID))
		if err != nil {
			return false, nil //nolint:nilerr // it may be held off yet
		}
		token, _ = secret.Data["oauth_access_token"].(string)
		end = r.sim.ExpiresAt(githubID)
		return token == r.sim.Token(githubID), nil
	})
	if assert.NoError(r, err) {
		r.Logf("%s: served again after %s", r.name, time.Since(fixed).Round(time.Millisecond))
	}
	return token, end
}

// untilPastTheEnd reads until after the token has expired. It is served as long as it lives, and no longer.
func (r *trial) untilPastTheEnd(token string, end time.Time) {
	const minServable = 2 * time.Second // what must be left of a token that is served
	for i := 0; time.Now().Before(end.Add(2 * time.Second)); i++ {
		path := "static-creds/"
		if i%4 == 0 {
			path = "creds/"
		}
		a, err := r.get(path)
		if err != nil {
			assert.False(r, a.after.Before(end.Add(-minServable)), "%s: refused although %s were left: %v", r.name, end.Sub(a.after), err)
		} else {
			assert.Equal(r, token, a.secret.Data["oauth_access_token"], r.name)
			assert.True(r, a.before.Before(end), "%s: served %s after its end", r.name, a.before.Sub(end))
			assert.LessOrEqual(r, a.secret.LeaseDuration, int(end.Sub(a.before)/time.Second), r.name)
		}
		time.Sleep(pollInterval * 4)
	}
}

// gate listens in front of a simulated Pipedream. It can stop, and start again on the same port.
type gate struct {
	handler http.Handler

	addr   string
	server *http.Server
}

func (g *gate) url() string { return "http://" + g.addr + "/v1" }

// open listens, at first on any free port. Later, another program may have taken that port for a moment.
func (g *gate) open() error {
	return poll(readyTimeout, "a port to be free again", func() (bool, error) {
		addr := g.addr
		if addr == "" {
			addr = "127.0.0.1:0"
		}
		listener, err := pipedreamtest.ListenLoopback(addr)
		if err != nil {
			return false, nil //nolint:nilerr // asked again
		}
		g.addr = listener.Addr().String()
		g.server = &http.Server{Handler: g.handler, ReadHeaderTimeout: time.Minute}
		go func(server *http.Server) { _ = server.Serve(listener) }(g.server) // its error says that close closed it
		return true, nil
	})
}

// close refuses new connections and cuts existing ones.
func (g *gate) close() {
	if g.server != nil {
		_ = g.server.Close()
	}
}

// TestARedirectedTokenRequestIsNotFollowed protects something more valuable than an account's key: a redirect that
// keeps method and body would carry the client secret.
func TestARedirectedTokenRequestIsNotFollowed(t *testing.T) {
	t.Parallel()
	elsewhere := pipedreamtest.New()
	t.Cleanup(elsewhere.Close)
	elsewhereURL, err := elsewhere.Start()
	require.NoError(t, err)
	m := unconfigured(t)
	m.sim.SetOAuthClient("client_1", "pdsecret_of_the_client", time.Hour)
	client := map[string]any{"client_id": "client_1", "client_secret": "pdsecret_of_the_client", "base_url": m.apiURL, "scope": "*"}

	for _, status := range []int{http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		remove := m.sim.AddFault(pipedreamtest.Fault{Redirect: elsewhereURL, Status: status})
		_, err := m.vault.root.Logical().Write(m.in("config"), client)
		refused(t, err, http.StatusBadGateway, "redirect")
		_, err = m.vault.root.Logical().Write(m.in("config"), map[string]any{"api_key": m.apiKey, "base_url": m.apiURL})
		refused(t, err, http.StatusBadGateway, "redirect")
		remove()
	}
	m.write(t, "config", client)
	assert.Empty(t, elsewhere.Requests())
}

// TestACredentialBeyondItsBounds shows that a credential that is too large is refused with the bound in the error, does
// not affect others and is not stored.
func TestACredentialBeyondItsBounds(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	fields := map[string]any{}
	for i := range 201 {
		fields[fmt.Sprintf("field_%d", i)] = "x"
	}
	for bound, credentials := range map[string]map[string]any{
		"more than 256 KiB":   {"a": strings.Repeat("c", 60_000), "b": strings.Repeat("c", 60_000), "c": strings.Repeat("c", 60_000), "d": strings.Repeat("c", 60_000), "e": strings.Repeat("c", 60_000)},
		"more than 64 KiB":    {"certificate_chain": strings.Repeat("c", 70_000)},
		"more than 200 field": fields,
		"more than 1 MiB":     {"certificate_chain": strings.Repeat("c", 5_000_000)},
	} {
		account := stripe()
		account.Credentials = credentials
		m.sim.SetAccount(account)
		_, err := m.vault.root.Logical().Write(m.in("refresh/"+stripeID), nil)
		refused(t, err, http.StatusBadGateway, stripeID, bound)
		m.read(t, "static-creds/"+githubID)
		m.write(t, "config", map[string]any{"static_ttl": "1h"}) // ends the hold-off
	}
}
