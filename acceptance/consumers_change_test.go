package acceptance

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// nextRead is how much longer a program may hold a credential than the engine says: the templates of Agent and
// consul-template wait a second more for a secret without a lease, and round up.
const nextRead = 2 * time.Second

// TestAChangedKeyReachesEveryProgram changes an API key in Pipedream, which announces nothing, and measures how long each
// program keeps using the old one.
func TestAChangedKeyReachesEveryProgram(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	const staticTTL = 6 * time.Second
	m.configure(t, map[string]any{"static_ttl": "6s"})
	m.sim.SetAccount(stripe())

	dir := t.TempDir()
	var agents, templates []*keeper
	holders := map[string]func() string{"Go client with a watcher": m.followKey(t)}
	for _, path := range []string{"creds/", "static-creds/"} {
		agent := &keeper{account: stripe(), path: path + stripeID, file: filepath.Join(dir, slug("agent-"+path))}
		template := &keeper{account: stripe(), path: path + stripeID, file: filepath.Join(dir, slug("template-"+path))}
		agents, templates = append(agents, agent), append(templates, template)
		holders["Agent, "+path] = func() string { return agent.holds(t) }
		holders["consul-template, "+path] = func() string { return template.holds(t) }
		holders["a read of "+path] = func() string { return asType[string](t, m.read(t, path+stripeID).Data["api_key"]) }
	}
	m.startAgent(t, agents, m.templates(agents))
	m.startConsulTemplate(t, m.templates(templates))

	m.untilAll(t, holders, stripeKey)
	m.untilAllWithin(t, holders, staticTTL+nextRead, func(round int) string {
		newKey := fmt.Sprintf("sk_simulated_c41e5d0b7%d", round)
		m.sim.Update(stripeID, func(a *pipedreamtest.Account) { a.Credentials = map[string]any{"api_key": newKey} })
		return newKey
	})
}

// TestARefusedTokenIsReplaced replaces a token early, as happens when an app revokes it. The client that was refused asks
// for a refresh and gets the new token at once. Programs that read through a role get it once the role's ttl is over.
func TestARefusedTokenIsReplaced(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	const roleTTL = 4 * time.Second
	m.write(t, "roles/short", map[string]any{"account_id": githubID, "ttl": "4s"})

	dir := t.TempDir()
	leased := &keeper{account: github(), path: "creds/short", file: filepath.Join(dir, "leased")}
	lasting := &keeper{account: github(), path: "static-creds/short", file: filepath.Join(dir, "lasting")}
	m.startAgent(t, []*keeper{leased, lasting}, m.templates([]*keeper{leased, lasting}))
	holders := map[string]func() string{
		"Agent, creds/":        func() string { return leased.holds(t) },
		"Agent, static-creds/": func() string { return lasting.holds(t) },
	}
	m.untilAll(t, holders, m.sim.Token(githubID))

	client := m.vault.client(m.vault.login(t, slug(t.Name()), m.mayRead("creds/"+githubID, "refresh/"+githubID)).Token()).Logical()
	m.untilAllWithin(t, holders, roleTTL+nextRead, func(int) string {
		m.sim.Rotate(githubID)
		requests := m.sim.Count(pipedreamtest.KindAccount)
		// Right after a fetch a refresh costs no request, for a minute at most.
		require.NoError(t, poll(2*time.Minute, "a refresh to go out", func() (bool, error) {
			answer, err := client.Write(m.in("refresh/"+githubID), nil)
			return err == nil && m.sim.Count(pipedreamtest.KindAccount) == requests+1 && answer.Data["changed"] == true, err
		}))
		secret, err := client.Read(m.in("creds/" + githubID))
		require.NoError(t, err)
		assert.Equal(t, m.sim.Token(githubID), secret.Data["oauth_access_token"])
		return m.sim.Token(githubID)
	})
}

