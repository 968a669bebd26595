//go:build kubernetes

package acceptance

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// kubernetes is a real Kubernetes API server with its etcd, as plain processes on loopback. It has no nodes and no
// controllers: nothing runs pods, and nothing creates pods from deployments.
type kubernetes struct {
	dir        string
	addr       string // https://127.0.0.1:…
	ca         []byte // the certificate of the API server, in PEM
	adminToken string
	client     *http.Client
}

// newKubernetes starts a cluster for this test only and stops it when the test ends.
func newKubernetes(t *testing.T) *kubernetes {
	t.Helper()
	c := &kubernetes{dir: t.TempDir(), adminToken: rand.Text()}
	etcd := c.startEtcd(t)
	c.startAPIServer(t, etcd)
	var err error
	c.ca, err = os.ReadFile(filepath.Join(c.dir, "certificates", "apiserver.crt"))
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(c.ca))
	c.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	require.NoError(t, poll(readyTimeout, "the API server to be ready", func() (bool, error) {
		status, _, err := c.try(http.MethodGet, "/readyz", "", nil)
		return err == nil && status == http.StatusOK, nil
	}))
	return c
}

// startEtcd starts an etcd that does not sync to disk, and returns its address.
func (c *kubernetes) startEtcd(t *testing.T) string {
	t.Helper()
	var addr string
	startOnFreePorts(t, 2, func(ports []int) (string, []string, []string) {
		addr = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
		peer := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
		return kubernetesBin(t, "etcd"), []string{
			"--data-dir=" + filepath.Join(c.dir, "etcd"), "--unsafe-no-fsync",
			"--listen-client-urls=" + addr, "--advertise-client-urls=" + addr,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=default=" + peer,
		}, nil
	}, func() bool { return answers(addr + "/health") })
	return addr
}

func (c *kubernetes) startAPIServer(t *testing.T, etcd string) {
	t.Helper()
	in := func(name string) string { return filepath.Join(c.dir, name) }
	writeFile(t, in("tokens.csv"), c.adminToken+`,admin,admin,"system:masters"`+"\n")
	writeKey(t, in("service-accounts.pem"))
	startOnFreePorts(t, 1, func(ports []int) (string, []string, []string) {
		c.addr = fmt.Sprintf("https://127.0.0.1:%d", ports[0])
		return kubernetesBin(t, "kube-apiserver"), []string{
			"--etcd-servers=" + etcd, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
			fmt.Sprintf("--secure-port=%d", ports[0]), "--cert-dir=" + in("certificates"),
			"--token-auth-file=" + in("tokens.csv"), "--authorization-mode=RBAC", "--endpoint-reconciler-type=none",
			"--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.0.0.0/24",
			"--service-account-key-file=" + in("service-accounts.pem"),
			"--service-account-signing-key-file=" + in("service-accounts.pem"),
		}, nil
	}, func() bool { return listens(strings.TrimPrefix(c.addr, "https://")) })
}

// startOnFreePorts runs a program until the test ends, and waits until up returns true. command returns the program for
// the given free ports. If the ports are taken, the program is started again on others.
func startOnFreePorts(t *testing.T, n int, command func(ports []int) (name string, args, env []string), up func() bool) {
	t.Helper()
	for range startAttempts {
		ports, err := freePorts(n)
		require.NoError(t, err)
		name, args, env := command(ports)
		p, log := startProgram(t, bareEnvironment(t, env...), name, args...)
		err = poll(readyTimeout, filepath.Base(name)+" to listen", func() (bool, error) {
			if p.running() {
				return up(), nil
			}
			if strings.Contains(readFile(t, log), "address already in use") {
				return false, errPortTaken
			}
			return false, fmt.Errorf("%s ended: %w", filepath.Base(name), p.err)
		})
		if err == nil {
			return
		}
		require.ErrorIs(t, err, errPortTaken)
	}
	require.Fail(t, "no free port")
}

// bareEnvironment is an environment with only a home directory, PATH and TMPDIR, and the given settings.
func bareEnvironment(t *testing.T, more ...string) []string {
	t.Helper()
	return append([]string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}, more...)
}

func answers(address string) bool {
	resp, err := http.Get(address) //nolint:gosec,noctx // a server of the test's own
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // nothing of it is read
	return resp.StatusCode == http.StatusOK
}

func listens(address string) bool {
	conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).Dial("tcp", address) //nolint:gosec // nothing is sent
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was sent
	return true
}

