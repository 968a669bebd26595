package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// Kind says what went wrong between here and a credential.
type Kind int

// The kinds of failure.
const (
	// Unavailable: the network, a time-out, a 5xx, or an answer that is not Pipedream's.
	Unavailable Kind = iota + 1
	// BadAnswer: an answer that makes no sense.
	BadAnswer
	// TooLarge: an answer beyond one of the bounds of this package.
	TooLarge
	// Throttled: a 429, of Pipedream or of a gateway in front of it.
	Throttled
	// NoBudget: the mount's own limit is used up, so no request went out.
	NoBudget
	// Busy: so many accounts are being fetched that the turn of this one did not come
	// in time.
	Busy
	// KeyRefused: 401, or a refused OAuth client.
	KeyRefused
	// Unauthorized: a 401 about one account, while the key or client is good for others.
	Unauthorized
	// Forbidden: 403.
	Forbidden
	// NotFound: 404 or 410, or an answer that says so.
	NotFound
	// Rejected: 400 or 422.
	Rejected
	// PaymentRequired: 402.
	PaymentRequired
	// Dead: Pipedream can no longer refresh the account.
	Dead
	// NoCredentials: the account comes without credentials.
	NoCredentials
	// WrongAccount: the answer is about another account.
	WrongAccount
	// NoAccount: the external user has no account with the app.
	NoAccount
	// Expired: what Pipedream hands out has already ended.
	Expired
	// ListTooLong: the list has more pages than the budget has requests.
	ListTooLong

	numKinds
)

// fault is whose fault a failure is.
type fault int

const (
	// ofRequest: of this request. It may succeed the next time, and others may succeed now.
	ofRequest fault = iota
	// ofAccount: of the account or the user.
	ofAccount
	// ofNamed is like ofAccount if the error names an account. Otherwise it is about all
	// of them.
	ofNamed
	// ofAll: any other request would fail the same way now.
	ofAll
)

// kinds says of each kind what it is in words, for log lines; how a request that failed
// so ended, for metrics; which status a caller of the engine gets; and whose fault it is.
//
// The status is 400 also where Pipedream said 401, 403 or 404: Vault's clients take the
// first two for their own login failing, and drop the text of the last.
var kinds = [numKinds]struct {
	words, outcome string
	status         int
	fault          fault
}{
	0:               {"", "other", http.StatusBadGateway, ofRequest}, // an error of another package
	Unavailable:     {"Pipedream is not available", "unavailable", http.StatusBadGateway, ofRequest},
	BadAnswer:       {"Pipedream's answer could not be understood", "unavailable", http.StatusBadGateway, ofRequest},
	TooLarge:        {"Pipedream's answer is too large", "unavailable", http.StatusBadGateway, ofRequest},
	Throttled:       {"the rate limit is used up", "throttled", http.StatusTooManyRequests, ofAll},
	NoBudget:        {"the mount's budget of requests is used up", "other", http.StatusTooManyRequests, ofAll},
	Busy:            {"many accounts are being fetched", "other", http.StatusTooManyRequests, ofAll},
	KeyRefused:      {"Pipedream refused the API key or OAuth client", "refused", http.StatusBadRequest, ofAll},
	Unauthorized:    {"Pipedream refused the API key or OAuth client for this account", "refused", http.StatusBadRequest, ofRequest},
	Forbidden:       {"Pipedream refused access", "forbidden", http.StatusBadRequest, ofNamed},
	NotFound:        {"Pipedream does not know it", "not_found", http.StatusBadRequest, ofNamed},
	Rejected:        {"Pipedream rejected the request", "other", http.StatusBadRequest, ofRequest},
	PaymentRequired: {"Pipedream requires payment", "other", http.StatusBadRequest, ofRequest},
	Dead:            {"the account is dead", "other", http.StatusBadRequest, ofAccount},
	NoCredentials:   {"the account comes without credentials", "other", http.StatusBadRequest, ofAccount},
	WrongAccount:    {"the answer is about another account", "other", http.StatusBadGateway, ofAccount},
	NoAccount:       {"the external user has no account with the app", "other", http.StatusBadRequest, ofAccount},
	Expired:         {"the credentials have already expired", "other", http.StatusBadGateway, ofRequest},
	ListTooLong:     {"the list has more pages than the budget has requests", "other", http.StatusBadRequest, ofRequest},
}

