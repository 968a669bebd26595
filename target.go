package pipedream

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	exampleAccountID = "apn_XehyZPr"
	// maxNameLength bounds account ids and role names, which become storage keys.
	maxNameLength = 128
)

var (
	accountIDPattern = regexp.MustCompile(`^apn_\w(([\w-.]+)?\w)?$`)
	errBadName       = badRequest("account_id must look like %s, and a role's name must be letters, digits, -, _ and ., %d characters at most", exampleAccountID, maxNameLength)
	errBadRoleName   = badRequest("a role's name must be letters, digits, -, _ and ., with - and . neither first nor last, %d characters at most", maxNameLength)
	errBadAccountID  = badRequest("account_id must look like %s: apn_ and then letters, digits, -, _ and ., %d characters at most", exampleAccountID, maxNameLength)
)

func validAccountID(id string) bool {
	return len(id) <= maxNameLength && accountIDPattern.MatchString(id)
}

// accountID is the request's account id. Anything else than one is refused
// here, before it costs a request.
func accountID(data *framework.FieldData) (string, error) {
	id := data.Get("account_id").(string)
	if !validAccountID(id) {
		return "", errBadAccountID
	}
	return id, nil
}

// target is what a request names: an account by its id, or a role's.
type target struct {
	demand

	accountID string // empty for a role's external user
	user      user
	role      *role // nil without one
}

// target finds out what the request is about, without asking Pipedream.
func (b *backend) target(ctx context.Context, req *logical.Request, data *framework.FieldData) (*target, error) {
	name := data.Get("name").(string)
	isAccount := validAccountID(name)
	if !isAccount && (len(name) > maxNameLength || strings.HasPrefix(name, accountIDPrefix)) {
		return nil, errBadName
	}
	s, err := b.settings.get(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if isAccount {
		if !s.config.AllowAccountIDs {
			return nil, badRequest("credentials cannot be read by account id here (allow_account_ids is false in config); read a role's")
		}
		return &target{demand: newDemand(s), accountID: name}, nil
	}
	r, err := b.roles.get(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, badRequest("%s", atMount(req, fmt.Sprintf("there is no role %q, and an account_id must look like %s; "+
			"list them with: vault list <mount>/roles, and vault list <mount>/accounts", name, exampleAccountID)))
	}
	return b.roleTarget(req, s, r)
}

// roleTarget is what a role stands for, for the caller of req.
func (b *backend) roleTarget(req *logical.Request, s *settings, r *role) (*target, error) {
	t := &target{demand: newDemand(s), accountID: r.AccountID, role: r}
	if r.MinTTL > 0 {
		t.demand = demand{settings: s}.withMinTTL(r.MinTTL)
	}
	if !r.ofUser() {
		return t, nil
	}
	if s.config.ProjectID == "" {
		return nil, badRequest("this role is for an external user of a Connect project: set project_id in config")
	}
	externalID, err := r.externalUser(req, b.System())
	if err != nil {
		return nil, err
	}
	t.user = user{app: r.App, externalID: externalID}
	return t, nil
}

// served is a credential that a request is answered with.
type served struct {
	*target

	entry *entry
}

// credential finds the live credential that a request asks for.
func (b *backend) credential(ctx context.Context, req *logical.Request, data *framework.FieldData) (*served, error) {
	t, err := b.target(ctx, req, data)
	if err != nil {
		return nil, err
	}
	t.demand = t.withMinTTL(time.Duration(data.Get("min_ttl").(int)) * time.Second)
	var e *entry
	if t.accountID != "" {
		e, err = b.cache.get(ctx, t.demand, t.accountID)
	} else {
		e, err = b.cache.users.get(ctx, t.demand, t.user)
	}
	if err != nil {
		return nil, err
	}
	got := &served{target: t, entry: e}
	return got, got.checkFields()
}

// checkFields refuses to answer with nothing where a role names fields that
// the account does not have.
func (s *served) checkFields() error {
	if s.role == nil || len(s.role.Fields) == 0 {
		return nil
	}
	for _, name := range s.role.Fields {
		if _, ok := s.entry.credential.Fields[name]; ok && (s.config.ExposeRefreshToken || !isRefreshToken(name)) {
			return nil
		}
	}
	return badRequest("the credentials of account %s have none of the role's fields (%s)",
		s.entry.credential.AccountID, printable(strings.Join(s.role.Fields, ", ")))
}

// data is the flat map that a read returns.
func (s *served) data() map[string]any {
	var only func(string) bool
	if s.role != nil && len(s.role.Fields) > 0 {
		only = func(name string) bool { return slices.Contains(s.role.Fields, name) }
	}
	return s.entry.credential.data(s.config.ExposeRefreshToken, only)
}

// capTTL shortens a time to the role's cap.
func (s *served) capTTL(ttl time.Duration) time.Duration {
	if s.role != nil && s.role.TTL > 0 {
		return min(ttl, s.role.TTL)
	}
	return ttl
}
