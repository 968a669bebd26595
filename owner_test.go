package pipedream

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// A reader of a role gets a token that was issued while the account was theirs,
// whatever happens to accounts, the engine and its configuration at the same time.
// Each seed has other random events.
func TestEveryTokenGoesToItsOwner(t *testing.T) {
	t.Parallel()
	for seed := range 40 {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			connectBubble(t, func(_ *testing.T, m *mount) {
				o := &owners{mount: m, rand: rand.New(rand.NewPCG(uint64(seed), 1)), of: map[string]string{}} //nolint:gosec // dice
				o.connect()
				for range 150 {
					o.roll()
					time.Sleep(time.Duration(o.rand.IntN(2000)) * time.Millisecond)
				}
				o.under.Wait()
				require.NotZero(m, o.served)
			})
		})
	}
}

// owners records to whom each token was issued.
type owners struct {
	*mount
	rand  *rand.Rand
	under sync.WaitGroup // reads and passes under way

	accounts []string

	mu     sync.Mutex        // guards the fields below
	of     map[string]string // by token
	served int
}

var (
	someUsers = []string{"alice", "bob", "carol"}
	someApps  = []string{"github", "slack"}
)

func (o *owners) connect() {
	o.sim.DeleteAccount("apn_alice")
	o.sim.DeleteAccount("apn_bob")
	for _, user := range someUsers {
		for _, app := range someApps {
			o.role(app+"-"+user, map[string]any{"app": app, "external_user_id": user})
		}
	}
	for i := range 5 {
		a := connectAccount(accountName(i), someUsers[i%len(someUsers)])
		a.App = pipedreamtest.App{ID: "app_" + someApps[i%2], Slug: someApps[i%2]}
		a.TokenLife, a.NoRefresh = time.Duration(3+o.rand.IntN(100))*time.Minute, true
		a.OmitNextRefresh, a.OmitOwner = o.rand.IntN(2) == 0, o.rand.IntN(2) == 0
		o.sim.SetAccount(a)
		o.accounts = append(o.accounts, a.ID)
		o.issued(a.ID, a.ExternalUserID)
	}
	slow := func() time.Duration { return time.Duration(o.rand.IntN(2)*o.rand.IntN(1500)) * time.Millisecond }
	o.slow(slow(), slow(), slow())
}

// roll makes one random event happen.
func (o *owners) roll() {
	user, app := someUsers[o.rand.IntN(len(someUsers))], someApps[o.rand.IntN(len(someApps))]
	account := o.accounts[o.rand.IntN(len(o.accounts))]
	switch o.rand.IntN(16) {
	case 0, 1, 2, 3, 4, 5:
		o.under.Go(func() { o.reads(app, user) })
	case 6:
		o.under.Go(func() { _ = ignoreAnswer(o.write("refresh/"+app+"-"+user, nil)) })
	case 7:
		o.under.Go(func() { _ = ignoreAnswer(o.read("creds/" + account)) })
	case 8: // it becomes another user's, with a new token
		o.sim.Update(account, func(a *pipedreamtest.Account) { a.ExternalUserID, a.UpdatedAt = user, time.Now() })
		o.sim.Rotate(account)
		o.issued(account, user)
	case 9:
		o.sim.Update(account, func(a *pipedreamtest.Account) { a.OmitOwner = !a.OmitOwner })
	case 10:
		o.under.Go(o.periodic)
	case 11:
		o.under.Wait()
		o.start()
	case 12:
		o.sim.Update(account, func(a *pipedreamtest.Account) { a.Dead = !a.Dead })
	case 13:
		_, _ = o.write("config", map[string]any{"environment": "development", "verify": false})
		o.under.Go(func() { o.reads(app, user) })
		_, _ = o.write("config", map[string]any{"environment": "production", "verify": false})
	case 14:
		for _, account := range o.accounts {
			o.under.Go(func() { _ = ignoreAnswer(o.read("creds/" + account)) })
		}
	default:
		time.Sleep(time.Duration(o.rand.IntN(40)) * time.Minute)
	}
}

