package pipedream

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestConfigRead(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		resp, err := m.read("config")
		require.NoError(t, err)
		require.Equal(t, map[string]any{
			"client_id": "", "scope": "connect:accounts:read",
			"connect_token_scope": "connect:accounts:write connect:apps:*", "project_id": "", "org_id": "", "environment": "production", "allow_account_ids": true,
			"allowed_token_scopes": []string{"connect:proxy"}, "allow_access_tokens": false,
			"base_url": testBaseURL, "ca_cert": "", "request_timeout": int64(20), "max_retries": 2, "rate_limit": 100,
			"min_ttl": int64(300), "static_ttl": int64(3600), "expose_refresh_token": false, "token_fingerprint": false,
		}, resp.Data)
	})
}

func TestNotConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		resp, err := m.read("config")
		require.NoError(t, err)
		require.Nil(t, resp)
		for _, path := range []string{"creds/" + github, "static-creds/" + github, "accounts/" + github} {
			_, err := m.read(path)
			m.refused(err, http.StatusBadRequest, "vault write pipedream/config api_key=-")
		}
		_, err = m.write("refresh/"+github, nil)
		m.refused(err, http.StatusBadRequest, "vault write pipedream/config api_key=-")
		_, err = m.handle(logical.ListOperation, "accounts/", nil)
		m.refused(err, http.StatusBadRequest, "vault write pipedream/config api_key=-")
		_, err = m.write("config", map[string]any{"min_ttl": "10m"})
		m.refused(err, http.StatusBadRequest, "api_key")
		_, err = m.handle(logical.DeleteOperation, "config", nil)
		require.NoError(t, err)
	})
}

func TestAConfigWriteKeepsOtherFields(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		_, err := m.write("config", map[string]any{"min_ttl": "1m", "static_ttl": 600})
		require.NoError(t, err)
		resp, err := m.read("config")
		require.NoError(t, err)
		require.Equal(t, int64(60), resp.Data["min_ttl"])
		require.Equal(t, int64(600), resp.Data["static_ttl"])
		require.Equal(t, testBaseURL, resp.Data["base_url"])
		require.Empty(t, m.sim.Requests(), "a write that is not about the connection needs no Pipedream")
		m.creds(github)
	})
}

