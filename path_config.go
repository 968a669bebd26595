package pipedream

import (
	"context"
	"errors"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/redact"
)

const pathConfigHelpSyn = `Configure the connection to Pipedream.`

const pathConfigHelpDesc = `
Stores how the engine reads Pipedream accounts: with a user's API key, or with
the client_id and client_secret of a workspace's OAuth client, which Pipedream
recommends. They are checked with Pipedream before they are stored
(verify=false skips that), and never shown again.

With project_id, the engine serves the accounts of that Connect project, in the
environment production or development. Without it, those of the workspace.

A write changes the fields that it names and keeps the others. A write that is
refused changes nothing. An API key replaces a stored OAuth client, and vice
versa. A new key, client, project, environment or base_url empties
the cache, and so does deleting the configuration. Changing base_url requires
api_key or client_secret in the same request. So a caller who may write here
cannot have the stored one sent elsewhere.

    $ vault write pipedream/config api_key=-
    $ vault write pipedream/config client_id=... client_secret=- project_id=proj_1aBcDeF
`

func (b *backend) pathConfig() *framework.Path {
	return &framework.Path{
		Pattern:        configPath,
		DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields:         configFields(),
		ExistenceCheck: b.configExists,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:     b.configRead,
				Summary:      "Read the configuration. Secrets are not shown.",
				DisplayAttrs: &framework.DisplayAttributes{OperationSuffix: "configuration"},
				Responses:    answerOf(configResponseFields()),
			},
			logical.CreateOperation: b.configWriteOperation(),
			logical.UpdateOperation: b.configWriteOperation(),
			logical.DeleteOperation: &framework.PathOperation{
				Callback:                    b.configDelete,
				Summary:                     "Delete the configuration and empty the cache.",
				DisplayAttrs:                &framework.DisplayAttributes{OperationSuffix: "configuration"},
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses:                   noContent(),
			},
		},
		HelpSynopsis:    pathConfigHelpSyn,
		HelpDescription: pathConfigHelpDesc,
	}
}

func (b *backend) configWriteOperation() *framework.PathOperation {
	return &framework.PathOperation{
		Callback:                    b.configWrite,
		Summary:                     "Configure the connection to Pipedream.",
		DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "configure"},
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
		Responses:                   noContent(),
	}
}

func configFields() map[string]*framework.FieldSchema {
	fields := configSettings()
	fields[fieldAPIKey] = &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "A user's Pipedream API key. This, or client_id with client_secret, is required on the first write, and again whenever base_url changes. Never returned.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "API key", Sensitive: true},
	}
	fields[fieldClientSecret] = &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "Secret of the OAuth client. Required again whenever client_id or base_url changes. Never returned.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Client secret", Sensitive: true},
	}
	fields[fieldVerify] = settingOr(framework.TypeBool, true, "Verify",
		"Whether to check with Pipedream that it accepts the key or client before anything is stored. Not stored itself. Default true.")
	return fields
}

