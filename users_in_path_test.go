package pipedream

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

var usersInPath = map[string]any{"app": "github", "allowed_external_user_ids": "acme:*,a/*,b64:*, x"}

// userBubble runs f with accounts of users for whom a backend works.
func userBubble(t *testing.T, f func(*testing.T, *mount)) {
	t.Helper()
	connectBubble(t, func(t *testing.T, m *mount) {
		for i, user := range []string{"acme:1", "acme:2", "other:1", "a/b", "b64:x"} {
			m.sim.SetAccount(connectAccount(fmt.Sprintf("apn_user%d", i), user))
		}
		m.role("crm", usersInPath)
		m.role("github", eachUsersGithub)
		m.role("one", map[string]any{"account_id": "apn_alice"})
		m.sim.ResetRequests()
		f(t, m)
	})
}

func TestAPathNamesTheUser(t *testing.T) {
	userBubble(t, func(t *testing.T, m *mount) {
		for user, account := range map[string]string{"acme:1": "apn_user0", "acme:2": "apn_user1", encoded("a/b"): "apn_user3", encoded("b64:x"): "apn_user4"} {
			for _, path := range []string{"creds", "static-creds"} {
				resp, err := m.read(path + "/crm/" + user)
				require.NoError(t, err, user)
				require.Equal(t, account, resp.Data["pipedream_account_id"])
			}
			_, err := m.write("refresh/crm/"+user, nil)
			require.NoError(t, err)
			resp, err := m.write("connect/crm/"+user, map[string]any{})
			if err == nil { // a healthy account may need a choice
				id, err := userOfSegment(user)
				require.NoError(t, err)
				require.Equal(t, id, resp.Data["external_user_id"])
			}
		}
		_, err := m.read("creds/crm/acme:3")
		m.refused(err, http.StatusBadRequest, `external user "acme:3" has no healthy account`, "vault write -force pipedream/connect/crm/acme:3")
		_, err = m.read("creds/crm/" + encoded("acme:3 "))
		m.refused(err, http.StatusBadRequest, "vault write -force pipedream/connect/crm/"+encoded("acme:3 "))
	})
}

func TestTokensForUsersInThePath(t *testing.T) {
	userBubble(t, func(t *testing.T, m *mount) {
		m.role("tokens", map[string]any{"credential_type": "connect_token", "scope": "connect:proxy", "allowed_external_user_ids": "acme:*"})
		for _, user := range []string{"acme:1", "acme:2", "acme:2", encoded("acme:/")} {
			resp, err := m.read("static-creds/tokens/" + user)
			require.NoError(t, err)
			id, err := userOfSegment(user)
			require.NoError(t, err)
			require.Equal(t, id, resp.Data["pipedream_external_user_id"])
		}
		m.refuseEverywhere("tokens/other:1", "do not allow this external user")
		_, err := m.write("roles/access", map[string]any{"credential_type": "access_token", "scope": "connect:proxy", "allowed_external_user_ids": "*"})
		m.refused(err, http.StatusBadRequest, "an access token is good for all users")
	})
}

// A user in the path is for roles that allow it, and they need one.
func TestRolesThatTakeNoUser(t *testing.T) {
	userBubble(t, func(t *testing.T, m *mount) {
		for _, path := range []string{"github/alice", "github/acme:1", "one/alice", "apn_alice/alice", "apn_alice/acme:1", "github/a/b", "apn_alice/..", "one/" + encoded("a/b")} {
			m.refuseEverywhere(path, "only a role with allowed_external_user_ids takes an external user")
		}
		m.refuseEverywhere("crm", "/crm/<user>")
		for _, path := range []string{"crm/other:1", "crm/acme", "crm/ACME:1", "crm/" + encoded("Acme:1 "), "crm/alice"} {
			m.refuseEverywhere(path, "do not allow this external user")
		}
		for _, role := range []string{"crm", "github", "one", "apn_alice"} {
			_, err := m.askAs("alice", logical.ReadOperation, "creds/"+role, map[string]any{"user": "acme:1"})
			m.refused(err, http.StatusBadRequest, "user is not a parameter", "pipedream/creds/<role>/<user>")
			_, err = m.askAs("alice", logical.UpdateOperation, "connect/"+role, map[string]any{"user": "acme:1"})
			m.refused(err, http.StatusBadRequest, "no parameters named [user]")
		}
		require.Empty(t, m.sim.Requests())
	})
}

// refuseEverywhere asserts that no path of a role or account that ends so is served.
func (m *mount) refuseEverywhere(path, text string) {
	m.Helper()
	for _, ask := range []struct {
		op    logical.Operation
		first string
	}{
		{logical.ReadOperation, "creds"},
		{logical.UpdateOperation, "creds"},
		{logical.ReadOperation, "static-creds"},
		{logical.UpdateOperation, "refresh"},
		{logical.UpdateOperation, "connect"},
	} {
		_, err := m.askAs("alice", ask.op, ask.first+"/"+path, map[string]any{})
		m.refused(err, http.StatusBadRequest, text)
	}
}

