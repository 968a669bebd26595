package api

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// Whatever a gateway answers, at whatever path: Pipedream is not available, or the
// request was one too many. It is never the fault of an account, a key or a client.
func TestAGatewaysAnswerIsNobodysFault(t *testing.T) {
	ofLinks := func(c *Config) {
		ofAnOAuthClient(c)
		c.Makes = ConnectLink
	}
	requests := map[string]struct {
		change func(*Config)
		tokens bool // whether access tokens can be had
		send   func(*testing.T, *client) error
	}{
		"account":  {nil, true, func(t *testing.T, c *client) error { _, err := c.Account(patient(t), github); return err }},
		"metadata": {nil, true, func(t *testing.T, c *client) error { _, err := c.Metadata(patient(t), github); return err }},
		"page":     {nil, true, func(t *testing.T, c *client) error { _, err := c.Page(patient(t), ""); return err }},
		"search": {nil, true, func(t *testing.T, c *client) error {
			_, err := c.Search(patient(t), Filter{ExternalUser: "alice"})
			return err
		}},
		"list": {nil, true, func(t *testing.T, c *client) error {
			return c.List(patient(t), Filter{}, func(*Page) error { return nil })
		}},
		"check of a key":    {nil, true, func(t *testing.T, c *client) error { _, err := c.Verify(patient(t)); return err }},
		"check of a client": {ofAnOAuthClient, true, func(t *testing.T, c *client) error { _, err := c.Verify(patient(t)); return err }},
		"access token":      {ofAnOAuthClient, false, func(t *testing.T, c *client) error { _, err := c.Account(patient(t), github); return err }},
		"link": {ofLinks, true, func(t *testing.T, c *client) error {
			_, err := c.Link(patient(t), LinkRequest{ExternalUser: "alice"})
			return err
		}},
	}
	working := refuses(&[]string{"/none"})
	for _, gateway := range pipedreamtest.Gateways() {
		for _, status := range pipedreamtest.GatewayStatuses() {
			fault := gateway.Fault(status)
			for what, r := range requests {
				synctest.Test(t, func(t *testing.T) {
					c := newClient(t, &script{answer: func(req *http.Request) reply {
						if r.tokens && strings.HasSuffix(req.URL.Path, "/oauth/token") {
							return working.answer(req)
						}
						return reply{status: status, header: fault.Header, body: fault.Body}
					}}, r.change)
					err := r.send(t, c)
					kinds := []Kind{Unavailable, BadAnswer}
					if status == http.StatusTooManyRequests {
						kinds = []Kind{Throttled}
					}
					if !slices.Contains(kinds, KindOf(err)) || IsAccountFault(err) {
						t.Errorf("%s, %d, %s: %v", gateway.Name, status, what, err)
					}
				})
			}
		}
	}
}