func TestARefusedConfigWriteChangesNothing(t *testing.T) {
	tests := map[string]struct {
		data map[string]any
		text string
	}{
		"wrong key":             {map[string]any{"api_key": "pd_wrong_key"}, "nothing was changed"},
		"empty key":             {map[string]any{"api_key": ""}, "give api_key"},
		"blank key":             {map[string]any{"api_key": " \n"}, "give api_key"},
		"key with a break":      {map[string]any{"api_key": "pd_a\npd_b"}, "api_key"},
		"key of bytes":          {map[string]any{"api_key": "pd_\x00"}, "api_key"},
		"key too long":          {map[string]any{"api_key": strings.Repeat("k", 5000)}, "api_key"},
		"key is a number":       {map[string]any{"api_key": 12345678}, "api_key must be a string"},
		"key is a map":          {map[string]any{"api_key": map[string]any{"key": "pd_leaked"}}, "api_key must be a string"},
		"key is null":           {map[string]any{"api_key": nil}, "api_key must be a string"},
		"another host":          {map[string]any{"base_url": "https://evil.example/v1"}, "requires api_key"},
		"another path":          {map[string]any{"base_url": "http://127.0.0.1/v2"}, "requires api_key"},
		"http to a network":     {map[string]any{"api_key": testKey, "base_url": "http://api.pipedream.com/v1"}, "https"},
		"http to look like":     {map[string]any{"api_key": testKey, "base_url": "http://localhost.evil.example"}, "https"},
		"http to private":       {map[string]any{"api_key": testKey, "base_url": "http://10.0.0.1/v1"}, "https"},
		"no scheme":             {map[string]any{"api_key": testKey, "base_url": "api.pipedream.com/v1"}, "base_url"},
		"odd scheme":            {map[string]any{"api_key": testKey, "base_url": "file:///etc/passwd"}, "base_url"},
		"opaque":                {map[string]any{"api_key": testKey, "base_url": "https:api.pipedream.com"}, "base_url"},
		"password in it":        {map[string]any{"api_key": testKey, "base_url": "https://me:hunter2@api.pipedream.com"}, "user name or password"},
		"fragment":              {map[string]any{"api_key": testKey, "base_url": "https://api.pipedream.com/v1#a"}, "fragment"},
		"query":                 {map[string]any{"api_key": testKey, "base_url": "https://api.pipedream.com/v1?a=b"}, "query"},
		"empty URL":             {map[string]any{"api_key": testKey, "base_url": ""}, "base_url"},
		"host of no text":       {map[string]any{"api_key": testKey, "base_url": "https://%ff.example/v1"}, "base_url must name a host in characters"},
		"host with a control":   {map[string]any{"api_key": testKey, "base_url": "https://%C2%9B31m.example/v1"}, "base_url must name a host in characters"},
		"host written backward": {map[string]any{"api_key": testKey, "base_url": "https://\u202eexample.com/v1"}, "base_url must name a host in characters"},
		"control in URL":        {map[string]any{"api_key": testKey, "base_url": "https://a\nb"}, "base_url"},
		"key in quotes":         {map[string]any{"api_key": `"` + testKey + `"`}, "api_key is in quotes"},
		"key and project":       {map[string]any{"project_id": testProject}, "project_id needs client_id"},
		"no such API":           {map[string]any{"api_key": testKey, "base_url": "http://127.0.0.1"}, "there is no Pipedream API at base_url"},
		"no limit given":        {map[string]any{"rate_limit": ""}, "rate_limit is empty"},
		"limit is null":         {map[string]any{"rate_limit": nil}, "rate_limit is empty"},
		"half a request":        {map[string]any{"rate_limit": 0.5}, "rate_limit must be a whole number"},
		"verify is empty":       {map[string]any{"api_key": "pd_wrong_key", "verify": ""}, "verify is empty"},
		"verify is null":        {map[string]any{"api_key": "pd_wrong_key", "verify": nil}, "verify is empty"},
		"time is empty":         {map[string]any{"min_ttl": ""}, "min_ttl is empty"},
		"part of a second":      {map[string]any{"min_ttl": "500ms"}, "min_ttl must be in whole seconds"},
		"a second and a half":   {map[string]any{"static_ttl": 1.5}, "static_ttl must be in whole seconds"},
		"misspelt":              {map[string]any{"api_key": "", "apikey": testKey}, "no fields named [apikey]"},
		"not a certificate":     {map[string]any{"ca_cert": "-----BEGIN NOTHING-----"}, "ca_cert"},
		"key and client":        {map[string]any{"api_key": testKey, "client_id": "c", "client_secret": "pd_leaked"}, "not both"},
		"client without secret": {map[string]any{"client_id": "client"}, "client_secret"},
		"secret without client": {map[string]any{"client_secret": "pd_leaked"}, "client_id"},
		"empty client":          {map[string]any{"client_id": "", "client_secret": ""}, "client_id and client_secret"},
		"secret is a list":      {map[string]any{"client_id": "c", "client_secret": []any{"pd_leaked"}}, "client_secret must be a string"},
		"client, no such API":   {map[string]any{"client_id": "c", "client_secret": "pd_leaked", "base_url": "http://127.0.0.1"}, "and that base_url ends in /v1"},
		"wrong client":          {map[string]any{"client_id": "c", "client_secret": "pd_leaked"}, "refused client_id and client_secret"},
		"another environment":   {map[string]any{"environment": "staging"}, "environment"},
		"not a project":         {map[string]any{"project_id": "../users"}, "project_id"},
		"scope with a break":    {map[string]any{"scope": "a\nb"}, "scope"},
		"no time":               {map[string]any{"request_timeout": 0}, "request_timeout"},
		"too much time":         {map[string]any{"request_timeout": "60s"}, "request_timeout"},
		"time is a word":        {map[string]any{"request_timeout": "soon"}, "request_timeout"},
		"retries below 0":       {map[string]any{"max_retries": -1}, "max_retries"},
		"retries without end":   {map[string]any{"max_retries": 11}, "max_retries"},
		"negative limit":        {map[string]any{"rate_limit": -2}, "rate_limit"},
		"negative min_ttl":      {map[string]any{"min_ttl": "-1s"}, "min_ttl"},
		"static_ttl of nothing": {map[string]any{"static_ttl": 0}, "static_ttl"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				m.offTheMap = strings.HasSuffix(name, "no such API")
				before, err := m.read("config")
				require.NoError(t, err)
				_, err = m.write("config", test.data)
				require.ErrorContains(t, err, test.text)
				for _, leak := range []string{"pd_wrong_key", "pd_leaked", "hunter2", "12345678", testKey} {
					require.NotContains(t, err.Error(), leak)
				}
				after, err := m.read("config")
				require.NoError(t, err)
				require.Equal(t, before.Data, after.Data)
				m.creds(github)
			})
		})
	}
}

// Vault checks whether config exists before a write, and logs the error of that check.
func TestTheExistenceCheckShowsNoSecret(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		for _, field := range []string{"api_key", "client_secret"} {
			_, _, err := m.b.HandleExistenceCheck(t.Context(), &logical.Request{
				Operation: logical.UpdateOperation, Path: "config", Storage: m.storage,
				Data: map[string]any{field: map[string]any{"key": "pd_leaked"}},
			})
			require.ErrorContains(t, err, field+" must be a string")
			require.NotContains(t, err.Error(), "pd_leaked")
		}
	})
}

