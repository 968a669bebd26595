package acceptance

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestConnectOneRoleForEachUsersOwnAccount shows the main use of Connect: one role, one policy, real logins.
func TestConnectOneRoleForEachUsersOwnAccount(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(connected("apn_alice", "alice"))
	c.sim.SetAccount(connected("apn_bob", "bob"))
	p := c.people(t)
	c.write(t, "roles/github", p.ownAccount())
	alice, bob, carol := p.login(t, "alice"), p.login(t, "bob"), p.login(t, "carol")

	for range 3 {
		alice.reads(t, "apn_alice")
		bob.reads(t, "apn_bob")
	}
	p.login(t, "alice").reads(t, "apn_alice")
	assert.Equal(t, 2, c.sim.Count(pipedreamtest.KindList), "one request for each user")
	assert.Zero(t, c.sim.Count(pipedreamtest.KindAccount))

	carol.isRefused(t, http.StatusBadRequest, `"carol"`, `"github"`, projectID, production, "connect one in Pipedream")

	root := &person{Client: c.vault.root, m: c.mount, name: "root"}
	root.isRefused(t, http.StatusBadRequest, "entity", "log in")
	for _, asked := range c.asked(t) {
		assert.Contains(t, []string{"alice", "bob", "carol"}, asked)
	}
}

// asked returns the external users whose accounts Pipedream was asked for.
func (c *connect) asked(t *testing.T) []string {
	t.Helper()
	var users []string
	for _, request := range c.sim.Requests() {
		if request.Kind == pipedreamtest.KindList {
			query, err := url.ParseQuery(request.RawQuery)
			require.NoError(t, err)
			users = append(users, query.Get("external_user_id"))
		}
	}
	return users
}

// TestConnectTokensOfAnEntity reads with every kind of token that Vault creates for a person or from a person's token.
func TestConnectTokensOfAnEntity(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(connected("apn_alice", "alice"))
	c.sim.SetAccount(connected("apn_bob", "bob"))
	makeTokens := `path "auth/token/create*" { capabilities = ["create", "update", "sudo"] }`
	p := c.people(t, c.rules("github"), makeTokens)
	c.write(t, "roles/github", p.ownAccount())
	alice := p.login(t, "alice")
	alice.reads(t, "apn_alice")

	child, err := alice.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{p.policies}})
	require.NoError(t, err)
	alice.holding(child.Auth.ClientToken).reads(t, "apn_alice")

	orphan, err := alice.Auth().Token().CreateOrphan(&api.TokenCreateRequest{Policies: []string{p.policies}})
	require.NoError(t, err)
	alice.holding(orphan.Auth.ClientToken).isRefused(t, http.StatusBadRequest, "entity")

	batch, err := alice.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{p.policies}, Type: "batch"})
	require.NoError(t, err)
	alice.holding(batch.Auth.ClientToken).reads(t, "apn_alice")

	// This token has an alias named bob of the token method. The role uses another method.
	role := "auth/token/roles/" + slug(t.Name())
	_, err = c.vault.root.Logical().Write(role, map[string]any{"allowed_entity_aliases": "bob", "allowed_policies": p.policies})
	require.NoError(t, err)
	c.cleanUp(t, func() error { _, err := c.vault.root.Logical().Delete(role); return err })
	posed, err := alice.Auth().Token().CreateWithRole(&api.TokenCreateRequest{EntityAlias: "bob", Policies: []string{p.policies}}, slug(t.Name()))
	require.NoError(t, err)
	require.NotEqual(t, alice.entity, posed.Auth.EntityID)
	alice.holding(posed.Auth.ClientToken).isRefused(t, http.StatusBadRequest, "alias")
	c.cleanUp(t, func() error {
		_, err := c.vault.root.Logical().Delete("identity/entity/id/" + posed.Auth.EntityID)
		return err
	})
}

