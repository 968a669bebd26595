package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestDemoAccounts(t *testing.T) {
	byID := map[string]pipedreamtest.Account{}
	for _, a := range demoAccounts(7 * time.Second) {
		byID[a.ID] = a
	}
	require.Len(t, byID, 8)
	require.Equal(t, time.Hour, byID["apn_github"].TokenLife)
	require.Equal(t, "google_sheets", byID["apn_sheets"].App.Slug)
	require.Equal(t, 7*time.Second, byID["apn_slack"].TokenLife)
	require.Zero(t, byID["apn_stripe"].TokenLife)
	require.Contains(t, byID["apn_stripe"].Credentials, "api_key")
	require.True(t, byID["apn_dead"].Dead)
	require.Equal(t, "invalid_grant", byID["apn_dead"].Error)
	for id, user := range map[string]string{"apn_alice1": "alice", "apn_bob1": "bob"} {
		require.Equal(t, "proj_demo", byID[id].Project)
		require.Equal(t, user, byID[id].ExternalUserID)
		require.Equal(t, "github", byID[id].App.Slug)
		require.Equal(t, "oa_demo", byID[id].OAuthAppID)
	}
}

func TestDecodeAccounts(t *testing.T) {
	accounts, err := decodeAccounts(strings.NewReader(`[
		{
			"id": "apn_full", "name": "All of it",
			"app": {"id": "app_x", "name_slug": "x", "name": "X", "auth_type": "oauth"},
			"project": "proj_x", "environment": "development", "external_user_id": "alice", "oauth_app_id": "oa_x",
			"credentials": {"n": 1152921504606846976, "o": {"p": [1.50]}},
			"token_life": "1h", "refresh_before": "5m", "scopes": ["repo", "user:email"], "no_refresh": true,
			"dead": true, "unhealthy": true, "error": "why", "no_credentials": true, "omit_next_refresh": true,
			"hide_expiry": true, "plain_app": true, "times": "seconds",
			"created_at": "2024-02-11T05:18:46.000Z", "updated_at": "2024-02-12T05:18:46.000Z"
		},
		{"id": "apn_least"}
	]`))
	require.NoError(t, err)
	require.Equal(t, []pipedreamtest.Account{
		{
			ID: "apn_full", Name: "All of it",
			App:     pipedreamtest.App{ID: "app_x", Slug: "x", Name: "X", AuthType: "oauth"},
			Project: "proj_x", Environment: "development", ExternalUserID: "alice", OAuthAppID: "oa_x",
			Credentials: map[string]any{"n": json.RawMessage("1152921504606846976"), "o": json.RawMessage(`{"p": [1.50]}`)},
			TokenLife:   time.Hour, RefreshBefore: 5 * time.Minute, Scopes: []string{"repo", "user:email"}, NoRefresh: true,
			Dead: true, Unhealthy: true, Error: "why", NoCredentials: true, OmitNextRefresh: true,
			HideExpiry: true, PlainApp: true, Times: pipedreamtest.TimesSeconds,
			CreatedAt: time.Date(2024, 2, 11, 5, 18, 46, 0, time.UTC), UpdatedAt: time.Date(2024, 2, 12, 5, 18, 46, 0, time.UTC),
		},
		{ID: "apn_least", Credentials: map[string]any{}},
	}, accounts)
}

func TestDecodeAccountsRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":             ``,
		"no JSON":             `accounts:`,
		"no list":             `{"id":"apn_x"}`,
		"two lists":           `[] []`,
		"no id":               `[{"id":"apn_x"},{"name":"x"}]`,
		"an id twice":         `[{"id":"apn_x"},{"id":"apn_x"}]`,
		"an unknown field":    `[{"id":"apn_x","healthy":true}]`,
		"a bad duration":      `[{"id":"apn_x","token_life":"an hour"}]`,
		"a number of seconds": `[{"id":"apn_x","token_life":3600}]`,
		"a negative life":     `[{"id":"apn_x","token_life":"-1h"}]`,
		"a bad environment":   `[{"id":"apn_x","environment":"staging"}]`,
		"bad times":           `[{"id":"apn_x","times":"sundial"}]`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := decodeAccounts(strings.NewReader(text))
			require.Error(t, err)
		})
	}
}
