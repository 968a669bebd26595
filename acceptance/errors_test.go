package acceptance

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// upstreamBody is the error text of Pipedream in these tests. It could contain anything, so it must not appear
// anywhere.
const upstreamBody = `{"error":"upstream words that belong in no log"}`

// TestErrorsAsAClientSeesThem tries everything that can go wrong with a read when nothing is cached.
func TestErrorsAsAClientSeesThem(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		opts    []pipedreamtest.Option
		arrange func(*testing.T, *mount)
		id      string // github's if empty
		code    int
		words   []string
	}{
		"not configured": {
			arrange: func(t *testing.T, m *mount) { t.Helper(); m.deleteConfig(t) },
			code:    http.StatusBadRequest,
			words:   []string{"not configured", cliName + " write"},
		},
		"no account id": {
			id:    "apn github",
			code:  http.StatusBadRequest,
			words: []string{"account"},
		},
		"unknown account": {
			id:    "apn_nobody",
			code:  http.StatusBadRequest,
			words: []string{"apn_nobody"},
		},
		"unknown account, reported with a 200": {
			opts:  []pipedreamtest.Option{pipedreamtest.WithNotFoundAs200()},
			id:    "apn_nobody",
			code:  http.StatusBadRequest,
			words: []string{"apn_nobody"},
		},
		"key refused": {
			arrange: func(_ *testing.T, m *mount) { m.sim.SetAPIKey("pdkey_its_successor") },
			code:    http.StatusBadRequest,
			words:   []string{"key", "/config"},
		},
		"access refused": {
			arrange: fault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Status: http.StatusForbidden, Body: upstreamBody}),
			code:    http.StatusBadRequest,
			words:   []string{githubID, "key", "/config"},
		},
		"dead account": {
			arrange: account(githubWith(func(a *pipedreamtest.Account) { a.Dead, a.Error = true, "revoked" })),
			code:    http.StatusBadRequest,
			words:   []string{githubID, "dead", "Reconnect"},
		},
		"account without credentials": {
			arrange: account(githubWith(func(a *pipedreamtest.Account) { a.NoCredentials = true })),
			code:    http.StatusBadRequest,
			words:   []string{githubID, "credentials", "reconnect"},
		},
		"rate limit used up": {
			arrange: func(t *testing.T, m *mount) {
				t.Helper()
				m.write(t, "config", map[string]any{"rate_limit": 1})
				m.sim.SetAccount(stripe())
				// The check of the config may have used the one request already.
				_, _ = m.vault.root.Logical().Read(m.in("creds/" + stripeID))
			},
			code:  http.StatusTooManyRequests,
			words: []string{"rate_limit", "try again in"},
		},
		"too many requests for Pipedream": {
			arrange: fault(pipedreamtest.Fault{
				Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"300"}}, Body: upstreamBody,
			}),
			code:  http.StatusTooManyRequests,
			words: []string{"429", "try again in"},
		},
		"Pipedream down": {
			arrange: func(_ *testing.T, m *mount) { m.sim.Close() },
			code:    http.StatusBadGateway,
			words:   []string{"Pipedream", "not available"},
		},
		"Pipedream failing": {
			arrange: fault(pipedreamtest.Fault{Status: http.StatusInternalServerError, Body: upstreamBody}),
			code:    http.StatusBadGateway,
			words:   []string{"Pipedream", "status 500"},
		},
		"Pipedream silent": {
			arrange: func(t *testing.T, m *mount) {
				t.Helper()
				m.write(t, "config", map[string]any{"request_timeout": "1s"})
				m.sim.AddFault(pipedreamtest.Fault{Hang: true})
			},
			code:  http.StatusBadGateway,
			words: []string{"Pipedream", "not available"},
		},
		"an answer cut off": {
			arrange: fault(pipedreamtest.Fault{CutBody: true}),
			code:    http.StatusBadGateway,
			words:   []string{"Pipedream", "not available"},
		},
		"an answer that is not JSON": {
			arrange: fault(pipedreamtest.Fault{Garbage: true}),
			code:    http.StatusBadGateway,
			words:   []string{"Pipedream", "JSON"},
		},
		"an empty answer": {
			arrange: fault(pipedreamtest.Fault{Empty: true}),
			code:    http.StatusBadGateway,
			words:   []string{"Pipedream", "JSON"},
		},
		"a redirect": {
			arrange: fault(pipedreamtest.Fault{Redirect: "http://127.0.0.1:1"}),
			code:    http.StatusBadGateway,
			words:   []string{"redirect", "base_url"},
		},
		"the answer for another account": {
			arrange: fault(pipedreamtest.Fault{WrongAccount: stripeID}),
			code:    http.StatusBadGateway,
			words:   []string{githubID},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := onSharedVault(t, test.opts...)
			m.configure(t, map[string]any{"max_retries": 0})
			m.sim.SetAccount(github())
			m.sim.SetAccount(stripe())
			if test.arrange != nil {
				test.arrange(t, m)
			}
			id := test.id
			if id == "" {
				id = githubID
			}
			// The second read is held off after the first and gets the same error.
			for _, path := range []string{"creds/", "static-creds/"} {
				err := m.errorOf(t, path+id)
				refused(t, err, test.code, test.words...)
				m.keepsQuiet(t, err)
			}
		})
	}
}

