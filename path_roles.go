package pipedream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	pathRoleHelpSyn = `Manage a role: a name for an account, with limits on its use.`

	pathRoleHelpDesc = `
A role gives an account a stable name, read at creds/<name> or
static-creds/<name>. It is either for one account:

    $ vault write pipedream/roles/billing account_id=apn_XehyZPr fields=api_key ttl=15m

or, in a Connect project, for the account that an external user has with an
app. If external_user_id is an identity template, every Vault user reads the
credentials of their own account, with one role and one policy:

    $ vault write pipedream/roles/github app=github \
        external_user_id='{{identity.entity.aliases.auth_userpass_4b1a.name}}'

A backend that works for many users does not log in as them. With
allowed_external_user_ids, the path names the user, and policies decide who may
read for whom:

    $ vault write pipedream/roles/crm app=hubspot \
        allowed_external_user_ids='acme:*'
    $ vault read pipedream/creds/crm/acme:42

A user who has no account yet gets a link to connect one at connect/<name>.

If a user has several healthy accounts, the role returns the one created last,
and keeps to it while it works. It returns an unhealthy account only if there is
no healthy one. A role's name never begins with apn_. Deleting a role does not
end its leases.

With credential_type, a role hands out tokens for Pipedream's own API, such as
its proxy, which uses accounts that come without credentials (experimental: not
yet tried with the real Pipedream). A Connect token opens all accounts of one
external user within its scope. Config says which scopes roles may give.

    $ vault write pipedream/roles/slack credential_type=connect_token \
        scope=connect:proxy app=slack \
        external_user_id='{{identity.entity.aliases.auth_userpass_4b1a.name}}'
`

	pathRolesHelpSyn  = `List the roles.`
	pathRolesHelpDesc = `
Lists the names of the roles. To see what a role is and which fields it has:

    $ vault path-help pipedream/roles/my-role
`
)

func (b *backend) pathRoles() []*framework.Path {
	return []*framework.Path{
		{
			Pattern:      "roles/?$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, Navigation: true, ItemType: "Role"},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback:     b.rolesList,
					Summary:      pathRolesHelpSyn,
					DisplayAttrs: &framework.DisplayAttributes{OperationSuffix: "roles"},
					Responses: answerOf(map[string]*framework.FieldSchema{
						"keys": {Type: framework.TypeStringSlice, Required: true, Description: "Names of the roles."},
					}),
				},
			},
			HelpSynopsis:    pathRolesHelpSyn,
			HelpDescription: pathRolesHelpDesc,
		},
		b.pathRole(),
	}
}

func (b *backend) pathRole() *framework.Path {
	suffix := &framework.DisplayAttributes{OperationSuffix: "role"}
	write := &framework.PathOperation{
		Callback:                    b.roleWrite,
		Summary:                     "Create or change a role.",
		DisplayAttrs:                suffix,
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
		Responses:                   noContent(),
	}
	fields := roleFields()
	fields["name"] = &framework.FieldSchema{
		Type:         framework.TypeString,
		Required:     true,
		Description:  "Name of the role. Never begins with apn_.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Role name", Identifier: true},
	}
	return &framework.Path{
		Pattern:        "roles/" + framework.GenericNameRegex("name"),
		DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix, ItemType: "Role"},
		Fields:         fields,
		ExistenceCheck: b.roleExists,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:     b.roleRead,
				Summary:      "Read a role.",
				DisplayAttrs: suffix,
				Responses:    answerOf(roleFields()),
			},
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.DeleteOperation: &framework.PathOperation{
				Callback:                    b.roleDelete,
				Summary:                     "Delete a role.",
				DisplayAttrs:                suffix,
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses:                   noContent(),
			},
		},
		HelpSynopsis:    pathRoleHelpSyn,
		HelpDescription: pathRoleHelpDesc,
	}
}

