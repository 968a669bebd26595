package pipedream

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/vault/sdk/helper/identitytpl"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/credential"
)

const (
	rolePrefix = "role/"
	// maxExternalUserID is Pipedream's own limit, in characters.
	maxExternalUserID = 250
	maxRoleFields     = 100
	accountIDPrefix   = api.AccountIDPrefix
	appIDPrefix       = "app_"
	maxRedirectHosts  = 20
	maxRequiredScopes = 100
)

// role gives an account a name and can narrow its use, or hands out tokens.
type role struct {
	// CredentialType is what the role hands out; empty for the account's credentials.
	CredentialType string `json:"credential_type,omitempty"`
	// AccountID is the account. If it is empty, the role is for the account that a user
	// of a Connect project has with App: ExternalUserID, or whomever of
	// AllowedExternalUserIDs the path names.
	AccountID      string `json:"account_id,omitempty"`
	App            string `json:"app,omitempty"`
	OAuthAppID     string `json:"oauth_app_id,omitempty"` // of a custom OAuth client; empty for any
	ExternalUserID string `json:"external_user_id,omitempty"`
	// AllowedExternalUserIDs are globs.
	AllowedExternalUserIDs []string `json:"allowed_external_user_ids,omitempty"`
	// Fields are the credential fields to return; empty for all.
	Fields []string `json:"fields,omitempty"`
	// TTL caps the lease; 0 means no cap.
	TTL time.Duration `json:"ttl,omitempty"`
	// MinTTL overrides that of the mount; 0 means that of the mount.
	MinTTL time.Duration `json:"min_ttl,omitempty"`
	// AllowedRedirectHosts are the hosts to which a Connect link may lead back, with
	// the port if it is not the default one.
	AllowedRedirectHosts []string `json:"allowed_redirect_hosts,omitempty"`
	// OAuthScopeProfile and AppOverrideID are what a Connect link asks Pipedream's page
	// for; empty for nothing. The page need not follow them.
	OAuthScopeProfile string `json:"oauth_scope_profile,omitempty"`
	AppOverrideID     string `json:"app_override_id,omitempty"`
	// RequiredScopes are the OAuth scopes that the account should have. EnforceScopes
	// is set if an account that lacks one is not served.
	RequiredScopes []string `json:"required_scopes,omitempty"`
	EnforceScopes  bool     `json:"enforce_scopes,omitempty"`

	tokenSettings
}

// ofUser reports whether the role is for an external user's account.
func (r *role) ofUser() bool { return r.AccountID == "" && r.CredentialType != accessTokenType }

