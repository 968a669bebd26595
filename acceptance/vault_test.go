package acceptance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
)

const (
	// readyTimeout is generous: a loaded machine starts Vault slowly, and a test that gives up early proves nothing.
	readyTimeout = time.Minute
	pollInterval = 50 * time.Millisecond

	// startAttempts limits the search for free ports: another program may take a port before Vault listens on it.
	startAttempts = 5

	// logTail is how much of the server's log a failed test shows.
	logTail = 8 << 10
)

// vaultServer is a real Vault server on loopback with one raft node. The plugin is registered with its SHA-256.
type vaultServer struct {
	dir       string
	plugins   string // the plugin directory; if empty, that of the plugin under test
	process   *process
	addr      string
	root      *api.Client // has the root token
	unsealKey string
	rootToken string
	more      string // additional configuration
}

// newVault starts a server for this test only and stops it when the test ends.
func newVault(t *testing.T) *vaultServer {
	t.Helper()
	s, err := startVault(t.TempDir())
	if s != nil {
		t.Cleanup(func() {
			s.showLog(t)
			require.NoError(t, s.process.stop())
		})
	}
	require.NoError(t, err)
	return s
}

// startVault starts a server that is ready for a mount. If it fails after the process has started, it returns the
// server too, so that the caller can show its log and stop it.
func startVault(dir string) (*vaultServer, error) {
	s := &vaultServer{dir: dir}
	err := s.start()
	if s.process == nil {
		return nil, err
	}
	return s, err
}