func (o *owners) issued(account, user string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.of[o.sim.Token(account)] = user
}

func (o *owners) reads(app, user string) {
	for _, path := range []string{"creds/", "static-creds/"} {
		resp, err := o.b.HandleRequest(o.Context(), &logical.Request{
			Operation: logical.ReadOperation, Path: path + app + "-" + user, Storage: o.storage, MountPoint: "pipedream/",
		})
		if err != nil {
			continue
		}
		token := resp.Data["oauth_access_token"].(string)
		o.mu.Lock()
		owner := o.of[token]
		o.served++
		o.mu.Unlock()
		if owner != user || !strings.EqualFold(app, fmt.Sprint(resp.Data["pipedream_app"])) {
			o.Errorf("%s was served a token of %q with %v for one with %s", user, owner, resp.Data["pipedream_app"], app)
		}
	}
}

// An account belongs to the app of a role only if the answer says so.
func TestAnAccountWithoutAnAppBelongsToNoUser(t *testing.T) {
	for name, app := range map[string]string{"none": `null`, "text": `"github"`, "empty": `{}`, "another": `{"id":"app_2","name_slug":"gitlab"}`} {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(_ *testing.T, m *mount) {
				m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusOK, Body: fmt.Sprintf(
					`{"page_info":{},"data":[{"id":"apn_x","external_id":"alice","healthy":true,"app":%s,"credentials":{"a":"b"}}]}`, app)})
				_, err := m.read("creds/alices")
				m.refused(err, http.StatusBadRequest, "no healthy account")
			})
		})
	}
}

// Answers for one account do not say whose it is. The list does.
func omittedBubble(t *testing.T, life time.Duration, f func(*testing.T, *mount)) {
	t.Helper()
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.OmitOwner, a.TokenLife, a.Name = true, life, "work" })
		f(t, m)
	})
}

// A user's reads succeed for a day, however short tokens live, and however the account is
// named.
func TestTokensWithoutAnOwner(t *testing.T) {
	for _, life := range []time.Duration{2 * time.Minute, 5 * time.Minute, 10 * time.Minute, time.Hour} {
		for _, named := range []string{"", "apn_alice", "work"} {
			t.Run(fmt.Sprintf("%s, account=%s", life, named), func(t *testing.T) {
				omittedBubble(t, life, func(t *testing.T, m *mount) {
					var data map[string]any
					if named != "" {
						data = map[string]any{"account": named}
					}
					for i := range 24 * 60 {
						_, err := m.askAs("alice", logical.ReadOperation, "creds/github", data)
						require.NoError(t, err, "read %d", i)
						time.Sleep(time.Minute)
						if i%2 == 1 {
							m.periodic()
						}
					}
				})
			})
		}
	}
}

// The account is fetched while the list is asked whose it is.
func TestARefreshWhileTheListIsAskedForTheOwner(t *testing.T) {
	omittedBubble(t, time.Hour, func(t *testing.T, m *mount) {
		_, err := m.as("alice")
		require.NoError(t, err)
		time.Sleep(61 * time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Delay: 8 * time.Second, Times: 1})
		done := make(chan error, 1)
		go func() {
			_, err := m.as("alice")
			done <- err
		}()
		time.Sleep(6 * time.Second)
		_, err = m.write("refresh/apn_alice", nil)
		require.NoError(t, err)
		m.creds("apn_alice")
		require.NoError(t, <-done)
	})
}

// One list without the account does not change which one the user has.
func TestOneWrongListBesideAnOmittedOwner(t *testing.T) {
	omittedBubble(t, time.Hour, func(t *testing.T, m *mount) {
		_, err := m.as("alice")
		require.NoError(t, err)
		m.sim.SetAccount(connectAccount("apn_alice_second", "alice"))
		time.Sleep(61 * time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Times: 1, Status: http.StatusOK, Body: `{"page_info":{"total_count":0},"data":[]}`})
		for range 3 {
			resp, err := m.as("alice")
			require.NoError(t, err)
			require.Equal(t, "apn_alice", resp.Data["pipedream_account_id"])
			time.Sleep(time.Minute)
		}
	})
}

