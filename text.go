package pipedream

import (
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

// textOf is what a caller is told about a failure, and what to do about it. The
// path of the mount goes where it says <mount>/. Vault writes it to the audit
// log in clear, so it is made of facts and words of our own alone.
func textOf(e *api.Error) string {
	if e.Product != "" {
		return textOfProduct(e)
	}
	if e.Removal {
		return textOfRemoval(e)
	}
	switch e.Kind {
	case api.Throttled:
		return "the rate limit of Pipedream, or of a gateway in front of it, is used up (HTTP 429); " + whenAgain(e)
	case api.NoBudget:
		return "the mount's budget of requests to Pipedream is used up (rate_limit in config); " + whenAgain(e)
	case api.Busy:
		return "many accounts are being fetched from Pipedream, and this one is still waiting; " + whenAgain(e)
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
		return fmt.Sprintf("Pipedream's answer%s is too large: %s", forAccount(e), e.Detail)
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
			"Check in Pipedream whether it may read the account, or reconnect the account", askedWith(e), e.Account)
	case api.Forbidden:
		if e.Account == "" {
			return fmt.Sprintf("Pipedream refused access to the accounts%s (HTTP %d): the %s in <mount>/config "+
				"may not read them. Give it access in Pipedream, or store another%s", whereAsked(e), e.Status, askedWith(e), scopeHint(e))
		}
		return fmt.Sprintf("Pipedream refused access to account %s (HTTP %d): the %s in <mount>/config "+
			"may not read it. Give it access to the account in Pipedream, or store another%s", e.Account, e.Status, askedWith(e), scopeHint(e))
	case api.NotFound:
		if e.Account == "" {
			return fmt.Sprintf("Pipedream has no accounts%s%s: check project_id and base_url in <mount>/config", whereAsked(e), withStatus(e))
		}
		if e.Status == http.StatusGone {
			return fmt.Sprintf("account %s is gone (HTTP 410): it was deleted. "+
				"List what there is with: "+cli+" list <mount>/accounts", e.Account)
		}
		return fmt.Sprintf("Pipedream does not know account %s%s, or the %s in <mount>/config cannot see it. "+
			"List what it sees with: "+cli+" list <mount>/accounts", e.Account, whereAsked(e), askedWith(e))
	case api.Rejected:
		return fmt.Sprintf("Pipedream rejected the request%s (HTTP %d): check project_id, environment, org_id and base_url in <mount>/config",
			forAccount(e), e.Status)
	case api.PaymentRequired:
		return "Pipedream requires payment (HTTP 402): check the plan and the billing of the workspace in Pipedream's settings"
	case api.Dead:
		return fmt.Sprintf("account %s is dead: Pipedream can no longer refresh its credentials%s. "+
			"Reconnect the account in Pipedream; for the reason it gives: "+cli+" read <mount>/accounts/%s", e.Account, bracketed(e.Detail), e.Account)
	case api.NoCredentials:
		return fmt.Sprintf("Pipedream returned no credentials for account %s%s. Accounts that use Pipedream's own OAuth client, "+
			"or that are not fully connected, have none: reconnect it in Pipedream with an OAuth client of your own, "+
			"or use it through Pipedream's proxy with a role of credential_type=connect_token", e.Account, spaced(e.Detail))
	case api.WrongAccount:
		return fmt.Sprintf("Pipedream answered for another account than %s; the answer was discarded", e.Account)
	case api.Expired:
		return fmt.Sprintf("the credentials that Pipedream hands out for account %s have already expired. "+
			"Reconnect the account in Pipedream if this lasts", e.Account)
	case api.NoAccount:
		if e.OtherClient {
			return fmt.Sprintf("external user %q has an account with app %q%s, but it is connected with an OAuth client other than the role's oauth_app_id. "+
				"Accounts on Pipedream's own client come without credentials. Check the role's oauth_app_id, and that the client belongs to the workspace in Pipedream",
				e.User, e.App, whereAsked(e))
		}
		return fmt.Sprintf("external user %q has no healthy account with app %q%s: connect or reconnect one in Pipedream",
			e.User, e.App, whereAsked(e))
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
			return "Pipedream hands out no more access tokens at the moment (HTTP 429); " + whenAgain(e)
		}
		return fmt.Sprintf("there are no more %ss for this external user at the moment (HTTP 429); ", product) + whenAgain(e)
	case api.NoBudget:
		return fmt.Sprintf("the mount has reached its limit of %ss for this minute; ", product) + whenAgain(e)
	case api.KeyRefused:
		return fmt.Sprintf("Pipedream refused the OAuth client for %ss: its id or secret is wrong, it was deleted, or it may not use the scope %s%s. "+
			"Allow the client that scope in Pipedream's settings, or store another with: "+cli+" write <mount>/config client_id=... client_secret=-",
			product, e.Scope, whereAsked(e))
	case api.Forbidden:
		return fmt.Sprintf("Pipedream refused to make a %s%s (HTTP %d): the OAuth client in <mount>/config may not use the scope %s. "+
			"Allow it that scope in Pipedream's settings, or store another client", product, whereAsked(e), e.Status, e.Scope)
	case api.NotFound:
		return fmt.Sprintf("Pipedream does not know project %s%s, so there are no %ss: check project_id and base_url in <mount>/config", e.Project, withStatus(e), product)
	case api.Rejected:
		if e.Product == api.ConnectToken {
			return fmt.Sprintf("Pipedream rejected the request for a Connect token%s (HTTP %d): check the role's scope, token_ttl and allowed_origins, "+
				"and project_id and environment in <mount>/config", whereAsked(e), e.Status)
		}
		return fmt.Sprintf("Pipedream rejected the request for a Connect link%s (HTTP %d): check connect_token_scope, project_id and environment in <mount>/config",
			whereAsked(e), e.Status)
	default:
		plain := *e
		plain.Product = ""
		return fmt.Sprintf("no %s could be made: ", product) + textOf(&plain)
	}
}

