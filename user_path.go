package pipedream

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/go-secure-stdlib/strutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// An external user id in a path has exactly one written form, one segment that every
// client, and Vault itself, passes on as it is. Policies, leases and the audit log know
// a user by that form. So there must be no second one.
//
// An id is written as it is, if plainUser matches it. Any other is written as
// base64url without padding, after encodedUser. Vault makes no lease for a path with
// "..", its Go client cleans "." and ".." away, and "+" alone is a wildcard in policies.

// encodedUser is how the written form of an id begins that cannot be written as it is.
const encodedUser = "b64:"

// plainUser matches ids without "..", ".", "+" and encodedUser that are written as they
// are. None of its characters has a meaning in a path, a policy, a shell or a template.
var plainUser = regexp.MustCompile(`^[A-Za-z0-9@:_.~+-]+$`)

// maxUserSegment is the length of the longest written form: maxExternalUserID
// characters of four bytes each.
var maxUserSegment = len(encodedUser) + base64.RawURLEncoding.EncodedLen(4*maxExternalUserID)

// segmentOfUser returns the written form of an external user id.
func segmentOfUser(id string) string {
	if plainUser.MatchString(id) && !strings.Contains(id, "..") && id != "." && id != "+" && !strings.HasPrefix(id, encodedUser) {
		return id
	}
	return encodedUser + base64.RawURLEncoding.EncodeToString([]byte(id))
}

// userOfSegment returns the external user id whose written form segment is. It refuses
// every other form, and says which one is right.
func userOfSegment(segment string) (id string, err error) {
	if len(segment) > maxUserSegment {
		return "", badRequest("the external user id in the path is longer than %d characters", maxExternalUserID)
	}
	id = segment
	if encoded, ok := strings.CutPrefix(segment, encodedUser); ok {
		decoded, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
		if err != nil {
			return "", badRequest("what follows %s in the path must be an external user id in base64url (RFC 4648, section 5) without padding", encodedUser)
		}
		id = string(decoded)
	}
	if err := checkExternalUserID(id); err != nil {
		return "", err
	}
	if written := segmentOfUser(id); written != segment {
		return "", badRequest("this external user id is written %s in a path", written)
	}
	return id, nil
}

// nameRegex matches the part of a path that names an account or a role, and the external
// user after it, if there is one.
func nameRegex() string {
	return framework.GenericNameRegex(fieldName) + framework.OptionalParamRegex(fieldUser)
}

// forUserToo returns the end of an operation's id in the OpenAPI document, for a path by
// [nameRegex]: without a user in the path, and with one.
func forUserToo(suffix string) string { return suffix + "|user-" + suffix }

// userField describes the external user in a path.
func userField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type: framework.TypeString,
		Description: "External user, for a role with allowed_external_user_ids: letters, digits and @ : _ . ~ + - without .. as they are, " +
			"any other id as b64: and base64url without padding.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "External user id"},
	}
}

const maxAllowedUsers = 100

// namesUsers reports whether the role is for external users whom the path names.
func (r *role) namesUsers() bool { return len(r.AllowedExternalUserIDs) > 0 }

// validateAllowedUsers checks the globs of a role whose users the path names.
func (r *role) validateAllowedUsers() error {
	isNone := func(glob string) bool {
		return strings.TrimSpace(glob) == "" || utf8.RuneCountInString(glob) > maxExternalUserID || !utf8.ValidString(glob) || strings.Contains(glob, "{{")
	}
	switch {
	case r.ExternalUserID != "":
		return badRequest("give either external_user_id or allowed_external_user_ids, not both")
	case len(r.AllowedExternalUserIDs) > maxAllowedUsers:
		return badRequest("allowed_external_user_ids must not have more than %d entries", maxAllowedUsers)
	case slices.ContainsFunc(r.AllowedExternalUserIDs, isNone):
		return badRequest("allowed_external_user_ids must be external user ids in which * stands for any characters, such as acme:*, "+
			"%d characters at most, and no templates", maxExternalUserID)
	default:
		return nil
	}
}

// namedUser returns the external user that the path of req names after a role with
// allowed_external_user_ids. No other path may name one.
func (t *target) namedUser(req *logical.Request, data *framework.FieldData) (id string, err error) {
	segment := data.Get(fieldUser).(string)
	_, sent := req.Data[fieldUser]
	takes := t.role != nil && t.role.namesUsers()
	switch {
	case sent:
		return "", badRequest("%s", atMount(req, "user is no parameter: an external user is part of the path, <mount>/"+t.reader.Path+"/<role>/<user>"))
	case segment == "" && !takes:
		return "", nil
	case segment == "":
		return "", badRequest("%s", atMount(req, fmt.Sprintf("this role is for external users whom the path names: <mount>/%s/%s/<user>", t.reader.Path, t.roleName)))
	case !takes:
		return "", badRequest("only a role with allowed_external_user_ids takes an external user after its name in the path")
	}
	if id, err = userOfSegment(segment); err != nil {
		return "", err
	}
	if !strutil.StrListContainsGlob(t.role.AllowedExternalUserIDs, id) {
		return "", badRequest("the role's allowed_external_user_ids do not allow this external user")
	}
	return id, nil
}
