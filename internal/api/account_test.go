package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTimesAreReadInEveryForm(t *testing.T) {
	written := time.Date(2030, 2, 11, 5, 18, 46, 0, time.UTC)
	for name, tc := range map[string]struct {
		json string
		want time.Time
	}{
		"ISO 8601":                      {`"2030-02-11T05:18:46.000Z"`, written},
		"without parts of a second":     {`"2030-02-11T05:18:46Z"`, written},
		"with microseconds":             {`"2030-02-11T05:18:46.123456Z"`, written.Add(123456 * time.Microsecond)},
		"in another zone":               {`"2030-02-11T06:18:46.000+01:00"`, written},
		"with +0000":                    {`"2030-02-11T05:18:46.000+0000"`, written},
		"in another zone, no colon":     {`"2030-02-11T00:18:46-0500"`, written},
		"in lower case":                 {`"2030-02-11t05:18:46.000z"`, written},
		"Unix seconds":                  {`1897017526`, written},
		"Unix seconds with a fraction":  {`1897017526.25`, written.Add(250 * time.Millisecond)},
		"Unix milliseconds":             {`1897017526000`, written},
		"milliseconds with an exponent": {`1.897017526e12`, written},
		"the last year that JSON holds": {`"9999-12-31T23:59:59Z"`, time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := account(t, says(`{"data":{"id":"apn_github","expires_at":`+tc.json+`,"created_at":`+tc.json+`}}`))
			require.NoError(t, err)
			require.Equal(t, tc.want, a.ExpiresAt)
			require.Equal(t, tc.want, a.CreatedAt)
		})
	}
}

// To read an invalid end as "never" would serve a dead token. An end in the year
// 10000, in UTC, could not be stored.
func TestAnInvalidExpiryIsRefused(t *testing.T) {
	for _, written := range []string{
		`17`, `-1`, `0`, `999999999`, `1e16`, `1e400`, `"soon"`, `""`, `"2030-02-11"`, `"10000-01-01T00:00:00Z"`, `"0001-01-01T00:00:00Z"`,
		`"9999-12-31T23:59:59-23:59"`, `253402300800000`, `"1897017526"`, `true`, `[]`, `{}`,
	} {
		t.Run(written, func(t *testing.T) {
			_, err := account(t, says(`{"data":{"id":"apn_github","expires_at":`+written+`}}`))
			e := isError(t, err, BadAnswer, "Pipedream's answer could not be understood: its expires_at is not a time")
			require.Equal(t, github, e.Account)
			require.False(t, e.IsAccountFault(), "what is cached stays")
		})
	}
}

func TestOtherInvalidTimesAreUnknown(t *testing.T) {
	a, err := account(t, says(`{"id":"apn_github","expires_at":null,"next_refresh_at":"soon","created_at":17,"updated_at":{},"last_refreshed_at":"10000-01-01T00:00:00Z"}`))
	require.NoError(t, err)
	require.Equal(t, &Account{ID: github, Healthy: true}, a)
}

func TestFlagsAreReadInEveryForm(t *testing.T) {
	for written, want := range map[string]bool{
		`true`: true, `false`: false, `1`: true, `0`: false, `2`: true, `0.0`: false, `"true"`: true, `"false"`: false, `"TRUE"`: true,
		`"1"`: true, `"0"`: false, `"yes"`: true, `"no"`: false, `null`: false, `""`: false, `"maybe"`: false, `[]`: false, `{}`: false,
	} {
		t.Run(written, func(t *testing.T) {
			a, err := account(t, says(`{"id":"apn_github","dead":`+written+`}`))
			require.NoError(t, err)
			require.Equal(t, want, a.Dead)
		})
	}
	for written, want := range map[string]bool{`null`: true, `true`: true, `"true"`: true, `1`: true, `false`: false, `0`: false, `"false"`: false} {
		a, err := account(t, says(`{"id":"apn_github","healthy":`+written+`}`))
		require.NoError(t, err)
		require.Equal(t, want, a.Healthy, "healthy: %s", written)
	}
	a, err := account(t, says(`{"id":"apn_github"}`))
	require.NoError(t, err)
	require.True(t, a.Healthy, "an account is healthy unless it says otherwise")
}

