package pipedream

import (
	"maps"
	"net/http"
	"slices"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// Each operation of a path that shows or changes what is connected takes its own
// parameters, and refuses all others before it does anything: those of the path's other
// operations, those in the path itself, and those that are misspelt.
func TestParametersOfEachOperation(t *testing.T) {
	values := map[string]any{
		"account": "apn_alice", "all": "true", "reconnect": "true", "new": "true", "expires_in": "1m",
		"success_redirect_uri": "https://app.example.com/", "error_redirect_uri": "https://app.example.com/",
		"link_id": "x", "wait": "1s",
		"name": "github", "user": "alice", "external_user_id": "alice", "account_id": "apn_alice",
		"acount": "apn_alice", "ALL": "true", "link-id": "x", "force": "true", "": "x",
	}
	for _, tc := range []struct {
		op    logical.Operation
		path  string
		takes []string
	}{
		{logical.UpdateOperation, "connect/github", []string{"account", "error_redirect_uri", "expires_in", "new", "reconnect", "success_redirect_uri"}},
		{logical.ReadOperation, "connect/github", []string{"link_id", "wait"}},
		{logical.DeleteOperation, "connect/github", []string{"account", "all"}},
		{logical.ReadOperation, "users/alice", nil},
		{logical.DeleteOperation, "users/alice", nil},
		{logical.ReadOperation, "accounts/apn_alice", nil},
		{logical.DeleteOperation, "accounts/apn_alice", nil},
	} {
		t.Run(string(tc.op)+" "+tc.path, func(t *testing.T) {
			linkBubble(t, func(t *testing.T, m *mount) {
				m.setClient("apn_alice")
				for _, parameter := range slices.Sorted(maps.Keys(values)) {
					m.sim.ResetRequests()
					_, err := m.askAs("alice", tc.op, tc.path, map[string]any{parameter: values[parameter]})
					if slices.Contains(tc.takes, parameter) {
						if err != nil { // what a parameter does is tested elsewhere
							require.NotContains(t, err.Error(), "no parameters named", parameter)
						}
						continue
					}
					verb := map[logical.Operation]string{logical.ReadOperation: "read", logical.UpdateOperation: "write", logical.DeleteOperation: "delete"}[tc.op]
					m.refused(err, http.StatusBadRequest, "nothing was done, because a "+verb+" of this path has no parameters named ["+parameter+"]")
					for _, taken := range tc.takes {
						require.Contains(t, err.Error(), taken, "it says what there is")
					}
					require.Empty(t, m.sim.Requests(), parameter)
				}
			})
		})
	}
}
