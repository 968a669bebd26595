package pipedream

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// blame has words that say that an account, a key or a client is at fault.
var blame = []string{
	"reconnect", "revoked", "refused", "deleted", "gone", "dead", "does not know", "no credentials", "no healthy account", "may not",
	"payment", "rejected", "wrong", "is unhealthy", "API key", "OAuth client",
}

// blamesNobody asserts that err, if there is one, says that Pipedream is not available
// or that requests must wait.
func (m *mount) blamesNobody(err error, status int) {
	m.Helper()
	if err == nil {
		return
	}
	want := http.StatusBadGateway
	if status == http.StatusTooManyRequests {
		want = http.StatusTooManyRequests
	}
	coded, ok := err.(logical.HTTPCodedError) //nolint:errorlint // a wrapped one would lose its code on gRPC
	if !ok || coded.Code() != want || blamed(err.Error()) != "" {
		m.Errorf("%T %v: not a %d, or it says %q", err, err, want, blamed(err.Error()))
	}
}

// blamed returns the first word of blame in text.
func blamed(text string) string {
	for _, word := range blame {
		if strings.Contains(text, word) {
			return word
		}
	}
	return ""
}

// place is where a gateway answers in Pipedream's place.
type place struct {
	name  string
	fault func(*pipedreamtest.Fault) // restricts a fault to that place
	hits  string                     // the operations that need it
}

const everyOperation = "cold refresh metadata list user link config"

// places take turns, so that each has every form and every status.
var places = []place{
	{"one account", func(f *pipedreamtest.Fault) {
		f.Kind, f.AccountID = pipedreamtest.KindAccount, "apn_alice"
	}, "refresh metadata"},
	{"accounts", func(f *pipedreamtest.Fault) { f.Kind = pipedreamtest.KindAccount }, "cold refresh metadata"},
	{"searches", func(f *pipedreamtest.Fault) {
		f.Kind, f.Where = pipedreamtest.KindList, func(r pipedreamtest.Request) bool { return strings.Contains(r.RawQuery, "external_user_id") }
	}, "user"},
	{"lists", func(f *pipedreamtest.Fault) { f.Kind = pipedreamtest.KindList }, "list user config"},
	{"pages", func(f *pipedreamtest.Fault) {
		f.Kind, f.Where = pipedreamtest.KindList, func(r pipedreamtest.Request) bool { return isPage(r) }
	}, "crowd"},
	{"access tokens", func(f *pipedreamtest.Fault) { f.Kind = pipedreamtest.KindToken }, everyOperation},
	{"links", func(f *pipedreamtest.Fault) { f.Kind = pipedreamtest.KindConnectToken }, "link"},
	{"everything but access tokens", func(f *pipedreamtest.Fault) {
		f.Where = func(r pipedreamtest.Request) bool { return r.Kind != pipedreamtest.KindToken }
	}, everyOperation},
	{"everything", func(*pipedreamtest.Fault) {}, everyOperation},
}

// Whatever a gateway answers in Pipedream's place: live tokens and what is known of
// users stay, one account's answer is no other's, and no text puts the blame on an
// account, a key or a client. It all works again as soon as the gateway is gone.
func TestGatewaysTakeNothingAway(t *testing.T) {
	for i, gateway := range pipedreamtest.Gateways() {
		t.Run(gateway.Name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newMount(t)
				m.sim.SetOAuthClient(testClientID, testClientSecret, 5*time.Minute) // so that an access token is needed all the time
				m.sim.SetAccount(connectAccount("apn_alice", "alice"))
				m.sim.SetAccount(connectAccount("apn_bob", "bob"))
				m.configureClient(map[string]any{"project_id": testProject})
				m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
				m.role("carols", map[string]any{"app": "github", "external_user_id": "carol"}) // who has no account
				for j, status := range pipedreamtest.GatewayStatuses() {
					f, place := gateway.Fault(status), places[(i+j)%len(places)]
					place.fault(&f)
					m.underGateway(fmt.Sprintf("%s answers %d", place.name, status), f, place.hits)
				}
			})
		})
	}
}

// A refusal in Pipedream's form that a gateway may have sent, because it answers for
// everything else, takes nothing away and blames nobody either.
func TestARefusalThatCannotBeConfirmed(t *testing.T) {
	t.Parallel()
	refusals := map[int]string{
		http.StatusUnauthorized: `{"error":"unauthorized"}`, http.StatusForbidden: `{"error":"forbidden"}`,
		http.StatusNotFound: `{"error":"not found"}`, http.StatusOK: `{"error":"record not found"}`,
	}
	for _, gateway := range pipedreamtest.Gateways() {
		for status, body := range refusals {
			bubble(t, func(t *testing.T, m *mount) {
				before := m.token(github)
				time.Sleep(56 * time.Minute)
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Status: status, Body: body})
				probed := gateway.Fault(status)
				probed.Kind = pipedreamtest.KindMe
				m.sim.AddFault(probed)
				for range 3 {
					require.Equal(t, before, m.token(github), gateway.Name)
					_, err := m.read("creds/" + stripe)
					require.Error(t, err)
					m.blamesNobody(err, status)
					time.Sleep(time.Minute)
				}
			})
		}
	}
}

