package pipedream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// fleet gives Pipedream n accounts with tokens of an hour.
func (m *mount) fleet(n int) {
	for i := range n {
		m.sim.SetAccount(oauthAccount(accountName(i), time.Hour))
	}
}

// readAll reads the first n accounts of the fleet at once. After a 429 a reader tries
// again until it is served. No read may take longer than request_timeout.
func (m *mount) readAll(n int) {
	m.Helper()
	var readers sync.WaitGroup
	for i := range n {
		readers.Go(func() {
			for {
				before := time.Now()
				resp, err := m.read("creds/" + accountName(i))
				if time.Since(before) > defaultRequestTimeout {
					m.Errorf("a reader waited for %s", time.Since(before))
				}
				if err == nil {
					if resp.Data["pipedream_account_id"] != accountName(i) {
						m.Errorf("%s got the credentials of %s", accountName(i), resp.Data["pipedream_account_id"])
					}
					return
				}
				if coded, ok := err.(logical.HTTPCodedError); !ok || coded.Code() != http.StatusTooManyRequests { //nolint:errorlint // it must not be wrapped
					m.Errorf("%s: %v", accountName(i), err)
					return
				}
				time.Sleep(5 * time.Second)
			}
		})
	}
	readers.Wait()
}

// readFleet reads accounts of the fleet at once, and returns the errors of those that
// are not served.
func (m *mount) readFleet(from, to int) (errs []error) {
	m.Helper()
	var mu sync.Mutex
	var readers sync.WaitGroup
	for i := from; i < to; i++ {
		readers.Go(func() {
			before := time.Now()
			_, err := m.b.HandleRequest(m.Context(), &logical.Request{
				Operation: logical.ReadOperation, Path: "creds/" + accountName(i), Storage: m.storage, MountPoint: "pipedream/",
			})
			if took := time.Since(before); took > defaultRequestTimeout {
				m.Errorf("a reader waited for %s", took)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	readers.Wait()
	return errs
}

// readOver reads accounts over that many connections. A connection goes on to the
// next account after each answer, and a reader who is refused comes again after 5 s.
func (m *mount) readOver(connections int, order []int) (met coldFleet) {
	m.Helper()
	began := time.Now()
	places := make(chan struct{}, connections)
	var mu sync.Mutex // guards met
	var readers sync.WaitGroup
	for _, i := range order {
		readers.Go(func() {
			for time.Since(began) < 10*time.Minute {
				places <- struct{}{}
				resp, err := m.b.HandleRequest(m.Context(), &logical.Request{
					Operation: logical.ReadOperation, Path: "creds/" + accountName(i), Storage: m.storage, MountPoint: "pipedream/",
				})
				<-places
				mu.Lock()
				if err == nil {
					token, isOAuth := resp.Data["oauth_access_token"]
					if isOAuth && token != m.sim.Token(accountName(i)) || !isOAuth && resp.Data["api_key"] != fmt.Sprintf("k%d", i) {
						m.Errorf("the reader of %s got another token", accountName(i))
					}
					met.served, met.took = met.served+1, time.Since(began)
					mu.Unlock()
					return
				}
				met.refused++
				mu.Unlock()
				time.Sleep(5 * time.Second)
			}
		})
	}
	readers.Wait()
	return met
}

// coldFleet is the outcome of reading a fleet of which nothing is cached.
type coldFleet struct {
	served, refused int
	took            time.Duration
}

func inOrder(n int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	return order
}

func shuffled(n int) []int {
	return rand.New(rand.NewPCG(1, 2)).Perm(n) //nolint:gosec // an order, the same each time
}

// readUntilServed has callers read accounts at once, each until it is served. They come
// again when they are told to.
func (m *mount) readUntilServed(from, to, callers int) {
	m.Helper()
	var readers sync.WaitGroup
	for i := from; i < to; i++ {
		readers.Go(func() {
			for {
				err := m.request(m.Context(), fmt.Sprint("entity-", i%callers), logical.ReadOperation, "creds/"+accountName(i), nil)
				if err == nil {
					return
				}
				time.Sleep(toldToWait(m.T, err))
			}
		})
	}
	readers.Wait()
}

// unlimited does something without a limit.
func (m *mount) unlimited(do func()) {
	m.Helper()
	m.sim.SetLimit(0)
	m.configure(map[string]any{"rate_limit": 0})
	do()
	m.configure(map[string]any{"rate_limit": defaultRateLimit})
	time.Sleep(2 * time.Minute)
	m.sim.ResetRequests()
}

// request sends a request from a caller.
func (m *mount) request(ctx context.Context, caller string, op logical.Operation, path string, data map[string]any) error {
	_, err := m.b.HandleRequest(ctx, &logical.Request{
		Operation: op, Path: path, Data: data, Storage: m.storage, MountPoint: "pipedream/", EntityID: caller,
	})
	return err
}

// toldToWait returns how long a 429 says to wait.
func toldToWait(t *testing.T, err error) time.Duration {
	t.Helper()
	coded, ok := err.(logical.HTTPCodedError) //nolint:errorlint // a wrapped one would lose its code on gRPC
	match := tryAgain.FindStringSubmatch(err.Error())
	if !ok || coded.Code() != http.StatusTooManyRequests || match == nil {
		t.Errorf("neither served nor told when to try again: %v", err)
		return time.Minute
	}
	seconds, _ := strconv.Atoi(match[1])
	return time.Duration(seconds) * time.Second
}

var tryAgain = regexp.MustCompile(`try again in (\d+) s`)

func (m *mount) mostPerMinute() int { return pipedreamtest.MostPerMinute(m.sim.Requests()) }

// spend uses n requests of the budget.
func (m *mount) spend(n int) {
	m.Helper()
	for range n {
		release, ok := m.b.budget.TryAcquire()
		require.True(m, ok)
		release()
	}
}

// use uses up what requests of a class may have of the budget.
func (m *mount) use(class pace.Class) {
	m.Helper()
	for {
		release, err := m.b.budget.Acquire(m.b.budget.NewClaim(class, pace.Caller{}).With(m.Context()))
		if err != nil {
			return
		}
		release()
	}
}