// configSettings returns the fields that can be both written and read.
func configSettings() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldClientID: setting(framework.TypeString, "Client ID",
			"Id of a workspace's OAuth client, to be used with client_secret instead of api_key. Changing it requires client_secret in the same request."),
		fieldScope: settingOr(framework.TypeString, defaultScope, "Scope",
			"Scopes to ask for as an OAuth client, with spaces between them. Default connect:accounts:read, the least that reads accounts."),
		fieldConnectTokenScope: settingOr(framework.TypeString, defaultConnectTokenScope, "Connect token scope",
			"Scopes of the token in a Connect link, with spaces between them; never * or connect:*. "+
				"Default "+defaultConnectTokenScope+", which connects an account."),
		fieldAllowedTokenScopes: settingOr(framework.TypeCommaStringSlice, []string{defaultTokenScope}, "Allowed token scopes",
			"Scopes that tokens of roles may have, with commas between them; never * or connect:*. Empty for none. "+
				"Default "+defaultTokenScope+". connect:accounts:read opens credentials with their refresh tokens."),
		fieldAllowAccessTokens: settingOr(framework.TypeBool, false, "Allow access tokens",
			"Whether roles may hand out access tokens, which are good for every user of every project of the workspace. Default false."),
		fieldProjectID: setting(framework.TypeString, "Project ID",
			"Connect project whose accounts are served, such as proj_1aBcDeF. Needs an OAuth client. Default: the accounts of the workspace."),
		fieldOrgID: setting(framework.TypeString, "Workspace ID",
			"Workspace that a user's API key is used for, such as o_1aBcDeF, where the user has more than one. Not with an OAuth client."),
		fieldEnvironment: {
			Type:          framework.TypeString,
			Default:       defaultEnvironment,
			AllowedValues: []any{"production", "development"},
			Description:   "Environment of the Connect project: production or development. Default production.",
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Environment"},
		},
		fieldAllowAccountIDs: settingOr(framework.TypeBool, true, "Allow account ids",
			"Whether credentials can be read by account id. If not, only roles can be read. Default true."),
		fieldBaseURL: settingOr(framework.TypeString, defaultBaseURL, "Base URL",
			"Root of Pipedream's API. Must begin with https://, or with http:// for a loopback address. Changing it requires api_key or client_secret in the same request. Default https://api.pipedream.com/v1."),
		fieldCACert: {
			Type:         framework.TypeString,
			Description:  "PEM certificates to trust instead of the system's, for a private gateway in front of Pipedream. Default: the system's.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "CA certificate", EditType: "file"},
		},
		fieldRequestTimeout: settingOr(framework.TypeDurationSecond, int(defaultRequestTimeout.Seconds()), "Request timeout",
			"Longest time for one credential fetch, retries and waits included. From 1s to 59s. Default 20s."),
		fieldMaxRetries: settingOr(framework.TypeInt, defaultMaxRetries, "Maximum retries",
			"How often a request is sent again after a network error, a 429, or a 5xx other than 501. From 0 to 10. Default 2."),
		fieldRateLimit: setting(framework.TypeInt, "Rate limit",
			"Most requests to Pipedream in any 60 seconds; 0 lifts the limit. If unset, or set to -1, it is what Pipedream allows: "+
				"100 for a workspace and 400 for a Connect project."),
		fieldMinTTL: settingOr(framework.TypeDurationSecond, int(defaultMinTTL.Seconds()), "Minimum TTL",
			"A cached credential with less life left than this is fetched again before it is served. Default 5m."),
		fieldStaticTTL: settingOr(framework.TypeDurationSecond, int(defaultStaticTTL.Seconds()), "Static TTL",
			"Lease of a credential that never expires, and how long it is served before it is fetched again. At least 2s. Default 1h."),
		fieldExposeRefreshToken: settingOr(framework.TypeBool, false, "Expose refresh token",
			"Whether reads return refresh tokens. They outlive every lease. Default false."),
		fieldTokenFingerprint: settingOr(framework.TypeBool, false, "Token fingerprint",
			"Whether reads of an OAuth access token return its SHA-256 too, as pipedream_token_sha256, to find the token in an app's audit log. Default false."),
	}
}

func configResponseFields() map[string]*framework.FieldSchema {
	fields := configSettings()
	for name, field := range fields {
		fields[name] = &framework.FieldSchema{Type: field.Type, Description: field.Description, Required: true}
	}
	return fields
}

func (b *backend) configExists(ctx context.Context, req *logical.Request, _ *framework.FieldData) (bool, error) {
	c, err := readConfig(ctx, req.Storage)
	if errors.Is(err, errBadConfig) { // it can still be overwritten
		return true, nil
	}
	return c != nil, err
}

func (b *backend) configRead(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c, err := readConfig(ctx, req.Storage)
	if err != nil || c == nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		fieldClientID:           c.ClientID,
		fieldScope:              c.Scope,
		fieldConnectTokenScope:  c.ConnectTokenScope,
		fieldAllowedTokenScopes: append([]string{}, c.AllowedTokenScopes...),
		fieldAllowAccessTokens:  c.AllowAccessTokens,
		fieldProjectID:          c.ProjectID,
		fieldEnvironment:        c.Environment,
		fieldOrgID:              c.OrgID,
		fieldAllowAccountIDs:    c.AllowAccountIDs,
		fieldBaseURL:            c.BaseURL,
		fieldCACert:             c.CACert,
		fieldRequestTimeout:     int64(c.RequestTimeout.Seconds()),
		fieldMaxRetries:         c.MaxRetries,
		fieldRateLimit:          c.rateLimit(),
		fieldMinTTL:             int64(c.MinTTL.Seconds()),
		fieldStaticTTL:          int64(c.StaticTTL.Seconds()),
		fieldExposeRefreshToken: c.ExposeRefreshToken,
		fieldTokenFingerprint:   c.TokenFingerprint,
	}}, nil
}

func (b *backend) configWrite(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	b.configWrites.Lock()
	defer b.configWrites.Unlock()

	old, err := readConfig(ctx, req.Storage)
	if err != nil && !errors.Is(err, errBadConfig) {
		return nil, err
	}
	updated, err := mergeConfig(old, data)
	if err != nil {
		return nil, toLogical(req, err)
	}
	if err := updated.validate(); err != nil {
		return nil, err
	}
	var resp *logical.Response
	if data.Get(fieldVerify).(bool) && namesConnection(data) {
		none, err := b.verify(ctx, updated)
		if err != nil {
			return nil, verifyError(req, updated, err)
		}
		if none {
			resp = &logical.Response{}
			resp.AddWarning("there are no accounts yet" + ofProject(updated.ProjectID, updated.Environment) + ": if that is a surprise, check project_id, environment and org_id")
		}
	}
	if err := b.writes.toTheEnd(ctx, req, func(ctx context.Context, s logical.Storage) error { return writeConfig(ctx, s, updated) }); err != nil {
		b.connections.reset() // it may be stored anyway
		return nil, err
	}
	b.configChanged(old, updated)
	return resp, nil
}