// writeKey writes a new RSA key as PEM.
func writeKey(t *testing.T, path string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	writeFile(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
}

// kubernetesBin returns the path of a program that "make test-kubernetes" builds.
func kubernetesBin(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "bin", "kubernetes", name))
	require.NoError(t, err)
	require.FileExists(t, path, "make test-kubernetes")
	return path
}

// try sends a request as an administrator.
func (c *kubernetes) try(method, path, contentType string, body []byte) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(context.Background(), method, c.addr+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.adminToken)
	req.Header.Set("Content-Type", contentType)
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, errors.Join(err, resp.Body.Close())
}

// post sends JSON and decodes the answer. The request must succeed.
func (c *kubernetes) post(t *testing.T, path string, body, into any) {
	t.Helper()
	content, err := json.Marshal(body)
	require.NoError(t, err)
	status, answer, err := c.try(http.MethodPost, path, "application/json", content)
	require.NoError(t, err)
	require.Less(t, status, 300, "POST %s: %s", path, answer)
	require.NoError(t, json.Unmarshal(answer, into))
}

// get decodes an object and reports whether it exists.
func (c *kubernetes) get(t *testing.T, path string, into any) bool {
	t.Helper()
	status, answer, err := c.try(http.MethodGet, path, "", nil)
	require.NoError(t, err)
	if status == http.StatusNotFound {
		return false
	}
	require.Equal(t, http.StatusOK, status, "GET %s: %s", path, answer)
	require.NoError(t, json.Unmarshal(answer, into))
	return true
}

// object holds what every manifest has.
type object struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name      string `yaml:"name"`
		Namespace string `yaml:"namespace"`
	} `yaml:"metadata"`
}

// path returns the path of the object in the API. Its kind must have a regular plural.
func (o *object) path() string {
	prefix := "/apis/"
	if !strings.Contains(o.APIVersion, "/") {
		prefix = "/api/"
	}
	path := prefix + o.APIVersion
	if o.Metadata.Namespace != "" {
		path += "/namespaces/" + o.Metadata.Namespace
	}
	return path + "/" + strings.ToLower(o.Kind) + "s/" + o.Metadata.Name
}

// apply applies manifests as "kubectl apply --server-side --validate=strict" does: a field that the API does not know
// is an error.
func (c *kubernetes) apply(t *testing.T, manifests string) {
	t.Helper()
	for manifest := range strings.SplitSeq(manifests, "\n---\n") {
		var o object
		require.NoError(t, yaml.Unmarshal([]byte(manifest), &o), manifest)
		if o.Kind == "" {
			continue // only comments
		}
		c.applyAt(t, o.path(), manifest)
	}
}

// applyAt applies one manifest at a path of the API.
func (c *kubernetes) applyAt(t *testing.T, path, manifest string) {
	t.Helper()
	// A new definition or namespace takes a moment before it can be used.
	require.NoError(t, poll(readyTimeout, "the API to know "+path, func() (bool, error) {
		status, answer, err := c.try(http.MethodPatch, path+"?fieldManager=test&fieldValidation=Strict",
			"application/apply-patch+yaml", []byte(manifest))
		if err != nil || status == http.StatusNotFound {
			return false, err
		}
		if status >= 300 {
			return false, fmt.Errorf("apply %s: %d: %s", path, status, answer)
		}
		return true, nil
	}))
}

// applyFiles applies all manifests that match the pattern.
func (c *kubernetes) applyFiles(t *testing.T, pattern string) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	require.NoError(t, err)
	require.NotEmpty(t, paths, pattern)
	for _, path := range paths {
		c.apply(t, readFile(t, path))
	}
}

// token returns a token of a service account. Without audiences it is for the API server itself.
func (c *kubernetes) token(t *testing.T, namespace, account string, audiences ...string) string {
	t.Helper()
	var answer struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	c.post(t, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+account+"/token", map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": map[string]any{"audiences": audiences},
	}, &answer)
	return answer.Status.Token
}

// kubeconfig writes a file with which a program logs in as a service account, and returns its path.
func (c *kubernetes) kubeconfig(t *testing.T, token string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	ca := filepath.Join(c.dir, "certificates", "apiserver.crt")
	writeFile(t, path, fmt.Sprintf(`{
"apiVersion": "v1", "kind": "Config", "current-context": "test",
"clusters": [{"name": "test", "cluster": {"server": %q, "certificate-authority": %q}}],
"users": [{"name": "test", "user": {"token": %q}}],
"contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}]}`, c.addr, ca, token))
	return path
}

