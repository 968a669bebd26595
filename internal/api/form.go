package api

import (
	"encoding/json"
	"slices"
	"strings"
)

// refusal is an error in Pipedream's own form.
type refusal struct {
	// said is what it says; empty if it names the fields that are wrong instead.
	said string
}

// notFound reports whether it says that there is no such thing.
func (r refusal) notFound() bool {
	return strings.Contains(strings.ToLower(r.said), errNotFound.Error())
}

// inForm reads an error in Pipedream's own form: an object whose member error is a
// text, or an object with lists of texts, and which has no members but those that
// Pipedream is known to add. ok is false for anything else. Gateways in front of
// Pipedream answer in JSON too, in forms of their own. What they say is about
// themselves, and not about an account, a key or a client.
func inForm(body []byte, more ...string) (r refusal, ok bool) {
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) != nil {
		return r, false
	}
	r.said = text(members["error"])
	if r.said == "" && !isComplaint(members["error"]) {
		return r, false
	}
	if isNull(members["data"]) { // which an error takes the place of
		delete(members, "data")
	}
	for _, known := range append([]string{"error", "code", "details"}, more...) {
		delete(members, known)
	}
	return r, len(members) == 0
}

// isComplaint reports whether raw says what is wrong with each field, as in
// {"account":["account and user mismatch"]}.
func isComplaint(raw json.RawMessage) bool {
	var fields map[string][]string
	if json.Unmarshal(raw, &fields) != nil {
		return false
	}
	for _, texts := range fields {
		if len(texts) == 0 {
			return false
		}
	}
	return len(fields) > 0
}

// clientErrors are the error codes of RFC 6749, section 5.2.
var clientErrors = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
}

// refusesClient reports whether a token endpoint refuses the client or its scope with
// this body: with any text in Pipedream's form, or with a code of RFC 6749 in the form
// of its section 5.2.
func refusesClient(body []byte) bool {
	if r, ok := inForm(body); ok {
		return r.said != ""
	}
	r, ok := inForm(body, "error_description", "error_uri")
	return ok && slices.Contains(clientErrors, r.said)
}

// decodeUser checks the answer for the user of an API key: {"data": {user}}, or the
// bare {user}.
func decodeUser(body []byte) error {
	var top map[string]json.RawMessage
	if json.Unmarshal(body, &top) != nil {
		return errNotJSON
	}
	var user map[string]json.RawMessage
	if json.Unmarshal(top["data"], &user) != nil {
		user = top
	}
	if isNull(user["id"]) {
		return errorInstead(body)
	}
	return nil
}

// errorInstead returns the error for a body of a 2xx that is not what was asked for.
func errorInstead(body []byte) error {
	switch r, ok := inForm(body); {
	case !ok:
		return errNotJSON
	case r.notFound():
		return errNotFound
	default:
		return errInstead
	}
}
