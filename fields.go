package pipedream

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
