//go:build kubernetes

package acceptance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

const (
	// agentUser and agentGroup are the ids under which the injector runs the Agent.
	agentUser, agentGroup = 100, 1000
	// applicationUser is another user.
	applicationUser = 10001
)

// TestKubernetesVaultAgentInjector creates a pod from docs/examples/agent-injector.yaml. The injector, a webhook of the
// API server, adds an Agent to it. The test runs that Agent and watches its file.
func TestKubernetesVaultAgentInjector(t *testing.T) {
	t.Parallel()
	c := newKubernetes(t)
	m := onOwnVault(t)
	m.watch(t)
	account := githubWith(func(a *pipedreamtest.Account) { a.ID, a.TokenLife = exampleID, 15*time.Second })
	m.sim.SetAccount(account)
	m.letApplicationIn(t, c, fmt.Sprintf("path %q { capabilities = [\"read\"] }", m.in("creds/"+exampleID)))
	startInjector(t, c, m.vault.addr)

	pod := c.podOf(t, exampleText(t, "agent-injector.yaml"))
	container := func(containers []container, name string) container {
		i := slices.IndexFunc(containers, func(c container) bool { return c.Name == name })
		require.GreaterOrEqual(t, i, 0, "the injector added no %s", name)
		assert.Equal(t, "hashicorp/vault:1.21.1", containers[i].Image)
		return containers[i]
	}

	node := newNode(t)
	writeFor(t, node.in("token"), c.token(t, "app", "app", "vault"), agentUser)
	require.NoError(t, node.run(t, agentUser, agentGroup, node.vault, "agent", "-config="+node.configOf(t, container(pod.Spec.InitContainers, "vault-agent-init"))))
	k := &keeper{account: account, path: "creds/" + exampleID, file: node.in("github-token")}
	assert.Equal(t, m.sim.Token(exampleID), k.holds(t), "the token that the init container wrote")

	log := node.start(t, node.vault, "agent", "-config="+node.configOf(t, container(pod.Spec.Containers, "vault-agent")))
	m.stayAlive(t, []*keeper{k})
	require.NoError(t, node.run(t, applicationUser, applicationUser, "cat", k.file), "the application cannot read the file")

	m.sim.DeleteAccount(exampleID)
	waitUntil(t, "the engine's error in the Agent's log", func() bool {
		return strings.Contains(readFile(t, log), "Pipedream does not know account "+exampleID)
	})
	assert.Contains(t, k.kept, k.holds(t), "the file has changed")
	m.sim.SetAccount(account)
	waitUntil(t, "the file to have the new token", func() bool { return k.holds(t) == m.sim.Token(exampleID) })

	_, err := m.vault.client("").Logical().Write("auth/kubernetes/login", map[string]any{
		"role": "app", "jwt": c.token(t, "app", "app"),
	})
	require.Error(t, err, "Vault accepted a token for the Kubernetes API")
}

// pod holds the parts of a pod that the tests need.
type pod struct {
	Spec struct {
		InitContainers []container `json:"initContainers"`
		Containers     []container `json:"containers"`
	} `json:"spec"`
}

type container struct {
	Name  string `json:"name"`
	Image string `json:"image"`
	Env   []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"env"`
}

// podOf applies a Deployment and creates a pod from its template, as a controller would. It tries again until the
// injector has changed the pod, because the API server takes a moment to call a new webhook.
func (c *kubernetes) podOf(t *testing.T, deployment string) (made pod) {
	t.Helper()
	c.apply(t, deployment)
	var applied struct {
		Spec struct {
			Template map[string]any `json:"template"`
		} `json:"spec"`
	}
	require.True(t, c.get(t, "/apis/apps/v1/namespaces/app/deployments/app", &applied))
	template := applied.Spec.Template
	template["apiVersion"], template["kind"] = "v1", "Pod"
	asType[map[string]any](t, template["metadata"])["generateName"] = "app-"
	waitUntil(t, "the injector to be called", func() bool {
		made = pod{}
		c.post(t, "/api/v1/namespaces/app/pods?fieldValidation=Strict", template, &made)
		return len(made.Spec.InitContainers) > 0
	})
	return made
}

// startInjector runs the injector until the test ends, and registers it with the API server for new pods.
func startInjector(t *testing.T, c *kubernetes, vaultAddr string) {
	t.Helper()
	c.apply(t, `
apiVersion: v1
kind: Namespace
metadata: { name: injector }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: injector, namespace: injector }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: injector }
rules: [{ apiGroups: [admissionregistration.k8s.io], resources: [mutatingwebhookconfigurations], verbs: [get, list, watch] }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: injector }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: injector }
subjects: [{ kind: ServiceAccount, name: injector, namespace: injector }]
`)
	certificate, key := writeCertificate(t, t.TempDir())
	var addr string
	startOnFreePorts(t, 1, func(ports []int) (string, []string, []string) {
		addr = fmt.Sprintf("127.0.0.1:%d", ports[0])
		return c.inPod(t, "injector", "injector", kubernetesBin(t, "vault-k8s"), "agent-inject",
			"-listen="+addr, "-vault-address="+vaultAddr, "-log-level=debug",
			"-tls-cert-file="+certificate, "-tls-key-file="+key)
	}, func() bool { return listens(addr) })

	c.apply(t, fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: { name: vault-agent-injector-cfg }
webhooks:
  - name: vault.hashicorp.com
    sideEffects: None
    admissionReviewVersions: [v1, v1beta1]
    clientConfig: { url: "https://%s/mutate", caBundle: %s }
    rules: [{ operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods], scope: Namespaced }]
    failurePolicy: Fail
`, addr, base64.StdEncoding.EncodeToString([]byte(readFile(t, certificate)))))
}

