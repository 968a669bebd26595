package pipedream

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/cache"
)

const pathConnectReadSyn = `See which accounts of the role's app the caller has connected, without credentials.`

// longestWait bounds how long a read waits for what a link did. A request in flight
// delays a step-down or a seal.
const longestWait = 10 * time.Second

// What a Connect link did.
const (
	linkOpen      = "open"
	linkConnected = "connected"
	linkEnded     = "ended"
	linkUnknown   = "unknown"
)

func connectionFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"connected":         answerField(framework.TypeBool, true, "Whether reads of the role get credentials."),
		fieldAccountID:      answerField(framework.TypeString, false, "Account that reads get. Absent if there is none."),
		"accounts":          answerField(framework.TypeSlice, true, "The user's accounts with the app, the most recently connected first. See the API page for their fields."),
		fieldApp:            answerField(framework.TypeString, true, "App of the role."),
		fieldExternalUserID: answerField(framework.TypeString, true, "External user of the caller."),
		"link_status":       answerField(framework.TypeString, false, "What the link with link_id did: open, connected, ended or unknown."),
		"link_account_id":   answerField(framework.TypeString, false, "Account that the link connected, or signed in to again."),
	}
}

func (b *backend) connectionRead(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := refuseOthers(req, fieldLinkID, fieldWait); err != nil {
		return nil, err
	}
	linkID := data.Get(fieldLinkID).(string)
	wait := time.Duration(data.Get(fieldWait).(int)) * time.Second
	switch {
	case wait < 0 || wait > longestWait:
		return nil, badRequest("wait must be from 0s to %s", longestWait)
	case wait > 0 && linkID == "":
		return nil, badRequest("wait needs link_id, the name of the link to wait for")
	}
	t, err := b.linkTarget(ctx, req, data)
	if err != nil {
		return nil, toLogical(req, err)
	}
	ctx, cancel := context.WithTimeout(ctx, longestWait)
	defer cancel()
	if wait > 0 {
		waiting, cancel := context.WithTimeout(ctx, wait)
		err := t.view.AwaitLink(waiting, t.reader, t.user, linkID)
		cancel()
		if err != nil {
			return nil, toLogical(req, err)
		}
	}
	c, err := t.view.Connection(ctx, t.reader, t.user, linkID)
	if err != nil {
		return nil, toLogical(req, err)
	}
	return t.connectionResponse(req, c, linkID), nil
}

// connectionResponse returns the answer about a connection.
func (t *target) connectionResponse(req *logical.Request, c *cache.Connection, linkID string) *logical.Response {
	accounts := make([]any, 0, len(c.Accounts)+len(c.Elsewhere))
	for _, a := range c.Accounts {
		accounts = append(accounts, connectedAccount(a, false))
	}
	for _, a := range c.Elsewhere {
		accounts = append(accounts, connectedAccount(a, true))
	}
	resp := &logical.Response{Data: map[string]any{
		"connected": t.reads(c.Served), "accounts": accounts,
		fieldApp: t.role.App, fieldExternalUserID: t.user.ExternalID,
	}}
	if c.Served != nil {
		resp.Data[fieldAccountID] = c.Served.ID
	}
	if linkID != "" {
		resp.Data["link_status"] = linkStatus(c.Link)
		if c.Link.Connected != "" {
			resp.Data["link_account_id"] = c.Link.Connected
		}
	}
	t.warnOfConnection(req, resp, c)
	return resp
}

// reads reports whether reads of the role get something of an account, which is nil for
// none.
func (t *target) reads(a *cache.Owned) bool {
	switch {
	case a == nil:
		return false
	case t.role.ofTokens():
		return true
	default:
		return a.HasCredentials && (!t.role.EnforceScopes || len(t.role.lacking(a.Scopes)) == 0)
	}
}

func linkStatus(l cache.LinkState) string {
	switch {
	case !l.Known:
		return linkUnknown
	case l.Connected != "":
		return linkConnected
	case l.Open:
		return linkOpen
	default:
		return linkEnded
	}
}

// connectedAccount returns what a user sees of an account of theirs.
func connectedAccount(a *cache.Owned, otherClient bool) map[string]any {
	data := map[string]any{"id": a.ID, "name": a.Name, "healthy": a.Healthy && !a.Dead, "dead": a.Dead}
	if a.Error != "" {
		data["error"] = a.Error
	}
	if a.Scopes != nil {
		data["authorized_scopes"] = append([]string{}, a.Scopes...)
	}
	if otherClient {
		data["other_oauth_client"] = true
	}
	setTime(data, "created_at", a.CreatedAt)
	setTime(data, "expires_at", a.ExpiresAt)
	return data
}

// warnOfConnection adds to the response what its reader should know, and do.
func (t *target) warnOfConnection(req *logical.Request, resp *logical.Response, c *cache.Connection) {
	if c.Served == nil && len(c.Elsewhere) > 0 {
		resp.AddWarning(fmt.Sprintf("account %s is connected with an OAuth client other than the role's oauth_app_id, so reads cannot use it", c.Elsewhere[0].ID))
	}
	if a := c.Served; a != nil {
		switch lacking := t.role.lacking(a.Scopes); {
		case !a.HasCredentials && !t.role.ofTokens():
			resp.AddWarning(fmt.Sprintf("Pipedream hands out no credentials for account %s: accounts on Pipedream's own OAuth client have none", a.ID))
		case len(lacking) > 0:
			resp.AddWarning(t.textOfLacking(req, a.ID, lacking))
		}
	}
	if !c.AsOf.IsZero() {
		resp.AddWarning(fmt.Sprintf("Pipedream listed these accounts %s ago, and could not be asked just now", time.Since(c.AsOf).Round(time.Second)))
	}
	for _, a := range c.Accounts {
		t.warnOfStranger(req, resp, a.ID)
	}
	if c.Link.Known && c.Link.Account != "" && linkStatus(c.Link) == linkEnded {
		resp.AddWarning(atMount(req, fmt.Sprintf("this link did not sign in to account %s again. If Pipedream's page refuses to, connect another one with: "+
			cli+" write <mount>/%s new=true", c.Link.Account, t.connectPath())))
	}
}
