package pipedream

import (
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-pipedream/internal/api"
)

// namedAccount returns the id or name by which a request chooses one of a user's
// accounts; empty if it does not. It refuses what no account can have for either.
func namedAccount(data *framework.FieldData) (string, error) {
	raw, given := data.GetOk(fieldAccount)
	named, _ := raw.(string)
	switch {
	case !given:
		return "", nil
	case strings.TrimSpace(named) == "":
		return "", badRequest("account is empty: give the id or the name of one of the user's accounts, or leave it out")
	case strings.HasPrefix(named, accountIDPrefix) && !api.ValidAccountID(named):
		return "", badRequest("account begins with %s, so it must be an id that looks like %s", accountIDPrefix, exampleAccountID)
	case api.Printable(named) != named && !isCutName(named):
		return "", badRequest("account must be the id or the name of an account as accounts/ or connect/ shows it: characters that can be printed, %d at most", api.MaxText)
	default:
		return named, nil
	}
}

// isCutName reports whether a name is one that was too long to be shown as a whole.
func isCutName(named string) bool {
	whole, cut := strings.CutSuffix(named, "…")
	return cut && api.Printable(whole) == whole && len([]rune(whole)) == api.MaxText
}

// nameAccount notes which of the user's accounts t is about.
func (t *target) nameAccount(data *framework.FieldData) (err error) {
	if t.named, err = namedAccount(data); err != nil || t.named == "" {
		return err
	}
	if t.role.ofTokens() {
		return badRequest("account goes with a role that hands out credentials: a token opens all accounts of its user")
	}
	if t.accountID != "" {
		return badRequest("account goes with a role that has app and external_user_id: this path already names one account")
	}
	return nil
}
