package pipedream

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/go-secure-stdlib/strutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/credential"
)

var (
	errBadName      = badRequest("account_id must look like %s, and a role's name must be letters, digits, -, _ and ., %d characters at most", exampleAccountID, maxNameLength)
	errBadRoleName  = badRequest("a role's name must be letters, digits, -, _ and ., must not begin or end with - or ., and must not have more than %d characters", maxNameLength)
	errBadAccountID = badRequest("account_id must look like %s: apn_ and then letters, digits, -, _ and ., %d characters at most", exampleAccountID, maxNameLength)
)

// accountID returns the account id of a request. It refuses anything that cannot be
// one, before it costs a request to Pipedream.
func accountID(data *framework.FieldData) (string, error) {
	id := data.Get(fieldAccountID).(string)
	if !api.ValidAccountID(id) {
		return "", errBadAccountID
	}
	return id, nil
}

// callerOf identifies who sent a request. Callers take turns, and share the budget.
func callerOf(req *logical.Request) string {
	switch {
	case req.EntityID != "":
		return req.EntityID
	case req.ClientTokenAccessor != "":
		return req.ClientTokenAccessor
	default:
		return req.DisplayName
	}
}

// target is the account that a request is about, named by its id or by a role, or the
// external user of a role that hands out tokens.
type target struct {
	*connection

	reader    cache.Reader
	accountID string // empty if a role names an external user
	user      cache.User
	named     string // which of the user's accounts, by its id or name; empty for the one that reads get
	role      *role  // nil if the account is named by its id
	roleName  string
}

// target returns the target of a read. It does not ask Pipedream.
func (b *backend) target(ctx context.Context, req *logical.Request, data *framework.FieldData) (*target, error) {
	t, err := b.named(ctx, req, data)
	if err != nil {
		return nil, err
	}
	return t, t.nameAccount(data)
}

// named returns what the path of a request names: an account, or a role, with the
// external user after it if the role takes one.
func (b *backend) named(ctx context.Context, req *logical.Request, data *framework.FieldData) (*target, error) {
	path, _, _ := strings.Cut(req.Path, "/")
	name := inPath(data, fieldName)
	isAccount := api.ValidAccountID(name)
	if !isAccount && (len(name) > maxNameLength || strings.HasPrefix(name, accountIDPrefix)) {
		return nil, errBadName
	}
	c, err := b.connections.get(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	t := &target{connection: c, reader: cache.Reader{Path: path, Demand: c.config.policy().Default(), Caller: callerOf(req)}}
	if isAccount {
		if !c.config.AllowAccountIDs {
			return nil, badRequest("credentials cannot be read by account id here (allow_account_ids is false in config); read through a role")
		}
		t.accountID = name
		_, err := t.namedUser(req, data)
		return t, err
	}
	t.role, err = b.roles.get(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if t.role == nil {
		return nil, badRequest("%s", atMount(req, fmt.Sprintf("there is no role %q, and an account_id must look like %s; "+
			"list them with: "+cli+" list <mount>/roles, and "+cli+" list <mount>/accounts", name, exampleAccountID)))
	}
	t.roleName = name
	return t, b.resolveRole(req, data, t)
}

// inPath returns a part of the path of a request. It is always a text, which Get would
// decode on every read.
func inPath(data *framework.FieldData, field string) string {
	part, _ := data.Raw[field].(string)
	return part
}

// about returns err as an error of a read of t.
func (t *target) about(err error) error {
	if t.role == nil {
		return err
	}
	return &roleError{error: err, connect: t.connectPath(), ofUser: t.role.ofUser()}
}

// resolveRole sets the account or the external user that the role of t stands for,
// for the caller of req.
func (b *backend) resolveRole(req *logical.Request, data *framework.FieldData, t *target) error {
	r := t.role
	if err := t.config.permits(r); err != nil {
		return err
	}
	externalID, err := t.namedUser(req, data)
	if err != nil {
		return err
	}
	t.reader.User, t.reader.Bare = externalID, r.ofTokens()
	if r.MinTTL > 0 {
		t.reader.Demand = credential.Demand{}.Raise(r.MinTTL)
	}
	if !r.ofUser() {
		t.accountID = r.AccountID
		return nil
	}
	if t.config.ProjectID == "" {
		return badRequest("this role is for an external user of a Connect project: set project_id in config")
	}
	if !r.namesUsers() {
		if externalID, err = r.externalUser(req, b.System()); err != nil {
			return err
		}
	}
	t.user = cache.User{App: r.App, OAuthApp: r.OAuthAppID, ExternalID: externalID}
	return nil
}

// connectPath returns the path of the links for t.
func (t *target) connectPath() string {
	path := pathConnect + "/" + t.roleName
	if t.role.namesUsers() {
		path += "/" + segmentOfUser(t.user.ExternalID)
	}
	return path
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

// namedUser returns the external user that the path of req names after a role with
// allowed_external_user_ids. No other path may name one.
func (t *target) namedUser(req *logical.Request, data *framework.FieldData) (id string, err error) {
	segment := inPath(data, fieldUser)
	_, sent := req.Data[fieldUser]
	takes := t.role != nil && t.role.namesUsers()
	switch {
	case sent:
		return "", badRequest("%s", atMount(req, "user is not a parameter: the external user is part of the path, <mount>/"+t.reader.Path+"/<role>/<user>"))
	case segment == "" && !takes:
		return "", nil
	case segment == "":
		return "", badRequest("%s", atMount(req, fmt.Sprintf("this role takes the external user from the path: <mount>/%s/%s/<user>", t.reader.Path, t.roleName)))
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

// linkTarget returns the external user that a link is for. It is the same one as for
// a read of that path.
func (b *backend) linkTarget(ctx context.Context, req *logical.Request, data *framework.FieldData) (*target, error) {
	t, err := b.named(ctx, req, data)
	switch {
	case err != nil:
		return nil, err
	case t.role == nil:
		return nil, badRequest("Connect links are for roles with app and external_user_id, not for account ids")
	case t.role.ofTokens() && t.role.App == "":
		return nil, badRequest("role %q hands out tokens and names no app: Connect links are for roles with app and external_user_id", t.roleName)
	case !t.role.ofUser():
		return nil, badRequest("role %q is for one account: Connect links are for roles with app and external_user_id", t.roleName)
	default:
		return t, nil
	}
}

// warnOfStranger adds to the response that somebody else may have signed in to an account
// of the user's, if so.
func (t *target) warnOfStranger(req *logical.Request, resp *logical.Response, accountID string) {
	if t.view.OfStranger(t.user, accountID) {
		resp.AddWarning(atMount(req, fmt.Sprintf("account %s had another name or user in the app before it was signed in to again: somebody else may have signed in. "+
			"If so, sign in again with: "+cli+" write <mount>/%s account=%[1]s", accountID, t.connectPath())))
	}
}

// textOfLacking says which scopes an account lacks, and how to give it them.
func (t *target) textOfLacking(req *logical.Request, accountID string, lacking []string) string {
	return atMount(req, fmt.Sprintf("account %s lacks scopes that this role requires (%s). To sign in again and allow them: "+
		cli+" write -force <mount>/%s", accountID, strings.Join(lacking, ", "), t.connectPath()))
}