func (b *backend) configDelete(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	b.configWrites.Lock()
	defer b.configWrites.Unlock()

	old, err := readConfig(ctx, req.Storage)
	if err != nil && !errors.Is(err, errBadConfig) {
		return nil, err
	}
	if err := b.writes.toTheEnd(ctx, req, func(ctx context.Context, s logical.Storage) error { return s.Delete(ctx, configPath) }); err != nil {
		b.connections.reset() // it may be gone anyway
		return nil, err
	}
	b.configChanged(old, nil)
	return nil, nil
}

// mergeConfig returns old, or the defaults if there is none, with the fields of data
// changed.
func mergeConfig(old *config, data *framework.FieldData) (*config, error) {
	updated := defaultConfig()
	if old != nil {
		*updated = *old
	}
	secretGiven, err := mergeAuthentication(updated, data)
	if err != nil {
		return nil, err
	}
	if v, ok := data.GetOk(fieldBaseURL); ok {
		updated.BaseURL = normalizeBaseURL(v.(string))
	}
	if old != nil && updated.BaseURL != old.BaseURL && !secretGiven {
		return nil, badRequest("changing base_url requires api_key or client_secret in the same request: the stored one is not sent to a new URL")
	}
	setString(&updated.Scope, data, fieldScope)
	if v, ok := data.GetOk(fieldConnectTokenScope); ok {
		updated.ConnectTokenScope = strings.Join(strings.Fields(v.(string)), " ")
	}
	if v, ok := data.GetOk(fieldAllowedTokenScopes); ok {
		updated.AllowedTokenScopes = v.([]string)
	}
	if v, ok := data.GetOk(fieldAllowAccessTokens); ok {
		updated.AllowAccessTokens = v.(bool)
	}
	setString(&updated.ProjectID, data, fieldProjectID)
	setString(&updated.OrgID, data, fieldOrgID)
	setString(&updated.Environment, data, fieldEnvironment)
	if v, ok := data.GetOk(fieldCACert); ok {
		updated.CACert = v.(string)
	}
	setDuration(&updated.RequestTimeout, data, fieldRequestTimeout)
	setDuration(&updated.MinTTL, data, fieldMinTTL)
	setDuration(&updated.StaticTTL, data, fieldStaticTTL)
	if v, ok := data.GetOk(fieldMaxRetries); ok {
		updated.MaxRetries = v.(int)
	}
	if v, ok := data.GetOk(fieldRateLimit); ok {
		limit := v.(int)
		updated.RateLimit = &limit
		if limit == -1 {
			updated.RateLimit = nil
		}
	}
	if v, ok := data.GetOk(fieldExposeRefreshToken); ok {
		updated.ExposeRefreshToken = v.(bool)
	}
	if v, ok := data.GetOk(fieldTokenFingerprint); ok {
		updated.TokenFingerprint = v.(bool)
	}
	if v, ok := data.GetOk(fieldAllowAccountIDs); ok {
		updated.AllowAccountIDs = v.(bool)
	}
	return updated, updated.renew(old)
}

// mergeAuthentication replaces the key or client in updated by that of data, if it
// has one. It reports whether data has a secret.
func mergeAuthentication(updated *config, data *framework.FieldData) (secretGiven bool, err error) {
	_, hasKey := data.GetOk(fieldAPIKey)
	_, hasID := data.GetOk(fieldClientID)
	_, hasSecret := data.GetOk(fieldClientSecret)
	given := func(field string) string { return strings.TrimSpace(data.Get(field).(string)) }
	switch {
	case hasKey && (hasID || hasSecret):
		return false, badRequest("give either api_key, or client_id and client_secret, not both")
	case hasKey:
		updated.APIKey, updated.ClientID, updated.ClientSecret = redact.Secret(given(fieldAPIKey)), "", ""
	case hasID && !hasSecret && updated.ClientID != "" && given(fieldClientID) != updated.ClientID:
		return false, badRequest("changing client_id requires client_secret in the same request")
	case hasID || hasSecret:
		updated.APIKey, updated.OrgID = "", ""
		if hasID {
			updated.ClientID = given(fieldClientID)
		}
		if hasSecret {
			updated.ClientSecret = redact.Secret(given(fieldClientSecret))
		}
	}
	return hasKey || hasSecret, nil
}

// namesConnection reports whether a write concerns the connection to Pipedream.
// Other settings can be changed while Pipedream is down.
func namesConnection(data *framework.FieldData) bool {
	for _, field := range []string{fieldAPIKey, fieldClientID, fieldClientSecret, fieldScope, fieldProjectID, fieldOrgID, fieldEnvironment, fieldBaseURL, fieldCACert, fieldVerify} {
		if _, ok := data.GetOk(field); ok {
			return true
		}
	}
	return false
}
