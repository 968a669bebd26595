package cache

import (
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
)

func TestChoose(t *testing.T) {
	accounts := []*Owned{
		{Account: &api.Account{ID: "apn_1", Name: "work"}},
		{Account: &api.Account{ID: "apn_2", Name: "play", Dead: true}},
		{Account: &api.Account{ID: "apn_3", Name: "twin"}},
		{Account: &api.Account{ID: "apn_4", Name: "twin"}},
		{Account: &api.Account{ID: "apn_5", Name: "apn_1"}},
		{Account: &api.Account{ID: "apn_6"}},
	}
	for name, tc := range map[string]struct {
		named, chosen string
		matches       int
	}{
		"an id":                                {named: "apn_2", chosen: "apn_2"},
		"a name":                               {named: "work", chosen: "apn_1"},
		"the name of a dead account":           {named: "play", chosen: "apn_2"},
		"an id that is also a name":            {named: "apn_1", chosen: "apn_1"},
		"the id of one without a name":         {named: "apn_6", chosen: "apn_6"},
		"the name of two":                      {named: "twin", matches: 2},
		"the id of another user's account":     {named: "apn_9"},
		"an id in another case":                {named: "APN_1"},
		"a name in another case":               {named: "Work"},
		"the beginning of a name":              {named: "wor"},
		"a name with a space after it":         {named: "work "},
		"a name with what cannot be seen":      {named: "work\u200b"},
		"a pattern":                            {named: "*"},
		"nothing":                              {named: ""},
		"something that begins like an id":     {named: "apn_"},
		"another user's account and one's own": {named: "apn_1,apn_9"},
	} {
		t.Run(name, func(t *testing.T) {
			chosen, err := new(View).Choose(accounts, User{App: "github", ExternalID: "alice"}, tc.named)
			if tc.chosen != "" {
				require.NoError(t, err)
				require.Equal(t, tc.chosen, chosen.ID)
				return
			}
			var choice *ChoiceError
			require.ErrorAs(t, err, &choice)
			require.Equal(t, tc.matches, choice.Matches)
			require.Equal(t, accounts, choice.Accounts)
			require.NotContains(t, err.Error(), "twin", "names in log lines")
		})
	}
}
