package pipedream

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// An answer that differs from Pipedream's documentation is understood as it is meant,
// or refused.
func TestAnswersOtherThanDocumented(t *testing.T) {
	tests := map[string]struct {
		status int
		body   string
		code   int
		text   string
	}{
		"dead as a number":             {200, `{"data":{"id":"apn_github","dead":1,"credentials":{"a":"b"}}}`, 400, "is dead"},
		"dead as text":                 {200, `{"data":{"id":"apn_github","dead":"true","credentials":{"a":"b"}}}`, 400, "is dead"},
		"payment":                      {402, `{"error":"x"}`, 400, "payment"},
		"gone":                         {410, `{"error":"x"}`, 400, "is gone"},
		"unprocessable":                {422, `{"error":"x"}`, 400, "rejected the request for account apn_github (HTTP 422)"},
		"bad request":                  {400, `{"error":"x"}`, 400, "rejected the request for account apn_github (HTTP 400)"},
		"an error in a 200":            {200, `{"error":"something else"}`, 502, "an error stands in place of what was asked for"},
		"an error about a field":       {200, `{"error":{"account":["account and user mismatch"]}}`, 502, "an error stands in place of what was asked for"},
		"not found in a 200":           {200, `{"error":"Record not found"}`, 400, "does not know account apn_github"},
		"an end that JSON cannot have": {200, `{"data":{"id":"apn_github","expires_at":"9999-12-31T23:59:59-12:00","credentials":{"a":"b"}}}`, 502, "expires_at"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(_ *testing.T, m *mount) {
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Status: test.status, Body: test.body})
				_, err := m.read("creds/" + github)
				m.refused(err, test.code, test.text)
			})
		})
	}
}

func TestNotFoundIn200(t *testing.T) {
	bubble(t, func(_ *testing.T, m *mount) {
		_, err := m.read("creds/apn_nobody")
		m.refused(err, http.StatusBadRequest, "apn_nobody", "does not know")
	}, pipedreamtest.WithNotFoundAs200())
}

// An element of a list that is no object does not hide the others.
func TestAListElementThatIsNoObject(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{
			Kind: pipedreamtest.KindList, Status: http.StatusOK,
			Body: `{"page_info":{"total_count":3},"data":[{"id":"apn_a"},"x",{"id":"not an id"},null]}`,
		})
		resp, err := m.handle(logical.ListOperation, "accounts/", nil)
		require.NoError(t, err)
		require.Equal(t, []string{"apn_a"}, resp.Data["keys"])
	})
}

// Fat accounts and pages leave memory as it was.
func TestLargeAnswersDoNotGrowMemory(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		_, err := m.write("config", map[string]any{"rate_limit": 0})
		require.NoError(t, err)
		fat := fmt.Sprintf(`{"data":{"id":"%%s","credentials":{"token":"%s"}}}`, strings.Repeat("x", 3_900_000))
		before := heap()
		for i := range 60 {
			id := fmt.Sprintf("apn_fat%d", i)
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, AccountID: id, Times: 1, Status: http.StatusOK, Body: fmt.Sprintf(fat, id)})
			_, err := m.read("creds/" + id)
			m.refused(err, http.StatusBadGateway, id, "more than 1 MiB")
		}
		require.Less(t, heap(), before+32<<20)
	})
}

// A read or list shows no control characters, which a terminal would obey.
func TestNoControlCharactersAreShown(t *testing.T) {
	const bad = "\x1b]0;gone\x07\x1b[2J"
	clean := func(t *testing.T, data any) {
		t.Helper()
		raw, err := json.Marshal(data)
		require.NoError(t, err)
		require.NotContains(t, string(raw), `\u001b`)
		require.NotContains(t, string(raw), `\u0007`)
	}
	connectBubble(t, func(t *testing.T, m *mount) {
		a := connectAccount("apn_bad", "user"+bad)
		a.Name, a.Error, a.Unhealthy = "n"+bad, "e"+bad, true
		a.App = pipedreamtest.App{ID: "app_" + bad, Slug: "s" + bad, Name: "N" + bad, AuthType: "oauth" + bad}
		a.Credentials = map[string]any{"field" + bad: "value"}
		m.sim.SetAccount(a)
		for _, path := range []string{"creds/apn_bad", "static-creds/apn_bad", "accounts/apn_bad"} {
			resp, err := m.read(path)
			require.NoError(t, err)
			clean(t, resp.Data)
		}
		resp, err := m.handle(logical.ListOperation, "accounts/", nil)
		require.NoError(t, err)
		clean(t, resp.Data)
	})
}
