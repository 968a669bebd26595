package acceptance

import (
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// shared is the server of the tests that leave it as they found it. It starts when the first test needs it.
var shared struct {
	once   sync.Once
	server *vaultServer
	err    error
}

// sharedVault returns the shared server, which outlives the test.
func sharedVault(t *testing.T) *vaultServer {
	t.Helper()
	shared.once.Do(func() {
		dir, err := os.MkdirTemp("", "acceptance-") //nolint:usetesting // outlives the test
		if err != nil {
			shared.err = err
			return
		}
		shared.server, shared.err = startVault(dir)
	})
	if shared.server != nil {
		t.Cleanup(func() { shared.server.showLog(t) })
	}
	require.NoError(t, shared.err)
	return shared.server
}

// serverToDisableOn returns a server for a test that disables a mount while requests wait for Pipedream. On OpenBao
// that blocks all other mounts of the server, so there the test gets its own.
func serverToDisableOn(t *testing.T) *vaultServer {
	t.Helper()
	if onOpenBao {
		return newVault(t)
	}
	return sharedVault(t)
}

func stopSharedVault() error {
	if shared.server == nil {
		return nil
	}
	return errors.Join(shared.server.process.stop(), os.RemoveAll(shared.server.dir))
}
