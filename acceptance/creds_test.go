package acceptance

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestCredsOfAnOAuthAccount(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())

	sent := time.Now()
	first := m.read(t, "creds/"+githubID)
	lasts(t, m.sim.ExpiresAt(githubID).Sub(sent), sent, first.LeaseDuration)
	assert.NotEmpty(t, first.LeaseID)
	assert.False(t, first.Renewable)
	assert.Empty(t, first.Warnings)
	assert.LessOrEqual(t, first.LeaseDuration, 3600)

	expiresAt, err := time.Parse(time.RFC3339, asType[string](t, first.Data["expires_at"]))
	require.NoError(t, err)
	assert.WithinDuration(t, m.sim.ExpiresAt(githubID), expiresAt, time.Second)
	assert.Equal(t, time.UTC, expiresAt.Location())
	assert.Equal(t, m.sim.Token(githubID), first.Data["oauth_access_token"])
	assert.Contains(t, first.Data, "oauth_client_id")
	assert.Contains(t, first.Data, "oauth_uid")
	assert.NotContains(t, first.Data, "oauth_refresh_token")
	assert.Equal(t, githubID, first.Data["pipedream_account_id"])
	assert.Equal(t, "github", first.Data["pipedream_app"])
	assert.Equal(t, "octocat", first.Data["pipedream_account_name"])
	for name, value := range first.Data {
		assert.IsType(t, "", value, name)
	}

	second := m.read(t, "creds/"+githubID)
	assert.Equal(t, first.Data, second.Data)
	assert.NotEqual(t, first.LeaseID, second.LeaseID)
	assert.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount), "requests for two reads")
}

func TestCredsByUpdate(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	for _, path := range []string{"creds/", "static-creds/"} {
		read := m.read(t, path+githubID)
		written := m.write(t, path+githubID, nil)
		require.NotNil(t, written)
		assert.Equal(t, read.LeaseID == "", written.LeaseID == "", path)
		assert.Equal(t, read.Data["oauth_access_token"], written.Data["oauth_access_token"], path)
	}
}

func TestCredsOfAStaticAccount(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.configure(t, map[string]any{"static_ttl": "10m"})
	m.sim.SetAccount(stripe())

	sent := time.Now()
	secret := m.read(t, "creds/"+stripeID)
	lasts(t, 10*time.Minute, sent, secret.LeaseDuration)
	assert.Equal(t, map[string]any{
		"api_key":                stripeKey,
		"pipedream_account_id":   stripeID,
		"pipedream_app":          "stripe",
		"pipedream_account_name": "Acme payments",
	}, secret.Data)
	assert.False(t, secret.Renewable)
	assert.NotEmpty(t, secret.LeaseID)
	assert.Empty(t, secret.Warnings)
}

func TestStaticCredsOfAnOAuthAccount(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())

	sent := time.Now()
	secret := m.read(t, "static-creds/"+githubID)
	end := m.sim.ExpiresAt(githubID)
	lasts(t, end.Sub(sent), sent, number(t, secret.Data["rotation_period"]))
	// The token is due when min_ttl is left, or when Pipedream refreshes it. Both are 5 minutes before the end.
	lasts(t, end.Add(-5*time.Minute).Sub(sent), sent, number(t, secret.Data["ttl"]))
	assert.Empty(t, secret.LeaseID)
	assert.Zero(t, secret.LeaseDuration)
	assert.Equal(t, m.sim.Token(githubID), secret.Data["oauth_access_token"])
	assert.Contains(t, secret.Data, "expires_at")

	fetched, err := time.Parse(time.RFC3339, asType[string](t, secret.Data["last_vault_rotation"]))
	require.NoError(t, err)
	assert.WithinRange(t, fetched, sent.Add(-time.Second), time.Now())
}

func TestStaticCredsOfAStaticAccount(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.configure(t, map[string]any{"static_ttl": "10m"})
	m.sim.SetAccount(stripe())

	sent := time.Now()
	first := m.read(t, "static-creds/"+stripeID)
	lasts(t, 10*time.Minute, sent, number(t, first.Data["ttl"]))
	assert.Equal(t, stripeKey, first.Data["api_key"])
	assert.NotContains(t, first.Data, "expires_at")
	assert.Equal(t, 600, number(t, first.Data["rotation_period"]))

	second := m.read(t, "static-creds/"+stripeID)
	assert.Equal(t, first.Data["last_vault_rotation"], second.Data["last_vault_rotation"])
	assert.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount), "requests for two reads")
}

func TestRefreshTokenIsShownWhereAskedFor(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	assert.NotContains(t, m.read(t, "creds/"+githubID).Data, "oauth_refresh_token")
	m.write(t, "config", map[string]any{"expose_refresh_token": true})
	assert.NotEmpty(t, m.read(t, "creds/"+githubID).Data["oauth_refresh_token"])
}