func TestAnAccountComesInTwoForms(t *testing.T) {
	const body = `{"id":"apn_github","name":"Octo Cat","external_id":"user-1","app":{"id":"app_1","name_slug":"github","name":"GitHub","auth_type":"oauth"},
		"healthy":false,"dead":false,"error":"revoked","beta":1,"credentials":{"token":"t","n":1152921504606846977},
		"expires_at":"2030-02-11T05:18:46.000Z","next_refresh_at":"2030-02-11T05:10:00.000Z"}`
	want := &Account{
		ID: github, Name: "Octo Cat", ExternalID: "user-1", App: App{ID: "app_1", Slug: "github", Name: "GitHub", AuthType: "oauth"}, Error: "revoked",
		ExpiresAt:     time.Date(2030, 2, 11, 5, 18, 46, 0, time.UTC),
		NextRefreshAt: time.Date(2030, 2, 11, 5, 10, 0, 0, time.UTC),
		Credentials:   map[string]json.RawMessage{"token": json.RawMessage(`"t"`), "n": json.RawMessage(`1152921504606846977`)},
	}
	for name, body := range map[string]string{
		"in data":                          `{"data":` + body + `}`,
		"bare":                             body,
		"bare, with data of its own":       body[:len(body)-1] + `,"data":{"id":"apn_other"}}`,
		"in data, beside an error":         `{"error":"half of it failed","data":` + body + `}`,
		"in data, with more than expected": `{"page_info":null,"data":` + body + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			a, err := account(t, says(body))
			require.NoError(t, err)
			require.Equal(t, want, a)
		})
	}
}

func TestAnAnswerWithoutAnAccount(t *testing.T) {
	const notJSON = "Pipedream's answer could not be understood: it is not the JSON that was expected"
	const instead = "Pipedream's answer could not be understood: an error stands in place of what was asked for"
	for body, want := range map[string]struct {
		kind Kind
		text string
	}{
		``:                                      {BadAnswer, notJSON},
		`null`:                                  {BadAnswer, notJSON},
		`[]`:                                    {BadAnswer, notJSON},
		`"apn_github"`:                          {BadAnswer, notJSON},
		`<html>`:                                {BadAnswer, notJSON},
		`{}`:                                    {BadAnswer, notJSON},
		`{"data":{}}`:                           {BadAnswer, notJSON},
		`{"data":[{"id":"apn_github"}]}`:        {BadAnswer, notJSON},
		`{"id":17}`:                             {BadAnswer, notJSON},
		`{"id":""}`:                             {BadAnswer, notJSON},
		`{"id":"apn_github"} and more`:          {BadAnswer, notJSON},
		`{"id":"apn_github","credentials":[]}`:  {BadAnswer, "Pipedream's answer could not be understood: its credentials are not an object"},
		`{"id":"apn_github","credentials":"x"}`: {BadAnswer, "Pipedream's answer could not be understood: its credentials are not an object"},
		`{"id":"apn_other"}`:                    {WrongAccount, "the answer is about another account"},
		`{"error":"record not found"}`:          {NotFound, "Pipedream does not know it"},
		`{"error":"Record Not Found","data":null}`:     {NotFound, "Pipedream does not know it"},
		`{"data":{"error":"record not found"}}`:        {BadAnswer, notJSON},
		`{"error":"record not found","path":"/v1"}`:    {BadAnswer, notJSON},
		`{"error":"pd_secret is over quota"}`:          {BadAnswer, instead},
		`{"error":{"account":["pd_secret is wrong"]}}`: {BadAnswer, instead},
		`{"error":{"message":"pd_secret over quota"}}`: {BadAnswer, notJSON},
	} {
		t.Run(body, func(t *testing.T) {
			_, err := account(t, ofAccounts(says(body)))
			require.Equal(t, github, isError(t, err, want.kind, want.text).Account)
		})
	}
}

// wide returns credentials with that many fields.
func wide(fields int) string {
	all := make([]string, fields)
	for i := range all {
		all[i] = fmt.Sprintf(`"f%d":1`, i)
	}
	return "{" + strings.Join(all, ",") + "}"
}

// textOf returns a JSON string of size bytes, quotes included.
func textOf(size int) string { return `"` + strings.Repeat("x", size-2) + `"` }

// fat returns credentials of size bytes, with no field beyond the bound of a
// field.
func fat(size int) string {
	var b strings.Builder
	b.WriteString("{")
	for i := 0; b.Len() < size-MaxField-20; i++ {
		fmt.Fprintf(&b, `"f%d":%s,`, i, textOf(MaxField))
	}
	rest := size - b.Len() - len(`"rest":}`)
	b.WriteString(`"rest":` + textOf(rest) + `}`)
	return b.String()
}

var boundsOfCredentials = map[string]struct{ within, beyond, text string }{
	"in bytes":  {fat(MaxCredential), fat(MaxCredential + 1), "its credentials have more than 256 KiB"},
	"in fields": {wide(MaxFields), wide(MaxFields + 1), "its credentials have more than 200 fields"},
	"in a field's bytes": {
		`{"f":` + textOf(MaxField) + `}`, `{"f":` + textOf(MaxField+1) + `}`, "a field of its credentials has more than 64 KiB",
	},
}

