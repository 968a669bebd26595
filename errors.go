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
)

// failure says what kind of thing went wrong between here and a credential.
// It decides the HTTP code a caller gets, whether a cached credential
// survives, and what is held off.
type failure int

const (
	// failUnavailable: the network, a timeout, a 5xx, or an answer that makes no sense.
	failUnavailable failure = iota + 1
	// failThrottled: Pipedream's own 429.
	failThrottled
	// failNoBudget: rate_limit is used up, so no request went out.
	failNoBudget
	// failBusy: so many accounts are being fetched that this one's turn did not come.
	failBusy
	// failKeyRefused: 401, the key is wrong or revoked.
	failKeyRefused
	// failForbidden: 403, the key may not read this account.
	failForbidden
	// failUnknownAccount: 404, or "record not found".
	failUnknownAccount
	// failDead: Pipedream can no longer refresh the account.
	failDead
	// failNoCredentials: the account comes without credentials.
	failNoCredentials
	// failWrongAccount: the answer is about another account.
	failWrongAccount
	// failNoAccount: the external user has no healthy account with the app.
	failNoAccount
	// failExpired: what Pipedream hands out has already ended.
	failExpired
)

// apiError is what the client and the cache return: a kind, and words of our
// own. It never carries an upstream body, a header or a key, because Vault
// writes error texts to the audit log in clear.
type apiError struct {
	kind    failure
	account string
	// detail says what failed, for failUnavailable, and more of what the matter
	// is, for failDead and failNoCredentials.
	detail string
	// oauth, project and environment say how and where the account was asked for.
	oauth                bool
	project, environment string
	// user is whose account was looked for, for failNoAccount.
	user user
	// retryAfter is how long to wait before asking again can help; 0 if unknown.
	retryAfter time.Duration
}

func (e *apiError) Error() string {
	switch e.kind {
	case failThrottled:
		return "Pipedream's rate limit is used up (its answer was 429); " + e.again()
	case failNoBudget:
		return "the mount's budget of requests to Pipedream is used up (rate_limit in config); " + e.again()
	case failBusy:
		return "many accounts are being fetched from Pipedream just now, and this one's turn has not come; " + e.again()
	case failKeyRefused:
		if e.oauth {
			return "Pipedream refused the OAuth client: its id or secret is wrong, it was deleted, or it may not use the scope or project in <mount>/config. " +
				"Check the client in Pipedream's settings and store it with: vault write <mount>/config client_id=... client_secret=-"
		}
		return "Pipedream refused the API key (its answer was 401): it is wrong or was revoked. " +
			"Create a key in Pipedream's settings and store it with: vault write <mount>/config api_key=-"
	case failForbidden:
		if e.account == "" {
			return fmt.Sprintf("Pipedream refused access to the accounts%s (its answer was 403): the %s in <mount>/config "+
				"may not read them. Give it access in Pipedream, or store another%s", e.where(), e.key(), e.scope())
		}
		return fmt.Sprintf("Pipedream refused access to account %s (its answer was 403): the %s in <mount>/config "+
			"may not read it. Give it access to the account in Pipedream, or store another%s", e.account, e.key(), e.scope())
	case failUnknownAccount:
		if e.account == "" {
			return fmt.Sprintf("Pipedream has no accounts%s (its answer was 404): check project_id and base_url in <mount>/config", e.where())
		}
		return fmt.Sprintf("Pipedream does not know account %s%s, or the %s in <mount>/config cannot see it. "+
			"List what it sees with: vault list <mount>/accounts", e.account, e.where(), e.key())
	case failDead:
		return fmt.Sprintf("account %s is dead: Pipedream can no longer refresh its credentials%s. "+
			"Reconnect the account in Pipedream; for the reason it gives: vault read <mount>/accounts/%s", e.account, e.detail, e.account)
	case failNoCredentials:
		return fmt.Sprintf("Pipedream returned no credentials for account %s%s. Accounts that use Pipedream's own OAuth client, "+
			"or that are not fully connected, come without: reconnect it in Pipedream with an OAuth client of your own", e.account, e.detail)
	case failWrongAccount:
		return fmt.Sprintf("Pipedream answered for another account than %s; nothing of that answer was kept", e.account)
	case failExpired:
		return fmt.Sprintf("the credentials that Pipedream hands out for account %s have already expired. "+
			"Reconnect the account in Pipedream if this lasts", e.account)
	case failNoAccount:
		return fmt.Sprintf("external user %q has no healthy account with app %q%s: connect one in Pipedream, or reconnect it there",
			e.user.externalID, e.user.app, e.where())
	default:
		return "Pipedream is not available: " + e.detail
	}
}