// A customer who chooses their own id, and whose backend puts it into the path as it is,
// reaches no account but the one of that id.
func TestACustomerWhoChoosesTheirOwnID(t *testing.T) {
	userBubble(t, func(t *testing.T, m *mount) {
		m.role("all", map[string]any{"app": "github", "allowed_external_user_ids": "*"})
		owners := map[string]string{"alice": "apn_alice", "bob": "apn_bob", "acme:1": "apn_user0", "acme:2": "apn_user1", "other:1": "apn_user2", "a/b": "apn_user3", "b64:x": "apn_user4"}
		n := 0
		for _, segment := range hostileSegments("acme:1", "acme:2", "other:1", "a/b", "b64:x", "alice") {
			for _, role := range []string{"crm", "all", "github", "one", "apn_alice"} {
				n++
				resp, err := m.handle(logical.ReadOperation, "static-creds/"+role+"/"+segment, nil)
				if err != nil {
					m.refused(err, http.StatusBadRequest)
					continue
				}
				id, err := userOfSegment(segment)
				require.NoError(t, err)
				require.Equal(t, owners[id], resp.Data["pipedream_account_id"], segment)
				require.Contains(t, []string{"crm", "all"}, role)
				require.True(t, role == "all" || strings.HasPrefix(id, "acme:") || id == "a/b" || id == "b64:x", id)
			}
			time.Sleep(time.Minute)
		}
		require.Greater(t, n, 300, "attacks")
	})
}

// hostileSegments returns what a customer may choose to reach the users with those ids.
func hostileSegments(ids ...string) (segments []string) {
	for _, id := range ids {
		segments = append(segments, id, encoded(id), base64.StdEncoding.EncodeToString([]byte(id)), "b64:"+base64.StdEncoding.EncodeToString([]byte(id+"\x00")),
			"b64:"+encoded(id), encoded(encoded(id)), strings.ToUpper(id), id+" ", " "+id, id+"\t", id+"\x00", id+"/", "/"+id, "//"+id, "./"+id, id+"/.",
			"../"+id, "x/../"+id, "acme:1/../"+id, id+"/../acme:1", "..%2F"+id, "%2e%2e/"+id, "%2F"+id, "acme:1%2F"+id, id+"%00", id+"?x", id+"#x", id+";x", id+"*", "*", "+",
			"+"+id, id+"+", id+",acme:1", "acme:1,"+id, id+"\u200b", "\ufeff"+id, strings.ReplaceAll(id, "a", "а"), strings.ReplaceAll(id, ":", "："), strings.ReplaceAll(id, ":", "%3A"),
			"{{identity.entity.name}}", `"`+id+`"`, id+"&external_user_id=alice", id+"/accounts", "acme:1\n"+id)
	}
	return segments
}

func TestRolesForUsersInThePath(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		for name, c := range map[string]struct {
			fields map[string]any
			text   string
		}{
			"both":      {map[string]any{"app": "github", "external_user_id": "alice", "allowed_external_user_ids": "*"}, "give either external_user_id or"},
			"account":   {map[string]any{"account_id": "apn_alice", "allowed_external_user_ids": "*"}, "give either account_id, or app"},
			"no app":    {map[string]any{"allowed_external_user_ids": "*"}, "external_user_id needs app"},
			"none":      {map[string]any{"app": "github", "allowed_external_user_ids": ""}, "or allowed_external_user_ids"},
			"blank":     {map[string]any{"app": "github", "allowed_external_user_ids": []any{" "}}, "must be external user ids"},
			"templates": {map[string]any{"app": "github", "allowed_external_user_ids": "{{identity.entity.name}}"}, "no templates"},
			"long":      {map[string]any{"app": "github", "allowed_external_user_ids": strings.Repeat("a", 251)}, "must be external user ids"},
			"many":      {map[string]any{"app": "github", "allowed_external_user_ids": strings.Repeat("a,", 100) + "b"}, "more than 100 entries"},
		} {
			_, err := m.write("roles/r", c.fields)
			require.Error(t, err, name)
			m.refused(err, http.StatusBadRequest, c.text)
		}
		m.role("r", map[string]any{"app": "github", "external_user_id": "alice"})
		m.role("r", map[string]any{"allowed_external_user_ids": []any{"acme:*", "b"}})
		resp, err := m.read("roles/r")
		require.NoError(t, err)
		require.Equal(t, []string{"acme:*", "b"}, resp.Data["allowed_external_user_ids"])
		require.Empty(t, resp.Data["external_user_id"])
		m.role("r", map[string]any{"external_user_id": "alice"})
		resp, err = m.read("roles/r")
		require.NoError(t, err)
		require.Empty(t, resp.Data["allowed_external_user_ids"])
		require.Equal(t, "apn_alice", m.creds("r").Data["pipedream_account_id"])
		m.role("r", map[string]any{"allowed_external_user_ids": "b"})
		m.role("r", map[string]any{"account_id": "apn_bob"})
		require.Equal(t, "apn_bob", m.creds("r").Data["pipedream_account_id"])
	})
}

// A backend makes 10 links a minute for each customer, and more in all. It leaves some of
// the mount's to others.
func TestLinksForCustomersOfABackend(t *testing.T) {
	userBubble(t, func(t *testing.T, m *mount) {
		link := func(entity, user string) error {
			req := &logical.Request{Operation: logical.UpdateOperation, Path: "connect/crm/" + user, Data: map[string]any{}, Storage: m.storage, MountPoint: "pipedream/", EntityID: entity}
			_, err := m.b.HandleRequest(m.Context(), req)
			return err
		}
		for range 10 {
			require.NoError(t, link("backend", "acme:100"))
		}
		m.refused(link("backend", "acme:100"), http.StatusTooManyRequests, "10 Connect links in the last minute, which is the limit for one caller and user")
		require.NoError(t, link("another", "acme:100"))
		made := 10
		for i := 101; ; i++ {
			if err := link("backend", fmt.Sprintf("acme:%d", i)); err != nil {
				m.refused(err, http.StatusTooManyRequests)
				break
			}
			made++
		}
		require.Greater(t, made, 40)
		require.Less(t, made, 70)
		require.NoError(t, link("another", "acme:1000"), "the backend leaves some to others")
		time.Sleep(time.Minute)
		require.NoError(t, link("backend", "acme:100"))
	})
}
