package pipedream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// verify checks that Pipedream accepts the key or client of c. The result does not
// show in status, because the mount does not use c before it is stored. Some of the
// budget is reserved for this. The answers do not tell the time: they may not be
// Pipedream's. none is set if the check saw that there are no accounts.
func (b *backend) verify(ctx context.Context, c *config) (none bool, err error) {
	claim := b.budget.NewClaim(pace.Check, pace.Caller{})
	there, err := b.reach(c)
	if err != nil {
		return false, err
	}
	client := b.newClient(claim.With(b.ctx), c, there, nil, backoff.NewHoldOffs(), newStats()) // the token of the client is part of the check
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, c.RequestTimeout)
	defer cancel()
	return client.Verify(claim.With(ctx))
}

// verifyError returns the error for a write whose key or client was not accepted or
// could not be checked.
func verifyError(req *logical.Request, c *config, err error) error {
	var e *api.Error
	if !errors.As(err, &e) {
		return toLogical(req, err)
	}
	given, were, have := fieldAPIKey, "it was", "has"
	if c.ClientID != "" {
		given, were, have = "client_id and client_secret", "they were", "have"
	}
	unchecked := given + " could not be checked and nothing was changed: "
	switch {
	case e.Kind == api.NotFound:
		missing := "there is no Pipedream API at base_url"
		if c.ProjectID != "" {
			missing += ", or no project " + c.ProjectID
		}
		return badRequest("%s%s%s: check that base_url ends in /v1. To skip the check, add verify=false", unchecked, missing, withStatus(e))
	case e.Kind == api.Forbidden:
		return badRequest("Pipedream accepts %s, but not for the accounts%s (HTTP 403); nothing was changed. %s",
			given, whereAsked(e), widerScope(c))
	case e.Kind != api.KeyRefused:
		return logical.CodedError(e.HTTPStatus(), unchecked+atMount(req, textOf(e))+whereElse(e, c)+". To skip the check, add verify=false")
	case c.ProjectID != "":
		return badRequest("Pipedream refused %s for project_id %s, environment %s; nothing was changed. "+
			"Check that they belong together, have the scope asked for and have not been revoked%s", given, c.ProjectID, c.Environment, alsoVersion(c))
	default:
		return badRequest("Pipedream refused %s; nothing was changed. Check that %s copied completely and %s not been revoked%s", given, were, have, alsoVersion(c))
	}
}

// alsoVersion returns what else to check if base_url may lack the version of the API.
func alsoVersion(c *config) string {
	if strings.HasSuffix(c.BaseURL, "/v1") {
		return ""
	}
	return ", and that base_url ends in /v1"
}

// whereElse returns what to check if the answer seems to be somebody else's.
func whereElse(e *api.Error, c *config) string {
	switch {
	case e.Kind != api.BadAnswer && (e.Kind != api.Unavailable || e.Status < 400 || e.Status >= 500):
		return ""
	case c.ProjectID == "":
		return ". Check that base_url is that of Pipedream's API and ends in /v1"
	default:
		return ". Check that base_url is that of Pipedream's API and ends in /v1, and check project_id"
	}
}

// widerScope returns what to do about a 403.
func widerScope(c *config) string {
	switch {
	case c.ClientID == "":
		return "Check that the key's user can see the workspace"
	case c.Scope == "":
		return "Check what the client may do in Pipedream's settings"
	case c.ProjectID == "":
		return fmt.Sprintf("Its scope is %q, which may be for Connect projects alone: set project_id, or another scope", c.Scope)
	default:
		return fmt.Sprintf("Its scope is %q: check that the client may use it, and that the project is the client's", c.Scope)
	}
}