// underGateway goes through the reads before, during and after a gateway's fault. hits
// are the operations that may fail meanwhile.
func (m *mount) underGateway(what string, f pipedreamtest.Fault, hits string) {
	m.Helper()
	m.start() // without what the one before left behind in memory
	time.Sleep(time.Minute)
	m.sim.Rotate("apn_alice")
	m.sim.Rotate("apn_bob")
	for _, id := range []string{"apn_alice", "apn_bob"} {
		_, err := m.write("refresh/"+id, nil)
		require.NoError(m, err, what)
	}
	before := m.token("alices")
	bobs := m.token("apn_bob")
	time.Sleep(56 * time.Minute) // due; they live for four more minutes
	m.sim.ResetRequests()

	remove := m.sim.AddFault(f)
	stillServed := func() {
		m.Helper()
		require.Contains(m, []string{before, m.sim.Token("apn_alice")}, m.token("alices"), what)
		require.Contains(m, []string{bobs, m.sim.Token("apn_bob")}, m.token("apn_bob"), what)
	}
	stillServed()
	m.periodic()
	for name, err := range m.operations() {
		m.blamesNobody(err, f.Status)
		if f.Status != http.StatusTooManyRequests && !strings.Contains(hits, name) {
			require.NoError(m, err, "%s: %s", what, name)
		}
	}
	if hits == "crowd" {
		err := m.readCrowd()
		m.blamesNobody(err, f.Status)
		if f.Status != http.StatusTooManyRequests {
			require.NoError(m, err, what)
		}
		require.True(m, slices.ContainsFunc(m.sim.Requests(), isPage), "%s: no page was asked for", what)
	}
	time.Sleep(time.Minute) // hold-offs end, and it all fails again
	m.periodic()
	stillServed()
	status, err := m.read("status")
	require.NoError(m, err)
	require.Empty(m, blamed(fmt.Sprint(status.Data["last_error"])), what)

	remove()
	searched := m.searches("alice")
	time.Sleep(backoff.LongestHoldOff)
	m.token("alices")
	m.periodic()
	time.Sleep(10 * time.Second)
	require.NotEqual(m, before, m.sim.Token("apn_alice"))
	require.Equal(m, m.sim.Token("apn_alice"), m.token("alices"), what)
	require.Equal(m, searched, m.searches("alice"), "%s: the user was forgotten", what)
	for name, err := range m.operations() {
		require.NoError(m, err, "%s, and is gone: %s", what, name)
	}
}

// operations does everything that asks Pipedream, and returns how it ended.
func (m *mount) operations() map[string]error {
	m.Helper()
	cold := fmt.Sprintf("c%d", time.Now().UnixNano()) // new for each call
	m.sim.SetAccount(connectAccount("apn_"+cold, cold))
	m.sim.SetAccount(connectAccount("apn_"+cold+"_users", cold+"_user"))
	defer m.sim.DeleteAccount("apn_" + cold)
	defer m.sim.DeleteAccount("apn_" + cold + "_users")
	m.role("users", map[string]any{"app": "github", "external_user_id": cold + "_user"})
	failed := map[string]error{}
	for name, do := range map[string]func() error{
		"cold":     func() error { _, err := m.read("creds/apn_" + cold); return err },
		"refresh":  func() error { _, err := m.write("refresh/alices", nil); return err },
		"metadata": func() error { _, err := m.read("accounts/apn_alice"); return err },
		"list":     func() error { _, err := m.handle(logical.ListOperation, "accounts/", nil); return err },
		"user":     func() error { _, err := m.read("creds/users"); return err },
		"link":     func() error { _, err := m.write("connect/carols", nil); return err },
		"config":   func() error { return m.writeClient(map[string]any{"project_id": testProject}) },
	} {
		failed[name] = do()
	}
	return failed
}

// isPage reports whether a request is for a page of the list with credentials.
func isPage(r pipedreamtest.Request) bool { return r.RawQuery == "include_credentials=true&limit=100" }

// readCrowd reads so many cold accounts at once that the list is fetched for them.
func (m *mount) readCrowd() error {
	const crowd = 14
	failed := make(chan error, crowd)
	var readers sync.WaitGroup
	for i := range crowd {
		id := fmt.Sprintf("apn_crowd%d_%d", time.Now().UnixNano(), i)
		m.sim.SetAccount(connectAccount(id, id))
		defer m.sim.DeleteAccount(id)
		readers.Go(func() {
			_, err := m.read("creds/" + id)
			failed <- err
		})
	}
	readers.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

// searches returns how many searches for a user there were.
func (m *mount) searches(user string) (n int) {
	for _, r := range m.sim.Requests() {
		if r.Kind == pipedreamtest.KindList && strings.Contains(r.RawQuery, "external_user_id="+user) {
			n++
		}
	}
	return n
}

// A 404 of the token endpoint is not about an account.
func TestAMissingTokenEndpointDropsNoToken(t *testing.T) {
	connectBubble(t, func(_ *testing.T, m *mount) {
		m.creds("apn_alice")
		time.Sleep(59*time.Minute + 15*time.Second)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindToken, Status: http.StatusNotFound})
		m.creds("apn_alice")
	})
}

// Neither is the answer of a proxy in front of Pipedream.
func TestAProxysRefusalDropsNoToken(t *testing.T) {
	for _, status := range []int{http.StatusForbidden, http.StatusNotFound} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			bubble(t, func(_ *testing.T, m *mount) {
				m.creds(github)
				time.Sleep(59 * time.Minute)
				m.sim.AddFault(pipedreamtest.Fault{Status: status, Garbage: true})
				m.creds(github)
				_, err := m.read("creds/apn_never_read")
				m.refused(err, http.StatusBadGateway, "in a form that is not Pipedream's")
			})
		})
	}
}