func roleFields() map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		fieldAccountID: setting(framework.TypeString, "Account id", "Id of the account. Not with app and external_user_id."),
		fieldApp:       setting(framework.TypeString, "App", "App of the external user's account: its slug, such as github."),
		fieldOAuthAppID: setting(framework.TypeString, "OAuth app id",
			"Only accounts that were connected with this custom OAuth client, such as oa_aPXiQd. Goes with app. Default: any."),
		fieldExternalUserID: setting(framework.TypeString, "External user id",
			"External user of the Connect project whose account is read, at most 250 characters. "+
				"May be an identity template, such as {{identity.entity.aliases.<mount accessor>.name}}."),
		fieldAllowedUserIDs: setting(framework.TypeCommaStringSlice, "Allowed external user ids",
			"External users whose accounts are read at creds/<role>/<user>, with commas between them. * stands for any characters, as in acme:*. "+
				"For backends that work for many users. In place of external_user_id."),
		fieldFields: setting(framework.TypeCommaStringSlice, "Fields",
			"Credential fields to return, under the names that a read returns, with commas between them. Default: all."),
		fieldTTL: setting(framework.TypeDurationSecond, "TTL",
			"Longest lease, below the credentials' own life. At least 2s. Default 0: no cap."),
		fieldAllowedRedirectHosts: setting(framework.TypeCommaStringSlice, "Allowed redirect hosts",
			"Hosts to which a Connect link may lead the user back, such as app.example.com or localhost:3000, with commas between them. "+
				"Goes with app. Default: none."),
		fieldOAuthScopeProfile: setting(framework.TypeString, "OAuth scope profile",
			"Set of OAuth scopes that a Connect link asks for, by the name that the app has for it in Pipedream. Goes with app. Default: the app's own."),
		fieldAppOverrideID: setting(framework.TypeString, "App override id",
			"App override that a Connect link names, by its id in Pipedream. Goes with app. Default: none."),
		fieldRequiredScopes: setting(framework.TypeCommaStringSlice, "Required scopes",
			"OAuth scopes that the account should have, with commas between them. Reads of an account that lacks one warn. "+
				"Goes with app. Default: none."),
		fieldEnforceScopes: setting(framework.TypeBool, "Enforce scopes",
			"Whether reads of an account that lacks a required scope are refused. Default false: they warn."),
		fieldMinTTL: setting(framework.TypeDurationSecond, "Minimum TTL", "Replaces the mount's min_ttl. Default 0: the mount's."),
	}
	maps.Copy(fields, tokenFields())
	return fields
}

func (b *backend) rolesList(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := req.Storage.List(ctx, rolePrefix)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func (b *backend) roleExists(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
	r, err := readRole(ctx, req.Storage, data.Get("name").(string))
	if errors.Is(err, errBadRole) { // it can still be overwritten
		return true, nil
	}
	return r != nil, err
}

func (b *backend) roleRead(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	r, err := readRole(ctx, req.Storage, data.Get("name").(string))
	if err != nil || r == nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		fieldAccountID:            r.AccountID,
		fieldApp:                  r.App,
		fieldOAuthAppID:           r.OAuthAppID,
		fieldExternalUserID:       r.ExternalUserID,
		fieldAllowedUserIDs:       append([]string{}, r.AllowedExternalUserIDs...),
		fieldFields:               append([]string{}, r.Fields...),
		fieldTTL:                  int64(r.TTL.Seconds()),
		fieldMinTTL:               int64(r.MinTTL.Seconds()),
		fieldAllowedRedirectHosts: append([]string{}, r.AllowedRedirectHosts...),
		fieldOAuthScopeProfile:    r.OAuthScopeProfile,
		fieldAppOverrideID:        r.AppOverrideID,
		fieldRequiredScopes:       append([]string{}, r.RequiredScopes...),
		fieldEnforceScopes:        r.EnforceScopes,
		fieldCredentialType:       r.credentialType(),
		fieldScope:                r.Scope,
		fieldTokenTTL:             int64(r.TokenTTL.Seconds()),
		fieldAllowedOrigins:       append([]string{}, r.AllowedOrigins...),
	}}, nil
}

