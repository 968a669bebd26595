package pipedream

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// The mount serves a company: 100 accounts are read all the time, and 60 were never
// read. Somebody attacks it.
const (
	warmAccounts = 100
	coldAccounts = 60
	goneAccounts = 60
	under        = 150 * time.Second // how long each attack lasts
)

// victims counts how the reads of others than the attacker end.
type victims struct {
	mu                    sync.Mutex // guards the fields below
	warm, warmServed      int
	cold, coldServed      int
	slowestCold           time.Duration
	coldErr, firstWarmErr error
}

// attack sends requests from that many callers until ctx ends, each caller one after
// the other.
func (m *mount) attack(ctx context.Context, callers int, pause time.Duration, request func(caller string, i int) error) {
	var all sync.WaitGroup
	for c := range callers {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				_ = request("attacker-"+strconv.Itoa(c), i)
				time.Sleep(pause)
			}
		})
	}
	all.Wait()
}

func (v *victims) read(m *mount, caller, path string, cold bool) {
	before := time.Now()
	err := m.request(m.Context(), caller, logical.ReadOperation, path, nil)
	took := time.Since(before)
	v.mu.Lock()
	defer v.mu.Unlock()
	if !cold {
		v.warm++
		if err == nil {
			v.warmServed++
		} else if v.firstWarmErr == nil {
			v.firstWarmErr = err
		}
		return
	}
	v.cold++
	v.slowestCold = max(v.slowestCold, took)
	if err == nil && took <= 10*time.Second {
		v.coldServed++
	} else if v.coldErr == nil {
		v.coldErr = fmt.Errorf("after %s: %w", took, err)
	}
}