// TestConnectNamesakeOfAnotherLogin logs in as bob through another auth method, which the role does not use.
func TestConnectNamesakeOfAnotherLogin(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(connected("apn_bob", "bob"))
	p := c.people(t)
	c.write(t, "roles/github", p.ownAccount())
	p.login(t, "bob").reads(t, "apn_bob")
	requests := len(c.sim.Requests())

	namesake := c.peopleAt(t, slug(t.Name())+"-2").login(t, "bob")
	namesake.isRefused(t, http.StatusBadRequest, "alias")
	namesake.know(t, map[string]string{"name": "bob"})
	namesake.isRefused(t, http.StatusBadRequest, "alias")
	assert.Len(t, c.sim.Requests(), requests)
}

// TestConnectManyReadersOfTwoUsers has two users read in parallel and checks every answer: first with nothing cached,
// then while an operator keeps emptying the cache.
func TestConnectManyReadersOfTwoUsers(t *testing.T) {
	t.Parallel()
	const readers, rounds = 16, 20 // for each user
	c := onConnect(t, pipedreamtest.WithLimit(0))
	c.write(t, "config", map[string]any{"rate_limit": 0})
	p := c.people(t)
	c.write(t, "roles/github", p.ownAccount())

	// The token, the account and the expiry show whose answer it is.
	type own struct {
		*person
		ids, tokens, ends []string
	}
	users := []*own{{person: p.login(t, "alice")}, {person: p.login(t, "bob")}}
	for i, user := range users {
		for j, environment := range []string{production, development} {
			id := "apn_" + user.name + "_" + environment
			c.sim.SetAccount(connectedWith(id, user.name, func(a *pipedreamtest.Account) {
				a.Environment, a.TokenLife = environment, time.Duration(2*i+j+1)*time.Hour
			}))
			user.ids = append(user.ids, id)
			user.tokens = append(user.tokens, c.sim.Token(id))
			user.ends = append(user.ends, c.sim.ExpiresAt(id).Format(time.RFC3339))
		}
	}

	for _, test := range []struct {
		name    string
		emptied bool
	}{{"nothing cached", false}, {"the cache emptied all the time", true}} {
		t.Run(test.name, func(t *testing.T) {
			var all, operator sync.WaitGroup
			var answers, wrong atomic.Int64
			begin, done := make(chan struct{}), make(chan struct{})
			for i, user := range users {
				other := users[1-i]
				// check checks one answer. Whatever it says about a user must be about this user.
				check := func(secret *api.Secret, err error, withToken bool) {
					if err != nil || secret == nil {
						wrong.Add(1)
						t.Errorf("%s got %v", user.name, err)
						return
					}
					answers.Add(1)
					text := textOf(secret)
					isOthers := func(word string) bool { return strings.Contains(text, word) }
					token, _ := secret.Data["oauth_access_token"].(string)
					id, _ := secret.Data["pipedream_account_id"].(string)
					end, _ := secret.Data["expires_at"].(string)
					if slices.ContainsFunc(slices.Concat(other.ids, other.tokens, other.ends), isOthers) || !slices.Contains(user.ends, end) ||
						withToken && (!slices.Contains(user.tokens, token) || !slices.Contains(user.ids, id)) {
						wrong.Add(1)
						t.Errorf("%s got %s", user.name, text)
					}
				}
				hostile := map[string]any{"name": "bob", "account_id": other.ids[0], "app": "github", "external_user_id": other.name, "entity_id": other.entity}
				for range readers {
					all.Go(func() {
						<-begin
						logical := user.Logical()
						for round := range rounds {
							switch round % 4 {
							case 0:
								secret, err := logical.Read(c.in("creds/github"))
								check(secret, err, true)
							case 1:
								secret, err := logical.Read(c.in("static-creds/github"))
								check(secret, err, true)
							case 2:
								secret, err := logical.Write(c.in("static-creds/github"), hostile)
								check(secret, err, true)
							default:
								secret, err := logical.Write(c.in("refresh/github"), hostile)
								check(secret, err, false)
							}
						}
					})
				}
			}
			changes := 0
			if test.emptied {
				operator.Go(func() {
					for {
						select {
						case <-done:
							return
						default:
						}
						changes++
						_, err := c.vault.root.Logical().Write(c.in("config"), map[string]any{"environment": []string{production, development}[changes%2]})
						assert.NoError(t, err)
					}
				})
			}
			close(begin)
			all.Wait()
			close(done)
			operator.Wait()
			assert.Zero(t, wrong.Load())
			assert.EqualValues(t, len(users)*readers*rounds, answers.Load())
			t.Logf("%d answers, %d requests to Pipedream, %d changes of config", answers.Load(), len(c.sim.Requests()), changes)
		})
	}
}

