package pipedream

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/pace"
)

const pathConnectDeleteSyn = `Disconnect an account of the caller's own at Pipedream.`

// connectDelete is the operation that disconnects accounts.
func (b *backend) connectDelete() *framework.PathOperation {
	return &framework.PathOperation{
		Callback:                  b.disconnect,
		Summary:                   pathConnectDeleteSyn,
		DisplayAttrs:              &framework.DisplayAttributes{OperationVerb: "disconnect", OperationSuffix: forUserToo("account")},
		ForwardPerformanceStandby: true,
		Responses:                 answerOf(removedFields()),
	}
}

func allField() *framework.FieldSchema {
	return parameter(framework.TypeBool, "All", "Only for a delete: disconnect all accounts that the caller has with the app. Default false.")
}

func (b *backend) disconnect(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := refuseOthers(req, fieldAccount, fieldAll); err != nil {
		return nil, err
	}
	named, err := namedAccount(data)
	if err != nil {
		return nil, err
	}
	all := data.Get(fieldAll).(bool)
	if all && named != "" {
		return nil, badRequest("nothing was done: give either account or all=true")
	}
	t, err := b.linkTarget(ctx, req, data)
	if err != nil {
		return nil, toLogical(req, err)
	}
	served, err := t.view.Remembered(ctx, t.user)
	if err != nil {
		return nil, toLogical(req, err)
	}
	accounts, err := t.view.Accounts(ctx, pace.Known, t.who(), t.user, served)
	if err != nil {
		return nil, toLogical(req, err)
	}
	if len(accounts) == 0 {
		return b.nothingConnected(ctx, req, t, served)
	}
	if named != "" {
		chosen, err := t.view.Choose(accounts, t.user, named)
		if err != nil {
			return nil, toLogical(req, err)
		}
		return b.disconnectEach(ctx, req, t, []*cache.Owned{chosen})
	}
	gone := served != "" && !slices.ContainsFunc(accounts, func(a *cache.Owned) bool { return a.ID == served })
	switch {
	case len(accounts) > 1 && !all:
		return nil, badRequest("nothing was done: there are %d accounts of app %q. Give account=<id or name> for one of them, or all=true for all: %s",
			len(accounts), t.user.App, listOfAccounts(accounts))
	case gone && !all:
		return nil, badRequest("nothing was done: reads return account %s, which Pipedream does not list. Give account=<id or name> for another one, or all=true: %s",
			served, listOfAccounts(accounts))
	case gone:
		if err := b.forgetGone(ctx, req, t, served); err != nil {
			return nil, err
		}
	}
	return b.disconnectEach(ctx, req, t, accounts)
}

// forgetGone drops what the engine has of the user's account, which was deleted in Pipedream.
func (b *backend) forgetGone(ctx context.Context, req *logical.Request, t *target, id string) error {
	gone := t.ofAccount(id, t.user)
	gone.send = func(context.Context) (bool, error) { return false, nil }
	_, err := b.remove(ctx, req, t.connection, gone)
	return err
}

// disconnectEach disconnects accounts one after the other, until one fails.
func (b *backend) disconnectEach(ctx context.Context, req *logical.Request, t *target, accounts []*cache.Owned) (*logical.Response, error) {
	var done []string
	for _, a := range accounts {
		if _, err := b.remove(ctx, req, t.connection, t.ofAccount(a.ID, append(usersOf(a.Account), t.user)...)); err != nil {
			return nil, withDone(done, err)
		}
		done = append(done, a.ID)
	}
	resp := removedResponse(done)
	resp.AddWarning(tokensLive)
	return resp, nil
}

// withDone returns err with what was done before it.
func withDone(done []string, err error) error {
	coded, ok := err.(logical.HTTPCodedError) //nolint:errorlint // a wrapped one would lose its code on gRPC
	if len(done) == 0 || !ok {
		return err
	}
	return logical.CodedError(coded.Code(), fmt.Sprintf("disconnected: %s. But %s", strings.Join(done, ", "), err))
}

// nothingConnected answers a user who has no account. One that is still cached was
// deleted in Pipedream, and is not served any longer.
func (b *backend) nothingConnected(ctx context.Context, req *logical.Request, t *target, served string) (*logical.Response, error) {
	if served != "" {
		if err := b.forgetGone(ctx, req, t, served); err != nil {
			return nil, err
		}
	}
	resp := removedResponse(nil)
	resp.AddWarning(fmt.Sprintf("external user %q has no account with app %q: there was nothing to disconnect", t.user.ExternalID, t.user.App))
	return resp, nil
}
