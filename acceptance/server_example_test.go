package acceptance

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestServerExample starts a server with the configuration of docs/deploy.md. Only paths and ports are changed.
func TestServerExample(t *testing.T) {
	t.Parallel()
	if onOpenBao {
		t.Skip("the example is for Vault")
	}
	dir := t.TempDir()
	for _, sub := range []string{"data", "plugins", "tls"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, sub), 0o700))
	}
	certified := httptest.NewTLSServer(http.NotFoundHandler()) // which brings a certificate for 127.0.0.1, and a client that trusts it
	defer certified.Close()
	pair := certified.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	require.NoError(t, err)
	writePEM(t, filepath.Join(dir, "tls", "server.pem"), "CERTIFICATE", pair.Certificate[0])
	writePEM(t, filepath.Join(dir, "tls", "server.key"), "PRIVATE KEY", key)

	example, err := os.ReadFile("../docs/examples/server/vault.hcl")
	require.NoError(t, err)
	address := freeDevAddress(t)
	config := filepath.Join(dir, "vault.hcl")
	changed := strings.NewReplacer("/opt/vault/data", filepath.Join(dir, "data"), "/etc/vault.d", dir,
		"0.0.0.0:8200", address, "0.0.0.0:8201", "127.0.0.1:0", "https://vault-1.example.com:8200", "https://"+address).Replace(string(example))
	require.NoError(t, os.WriteFile(config, []byte(changed), 0o600)) //nolint:gosec // in a directory of the test

	ctx, cancel := context.WithCancel(t.Context())
	var log strings.Builder
	server := exec.CommandContext(ctx, vaultBin, "server", "-config="+config) //nolint:gosec // the Vault under test
	server.Stdout, server.Stderr = &log, &log
	require.NoError(t, onLauncher(server.Start))
	ended := make(chan struct{})
	go func() {
		_ = server.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	require.Eventually(t, func() bool {
		select {
		case <-ended:
			return true
		default:
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/v1/sys/health", http.NoBody)
		if err != nil {
			return false
		}
		resp, err := certified.Client().Do(request)
		if err != nil {
			return false
		}
		return assert.NoError(t, resp.Body.Close()) && resp.StatusCode == http.StatusNotImplemented // it waits to be initialised
	}, time.Minute, 100*time.Millisecond)
	select {
	case <-ended:
		require.Fail(t, "the server ended", log.String())
	default:
	}
}

// TestServiceExample has systemd look at the unit of docs/deploy.md.
func TestServiceExample(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd")
	}
	unit, err := os.ReadFile("../docs/examples/server/vault.service")
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "vault.service")
	require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(unit), "/usr/bin/vault", "/bin/sh")), 0o600)) //nolint:gosec // in a directory of the test
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", path).CombinedOutput()                   //nolint:gosec // that of this machine
	require.NoError(t, err, string(out))
	require.NotContains(t, string(out), "vault.service:")
}

func writePEM(t *testing.T, path, kind string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600))
}