// An attacker does not slow down or fail the reads of others.
func TestNobodyCanStarveOthers(t *testing.T) {
	t.Parallel()
	guess := func(m *mount) func(string, int) error {
		return func(caller string, i int) error {
			return m.request(m.Context(), caller, logical.ReadOperation, fmt.Sprintf("creds/apn_guess_%s_%d", caller, i), nil)
		}
	}
	gone := func(m *mount) func(string, int) error {
		return func(caller string, _ int) error {
			return m.request(m.Context(), caller, logical.ReadOperation, "creds/apn_gone_"+caller, nil)
		}
	}
	attacks := map[string]func(context.Context, *mount){
		"nobody":                             func(ctx context.Context, _ *mount) { <-ctx.Done() },
		"one client guesses ids":             func(ctx context.Context, m *mount) { m.attack(ctx, 1, 0, guess(m)) },
		"8 clients guess ids":                func(ctx context.Context, m *mount) { m.attack(ctx, 8, 0, guess(m)) },
		"50 clients guess ids":               func(ctx context.Context, m *mount) { m.attack(ctx, 50, 0, guess(m)) },
		"20 deleted accounts, once a second": func(ctx context.Context, m *mount) { m.attack(ctx, 20, time.Second, gone(m)) },
		"40 deleted accounts, once a second": func(ctx context.Context, m *mount) { m.attack(ctx, 40, time.Second, gone(m)) },
		"60 deleted accounts, once a second": func(ctx context.Context, m *mount) { m.attack(ctx, goneAccounts, time.Second, gone(m)) },
		"refresh of 9 accounts in a loop": func(ctx context.Context, m *mount) {
			m.attack(ctx, 1, 100*time.Millisecond, func(caller string, i int) error {
				return m.request(m.Context(), caller, logical.UpdateOperation, "refresh/"+accountName(i%9), nil)
			})
		},
		"refresh of one account in a loop": func(ctx context.Context, m *mount) {
			m.attack(ctx, 1, 100*time.Millisecond, func(caller string, _ int) error {
				return m.request(m.Context(), caller, logical.UpdateOperation, "refresh/"+accountName(1), nil)
			})
		},
		"refresh of guessed accounts": func(ctx context.Context, m *mount) {
			m.attack(ctx, 8, 100*time.Millisecond, func(caller string, i int) error {
				return m.request(m.Context(), caller, logical.UpdateOperation, fmt.Sprintf("refresh/apn_guess_%s_%d", caller, i%20), nil)
			})
		},
		"refresh of all accounts in a loop": func(ctx context.Context, m *mount) {
			m.attack(ctx, 4, 100*time.Millisecond, func(caller string, i int) error {
				return m.request(m.Context(), caller, logical.UpdateOperation, "refresh/"+accountName(i%warmAccounts), nil)
			})
		},
		"refresh of 9 accounts by a client each": func(ctx context.Context, m *mount) {
			m.attack(ctx, 9, 100*time.Millisecond, func(caller string, _ int) error {
				own, err := strconv.Atoi(strings.TrimPrefix(caller, "attacker-"))
				if err != nil {
					return err
				}
				return m.request(m.Context(), caller, logical.UpdateOperation, "refresh/"+accountName(own), nil)
			})
		},
		"min_ttl of 1,000 hours": func(ctx context.Context, m *mount) {
			m.attack(ctx, 1, 100*time.Millisecond, func(caller string, i int) error {
				return m.request(m.Context(), caller, logical.ReadOperation, "creds/"+accountName(i%warmAccounts), map[string]any{"min_ttl": "1000h"})
			})
		},
		"metadata of guessed accounts": func(ctx context.Context, m *mount) {
			m.attack(ctx, 8, 100*time.Millisecond, func(caller string, i int) error {
				return m.request(m.Context(), caller, logical.ReadOperation, fmt.Sprintf("accounts/apn_guess_%s_%d", caller, i), nil)
			})
		},
		"metadata of one account in a loop": func(ctx context.Context, m *mount) {
			m.attack(ctx, 1, 100*time.Millisecond, func(caller string, _ int) error {
				return m.request(m.Context(), caller, logical.ReadOperation, "accounts/"+accountName(1), nil)
			})
		},
		"lists in a loop": func(ctx context.Context, m *mount) {
			m.attack(ctx, 2, 100*time.Millisecond, func(caller string, _ int) error {
				return m.request(m.Context(), caller, logical.ListOperation, "accounts/", nil)
			})
		},
		"reading roles, and roles that there are not": func(ctx context.Context, m *mount) {
			m.role("one", map[string]any{"account_id": accountName(1)})
			m.attack(ctx, 8, 50*time.Millisecond, func(caller string, i int) error {
				name := "one"
				if i%2 == 1 {
					name = fmt.Sprintf("role-%s-%d", caller, i)
				}
				return m.request(m.Context(), caller, logical.ReadOperation, "roles/"+name, nil)
			})
		},
		"names of roles that there are not": func(ctx context.Context, m *mount) {
			m.attack(ctx, 8, 100*time.Millisecond, func(caller string, i int) error {
				return m.request(m.Context(), caller, logical.ReadOperation, fmt.Sprintf("creds/role-%s-%d", caller, i), nil)
			})
		},
	}
	for name, attack := range attacks {
		for _, restarted := range []bool{false, true} { // after a restart nothing is known about which accounts exist
			t.Run(fmt.Sprintf("%s, restarted %t", name, restarted), func(t *testing.T) {
				t.Parallel()
				bubble(t, func(_ *testing.T, m *mount) {
					for i := range warmAccounts + coldAccounts {
						m.sim.SetAccount(oauthAccount(accountName(i), time.Hour))
					}
					m.assertFairUnder(attack, restarted)
				})
			})
		}
	}
}

