package pipedream

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// stay has users with several accounts, and remembers which one each of them is
// served.
type stay struct {
	*mount
	rand      *rand.Rand
	client    string // id of the OAuth client
	rotations int    // of its secret
	accounts  int    // connected so far
	served    map[string]string
	trail     []string
}

var stayers = []string{"alice", "bob"}

func newStay(m *mount, seed int) *stay {
	s := &stay{mount: m, client: testClientID, rand: rand.New(rand.NewPCG(uint64(seed), 7)), served: map[string]string{}} //nolint:gosec // dice
	m.configureClient(map[string]any{"project_id": testProject, "rate_limit": 0})
	m.role("github", eachUsersGithub)
	for _, user := range stayers {
		s.reads(user)
	}
	return s
}

// connects has a user connect another account, which is healthy. Its place in the
// list says nothing about its age.
func (s *stay) connects(user string) {
	s.accounts++
	a := connectAccount(fmt.Sprintf("apn_%02d", s.accounts), user)
	a.CreatedAt = time.Now().Add(time.Duration(s.rand.IntN(48)-24) * time.Hour)
	a.TokenLife = time.Duration(1+s.rand.IntN(300)) * time.Minute
	a.OmitOwner = s.rand.IntN(2) == 0
	if s.rand.IntN(3) == 0 {
		a.App.AuthType, a.TokenLife, a.Credentials = "keys", 0, map[string]any{"api_key": a.ID}
	}
	s.sim.SetAccount(a)
}

func (s *stay) sets(data map[string]any) {
	s.Helper()
	_, err := s.write("config", data)
	require.NoError(s, err, "%v", s.trail)
}

// rotates gives the OAuth client with that id another secret, in Pipedream and in
// Vault.
func (s *stay) rotates(client string) {
	s.Helper()
	s.rotations++
	s.client = client
	secret := "pd_client_secret_" + strconv.Itoa(s.rotations)
	s.sim.SetOAuthClient(client, secret, time.Hour)
	s.sets(map[string]any{"client_id": client, "client_secret": secret})
}

// reads has a user read, who must get the account of before.
func (s *stay) reads(user string) {
	s.Helper()
	resp, err := s.as(user)
	require.NoError(s, err, "%v", s.trail)
	id := resp.Data["pipedream_account_id"].(string)
	if before := s.served[user]; before != "" {
		require.Equal(s, before, id, "the account of %s changed by itself: %v", user, s.trail)
	}
	s.served[user] = id
}

// forgetMemory drops everything of the cache from memory, as a full one would.
func (s *stay) forgetMemory() {
	s.Helper()
	keys, err := logical.CollectKeys(s.Context(), logical.NewStorageView(s.storage, "cache/"))
	require.NoError(s, err)
	for _, key := range keys {
		s.b.InvalidateKey(s.Context(), "cache/"+key)
	}
}

// passes lets time go by, with a pass now and then.
func (s *stay) passes(d, every time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(every)
		s.periodic()
	}
}

// harmless are events after which a user must still be served the same account.
var harmless = map[string]func(s *stay, user string){
	"a second account": func(s *stay, user string) { s.connects(user) },
	"a restart":        func(s *stay, _ string) { s.start() },
	"a few hours":      func(s *stay, _ string) { s.passes(5*time.Hour, 20*time.Minute) },
	"a day":            func(s *stay, _ string) { s.passes(24*time.Hour, time.Hour) },
	"a year":           func(s *stay, _ string) { s.passes(365*24*time.Hour, 40*24*time.Hour) },
	"a year switched off": func(s *stay, _ string) {
		time.Sleep(365 * 24 * time.Hour)
		s.start()
		s.passes(5*time.Minute, time.Minute)
	},
	"a full memory":      func(s *stay, _ string) { s.forgetMemory() },
	"another static_ttl": func(s *stay, _ string) { s.sets(map[string]any{"static_ttl": 60 + s.rand.IntN(4000)}) },
	"a new secret":       func(s *stay, _ string) { s.rotates(s.client); s.passes(2*time.Minute, time.Minute) },
	"a new client":       func(s *stay, _ string) { s.rotates(fmt.Sprintf("pd_client_%d", s.rotations)) },
	"another token":      func(s *stay, user string) { s.sim.Rotate(s.served[user]) },
	"a refresh":          func(s *stay, user string) { _, _ = s.handleAs(user, logical.UpdateOperation, "refresh/github") },
	"a refresh by id":    func(s *stay, user string) { _, _ = s.write("refresh/"+s.served[user], nil) },
	"an owner not named": func(s *stay, user string) {
		s.sim.Update(s.served[user], func(a *pipedreamtest.Account) { a.OmitOwner = !a.OmitOwner })
	},
	"an outage": func(s *stay, user string) {
		end := s.sim.AddFault(pipedreamtest.Fault{Status: http.StatusBadGateway})
		for range 8 {
			_, _ = s.as(user)
			s.passes(50*time.Minute, 25*time.Minute)
		}
		end()
		time.Sleep(time.Minute)
	},
	"a list that is refused": func(s *stay, user string) {
		end := s.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		_, _ = s.as(user)
		_, _ = s.handleAs(user, logical.UpdateOperation, "refresh/github")
		time.Sleep(2 * time.Hour)
		_, _ = s.as(user)
		end()
		time.Sleep(5 * time.Minute)
	},
	"storage that cannot be read": func(s *stay, user string) {
		_, _ = s.as(user) // config and role are in memory then
		s.forgetMemory()
		s.storage.fail(errStorage, nil, nil, nil)
		_, _ = s.as(user)
		s.storage.fail(nil, nil, nil, nil)
		time.Sleep(time.Minute)
	},
	"many accounts of others": func(s *stay, _ string) {
		for i := range 40 {
			s.sim.SetAccount(connectAccount(fmt.Sprintf("apn_o%d", i), "other"+strconv.Itoa(i)))
			_, _ = s.as("other" + strconv.Itoa(i))
		}
	},
	"guesses": func(s *stay, _ string) { // after these, the whole list is known
		for i := range 20 {
			_, _ = s.read("creds/apn_guess" + strconv.Itoa(i))
		}
		time.Sleep(time.Minute)
	},
}

