package pipedream

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// errSetup is how a plugin gets [logical.ErrSetupReadOnly]: gRPC keeps only the text.
var errSetup = errors.New(logical.ErrSetupReadOnly.Error())

// storageError returns what status says about storage; an empty text for nothing. The
// metric must agree.
func (m *mount) storageError() string {
	m.Helper()
	resp, err := m.read("status")
	require.NoError(m, err)
	text, failing := resp.Data["storage_error"].(string)
	require.InDelta(m, flagValue(failing), m.metric(metricPrefix+"storage_failing"), 0)
	return text
}

// Vault lets a mount whose plugin could not be started read its storage, but not
// write to it.
func TestStorageThatVaultKeepsReadOnly(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		_, err := m.write("roles/ci", map[string]any{"account_id": github})
		require.NoError(t, err)
		before, err := m.read("config")
		require.NoError(t, err)
		m.start()
		m.storage.fail(nil, errSetup, errSetup, nil)
		m.creds(github)
		require.Empty(t, m.storageError(), "nothing was written")

		m.periodic()
		require.Contains(t, m.storageError(), "vault operator step-down")
		for path, data := range map[string]map[string]any{"config": {"static_ttl": "5m"}, "roles/ci": {"fields": "a"}, "roles/new": {"account_id": github}} {
			_, err := m.write(path, data)
			m.refused(err, http.StatusInternalServerError, "nothing was changed", "vault operator step-down")
		}
		for _, path := range []string{"config", "roles/ci"} {
			_, err := m.handle(logical.DeleteOperation, path, nil)
			m.refused(err, http.StatusInternalServerError, "nothing was changed", "vault operator step-down")
		}
		m.creds(stripe)
		m.creds("ci")
		after, err := m.read("config")
		require.NoError(t, err)
		require.Equal(t, before.Data, after.Data)

		m.storage.fail(nil, nil, nil, nil)
		require.NotEmpty(t, m.storageError())
		m.periodic()
		require.Empty(t, m.storageError())
		_, err = m.write("config", map[string]any{"static_ttl": "5m"})
		require.NoError(t, err)
	})
}

// status shows each failure of storage at the first write that meets it, and until
// one succeeds.
func TestStatusShowsStorageThatFails(t *testing.T) {
	for name, test := range map[string]struct {
		fail, mend func(*mount)
		text       string
	}{
		"it refuses writes": {
			fail: func(m *mount) { m.storage.fail(nil, errStorage, errStorage, nil) },
			mend: func(m *mount) { m.storage.fail(nil, nil, nil, nil) },
			text: errStorage.Error(),
		},
		"it hangs": {
			fail: func(m *mount) { m.slow(0, time.Hour, time.Hour) },
			mend: func(m *mount) {
				m.storage.replace(func(s logical.Storage) logical.Storage { return s.(*delayedStorage).Storage })
			},
			text: "in time",
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				test.fail(m)
				m.creds(github)
				require.Contains(t, m.storageError(), test.text)
				m.periodic()
				require.Contains(t, m.storageError(), test.text)
				test.mend(m)
				m.creds(stripe)
				require.Empty(t, m.storageError())
			})
		})
	}
}

// Writes of config and roles tell about storage like any other.
func TestStatusShowsWritesOfAnOperator(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		write := func(path string) error {
			_, err := m.write(path, map[string]any{"account_id": github, "static_ttl": "5m"})
			return err
		}
		for _, path := range []string{"config", "roles/ci"} {
			m.storage.fail(nil, errStorage, errStorage, nil)
			require.ErrorIs(t, write(path), errStorage)
			require.Contains(t, m.storageError(), errStorage.Error())
			_, err := m.handle(logical.DeleteOperation, path, nil)
			require.ErrorIs(t, err, errStorage)
			m.storage.fail(nil, nil, nil, nil)
			require.NoError(t, write(path))
			require.Empty(t, m.storageError())
		}
	})
}

func TestStatusShowsStorageThatFailsUnconfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		m.storage.fail(nil, errSetup, errSetup, nil)
		m.periodic()
		require.Contains(t, m.storageError(), "vault operator step-down")
	})
}

// To know whether storage can be written to costs one small write after a start, and
// leaves nothing behind.
func TestAPassWritesOnceAfterAStart(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		keys, err := m.cachedKeys()
		require.NoError(t, err)
		m.start()
		before := m.storage.writes("")
		for range 5 {
			m.periodic()
			time.Sleep(time.Minute)
		}
		require.Equal(t, before+1, m.storage.writes(""))
		left, err := m.cachedKeys()
		require.NoError(t, err)
		require.Equal(t, keys, left)

		m.start()
		m.creds(stripe) // writes
		before = m.storage.writes("")
		m.periodic()
		require.Equal(t, before, m.storage.writes(""))
	})
}

