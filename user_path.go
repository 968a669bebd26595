package pipedream

import (
	"encoding/base64"
	"regexp"
	"strings"
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