// The account is another user's now, and only the list says so.
func TestTheOwnerChangesAndIsOmitted(t *testing.T) {
	omittedBubble(t, time.Hour, func(t *testing.T, m *mount) {
		_, err := m.as("alice")
		require.NoError(t, err)
		m.sim.SetAccount(connectAccount("apn_alice2", "alice"))
		m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.ExternalUserID = "bob" })
		time.Sleep(61 * time.Minute)
		resp, err := m.as("alice")
		require.NoError(t, err)
		require.Equal(t, "apn_alice2", resp.Data["pipedream_account_id"])
	})
}

// Nothing fails, and some answers do not say whose the account is. No order of reads,
// refreshes, passes and restarts refuses a read.
func TestOwnersThatComeAndGo(t *testing.T) {
	for seed := range 30 {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 3)) //nolint:gosec // the same each time
			life := time.Duration(2+r.IntN(60)) * time.Minute
			omittedBubble(t, life, func(t *testing.T, m *mount) {
				m.role("any", map[string]any{"app": "github", "external_user_id": "alice"})
				m.role("longer", map[string]any{"app": "github", "external_user_id": "alice", "min_ttl": "30m"})
				m.sim.Update("apn_alice", func(a *pipedreamtest.Account) {
					a.OmitNextRefresh, a.Unhealthy = r.IntN(2) == 0, r.IntN(2) == 0
				})
				var trail []string
				for range 300 {
					step := []string{
						"creds/github", "creds/github", "creds/any", "creds/longer", "apn_alice", "work",
						"refresh/apn_alice", "refresh/any", "pass", "restart", "toggle", "sleep",
					}[r.IntN(12)]
					trail = append(trail, step)
					require.NoError(t, m.ownerStep(r, step, life), "%v", trail)
				}
			})
		})
	}
}

func (m *mount) ownerStep(r *rand.Rand, step string, life time.Duration) (err error) {
	m.Helper()
	switch step {
	case "pass":
		m.periodic()
	case "restart":
		m.start()
	case "toggle":
		m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.OmitOwner = !a.OmitOwner })
	case "sleep":
		time.Sleep(time.Duration(r.IntN(int([]time.Duration{2 * life, time.Minute}[r.IntN(2)]))))
	case "apn_alice", "work":
		_, err = m.askAs("alice", logical.ReadOperation, "creds/github", map[string]any{"account": step})
	case "refresh/apn_alice", "refresh/any":
		_, err = m.write(step, nil)
	default:
		_, err = m.handleAs("alice", logical.ReadOperation, step)
	}
	return err
}

// A token whose owner nobody named is the last owner's when that one is removed.
func TestAnOmittedOwnerIsRemoved(t *testing.T) {
	omittedBubble(t, time.Hour, func(t *testing.T, m *mount) {
		m.role("alices", map[string]any{"account_id": "apn_alice"})
		_, err := m.as("alice")
		require.NoError(t, err)
		m.creds("alices")
		time.Sleep(56 * time.Minute)
		m.periodic()
		time.Sleep(time.Minute)
		m.creds("alices")
		m.sim.DeleteAccount("apn_alice")
		time.Sleep(time.Minute)
		_, err = m.handle(logical.DeleteOperation, "users/alice", nil)
		require.NoError(t, err)
		time.Sleep(time.Second)
		_, err = m.read("creds/alices")
		require.Error(t, err)
	})
}

// The pass fetches a token ahead, and the answer does not say whose it is. Then lists fail.
func TestATokenFetchedAheadWithoutAnOwner(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		omittedBubble(t, time.Hour, func(t *testing.T, m *mount) {
			_, err := m.as("alice")
			require.NoError(t, err)
			for range 57 {
				time.Sleep(time.Minute)
				m.periodic()
			}
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusServiceUnavailable})
			time.Sleep(time.Minute)
			if restarted {
				m.start()
			}
			_, err = m.as("alice")
			require.NoError(t, err)
		})
	}
}