// What says nothing about storage does not show: writes that belong to another server,
// and those of a pass or a mount that is being ended.
func TestStatusOfStorageDoesNotFlap(t *testing.T) {
	t.Run("on a performance standby", func(t *testing.T) {
		bubble(t, func(t *testing.T, m *mount) {
			m.start()
			m.storage.fail(nil, logical.ErrReadOnly, logical.ErrReadOnly, nil)
			for _, state := range []consts.ReplicationState{consts.ReplicationPerformanceStandby, consts.ReplicationDRSecondary} {
				m.system.ReplicationStateVal = state
				time.Sleep(2 * time.Second) // for as long as the engine remembers the state
				before := m.storage.writes("")
				m.periodic()
				require.Equal(t, before, m.storage.writes(""))
			}
			m.system.ReplicationStateVal = 0
			time.Sleep(2 * time.Second) // for as long as the engine remembers the state
			_, err := m.write("roles/ci", map[string]any{"account_id": github})
			require.Equal(t, logical.ErrReadOnly, err, "handed up unwrapped, so that Vault forwards the request")
			require.Empty(t, m.storageError())
		})
	})
	t.Run("when a pass is cut short", func(t *testing.T) {
		bubble(t, func(t *testing.T, m *mount) {
			m.start()
			m.slow(0, time.Second, time.Second)
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second/2, cancel)
			_, err := m.b.HandleRequest(ctx, &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
			require.NoError(t, err)
			require.Error(t, ctx.Err())
			require.Empty(t, m.storageError())
		})
	})
}

// A credential that storage would not delete may come back with a restart. It is
// asked for again when it is due, and at a refresh, and is then gone for good.
func TestACredentialThatStorageKeptComesBackUntilItIsDue(t *testing.T) {
	for name, drop := range map[string]func(*mount){
		"it is due": func(m *mount) {
			time.Sleep(55 * time.Minute)
			_, _ = m.read("creds/" + github) // served while the fetch goes on, or refused
			time.Sleep(time.Second)
		},
		"it is refreshed": func(m *mount) {
			_, err := m.write("refresh/"+github, nil)
			m.refused(err, http.StatusBadRequest, "is dead")
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(_ *testing.T, m *mount) {
				m.creds(github)
				time.Sleep(time.Minute) // a refresh within seconds of a fetch sends no request
				m.sim.Update(github, func(a *pipedreamtest.Account) { a.Dead = true })
				m.storage.fail(nil, errSetup, errSetup, nil)
				_, err := m.write("refresh/"+github, nil)
				m.refused(err, http.StatusBadRequest, "is dead")
				_, err = m.read("creds/" + github)
				m.refused(err, http.StatusBadRequest, "is dead")

				m.storage.fail(nil, nil, nil, nil)
				m.start()
				m.creds(github)
				drop(m)
				for range 2 {
					_, err = m.read("creds/" + github)
					m.refused(err, http.StatusBadRequest, "is dead")
					m.start()
				}
			})
		})
	}
}

// An error of storage can contain the key, which contains the id of an account.
func TestStorageErrorsNameNoAccount(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		// Vault's file storage returns the error of os.OpenFile.
		m.storage.fail(nil, &fs.PathError{Op: "open", Path: "/vault/data/cache/1234/_" + github + ".temp", Err: syscall.ENOSPC}, nil, nil)
		m.creds(github)
		resp, err := m.read("status")
		require.NoError(t, err)
		require.Contains(t, resp.Data["storage_error"], syscall.ENOSPC.Error())
		require.NotContains(t, resp.Data["storage_error"], github)
	})
}

// Storage hangs, and readers have less time than a call to it. Cold accounts are served.
func TestStorageThatHangsForLongerThanAReaderHas(t *testing.T) {
	for _, timeout := range []int{2, 4, 5, 6, 20} {
		bubble(t, func(t *testing.T, m *mount) {
			m.configure(map[string]any{"request_timeout": timeout})
			m.slow(time.Hour, time.Hour, time.Hour)
			_, err := m.read("creds/" + github)
			if err != nil { // the credential is in memory once its write has failed
				time.Sleep(10 * time.Second)
				_, err = m.read("creds/" + github)
			}
			require.NoError(t, err, "request_timeout=%ds", timeout)
		})
	}
}