// awkward are names that a careless engine would mistake for others, often for bob.
func awkward() []string {
	return []string{
		"a b", "a/b", "../bob", "bob/", "/bob", "bob ", " bob", "BOB", "bob\t", "bob\n", "b%6fb", "bob%00", "bob*", "bo_", "*", "bob,alice", "bob;alice",
		"x&external_user_id=bob", "bob&app=slack", "bob#", "?external_user_id=bob", `"bob"`, `bob"`, `["bob"]`, `{"$ne":""}`, "' OR 'a'='a", "null", "0",
		"{{", "}}", "{{bob}}", "{{identity.entity.name}}", "{{identity.entity.metadata.other}}", "$bob", "${bob}",
		"åsa", "a\u030asa", "ｂｏｂ", "bоb", "b\u200bob", "💥", strings.Repeat("x", 250), strings.Repeat("é", 250),
	}
}

// TestConnectAwkwardUsers gives a person names that no login allows, and checks what Pipedream is asked for.
func TestConnectAwkwardUsers(t *testing.T) {
	t.Parallel()
	for _, exist := range []bool{true, false} {
		t.Run(map[bool]string{true: "with an account", false: "without an account"}[exist], func(t *testing.T) {
			t.Parallel()
			c := onConnect(t, pipedreamtest.WithLimit(0))
			c.write(t, "config", map[string]any{"rate_limit": 0})
			names := append(awkward(), "bob")
			slices.Reverse(names) // so that bob is cached before the others
			ids := map[string]string{}
			for i, name := range names {
				id := "apn_" + strings.Repeat("i", i+1)
				if exist || name == "bob" {
					c.sim.SetAccount(connected(id, name))
					ids[name] = id
				}
			}
			somebody := c.people(t).login(t, "somebody")
			c.write(t, "roles/github", map[string]any{"app": "github", "external_user_id": "{{identity.entity.metadata.user}}"})

			for range 2 {
				for _, name := range names {
					somebody.know(t, map[string]string{"user": name, "other": "bob"})
					somebody.name = name
					if id, ok := ids[name]; ok {
						somebody.reads(t, id)
					} else {
						somebody.isRefused(t, http.StatusBadRequest, "connect one in Pipedream")
					}
				}
			}
			// So many users at a time are found in the list of all of them, which names nobody.
			asked := slices.DeleteFunc(c.asked(t), func(name string) bool { return name == "" })
			assert.Subset(t, names, asked, "Pipedream was asked for these users alone")
		})
	}
}