// Neither do users without an account who come again and again.
func TestUsersWithoutAccountsStarveNobody(t *testing.T) {
	t.Parallel()
	attacks := map[string]func(context.Context, *mount){
		"60 callers of 3 users": func(ctx context.Context, m *mount) {
			for i := range 3 {
				m.role("github-"+strconv.Itoa(i), map[string]any{"app": "github", "external_user_id": "nobody-" + strconv.Itoa(i)})
			}
			m.attack(ctx, 60, time.Second, func(caller string, i int) error {
				return m.request(m.Context(), caller, logical.ReadOperation, "creds/github-"+strconv.Itoa(i%3), nil)
			})
		},
		"60 users, each by their own identity": func(ctx context.Context, m *mount) {
			m.role("own", map[string]any{"app": "github", "external_user_id": "{{identity.entity.id}}"})
			for i := range 60 {
				m.system.knows(&logical.Entity{ID: "attacker-" + strconv.Itoa(i)})
			}
			m.attack(ctx, 60, time.Second, func(caller string, _ int) error {
				return m.request(m.Context(), caller, logical.ReadOperation, "creds/own", nil)
			})
		},
		"200 roles of one user": func(ctx context.Context, m *mount) {
			for i := range 200 {
				m.role("app-"+strconv.Itoa(i), map[string]any{"app": "app-" + strconv.Itoa(i), "external_user_id": "nobody"})
			}
			m.attack(ctx, 8, 100*time.Millisecond, func(caller string, i int) error {
				return m.request(m.Context(), caller, logical.ReadOperation, "creds/app-"+strconv.Itoa(i%200), nil)
			})
		},
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connectBubble(t, func(_ *testing.T, m *mount) {
				m.configureClient(map[string]any{"project_id": testProject, "rate_limit": 100})
				for i := range warmAccounts + coldAccounts {
					a := connectAccount(accountName(i), "somebody")
					a.TokenLife = time.Hour
					m.sim.SetAccount(a)
				}
				m.assertFairUnder(attack, false)
			})
		})
	}
}

// Neither does one customer of a backend, who is read all the time, starve the others. They
// have the same caller.
func TestOneCustomerOfABackendStarvesNoOther(t *testing.T) {
	t.Parallel()
	of := func(i int) (caller, path string) { return "backend", fmt.Sprintf("creds/crm/acme:%d", i) }
	loop := func(callers int, op logical.Operation, path func(i int) string, data map[string]any) func(context.Context, *mount) {
		return func(ctx context.Context, m *mount) {
			m.attack(ctx, callers, 50*time.Millisecond, func(_ string, i int) error {
				return m.request(m.Context(), "backend", op, path(i), data)
			})
		}
	}
	always := func(path string) func(int) string { return func(int) string { return path } }
	attacks := map[string]func(context.Context, *mount){
		"refreshes":                    loop(8, logical.UpdateOperation, always("refresh/crm/acme:0"), nil),
		"reads that demand more":       loop(8, logical.ReadOperation, always("creds/crm/acme:0"), map[string]any{"min_ttl": "1000h"}),
		"without an account":           loop(8, logical.ReadOperation, always("creds/crm/acme:none"), nil),
		"refreshes without an account": loop(8, logical.UpdateOperation, always("refresh/crm/acme:none"), nil),
		"what is connected":            loop(8, logical.ReadOperation, always("connect/crm/acme:0"), nil),
		"names of accounts":            loop(8, logical.ReadOperation, always("creds/crm/acme:0"), map[string]any{"account": "apn_guess"}),
		"without accounts of 20 apps": func(ctx context.Context, m *mount) {
			for i := range 20 {
				m.role(fmt.Sprint("app-", i), map[string]any{"app": fmt.Sprint("crm_", i), "allowed_external_user_ids": "acme:*"})
			}
			loop(20, logical.ReadOperation, func(i int) string { return fmt.Sprintf("creds/app-%d/acme:none", i%20) }, nil)(ctx, m)
		},
	}
	for name, attack := range attacks {
		for _, refused := range []bool{false, true} {
			if refused && name != "refreshes" && name != "without an account" { // the hardest of those that can be fair
				continue
			}
			t.Run(fmt.Sprintf("%s, the list is refused %t", name, refused), func(t *testing.T) {
				t.Parallel()
				connectBubble(t, func(_ *testing.T, m *mount) {
					m.configureClient(map[string]any{"project_id": testProject, "rate_limit": 100})
					paths := m.customers(warmAccounts + coldAccounts)
					m.readCustomers(paths[:warmAccounts], 8, 1)
					if refused {
						m.sim.AddFault(pipedreamtest.Fault{
							Kind: pipedreamtest.KindList, Status: http.StatusForbidden, Delay: 150 * time.Millisecond,
							Where: func(r pipedreamtest.Request) bool {
								return strings.Contains(r.RawQuery, "app=") && !strings.Contains(r.RawQuery, "external_user_id")
							},
						})
					}
					m.assertFairTo(of, attack, false)
				})
			})
		}
	}
}

