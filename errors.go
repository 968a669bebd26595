package pipedream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/cache"
)

// text is what a caller is told about a failure, and what to do about it. The
// path of the mount goes where it says <mount>/. Vault writes it to the audit
// log in clear, so it is made of facts and words of our own alone.
func text(e *api.Error) string {
	if e.Product != "" {
		return textOfProduct(e)
	}
	if e.Removal {
		return textOfRemoval(e)
	}
	switch e.Kind {
	case api.Throttled:
		return "the rate limit of Pipedream, or of a gateway in front of it, is used up (HTTP 429); " + again(e)
	case api.NoBudget:
		return "the mount's budget of requests to Pipedream is used up (rate_limit in config); " + again(e)
	case api.Busy:
		return "many accounts are being fetched from Pipedream, and this one is still waiting; " + again(e)
	case api.KeyRefused:
		if e.OAuth {
			return "Pipedream refused the OAuth client: its id or secret is wrong, it was deleted, or it may not use the scope or project in <mount>/config. " +
				"Check the client in Pipedream's settings and store it with: " + cli + " write <mount>/config client_id=... client_secret=-"
		}
		return "Pipedream refused the API key (HTTP 401): it is wrong or was revoked. " +
			"Create a key in Pipedream's settings and store it with: " + cli + " write <mount>/config api_key=-"
	case api.BadAnswer:
		return "Pipedream is not available: its answer could not be understood: " + e.Detail
	case api.TooLarge:
		return fmt.Sprintf("Pipedream's answer%s is too large: %s", about(e), e.Detail)
	case api.Unavailable:
		return "Pipedream is not available: " + e.Detail
	case api.ListTooLong:
		return fmt.Sprintf("listing %d accounts takes more requests than rate_limit in <mount>/config allows for lists. "+
			"List those of one app or user with: "+cli+" read -format=json <mount>/accounts list=true app=github, or raise rate_limit", e.Count)
	default:
		return textOfAccount(e)
	}
}

// textOfAccount is text for what is wrong with one account, or one user.
func textOfAccount(e *api.Error) string {
	switch e.Kind {
	case api.Unauthorized:
		return fmt.Sprintf("Pipedream refused the %s only for account %s (HTTP 401). "+
			"Check in Pipedream whether it may read the account, or reconnect the account", key(e), e.Account)
	case api.Forbidden:
		if e.Account == "" {
			return fmt.Sprintf("Pipedream refused access to the accounts%s (HTTP %d): the %s in <mount>/config "+
				"may not read them. Give it access in Pipedream, or store another%s", where(e), e.Status, key(e), scope(e))
		}
		return fmt.Sprintf("Pipedream refused access to account %s (HTTP %d): the %s in <mount>/config "+
			"may not read it. Give it access to the account in Pipedream, or store another%s", e.Account, e.Status, key(e), scope(e))
	case api.NotFound:
		if e.Account == "" {
			return fmt.Sprintf("Pipedream has no accounts%s%s: check project_id and base_url in <mount>/config", where(e), withStatus(e))
		}
		if e.Status == http.StatusGone {
			return fmt.Sprintf("account %s is gone (HTTP 410): it was deleted. "+
				"List what there is with: "+cli+" list <mount>/accounts", e.Account)
		}
		return fmt.Sprintf("Pipedream does not know account %s%s, or the %s in <mount>/config cannot see it. "+
			"List what it sees with: "+cli+" list <mount>/accounts", e.Account, where(e), key(e))
	case api.Rejected:
		return fmt.Sprintf("Pipedream rejected the request%s (HTTP %d): check project_id, environment, org_id and base_url in <mount>/config",
			about(e), e.Status)
	case api.PaymentRequired:
		return "Pipedream requires payment (HTTP 402): check the plan and the billing of the workspace in Pipedream's settings"
	case api.Dead:
		return fmt.Sprintf("account %s is dead: Pipedream can no longer refresh its credentials%s. "+
			"Reconnect the account in Pipedream; for the reason it gives: "+cli+" read <mount>/accounts/%s", e.Account, brackets(e.Detail), e.Account)
	case api.NoCredentials:
		return fmt.Sprintf("Pipedream returned no credentials for account %s%s. Accounts that use Pipedream's own OAuth client, "+
			"or that are not fully connected, have none: reconnect it in Pipedream with an OAuth client of your own, "+
			"or use it through Pipedream's proxy with a role of credential_type=connect_token", e.Account, space(e.Detail))
	case api.WrongAccount:
		return fmt.Sprintf("Pipedream answered for another account than %s; the answer was discarded", e.Account)
	case api.Expired:
		return fmt.Sprintf("the credentials that Pipedream hands out for account %s have already expired. "+
			"Reconnect the account in Pipedream if this lasts", e.Account)
	case api.NoAccount:
		if e.OtherClient {
			return fmt.Sprintf("external user %q has an account with app %q%s, but connected with another OAuth client than oauth_app_id, "+
				"which is the role's. Accounts on Pipedream's own client come without credentials. Check oauth_app_id of the role, and that the client is one of Pipedream's workspace",
				e.User, e.App, where(e))
		}
		return fmt.Sprintf("external user %q has no healthy account with app %q%s: connect or reconnect one in Pipedream",
			e.User, e.App, where(e))
	default:
		return e.Error()
	}
}