// Whose account a role serves stays the same, whatever happens, unless the account
// itself is at fault.
func TestAUsersAccountStaysTheSame(t *testing.T) {
	t.Parallel()
	var names []string
	for name := range harmless {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names { // each event alone, after the user connected another account
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connectBubble(t, func(_ *testing.T, m *mount) {
				s := newStay(m, 0)
				for _, user := range stayers {
					s.connects(user)
					time.Sleep(10 * time.Minute)
					s.reads(user)
					s.trail = []string{name}
					harmless[name](s, user)
					s.reads(user)
				}
			})
		})
	}
	for seed := range 30 {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			connectBubble(t, func(_ *testing.T, m *mount) {
				s := newStay(m, seed)
				for range 40 {
					name, user := names[s.rand.IntN(len(names))], stayers[s.rand.IntN(len(stayers))]
					s.trail = append(s.trail, user+": "+name)
					harmless[name](s, user)
					if s.rand.IntN(3) > 0 {
						s.reads(stayers[s.rand.IntN(len(stayers))])
					}
				}
				for _, user := range stayers {
					s.reads(user)
				}
			})
		})
	}
}

// An account that is at fault is replaced by another one of its user, at the next
// fetch.
func TestAUsersAccountChangesOnceItIsAtFault(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*mount){
		"deleted":             func(m *mount) { m.sim.DeleteAccount("apn_alice") },
		"dead":                func(m *mount) { m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Dead = true }) },
		"unhealthy":           func(m *mount) { m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Unhealthy = true }) },
		"without credentials": func(m *mount) { m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.NoCredentials = true }) },
		"of another user": func(m *mount) {
			m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.ExternalUserID = "mallory" })
		},
	} {
		for when, after := range map[string]func(*mount){
			"at once":                  func(*mount) {},
			"after a night":            func(m *mount) { time.Sleep(9 * time.Hour); m.periodic() },
			"after a change of secret": func(m *mount) { m.rotateClient() },
		} {
			t.Run(name+", "+when, func(t *testing.T) {
				t.Parallel()
				connectBubble(t, func(t *testing.T, m *mount) {
					m.role("github", eachUsersGithub)
					require.Equal(t, "apn_alice", m.accountOf("alice"))
					other := connectAccount("apn_other", "alice")
					other.CreatedAt = time.Now().Add(-time.Hour) // not the one that a first search would take
					m.sim.SetAccount(other)
					fail(m)
					time.Sleep(time.Minute)
					after(m)
					_, err := m.handleAs("alice", logical.UpdateOperation, "refresh/github")
					require.NoError(t, err)
					time.Sleep(10 * time.Second)
					require.Equal(t, "apn_other", m.accountOf("alice"))
					m.start()
					require.Equal(t, "apn_other", m.accountOf("alice"))
				})
			})
		}
	}
}

// searchesComeLate makes searches for a user take 10 s while late is set.
func (m *mount) searchesComeLate() (late *atomic.Bool) {
	late = &atomic.Bool{}
	m.answersComeLate(func(r *http.Request) time.Duration {
		if late.Load() && strings.Contains(r.URL.RawQuery, "external_user_id") {
			return 10 * time.Second
		}
		return 0
	})
	return late
}

// A search that began with the old key may end after one with the new key.
func TestASearchOfTheOldKeyChangesNoAccount(t *testing.T) {
	for name, known := range map[string]bool{"it finds another account": false, "it finds none": true} {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				m.role("github", eachUsersGithub)
				late := m.searchesComeLate()
				served := func() any {
					resp, err := m.as("alice")
					require.NoError(t, err)
					return resp.Data["pipedream_account_id"]
				}
				if known {
					require.Equal(t, "apn_alice", served())
					m.sim.DeleteAccount("apn_alice")
					time.Sleep(61 * time.Minute)
				} else {
					m.creds("apn_bob") // the access token is there
				}
				late.Store(true)
				go func() { _, _ = m.as("alice") }() // what it finds is as of now
				time.Sleep(time.Second)
				late.Store(false)
				m.sim.SetAccount(connectAccount("apn_alice_2", "alice"))
				m.sim.SetOAuthClient(testClientID, "another_secret_1", time.Hour)
				_, err := m.write("config", map[string]any{"client_secret": "another_secret_1"})
				require.NoError(t, err)
				require.Equal(t, "apn_alice_2", served())
				m.sim.SetAccount(connectAccount("apn_alice_3", "alice"))
				time.Sleep(20 * time.Second)
				require.Equal(t, "apn_alice_2", served(), "it is not at fault")
			})
		})
	}
}

// A user whose account is refused for it alone gets the one that they connect next.
func TestAUserOfARefusedAccountReconnects(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		_, err := m.as("alice")
		require.NoError(t, err)
		time.Sleep(61 * time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, AccountID: "apn_alice", Status: http.StatusUnauthorized})
		m.sim.DeleteAccount("apn_alice")
		_, err = m.as("alice")
		require.Error(t, err)
		m.sim.SetAccount(connectAccount("apn_alice_2", "alice"))
		time.Sleep(6 * time.Minute)
		resp, err := m.as("alice")
		require.NoError(t, err)
		require.Equal(t, "apn_alice_2", resp.Data["pipedream_account_id"])
	})
}
