package cache

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
)

func TestUserKeysAreUnique(t *testing.T) {
	seen := map[string]User{}
	for _, u := range []User{
		{},
		{App: "github"},
		{ExternalID: "github"},
		{App: "github", ExternalID: "a"},
		{App: "github", ExternalID: "A"},
		{App: "githuba"},
		{App: "github", ExternalID: "a", OAuthApp: "oa_1"},
		{App: "github", ExternalID: `a","oa_1`},
		{App: `github","a`},
		{App: "a", ExternalID: "github"},
		{App: "github", ExternalID: "a/b"},
		{App: "github/a", ExternalID: "b"},
		{App: "github", ExternalID: "é"},
		{App: "github", ExternalID: "e\u0301"},
	} {
		key := u.Key()
		require.Regexp(t, "^[0-9a-f]{64}$", key, "any storage takes it")
		require.NotContains(t, seen, key, "%v and %v", u, seen[key])
		seen[key] = u
		require.Equal(t, key, u.Key())
	}
}

func TestOwns(t *testing.T) {
	const slug, id, custom = "github", "app_1", "oa_1"
	for name, tc := range map[string]struct {
		user User
		app  api.App
		owns bool
	}{
		"the slug is the role's":                         {User{App: slug}, api.App{ID: id, Slug: slug}, true},
		"another slug":                                   {User{App: slug}, api.App{ID: id, Slug: "gitlab"}, false},
		"the slug in another case":                       {User{App: slug}, api.App{ID: id, Slug: "GitHub"}, false},
		"a role by slug, an app without one":             {User{App: slug}, api.App{ID: id}, true},
		"a role by slug, an account on a custom client":  {User{App: slug}, api.App{ID: custom, Slug: slug}, true},
		"another app's account on a custom client":       {User{App: slug}, api.App{ID: custom, Slug: "gitlab"}, false},
		"the role's custom client":                       {User{App: slug, OAuthApp: custom}, api.App{ID: custom, Slug: slug}, true},
		"another custom client":                          {User{App: slug, OAuthApp: custom}, api.App{ID: "oa_2", Slug: slug}, false},
		"a role by custom client, an answer without one": {User{App: slug, OAuthApp: custom}, api.App{ID: id, Slug: slug}, true},
		"an account that says nothing about its app":     {User{App: slug}, api.App{}, false},
		"an account that says only its app's name":       {User{App: slug}, api.App{Name: "GitHub"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			tc.user.ExternalID = "user-1"
			require.Equal(t, tc.owns, tc.user.owns(&api.Account{ExternalID: "user-1", App: tc.app}))
			for _, other := range []string{"", "user-2", "USER-1", "user-1 ", "user-1\x00"} {
				require.False(t, tc.user.owns(&api.Account{ExternalID: other, App: tc.app}), "of %q", other)
			}
		})
	}
	require.False(t, User{App: slug}.owns(&api.Account{App: api.App{Slug: slug}}), "an account without a user belongs to nobody")
}

func TestBetter(t *testing.T) {
	early, late := time.Unix(1000, 0), time.Unix(2000, 0)
	best := []*api.Account{ // the best one first
		{ID: "apn_b", Healthy: true, CreatedAt: late, UpdatedAt: early},
		{ID: "apn_a", Healthy: true, CreatedAt: late, UpdatedAt: late},
		{ID: "apn_z", Healthy: true, CreatedAt: early, UpdatedAt: late},
		{ID: "apn_c", Healthy: true},
		{ID: "apn_d", CreatedAt: late},
		{ID: "apn_e", CreatedAt: early},
	}
	owned := bare(best)
	for i, a := range owned {
		require.True(t, better(a, nil))
		for j, b := range owned {
			if i != j {
				require.Equal(t, i < j, better(a, b), "%s before %s", a.ID, b.ID)
			}
		}
	}
}