// Neither does one caller with a fleet of accounts that all exist, and are all cold. The
// caller asks for all of them at the same time, and comes again 30 s after each answer.
// The cold accounts of the others come last.
func TestALargeFleetStarvesNobody(t *testing.T) {
	t.Parallel()
	const fleet = 3000
	all := func(ctx context.Context, m *mount, op logical.Operation, path string) {
		var readers sync.WaitGroup
		for i := warmAccounts + coldAccounts + fleet - 1; i >= warmAccounts; i-- {
			readers.Go(func() {
				for ctx.Err() == nil {
					_ = m.request(m.Context(), "attacker", op, path+accountName(i), nil)
					time.Sleep(30 * time.Second)
				}
			})
		}
		readers.Wait()
	}
	attacks := map[string]func(context.Context, *mount){
		"reads":     func(ctx context.Context, m *mount) { all(ctx, m, logical.ReadOperation, "creds/") },
		"refreshes": func(ctx context.Context, m *mount) { all(ctx, m, logical.UpdateOperation, "refresh/") },
	}
	lists := map[string][]pipedreamtest.Fault{
		"a list":                  nil,
		"a list that has nothing": {{Kind: pipedreamtest.KindList, Status: http.StatusOK, Body: `{"page_info":{"total_count":0},"data":[]}`}},
	}
	fill := func(m *mount, account func(int) pipedreamtest.Account, faults []pipedreamtest.Fault) {
		for i := range warmAccounts + coldAccounts + fleet {
			m.sim.SetAccount(account(i))
		}
		for _, fault := range faults {
			m.sim.AddFault(fault)
		}
	}
	for name, attack := range attacks {
		for list, faults := range lists {
			t.Run(name+", "+list+", a key", func(t *testing.T) {
				t.Parallel()
				bubble(t, func(_ *testing.T, m *mount) {
					fill(m, func(i int) pipedreamtest.Account { return oauthAccount(accountName(i), time.Hour) }, faults)
					m.assertFairUnder(attack, true)
				})
			})
			if name == "refreshes" { // a project only has more budget
				continue
			}
			t.Run(name+", "+list+", a Connect project", func(t *testing.T) {
				t.Parallel()
				connectBubble(t, func(_ *testing.T, m *mount) {
					fill(m, func(i int) pipedreamtest.Account { return connectAccount(accountName(i), "somebody") }, faults)
					m.assertFairUnder(attack, true)
				})
			})
		}
	}
}