// textOfProduct is text for why there is no Connect link, or no token.
func textOfProduct(e *api.Error) string {
	product := string(e.Product)
	switch e.Kind {
	case api.Throttled:
		if e.Product == api.AccessToken {
			return "Pipedream hands out no more access tokens at the moment (HTTP 429); " + again(e)
		}
		return fmt.Sprintf("there are no more %ss for this external user at the moment (HTTP 429); ", product) + again(e)
	case api.NoBudget:
		return fmt.Sprintf("the mount has reached its limit of %ss for this minute; ", product) + again(e)
	case api.KeyRefused:
		return fmt.Sprintf("Pipedream refused the OAuth client for %ss: its id or secret is wrong, it was deleted, or it may not use the scope %s%s. "+
			"Allow the client that scope in Pipedream's settings, or store another with: "+cli+" write <mount>/config client_id=... client_secret=-",
			product, e.Scope, where(e))
	case api.Forbidden:
		return fmt.Sprintf("Pipedream refused to make a %s%s (HTTP %d): the OAuth client in <mount>/config may not use the scope %s. "+
			"Allow it that scope in Pipedream's settings, or store another client", product, where(e), e.Status, e.Scope)
	case api.NotFound:
		return fmt.Sprintf("Pipedream knows no project %s%s, so there are no %ss: check project_id and base_url in <mount>/config", e.Project, withStatus(e), product)
	case api.Rejected:
		if e.Product == api.ConnectToken {
			return fmt.Sprintf("Pipedream rejected the request for a Connect token%s (HTTP %d): check the role's scope, token_ttl and allowed_origins, "+
				"and project_id and environment in <mount>/config", where(e), e.Status)
		}
		return fmt.Sprintf("Pipedream rejected the request for a Connect link%s (HTTP %d): check connect_token_scope, project_id and environment in <mount>/config",
			where(e), e.Status)
	default:
		plain := *e
		plain.Product = ""
		return fmt.Sprintf("no %s could be made: ", product) + text(&plain)
	}
}

// textOfHealthy says what a link could do with a user's healthy accounts.
func textOfHealthy(req *logical.Request, e *cache.HealthyError) string {
	others := ""
	if n := len(e.Accounts) - 1; n > 0 {
		others = fmt.Sprintf(" (one of %d)", n+1)
	}
	return fmt.Sprintf("account %s (%q) is connected and healthy%s, and whoever opens a link to it replaces its credentials. Say what you want with one of: "+
		"reconnect=true signs in to it again; account=<id or name> signs in to that one again; new=true connects another one beside it. For example: "+
		cli+" write <mount>/%s reconnect=true", e.Account.ID, e.Account.Name, others, req.Path)
}

// roleError is an error of a read through a role.
type roleError struct {
	error

	connect string // path of the links for the same account
	ofUser  bool   // whether it is a role for an external user
}

func (e *roleError) Unwrap() error { return e.error }

// advice is what a reader can do by themselves about an error.
func advice(err error, kind api.Kind) string {
	var role *roleError
	var e *api.Error
	switch {
	case !errors.As(err, &role) || !role.ofUser || !errors.As(err, &e):
		return ""
	case kind == api.NoAccount && !e.OtherClient:
		return ". For a link that does so: " + cli + " write -force <mount>/" + role.connect
	case kind == api.Expired:
		return ". For a link that does so: " + cli + " write <mount>/" + role.connect + " reconnect=true"
	default:
		return ""
	}
}

