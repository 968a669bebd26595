package pipedream

import (
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/vault/sdk/helper/identitytpl"
	"github.com/hashicorp/vault/sdk/logical"
)

// maxExternalUserID is Pipedream's own limit, in characters.
const maxExternalUserID = 250

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

// What a role hands out, as credential_type names it. Roles for accounts are stored
// without a type.
const (
	accountType      = "account"
	connectTokenType = "connect_token"
	accessTokenType  = "access_token"
)

// tokenSettings are the settings of a role that hands out tokens.
type tokenSettings struct {
	// Scope is what a token may do: names with spaces between them.
	Scope string `json:"scope,omitempty"`
	// TokenTTL is the life of a Connect token.
	TokenTTL time.Duration `json:"token_ttl,omitempty"`
	// AllowedOrigins are where a browser may use a Connect token.
	AllowedOrigins []string `json:"allowed_origins,omitempty"`
}

// namesUsers reports whether the role is for external users whom the path names.
func (r *role) namesUsers() bool { return len(r.AllowedExternalUserIDs) > 0 }