// writeCertificate writes a certificate for loopback and its key as PEM.
func writeCertificate(t *testing.T, dir string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	certificate, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writeFile(t, certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return certificate, key
}

// node stands in for the machine that runs a pod: a directory that other users can read, with the volumes of the pod
// and Vault.
type node struct {
	dir   string
	vault string
}

func newNode(t *testing.T) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "node-") //nolint:usetesting // t.TempDir is closed to other users
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	n := &node{dir: dir, vault: filepath.Join(dir, "vault")}
	require.NoError(t, os.Chmod(dir, 0o777)) //nolint:gosec // for the users of the pod
	content, err := os.ReadFile(vaultBin)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(n.vault, content, 0o755)) //nolint:gosec // for the users of the pod
	return n
}

func (n *node) in(name string) string { return filepath.Join(n.dir, name) }

// configOf writes the configuration of a container's Agent, with paths in the pod replaced by paths on the node, and
// returns its path.
func (n *node) configOf(t *testing.T, c container) string {
	t.Helper()
	var encoded string
	for _, variable := range c.Env {
		if variable.Name == "VAULT_CONFIG" {
			encoded = variable.Value
		}
	}
	config, err := base64.StdEncoding.DecodeString(encoded)
	require.NoError(t, err)
	require.True(t, json.Valid(config), "%s", config)
	changes := []string{
		"/run/secrets/vault/token", n.in("token"), "/vault/secrets/", n.dir + "/", "/home/vault/.vault-token", n.in("sink"),
		"/home/vault/.pid", n.in("pid"),
	}
	text := string(config)
	for i := 0; i < len(changes); i += 2 {
		assert.Contains(t, text, changes[i])
	}
	path := n.in(c.Name + ".json")
	writeFor(t, path, strings.NewReplacer(changes...).Replace(text), agentUser)
	return path
}

// asUser returns a command that runs as another user if the tests may do that, or else as the current user.
func asUser(user, group int, command ...string) []string {
	if os.Getuid() != 0 {
		return command
	}
	return append([]string{
		"setpriv", "--reuid", strconv.Itoa(user), "--regid", strconv.Itoa(group), "--clear-groups",
		"--pdeathsig", "TERM", // because a change of users resets it
	}, command...)
}

// run runs a command to completion.
func (n *node) run(t *testing.T, user, group int, command ...string) error {
	t.Helper()
	command = asUser(user, group, command...)
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...) //nolint:gosec // built in this file
	cmd.Env = []string{"HOME=" + n.dir, "PATH=" + os.Getenv("PATH")}
	output, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, tail(string(output)))
	}
	return nil
}

// start runs a command as the Agent's user until the test ends, and returns the path of its log.
func (n *node) start(t *testing.T, command ...string) string {
	t.Helper()
	command = asUser(agentUser, agentGroup, command...)
	_, log := startProgram(t, []string{"HOME=" + n.dir, "PATH=" + os.Getenv("PATH")}, command[0], command[1:]...)
	return log
}

// writeFor writes a file that only one user may read.
func writeFor(t *testing.T, path, content string, user int) {
	t.Helper()
	writeFile(t, path, content)
	if os.Getuid() == 0 {
		require.NoError(t, os.Chown(path, user, -1))
	}
}
