//go:build kubernetes

package acceptance

import (
	"fmt"
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

// TestKubernetesVaultSecretsOperator applies docs/examples/vault-secrets-operator.yaml with only addresses changed, and
// watches the Secrets that the operator creates.
func TestKubernetesVaultSecretsOperator(t *testing.T) {
	t.Parallel()
	c := newKubernetes(t)
	m := onOwnVault(t)
	m.watch(t)
	account := githubWith(func(a *pipedreamtest.Account) { a.ID, a.TokenLife = exampleID, 15*time.Second })
	m.sim.SetAccount(account)
	mixedUp := githubWith(func(a *pipedreamtest.Account) { a.ID, a.TokenLife = "apn_mixedup", 5*time.Second })
	m.sim.SetAccount(mixedUp)
	m.letApplicationIn(t, c, m.mayRead("creds/*", "static-creds/*")+`path "sys/leases/revoke" { capabilities = ["update"] }`)
	c.apply(t, applicationDeployment)
	startVaultSecretsOperator(t, c)

	manifests := exampleText(t, "vault-secrets-operator.yaml", "https://vault.example.com:8200", m.vault.addr)
	c.apply(t, manifests)
	c.apply(t, onlyOnce("once-leased", "creds/"+mixedUp.ID, true)+"\n---\n"+onlyOnce("once-static", "static-creds/"+mixedUp.ID, false))

	leased := &keeper{account: account, path: "creds/" + exampleID, held: c.tokenIn(t, "github-leased")}
	lasting := &keeper{account: account, path: "static-creds/" + exampleID, held: c.tokenIn(t, "github")}
	if os.Getenv("SECRETS_OPERATOR_BIN") == "" {
		// Before 1.4.0 the operator can use a ttl that is already over. It usually does not here.
		lasting.takes = account.TokenLife
	}
	m.stayAlive(t, []*keeper{leased, lasting})

	t.Run("a new token causes one restart", func(t *testing.T) {
		tokens := map[string]bool{}
		first := c.generation(t)
		waitUntil(t, "three tokens", func() bool {
			tokens[lasting.held()] = true
			return len(tokens) == 3
		})
		waitUntil(t, "the restarts", func() bool { return c.generation(t)-first >= len(tokens)-1 })
		assert.LessOrEqual(t, c.generation(t)-first, len(tokens), "restarts for %d tokens", len(tokens))
	})

	t.Run("a misconfigured secret is not read again", func(t *testing.T) {
		for name, path := range map[string]string{"once-leased": "creds/", "once-static": "static-creds/"} {
			// The operator reads once for the new object, and once more because it changes the object itself.
			assert.LessOrEqual(t, m.reads(t, path+mixedUp.ID), 2, path)
			assert.NotEqual(t, m.sim.Token(mixedUp.ID), c.secret(t, name, "oauth_access_token"), path)
		}
	})

	t.Run("an error leaves the Secret alone", func(t *testing.T) {
		const text = "Pipedream does not know account " + exampleID
		last := []string{leased.held(), lasting.held(), m.sim.Token(exampleID)}
		m.sim.DeleteAccount(exampleID)
		for kind, k := range map[string]*keeper{"github": lasting, "github-leased": leased} {
			waitUntil(t, "the engine's error in the events of "+kind, func() bool {
				return slices.ContainsFunc(c.events(t, "VaultDynamicSecret", kind), func(message string) bool {
					return strings.Contains(message, text)
				})
			})
			assert.Contains(t, last, k.held(), "the Secret of %s has changed", kind)
		}
		m.sim.SetAccount(account)
		for _, k := range []*keeper{leased, lasting} {
			waitUntil(t, "the Secret to have the new token", func() bool { return k.held() == m.sim.Token(exampleID) })
		}
	})
}

// startVaultSecretsOperator installs the operator with the definitions and permissions from its module, and runs it.
func startVaultSecretsOperator(t *testing.T, c *kubernetes) {
	t.Helper()
	module := os.Getenv("SECRETS_OPERATOR_MODULE")
	require.NotEmpty(t, module, "make test-kubernetes sets SECRETS_OPERATOR_MODULE; with SECRETS_OPERATOR_BIN it also needs SECRETS_OPERATOR_SOURCE")
	c.applyFiles(t, filepath.Join(module, "config", "crd", "bases", "*.yaml"))
	c.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: { name: system }\n")
	for _, file := range []string{"service_account.yaml", "role.yaml", "role_binding.yaml"} {
		c.applyFiles(t, filepath.Join(module, "config", "rbac", file))
	}
	kubeconfig := c.kubeconfig(t, c.token(t, "system", "controller-manager"))
	var probe string
	startOnFreePorts(t, 2, func(ports []int) (string, []string, []string) {
		probe = fmt.Sprintf("127.0.0.1:%d", ports[0])
		return secretsOperatorBin(t), []string{
			"--kubeconfig=" + kubeconfig, "--leader-elect=false", "--health-probe-bind-address=" + probe,
			fmt.Sprintf("--metrics-bind-address=127.0.0.1:%d", ports[1]),
		}, []string{"OPERATOR_NAMESPACE=system", "OPERATOR_POD_UID=1f4b1d0e-6c4b-4c6d-9a57-8b5f4f6d2a11"}
	}, func() bool { return answers("http://" + probe + "/readyz") })
}

// secretsOperatorBin returns the operator to run: the one of SECRETS_OPERATOR_BIN, which is 1.4.0 or later, or else the
// one that make test-kubernetes builds.
func secretsOperatorBin(t *testing.T) string {
	t.Helper()
	if given := os.Getenv("SECRETS_OPERATOR_BIN"); given != "" {
		return given
	}
	return kubernetesBin(t, "vault-secrets-operator")
}

// onlyOnce is a misconfigured VaultDynamicSecret: allowStaticCreds for a path with a lease, or the other way round.
func onlyOnce(name, path string, allowStaticCreds bool) string {
	return fmt.Sprintf(`apiVersion: secrets.hashicorp.com/v1beta1
kind: VaultDynamicSecret
metadata: { name: %[1]s, namespace: app }
spec:
  vaultAuthRef: app
  mount: pipedream
  path: %[2]s
  allowStaticCreds: %[3]t
  destination: { name: %[1]s, create: true }
`, name, path, allowStaticCreds)
}

// TestKubernetesVaultSecretsOperatorLogsInAgain gives the operator Vault tokens that expire after 20 s, so that it keeps
// logging in while it reads both paths of the example.
func TestKubernetesVaultSecretsOperatorLogsInAgain(t *testing.T) {
	t.Parallel()
	c := newKubernetes(t)
	m := onOwnVault(t)
	m.watch(t)
	account := githubWith(func(a *pipedreamtest.Account) { a.ID, a.TokenLife = exampleID, 15*time.Second })
	m.sim.SetAccount(account)
	m.letApplicationIn(t, c, m.mayRead("creds/*", "static-creds/*")+`path "sys/leases/revoke" { capabilities = ["update"] }`,
		map[string]any{"token_ttl": "20s", "token_max_ttl": "20s"})
	c.apply(t, applicationDeployment)
	startVaultSecretsOperator(t, c)
	c.apply(t, exampleText(t, "vault-secrets-operator.yaml", "https://vault.example.com:8200", m.vault.addr))

	for successes(responses(m.audit(t), "auth/kubernetes/login")) < 5 {
		m.stayAlive(t, []*keeper{
			{account: account, path: "creds/" + exampleID, held: c.tokenIn(t, "github-leased")},
			{account: account, path: "static-creds/" + exampleID, held: c.tokenIn(t, "github")},
		})
	}
}

const applicationDeployment = `apiVersion: apps/v1
kind: Deployment
metadata: { name: app, namespace: app }
spec:
  selector: { matchLabels: { app: app } }
  template:
    metadata: { labels: { app: app } }
    spec: { containers: [{ name: app, image: registry.example.com/app:1 }] }
`

// generation counts the changes of the application's Deployment. Only restarts change it.
func (c *kubernetes) generation(t *testing.T) int {
	t.Helper()
	var deployment struct {
		Metadata struct {
			Generation int `json:"generation"`
		} `json:"metadata"`
	}
	require.True(t, c.get(t, "/apis/apps/v1/namespaces/app/deployments/app", &deployment))
	return deployment.Metadata.Generation
}

// tokenIn returns a function that returns the access token in a Secret.
func (c *kubernetes) tokenIn(t *testing.T, name string) func() string {
	t.Helper()
	return func() string { return c.secret(t, name, "oauth_access_token") }
}