// TestConnectCallersWithoutAUser shows that nothing is looked up for a caller whose template gives no user.
func TestConnectCallersWithoutAUser(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(connected("apn_alice", "alice"))
	somebody := c.people(t).login(t, "somebody")
	for name, test := range map[string]struct {
		metadata map[string]string
		template string
		words    []string
	}{
		"no metadata":           {nil, "{{identity.entity.metadata.user}}", []string{"metadata"}},
		"other metadata":        {map[string]string{"users": "alice"}, "{{identity.entity.metadata.user}}", []string{"metadata"}},
		"empty":                 {map[string]string{"user": ""}, "{{identity.entity.metadata.user}}", []string{"empty"}},
		"251 characters":        {map[string]string{"user": strings.Repeat("x", 251)}, "{{identity.entity.metadata.user}}", []string{"external_user_id", "250"}},
		"251 characters of two": {map[string]string{"user": strings.Repeat("é", 251)}, "{{identity.entity.metadata.user}}", []string{"external_user_id", "250"}},
		"together 251":          {map[string]string{"user": strings.Repeat("x", 250)}, "-{{identity.entity.metadata.user}}", []string{"external_user_id", "250"}},
		"one of two":            {map[string]string{"user": "alice"}, "{{identity.entity.metadata.user}}{{identity.entity.metadata.team}}", []string{"metadata"}},
		"an unknown accessor":   {nil, "{{identity.entity.aliases.auth_userpass_0.name}}", []string{"alias"}},
		"no group":              {nil, "{{identity.groups.names.nobodys.name}}", []string{"group"}},
	} {
		t.Run(name, func(t *testing.T) {
			if test.metadata == nil {
				test.metadata = map[string]string{}
			}
			somebody.know(t, test.metadata)
			c.write(t, "roles/github", map[string]any{"app": "github", "external_user_id": test.template})
			somebody.isRefused(t, http.StatusBadRequest, test.words...)
		})
	}
	assert.Empty(t, c.sim.Requests())
}

// TestConnectTemplates tries everything that a template may contain.
func TestConnectTemplates(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	p := c.people(t)
	alice, bob := p.login(t, "alice"), p.login(t, "bob")
	both := []*person{alice, bob}
	for _, who := range both {
		who.know(t, map[string]string{"team": "blue", "user": who.name + " the user"})
		c.identity(t, "entity-alias/id/"+who.alias(t), map[string]any{"custom_metadata": map[string]string{"handle": "@" + who.name}})
	}
	serial := 0
	for template, user := range map[string]func(*person) string{
		p.name():                            func(who *person) string { return who.name },
		"{{ identity.entity.id }}":          func(who *person) string { return who.entity },
		"{{identity.entity.metadata.user}}": func(who *person) string { return who.name + " the user" },
		"org:{{identity.entity.metadata.team}}/" + p.name():                     func(who *person) string { return "org:blue/" + who.name },
		"{{identity.entity.aliases." + p.accessor + ".id}}":                     func(who *person) string { return who.alias(t) },
		"{{identity.entity.aliases." + p.accessor + ".custom_metadata.handle}}": func(who *person) string { return "@" + who.name },
	} {
		t.Run(template, func(t *testing.T) {
			c.write(t, "roles/github", map[string]any{"app": "github", "external_user_id": template})
			for _, who := range both {
				serial++
				id := fmt.Sprint("apn_", serial)
				c.sim.SetAccount(connected(id, user(who)))
				who.reads(t, id)
			}
		})
	}
}

// TestConnectGroups gives the account of a group to its members and to no one else.
func TestConnectGroups(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	p := c.people(t)
	member, distant, outsider := p.login(t, "member"), p.login(t, "distant"), p.login(t, "outsider")
	name := slug(t.Name())
	inner := c.group(t, map[string]any{"name": name + "-inner", "member_entity_ids": []string{distant.entity}})
	group := c.group(t, map[string]any{
		"name": name, "member_entity_ids": []string{member.entity}, "member_group_ids": []string{inner}, "metadata": map[string]string{"user": "the team"},
	})
	c.group(t, map[string]any{"name": name + "-other", "member_entity_ids": []string{outsider.entity}, "metadata": map[string]string{"user": "the team"}})
	c.sim.SetAccount(connected("apn_team", "the team"))
	c.sim.SetAccount(connected("apn_named", name))

	for _, test := range []struct{ template, id string }{
		{"{{identity.groups.names." + name + ".metadata.user}}", "apn_team"},
		{"{{identity.groups.ids." + group + ".metadata.user}}", "apn_team"},
		{"{{identity.groups.ids." + group + ".name}}", "apn_named"},
	} {
		c.write(t, "roles/github", map[string]any{"app": "github", "external_user_id": test.template})
		member.reads(t, test.id)
		distant.reads(t, test.id)
		outsider.isRefused(t, http.StatusBadRequest, "group")
	}

	// Someone who leaves the group loses access.
	c.identity(t, "group/id/"+group, map[string]any{"name": name, "member_entity_ids": []string{}, "member_group_ids": []string{inner}})
	distant.reads(t, "apn_named")
	member.isRefused(t, http.StatusBadRequest, "group")
}

