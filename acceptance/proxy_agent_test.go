package acceptance

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// signIn issues JWTs, as a company's own sign-in does.
type signIn struct{ key ed25519.PrivateKey }

// public is the key that Vault checks them with.
func (s signIn) public(t *testing.T) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// session is a JWT for an agent that acts for a person.
func (s signIn) session(t *testing.T, agent, person string, life time.Duration) string {
	t.Helper()
	part := func(v map[string]any) string {
		text, err := json.Marshal(v)
		require.NoError(t, err)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	now := time.Now()
	signed := part(map[string]any{"alg": "EdDSA", "typ": "JWT"}) + "." + part(map[string]any{
		"iss": "https://login.example.com", "aud": "agents", "sub": person, "agent": agent, "iat": now.Unix(), "exp": now.Add(life).Unix(),
	})
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(s.key, []byte(signed)))
}

// TestAnAgentActsForPeople has one program work for several people, with a JWT of each session. It reaches the accounts
// of whom it works for, and the audit log has who that was and which agent.
func TestAnAgentActsForPeople(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(bare("apn_carol_slack", "carol"))
	c.sim.SetAccount(bare("apn_dave_slack", "dave"))
	app := newBehind(t, c.sim, "apn_carol_slack")

	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	issuer, path, sys := signIn{key}, slug(t.Name()), c.vault.root.Sys()
	require.NoError(t, sys.EnableAuthWithOptions(path, &api.EnableAuthOptions{Type: "jwt"}))
	c.cleanUp(t, func() error { return sys.DisableAuth(path) })
	require.NoError(t, sys.PutPolicy(path, c.mayRead("static-creds/slack", "refresh/slack")))
	c.cleanUp(t, func() error { return sys.DeletePolicy(path) })
	methods, err := sys.ListAuth()
	require.NoError(t, err)
	root := c.vault.root.Logical()
	_, err = root.Write("auth/"+path+"/config", map[string]any{"jwt_validation_pubkeys": issuer.public(t), "jwt_supported_algs": "EdDSA", "bound_issuer": "https://login.example.com"})
	require.NoError(t, err)
	_, err = root.Write("auth/"+path+"/role/agents", map[string]any{
		"role_type": "jwt", "user_claim": "sub", "bound_audiences": "agents", "claim_mappings": map[string]any{"agent": "agent"}, "token_policies": path, "token_ttl": "5m",
	})
	require.NoError(t, err)
	c.write(t, "roles/slack", map[string]any{
		"credential_type": "connect_token", "scope": "connect:proxy", "app": "slack", "token_ttl": "5m",
		"external_user_id": "{{identity.entity.aliases." + methods[path+"/"].Accessor + ".name}}",
	})
	login := func(jwt string) (*api.Client, error) {
		client := c.vault.client("")
		secret, err := client.Logical().Write("auth/"+path+"/login", map[string]any{"role": "agents", "jwt": jwt})
		if err == nil {
			client.SetToken(secret.Auth.ClientToken)
		}
		return client, err
	}
	_, err = login(issuer.session(t, "scheduler", "carol", -time.Hour))
	require.Error(t, err, "a session that has ended")
	_, other, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	_, err = login(signIn{other}.session(t, "scheduler", "carol", time.Minute))
	require.Error(t, err, "a session of another issuer")

	secrets := map[string]*api.Secret{}
	for _, person := range []string{"carol", "dave"} {
		client, err := login(issuer.session(t, "scheduler", person, 5*time.Minute))
		require.NoError(t, err)
		secrets[person], err = client.Logical().ReadWithData(c.in("static-creds/slack"), url.Values{"external_user_id": {"carol"}, "scope": {"connect:accounts:read"}})
		require.NoError(t, err)
		assert.Equal(t, person, secrets[person].Data["pipedream_external_user_id"], "whatever the agent was told to ask for")
		assert.Equal(t, "apn_"+person+"_slack", secrets[person].Data["pipedream_account_id"])
		for _, elsewhere := range []string{"creds/slack", "static-creds/apn_carol_slack", "accounts/apn_carol_slack", "roles/slack", "config"} {
			_, err := client.Logical().Read(c.in(elsewhere))
			refused(t, err, http.StatusForbidden)
		}
	}
	carols, daves := secrets["carol"].Data, secrets["dave"].Data
	assert.Equal(t, http.StatusOK, c.throughProxy(t, carols["connect_token"], "carol", "apn_carol_slack", app.addr))
	for _, attack := range [][2]string{{"carol", "apn_carol_slack"}, {"dave", "apn_carol_slack"}, {"carol", "apn_dave_slack"}} {
		assert.GreaterOrEqual(t, c.throughProxy(t, daves["connect_token"], attack[0], attack[1], app.addr), 400, attack)
	}
	entry := c.audited(t, "static-creds/slack")
	assert.Equal(t, "scheduler", entry.Auth.Metadata["agent"])
	entity, err := root.Read("identity/entity/id/" + entry.Auth.EntityID)
	require.NoError(t, err)
	aliases := asType[[]any](t, entity.Data["aliases"])
	assert.Equal(t, "carol", asType[map[string]any](t, aliases[0])["name"])
}

// throughProxy sends a request to an app through the proxy, and returns the status of the answer.
func (c *connect) throughProxy(t *testing.T, token any, user, account, app string) int {
	t.Helper()
	target := c.apiURL + "/connect/" + projectID + "/proxy/" + base64.URLEncoding.EncodeToString([]byte(app)) + "?" +
		url.Values{"external_user_id": {user}, "account_id": {account}}.Encode()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+asType[string](t, token))
	req.Header.Set("x-pd-environment", production)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}