func TestListErrorsAsAClientSeesThem(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault pipedreamtest.Fault
		code  int
		words []string
	}{
		"key refused":     {pipedreamtest.Fault{Status: http.StatusUnauthorized, Body: upstreamBody}, http.StatusBadRequest, []string{"key", "/config"}},
		"access refused":  {pipedreamtest.Fault{Status: http.StatusForbidden, Body: upstreamBody}, http.StatusBadRequest, []string{"key", "/config"}},
		"Pipedream fails": {pipedreamtest.Fault{Status: http.StatusBadGateway, Body: upstreamBody}, http.StatusBadGateway, []string{"Pipedream", "status 502"}},
		"garbage":         {pipedreamtest.Fault{Garbage: true}, http.StatusBadGateway, []string{"Pipedream", "JSON"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := onSharedVault(t)
			m.configure(t, map[string]any{"max_retries": 0})
			m.sim.AddFault(test.fault)
			_, err := m.vault.root.Logical().List(m.in("accounts"))
			refused(t, err, test.code, test.words...)
			assert.NotContains(t, err.Error(), "account  ", "the name of the account is missing")
			m.keepsQuiet(t, err)
		})
	}
}

func TestParameterMustBeADuration(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	_, err := m.vault.root.Logical().ReadWithData(m.in("creds/"+githubID), map[string][]string{"min_ttl": {"soon"}})
	refused(t, err, http.StatusBadRequest, "min_ttl")
	assert.Zero(t, m.sim.Count(pipedreamtest.KindAccount))
}

// TestBrokenAccountIsNotServedFromTheCache shows when the cache is not used: for an account that Pipedream itself has
// given up on or locked.
func TestBrokenAccountIsNotServedFromTheCache(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		arrange func(*testing.T, *mount)
		code    int
	}{
		"dead":                {change(func(a *pipedreamtest.Account) { a.Dead = true }), http.StatusBadRequest},
		"without credentials": {change(func(a *pipedreamtest.Account) { a.NoCredentials = true }), http.StatusBadRequest},
		"access refused":      {fault(pipedreamtest.Fault{AccountID: stripeID, Status: http.StatusForbidden}), http.StatusBadRequest},
		"gone":                {func(_ *testing.T, m *mount) { m.sim.DeleteAccount(stripeID) }, http.StatusBadRequest},
		"another's answer":    {fault(pipedreamtest.Fault{WrongAccount: githubID}), http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := onSharedVault(t)
			m.configure(t, map[string]any{"static_ttl": "2s"})
			m.sim.SetAccount(github())
			m.sim.SetAccount(stripe())
			m.read(t, "creds/"+stripeID)
			test.arrange(t, m)

			var err error
			require.NoError(t, poll(30*time.Second, "the cached credential to be due", func() (bool, error) {
				_, err = m.vault.root.Logical().Read(m.in("creds/" + stripeID))
				return err != nil, nil
			}))
			refused(t, err, test.code)
			refused(t, m.errorOf(t, "creds/"+stripeID), test.code)
		})
	}
}

func TestFailureIsHeldOff(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.configure(t, map[string]any{"max_retries": 0})
	m.sim.SetAccount(github())
	m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Status: http.StatusInternalServerError})
	started := time.Now()
	for range 20 {
		refused(t, m.errorOf(t, "creds/"+githubID), http.StatusBadGateway)
	}
	later := int(time.Since(started) / (10 * time.Second)) // above 0 on a loaded machine only
	assert.LessOrEqual(t, m.sim.Count(pipedreamtest.KindAccount), 5+later, "requests for 20 reads in a row")
}

func TestConfigWriteEndsAHoldOff(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.configure(t, map[string]any{"max_retries": 0})
	m.sim.SetAccount(github())
	remove := m.sim.AddFault(pipedreamtest.Fault{
		Kind: pipedreamtest.KindAccount, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"300"}},
	})
	refused(t, m.errorOf(t, "creds/"+githubID), http.StatusTooManyRequests)
	remove()
	refused(t, m.errorOf(t, "creds/"+githubID), http.StatusTooManyRequests)
	m.write(t, "config", map[string]any{"max_retries": 1})
	m.read(t, "creds/"+githubID)
}

// keepsQuiet asserts that an error contains neither a secret nor the words of Pipedream.
func (m *mount) keepsQuiet(t *testing.T, err error) {
	t.Helper()
	lacks(t, "the error", err.Error(), append(m.sim.Secrets(), "upstream words")...)
	lacks(t, "the server's log", m.log(t), "upstream words")
	lacks(t, "the audit log", m.audit(t), "upstream words")
}

// fault makes Pipedream answer every request for an account this way.
func fault(f pipedreamtest.Fault) func(*testing.T, *mount) {
	f.Kind = pipedreamtest.KindAccount
	return func(_ *testing.T, m *mount) { m.sim.AddFault(f) }
}

// change changes the account that never expires.
func change(f func(*pipedreamtest.Account)) func(*testing.T, *mount) {
	return func(_ *testing.T, m *mount) { m.sim.Update(stripeID, f) }
}

// account adds an account to Pipedream.
func account(a pipedreamtest.Account) func(*testing.T, *mount) {
	return func(_ *testing.T, m *mount) { m.sim.SetAccount(a) }
}
