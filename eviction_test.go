package pipedream

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// An account is found dead while storage cannot be read. The stored credential must
// not be served once storage can be read again.
func TestAnEvictionWhileStorageCannotBeRead(t *testing.T) {
	bubble(t, func(_ *testing.T, m *mount) {
		m.creds(github)
		m.sim.Update(github, func(a *pipedreamtest.Account) { a.Dead = true })
		m.start()
		m.creds(stripe) // loads config
		m.storage.fail(errStorage, nil, nil, nil)
		_, err := m.read("creds/" + github)
		m.refused(err, http.StatusBadRequest, "dead")
		m.storage.fail(nil, nil, nil, nil)
		for range 2 {
			_, err = m.read("creds/" + github)
			m.refused(err, http.StatusBadRequest, "dead")
			time.Sleep(time.Minute)
		}
	})
}

// The same for a credential that storage is still reading for a caller who gave up.
func TestAnEvictionWhileStorageIsBeingRead(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		m.sim.Update(github, func(a *pipedreamtest.Account) { a.Dead = true })
		m.start()
		m.slow(2*time.Second, 0, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := m.b.HandleRequest(ctx, &logical.Request{Operation: logical.UpdateOperation, Path: "refresh/" + github, Storage: m.storage})
		require.Error(t, err)
		time.Sleep(time.Minute)
		require.Contains(t, m.logs.String(), "is dead")
		_, err = m.read("creds/" + github)
		m.refused(err, http.StatusBadRequest, "dead")
	})
}

func TestFailuresOfTheAccountEvict(t *testing.T) {
	tests := map[string]struct {
		change func(*mount)
		code   int
		text   string
		cost   int // in requests: it is asked for twice, and once whether a refusal is about the account
	}{
		"unknown": {func(m *mount) { m.sim.DeleteAccount(github) }, http.StatusBadRequest, "does not know", 3},
		"forbidden": {func(m *mount) {
			m.sim.AddFault(pipedreamtest.Fault{AccountID: github, Status: http.StatusForbidden})
		}, http.StatusBadRequest, "access", 3},
		"dead": {func(m *mount) {
			m.sim.Update(github, func(a *pipedreamtest.Account) { a.Dead, a.Error = true, "pdtok_leak: invalid_grant" })
		}, http.StatusBadRequest, "dead: Pipedream can no longer refresh its credentials (invalid_grant)", 2},
		"no credentials": {func(m *mount) {
			m.sim.Update(github, func(a *pipedreamtest.Account) { a.NoCredentials = true })
		}, http.StatusBadRequest, "no credentials", 2},
		"another account": {func(m *mount) {
			m.sim.AddFault(pipedreamtest.Fault{AccountID: github, WrongAccount: stripe})
		}, http.StatusBadGateway, "another account", 2},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				m.creds(github)
				test.change(m)
				time.Sleep(59 * time.Minute)
				m.sim.ResetRequests()
				_, err := m.read("creds/" + github)
				m.refused(err, test.code, github, test.text)
				require.Len(t, m.sim.Requests(), test.cost)

				stored, err := m.storage.below().Get(t.Context(), m.cacheKey(github))
				require.NoError(t, err)
				require.Nil(t, stored)

				// The account is held off: the next answer comes at once and costs no request.
				asked := m.sim.Count(pipedreamtest.KindAccount)
				_, err = m.read("creds/" + github)
				m.refused(err, test.code, github, test.text)
				require.Equal(t, asked, m.sim.Count(pipedreamtest.KindAccount))
			})
		})
	}
}

// A dead account is dropped at once, even for readers who come while storage is still
// deleting it.
func TestAnEvictedCredentialStaysEvicted(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		m.sim.Update(github, func(a *pipedreamtest.Account) { a.Dead = true })
		time.Sleep(59 * time.Minute)
		m.slow(0, 0, 2*time.Second)

		var readers sync.WaitGroup
		for _, after := range []time.Duration{0, 100 * time.Millisecond, 600 * time.Millisecond} { // it is being deleted
			readers.Go(func() {
				time.Sleep(after)
				if _, err := m.read("creds/" + github); err == nil {
					t.Errorf("a reader %s after the first was served the credential of a dead account", after)
				}
			})
		}
		readers.Wait()
		_, err := m.read("creds/" + github)
		m.refused(err, http.StatusBadRequest, "dead")
	})
}

// It does not come back if storage cannot delete it.
func TestAnEvictedCredentialThatStorageKeepsIsNotServed(t *testing.T) {
	bubble(t, func(_ *testing.T, m *mount) {
		m.creds(github)
		m.sim.Update(github, func(a *pipedreamtest.Account) { a.Dead = true })
		time.Sleep(59 * time.Minute)
		m.storage.fail(nil, nil, errStorage, nil)
		_, err := m.read("creds/" + github)
		m.refused(err, http.StatusBadRequest, "dead")
		_, err = m.read("creds/" + github)
		m.refused(err, http.StatusBadRequest, "dead")
	})
}

// A credential that is read from storage while another account is dropped is still
// served. After a restart, a sweep drops thousands.
func TestAnEvictionTouchesNoOtherAccount(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.SetAccount(oauthAccount("apn_brief", 20*time.Second))
		m.creds("apn_brief")
		token := m.token(github)
		time.Sleep(time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusInternalServerError})
		m.sim.ResetRequests()
		m.start()
		m.slow(100*time.Millisecond, 0, 0)
		var sweep sync.WaitGroup
		sweep.Go(m.periodic)
		for range 10 {
			time.Sleep(30 * time.Millisecond)
			m.b.InvalidateKey(t.Context(), m.cacheKey(github))
			require.Equal(t, token, m.token(github))
		}
		sweep.Wait()
		require.Empty(t, m.sim.Requests())
	})
}