// group adds a group and returns its id.
func (m *mount) group(t *testing.T, fields map[string]any) string {
	t.Helper()
	id := asType[string](t, m.identity(t, "group", fields).Data["id"])
	m.cleanUp(t, func() error {
		_, err := m.vault.root.Logical().Delete("identity/group/id/" + id)
		return err
	})
	return id
}

func TestConnectAliasIsRenamed(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	for _, user := range []string{"alice", "alison", "bob"} {
		c.sim.SetAccount(connected("apn_"+user, user))
	}
	p := c.people(t)
	c.write(t, "roles/github", p.ownAccount())
	alice, bob := p.login(t, "alice"), p.login(t, "bob")
	alice.reads(t, "apn_alice")
	bob.reads(t, "apn_bob")
	alias := alice.alias(t)
	rename := func(name string) {
		t.Helper()
		c.identity(t, "entity-alias/id/"+alias, map[string]any{"name": name, "canonical_id": alice.entity, "mount_accessor": p.accessor})
	}

	rename("alison")
	alice.reads(t, "apn_alison")
	rename("nobody")
	alice.isRefused(t, http.StatusBadRequest, `"nobody"`)
	rename("alice")
	alice.reads(t, "apn_alice")
	bob.reads(t, "apn_bob")
}

func TestConnectAliasIsDeleted(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(connected("apn_alice", "alice"))
	c.sim.SetAccount(connected("apn_bob", "bob"))
	p := c.people(t)
	c.write(t, "roles/github", p.ownAccount())
	alice, bob := p.login(t, "alice"), p.login(t, "bob")
	alice.reads(t, "apn_alice")
	_, err := c.vault.root.Logical().Delete("identity/entity-alias/id/" + alice.alias(t))
	require.NoError(t, err)
	requests := len(c.sim.Requests())
	alice.isRefused(t, http.StatusBadRequest, "alias")
	assert.Len(t, c.sim.Requests(), requests)
	bob.reads(t, "apn_bob")

	again := p.login(t, "alice")
	assert.NotEqual(t, alice.entity, again.entity)
	again.reads(t, "apn_alice")
	alice.isRefused(t, http.StatusBadRequest, "alias")
}

func TestConnectEntityIsDisabledAndDeleted(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(connected("apn_alice", "alice"))
	p := c.people(t)
	c.write(t, "roles/github", p.ownAccount())
	alice := p.login(t, "alice")
	alice.reads(t, "apn_alice")
	c.identity(t, "entity/id/"+alice.entity, map[string]any{"disabled": true})
	alice.isRefused(t, http.StatusForbidden, "permission denied")
	c.identity(t, "entity/id/"+alice.entity, map[string]any{"disabled": false})
	alice.reads(t, "apn_alice")
	_, err := c.vault.root.Logical().Delete("identity/entity/id/" + alice.entity)
	require.NoError(t, err)
	alice.isRefused(t, http.StatusForbidden, "permission denied")
	p.login(t, "alice").reads(t, "apn_alice")
}

// TestConnectEntitiesAreMerged merges two people into one entity. Vault gives it both aliases until an administrator
// deletes one.
func TestConnectEntitiesAreMerged(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(connected("apn_alice", "alice"))
	c.sim.SetAccount(connected("apn_bob", "bob"))
	p := c.people(t)
	c.write(t, "roles/github", p.ownAccount())
	alice, bob := p.login(t, "alice"), p.login(t, "bob")
	alice.reads(t, "apn_alice")
	bob.reads(t, "apn_bob")
	alias := bob.alias(t)
	c.identity(t, "entity/merge", map[string]any{
		"to_entity_id": alice.entity, "from_entity_ids": bob.entity, "conflicting_alias_ids_to_keep": alice.alias(t),
	})
	bob.isRefused(t, http.StatusBadRequest, "log in again")

	_, err := c.vault.root.Logical().Delete("identity/entity-alias/id/" + alias)
	require.NoError(t, err)
	alice.reads(t, "apn_alice")
	bob.isRefused(t, http.StatusBadRequest, "log in again")
	p.login(t, "bob").reads(t, "apn_bob")
	alice.reads(t, "apn_alice")
}