func TestAnAccountsCredentialsAreBounded(t *testing.T) {
	for name, tc := range boundsOfCredentials {
		t.Run(name, func(t *testing.T) {
			a, err := account(t, says(`{"id":"apn_github","credentials":`+tc.within+`}`))
			require.NoError(t, err)
			require.NotEmpty(t, a.Credentials)
			_, err = account(t, says(`{"id":"apn_github","credentials":`+tc.beyond+`}`))
			e := isError(t, err, TooLarge, "Pipedream's answer is too large: "+tc.text)
			require.Equal(t, github, e.Account)
		})
	}
}

func TestAnAnswerIsBounded(t *testing.T) {
	const body = `{"id":"apn_github"}`
	_, err := account(t, says(body+strings.Repeat(" ", MaxAccountAnswer-len(body))))
	require.NoError(t, err)
	_, err = account(t, says(body+strings.Repeat(" ", MaxAccountAnswer-len(body)+1)))
	isError(t, err, TooLarge, "Pipedream's answer is too large: it has more than 1 MiB")
}

func TestAccountComplete(t *testing.T) {
	token := map[string]json.RawMessage{"token": json.RawMessage(`"t"`)}
	require.True(t, (&Account{Credentials: token}).Complete())
	require.True(t, (&Account{Dead: true}).Complete(), "a request for it alone brings no more")
	require.False(t, (&Account{}).Complete())
	require.Greater(t, (&Account{Credentials: token}).Size(), (&Account{}).Size())
}

func TestAppLabel(t *testing.T) {
	require.Equal(t, "github", App{ID: "app_1", Slug: "github", Name: "GitHub"}.Label())
	require.Equal(t, "GitHub", App{ID: "app_1", Name: "GitHub"}.Label())
	a, err := account(t, says(`{"id":"apn_github","app":"github"}`))
	require.NoError(t, err)
	require.Equal(t, App{}, a.App, "an app that is no object is unknown")
}

func TestAccountIDs(t *testing.T) {
	for _, id := range []string{"apn_XehyZPr", "apn_1", "apn_a-b", "apn_a.b", "apn_" + strings.Repeat("a", MaxAccountID-4)} {
		require.True(t, ValidAccountID(id), id)
	}
	for _, id := range []string{
		"", "apn_", "app_1", "apn_a/b", "apn_../b", "apn_a b", "apn_a-", "apn_.", "apn_a\n", "xapn_a", "apn_é", "apn_" + strings.Repeat("a", MaxAccountID-3),
	} {
		require.False(t, ValidAccountID(id), "%q", id)
	}
}

func TestPrintableDropsControlCharacters(t *testing.T) {
	for text, want := range map[string]string{
		"Octo Cat, 鍵":                             "Octo Cat, 鍵",
		"\x1b[31mred\x1b[0m":                      "[31mred[0m",
		"a\r\nb\tc\a\x00":                         "abc",
		"right\u202eleft":                         "rightleft",
		"\xff\xfe":                                "\uFFFD\uFFFD",
		strings.Repeat("é", MaxText):              strings.Repeat("é", MaxText),
		strings.Repeat("é", MaxText+1):            strings.Repeat("é", MaxText) + "…",
		strings.Repeat("x", 1<<20):                strings.Repeat("x", MaxText) + "…",
		strings.Repeat("\x1b", 8) + "behind them": "behind them",
	} {
		require.Equal(t, want, Printable(text))
	}
	a, err := account(t, says(`{"id":"apn_github","name":"\u001bn","error":"\u001be","external_id":"\u001bu","app":{"id":"\u001bi","name_slug":"\u001bs","name":"\u001ba","auth_type":"\u001bt"}}`))
	require.NoError(t, err)
	require.Equal(t, &Account{
		ID: github, Name: "n", Error: "e", Healthy: true, App: App{ID: "i", Slug: "s", Name: "a", AuthType: "t"},
		ExternalID: "\x1bu", // it is compared, so it stays as it is
	}, a)
}

func TestCredentialsWithoutTheToken(t *testing.T) {
	for credentials, ok := range map[string]bool{
		`{"oauth_client_id":"c","oauth_uid":"u","oauth_access_token":"t"}`: true,
		`{"oauth_client_id":"c","oauth_uid":"u","instance_url":"i"}`:       false,
		`{"oauth_uid":"u"}`: false,
		`{"oauth_uid":"u","oauth_signer_uri":"https://signer.example"}`: true,
		`{"oauth_uid":null,"api_key":"k"}`:                              true,
		`{"api_key":"k"}`:                                               true,
	} {
		_, err := decodeAccount([]byte(`{"id":"apn_1","credentials":` + credentials + `}`))
		if ok {
			require.NoError(t, err, credentials)
		} else {
			require.ErrorIs(t, err, errNoToken, credentials)
		}
	}
}