// textOfRemoval is text for why something was not removed.
func textOfRemoval(e *api.Error) string {
	switch e.Kind {
	case api.KeyRefused:
		return fmt.Sprintf("Pipedream refused the OAuth client for this: its id or secret is wrong, it was deleted, or it may not use the scope %s%s. "+
			"Allow the client that scope in Pipedream's settings, or store another with: "+cli+" write <mount>/config client_id=... client_secret=-",
			e.Scope, whereAsked(e))
	case api.Forbidden:
		return fmt.Sprintf("Pipedream refused it%s (HTTP %d): the OAuth client in <mount>/config may not use the scope %s. "+
			"Allow it that scope in Pipedream's settings, or store another client", whereAsked(e), e.Status, e.Scope)
	case api.Rejected:
		return fmt.Sprintf("Pipedream rejected the request%s (HTTP %d): check project_id and environment in <mount>/config", whereAsked(e), e.Status)
	default:
		plain := *e
		plain.Removal = false
		return textOf(&plain)
	}
}

// textOfHealthy says what a link could do with a user's healthy accounts.
func textOfHealthy(req *logical.Request, e *cache.HealthyError) string {
	others := ""
	if n := len(e.Accounts) - 1; n > 0 {
		others = fmt.Sprintf(" (one of %d)", n+1)
	}
	return fmt.Sprintf("account %s (%q) is connected and healthy%s, and whoever opens a link to it replaces its credentials. Say what you want with one of: "+
		"reconnect=true signs in to it again; account=<id or name> signs in to that one again; new=true connects another one as well. For example: "+
		cli+" write <mount>/%s reconnect=true", e.Account.ID, e.Account.Name, others, req.Path)
}

// textOfChoice tells the user which accounts there are to choose from.
func textOfChoice(e *cache.ChoiceError) string {
	problem := fmt.Sprintf("there is no account %q", e.Named)
	if e.Matches > 1 {
		problem = fmt.Sprintf("%d accounts are named %q: choose one by its id", e.Matches, e.Named)
	}
	return problem + ". The external user's accounts with the app are " + listOfAccounts(e.Accounts)
}

// maxChoices is how many accounts an error about a choice lists.
const maxChoices = 20

// listOfAccounts names accounts by id and name.
func listOfAccounts(accounts []*cache.Owned) string {
	var list []string
	for _, a := range accounts[:min(len(accounts), maxChoices)] {
		text := a.ID
		if a.Name != "" {
			text += fmt.Sprintf(" (%q)", a.Name)
		}
		list = append(list, text)
	}
	if more := len(accounts) - maxChoices; more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(list, ", ")
}

// askedWith names what Pipedream was asked with.
func askedWith(e *api.Error) string {
	if e.OAuth {
		return "OAuth client"
	}
	return "API key"
}

// scopeHint names what else can be too narrow for an OAuth client.
func scopeHint(e *api.Error) string {
	if e.OAuth {
		return "; the scope in <mount>/config may be too narrow, too"
	}
	return ""
}

// whereAsked names the Connect project that was asked about.
func whereAsked(e *api.Error) string { return ofProject(e.Project, e.Environment) }

// ofProject names a Connect project, if there is one.
func ofProject(id, environment string) string {
	if id == "" {
		return ""
	}
	return fmt.Sprintf(" in project %s, environment %s", id, environment)
}

// withStatus names the status of the answer, unless it was a 2xx.
func withStatus(e *api.Error) string {
	if e.Status == 0 {
		return ""
	}
	return fmt.Sprintf(" (HTTP %d)", e.Status)
}

func forAccount(e *api.Error) string {
	if e.Account == "" {
		return ""
	}
	return " for account " + e.Account
}

func bracketed(detail string) string {
	if detail == "" {
		return ""
	}
	return " (" + detail + ")"
}

func spaced(detail string) string {
	if detail == "" {
		return ""
	}
	return " " + detail
}

// whenAgain tells when to come again.
func whenAgain(e *api.Error) string {
	return fmt.Sprintf("try again in %d s", max(1, int(math.Ceil(e.Wait.Seconds()))))
}

// errorText is [textOf] for any error.
func errorText(err error) string {
	var e *api.Error
	if errors.As(err, &e) {
		return textOf(e)
	}
	return err.Error()
}

// differentClock says how far this server's clock is ahead of Pipedream's.
func differentClock(ahead time.Duration) string {
	if ahead < 0 {
		return fmt.Sprintf("the clock of this server is %d s behind Pipedream's", int(-ahead.Seconds()))
	}
	return fmt.Sprintf("the clock of this server is %d s ahead of Pipedream's", int(ahead.Seconds()))
}