// TestConnectTwoAliasesOfOneMount has an entity with two aliases of one login method, which a merge can create. The
// engine cannot tell who is asking, so it gives out neither account.
func TestConnectTwoAliasesOfOneMount(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(connected("apn_alice", "alice"))
	c.sim.SetAccount(connected("apn_bob", "bob"))
	p := c.people(t)
	c.write(t, "roles/github", p.ownAccount())
	alice, bob := p.login(t, "alice"), p.login(t, "bob")
	alice.reads(t, "apn_alice")
	bob.reads(t, "apn_bob")
	both := asType[string](t, c.identity(t, "entity", map[string]any{"name": slug(t.Name())}).Data["id"])
	c.cleanUp(t, func() error { _, err := c.vault.root.Logical().Delete("identity/entity/id/" + both); return err })
	c.identity(t, "entity/merge", map[string]any{"to_entity_id": both, "from_entity_ids": []string{alice.entity, bob.entity}})

	for _, name := range []string{"alice", "bob"} {
		again := p.login(t, name)
		require.Equal(t, both, again.entity)
		again.isRefused(t, http.StatusBadRequest, "alias")
	}
}

// TestConnectTwoLoginsOfOnePerson has an entity with aliases of two methods. The role uses the first.
func TestConnectTwoLoginsOfOnePerson(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(connected("apn_alice", "alice"))
	c.sim.SetAccount(connected("apn_bob", "bob"))
	p := c.people(t)
	c.write(t, "roles/github", p.ownAccount())
	alice, other := p.login(t, "alice"), c.peopleAt(t, slug(t.Name())+"-2")
	bob := other.login(t, "bob")
	bob.isRefused(t, http.StatusBadRequest, "alias")
	c.identity(t, "entity/merge", map[string]any{"to_entity_id": alice.entity, "from_entity_ids": bob.entity})
	bob.isRefused(t, http.StatusBadRequest, "log in again")
	again := other.login(t, "bob")
	assert.Equal(t, alice.entity, again.entity)
	again.reads(t, "apn_alice")
}

func TestConnectResponseWrappingAndLeases(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(connected("apn_alice", "alice"))
	c.sim.SetAccount(connected("apn_bob", "bob"))
	p := c.people(t)
	role := p.ownAccount()
	maps.Copy(role, map[string]any{"ttl": "10m"})
	c.write(t, "roles/github", role)
	alice, bob := p.login(t, "alice"), p.login(t, "bob")

	wrapping := alice.holding(alice.Token())
	wrapping.SetWrappingLookupFunc(func(string, string) string { return "5m" })
	sent := time.Now()
	wrapped, err := wrapping.Logical().Read(c.in("creds/github"))
	require.NoError(t, err)
	require.NotNil(t, wrapped.WrapInfo)
	assert.Empty(t, wrapped.Data)
	secret, err := c.vault.client("").Logical().Unwrap(wrapped.WrapInfo.Token)
	require.NoError(t, err)
	assert.Equal(t, c.sim.Token("apn_alice"), secret.Data["oauth_access_token"])
	assert.NotEmpty(t, secret.LeaseID)
	lasts(t, 10*time.Minute, sent, secret.LeaseDuration)

	bobs := bob.read(t, "creds/github")
	assert.Len(t, c.leases(t, "github"), 2)
	for _, lease := range []string{secret.LeaseID, bobs.LeaseID} {
		assert.True(t, strings.HasPrefix(lease, c.in("creds/github/")), lease)
		found, err := c.vault.root.Sys().Lookup(lease)
		require.NoError(t, err)
		assert.Equal(t, false, found.Data["renewable"])
		assert.LessOrEqual(t, number(t, found.Data["ttl"]), 600)
		lacks(t, "the lookup", textOf(found), c.sim.Secrets()...)
	}

	// Logging out ends only the leases of that login.
	require.NoError(t, alice.Auth().Token().RevokeSelf(""))
	require.NoError(t, poll(30*time.Second, "the leases of the login that ended to end", func() (bool, error) {
		return len(c.leases(t, "github")) == 1, nil
	}))
	_, err = c.vault.root.Sys().Lookup(bobs.LeaseID)
	require.NoError(t, err)
	c.deleteRole(t, "github")
	require.NoError(t, c.vault.revoke(bobs.LeaseID))
	assert.Empty(t, c.leases(t, "github"))
}