// Neither do several such callers at once, each with a fleet of their own, who come again
// when they are told to. Each account costs a request.
func TestSeveralLargeFleetsStarveNobody(t *testing.T) {
	t.Parallel()
	const fleet = 1000 // of each caller
	attack := func(callers int) func(context.Context, *mount) {
		return func(ctx context.Context, m *mount) {
			var readers sync.WaitGroup
			for i := range callers * fleet {
				readers.Go(func() {
					caller, path := "attacker-"+strconv.Itoa(i%callers), "creds/"+accountName(warmAccounts+coldAccounts+i)
					for ctx.Err() == nil {
						err := m.request(ctx, caller, logical.ReadOperation, path, nil)
						if err == nil {
							return
						}
						fleetCase{readers: "obey"}.wait(m, err)
					}
				})
			}
			readers.Wait()
		}
	}
	refused := pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden}
	for _, callers := range []int{4, 6} {
		t.Run(fmt.Sprintf("%d callers, the list is refused, a key", callers), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(_ *testing.T, m *mount) {
				m.fleet(warmAccounts + coldAccounts + callers*fleet)
				m.sim.AddFault(refused)
				m.assertFairUnder(attack(callers), true)
			})
		})
	}
	t.Run("4 callers, the list comes bare, a key", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(_ *testing.T, m *mount) {
			m.listsComeBare()
			m.fleet(warmAccounts + coldAccounts + 4*fleet)
			m.assertFairUnder(attack(4), false)
		})
	})
	t.Run("4 callers, the list comes bare, a Connect project", func(t *testing.T) {
		t.Parallel()
		connectBubble(t, func(_ *testing.T, m *mount) {
			m.listsComeBare()
			for i := range warmAccounts + coldAccounts + 4*fleet {
				m.sim.SetAccount(connectAccount(accountName(i), "somebody"))
			}
			m.assertFairUnder(attack(4), false)
		})
	})
}

// Whoever joins the fetch of a reader who has waited for long does not give up with it.
func TestAReaderWhoJoinsLateGetsTheirOwnTime(t *testing.T) {
	const fleet = 300
	reads := map[string]func(m *mount, caller string, i int) error{
		"an account": func(m *mount, caller string, i int) error {
			return m.request(m.Context(), caller, logical.ReadOperation, "creds/"+accountName(i), nil)
		},
		"a refresh": func(m *mount, caller string, i int) error {
			return m.request(m.Context(), caller, logical.UpdateOperation, "refresh/"+accountName(i), nil)
		},
	}
	for name, read := range reads {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				m.configure(map[string]any{"rate_limit": 0})
				m.fleet(fleet)
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 2 * time.Second})
				var greedy sync.WaitGroup
				for i := range fleet {
					greedy.Go(func() { _ = read(m, "greedy", i) })
					synctest.Wait()
				}
				time.Sleep(defaultRequestTimeout - 100*time.Millisecond)
				began := time.Now()
				require.NoError(t, read(m, "modest", fleet-1))
				require.LessOrEqual(t, time.Since(began), 10*time.Second)
				greedy.Wait()
			}, pipedreamtest.WithLimit(0))
		})
	}
}

// Each mount has a limit of its own, which no other mount of the process uses up.
func TestNoMountCanStarveAnother(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *mount) {
		for i := range warmAccounts + coldAccounts {
			m.sim.SetAccount(oauthAccount(accountName(i), time.Hour))
		}
		others := make([]*mount, 3)
		for i := range others {
			others[i] = newMount(t)
			others[i].configure(nil)
		}
		m.assertFairUnder(func(ctx context.Context, _ *mount) {
			var all sync.WaitGroup
			for _, other := range others {
				all.Go(func() {
					other.attack(ctx, 8, 0, func(caller string, i int) error {
						return other.request(ctx, caller, logical.ReadOperation, fmt.Sprintf("creds/apn_guess_%s_%d", caller, i), nil)
					})
				})
			}
			all.Wait()
			for _, other := range others {
				if most := other.mostPerMinute(); most > defaultRateLimit {
					t.Errorf("another mount sent %d requests in a minute", most)
				}
			}
		}, false)
	})
}

// assertFairUnder has each account be read by a caller of its own while an attack goes on.
func (m *mount) assertFairUnder(attack func(context.Context, *mount), restarted bool) {
	m.Helper()
	m.readAll(warmAccounts)
	m.assertFairTo(func(i int) (caller, path string) { return "app-" + strconv.Itoa(i), "creds/" + accountName(i) }, attack, restarted)
}

