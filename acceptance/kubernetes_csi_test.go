//go:build kubernetes

package acceptance

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestKubernetesCSIProvider applies docs/examples/csi-provider.yaml with only addresses changed, and has the Vault CSI
// Provider fill the pod's volume again and again, as the driver does with rotation enabled. Interval and tokens are short.
func TestKubernetesCSIProvider(t *testing.T) {
	t.Parallel()
	provider := os.Getenv("CSI_PROVIDER_BIN")
	if provider == "" {
		t.Skip("no CSI_PROVIDER_BIN: make test-kubernetes CSI_PROVIDER_BIN=path")
	}
	c := newKubernetes(t)
	m := onOwnVault(t)
	m.watch(t)
	account := githubWith(func(a *pipedreamtest.Account) {
		a.ID, a.TokenLife, a.RefreshBefore = exampleID, 20*time.Second, 12*time.Second
	})
	m.sim.SetAccount(account)
	path := "static-creds/" + exampleID
	m.letApplicationIn(t, c, fmt.Sprintf("path %q { capabilities = [\"read\"] }", m.in(path)))
	v := c.volumeOf(t, exampleText(t, "csi-provider.yaml", "https://vault.example.com:8200", m.vault.addr))
	v.socket = startCSIProvider(t, c, provider)

	const interval = 5 * time.Second
	require.NoError(t, v.mount(t))
	mounted := time.Now()
	assert.Equal(t, m.sim.Token(exampleID), readFile(t, v.in("github-token")))
	assert.Equal(t, m.sim.ExpiresAt(exampleID).UTC().Format(time.RFC3339), readFile(t, v.in("github-token-end")))
	assert.Equal(t, 1, m.reads(t, path), "one read serves both files")

	m.stayAlive(t, []*keeper{{account: account, path: path, held: func() string {
		if time.Since(mounted) >= interval {
			require.NoError(t, v.mount(t))
			mounted = time.Now()
		}
		return readFile(t, v.in("github-token"))
	}}})

	last := readFile(t, v.in("github-token"))
	m.sim.DeleteAccount(exampleID)
	waitUntil(t, "the engine to notice", func() bool {
		err := v.mount(t)
		return err != nil && assert.ErrorContains(t, err, "Pipedream does not know account "+exampleID)
	})
	assert.Equal(t, last, readFile(t, v.in("github-token")), "the file has changed")
	m.sim.SetAccount(account)
	waitUntil(t, "the file to have the new token", func() bool {
		return v.mount(t) == nil && readFile(t, v.in("github-token")) == m.sim.Token(exampleID)
	})
}

// volume is a volume of a pod, which a provider fills.
type volume struct {
	socket     string
	target     string
	attributes []byte // the parameters of its SecretProviderClass, and what kubelet adds about the pod
}

func (v *volume) in(name string) string { return filepath.Join(v.target, name) }

// mount has the provider fill the volume, or fill it again.
func (v *volume) mount(t *testing.T) error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), kubernetesBin(t, "secrets-store-csi-driver"), v.socket, v.target) //nolint:gosec // arguments of this test
	cmd.Stdin = strings.NewReader(string(v.attributes))
	output, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}

// volumeOf applies manifests of a SecretProviderClass "github" and a pod "app", and returns the pod's volume.
func (c *kubernetes) volumeOf(t *testing.T, manifests string) *volume {
	t.Helper()
	module := os.Getenv("CSI_DRIVER_MODULE")
	require.NotEmpty(t, module, "make test-kubernetes sets CSI_DRIVER_MODULE")
	c.applyFiles(t, filepath.Join(module, "config", "crd", "bases", "*_secretproviderclasses.yaml"))
	// The regular plural, which path returns, would be "secretproviderclasss".
	class, pod, _ := strings.Cut(manifests, "\n---\n")
	const classes = "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/app/secretproviderclasses/"
	c.applyAt(t, classes+"github", class)
	c.apply(t, pod)

	var applied struct {
		Spec struct {
			Provider   string            `json:"provider"`
			Parameters map[string]string `json:"parameters"`
		} `json:"spec"`
	}
	require.True(t, c.get(t, classes+"github", &applied))
	require.Equal(t, "vault", applied.Spec.Provider)
	var made struct {
		Metadata struct {
			UID string `json:"uid"`
		} `json:"metadata"`
		Spec struct {
			ServiceAccountName string `json:"serviceAccountName"`
		} `json:"spec"`
	}
	require.True(t, c.get(t, "/api/v1/namespaces/app/pods/app", &made))
	maps.Copy(applied.Spec.Parameters, map[string]string{
		"secretProviderClass": "github", "csi.storage.k8s.io/ephemeral": "true",
		"csi.storage.k8s.io/pod.name": "app", "csi.storage.k8s.io/pod.namespace": "app",
		"csi.storage.k8s.io/pod.uid": made.Metadata.UID, "csi.storage.k8s.io/serviceAccount.name": made.Spec.ServiceAccountName,
	})
	attributes, err := json.Marshal(applied.Spec.Parameters)
	require.NoError(t, err)
	return &volume{target: t.TempDir(), attributes: attributes}
}

// startCSIProvider runs the provider until the test ends, and returns the path of its socket.
func startCSIProvider(t *testing.T, c *kubernetes, provider string) string {
	t.Helper()
	c.apply(t, `
apiVersion: v1
kind: Namespace
metadata: { name: csi }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: vault-csi-provider, namespace: csi }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: vault-csi-provider }
rules: [{ apiGroups: [""], resources: [serviceaccounts/token], verbs: [create] }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: vault-csi-provider }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: vault-csi-provider }
subjects: [{ kind: ServiceAccount, name: vault-csi-provider, namespace: csi }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: { name: vault-csi-provider, namespace: csi }
rules: [{ apiGroups: [""], resources: [secrets], verbs: [get, create] }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: vault-csi-provider, namespace: csi }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: vault-csi-provider }
subjects: [{ kind: ServiceAccount, name: vault-csi-provider, namespace: csi }]
`)
	socket := filepath.Join(t.TempDir(), "vault.sock")
	var health string
	startOnFreePorts(t, 1, func(ports []int) (string, []string, []string) {
		health = fmt.Sprintf("127.0.0.1:%d", ports[0])
		return c.inPod(t, "csi", "vault-csi-provider", provider, "-endpoint="+socket, "-health-addr="+health, "-log-level=debug")
	}, func() bool { return answers("http://" + health + "/health/ready") })
	return socket
}