// key names what Pipedream was asked with.
func key(e *api.Error) string {
	if e.OAuth {
		return "OAuth client"
	}
	return "API key"
}

// scope names what else can be too narrow for an OAuth client.
func scope(e *api.Error) string {
	if e.OAuth {
		return "; the scope in <mount>/config may be too narrow, too"
	}
	return ""
}

// where names the Connect project that was asked about.
func where(e *api.Error) string {
	if e.Project == "" {
		return ""
	}
	return fmt.Sprintf(" in project %s, environment %s", e.Project, e.Environment)
}

// withStatus names the status of the answer, unless it was a 2xx.
func withStatus(e *api.Error) string {
	if e.Status == 0 {
		return ""
	}
	return fmt.Sprintf(" (HTTP %d)", e.Status)
}

func about(e *api.Error) string {
	if e.Account == "" {
		return ""
	}
	return " for account " + e.Account
}

func brackets(detail string) string {
	if detail == "" {
		return ""
	}
	return " (" + detail + ")"
}

func space(detail string) string {
	if detail == "" {
		return ""
	}
	return " " + detail
}

// again tells when to come again.
func again(e *api.Error) string {
	return fmt.Sprintf("try again in %d s", max(1, int(math.Ceil(e.Wait.Seconds()))))
}

// errorText is [text] for any error.
func errorText(err error) string {
	var e *api.Error
	if errors.As(err, &e) {
		return text(e)
	}
	return err.Error()
}

// toLogical turns an error of the client or the cache into the one a path
// returns. The coded error must not be wrapped: its code would be lost on the
// plugin's gRPC.
//
// Texts name commands by the path the engine is mounted at.
func toLogical(req *logical.Request, err error) error {
	var e *api.Error
	var choice *cache.ChoiceError
	var healthy *cache.HealthyError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return logical.CodedError(e.HTTPStatus(), atMount(req, text(e)+advice(err, e.Kind)))
	case errors.As(err, &choice):
		return logical.CodedError(http.StatusBadRequest, textOfChoice(choice))
	case errors.As(err, &healthy):
		return logical.CodedError(http.StatusBadRequest, atMount(req, textOfHealthy(req, healthy)))
	case errors.Is(err, errNotConfigured):
		return logical.CodedError(http.StatusBadRequest, atMount(req, err.Error()))
	case errors.Is(err, cache.ErrUserUnread):
		return logical.CodedError(http.StatusInternalServerError, cache.ErrUserUnread.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return logical.CodedError(http.StatusBadGateway, "the request ended before Pipedream answered")
	default:
		return err
	}
}

// refuse is [toLogical] for a read or refresh of credentials, which it counts.
func (b *backend) refuse(req *logical.Request, err error) error {
	answer := toLogical(req, err)
	if coded, ok := answer.(logical.HTTPCodedError); ok { //nolint:errorlint // a wrapped one would lose its code on gRPC
		path, _, _ := strings.Cut(req.Path, "/")
		b.stats.refused(path, coded.Code())
	}
	return answer
}

// differentClock says how far this server's clock is ahead of Pipedream's.
func differentClock(ahead time.Duration) string {
	if ahead < 0 {
		return fmt.Sprintf("the clock of this server is %d s behind Pipedream's", int(-ahead.Seconds()))
	}
	return fmt.Sprintf("the clock of this server is %d s ahead of Pipedream's", int(ahead.Seconds()))
}

var errNotConfigured = errors.New("the engine is not configured yet; " +
	"store a Pipedream API key with: " + cli + " write <mount>/config api_key=- (or an OAuth client: see " + cli + " path-help <mount>/config)")

// atMount puts the path of the mount where a text says <mount>/.
func atMount(req *logical.Request, text string) string {
	if req.MountPoint == "" {
		return text
	}
	return strings.ReplaceAll(text, "<mount>/", req.MountPoint)
}

// badRequest is the answer to a caller's mistake.
func badRequest(format string, args ...any) error {
	return logical.CodedError(http.StatusBadRequest, fmt.Sprintf(format, args...))
}
