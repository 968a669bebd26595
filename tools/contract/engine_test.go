package contract

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	pipedream "vault-plugin-secrets-pipedream"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// departuresOfTheEngine are requests that the document does not have.
var departuresOfTheEngine = []Departure{
	{"paths of the workspace", "the older REST reference has them", onPath("/v1/accounts")},
	{"the check of a user's API key", "the older REST reference has it", onPath("/v1/users/me")},
}

// engine is a mount of the engine in this process.
type engine struct {
	*testing.T

	backend logical.Backend
	storage logical.Storage
	config  map[string]any
}

func newEngine(t *testing.T, config map[string]any) *engine {
	t.Helper()
	e := &engine{T: t, storage: &logical.InmemStorage{}, config: config}
	system := logical.TestSystemView()
	system.EntityVal = &logical.Entity{ID: "entity", Aliases: []*logical.Alias{{MountAccessor: "auth_test", Name: "alice"}}}
	var err error
	e.backend, err = pipedream.Factory(t.Context(), &logical.BackendConfig{Logger: hclog.NewNullLogger(), System: system, StorageView: e.storage})
	require.NoError(t, err)
	t.Cleanup(func() { e.backend.Cleanup(context.Background()) })
	e.do(logical.UpdateOperation, "config", nil)
	return e
}

// do sends a request as Vault does. To a write of config it adds the connection.
func (e *engine) do(operation logical.Operation, path string, data map[string]any) *logical.Response {
	e.Helper()
	all := map[string]any{}
	maps.Copy(all, data)
	if path == "config" {
		maps.Copy(all, e.config)
	}
	resp, err := e.backend.HandleRequest(e.Context(), &logical.Request{
		Operation: operation, Path: path, Data: all, Storage: e.storage, MountPoint: "pipedream/", EntityID: "entity",
	})
	require.NoError(e, err, path)
	require.False(e, resp != nil && resp.IsError(), "%s: %v", path, resp)
	return resp
}

// use makes the engine send each kind of request that it knows.
func (e *engine) use(link bool) {
	e.Helper()
	e.do(logical.ReadOperation, "creds/apn_github", nil)
	e.do(logical.ReadOperation, "accounts/apn_github", nil)
	e.do(logical.ListOperation, "accounts", nil)
	e.do(logical.UpdateOperation, "refresh/apn_github", nil)
	e.do(logical.UpdateOperation, "roles/mine", map[string]any{
		"app": "github", "external_user_id": "{{identity.entity.aliases.auth_test.name}}", "oauth_app_id": "oa_demo", "allowed_redirect_hosts": "app.example.com",
	})
	if link {
		e.do(logical.ReadOperation, "creds/mine", nil)
		e.do(logical.UpdateOperation, "connect/mine", map[string]any{"new": true, "success_redirect_uri": "https://app.example.com/done"})
	}
	// So many accounts at once are fetched in pages.
	var readers sync.WaitGroup
	for i := range fleet {
		readers.Go(func() { e.do(logical.ReadOperation, fmt.Sprintf("creds/apn_fleet%d", i), nil) })
	}
	readers.Wait()
	if link {
		e.useTokens()
		e.disconnect()
	}
	_, err := e.backend.HandleRequest(e.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: e.storage})
	require.NoError(e, err)
}

// useTokens makes the engine fetch a token of each kind, and replace it.
func (e *engine) useTokens() {
	e.Helper()
	for credentialType, data := range map[string]map[string]any{
		"connect_token": {"external_user_id": "alice", "app": "github", "allowed_origins": "https://app.example.com", "token_ttl": "1h"},
		"access_token":  {},
	} {
		data["credential_type"], data["scope"] = credentialType, "connect:proxy"
		e.do(logical.UpdateOperation, "roles/"+credentialType, data)
		e.do(logical.ReadOperation, "creds/"+credentialType, nil)
		e.do(logical.UpdateOperation, "refresh/"+credentialType, nil)
	}
}

// disconnect makes the engine look at accounts, and remove them in each way that it knows.
func (e *engine) disconnect() {
	e.Helper()
	for _, path := range []string{"connect/mine", "users/carol", "users/" + segmentOfOddUser} {
		e.do(logical.ReadOperation, path, nil)
	}
	for path, account := range map[string]string{
		"connect/mine": "apn_github", "accounts/apn_leaving": "apn_leaving", "users/carol": "apn_carol", "users/" + segmentOfOddUser: "apn_odd",
	} {
		resp := e.do(logical.DeleteOperation, path, nil)
		require.Equal(e, map[string]any{"disconnected": []string{account}}, resp.Data, path)
	}
}

// oddUser is an external user whose id a URL cannot have as it is.
const oddUser = "acme/the user+é?"

// segmentOfOddUser is how that id is written in a path of the engine.
var segmentOfOddUser = "b64:" + base64.RawURLEncoding.EncodeToString([]byte(oddUser))

// fleet is how many accounts are read at the same time.
const fleet = 60

// connected adds accounts like this one.
func connected(sim *pipedreamtest.Server, a pipedreamtest.Account) {
	a.App = pipedreamtest.App{ID: "app_OrZhaO", Slug: "github", Name: "GitHub", AuthType: "oauth"}
	a.TokenLife, a.ID = time.Hour, "apn_github"
	sim.SetAccount(a)
	a.ExternalUserID = ""
	if a.Project != "" {
		a.ExternalUserID = "bob"
	}
	for i := range fleet {
		a.ID = fmt.Sprintf("apn_fleet%d", i)
		sim.SetAccount(a)
	}
	if a.Project != "" {
		for id, user := range map[string]string{"apn_leaving": "dave", "apn_carol": "carol", "apn_odd": oddUser} {
			a.ID, a.ExternalUserID = id, user
			sim.SetAccount(a)
		}
	}
}

// pages counts the requests for pages of the whole list.
func pages(sim *pipedreamtest.Server) (n int) {
	for _, r := range sim.Requests() {
		if r.Kind == pipedreamtest.KindList && r.WithCredentials && !strings.Contains(r.RawQuery, "external_user_id") {
			n++
		}
	}
	return n
}

func TestTheEngineAsksAsDocumented(t *testing.T) {
	document := theDocument(t)
	sim := pipedreamtest.New()
	defer sim.Close()
	sim.SetOAuthClient("client", "secret_of_the_client", time.Hour)
	connected(sim, pipedreamtest.Account{})
	recorder := NewRecorder(document, sim)
	base := listen(t, recorder) + "/v1"
	newEngine(t, map[string]any{"base_url": base, "api_key": "pd_test_key"}).use(false)

	require.Positive(t, pages(sim))

	connected(sim, pipedreamtest.Account{Project: "proj_demo", ExternalUserID: "alice", OAuthAppID: "oa_demo"})
	sim.ResetRequests()
	client := map[string]any{
		"base_url": base, "client_id": "client", "client_secret": "secret_of_the_client", "project_id": "proj_demo",
		"allowed_token_scopes": "connect:proxy", "allow_access_tokens": true,
	}
	newEngine(t, client).use(true)
	require.Positive(t, pages(sim))

	require.Empty(t, Settle(recorder.Findings(Path, Request), departuresOfTheEngine))
	for _, operation := range []string{"createOAuthToken", "createToken", "listAccounts", "retrieveAccount", "deleteAccount", "deleteExternalUser"} {
		require.Contains(t, recorder.Operations(), operation)
	}
	require.Empty(t, sim.Violations())
}
