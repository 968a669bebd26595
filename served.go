package pipedream

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/token"
)

// served is the credential that answers a request.
type served struct {
	*target

	credential *credential.Credential
}

// credential returns the live credential that a request asks for.
func (b *backend) credential(ctx context.Context, req *logical.Request, data *framework.FieldData) (*served, error) {
	t, err := b.target(ctx, req, data)
	if err != nil {
		return nil, err
	}
	t.reader.Demand = t.reader.Demand.Raise(time.Duration(data.Get(fieldMinTTL).(int)) * time.Second)
	if t.role.ofTokens() {
		return b.token(ctx, t)
	}
	got := &served{target: t}
	switch {
	case t.accountID != "":
		got.credential, err = t.view.Get(ctx, t.reader, t.accountID)
	case t.named != "":
		got.credential, err = t.view.GetChosen(ctx, t.reader, t.user, t.named)
	default:
		got.credential, err = t.view.GetForUser(ctx, t.reader, t.user)
	}
	if err != nil {
		return nil, t.about(err)
	}
	if err := got.checkScopes(req); err != nil {
		return nil, err
	}
	return got, got.checkFields()
}

// lacks says which of the scopes that the role requires the account was not given, and
// how to give it them; empty for none.
func (s *served) lacks(req *logical.Request) string {
	if s.role == nil || len(s.role.RequiredScopes) == 0 {
		return ""
	}
	lacking := s.role.lacking(s.credential.Scopes)
	if len(lacking) == 0 {
		return ""
	}
	return s.textOfLacking(req, s.credential.AccountID, lacking)
}

func (s *served) checkScopes(req *logical.Request) error {
	if s.role == nil || !s.role.EnforceScopes {
		return nil
	}
	if lacks := s.lacks(req); lacks != "" {
		return badRequest("%s", lacks)
	}
	return nil
}

// checkFields returns an error if the account has none of the fields that the role
// names.
func (s *served) checkFields() error {
	if s.role == nil || len(s.role.Fields) == 0 {
		return nil
	}
	for _, name := range s.role.Fields {
		if s.credential.Has(name, s.config.ExposeRefreshToken) {
			return nil
		}
	}
	return badRequest("the credentials of account %s have none of the role's fields (%s)",
		s.credential.AccountID, api.Printable(strings.Join(s.role.Fields, ", ")))
}

// data returns the flat map that a read returns.
func (s *served) data() map[string]any {
	if s.role.ofTokens() {
		return s.tokenData()
	}
	var only func(string) bool
	if s.role != nil && len(s.role.Fields) > 0 {
		only = func(name string) bool { return slices.Contains(s.role.Fields, name) }
	}
	data := s.credential.Data(s.config.ExposeRefreshToken, only)
	if secret, ok := data[fieldOAuthAccessToken].(string); ok && s.config.TokenFingerprint {
		data[fieldTokenSHA256] = fingerprint(secret)
	}
	return data
}

// fingerprint returns the name of a token in GitHub's audit log (hashed_token): its
// SHA-256 in base64. Only OAuth access tokens have one. They are long and random, while a
// weak key could be guessed from its hash.
func fingerprint(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// capTTL shortens ttl to the cap of the role, if it has one.
func (s *served) capTTL(ttl time.Duration) time.Duration {
	if s.role != nil && s.role.TTL > 0 {
		return min(ttl, s.role.TTL)
	}
	return ttl
}

// warn adds to the response what its reader should know about the account.
func (s *served) warn(req *logical.Request, resp *logical.Response) *logical.Response {
	if s.credential.Unhealthy && s.accountID == "" {
		warning := fmt.Sprintf("account %s is unhealthy: Pipedream's last use of its credentials failed. ", s.credential.AccountID)
		if s.named == "" {
			warning += "There is no healthy account of this external user and app"
		}
		resp.AddWarning(strings.TrimRight(warning, " "))
	}
	if lacks := s.lacks(req); lacks != "" {
		resp.AddWarning(lacks)
	}
	if s.accountID == "" {
		s.warnOfStranger(req, resp, s.credential.AccountID)
	}
	return resp
}

// token returns the live token that a request asks for.
func (b *backend) token(ctx context.Context, t *target) (*served, error) {
	got, how, err := t.currentToken(ctx)
	if err != nil {
		b.stats.Missed()
		return nil, t.about(err)
	}
	b.stats.Served(t.reader.Path, map[token.How]cache.How{token.Hit: cache.Hit, token.Made: cache.Fetched, token.Stale: cache.Stale}[how])
	t.reader.Demand = token.Demand(got, t.reader.Demand, b.clock.Now())
	return &served{target: t, credential: got}, nil
}

// tokenData returns what a read of a token returns.
func (s *served) tokenData() map[string]any {
	data := s.credential.Data(false, nil)
	data["pipedream_project_id"] = s.config.ProjectID
	data["pipedream_environment"] = s.config.Environment
	data["pipedream_api_url"] = s.config.BaseURL
	if s.credential.ExternalUser != "" {
		data["pipedream_external_user_id"] = s.credential.ExternalUser
	}
	return data
}