func TestConfigAcceptsAKeyWithALineBreakAtItsEnd(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		_, err := m.write("config", map[string]any{"api_key": testKey + "\n"})
		require.NoError(t, err)
		m.creds(github)
	})
}

// A misspelt setting must not look as if it was set.
func TestUnknownFieldsCauseAWarning(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		resp, err := m.write("config", map[string]any{"expose_refresh_tokn": false, "min_ttl": "1m"})
		require.NoError(t, err)
		require.Equal(t, []string{"Endpoint ignored these unrecognized parameters: [expose_refresh_tokn]"}, resp.Warnings)
		resp, err = m.write("config", map[string]any{"min_ttl": "1m"})
		require.NoError(t, err)
		require.Nil(t, resp)
	})
}

func TestConfigVerify(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusBadGateway})
		_, err := m.write("config", map[string]any{"api_key": testKey})
		m.refused(err, http.StatusBadGateway, "502", "verify=false", "nothing was changed")
		_, err = m.write("config", map[string]any{"api_key": testKey, "verify": false})
		require.NoError(t, err)
	})
}

func TestANewConnectionEmptiesTheCache(t *testing.T) {
	changes := map[string]func(*mount){
		"key":      func(m *mount) { m.sim.SetAPIKey("pd_new_key"); m.configure(map[string]any{"api_key": "pd_new_key"}) },
		"base_url": func(m *mount) { m.configure(map[string]any{"base_url": "http://[::1]/v1"}) },
		"delete": func(m *mount) {
			_, err := m.handle(logical.DeleteOperation, "config", nil)
			require.NoError(m, err)
			m.configure(nil)
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				m.creds(github)
				change(m)
				synctest.Wait() // until the old cache is deleted
				keys, err := m.cachedKeys()
				require.NoError(t, err)
				require.Empty(t, keys)
				m.creds(github)
				require.Equal(t, 2, m.sim.Count(pipedreamtest.KindAccount))
			})
		})
	}
	t.Run("the same key again does not", func(t *testing.T) {
		bubble(t, func(t *testing.T, m *mount) {
			m.creds(github)
			m.configure(nil)
			m.creds(github)
			require.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))
		})
	})
}

func TestStorageFaultsOfConfig(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.storage.fail(nil, logical.ErrReadOnly, logical.ErrReadOnly, nil)
		_, err := m.write("config", map[string]any{"min_ttl": "1m"})
		require.Equal(t, logical.ErrReadOnly, err, "handed up unwrapped, so that Vault forwards the request")
		_, err = m.handle(logical.DeleteOperation, "config", nil)
		require.Equal(t, logical.ErrReadOnly, err)
		m.creds(github)

		m.start()
		m.storage.fail(errStorage, nil, nil, nil)
		_, err = m.read("creds/" + github)
		require.ErrorIs(t, err, errStorage)
		m.storage.fail(nil, nil, nil, nil)
		m.creds(github)

		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: "config", Value: []byte(`{"api_key": "pd_lost`)}))
		m.start()
		_, err = m.read("creds/" + github)
		m.refused(err, http.StatusInternalServerError, "write it again")
		require.NotContains(t, err.Error(), "pd_lost")
		resp, err := m.read("status")
		require.NoError(t, err)
		require.Contains(t, resp.Data["last_error"], "write it again")
		m.configure(nil)
		m.creds(github)
	})
}

