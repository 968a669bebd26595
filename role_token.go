package pipedream

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/token"
)

// What a role hands out, as credential_type names it. Roles for accounts are stored
// without a type.
const (
	accountType      = "account"
	connectTokenType = "connect_token"
	accessTokenType  = "access_token"
)

const (
	defaultTokenTTL  = 15 * time.Minute
	shortestTokenTTL = time.Minute
	longestTokenTTL  = 4 * time.Hour // Pipedream's own limit

	maxTokenScopes    = 50
	maxAllowedOrigins = 20
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

// ofTokens reports whether the role hands out tokens for Pipedream's own API.
func (r *role) ofTokens() bool { return r != nil && r.CredentialType != "" }

func (r *role) credentialType() string {
	if r.CredentialType == "" {
		return accountType
	}
	return r.CredentialType
}

// tokenFields describes the fields of a role that hands out tokens.
func tokenFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldCredentialType: {
			Type:          framework.TypeString,
			Default:       accountType,
			AllowedValues: []any{accountType, connectTokenType, accessTokenType},
			Description: "What a read returns: account for the account's credentials, connect_token for a token with which one external user's accounts " +
				"are used through Pipedream, or access_token for one that is good for all users. A change of it keeps no other field. Default account.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Credential type"},
		},
		fieldScope: {
			Type: framework.TypeString,
			Description: "What a token may do, such as connect:proxy: names of scopes with spaces between them, all in config's allowed_token_scopes. " +
				"Required for tokens.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Scope"},
		},
		fieldTokenTTL: {
			Type:         framework.TypeDurationSecond,
			Description:  "Life of a Connect token. From 1m to 4h. Default 0, which is 15m.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Token TTL"},
		},
		fieldAllowedOrigins: {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Origins of web pages that may use a Connect token, such as https://app.example.com, with commas between them. Default: none.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Allowed origins"},
		},
	}
}

// mergeTokens changes the type of r and the settings for tokens that data names. Another
// type starts a new role: it takes over nothing that meant something else.
func mergeTokens(r *role, data *framework.FieldData) error {
	if v, ok := data.GetOk(fieldCredentialType); ok && v.(string) != r.credentialType() {
		switch v.(string) {
		case accountType:
			*r = role{}
		case connectTokenType, accessTokenType:
			*r = role{CredentialType: v.(string)}
		default:
			return badRequest("credential_type must be account, connect_token or access_token")
		}
	}
	if v, ok := data.GetOk(fieldScope); ok {
		r.Scope = strings.Join(strings.Fields(v.(string)), " ")
	}
	setDuration(&r.TokenTTL, data, fieldTokenTTL)
	if v, ok := data.GetOk(fieldAllowedOrigins); ok {
		r.AllowedOrigins = v.([]string)
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

func (r *role) scopes() []string { return strings.Fields(r.Scope) }

// permits refuses a role that hands out what c does not allow, even if c allowed it
// when the role was written.
func (c *config) permits(r *role) error {
	if !r.ofTokens() {
		return nil
	}
	if r.CredentialType == accessTokenType && !c.AllowAccessTokens {
		return badRequest("this mount hands out no access tokens (allow_access_tokens is false in config)")
	}
	for _, name := range r.scopes() {
		if !slices.Contains(c.AllowedTokenScopes, name) {
			return badRequest("the scope %s is not in allowed_token_scopes of config", name)
		}
	}
	if c.ProjectID == "" {
		return badRequest("tokens are for Connect projects: set project_id in config")
	}
	return nil
}

// checkPermitted refuses a role that is being written and may hand out nothing.
func (b *backend) checkPermitted(ctx context.Context, req *logical.Request, r *role) error {
	if !r.ofTokens() {
		return nil
	}
	c, err := b.connections.get(ctx, req.Storage)
	if err != nil {
		return toLogical(req, err)
	}
	return c.config.permits(r)
}

// tokenKey returns what a token of the role is good for, for a user.
func (r *role) tokenKey(user string) token.Key {
	k := token.Key{User: user, Scope: r.Scope, Origins: strings.Join(r.AllowedOrigins, " "), App: r.App, OAuthApp: r.OAuthAppID}
	if r.CredentialType == connectTokenType {
		k.Life = r.TokenTTL
		if k.Life == 0 {
			k.Life = defaultTokenTTL
		}
	}
	return k
}
