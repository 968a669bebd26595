package pipedream

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/clock"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/token"
)

const (
	// maxConnectTokens is how many requests for Connect tokens a mount sends in a
	// minute. Pipedream allows 100 a minute for each external user and documents no
	// limit for all of them. So this one only bounds what callers who can name users
	// can cause.
	maxConnectTokens = 1500
	// maxAccessTokens is likewise for access tokens. Pipedream does not document how
	// many it allows. There is one for each scope, and it lives for about an hour.
	maxAccessTokens = 30
	// maxRefreshesOfCaller is how many tokens one caller may have replaced in a minute,
	// so that the limit of a user is not used up by one of the callers.
	maxRefreshesOfCaller = 10
)

// connectTokenMaker returns what makes Connect tokens. Where the key names an app, it
// first looks for the user's account.
func (c *connection) connectTokenMaker(client *api.Client, clk *clock.Clock) token.Maker {
	return func(ctx context.Context, claim *pace.Claim, caller pace.Caller, k token.Key) (_ *credential.Credential, err error) {
		began, account := time.Now(), ""
		if k.App != "" {
			account, err = c.view.AccountOf(ctx, caller, cache.User{App: k.App, OAuthApp: k.OAuthApp, ExternalID: k.User})
			if err != nil {
				return nil, err
			}
		}
		made := time.Now()
		t, err := client.ConnectToken(claim.With(ctx), api.TokenRequest{
			ExternalUser: k.User, Scope: k.Scope, Life: k.Life, AllowedOrigins: strings.Fields(k.Origins),
		})
		if err != nil {
			return nil, err
		}
		return &credential.Credential{
			AccountID: account, App: k.App, ExternalUser: k.User, Fields: map[string]string{fieldConnectToken: string(t.Value)},
			ExpiresAt: c.endOf(ctx, clk, t, made), FetchedAt: made, CheckedAt: began,
		}, nil
	}
}

func (c *connection) accessTokenMaker(client *api.Client, clk *clock.Clock) token.Maker {
	return func(ctx context.Context, claim *pace.Claim, _ pace.Caller, k token.Key) (*credential.Credential, error) {
		made := time.Now()
		t, err := client.AccessToken(claim.With(ctx), k.Scope)
		if err != nil {
			return nil, err
		}
		return &credential.Credential{
			Fields: map[string]string{fieldAccessToken: string(t.Value)}, ExpiresAt: c.endOf(ctx, clk, t, made), FetchedAt: made, CheckedAt: made,
		}, nil
	}
}

// endOf returns when a token that was asked for at made ends, by Pipedream's clock: when
// the answer says, but not after the token's whole life. An end that has passed does not
// count, because it must be wrong.
func (c *connection) endOf(ctx context.Context, clk *clock.Clock, t *api.Token, made time.Time) time.Time {
	c.client.SettleTime(ctx)
	now := clk.Now()
	end := now.There.Add(made.Add(t.Life).Sub(now.Here))
	if t.ExpiresAt.After(now.There) && t.ExpiresAt.Before(end) {
		return t.ExpiresAt
	}
	return end
}

// forgetTokens drops the Connect tokens of an external user. Those that were handed out
// work until they end.
func (c *connection) forgetTokens(user string) { c.connectTokens.Forget(user) }

// tokens returns where the tokens of t's role are, and what they are good for.
func (t *target) tokens() (*token.Cache, token.Key) {
	if t.role.CredentialType == accessTokenType {
		return t.accessTokens, t.role.tokenKey("")
	}
	return t.connectTokens, t.role.tokenKey(t.user.ExternalID)
}

// currentToken returns a live token of t's role. If the role has an app, the token comes with the
// account that its user's reads get by now.
func (t *target) currentToken(ctx context.Context) (*credential.Credential, token.How, error) {
	tokens, key := t.tokens()
	for {
		got, how, err := tokens.Get(ctx, t.who(), t.reader.Demand, key)
		if err != nil || key.App == "" {
			return got, how, err
		}
		id, err := t.view.AccountNow(ctx, t.who(), t.user, got.AccountID, got.CheckedAt)
		switch {
		case err != nil:
			return nil, 0, err
		case id == got.AccountID:
			return got, how, nil
		case id != "": // the token opens all accounts of the user
			moved := *got
			moved.AccountID = id
			return &moved, how, nil
		}
		tokens.Drop(key, got)
	}
}

// who returns whose turns the work for t takes.
func (t *target) who() pace.Caller { return pace.Caller{Name: t.reader.Caller, User: t.reader.User} }

// takeRenewal uses up one of the caller's refreshes of tokens, or fails if there are
// none left.
func (b *backend) takeRenewal(t *target) error {
	if wait := b.tokenQuota.Take(t.who()); wait > 0 {
		return logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("you have had %d tokens replaced in the last minute, which is the limit for one caller; "+
			"try again in %d s", maxRefreshesOfCaller, int(math.Ceil(wait.Seconds()))))
	}
	return nil
}
