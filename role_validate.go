package pipedream

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/vault/sdk/helper/identitytpl"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/credential"
)

const (
	appIDPrefix       = "app_"
	maxRoleFields     = 100
	maxRequiredScopes = 100
	maxAllowedUsers   = 100
)

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

// validate checks what is stored of a role. Its errors name the field.
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

// validateTokens checks the settings for tokens, and that no other role has them.
func (r *role) validateTokens() error {
	isSet := r.Scope != "" || r.TokenTTL != 0 || len(r.AllowedOrigins) > 0
	switch {
	case !r.ofTokens() && isSet:
		return badRequest("scope, token_ttl and allowed_origins are for roles that hand out tokens: give credential_type=connect_token too")
	case !r.ofTokens():
		return nil
	case r.Scope == "":
		return badRequest("give scope: what the token may do, such as %s", defaultTokenScope)
	case !areScopes(r.scopes()):
		return badRequest("scope must be names of scopes with spaces between them, such as %s, and never * or connect:*", defaultTokenScope)
	case r.AccountID != "" || len(r.Fields) > 0 || r.EnforceScopes:
		return badRequest("account_id, fields and enforce_scopes are for roles that hand out an account's credentials, not for tokens")
	case r.CredentialType == accessTokenType:
		return r.validateAccessToken()
	default:
		return r.validateConnectToken()
	}
}

func (r *role) validateAccessToken() error {
	if r.App != "" || r.ExternalUserID != "" || r.namesUsers() || r.ofUserOnly() != "" || r.TokenTTL != 0 || len(r.AllowedOrigins) > 0 {
		return badRequest("an access token is good for all users, and Pipedream chooses its life: " +
			"only scope, ttl and min_ttl go with credential_type=access_token")
	}
	return nil
}

func (r *role) validateConnectToken() error {
	switch {
	case r.ExternalUserID == "" && !r.namesUsers():
		return badRequest("credential_type=connect_token needs external_user_id: the user whose accounts the token opens")
	case r.App == "" && r.ofUserOnly() != "":
		return badRequest("%s needs app", r.ofUserOnly())
	case r.TokenTTL != 0 && (r.TokenTTL < shortestTokenTTL || r.TokenTTL > longestTokenTTL):
		return badRequest("token_ttl must be from 1m to 4h, or 0 for 15m")
	case len(r.AllowedOrigins) > maxAllowedOrigins || slices.ContainsFunc(r.AllowedOrigins, isNoOrigin):
		return badRequest("allowed_origins must be origins of web pages, such as https://app.example.com, %d at most; http:// is only for loopback addresses", maxAllowedOrigins)
	default:
		return nil
	}
}

// isNoOrigin reports whether a text is not the origin of a web page as a browser sends
// it, which is without the usual port.
func isNoOrigin(text string) bool {
	u, err := url.Parse(text)
	if err != nil || !isRedirectHost(u.Host) || text != u.Scheme+"://"+u.Host {
		return true
	}
	switch u.Scheme {
	case "https":
		return u.Port() == "443"
	case "http":
		return u.Port() == "80" || !api.IsLoopback(u.Hostname())
	default:
		return true
	}
}

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
