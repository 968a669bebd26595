package pipedreamtest

import (
	"cmp"
	"maps"
	"slices"
)

// renderApp returns an account's app as the API shows it.
func (a *account) renderApp() map[string]any {
	if a.PlainApp {
		return map[string]any{"id": nullable(a.App.ID), "name": nullable(a.App.Name)}
	}
	return map[string]any{
		"id":                 a.appID(),
		"name_slug":          nullable(a.App.Slug),
		"name":               nullable(a.App.Name),
		"auth_type":          nullable(a.App.AuthType),
		"description":        "All of " + cmp.Or(a.App.Name, a.App.Slug, a.App.ID) + ", simulated.",
		"img_src":            "https://assets.example.com/apps/" + cmp.Or(a.App.Slug, a.App.ID) + "/logo.png",
		"custom_fields_json": a.customFields(),
		"categories":         []any{"Productivity", "Developer Tools"},
		"featured_weight":    1000,
		"connect": map[string]any{
			"proxy_enabled":         true,
			"allowed_domains":       []any{"api.example.com"},
			"base_proxy_target_url": "https://api.example.com",
		},
		"scope_profiles":    a.scopeProfiles(),
		"beta_connect_tier": "standard", // in no documentation
	}
}

// appID returns the id that the account shows for its app: that of the custom OAuth client if there is one, and none if
// the app has no OAuth.
func (a *account) appID() any {
	switch {
	case a.OAuthAppID != "":
		return a.OAuthAppID
	case a.App.AuthType == authKeys || a.App.AuthType == authNone:
		return nil
	default:
		return nullable(a.App.ID)
	}
}

// customFields returns the fields that the app asks its users for, as JSON text, which the API puts into a string.
func (a *account) customFields() string {
	fields := []any{}
	if a.App.AuthType == authKeys {
		for _, name := range slices.Sorted(maps.Keys(a.Credentials)) {
			fields = append(fields, map[string]any{"name": name, "label": name, "type": "string", "optional": nil})
		}
	}
	text, _ := appendJSON(nil, fields) // names marshal
	return string(text)
}

// defaultScopes are the scopes that users of an OAuth app are asked for, unless a link names a profile.
var defaultScopes = []string{"read", "write"}

// profiles are the named sets of scopes of each OAuth app.
var profiles = map[string][]string{"read_only": {"read"}, "read_write": {"read", "write"}, "admin": {"read", "write", "admin"}}

// profileScopes returns the scopes of a profile, or the default ones if there is no name. An app without OAuth has none.
func profileScopes(app App, name string) (scopes []string, ok bool) {
	if name == "" {
		return defaultScopes, true
	}
	scopes, ok = profiles[name]
	return scopes, ok && app.AuthType == authOAuth
}

// scopeProfiles returns the profiles as the API shows them.
func (a *account) scopeProfiles() []any {
	shown := []any{}
	if a.App.AuthType == authOAuth {
		for _, name := range slices.Sorted(maps.Keys(profiles)) {
			shown = append(shown, map[string]any{"name": name, "scopes": texts(profiles[name])})
		}
	}
	return shown
}

// texts returns strings as elements of a JSON list.
func texts(list []string) []any {
	elements := make([]any, len(list))
	for i, text := range list {
		elements[i] = text
	}
	return elements
}
