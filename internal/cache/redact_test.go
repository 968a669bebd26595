package cache

import (
	"testing"

	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/redact/redacttest"
)

func TestSecretsAreRedacted(t *testing.T) {
	const hidden = "pd_hidden"
	c := &credential.Credential{Fields: map[string]string{"token": hidden}}
	redacttest.Check(t, hidden, c, &entry{Credential: c})
}
