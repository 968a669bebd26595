//go:build kubernetes

package acceptance

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestExternalSecretsOperator applies docs/examples/external-secrets.yaml with only addresses and the interval changed,
// which is shorter because the tokens are. It watches the Secrets that the operator creates.
func TestExternalSecretsOperator(t *testing.T) {
	c := newKubernetes(t)
	m := onOwnVault(t)
	m.watch(t)
	account := githubWith(func(a *pipedreamtest.Account) {
		a.ID, a.TokenLife, a.RefreshBefore = exampleID, 20*time.Second, 12*time.Second
	})
	m.sim.SetAccount(account)
	m.letApplicationIn(t, c, m.mayRead("static-creds/"+exampleID))
	_, err := m.vault.root.Logical().Write("auth/kubernetes/role/app-generator", map[string]any{
		"bound_service_account_names": "app", "bound_service_account_namespaces": "app",
		"audience": "vault", "token_policies": "app", "token_ttl": "1m",
	})
	require.NoError(t, err)
	startExternalSecretsOperator(t, c)
	c.apply(t, exampleText(t, "external-secrets.yaml", "https://vault.example.com:8200", m.vault.addr,
		"refreshInterval: 1m0s", "refreshInterval: 5s"))

	var keepers []*keeper
	for _, name := range []string{"github-by-store", "github-by-generator"} {
		keepers = append(keepers, &keeper{
			account: account, path: "static-creds/" + exampleID,
			held: func() string { return c.secret(t, name, "oauth_access_token") },
		})
	}
	m.stayAlive(t, keepers)

	logins := m.vaultTokensOf(t)
	t.Logf("Vault tokens that live on: %v", logins)
	assert.LessOrEqual(t, logins["app"], 2, "the store does not revoke its Vault tokens")

	last := []string{keepers[0].held(), keepers[1].held(), m.sim.Token(exampleID)}
	m.sim.DeleteAccount(exampleID)
	for i, name := range []string{"github-by-store", "github-by-generator"} {
		waitUntil(t, "the engine's error in the events of "+name, func() bool {
			return slices.ContainsFunc(c.events(t, "ExternalSecret", name), func(message string) bool {
				return strings.Contains(message, "Pipedream does not know account "+exampleID)
			})
		})
		assert.Contains(t, last, keepers[i].held(), "the Secret of %s has changed", name)
	}
	m.sim.SetAccount(account)
	for _, k := range keepers {
		waitUntil(t, "the Secret to have the new token", func() bool { return k.held() == m.sim.Token(exampleID) })
	}
}

// vaultTokensOf counts the live Vault tokens by the role of the Kubernetes auth method that created them.
func (m *mount) vaultTokensOf(t *testing.T) map[string]int {
	t.Helper()
	list, err := m.vault.root.Logical().List("auth/token/accessors")
	require.NoError(t, err)
	count := map[string]int{}
	for _, accessor := range asType[[]any](t, list.Data["keys"]) {
		token, err := m.vault.root.Auth().Token().LookupAccessor(asType[string](t, accessor))
		if err != nil {
			continue // it has expired by now
		}
		metadata, err := token.TokenMetadata()
		require.NoError(t, err)
		if role := metadata["role"]; role != "" {
			count[role]++
		}
	}
	return count
}

// startExternalSecretsOperator installs the operator with the definitions from its module, and runs it. The module has
// the operator's permissions only as a Helm template, so it gets all permissions.
func startExternalSecretsOperator(t *testing.T, c *kubernetes) {
	t.Helper()
	module := os.Getenv("EXTERNAL_SECRETS_MODULE")
	require.NotEmpty(t, module, "make test-external-secrets sets EXTERNAL_SECRETS_MODULE")
	c.applyFiles(t, filepath.Join(module, "config", "crds", "bases", "*external-secrets.io_*.yaml"))
	c.apply(t, `
apiVersion: v1
kind: Namespace
metadata: { name: external-secrets }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: external-secrets, namespace: external-secrets }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: external-secrets }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin }
subjects: [{ kind: ServiceAccount, name: external-secrets, namespace: external-secrets }]
`)
	waitUntil(t, "the definitions to be in force", func() bool {
		status, _, err := c.try(http.MethodGet, "/apis/generators.external-secrets.io/v1alpha1/vaultdynamicsecrets", "", nil)
		return err == nil && status == http.StatusOK
	})
	kubeconfig := c.kubeconfig(t, c.token(t, "external-secrets", "external-secrets"))
	var probe string
	startOnFreePorts(t, 2, func(ports []int) (string, []string, []string) {
		probe = fmt.Sprintf("127.0.0.1:%d", ports[0])
		return kubernetesBin(t, "external-secrets"), []string{
			"--live-addr=" + probe, fmt.Sprintf("--metrics-addr=127.0.0.1:%d", ports[1]), "--enable-leader-election=false",
		}, []string{"KUBECONFIG=" + kubeconfig}
	}, func() bool { return answers("http://" + probe + "/healthz") })
}