// assertFairTo reads warm accounts all the time and cold ones now and then while an
// attack goes on. In the middle of it, the key is checked. The warm ones were read before.
func (m *mount) assertFairTo(of func(i int) (caller, path string), attack func(context.Context, *mount), restarted bool) {
	m.Helper()
	time.Sleep(50 * time.Minute) // they come due while the attack lasts
	if restarted {
		m.start()
	}
	m.sim.ResetRequests()
	m.sim.AddFault(pipedreamtest.Fault{Delay: 150 * time.Millisecond})
	ctx, cancel := context.WithTimeout(m.Context(), under)
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() { attack(ctx, m) })
	v := &victims{}
	all.Go(func() {
		for ctx.Err() == nil {
			for i := range warmAccounts {
				caller, path := of(i)
				v.read(m, caller, path, false)
			}
			time.Sleep(3 * time.Second)
		}
	})
	all.Go(func() {
		for ctx.Err() == nil {
			m.periodic()
			time.Sleep(time.Minute)
		}
	})
	for i := range coldAccounts {
		all.Go(func() {
			time.Sleep(time.Duration(i) * under / coldAccounts)
			caller, path := of(warmAccounts + i)
			v.read(m, caller, path, true)
		})
	}
	all.Go(func() {
		time.Sleep(under / 2)
		if err := m.request(m.Context(), "operator", logical.UpdateOperation, "config", map[string]any{"verify": true}); err != nil {
			m.Errorf("a check of the key in the middle of it: %v", err)
		}
	})
	all.Wait()
	m.Logf("warm %d of %d, cold %d of %d (slowest %s), %d requests, %d a minute at the most",
		v.warmServed, v.warm, v.coldServed, v.cold, v.slowestCold.Round(time.Millisecond), len(m.sim.Requests()), m.mostPerMinute())
	require.Equal(m, v.warm, v.warmServed, "%v", v.firstWarmErr)
	require.GreaterOrEqual(m, v.coldServed*100, 95*v.cold, "%v", v.coldErr)
	resp, err := m.read("config")
	require.NoError(m, err)
	require.LessOrEqual(m, m.mostPerMinute(), resp.Data["rate_limit"])
}

// A client that asks for an unknown account all the time, from many connections, leaves
// enough of the budget to others.
func TestAStuckClientLeavesTheBudgetToOthers(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		_, err := m.write("config", map[string]any{"rate_limit": 20})
		require.NoError(t, err)
		const others = 10
		for i := range others {
			m.sim.SetAccount(oauthAccount(accountName(i), 12*time.Hour))
		}
		ctx, stop := context.WithCancel(t.Context())
		var stuck sync.WaitGroup
		for range 10 {
			stuck.Go(func() {
				for ctx.Err() == nil {
					_, _ = m.b.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "creds/apn_nobody", Storage: m.storage})
					time.Sleep(200 * time.Millisecond)
				}
			})
		}
		for i := range others {
			time.Sleep(6 * time.Second)
			m.creds(accountName(i))
		}
		stop()
		stuck.Wait()
	})
}

// Accounts for which Pipedream never answers do not keep the readers of others waiting.
func TestSlowAccountsHoldUpNobodyElse(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const slow = 12
		for i := range slow {
			m.sim.SetAccount(oauthAccount(accountName(i), time.Hour))
			m.sim.AddFault(pipedreamtest.Fault{AccountID: accountName(i), Hang: true})
		}
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Hang: true})
		var stuck sync.WaitGroup
		stuck.Go(func() { m.readFleet(0, slow) })
		time.Sleep(time.Second)
		before := time.Now()
		_, err := m.read("creds/" + github)
		waited := time.Since(before)
		stuck.Wait()
		require.NoError(t, err)
		require.LessOrEqual(t, waited, cache.Patience)
	})
}