// TestConnectIgnoresAccountsOfOtherUsers has Pipedream ignore the filter. Whatever it returns, no one gets another
// user's account.
func TestConnectIgnoresAccountsOfOtherUsers(t *testing.T) {
	t.Parallel()
	const bobs, alices = `{"id":"apn_bob","external_id":"bob","healthy":true,"app":{"name_slug":"github"},"updated_at":"2099-01-01T00:00:00.000Z",` +
		`"credentials":{"oauth_access_token":"pdtok_that_is_bobs"}}`,
		`{"id":"apn_alice","external_id":"alice","healthy":true,"app":{"name_slug":"github"},"updated_at":"2001-01-01T00:00:00.000Z",` +
			`"credentials":{"oauth_access_token":"pdtok_that_is_alices"}}`
	for name, test := range map[string]struct {
		list  string
		token string // alice's token, or empty
	}{
		"the other's alone":          {list: bobs},
		"another user's account too": {list: bobs + "," + alices, token: "pdtok_that_is_alices"},
		"an account without a user":  {list: strings.Replace(bobs, `"bob"`, `null`, 1)},
		"an account of another app":  {list: strings.Replace(alices, `"github"`, `"slack"`, 1)},
		"a user in another case":     {list: strings.Replace(alices, `"alice"`, `"Alice"`, 1)},
		"a number as the user":       {list: strings.Replace(alices, `"alice"`, `1`, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := onConnect(t)
			p := c.people(t)
			c.write(t, "roles/github", p.ownAccount())
			c.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusOK, Body: `{"page_info":{},"data":[` + test.list + `]}`})
			alice := p.login(t, "alice")
			for _, path := range []string{"creds/github", "static-creds/github"} {
				secret, err := alice.Logical().Read(c.in(path))
				if test.token != "" {
					require.NoError(t, err)
					assert.Equal(t, test.token, secret.Data["oauth_access_token"])
					assert.NotContains(t, textOf(secret), "bob")
					continue
				}
				refused(t, err, http.StatusBadRequest, `"alice"`)
				assert.NotContains(t, err.Error(), "bob")
			}
		})
	}
}

// TestConnectAccountBecomesAnothers gives an account that was alice's to bob. When it is next fetched, alice gets
// nothing from it.
func TestConnectAccountBecomesAnothers(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.write(t, "config", map[string]any{"static_ttl": "2s"})
	keyed := func(user, key string) pipedreamtest.Account {
		return connectedWith("apn_passed_on", user, func(a *pipedreamtest.Account) { a.TokenLife, a.Credentials = 0, map[string]any{"api_key": key} })
	}
	c.sim.SetAccount(keyed("alice", "key_while_it_is_alices"))
	p := c.people(t)
	c.write(t, "roles/github", p.ownAccount())
	alice, bob := p.login(t, "alice"), p.login(t, "bob")
	assert.Equal(t, "key_while_it_is_alices", alice.read(t, "creds/github").Data["api_key"])
	c.sim.SetAccount(keyed("bob", "key_now_that_it_is_bobs"))
	require.NoError(t, poll(30*time.Second, "the account to be missed", func() (bool, error) {
		secret, _ := alice.Logical().Read(c.in("creds/github"))
		if secret != nil {
			assert.Equal(t, "key_while_it_is_alices", secret.Data["api_key"])
		}
		return secret == nil || t.Failed(), nil
	}))
	assert.Equal(t, "key_now_that_it_is_bobs", bob.read(t, "creds/github").Data["api_key"])
	refused(t, alice.errorOf(t, "creds/github"), http.StatusBadRequest, `"alice"`)
}