// inPod returns a command that runs a program as if it were in a pod. Such a program finds the API server through its
// environment and a directory that only exists in pods, so it gets a /run of its own.
func (c *kubernetes) inPod(t *testing.T, namespace, account string, command ...string) (name string, args, env []string) {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "token"), c.token(t, namespace, account))
	writeFile(t, filepath.Join(dir, "ca.crt"), string(c.ca))
	writeFile(t, filepath.Join(dir, "namespace"), namespace)
	const script = `mount -t tmpfs none /var/run && mkdir -p /var/run/secrets/kubernetes.io &&
ln -s "$0" /var/run/secrets/kubernetes.io/serviceaccount && exec "$@"`
	_, port, err := net.SplitHostPort(strings.TrimPrefix(c.addr, "https://"))
	require.NoError(t, err)
	args = []string{"--mount"}
	if os.Getuid() != 0 {
		args = append(args, "--map-root-user")
	}
	return "unshare", slices.Concat(args, []string{"/bin/sh", "-ec", script, dir}, command),
		[]string{"KUBERNETES_SERVICE_HOST=127.0.0.1", "KUBERNETES_SERVICE_PORT=" + port, "NAMESPACE=" + namespace}
}

// secret returns the value of a key of a Secret in the namespace "app", or an empty string if there is none.
func (c *kubernetes) secret(t *testing.T, name, key string) string {
	t.Helper()
	var secret struct {
		Data map[string][]byte `json:"data"`
	}
	c.get(t, "/api/v1/namespaces/app/secrets/"+name, &secret)
	return string(secret.Data[key])
}

// events returns the messages of all events about an object in the namespace "app".
func (c *kubernetes) events(t *testing.T, kind, name string) (messages []string) {
	t.Helper()
	var list struct {
		Items []struct {
			Message string `json:"message"`
		} `json:"items"`
	}
	selector := url.QueryEscape("involvedObject.kind=" + kind + ",involvedObject.name=" + name)
	require.True(t, c.get(t, "/api/v1/namespaces/app/events?fieldSelector="+selector, &list))
	for _, event := range list.Items {
		messages = append(messages, event.Message)
	}
	return messages
}

// letApplicationIn creates a namespace and a service account "app". It configures Vault's Kubernetes auth method as the
// documentation says, and lets the account log in with one role, whose policy has the given rules. settings of the role,
// if any, replace the documented ones.
func (m *mount) letApplicationIn(t *testing.T, c *kubernetes, rules string, settings ...map[string]any) {
	t.Helper()
	c.apply(t, `
apiVersion: v1
kind: Namespace
metadata: { name: app }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: app, namespace: app }
---
apiVersion: v1
kind: Namespace
metadata: { name: vault }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: vault, namespace: vault }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: vault-auth-delegator }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:auth-delegator }
subjects: [{ kind: ServiceAccount, name: vault, namespace: vault }]
`)
	const plugin = "vault-plugin-auth-kubernetes"
	root := m.vault.root
	require.NoError(t, m.vault.register(api.PluginTypeCredential, plugin, filepath.Join(filepath.Dir(pluginBin), plugin), ""))
	require.NoError(t, root.Sys().EnableAuthWithOptions("kubernetes", &api.EnableAuthOptions{Type: plugin}))
	_, err := root.Logical().Write("auth/kubernetes/config", map[string]any{
		"kubernetes_host": c.addr, "kubernetes_ca_cert": string(c.ca), "disable_local_ca_jwt": true,
		"token_reviewer_jwt": c.token(t, "vault", "vault"),
	})
	require.NoError(t, err)
	require.NoError(t, root.Sys().PutPolicy("app", rules))
	role := map[string]any{
		"bound_service_account_names": "app", "bound_service_account_namespaces": "app",
		"audience": "vault", "token_policies": "app", "token_ttl": "1h",
	}
	for _, s := range settings {
		maps.Copy(role, s)
	}
	_, err = root.Logical().Write("auth/kubernetes/role/app", role)
	require.NoError(t, err)
}

// exampleText returns an example with its placeholders, pairs of old and new text, replaced.
func exampleText(t *testing.T, name string, changes ...string) string {
	t.Helper()
	return readFile(t, example(t, t.TempDir(), name, changes))
}