var (
	oauthAppPattern = regexp.MustCompile(`^oa_[A-Za-z0-9_-]{1,100}$`)
	appPattern      = regexp.MustCompile(`^[A-Za-z0-9_-]{1,100}$`)
	// profilePattern matches the name of a set of scopes, and the id of an app's
	// override.
	profilePattern = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,100}$`)

	// identityDirective is what a template may have between its braces: everything
	// about entities and groups that identitytpl knows, but nothing about the time.
	identityDirective = regexp.MustCompile(`^identity\.(` +
		`entity\.(id|name|metadata\..+|aliases\.[^.]+\.(id|name|metadata\..+|custom_metadata\..+))|` +
		`groups\.(ids|names)\.[^.]+\.(id|name|metadata\..+))$`)
)

func (r *role) validate() error {
	if err := r.validateTokens(); err != nil {
		return err
	}
	if r.CredentialType == "" {
		if err := r.validateAccount(); err != nil {
			return err
		}
	}
	switch {
	case r.App != "" && !appPattern.MatchString(r.App):
		return badRequest("app must be an app's slug, such as github")
	case strings.HasPrefix(r.App, appIDPrefix): // a Connect link takes slugs only, and not every account shows its app's id
		return badRequest("app must be an app's slug, such as github, not its id")
	case r.OAuthAppID != "" && !oauthAppPattern.MatchString(r.OAuthAppID):
		return badRequest("oauth_app_id must look like oa_aPXiQd")
	case r.TTL != 0 && r.TTL < credential.MinServable:
		return badRequest("ttl must be at least %s, or 0 for no cap", credential.MinServable)
	case len(r.Fields) > maxRoleFields:
		return badRequest("fields must not have more than %d entries", maxRoleFields)
	}
	if err := validateRedirectHosts(r.AllowedRedirectHosts); err != nil {
		return err
	}
	if err := r.validateScopes(); err != nil {
		return err
	}
	for _, field := range r.Fields {
		if field == "" || strings.ContainsFunc(field, isControl) {
			return badRequest("fields must be names of credential fields, such as oauth_access_token")
		}
		if err := checkReturned(field); err != nil {
			return err
		}
	}
	switch {
	case !r.ofUser():
		return nil
	case r.namesUsers():
		return r.validateAllowedUsers()
	default:
		return validateTemplate(r.ExternalUserID)
	}
}

// validateAccount checks which account a role is for.
func (r *role) validateAccount() error {
	switch {
	case r.AccountID != "" && r.ofUserOnly() != "":
		return badRequest("%s goes with app and external_user_id, not with account_id", r.ofUserOnly())
	case r.AccountID != "" && (r.App != "" || r.ExternalUserID != "" || r.namesUsers()):
		return badRequest("give either account_id, or app and external_user_id, not both")
	case r.AccountID == "" && r.App == "" && r.ExternalUserID == "" && !r.namesUsers():
		return badRequest("give account_id, or app and external_user_id")
	case r.AccountID != "" && !api.ValidAccountID(r.AccountID):
		return badRequest("account_id must look like %s", exampleAccountID)
	case r.AccountID == "" && r.App == "":
		return badRequest("external_user_id needs app")
	case r.AccountID == "" && r.ExternalUserID == "" && !r.namesUsers():
		return badRequest("app needs external_user_id, or allowed_external_user_ids")
	default:
		return nil
	}
}

// ofUserOnly returns the name of a field that r has, and that only a role for an
// external user can have; empty for none.
func (r *role) ofUserOnly() string {
	switch {
	case r.OAuthAppID != "":
		return fieldOAuthAppID
	case len(r.AllowedRedirectHosts) > 0:
		return fieldAllowedRedirectHosts
	case r.OAuthScopeProfile != "":
		return fieldOAuthScopeProfile
	case r.AppOverrideID != "":
		return fieldAppOverrideID
	case len(r.RequiredScopes) > 0:
		return fieldRequiredScopes
	case r.EnforceScopes:
		return fieldEnforceScopes
	default:
		return ""
	}
}

func (r *role) validateScopes() error {
	isNone := func(scope string) bool {
		return scope == "" || len(scope) > api.MaxScope || strings.ContainsFunc(scope, func(c rune) bool { return !unicode.IsGraphic(c) || unicode.IsSpace(c) })
	}
	switch {
	case r.OAuthScopeProfile != "" && !profilePattern.MatchString(r.OAuthScopeProfile):
		return badRequest("oauth_scope_profile must be letters, digits, -, _, . and :, 100 characters at most")
	case r.AppOverrideID != "" && !profilePattern.MatchString(r.AppOverrideID):
		return badRequest("app_override_id must be letters, digits, -, _, . and :, 100 characters at most")
	case len(r.RequiredScopes) > maxRequiredScopes:
		return badRequest("required_scopes must not have more than %d entries", maxRequiredScopes)
	case slices.ContainsFunc(r.RequiredScopes, isNone):
		return badRequest("required_scopes must be names of the app's OAuth scopes, such as repo, without spaces")
	case r.EnforceScopes && len(r.RequiredScopes) == 0:
		return badRequest("enforce_scopes needs required_scopes")
	default:
		return nil
	}
}

// lacking returns the required scopes that are not among scopes, those of an account.
// Where Pipedream gives none, nothing is known to be lacking.
func (r *role) lacking(scopes []string) (lacking []string) {
	if len(scopes) == 0 {
		return nil
	}
	for _, scope := range r.RequiredScopes {
		if !slices.Contains(scopes, scope) {
			lacking = append(lacking, scope)
		}
	}
	return lacking
}

// checkReturned refuses a name under which no read returns a credential field.
func checkReturned(field string) error {
	switch {
	case field == credential.FieldExpiresAt || strings.HasPrefix(field, "pipedream_"):
		return badRequest("%s is not a credential field: it is always returned, and need not be in fields", field)
	case credential.IsReserved(field):
		return badRequest("a credential field named %s is returned as %s: name that in fields", field, credential.ReservedPrefix+field)
	default:
		return nil
	}
}

func isControl(c rune) bool { return c < ' ' || c == 0x7f }

// validateTemplate checks an external_user_id as far as that is possible before
// anybody reads with it. If it is not a template, it must be a valid id itself.
func validateTemplate(template string) error {
	templated, _, err := identitytpl.PopulateString(identitytpl.PopulateStringInput{String: template, ValidityCheckOnly: true})
	if err != nil {
		return badRequest("external_user_id is not a valid template: its braces do not match")
	}
	if !templated {
		return checkExternalUserID(template)
	}
	for _, piece := range strings.Split(template, "{{")[1:] {
		directive, _, _ := strings.Cut(piece, "}}")
		if !identityDirective.MatchString(strings.TrimSpace(directive)) {
			return badRequest("external_user_id is not a valid template: use {{identity.entity...}} or {{identity.groups...}}, " +
				"such as {{identity.entity.aliases.<mount accessor>.name}}")
		}
	}
	return nil
}

func checkExternalUserID(id string) error {
	if strings.TrimSpace(id) == "" {
		return badRequest("external_user_id is blank")
	}
	if len([]rune(id)) > maxExternalUserID {
		return badRequest("external_user_id is longer than %d characters", maxExternalUserID)
	}
	if !utf8.ValidString(id) { // it would be another id as JSON
		return badRequest("external_user_id is not valid UTF-8")
	}
	return nil
}

// externalUser returns the role's external user for the caller of req. It refuses a
// caller without the entity, alias or metadata that the template asks for, because
// nothing may ever be looked up for an empty user.
func (r *role) externalUser(req *logical.Request, system logical.SystemView) (string, error) {
	if !strings.Contains(r.ExternalUserID, "{{") {
		return r.ExternalUserID, nil
	}
	if req.EntityID == "" {
		return "", badRequest("this role returns the reader's own account, and your token has no identity entity (a root token has none): " +
			"log in with an auth method")
	}
	input := identitytpl.PopulateStringInput{String: r.ExternalUserID}
	var err error
	if input.Entity, err = system.EntityInfo(req.EntityID); err != nil {
		return "", err
	}
	if input.Entity == nil {
		return "", badRequest("your token's identity entity is not known to Vault: log in again")
	}
	if err := r.checkAliases(input.Entity); err != nil {
		return "", err
	}
	if strings.Contains(r.ExternalUserID, "identity.groups.") {
		if input.Groups, err = system.GroupsForEntity(req.EntityID); err != nil {
			return "", err
		}
	}
	user, err := populate(input)
	if errors.Is(err, errEmptyDirective) {
		return "", badRequest("%s for this caller", err)
	}
	if err != nil {
		return "", badRequest("this role returns the reader's own account, and your identity entity lacks what its external_user_id asks for: "+
			"an alias of the auth mount, a group or metadata (%s)", err)
	}
	return user, checkExternalUserID(user)
}

var errEmptyDirective = errors.New("a directive of external_user_id is empty")

// populate fills in a template. It fails if a directive turns out empty, because the
// rest of the template may be another user's id.
func populate(input identitytpl.PopulateStringInput) (string, error) {
	for _, piece := range strings.Split(input.String, "{{")[1:] {
		directive, _, _ := strings.Cut(piece, "}}")
		alone := input
		alone.String = "{{" + directive + "}}"
		if _, value, err := identitytpl.PopulateString(alone); err != nil {
			return "", err
		} else if strings.TrimSpace(value) == "" {
			return "", errEmptyDirective
		}
	}
	_, user, err := identitytpl.PopulateString(input)
	return user, err
}

// checkAliases refuses an entity with two aliases of the auth mount that the template
// asks for. A merge of entities can leave two, and it is not known which one logged
// in.
func (r *role) checkAliases(entity *logical.Entity) error {
	seen := map[string]bool{}
	for _, alias := range entity.Aliases {
		if seen[alias.MountAccessor] && strings.Contains(r.ExternalUserID, "identity.entity.aliases."+alias.MountAccessor+".") {
			return badRequest("your identity entity has more than one alias of the auth mount that this role's external_user_id asks for, " +
				"so the engine cannot tell whose account you mean: delete all but one of them")
		}
		seen[alias.MountAccessor] = true
	}
	return nil
}

// roles keeps roles that were read in memory.
type roles struct {
	// writes makes writers of roles wait for each other. Readers never take it.
	writes sync.Mutex

	mu    sync.RWMutex // guards the fields below; never held across I/O
	epoch int
	known map[string]*role
}

func newRoles() *roles { return &roles{known: map[string]*role{}} }

// get returns a role; nil if there is none of that name.
func (r *roles) get(ctx context.Context, storage logical.Storage, name string) (*role, error) {
	r.mu.RLock()
	found, epoch := r.known[name], r.epoch
	r.mu.RUnlock()
	if found != nil {
		return found, nil
	}
	found, err := readRole(ctx, storage, name)
	if err != nil || found == nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.epoch == epoch { // otherwise it may have changed since it was read
		r.known[name] = found
	}
	return found, nil
}

// forget drops a role from memory.
func (r *roles) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch++
	delete(r.known, name)
}

// errBadRole replaces the error of the decoder, which may quote what it read.
var errBadRole = logical.CodedError(http.StatusInternalServerError, "the stored role cannot be read; write it again")

func readRole(ctx context.Context, storage logical.Storage, name string) (*role, error) {
	entry, err := storage.Get(ctx, rolePrefix+name)
	if err != nil || entry == nil {
		return nil, err
	}
	var r role
	if entry.DecodeJSON(&r) != nil {
		return nil, errBadRole
	}
	return &r, nil
}
