package pipedream

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/guard"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// tokensLive warns of what a removal does not end.
const tokensLive = "tokens that were already handed out work until they expire, and Connect links and tokens for up to 4 hours; " +
	"revoke what must end at once in the app itself"

// removal is something that a request removes at Pipedream.
type removal struct {
	cache.Removal

	what string // in an error: "account apn_1"
	not  string // in an error: "was not disconnected"
	send func(context.Context) (found bool, err error)
}

// ofAccount returns the removal of an account, which may be remembered for these users.
func (c *connection) ofAccount(id string, users ...cache.User) removal {
	return removal{
		Removal: cache.Removal{Accounts: []string{id}, Users: users},
		what:    "account " + id, not: "disconnected",
		send: func(ctx context.Context) (bool, error) { return c.accounts.RemoveAccount(ctx, id) },
	}
}

// errUnstorable says that a removal could come back with a restart.
var errUnstorable = errors.New("Vault's storage could not be written to, and what it has could be served again after a restart") //nolint:staticcheck // a name

// remove removes something at Pipedream, and then whatever the engine has of it. It goes
// on when its caller gives up. found is not set if Pipedream did not have it.
func (b *backend) remove(ctx context.Context, req *logical.Request, c *connection, r removal) (found bool, err error) {
	claim := b.budget.NewClaim(pace.Known, pace.Caller{Name: callerOf(req)})
	type outcome struct {
		found bool
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		o.err = guard.Run(b.Logger(), func() (err error) {
			o.found, err = b.removeNow(claim.With(b.ctx), c, r)
			return err
		})
		done <- o
	}()
	select {
	case o := <-done:
		return o.found, r.inWords(req, o.err)
	case <-ctx.Done():
		return false, logical.CodedError(http.StatusBadGateway, "the request ended before Pipedream answered: "+r.what+" may or may not be "+r.not)
	}
}

func (b *backend) removeNow(ctx context.Context, c *connection, r removal) (found bool, err error) {
	if err := c.holdOffs.CheckAll(); api.KindOf(err) == api.Throttled {
		return false, err
	}
	if err := c.view.Prepare(ctx, r.Removal); err != nil {
		c.view.Keep(ctx, r.Removal)
		if errors.Is(err, logical.ErrReadOnly) {
			return false, err
		}
		return false, errUnstorable
	}
	found, err = r.send(ctx)
	if err != nil && !api.MayBeDone(err) {
		c.view.Keep(ctx, r.Removal)
		return false, err
	}
	for _, now := range b.connections.since(c) {
		now.view.Remove(r.Removal)
		now.view.Lift(r.Removal)
		for _, u := range r.Users {
			now.forgetTokens(u.ExternalID)
		}
		if r.ExternalID != "" {
			now.forgetTokens(r.ExternalID)
		}
	}
	return found, err
}

// inWords returns an error that says what became of r.
func (r *removal) inWords(req *logical.Request, err error) error {
	var e *api.Error
	was := r.what + " was not " + r.not + ", and nothing was changed: "
	switch {
	case err == nil:
		return nil
	case errors.Is(err, logical.ErrReadOnly):
		return err
	case errors.Is(err, errUnstorable):
		return logical.CodedError(http.StatusInternalServerError, was+err.Error())
	case errors.Is(err, api.ErrNoPath):
		return badRequest("%s%s; do it in Pipedream", was, err)
	case !errors.As(err, &e), e.Undecided:
		detail := "the engine was stopped"
		if e != nil {
			detail = textOfRemoval(e)
		}
		return logical.CodedError(http.StatusBadGateway, fmt.Sprintf("%s may or may not be %s: %s. Nothing cached of it is served any more, "+
			"and the next read asks Pipedream. Do this again to be sure", r.what, r.not, detail))
	default:
		return logical.CodedError(e.HTTPStatus(), atMount(req, was+textOfRemoval(e)))
	}
}

// inProject returns the connection of a mount that serves a Connect project. There is
// nowhere else that accounts and users can be removed.
func (b *backend) inProject(ctx context.Context, req *logical.Request) (*connection, error) {
	c, err := b.connections.get(ctx, req.Storage)
	if err != nil {
		return nil, toLogical(req, err)
	}
	if c.config.ProjectID == "" {
		return nil, badRequest("this is for the accounts of a Connect project, and config has no project_id: do it in Pipedream")
	}
	return c, nil
}

// removedFields describes the answer to a delete.
func removedFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"disconnected": {Type: framework.TypeStringSlice, Required: true, Description: "Ids of the accounts that were disconnected."},
	}
}

func removedResponse(disconnected []string) *logical.Response {
	if disconnected == nil {
		disconnected = []string{}
	}
	return &logical.Response{Data: map[string]any{"disconnected": disconnected}}
}
