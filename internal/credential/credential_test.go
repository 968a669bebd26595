package credential

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
)

func TestAnAccountWithoutAUsableCredential(t *testing.T) {
	token := map[string]json.RawMessage{"token": json.RawMessage(`"t"`)}
	for name, tc := range map[string]struct {
		account api.Account
		keep    bool
		kind    api.Kind
		detail  string
	}{
		"dead":                            {account: api.Account{Dead: true, Credentials: token}, kind: api.Dead},
		"dead, and the reason is OAuth's": {account: api.Account{Dead: true, Error: "the app said invalid_grant: secret"}, kind: api.Dead, detail: "invalid_grant"},
		"dead, and the reason is its own": {account: api.Account{Dead: true, Error: "ask bob@example.com"}, kind: api.Dead},
		"without credentials":             {account: api.Account{}, kind: api.NoCredentials},
		"with nothing but null":           {account: api.Account{Credentials: map[string]json.RawMessage{"token": json.RawMessage("null")}}, kind: api.NoCredentials},
		"with a refresh token alone": {
			account: api.Account{Credentials: map[string]json.RawMessage{"refresh_token": json.RawMessage(`"r"`)}},
			kind:    api.NoCredentials, detail: onlyRefreshToken,
		},
	} {
		t.Run(name, func(t *testing.T) {
			tc.account.ID = "apn_github"
			c, err := New(&tc.account, fetched, tc.keep)
			require.Nil(t, c)
			var e *api.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, api.Error{Kind: tc.kind, Account: "apn_github", Detail: tc.detail}, *e)
		})
	}
}

func TestAnAccountBecomesACredential(t *testing.T) {
	ends, next := fetched.Add(time.Hour), fetched.Add(50*time.Minute)
	a := &api.Account{
		ID: "apn_github", Name: "Octo Cat", ExternalID: "user-1", App: api.App{ID: "app_1", Slug: "github", Name: "GitHub"},
		ExpiresAt: ends, NextRefreshAt: next, Credentials: map[string]json.RawMessage{"token": json.RawMessage(`"t"`)},
	}
	c, err := New(a, fetched, false)
	require.NoError(t, err)
	require.Equal(t, &Credential{
		AccountID: "apn_github", AccountName: "Octo Cat", App: "github", ExternalUser: "user-1", Fields: map[string]string{"token": "t"},
		Unhealthy: true, ExpiresAt: ends, NextRefreshAt: next, FetchedAt: fetched, CheckedAt: fetched,
	}, c)
	a.App.Slug, a.Healthy = "", true
	c, err = New(a, fetched, false)
	require.NoError(t, err)
	require.Equal(t, "GitHub", c.App)
	require.False(t, c.Unhealthy)
}

func TestFollowing(t *testing.T) {
	later := fetched.Add(20 * time.Minute)
	again := func(c *Credential) *Credential { // as a later fetch brings it
		next := *c
		next.FetchedAt, next.CheckedAt = later, later
		return &next
	}
	token, key := credentialOf(time.Hour, never), credentialOf(never, never)
	token.ExternalUser, key.ExternalUser = "user-1", "user-1"

	t.Run("nothing was known", func(t *testing.T) {
		merged, store := token.Following(nil)
		require.Same(t, token, merged)
		require.True(t, store)
	})
	t.Run("the same token is stored once in its life", func(t *testing.T) {
		merged, store := again(token).Following(token)
		require.False(t, store)
		require.Equal(t, fetched, merged.FetchedAt)
		require.Equal(t, later, merged.CheckedAt)
	})
	t.Run("a key that never expires is stored each time", func(t *testing.T) {
		merged, store := again(key).Following(key)
		require.True(t, store)
		require.Equal(t, fetched, merged.FetchedAt)
		require.Equal(t, later, merged.CheckedAt)
	})
	t.Run("another secret is another token", func(t *testing.T) {
		other := again(token)
		other.Fields = map[string]string{"token": "u"}
		merged, store := other.Following(token)
		require.Same(t, other, merged)
		require.True(t, store)
	})
	t.Run("so is another end", func(t *testing.T) {
		other := again(token)
		other.ExpiresAt = other.ExpiresAt.Add(time.Second)
		merged, store := other.Following(token)
		require.Equal(t, later, merged.FetchedAt)
		require.True(t, store)
	})
	t.Run("the end in another zone is the same", func(t *testing.T) {
		other := again(token)
		other.ExpiresAt = other.ExpiresAt.In(time.FixedZone("", 3600))
		_, store := other.Following(token)
		require.False(t, store)
	})
	t.Run("an answer that does not say whose it is", func(t *testing.T) {
		other := again(token)
		other.ExternalUser = ""
		merged, store := other.Following(token)
		require.Equal(t, "user-1", merged.ExternalUser)
		require.False(t, store)
		require.Empty(t, other.ExternalUser, "a credential is never changed")
	})
	t.Run("with another token it may be another user's", func(t *testing.T) {
		other := again(token)
		other.ExternalUser, other.Fields = "", map[string]string{"token": "u"}
		merged, _ := other.Following(token)
		require.Empty(t, merged.ExternalUser)
	})
	t.Run("an account that changed hands is stored", func(t *testing.T) {
		other := again(token)
		other.ExternalUser = "user-2"
		merged, store := other.Following(token)
		require.Equal(t, "user-2", merged.ExternalUser)
		require.True(t, store)
	})
}

func TestACredentialSurvivesStorage(t *testing.T) {
	c := made(t, `{"token":"<é>\u0000","n":1152921504606846977}`, false)
	c.ExpiresAt, c.NextRefreshAt, c.ExternalUser = fetched.Add(time.Hour), fetched.Add(time.Minute), "user-1"
	raw, err := json.Marshal(c)
	require.NoError(t, err)
	var stored Credential
	require.NoError(t, json.Unmarshal(raw, &stored))
	require.Equal(t, c, &stored)
	_, store := c.Following(&stored)
	require.False(t, store)
}

func TestSizeGrowsWithTheFields(t *testing.T) {
	small, large := made(t, `{"token":"t"}`, false), made(t, `{"token":"t","another":"0123456789"}`, false)
	require.Positive(t, small.Size())
	require.GreaterOrEqual(t, large.Size(), small.Size()+len("another")+10)
}