// start starts and initializes a new server.
func (s *vaultServer) start() error {
	steps := []func() error{s.makeDirectories, s.launch, s.initialize, s.unseal, s.enableAudit, s.registerPlugin}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (s *vaultServer) makeDirectories() error {
	for _, sub := range []string{"raft", "home"} {
		if err := os.Mkdir(filepath.Join(s.dir, sub), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// launch starts the process and waits until it listens. It tries other ports if the first are taken.
func (s *vaultServer) launch() error {
	for range startAttempts {
		if err := s.launchOnFreePorts(); !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return fmt.Errorf("%w, %d times", errPortTaken, startAttempts)
}

var errPortTaken = errors.New("the port is taken")

func (s *vaultServer) launchOnFreePorts() error {
	ports, err := freePorts(2)
	if err != nil {
		return err
	}
	s.addr = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	s.root = s.client(s.rootToken)
	configPath := filepath.Join(s.dir, "vault.hcl")
	if err := os.WriteFile(configPath, []byte(s.config(ports[0], ports[1])), 0o600); err != nil {
		return err
	}
	logFile, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close() //nolint:errcheck // the process has a descriptor of its own
	offset, err := logFile.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	s.process, err = startProcess(logFile, s.environment(), vaultBin, "server", "-config="+configPath)
	if err != nil {
		return err
	}
	return s.waitUntilListening(offset)
}

// config is the configuration of a server on loopback that logs everything. The raft timing is as tight as possible,
// since a single node waits for no others.
func (s *vaultServer) config(port, clusterPort int) string {
	config := fmt.Sprintf(`
storage "raft" {
  path                   = %q
  node_id                = "node"
  performance_multiplier = 1
}
listener "tcp" {
  address         = "127.0.0.1:%d"
  cluster_address = "127.0.0.1:%d"
  tls_disable     = true
}
api_addr         = %q
cluster_addr     = "https://127.0.0.1:%[3]d"
plugin_directory = %[5]q
disable_mlock    = true
log_level        = "trace"
`, filepath.Join(s.dir, "raft"), port, clusterPort, s.addr, s.pluginDir())
	if onOpenBao {
		config += "unsafe_allow_api_audit_creation = true\n"
	}
	return config + s.more
}

func (s *vaultServer) pluginDir() string {
	if s.plugins == "" {
		return filepath.Dir(pluginBin)
	}
	return s.plugins
}

// home is the home directory of the server and its plugins.
func (s *vaultServer) home() string { return filepath.Join(s.dir, "home") }

// environment is the complete environment of the server, so that no VAULT_* variable of the developer changes a result.
func (s *vaultServer) environment() []string {
	return []string{
		"HOME=" + s.home(),
		"PATH=" + os.Getenv("PATH"),
		"TMPDIR=" + os.TempDir(),
	}
}

// waitUntilListening reads the log from the offset on. It does not connect: if the port is taken, another server would
// answer.
func (s *vaultServer) waitUntilListening(offset int64) error {
	return poll(readyTimeout, "vault to listen", func() (bool, error) {
		running := s.process.running()
		log, err := os.ReadFile(s.logPath())
		if err != nil {
			return false, err
		}
		output := string(log[offset:])
		switch {
		case strings.Contains(output, " server started!"):
			return true, nil
		case running:
			return false, nil
		case strings.Contains(output, "address already in use"):
			return false, errPortTaken
		default:
			return false, fmt.Errorf("vault ended: %w\n%s", s.process.err, output)
		}
	})
}

func (s *vaultServer) initialize() error {
	keys, err := s.root.Sys().Init(&api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return err
	}
	s.unsealKey, s.rootToken = keys.Keys[0], keys.RootToken
	s.root.SetToken(s.rootToken)
	return nil
}

// unseal returns once the server is active and answers.
func (s *vaultServer) unseal() error {
	if _, err := s.root.Sys().Unseal(s.unsealKey); err != nil {
		return fmt.Errorf("unseal: %w", err)
	}
	return poll(readyTimeout, "vault to be active", func() (bool, error) {
		health, err := s.root.Sys().Health()
		// An error means that the server is not ready yet.
		return err == nil && health.Initialized && !health.Sealed && !health.Standby, nil
	})
}

func (s *vaultServer) enableAudit() error {
	return s.root.Sys().EnableAuditWithOptions("file", &api.EnableAuditOptions{
		Type:    "file",
		Options: map[string]string{"file_path": s.auditPath()},
	})
}

func (s *vaultServer) registerPlugin() error {
	return s.register(api.PluginTypeSecrets, pluginName, pluginBin, pluginVersion)
}

// register registers a plugin from the plugin directory.
func (s *vaultServer) register(kind api.PluginType, name, path, version string) error {
	content, err := os.ReadFile(path) //nolint:gosec // a program under test
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	return s.root.Sys().RegisterPlugin(&api.RegisterPluginInput{
		Name:    name,
		Type:    kind,
		Command: filepath.Base(path),
		SHA256:  hex.EncodeToString(sum[:]),
		Version: version,
	})
}

// restart stops the server as an operator would, and starts it again on the same data.
func (s *vaultServer) restart(t *testing.T) {
	t.Helper()
	require.NoError(t, s.process.stop())
	require.NoError(t, s.launch())
	require.NoError(t, s.unseal())
}

// crash kills the server as a power cut would, and starts it again on the same data.
func (s *vaultServer) crash(t *testing.T) {
	t.Helper()
	orphans, err := childrenOf(s.process.pid(), pluginBin)
	require.NoError(t, err)
	require.NoError(t, s.process.kill())
	// A plugin does not notice that its server is gone. A power cut would have ended it too.
	for _, pid := range orphans {
		require.NoError(t, killPlugin(pid))
	}
	require.NoError(t, s.launch())
	require.NoError(t, s.unseal())
}

func (s *vaultServer) sealAndUnseal(t *testing.T) {
	t.Helper()
	require.NoError(t, s.root.Sys().Seal())
	require.NoError(t, s.unseal())
}

// pluginPID returns the process that serves the mounts. There is only one, because the plugin is multiplexed.
func (s *vaultServer) pluginPID(t *testing.T) int {
	t.Helper()
	pids, err := childrenOf(s.process.pid(), pluginBin)
	require.NoError(t, err)
	require.Len(t, pids, 1, "plugin processes")
	return pids[0]
}

// killPlugin kills a plugin's process as a crash would, after making sure that the pid still belongs to a plugin.
func killPlugin(pid int) error {
	if !runs(pid, pluginBin) {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill plugin process %d: %w", pid, err)
	}
	return poll(stopTimeout, "the plugin to end", func() (bool, error) { return !runs(pid, pluginBin), nil })
}

// client returns a client without retries, which would hide the failures that tests look for.
func (s *vaultServer) client(token string) *api.Client {
	config := api.DefaultConfig()
	config.Address = s.addr
	config.MaxRetries = 0
	client, err := api.NewClient(config)
	if err != nil {
		panic(err) // cannot happen: this file makes the address
	}
	client.SetToken(token)
	return client
}

// login returns a client whose token has a single policy with the given rules.
func (s *vaultServer) login(t *testing.T, policy, rules string) *api.Client {
	t.Helper()
	require.NoError(t, s.root.Sys().PutPolicy(policy, rules))
	secret, err := s.root.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{policy}})
	require.NoError(t, err)
	return s.client(secret.Auth.ClientToken)
}

// snapshot saves a backup of the storage to a file and returns its path.
func (s *vaultServer) snapshot(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "raft.snap")
	file, err := os.Create(path) //nolint:gosec // below a directory of the test's own
	require.NoError(t, err)
	require.NoError(t, s.root.Sys().RaftSnapshotWithContext(context.Background(), file))
	require.NoError(t, file.Close())
	return path
}

// restore restores a snapshot, as after a disaster. Vault loads it after this returns.
func (s *vaultServer) restore(t *testing.T, path string) {
	t.Helper()
	file, err := os.Open(path) //nolint:gosec // written by snapshot
	require.NoError(t, err)
	defer file.Close() //nolint:errcheck // only read
	require.NoError(t, s.root.Sys().RaftSnapshotRestoreWithContext(context.Background(), file, false))
}

func (s *vaultServer) logPath() string   { return filepath.Join(s.dir, "vault.log") }
func (s *vaultServer) auditPath() string { return filepath.Join(s.dir, "audit.log") }

func (s *vaultServer) readLog(t *testing.T) string {
	t.Helper()
	return readFile(t, s.logPath())
}

// showLog prints the end of the log if the test failed.
func (s *vaultServer) showLog(t *testing.T) {
	t.Helper()
	if !t.Failed() {
		return
	}
	log := s.readLog(t)
	if len(log) > logTail {
		log = log[len(log)-logTail:]
		_, log, _ = strings.Cut(log, "\n")
	}
	t.Logf("the end of Vault's log:\n%s", log)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	return readFrom(t, path, 0)
}

// readFrom returns a file from that byte on.
func readFrom(t *testing.T, path string, from int64) string {
	t.Helper()
	f, err := os.Open(path) //nolint:gosec // a file of the test's own
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	_, err = f.Seek(from, io.SeekStart)
	require.NoError(t, err)
	content, err := io.ReadAll(f)
	require.NoError(t, err)
	return string(content)
}

// sizeOf returns how long a file is; 0 if there is none.
func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// freePorts returns different ports that were free a moment ago.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for range n {
		listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return nil, err
		}
		defer listener.Close()                                     //nolint:errcheck // nothing was ever sent through it
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port) //nolint:forcetypeassert // it listens on TCP
	}
	return ports, nil
}

// poll checks a condition again and again until it holds, it fails or the time is up.
func poll(timeout time.Duration, what string, condition func() (bool, error)) error {
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); time.Sleep(pollInterval) {
		if done, err := condition(); done || err != nil {
			return err
		}
	}
	return fmt.Errorf("waited %s in vain for %s", timeout, what)
}
