package pipedream

import (
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-pipedream/internal/token"
)

const (
	defaultTokenTTL  = 15 * time.Minute
	shortestTokenTTL = time.Minute
	longestTokenTTL  = 4 * time.Hour // Pipedream's own limit

	maxAllowedOrigins = 20
)

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
				"are used through Pipedream, or access_token for one that is good for all users. Changing it keeps no other field. Default account.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Credential type"},
		},
		fieldScope: setting(framework.TypeString, "Scope",
			"What a token may do, such as connect:proxy: names of scopes with spaces between them, all in config's allowed_token_scopes. "+
				"Required for tokens."),
		fieldTokenTTL: setting(framework.TypeDurationSecond, "Token TTL",
			"Life of a Connect token. From 1m to 4h. Default 0, which is 15m."),
		fieldAllowedOrigins: setting(framework.TypeCommaStringSlice, "Allowed origins",
			"Origins of web pages that may use a Connect token, such as https://app.example.com, with commas between them. Default: none."),
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