// TestConnectRefreshFindsTheReconnectedAccount has a user whose token the app refused because the account was
// reconnected. A refresh finds the new account.
func TestConnectRefreshFindsTheReconnectedAccount(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(connected("apn_first", "alice"))
	p := c.people(t)
	c.write(t, "roles/github", p.ownAccount())
	alice := p.login(t, "alice")
	alice.reads(t, "apn_first")
	c.sim.SetAccount(connected("apn_second", "alice"))
	c.sim.DeleteAccount("apn_first")

	// For some seconds after a fetch, a refresh sends no request.
	require.NoError(t, poll(30*time.Second, "the current account", func() (bool, error) {
		_, err := alice.Logical().Write(c.in("refresh/github"), nil)
		require.NoError(t, err)
		return alice.read(t, "creds/github").Data["pipedream_account_id"] == "apn_second", nil
	}))
	alice.reads(t, "apn_second")
}

// TestConnectRefreshOfAnAccountThatBecameAnothers shows that a refresh does not bypass the check of the owner.
func TestConnectRefreshOfAnAccountThatBecameAnothers(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(connected("apn_passed_on", "alice"))
	p := c.people(t)
	c.write(t, "roles/github", p.ownAccount())
	alice := p.login(t, "alice")
	alice.reads(t, "apn_passed_on")
	c.sim.SetAccount(connectedWith("apn_passed_on", "bob", func(a *pipedreamtest.Account) { a.TokenLife = 3 * time.Hour }))

	var secret *api.Secret
	var err error
	require.NoError(t, poll(30*time.Second, "a refresh to go out", func() (bool, error) {
		secret, err = alice.Logical().Write(c.in("refresh/github"), nil)
		return c.sim.Count(pipedreamtest.KindAccount) > 0, nil
	}))
	assert.NotContains(t, textOf(secret), c.sim.ExpiresAt("apn_passed_on").Format(time.RFC3339))
	refused(t, err, http.StatusBadRequest, `"alice"`)
	alice.isRefused(t, http.StatusBadRequest, `"alice"`)
}

// TestConnectManyUsersDueAtOnce makes the accounts of many users due together. The engine may fetch them by pages of
// the list, which hold the accounts of all users.
func TestConnectManyUsersDueAtOnce(t *testing.T) {
	t.Parallel()
	const users, rounds = 40, 4
	c := onConnect(t, pipedreamtest.WithLimit(0))
	c.write(t, "config", map[string]any{"rate_limit": 0, "static_ttl": "2s"})
	for i := range users {
		user := fmt.Sprintf("user-%02d", i)
		c.sim.SetAccount(connectedWith(fmt.Sprintf("apn_%02d", i), user, func(a *pipedreamtest.Account) {
			a.TokenLife, a.Credentials = 0, map[string]any{"api_key": "key_of_" + user}
		}))
		c.write(t, "roles/"+user, map[string]any{"app": "github", "external_user_id": user})
	}
	for range rounds {
		c.sim.ResetRequests()
		var all sync.WaitGroup
		for i := range users {
			all.Go(func() {
				user := fmt.Sprintf("user-%02d", i)
				err := poll(30*time.Second, "somebody's account to be fetched again", func() (bool, error) {
					secret, err := c.vault.root.Logical().Read(c.in("static-creds/" + user))
					if err == nil && (secret.Data["api_key"] != "key_of_"+user || strings.Count(textOf(secret), "key_of_") != 1) {
						t.Errorf("%s got %s", user, textOf(secret))
					}
					return len(c.sim.Requests()) > 0, err
				})
				assert.NoError(t, err)
			})
		}
		all.Wait()
	}
}