// Error is a failure as a kind and facts. It never carries a body, a header or
// a key: Vault writes the texts of errors to its audit log in clear.
type Error struct {
	Kind Kind
	// Account is the id that was asked for; empty for none.
	Account string
	// Status is the HTTP status of the answer; 0 if there was none.
	Status int
	// Detail says more, in words of our own.
	Detail string
	// OAuth, Project, Environment and Scope say how and where Pipedream was asked.
	OAuth                       bool
	Project, Environment, Scope string
	// Product is what could not be made; empty if nothing was to be.
	Product Product
	// Removal is set if the request was to remove an account or a user. Undecided is set
	// if that may have been done in spite of e.
	Removal, Undecided bool
	// NotSent is set if no connection could be made, so that nothing was sent.
	NotSent bool
	// User and App say whose account was searched, for NoAccount. OtherClient is set if
	// there is one, but on another OAuth client.
	User, App   string
	OtherClient bool
	// Count is how many accounts a list has, for ListTooLong.
	Count int
	// Wait is how long to wait before another request can succeed; 0 if unknown.
	Wait time.Duration
}

// Error returns a text for log lines. It never names a user.
func (e *Error) Error() string {
	text := kinds[e.Kind].words
	if e.Product != "" {
		text = fmt.Sprintf("no %s could be made: %s", e.Product, text)
	}
	if e.Removal {
		text = "an account or a user could not be removed: " + text
	}
	if e.Status != 0 {
		text += fmt.Sprintf(" (HTTP %d)", e.Status)
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// WithWait returns a copy of e with the time that is left to wait.
func (e *Error) WithWait(wait time.Duration) error {
	held := *e
	held.Wait = wait
	return &held
}

// WithAccount returns a copy of e about an account.
func (e *Error) WithAccount(id string) *Error {
	about := *e
	about.Account = id
	return &about
}

// IsAccountFault reports whether the account or user itself is at fault. A cached
// credential is dropped then. After any other failure it stays. A refusal that names no
// account is about all of them.
func (e *Error) IsAccountFault() bool {
	fault := kinds[e.Kind].fault
	return fault == ofAccount || fault == ofNamed && e.Account != ""
}

// AffectsAll reports whether a request for any other account would fail the same way
// now.
func (e *Error) AffectsAll() bool { return kinds[e.Kind].fault == ofAll }

// HTTPStatus returns the status with which the engine answers its caller.
func (e *Error) HTTPStatus() int { return kinds[e.Kind].status }

// success is the outcome of a request that did not fail.
const success = "success"

// Outcome returns how a request ended, as metrics name it.
func Outcome(err error) string {
	if err == nil {
		return success
	}
	return kinds[KindOf(err)].outcome
}

// Outcomes returns all that [Outcome] can return.
func Outcomes() []string {
	all := []string{success}
	for _, k := range kinds {
		if !slices.Contains(all, k.outcome) {
			all = append(all, k.outcome)
		}
	}
	return all
}

// Unsent reports whether an error is about a request that was not sent, because its
// turn did not come in time.
func Unsent(err error) bool {
	kind := KindOf(err)
	return kind == NoBudget || kind == Busy
}

// KindOf returns the kind of an error of this package; 0 for any other error.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return 0
}

// IsAccountFault is like [Error.IsAccountFault]. It is false for errors of other packages.
func IsAccountFault(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.IsAccountFault()
}

// WithoutAccount returns err with a placeholder for the id of the account that it is
// about, for those who may not know which accounts others read.
func WithoutAccount(err error) error {
	var e *Error
	if !errors.As(err, &e) || e.Account == "" {
		return err
	}
	return e.WithAccount("<account_id>")
}

// WithOtherClient returns err, a NoAccount, as one about a user whose account is on
// another OAuth client.
func WithOtherClient(err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	other := *e
	other.OtherClient = true
	return &other
}

// WithAccount is like [Error.WithAccount]. Errors of other packages are returned as
// they are.
func WithAccount(err error, id string) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	return e.WithAccount(id)
}