// TestADeletedAccountComesBack deletes an account in Pipedream and connects it again. Reads fail within static_ttl, and
// Agent leaves its file alone until it gets the new key by itself.
func TestADeletedAccountComesBack(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	const staticTTL = 4 * time.Second
	m.configure(t, map[string]any{"static_ttl": "4s"})
	m.sim.SetAccount(stripe())
	agent := &keeper{account: stripe(), path: "creds/" + stripeID, file: filepath.Join(t.TempDir(), "agent")}
	m.startAgent(t, []*keeper{agent}, m.templates([]*keeper{agent}))
	holders := map[string]func() string{"Agent": func() string { return agent.holds(t) }}
	m.untilAll(t, holders, stripeKey)

	m.sim.DeleteAccount(stripeID)
	deleted := time.Now()
	var err error
	require.NoError(t, poll(readyTimeout, "reads to fail", func() (bool, error) {
		began := time.Now()
		_, err = m.vault.root.Logical().Read(m.in("creds/" + stripeID))
		if err == nil {
			assert.LessOrEqual(t, began.Sub(deleted), staticTTL+nextRead, "a read that began later was still served")
		}
		return err != nil, nil
	}))
	refused(t, err, http.StatusBadRequest, stripeID)
	assert.Equal(t, stripeKey, agent.holds(t), "Agent changed its file")

	again := stripe()
	again.Credentials = map[string]any{"api_key": "sk_simulated_2f9e8812aa"}
	m.sim.SetAccount(again)
	m.untilAll(t, holders, "sk_simulated_2f9e8812aa")
}

// followKey runs a Go client that reads again whenever its watcher says so. It returns a function for the key it holds.
func (m *mount) followKey(t *testing.T) func() string {
	t.Helper()
	var held atomic.Value
	held.Store("")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	go func() {
		defer close(ended)
		for {
			secret, err := m.vault.root.Logical().ReadWithContext(ctx, m.in("creds/"+stripeID))
			if ctx.Err() != nil {
				return
			}
			if !assert.NoError(t, err) {
				return
			}
			held.Store(secret.Data["api_key"])
			watcher, err := m.vault.root.NewLifetimeWatcher(&api.LifetimeWatcherInput{Secret: secret})
			if !assert.NoError(t, err) {
				return
			}
			go watcher.Start()
			select {
			case err := <-watcher.DoneCh():
				assert.NoError(t, err)
			case <-ctx.Done():
			}
			watcher.Stop()
		}
	}()
	return func() string { return asType[string](t, held.Load()) }
}

// untilAll waits until every program holds what it should.
func (m *mount) untilAll(t *testing.T, holders map[string]func() string, want string) {
	t.Helper()
	require.NoError(t, poll(readyTimeout, "every program to hold it", func() (bool, error) {
		for _, holds := range holders {
			if holds() != want {
				return false, nil
			}
		}
		return true, nil
	}))
}

// untilAllWithin makes a change, which returns what every program should hold then, until each program has followed one
// within the given time. A loaded machine can delay a program once, but not every time.
func (m *mount) untilAllWithin(t *testing.T, holders map[string]func() string, most time.Duration, change func(round int) string) {
	t.Helper()
	const rounds = 10
	late := maps.Clone(holders)
	for round := 0; round < rounds && len(late) > 0; round++ {
		want, started := change(round), time.Now()
		took := map[string]time.Duration{}
		require.NoError(t, poll(readyTimeout, "every program to follow the change", func() (bool, error) {
			for name, holds := range holders {
				if _, ok := took[name]; !ok && holds() == want {
					took[name] = time.Since(started)
				}
			}
			return len(took) == len(holders), nil
		}))
		for name, d := range took {
			t.Logf("%-32s %s", name, d.Round(time.Millisecond))
			if d <= most {
				delete(late, name)
			}
		}
	}
	assert.Empty(t, slices.Collect(maps.Keys(late)), "programs that took longer than %s after each of %d changes", most, rounds)
}
