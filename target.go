package pipedream

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/credential"
)

const (
	exampleAccountID = "apn_XehyZPr"
	// maxNameLength bounds account ids and role names, which become storage keys.
	maxNameLength = api.MaxAccountID
)

var (
	errBadName      = badRequest("account_id must look like %s, and a role's name must be letters, digits, -, _ and ., %d characters at most", exampleAccountID, maxNameLength)
	errBadRoleName  = badRequest("a role's name must be letters, digits, -, _ and ., with - and . neither first nor last, %d characters at most", maxNameLength)
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

// caller identifies who sent a request. Callers take turns, and share the budget.
func caller(req *logical.Request) string {
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
	name := data.Get(fieldName).(string)
	isAccount := api.ValidAccountID(name)
	if !isAccount && (len(name) > maxNameLength || strings.HasPrefix(name, accountIDPrefix)) {
		return nil, errBadName
	}
	c, err := b.connections.get(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	t := &target{connection: c, reader: cache.Reader{Path: path, Demand: c.config.policy().Default(), Caller: caller(req)}}
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
	t.reader.User = externalID
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

// served is the credential that answers a request.
type served struct {
	*target

	credential *credential.Credential
}

// credential returns the live credential that a request asks for.
func (b *backend) credential(ctx context.Context, req *logical.Request, data *framework.FieldData) (*served, error) {
	t, err := b.target(ctx, req, data)
	if err != nil {
		return nil, err
	}
	t.reader.Demand = t.reader.Demand.Raise(time.Duration(data.Get(fieldMinTTL).(int)) * time.Second)
	if t.role.ofTokens() {
		return b.token(ctx, t)
	}
	got := &served{target: t}
	switch {
	case t.accountID != "":
		got.credential, err = t.view.Get(ctx, t.reader, t.accountID)
	case t.named != "":
		got.credential, err = t.view.GetChosen(ctx, t.reader, t.user, t.named)
	default:
		got.credential, err = t.view.GetForUser(ctx, t.reader, t.user)
	}
	if err != nil {
		return nil, t.about(err)
	}
	if err := got.checkScopes(req); err != nil {
		return nil, err
	}
	return got, got.checkFields()
}

// lacks says which of the scopes that the role requires the account was not given, and
// how to give it them; empty for none.
func (s *served) lacks(req *logical.Request) string {
	if s.role == nil || len(s.role.RequiredScopes) == 0 {
		return ""
	}
	lacking := s.role.lacking(s.credential.Scopes)
	if len(lacking) == 0 {
		return ""
	}
	return s.textOfLacking(req, s.credential.AccountID, lacking)
}

// connectPath returns the path of the links for t.
func (t *target) connectPath() string {
	path := pathConnect + "/" + t.roleName
	if t.role.namesUsers() {
		path += "/" + segmentOfUser(t.user.ExternalID)
	}
	return path
}

func (s *served) checkScopes(req *logical.Request) error {
	if s.role == nil || !s.role.EnforceScopes {
		return nil
	}
	if lacks := s.lacks(req); lacks != "" {
		return badRequest("%s", lacks)
	}
	return nil
}

// checkFields returns an error if the account has none of the fields that the role
// names.
func (s *served) checkFields() error {
	if s.role == nil || len(s.role.Fields) == 0 {
		return nil
	}
	for _, name := range s.role.Fields {
		if s.credential.Has(name, s.config.ExposeRefreshToken) {
			return nil
		}
	}
	return badRequest("the credentials of account %s have none of the role's fields (%s)",
		s.credential.AccountID, api.Printable(strings.Join(s.role.Fields, ", ")))
}

// data returns the flat map that a read returns.
func (s *served) data() map[string]any {
	if s.role.ofTokens() {
		return s.tokenData()
	}
	var only func(string) bool
	if s.role != nil && len(s.role.Fields) > 0 {
		only = func(name string) bool { return slices.Contains(s.role.Fields, name) }
	}
	data := s.credential.Data(s.config.ExposeRefreshToken, only)
	if token, ok := data[fieldOAuthAccessToken].(string); ok && s.config.TokenFingerprint {
		data[fieldTokenSHA256] = fingerprint(token)
	}
	return data
}

// fingerprint returns the name of a token in GitHub's audit log (hashed_token): its
// SHA-256 in base64. Only OAuth access tokens have one. They are long and random, while a
// weak key could be guessed from its hash.
func fingerprint(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// capTTL shortens ttl to the cap of the role, if it has one.
func (s *served) capTTL(ttl time.Duration) time.Duration {
	if s.role != nil && s.role.TTL > 0 {
		return min(ttl, s.role.TTL)
	}
	return ttl
}

// warn adds to the response what its reader should know about the account.
func (s *served) warn(req *logical.Request, resp *logical.Response) *logical.Response {
	if s.credential.Unhealthy && s.accountID == "" {
		warning := fmt.Sprintf("account %s is unhealthy: Pipedream's last use of its credentials failed. ", s.credential.AccountID)
		if s.named == "" {
			warning += "There is no healthy account of this external user and app"
		}
		resp.AddWarning(strings.TrimRight(warning, " "))
	}
	if lacks := s.lacks(req); lacks != "" {
		resp.AddWarning(lacks)
	}
	if s.accountID == "" {
		s.warnOfStranger(req, resp, s.credential.AccountID)
	}
	return resp
}
