package pipedream

import (
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-pipedream/internal/api"
)

const operationPrefix = "pipedream"

// The names of paths that others mention.
const (
	pathCreds       = "creds"
	pathStaticCreds = "static-creds"
	pathRefresh     = "refresh"
	pathConnect     = "connect"
	pathUsers       = "users"
)

// What account ids and the names of roles look like. Both become storage keys.
const (
	accountIDPrefix  = api.AccountIDPrefix
	exampleAccountID = "apn_XehyZPr"
	maxNameLength    = api.MaxAccountID
)

// The names of fields and parameters. A name that two paths share means the same in
// both.
const (
	// Of config.
	fieldAPIKey             = "api_key"
	fieldClientID           = "client_id"
	fieldClientSecret       = "client_secret"
	fieldScope              = "scope"
	fieldProjectID          = "project_id"
	fieldEnvironment        = "environment"
	fieldOrgID              = "org_id"
	fieldConnectTokenScope  = "connect_token_scope"
	fieldAllowedTokenScopes = "allowed_token_scopes"
	fieldAllowAccessTokens  = "allow_access_tokens"
	fieldAllowAccountIDs    = "allow_account_ids"
	fieldBaseURL            = "base_url"
	fieldCACert             = "ca_cert"
	fieldRequestTimeout     = "request_timeout"
	fieldMaxRetries         = "max_retries"
	fieldRateLimit          = "rate_limit"
	fieldMinTTL             = "min_ttl"
	fieldStaticTTL          = "static_ttl"
	fieldExposeRefreshToken = "expose_refresh_token"
	fieldTokenFingerprint   = "token_fingerprint"
	fieldVerify             = "verify"

	// Of what reads return.
	fieldOAuthAccessToken = "oauth_access_token"
	fieldTokenSHA256      = "pipedream_token_sha256"
	fieldConnectToken     = "connect_token"
	fieldAccessToken      = "access_token"

	// Of roles.
	fieldAccountID            = "account_id"
	fieldApp                  = "app"
	fieldOAuthAppID           = "oauth_app_id"
	fieldExternalUserID       = "external_user_id"
	fieldAllowedUserIDs       = "allowed_external_user_ids"
	fieldFields               = "fields"
	fieldTTL                  = "ttl"
	fieldAllowedRedirectHosts = "allowed_redirect_hosts"
	fieldOAuthScopeProfile    = "oauth_scope_profile"
	fieldAppOverrideID        = "app_override_id"
	fieldRequiredScopes       = "required_scopes"
	fieldEnforceScopes        = "enforce_scopes"
	fieldCredentialType       = "credential_type"
	fieldTokenTTL             = "token_ttl"
	fieldAllowedOrigins       = "allowed_origins"

	// Of Connect links.
	fieldSuccessRedirectURI = "success_redirect_uri"
	fieldErrorRedirectURI   = "error_redirect_uri"
	fieldExpiresIn          = "expires_in"
	fieldReconnect          = "reconnect"
	fieldNew                = "new"
	fieldLinkID             = "link_id"
	fieldWait               = "wait"

	// Of requests for a user's account.
	fieldAccount = "account"
	fieldAll     = "all"

	// In paths.
	fieldName = "name"
	fieldUser = "user"
)

// setting describes a field that can be left out. name is what a user interface shows.
func setting(t framework.FieldType, name, description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: t, Description: description, DisplayAttrs: &framework.DisplayAttributes{Name: name}}
}

// settingOr is like [setting], for a field with another default than its zero value.
func settingOr(t framework.FieldType, standard any, name, description string) *framework.FieldSchema {
	field := setting(t, name, description)
	field.Default = standard
	return field
}

// parameter is like [setting], for a field that a read, list or delete can have, too.
func parameter(t framework.FieldType, name, description string) *framework.FieldSchema {
	field := setting(t, name, description)
	field.Query = true
	return field
}

// answerOf describes an answer with these fields.
func answerOf(fields map[string]*framework.FieldSchema) map[int][]framework.Response {
	return map[int][]framework.Response{
		http.StatusOK: {{Description: http.StatusText(http.StatusOK), Fields: fields}},
	}
}

// answerField describes a field of an answer. One that is not required can be absent.
func answerField(t framework.FieldType, required bool, description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: t, Required: required, Description: description}
}

// noContent describes the answer to a write.
func noContent() map[int][]framework.Response {
	return map[int][]framework.Response{
		http.StatusNoContent: {{Description: http.StatusText(http.StatusNoContent)}},
	}
}

// setString replaces a text by that of a field, if data has it.
func setString(to *string, data *framework.FieldData, field string) {
	if v, ok := data.GetOk(field); ok {
		*to = strings.TrimSpace(v.(string))
	}
}

// setDuration is like [setString], for a duration.
func setDuration(to *time.Duration, data *framework.FieldData, field string) {
	if v, ok := data.GetOk(field); ok {
		*to = time.Duration(v.(int)) * time.Second
	}
}

// setTime adds a time to an answer, unless it is zero.
func setTime(data map[string]any, name string, t time.Time) {
	if !t.IsZero() {
		data[name] = t.Format(time.RFC3339)
	}
}

// nameField describes the account or role in a path.
func nameField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeString,
		Required:     true,
		Description:  "Id of a connected account, such as " + exampleAccountID + ", or name of a role.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Account id or role"},
	}
}

// nameRegex matches the part of a path that names an account or a role, and the external
// user after it, if there is one.
func nameRegex() string {
	return framework.GenericNameRegex(fieldName) + framework.OptionalParamRegex(fieldUser)
}

// forUserToo returns the end of an operation's id in the OpenAPI document, for a path by
// [nameRegex]: without a user in the path, and with one.
func forUserToo(suffix string) string { return suffix + "|user-" + suffix }

// userField describes the external user in a path.
func userField() *framework.FieldSchema {
	return setting(framework.TypeString, "External user id",
		"External user, for a role with allowed_external_user_ids: letters, digits and @ : _ . ~ + - without .. as they are, "+
			"any other id as b64: and base64url without padding.")
}

// accountField describes the choice among a user's accounts.
func accountField() *framework.FieldSchema {
	return parameter(framework.TypeString, "Account",
		"Which of the user's accounts with the role's app: its id or its name, exactly. "+
			"For roles with app and external_user_id. Default: the account that reads of the role get.")
}
