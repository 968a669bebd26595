package pipedream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/cache"
)

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
		return logical.CodedError(e.HTTPStatus(), atMount(req, textOf(e)+advice(err, e.Kind)))
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
