package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
)

// server is a real Vault server with raft storage, on loopback, without an
// audit device: its log of every read is no part of what is measured.
type server struct {
	dir    string
	cmd    *exec.Cmd
	client *api.Client
}

func startServer(vault, plugins string) (*server, error) {
	dir, err := os.MkdirTemp("", "pipedream-bench-")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir}
	ports, err := freePorts(2)
	if err != nil {
		return s, err
	}
	raft := filepath.Join(dir, "raft")
	if err := os.Mkdir(raft, 0o700); err != nil {
		return s, err
	}
	config := filepath.Join(dir, "vault.hcl")
	if err := os.WriteFile(config, fmt.Appendf(nil, `
storage "raft" { path = %q }
listener "tcp" {
  address     = "127.0.0.1:%d"
  tls_disable = true
}
api_addr         = "http://127.0.0.1:%[2]d"
cluster_addr     = "https://127.0.0.1:%[3]d"
plugin_directory = %[4]q
disable_mlock    = true
log_level        = "error"
`, raft, ports[0], ports[1], plugins), 0o600); err != nil {
		return s, err
	}
	log, err := os.Create(filepath.Join(dir, "vault.log")) //nolint:gosec // below our own directory
	if err != nil {
		return s, err
	}
	defer log.Close()                                                                     //nolint:errcheck // the process has its own
	s.cmd = exec.CommandContext(context.Background(), vault, "server", "-config="+config) //nolint:gosec // the program to measure
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	if err := s.cmd.Start(); err != nil {
		return s, err
	}
	clientConfig := api.DefaultConfig()
	clientConfig.Address = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	clientConfig.MaxRetries = 0
	if s.client, err = api.NewClient(clientConfig); err != nil {
		return s, err
	}
	return s, s.initialize()
}

func (s *server) initialize() error {
	var init *api.InitResponse
	var err error
	for range 600 {
		init, err = s.client.Sys().Init(&api.InitRequest{SecretShares: 1, SecretThreshold: 1})
		if err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		return fmt.Errorf("vault did not start: %w", err)
	}
	s.client.SetToken(init.RootToken)
	if _, err := s.client.Sys().Unseal(init.Keys[0]); err != nil {
		return err
	}
	for range 600 {
		if health, err := s.client.Sys().Health(); err == nil && !health.Sealed && !health.Standby {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("vault did not become active")
}

// enable registers the plugin binary and enables it at a path of its name.
func (s *server) enable(binary, version string) error {
	content, err := os.ReadFile(binary) //nolint:gosec // the plugin to measure
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	name := filepath.Base(binary)
	err = s.client.Sys().RegisterPlugin(&api.RegisterPluginInput{
		Name: name, Type: api.PluginTypeSecrets, Command: name, SHA256: hex.EncodeToString(sum[:]), Version: version,
	})
	if err != nil {
		return err
	}
	return s.client.Sys().Mount(name, &api.MountInput{Type: name})
}

// login enables userpass, and returns a client of a user who may read
// everything, and the accessor that the user's alias is under.
func (s *server) login(user string) (client *api.Client, accessor string, err error) {
	const password = "benchmark"
	if err := s.client.Sys().EnableAuthWithOptions("userpass", &api.EnableAuthOptions{Type: "userpass"}); err != nil {
		return nil, "", err
	}
	if err := s.client.Sys().PutPolicy("reader", `path "*" { capabilities = ["read"] }`); err != nil {
		return nil, "", err
	}
	_, err = s.client.Logical().Write("auth/userpass/users/"+user, map[string]any{"password": password, "token_policies": "reader"})
	if err != nil {
		return nil, "", err
	}
	secret, err := s.client.Logical().Write("auth/userpass/login/"+user, map[string]any{"password": password})
	if err != nil {
		return nil, "", err
	}
	auths, err := s.client.Sys().ListAuth()
	if err != nil {
		return nil, "", err
	}
	if client, err = s.client.Clone(); err != nil {
		return nil, "", err
	}
	client.SetToken(secret.Auth.ClientToken)
	return client, auths["userpass/"].Accessor, nil
}

// rss is the resident memory in bytes of the plugin process of that name.
func (s *server) rss(name string) (int64, error) {
	processes, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return 0, err
	}
	for _, path := range processes {
		status, err := os.ReadFile(path) //nolint:gosec // below /proc
		if err != nil {
			continue // it has ended
		}
		fields := map[string]string{}
		for line := range strings.Lines(string(status)) {
			key, value, _ := strings.Cut(line, ":")
			fields[key] = strings.TrimSpace(value)
		}
		if fields["PPid"] != strconv.Itoa(s.cmd.Process.Pid) || !strings.HasPrefix(name, fields["Name"]) {
			continue
		}
		kB, err := strconv.ParseInt(strings.TrimSuffix(fields["VmRSS"], " kB"), 10, 64)
		return kB << 10, err
	}
	return 0, fmt.Errorf("no process %s below vault's", name)
}

func (s *server) stop() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		_ = s.cmd.Wait()
	}
	_ = os.RemoveAll(s.dir)
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() //nolint:errcheck // only its number was wanted
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
