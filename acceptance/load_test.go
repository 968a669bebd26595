package acceptance

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestFiveHundredReadersShareOneRequest is like a deployment whose programs all start at once. Pipedream is slow, so
// that all of them wait when it answers.
func TestFiveHundredReadersShareOneRequest(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.sim.AddFault(pipedreamtest.Fault{AccountID: githubID, Delay: 3 * time.Second})
	client := m.vault.client(m.vault.rootToken)

	const readers = 500
	var group sync.WaitGroup
	var served atomic.Int64
	for i := range readers {
		path := []string{"creds/", "static-creds/"}[min(i%10, 1)] // Vault takes a while to write and revoke leases
		group.Go(func() {
			secret, err := client.Logical().Read(m.in(path + githubID))
			if assert.NoError(t, err) && assert.NotNil(t, secret) {
				assert.Equal(t, m.sim.Token(githubID), secret.Data["oauth_access_token"])
				served.Add(1)
			}
		})
	}
	group.Wait()
	assert.EqualValues(t, readers, served.Load())
	assert.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))
}

var tryAgain = regexp.MustCompile(`try again in ([0-9]+) s`)

// toldWhen asserts that an error is a 429 that says when to try again: within a minute.
func toldWhen(t *testing.T, err error) {
	t.Helper()
	var answer *api.ResponseError
	if !errors.As(err, &answer) || answer.StatusCode != http.StatusTooManyRequests {
		t.Errorf("not a 429: %v", err)
		return
	}
	if match := tryAgain.FindStringSubmatch(err.Error()); assert.NotNil(t, match, err.Error()) {
		seconds, err := strconv.Atoi(match[1])
		assert.NoError(t, err)
		assert.LessOrEqual(t, seconds, 60)
	}
}

// TestReadersBeyondTheRateLimitAreToldWhenToRetry reads more accounts at once than may be fetched in a minute. Each
// answer comes within request_timeout, and readers who get nothing are told when to try again. That they succeed then
// takes minutes, so the engine's own tests check it on a fake clock. Here the limit is raised instead.
func TestReadersBeyondTheRateLimitAreToldWhenToRetry(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	const limit, accounts = 20, 60
	m.configure(t, map[string]any{"rate_limit": limit, "request_timeout": faultTimeout.String()})
	for i := range accounts {
		m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.ID = fmt.Sprintf("apn_%03d", i) }))
	}
	client := m.vault.client(m.vault.rootToken)
	var group sync.WaitGroup
	for i := range accounts {
		id := fmt.Sprintf("apn_%03d", i)
		group.Go(func() {
			before := time.Now()
			secret, err := client.Logical().Read(m.in("static-creds/" + id))
			assert.Less(t, time.Since(before), faultTimeout+slack)
			if err == nil {
				assert.Equal(t, id, secret.Data["pipedream_account_id"])
			} else {
				toldWhen(t, err)
			}
		})
	}
	group.Wait()
	assert.LessOrEqual(t, pipedreamtest.MostPerMinute(m.sim.Requests()), limit)

	m.write(t, "config", map[string]any{"rate_limit": 100})
	for i := range accounts {
		id := fmt.Sprintf("apn_%03d", i)
		assert.Equal(t, id, m.read(t, "static-creds/"+id).Data["pipedream_account_id"])
	}
	assert.LessOrEqual(t, pipedreamtest.MostPerMinute(m.sim.Requests()), 100)
}

// TestAStuckClientLeavesTheBudgetToOthers asks for an unknown account as fast as it can, over many connections.
func TestAStuckClientLeavesTheBudgetToOthers(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	const limit, others = 30, 12
	m.configure(t, map[string]any{"rate_limit": limit})
	client := m.vault.client(m.vault.rootToken) // the same caller as the others
	var group sync.WaitGroup
	started := time.Now()
	for range 10 {
		group.Go(func() {
			for range 20 {
				_, err := client.Logical().Read(m.in("creds/apn_nobody"))
				assert.ErrorContains(t, err, "apn_nobody")
			}
		})
	}
	for i := range others {
		id := fmt.Sprintf("apn_%03d", i)
		m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.ID = id }))
		m.read(t, "static-creds/"+id)
	}
	group.Wait()
	minutes := 1 + int(time.Since(started)/time.Minute) // more than one on a loaded machine only
	assert.LessOrEqual(t, m.sim.Count(pipedreamtest.KindAccount), others+6*minutes, "requests for 200 reads of an unknown account")
}