func (b *backend) roleWrite(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get("name").(string)
	if strings.HasPrefix(name, accountIDPrefix) {
		return nil, badRequest("name must not begin with %s, as account ids do", accountIDPrefix)
	}
	if len(name) > maxNameLength {
		return nil, badRequest("name is longer than %d characters", maxNameLength)
	}
	b.roles.writes.Lock()
	defer b.roles.writes.Unlock()
	r, err := readRole(ctx, req.Storage, name)
	if err != nil && !errors.Is(err, errBadRole) {
		return nil, err
	}
	if r == nil {
		r = &role{}
	}
	if err := mergeTokens(r, data); err != nil {
		return nil, err
	}
	mergeRole(r, data)
	if err := r.validate(); err != nil {
		return nil, err
	}
	if err := b.checkPermitted(ctx, req, r); err != nil {
		return nil, err
	}
	entry, err := logical.StorageEntryJSON(rolePrefix+name, r)
	if err != nil {
		return nil, err
	}
	defer b.roles.forget(name) // even after an error, since it may be stored anyway
	if err := b.writes.toTheEnd(ctx, req, func(ctx context.Context, s logical.Storage) error { return s.Put(ctx, entry) }); err != nil {
		return nil, err
	}
	return warnOfAccessor(r), nil
}

// accessorInTemplate finds the mount accessors in a template.
var accessorInTemplate = regexp.MustCompile(`\{\{\s*identity\.entity\.aliases\.([^.{}]+)\.`)

// warnOfAccessor returns a warning if the role's template names an auth mount in a way that no accessor looks like: then
// nobody can read with the role. Vault tells no plugin which accessors there are, so others are not checked.
func warnOfAccessor(r *role) *logical.Response {
	for _, match := range accessorInTemplate.FindAllStringSubmatch(r.ExternalUserID, -1) {
		if !strings.HasPrefix(match[1], "auth_") {
			resp := &logical.Response{}
			resp.AddWarning(fmt.Sprintf("external_user_id names the auth mount %q, and no accessor looks like that. "+
				"Use one such as auth_userpass_1793464a, from the output of: "+cli+" auth list", match[1]))
			return resp
		}
	}
	return nil
}

// mergeRole changes the fields of r that data names. Fields of one kind of role
// replace those of the other kind.
func mergeRole(r *role, data *framework.FieldData) {
	_, hasAccount := data.GetOk(fieldAccountID)
	_, hasApp := data.GetOk(fieldApp)
	_, hasUser := data.GetOk(fieldExternalUserID)
	_, hasUsers := data.GetOk(fieldAllowedUserIDs)
	switch {
	case hasAccount && !hasApp && !hasUser && !hasUsers:
		r.App, r.ExternalUserID, r.AllowedExternalUserIDs, r.OAuthAppID, r.AllowedRedirectHosts = "", "", nil, "", nil
		r.OAuthScopeProfile, r.AppOverrideID, r.RequiredScopes, r.EnforceScopes = "", "", nil, false
	case !hasAccount && (hasApp || hasUser || hasUsers):
		r.AccountID = ""
	}
	switch {
	case hasUser && !hasUsers:
		r.AllowedExternalUserIDs = nil
	case hasUsers && !hasUser:
		r.ExternalUserID = ""
	}
	if hasUsers {
		r.AllowedExternalUserIDs = data.Get(fieldAllowedUserIDs).([]string)
	}
	setString(&r.AccountID, data, fieldAccountID)
	setString(&r.App, data, fieldApp)
	setString(&r.OAuthAppID, data, fieldOAuthAppID)
	if v, ok := data.GetOk(fieldExternalUserID); ok {
		r.ExternalUserID = v.(string) // not trimmed, since every character counts
	}
	if v, ok := data.GetOk(fieldFields); ok {
		r.Fields = v.([]string)
	}
	if v, ok := data.GetOk(fieldAllowedRedirectHosts); ok {
		r.AllowedRedirectHosts = v.([]string)
	}
	setString(&r.OAuthScopeProfile, data, fieldOAuthScopeProfile)
	setString(&r.AppOverrideID, data, fieldAppOverrideID)
	if v, ok := data.GetOk(fieldRequiredScopes); ok {
		r.RequiredScopes = v.([]string)
	}
	if v, ok := data.GetOk(fieldEnforceScopes); ok {
		r.EnforceScopes = v.(bool)
	}
	setDuration(&r.TTL, data, fieldTTL)
	setDuration(&r.MinTTL, data, fieldMinTTL)
}

func (b *backend) roleDelete(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	b.roles.writes.Lock()
	defer b.roles.writes.Unlock()
	name := data.Get("name").(string)
	defer b.roles.forget(name) // even after an error, since it may be gone anyway
	return nil, b.writes.toTheEnd(ctx, req, func(ctx context.Context, s logical.Storage) error { return s.Delete(ctx, rolePrefix+name) })
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
