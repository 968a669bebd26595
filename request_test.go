package pipedream

import (
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

func TestAPathThatIsNoneSaysWhatItWouldTake(t *testing.T) {
	tests := map[string]struct {
		operation logical.Operation
		path      string
		code      int
		text      string
	}{
		"no account":             {logical.ReadOperation, "accounts/github", http.StatusBadRequest, "account_id must look like"},
		"account and more":       {logical.ReadOperation, "accounts/" + github + "/x", http.StatusBadRequest, "account_id must look like"},
		"account of a dash":      {logical.ReadOperation, "accounts/-x", http.StatusBadRequest, "account_id must look like"},
		"role of a dash":         {logical.CreateOperation, "roles/-x", http.StatusBadRequest, "a role's name must be"},
		"role and more":          {logical.DeleteOperation, "roles/a/b", http.StatusBadRequest, "a role's name must be"},
		"credentials of neither": {logical.ReadOperation, "creds/-x", http.StatusBadRequest, "and a role's name must be"},
		"accounts read":          {logical.ReadOperation, "accounts", http.StatusMethodNotAllowed, "accounts are listed: vault list pipedream/accounts"},
		"roles read":             {logical.ReadOperation, "roles", http.StatusMethodNotAllowed, "roles are listed: vault list pipedream/roles"},
		"roles written":          {logical.UpdateOperation, "roles", http.StatusMethodNotAllowed, "by its name, pipedream/roles/<role>"},
		"roles deleted":          {logical.DeleteOperation, "roles/", http.StatusMethodNotAllowed, "by its name, pipedream/roles/<role>"},
		"refresh read":           {logical.ReadOperation, "refresh/" + github, http.StatusMethodNotAllowed, "vault write -force pipedream/refresh/" + github},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(_ *testing.T, m *mount) {
				_, err := m.handle(test.operation, test.path, map[string]any{})
				m.refused(err, test.code, test.text)
				if strings.HasPrefix(test.path, "accounts/") {
					require.NotContains(t, err.Error(), "role")
				}
				require.Empty(t, m.sim.Requests())
			})
		})
	}
}