func TestCredentialFieldsKeepTheirExactText(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	account := stripe()
	account.Credentials = map[string]any{
		"text":    "ünïcode \"quoted\"\nlines",
		"empty":   "",
		"big":     json.Number("1152921504606846976"),
		"decimal": json.Number("1.50"),
		"yes":     true,
		"list":    json.RawMessage(`["a",{"b":1}]`),
		"object":  json.RawMessage(`{"z":1,"a":2}`),
		"nothing": nil,
	}
	m.sim.SetAccount(account)

	data := m.read(t, "creds/"+stripeID).Data
	for name, want := range map[string]string{
		"text":    "ünïcode \"quoted\"\nlines",
		"empty":   "",
		"big":     "1152921504606846976",
		"decimal": "1.50",
		"yes":     "true",
		"list":    `["a",{"b":1}]`,
		"object":  `{"z":1,"a":2}`,
	} {
		assert.Equal(t, want, data[name], name)
	}
	assert.NotContains(t, data, "nothing")
}

// reservedNames are names that Vault or its clients treat specially: one of each kind that is reserved as a whole.
var reservedNames = []string{
	"expires_at", "certificate", "expiration", "secret_id", "secret_id_ttl", "rotation_period", "rotation_schedule",
	"last_vault_rotation", "ttl", "metadata", "data", "error", "renewable", "lease_id", "lease_duration", "request_id",
	"refresh_interval", "_raw", "http_status_code", "http_content_type", "http_raw_body", "pipedream_app",
}

func TestReservedFieldNamesAreRenamed(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	account := stripe()
	for i, name := range reservedNames {
		account.Credentials[name] = fmt.Sprintf("reserved-value-%d", i)
	}
	m.sim.SetAccount(account)

	for _, path := range []string{"creds/", "static-creds/"} {
		data := m.read(t, path+stripeID).Data
		assert.Equal(t, stripeKey, data["api_key"])
		assert.Equal(t, "stripe", data["pipedream_app"], "the engine's own")
		for i, name := range reservedNames {
			assert.Equal(t, fmt.Sprintf("reserved-value-%d", i), data["credential_"+name], name)
		}
	}
	data := m.read(t, "creds/"+stripeID).Data
	assert.Len(t, data, len(reservedNames)+len([]string{"api_key", "pipedream_account_id", "pipedream_app", "pipedream_account_name"}))
}

func TestAReadMayAskForMoreLife(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.configure(t, map[string]any{"min_ttl": "1s"})
	// Pipedream does not say when it refreshes next, so only the requested min_ttl counts.
	m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.TokenLife, a.OmitNextRefresh = time.Minute, true }))
	m.read(t, "creds/"+githubID)
	end := m.sim.ExpiresAt(githubID)
	m.sim.Rotate(githubID)

	m.readWith(t, "creds/"+githubID, map[string][]string{"min_ttl": {"10s"}})
	assert.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount), "more life than that is left")
	// Another fetch right after the first would bring nothing new, so the engine waits for a quarter of the token's life.
	require.NoError(t, poll(readyTimeout, "the current token", func() (bool, error) {
		secret := m.readWith(t, "creds/"+githubID, map[string][]string{"min_ttl": {"10m"}})
		return secret.Data["oauth_access_token"] == m.sim.Token(githubID), nil
	}))
	assert.Less(t, time.Now(), end)
}

// TestDueCredentialsAreFetchedAheadOfTheirReaders waits for the background work that Vault triggers about once a
// minute.
func TestDueCredentialsAreFetchedAheadOfTheirReaders(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.configure(t, map[string]any{"static_ttl": "2s"})
	m.sim.SetAccount(stripe())
	m.sim.SetAccount(github())
	m.read(t, "creds/"+stripeID)
	m.read(t, "creds/"+githubID)

	require.NoError(t, poll(3*time.Minute, "a request without a reader", func() (bool, error) {
		return m.sim.Count(pipedreamtest.KindAccount) > 2, nil
	}))
	requests := m.sim.Requests()
	assert.Equal(t, stripeID, requests[len(requests)-1].AccountID, "the one that was due")
}

func TestResponseWrapping(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())

	client := m.vault.client(m.vault.rootToken)
	client.SetWrappingLookupFunc(func(string, string) string { return "5m" })
	wrapped, err := client.Logical().Read(m.in("creds/" + githubID))
	require.NoError(t, err)
	require.NotNil(t, wrapped.WrapInfo)
	assert.Empty(t, wrapped.Data)

	secret, err := m.vault.client("").Logical().Unwrap(wrapped.WrapInfo.Token)
	require.NoError(t, err)
	assert.Equal(t, m.sim.Token(githubID), secret.Data["oauth_access_token"])
	assert.NotEmpty(t, secret.LeaseID)
	assert.False(t, secret.Renewable)

	_, err = m.vault.client("").Logical().Unwrap(wrapped.WrapInfo.Token)
	require.Error(t, err, "a wrapping token works only once")
}

func TestManyReadersShareOneRequest(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())

	const readers = 50
	secrets := make(chan *api.Secret, readers)
	for range readers {
		go func() {
			secret, err := m.vault.root.Logical().Read(m.in("creds/" + githubID))
			assert.NoError(t, err)
			secrets <- secret
		}()
	}
	for range readers {
		if secret := <-secrets; assert.NotNil(t, secret) {
			assert.Equal(t, m.sim.Token(githubID), secret.Data["oauth_access_token"])
		}
	}
	assert.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))
}

// number returns a JSON number. It fails the test if the value is a string.
func number(t *testing.T, value any) int {
	t.Helper()
	n, err := asType[json.Number](t, value).Int64()
	require.NoError(t, err)
	return int(n)
}