// The key is sent over TLS only to a host whose certificate is trusted.
func TestTLS(t *testing.T) {
	sim := pipedreamtest.New()
	t.Cleanup(sim.Close)
	sim.SetAccount(oauthAccount(github, time.Hour))
	server := httptest.NewUnstartedServer(sim)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // the refused handshake is what is tested
	server.StartTLS()
	t.Cleanup(server.Close)

	m := newMount(t)
	m.b.transport = nil
	connection := map[string]any{"api_key": testKey, "base_url": server.URL + "/v1", "max_retries": 0}
	_, err := m.write("config", connection)
	m.refused(err, http.StatusBadGateway, "certificate", "ca_cert")
	require.Empty(t, sim.Requests())

	connection["ca_cert"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	_, err = m.write("config", connection)
	require.NoError(t, err)
	require.Equal(t, sim.Token(github), m.token(github))
}

func TestPlainHTTPWhereTLSIsExpected(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	m := newMount(t)
	m.b.transport = nil
	_, err := m.write("config", map[string]any{
		"api_key": testKey, "base_url": strings.Replace(server.URL, "http:", "https:", 1), "max_retries": 0,
	})
	m.refused(err, http.StatusBadGateway, "does not speak TLS")
}

func TestConnectionRefused(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close() // its port is free again
	m := newMount(t)
	m.b.transport = nil
	_, err := m.write("config", map[string]any{"api_key": testKey, "base_url": server.URL, "max_retries": 0})
	m.refused(err, http.StatusBadGateway, "refused")
}

// The check of config decodes what it gets. What is no answer of Pipedream's refuses
// the write, and the configuration in use goes on.
func TestConfigOfSomethingElseThanPipedream(t *testing.T) {
	for name, fault := range map[string]pipedreamtest.Fault{
		"HTML":             {Garbage: true},
		"an empty object":  {Status: http.StatusOK, Body: `{}`},
		"a message":        {Status: http.StatusOK, Body: `{"message":"hello"}`},
		"an error":         {Status: http.StatusOK, Body: `{"error":"so"}`},
		"nothing":          {Empty: true},
		"a gateway":        {Status: http.StatusNotFound, Body: `{"message":"no Route matched with those values"}`},
		"a gateway's 401":  {Status: http.StatusUnauthorized, Body: `{"message":"Unauthorized"}`},
		"record not found": {Status: http.StatusOK, Body: `{"error":"record not found"}`},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				m.creds(github)
				m.sim.ResetRequests()
				m.sim.AddFault(fault)
				_, err := m.write("config", map[string]any{"api_key": "pd_new_key", "base_url": "http://[::1]/v1"})
				require.ErrorContains(t, err, "nothing was changed")
				require.ErrorContains(t, err, "base_url")
				m.creds(github)
				require.Len(t, m.sim.Requests(), 1)
			})
			connectBubble(t, func(t *testing.T, m *mount) {
				m.creds("apn_alice")
				m.sim.ResetRequests()
				fault.Kind = pipedreamtest.KindList
				m.sim.AddFault(fault)
				_, err := m.write("config", map[string]any{"project_id": "proj_other"})
				require.ErrorContains(t, err, "nothing was changed")
				require.ErrorContains(t, err, "project")
				m.creds("apn_alice")
				require.Zero(t, m.sim.Count(pipedreamtest.KindAccount), "the cache was not emptied")
			})
		})
	}
}

func TestConfigOfAnEmptyProjectIsStoredWithAWarning(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		for environment, warnings := range map[string]int{"development": 1, "production": 0} {
			resp, err := m.write("config", map[string]any{"environment": environment})
			require.NoError(t, err)
			if warnings == 0 {
				require.Nil(t, resp)
				continue
			}
			require.Equal(t, []string{fmt.Sprintf("there are no accounts yet in project %s, environment development: "+
				"if that is a surprise, check project_id, environment and org_id", testProject)}, resp.Warnings)
		}
		require.Len(t, m.sim.Requests(), 4, "a token and a list for each")
	})
}

func TestDurationsThatDoNotFit(t *testing.T) {
	for _, seconds := range []string{"9223372037", "18446744075", "99999999999999", "9223372036854775807", "300000000h"} {
		for _, field := range []string{"min_ttl", "static_ttl", "request_timeout"} {
			t.Run(fmt.Sprintf("%s=%s", field, seconds), func(t *testing.T) {
				bubble(t, func(t *testing.T, m *mount) {
					if _, err := m.write("config", map[string]any{field: seconds}); err != nil {
						require.ErrorContains(t, err, field)
						return
					}
					resp, err := m.read("config")
					require.NoError(t, err)
					require.Equal(t, seconds, fmt.Sprint(resp.Data[field]), "the stored time is the one that was written")
				})
			})
		}
	}
}

// rate_limit is what Pipedream allows for the kind of connection, unless it is set.
func TestRateLimitByKindOfConnection(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		requireLimit := func(limit int) {
			t.Helper()
			for _, path := range []string{"config", "status"} {
				resp, err := m.read(path)
				require.NoError(t, err)
				require.Equal(t, limit, resp.Data["rate_limit"], path)
			}
		}
		m.creds("apn_alice")
		requireLimit(400)
		m.configureClient(map[string]any{"project_id": testProject, "rate_limit": 50})
		m.creds("apn_alice")
		requireLimit(50)
		m.configureClient(map[string]any{"project_id": testProject, "rate_limit": -1})
		m.creds("apn_alice")
		requireLimit(400)
	})
	bubble(t, func(t *testing.T, m *mount) {
		resp, err := m.read("config")
		require.NoError(t, err)
		require.Equal(t, 100, resp.Data["rate_limit"])
	})
}

func TestLargestRateLimit(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		_, err := m.write("config", map[string]any{"rate_limit": 1_000_000})
		require.NoError(t, err)
		m.creds(github)
		for _, limit := range []int{1_000_001, 1 << 62} {
			_, err := m.write("config", map[string]any{"rate_limit": limit})
			m.refused(err, http.StatusBadRequest, "rate_limit must be at most 1000000")
		}
	})
}