// key names what Pipedream was asked with.
func (e *apiError) key() string {
	if e.oauth {
		return "OAuth client"
	}
	return "API key"
}

// scope names what else can be too narrow for an OAuth client.
func (e *apiError) scope() string {
	if e.oauth {
		return "; the scope in <mount>/config may be too narrow, too"
	}
	return ""
}

func (e *apiError) where() string {
	if e.project == "" {
		return ""
	}
	return fmt.Sprintf(" in project %s, environment %s", e.project, e.environment)
}

// isRefusal tells whether Pipedream refused what it was asked with.
func isRefusal(err error) bool {
	var api *apiError
	return errors.As(err, &api) && api.kind == failKeyRefused
}

// isOfAccount tells whether err is the account's own fault.
func isOfAccount(err error) bool {
	var api *apiError
	return errors.As(err, &api) && api.ofAccount()
}

// isUnavailable tells whether err is Pipedream's, or the network's.
func isUnavailable(err error) bool {
	var api *apiError
	return errors.As(err, &api) && api.kind == failUnavailable
}

// isOfMount tells whether every other account would meet err now.
func isOfMount(err error) bool {
	var api *apiError
	return errors.As(err, &api) && api.ofMount()
}

// withAccount returns err as one about account.
func withAccount(err error, account string) error {
	var api *apiError
	if !errors.As(err, &api) {
		return err
	}
	about := *api
	about.account = account
	return &about
}

func (e *apiError) again() string {
	seconds := max(1, int(math.Ceil(e.retryAfter.Seconds())))
	return fmt.Sprintf("try again in %d s", seconds)
}

// ofAccount tells whether the account itself is at fault. Its cached
// credential is then dropped; after any other failure it stays.
func (e *apiError) ofAccount() bool {
	switch e.kind {
	case failForbidden, failUnknownAccount, failDead, failNoCredentials, failWrongAccount, failNoAccount:
		return true
	default:
		return false
	}
}

// ofMount tells whether every other account would meet the same failure now.
func (e *apiError) ofMount() bool {
	switch e.kind {
	case failThrottled, failNoBudget, failBusy, failKeyRefused:
		return true
	default:
		return false
	}
}

func (e *apiError) httpStatus() int {
	switch e.kind {
	case failThrottled, failNoBudget, failBusy:
		return http.StatusTooManyRequests
	case failKeyRefused, failForbidden, failUnknownAccount, failDead, failNoCredentials, failNoAccount:
		// 400 also where Pipedream said 401, 403 or 404: Vault's clients take
		// the first two for their own login failing, and drop the text of the last.
		return http.StatusBadRequest
	default:
		return http.StatusBadGateway
	}
}

// toLogical turns an error of the client or the cache into the one a path
// returns. The coded error must not be wrapped: its code would be lost on the
// plugin's gRPC.
//
// Texts name commands by the path the engine is mounted at.
func toLogical(req *logical.Request, err error) error {
	var api *apiError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &api):
		return logical.CodedError(api.httpStatus(), atMount(req, api.Error()))
	case errors.Is(err, errNotConfigured):
		return logical.CodedError(http.StatusBadRequest, atMount(req, err.Error()))
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return logical.CodedError(http.StatusBadGateway, "the request ended before Pipedream answered")
	default:
		return err
	}
}

var errNotConfigured = errors.New("the engine is not configured yet; " +
	"store a Pipedream API key with: vault write <mount>/config api_key=- (or an OAuth client: see vault path-help <mount>/config)")

// logText is err's text for a log line, which names the mount by itself.
func logText(err error) string { return strings.ReplaceAll(err.Error(), "<mount>/", "") }

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
