package api

import (
	"encoding/json"
	"testing"

	"vault-plugin-secrets-pipedream/internal/redact"
	"vault-plugin-secrets-pipedream/internal/redact/redacttest"
)

func TestSecretsAreRedacted(t *testing.T) {
	const hidden = "pd_hidden"
	config := Config{APIKey: hidden, ClientSecret: hidden}
	redacttest.Check(t, hidden,
		redact.Secret(hidden), config, &config, &Client{config: config, waiting: &probe{bearer: hidden}, auth: apiKey{key: hidden}}, apiKey{key: hidden},
		&Account{Credentials: map[string]json.RawMessage{"token": json.RawMessage(`"` + hidden + `"`)}},
		&accessToken{token: hidden}, &oauthClient{current: &accessToken{token: hidden}},
		&Link{URL: hidden}, Link{URL: hidden},
		&probe{bearer: hidden}, request{bearer: hidden, body: []byte(hidden)},
	)
}
