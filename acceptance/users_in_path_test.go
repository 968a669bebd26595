package acceptance

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// written is the one form in which docs/api.md has an external user id be written in a path.
func written(id string) string {
	plain := regexp.MustCompile(`^[A-Za-z0-9@:_.~+-]+$`).MatchString(id) && !strings.Contains(id, "..")
	if plain && id != "." && id != "+" && !strings.HasPrefix(id, "b64:") {
		return id
	}
	return "b64:" + base64.RawURLEncoding.EncodeToString([]byte(id))
}

// customers are the external users of TestUsersInPathOnARealVault, each with an account. Some differ only in case, in
// the form of a letter, in spaces, or in what a client or a server makes of them.
var customers = []string{
	"acme:1", "acme:2", "acme:10", "other:1", "ACME:1", "acme:1 ", " acme:1", "acme:é", "acme:e\u0301", "acme:a/b", "b64:acme:1",
	"acme:1/../acme:2", "acme:1//acme:2", "acme:1%2F", "acme:", "alice", "acme:a b", "acme:a+b", "acme:a%20b", "acme:" + strings.Repeat("x", 245),
	"acme:" + strings.Repeat("é", 245),
}

// chosenIDs are ids that a customer might choose to reach the account of another.
func chosenIDs() (ids []string) {
	ids = append(ids, customers...)
	ids = append(ids, "*", "+", ".", "..", "acme:"+strings.Repeat("x", 246), strings.Repeat("é", 250), "acme:"+strings.Repeat("é", 246))
	for _, id := range []string{"acme:2", "other:1"} {
		ids = append(ids, written(id+"\x00"), "b64:"+base64.RawURLEncoding.EncodeToString([]byte(id)), base64.StdEncoding.EncodeToString([]byte(id)),
			"b64:"+base64.URLEncoding.EncodeToString([]byte(id)), strings.ToUpper(id), id+" ", " "+id, id+"\t", id+"\x00", id+"\n", id+"/", "/"+id, "//"+id, "./"+id,
			id+"/.", "../"+id, "acme:1/../"+id, "acme:1/./../"+id, "acme:1//"+id, "acme:1/"+id, id+"/../acme:1", "../../crm/"+id, "../../../creds/all/"+id,
			"acme:1%2F..%2F"+id, "%2e%2e/"+id, "%2F"+id, "acme:1%252F..%252F"+id, "acme:1%5C..%5C"+id, `acme:1\..\`+id, id+"%00", id+"%20", id+"?x", id+"?list=true", id+"#x",
			id+";x", id+"*", "acme:1,"+id, id+"&external_user_id=other:1", id+"\u200b", "\ufeff"+id, strings.ReplaceAll(id, ":", "："), strings.ReplaceAll(id, ":", "%3A"),
			strings.ReplaceAll(id, "e", "е"), id+"+", "+"+id, "{{identity.entity.name}}", `"`+id+`"`, "acme:1\n"+id)
	}
	return ids
}

// forms are the ways in which a program might put an id into a URL.
func forms(id string) []string {
	var everyByte strings.Builder
	for i := range len(id) {
		fmt.Fprintf(&everyByte, "%%%02x", id[i])
	}
	all := []string{written(id), url.PathEscape(id), everyByte.String()}
	if !regexp.MustCompile(`[\x00-\x20\x7f]`).MatchString(id) { // else it is no URL
		all = append(all, id)
	}
	return all
}

// asBackend returns a client with a policy of these rules for paths of the mount.
func (m *mount) asBackend(t *testing.T, name, rules string) *person {
	t.Helper()
	return &person{Client: m.vault.login(t, slug(t.Name())+"-"+name, strings.ReplaceAll(rules, "MOUNT", m.path)), m: m, name: name}
}

// passed are ids as a program passes them that knows no written form: one for each way to reach another customer. No
// policy of customers acme: allows other:1, alice or ACME:1.
func passed() []string {
	return []string{
		"acme:1%2F..%2Fother:1", "acme:1%2Fother:1", "%2Fother:1", "acme:1/../other:1", "../all/other:1", "acme:1/../../all/other:1", "..", "acme:1//../other:1",
		"//other:1", "acme:1//other:1", "+", "+other:1", "acme:1+other:1", "b64:" + base64.RawURLEncoding.EncodeToString([]byte("other:1")),
		"b64:" + base64.RawURLEncoding.EncodeToString([]byte("acme:2")), "acme:2", "acme:a+b", "other:1 ", " other:1", "acme:1 other:1", "acme:1%20", "ACME:1", "Acme:1", "acme:é",
		"acme:e\u0301", "acme:" + strings.Repeat("x", 245), "acme:" + strings.Repeat("x", 246),
	}
}

// beyond are the tokens that nobody gets whose policy allows the customers acme: alone.
func (c *connect) beyond() []string {
	return []string{c.sim.Token(accountOf("other:1")), c.sim.Token(accountOf("alice")), c.sim.Token(accountOf("ACME:1"))}
}

// onCustomers returns a mount with accounts of customers, and two backends: one whose policy allows some customers of
// one role, and one whose policy allows everything.
func onCustomers(t *testing.T) (c *connect, narrow, wide *person) {
	t.Helper()
	c = onConnect(t, pipedreamtest.WithLimit(0))
	for i, id := range customers {
		c.sim.SetAccount(connected(fmt.Sprintf("apn_%d", i), id))
	}
	c.write(t, "config", map[string]any{"rate_limit": 0})
	c.write(t, "roles/crm", map[string]any{"app": "github", "allowed_external_user_ids": "acme:*"})
	c.write(t, "roles/all", map[string]any{"app": "github", "allowed_external_user_ids": "*"})
	c.write(t, "roles/own", map[string]any{"app": "github", "external_user_id": "alice"})
	c.write(t, "roles/one", map[string]any{"account_id": "apn_0"})
	var rules strings.Builder
	for _, path := range []string{"creds", "static-creds", "refresh", "connect"} {
		fmt.Fprintf(&rules, "path \"MOUNT/%s/crm/acme:*\" { capabilities = [\"read\", \"update\", \"delete\"] }\n", path)
	}
	return c, c.asBackend(t, "narrow", rules.String()), c.asBackend(t, "wide", `path "MOUNT/*" { capabilities = ["read", "update", "delete"] }`)
}

// TestUsersInPathOnARealVault has customers choose ids for which a backend then reads.
func TestUsersInPathOnARealVault(t *testing.T) {
	t.Parallel()
	c, narrow, wide := onCustomers(t)
	t.Run("raw requests", func(t *testing.T) { c.sendChosenIDs(t, narrow, wide) })
	t.Run("clients", func(t *testing.T) { c.passChosenIDs(t, narrow, wide) })
	t.Run("the command line", func(t *testing.T) { c.typeChosenIDs(t, narrow, wide) })
	t.Run("consul-template", func(t *testing.T) { c.templateChosenIDs(t, narrow, wide) })
	t.Run("leases", func(t *testing.T) { c.leaseForCustomers(t, narrow) })
	t.Run("connect", func(t *testing.T) { c.connectCustomers(t, narrow, wide) })
}

// accountOf returns the account of a customer; empty for none.
func accountOf(id string) string {
	for i, customer := range customers {
		if customer == id {
			return fmt.Sprintf("apn_%d", i)
		}
	}
	return ""
}

// sendChosenIDs asserts that a raw request is answered with the account of exactly the id whose written form the path
// has, and only where the policy and the role allow it.
func (c *connect) sendChosenIDs(t *testing.T, narrow, wide *person) {
	t.Helper()
	type attempt struct {
		who  *person
		role string
	}
	sent, served := 0, map[string]bool{}
	for _, id := range chosenIDs() {
		for _, segment := range forms(id) {
			attempts := []attempt{{narrow, "crm"}, {wide, "all"}}
			if segment == written(id) {
				attempts = append(attempts, attempt{narrow, "all"}, attempt{wide, "crm"}, attempt{wide, "own"}, attempt{wide, "one"})
			}
			for _, as := range attempts {
				sent++
				target := "static-creds/" + as.role + "/" + segment
				code, answer := c.rawAs(t, as.who.Token(), http.MethodGet, target, "")
				what := fmt.Sprintf("%s: %s", as.who.name, target)
				if code != http.StatusOK {
					lacks(t, what, answer, c.sim.Secrets()...)
					assert.Less(t, code, http.StatusInternalServerError, what)
					continue
				}
				path, _, _ := strings.Cut(segment, "?")
				decoded, err := url.PathUnescape(path)
				require.NoError(t, err, what)
				got := accountIn(t, answer)
				served[got] = true
				var owner string
				for _, customer := range customers {
					if written(customer) == decoded {
						owner = customer
					}
				}
				assert.Equal(t, accountOf(owner), got, what)
				assert.Contains(t, []string{"crm", "all"}, as.role, what)
				assert.True(t, as.role == "all" || strings.HasPrefix(owner, "acme:"), what)
				assert.True(t, as.who == wide || as.role == "crm" && strings.HasPrefix(decoded, "acme:"), what)
			}
		}
	}
	assert.Greater(t, sent, 1000, "attacks")
	assert.Len(t, served, len(customers), "each customer is reached by one form")
}

// accountIn returns the account of an answer.
func accountIn(t *testing.T, answer string) string {
	t.Helper()
	var secret struct {
		Data struct {
			Account string `json:"pipedream_account_id"`
		} `json:"data"`
	}
	require.NoError(t, json.Unmarshal([]byte(answer), &secret), answer)
	return secret.Data.Account
}

// passChosenIDs reads with clients that clean paths, or follow redirects to clean ones. In its written form, an id gets
// its own account alone. As it is, it gets no account that the policy does not allow.
func (c *connect) passChosenIDs(t *testing.T, narrow, wide *person) {
	t.Helper()
	for _, id := range chosenIDs() {
		secret, err := wide.Logical().Read(c.in("static-creds/all/" + written(id)))
		if account := accountOf(id); account != "" {
			require.NoError(t, err, id)
			assert.Equal(t, account, secret.Data["pipedream_account_id"], id)
		} else {
			assert.Error(t, err, id)
		}
		for _, segment := range forms(id) {
			if secret, err := narrow.Logical().Read(c.in("static-creds/crm/" + segment)); err == nil && secret != nil {
				lacks(t, id, textOf(secret), c.beyond()...)
			}
			_, answer := narrow.send(t, http.MethodGet, c.in("static-creds/crm/"+segment), "", nil)
			lacks(t, id, answer, c.beyond()...)
		}
	}
}

// typeChosenIDs reads with Vault's command line.
func (c *connect) typeChosenIDs(t *testing.T, narrow, wide *person) {
	t.Helper()
	for _, id := range customers {
		said := c.cliWith(t, wide.Token(), "", "read", "-field=pipedream_account_id", "/static-creds/all/"+written(id))
		assert.Equal(t, accountOf(id), strings.TrimSpace(said.out), "%q: %s", id, said.err)
	}
	c.reachesNoOther(t, func(id string) (got, log string) {
		said := c.cliWith(t, narrow.Token(), "", "read", "/static-creds/crm/"+id)
		return said.out, said.err
	})
	for _, id := range passed() {
		if !slices.Contains(customers, id) {
			said := c.cliWith(t, wide.Token(), "", "read", "/static-creds/all/"+written(id))
			assert.NotZero(t, said.code, "%q: %s", id, said.out)
		}
	}
}

// reachesNoOther has a client of customers acme: read for ids as they are. It gets the account of an id that is its own
// written form, and what it says never has the token of another.
func (c *connect) reachesNoOther(t *testing.T, read func(id string) (got, log string)) {
	t.Helper()
	for _, id := range passed() {
		got, log := read(id)
		lacks(t, id, got+log, c.beyond()...)
		if account := accountOf(id); account != "" && written(id) == id && strings.HasPrefix(id, "acme:") {
			assert.Contains(t, got, account, log)
		}
	}
}

// templateChosenIDs reads with consul-template.
func (c *connect) templateChosenIDs(t *testing.T, narrow, wide *person) {
	t.Helper()
	var template, expected strings.Builder
	for _, id := range customers {
		fmt.Fprintf(&template, "{{ with secret %q }}{{ .Data.pipedream_account_id }} {{ end }}", c.in("static-creds/all/"+written(id)))
		fmt.Fprintf(&expected, "%s ", accountOf(id))
	}
	got, _ := c.renderOnce(t, wide.Token(), template.String())
	assert.Equal(t, expected.String(), got)
	c.reachesNoOther(t, func(id string) (got, log string) {
		return c.renderOnce(t, narrow.Token(), fmt.Sprintf("{{ with secret %q }}{{ .Data }}{{ end }}", c.in("static-creds/crm/"+id)))
	})
}

// leaseForCustomers asserts that leases and the audit log say for whom they are.
func (c *connect) leaseForCustomers(t *testing.T, narrow *person) {
	t.Helper()
	for _, id := range []string{"acme:1", "acme:10"} {
		lease := narrow.read(t, "creds/crm/"+id).LeaseID
		assert.True(t, strings.HasPrefix(lease, c.in("creds/crm/"+id+"/")), lease)
		assert.Equal(t, lease, c.audited(t, "creds/crm/"+id).Response.Secret.LeaseID)
	}
	revoked := c.cli(t, "lease", "revoke", "-sync", "-prefix", "/creds/crm/acme:1")
	require.Zero(t, revoked.code, revoked.err)
	assert.Empty(t, c.leases(t, "crm/acme:1"))
	assert.Len(t, c.leases(t, "crm/acme:10"), 1)
}

// connectCustomers makes a link for a customer, asks for the connection, and disconnects the account.
func (c *connect) connectCustomers(t *testing.T, narrow, wide *person) {
	t.Helper()
	for _, id := range []string{"acme:1", "acme:2"} {
		link, err := narrow.Logical().Write(c.in("connect/crm/"+id), map[string]any{"new": true})
		require.NoError(t, err)
		assert.Equal(t, id, link.Data["external_user_id"])
		state := narrow.read(t, "connect/crm/"+id).Data
		assert.Equal(t, id, state["external_user_id"])
		assert.Equal(t, accountOf(id), state["account_id"])
		_, err = narrow.Logical().Write(c.in("refresh/crm/"+id), nil)
		require.NoError(t, err)
	}
	_, err := narrow.Logical().Write(c.in("connect/crm/other:1"), nil)
	refused(t, err, http.StatusForbidden, "permission denied")
	_, err = wide.Logical().Write(c.in("connect/crm/other:1"), nil)
	refused(t, err, http.StatusBadRequest, "do not allow this external user")
	_, err = wide.Logical().Delete(c.in("connect/crm/other:1"))
	refused(t, err, http.StatusBadRequest, "do not allow this external user")
	_, err = wide.Logical().Delete(c.in("connect/own/acme:2"))
	refused(t, err, http.StatusBadRequest, "only a role with allowed_external_user_ids")

	_, err = narrow.Logical().Delete(c.in("connect/crm/acme:1"))
	require.NoError(t, err)
	refused(t, narrow.errorOf(t, "static-creds/crm/acme:1"), http.StatusBadRequest, "has no healthy account")
	assert.Equal(t, accountOf("acme:2"), narrow.read(t, "static-creds/crm/acme:2").Data["pipedream_account_id"])
}
