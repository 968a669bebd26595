package api

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzDecodeLink fuzzes answers to a request for a link. A link that the decoder
// accepts is safe to open in a browser, and is for the app that was asked for.
func FuzzDecodeLink(f *testing.F) {
	for _, seed := range []string{
		`{"token":"ctok_1","expires_at":"2030-02-11T05:18:46.000Z","connect_link_url":"https://pipedream.com/_static/connect.html?token=ctok_1&connectLink=true"}`,
		`{"connect_link_url":"http://127.0.0.1:1/?app=other&app=another&oauthAppId=oa_other"}`,
		`{"connect_link_url":"http://pipedream.com/"}`, `{"connect_link_url":"javascript:alert(1)"}`, `{"connect_link_url":"https://a@b.example/#\u001b"}`,
		`{"connect_link_url":"//evil.example"}`, `{"connect_link_url":1}`, `{}`, `[]`, `null`, ``, "\xff",
	} {
		f.Add([]byte(seed))
	}
	asked := time.Now()
	f.Fuzz(func(t *testing.T, body []byte) {
		link, err := decodeLink(body, LinkRequest{App: "github", OAuthApp: "oa_ours", Life: time.Minute}, asked)
		if err != nil {
			require.Nil(t, link)
			ownWords(t, err)
			return
		}
		require.False(t, link.ExpiresAt.IsZero())
		require.Equal(t, Printable(string(link.URL)[:min(len(link.URL), MaxText)]), string(link.URL)[:min(len(link.URL), MaxText)])
		u, err := url.Parse(string(link.URL))
		require.NoError(t, err)
		require.True(t, u.Scheme == "https" || u.Scheme == "http" && IsLoopback(u.Hostname()), u)
		require.NotEmpty(t, u.Host)
		require.Nil(t, u.User)
		require.Equal(t, []string{"github"}, u.Query()["app"])
		require.Equal(t, []string{"oa_ours"}, u.Query()["oauthAppId"])
	})
}

// FuzzDecodeAccount fuzzes answers for one account. An account that the decoder
// accepts has an id, and no expires_at that was overlooked.
func FuzzDecodeAccount(f *testing.F) {
	for _, seed := range []string{
		`{"data":{"id":"apn_a","name":"n","app":{"id":"app_1","name_slug":"s","name":"N"},"healthy":true,"dead":false,"credentials":{"oauth_access_token":"t"},"expires_at":"2030-02-11T05:18:46.000Z","next_refresh_at":null}}`,
		`{"id":"apn_a","credentials":null,"expires_at":null}`,
		`{"id":"apn_a","credentials":{},"expires_at":"soon"}`,
		`{"id":"apn_a","data":{"id":"apn_b"},"expires_at":17}`,
		`{"id":"apn_a","credentials":{"oauth_access_token":"","oauth_uid":"u"}}`,
		`{"error":"record not found"}`,
		`{"data":null,"error":"Record Not Found"}`,
		`{"data":[1]}`,
		`[]`, `null`, `"x"`, ``, "\xff", `{"id":"apn_a","id":"apn_b","credentials":{"a":1,"a":2}}`,
		`{"id":"apn_a","expires_at":"9999-12-31T23:59:59-23:59"}`, `{"id":"apn_a","expires_at":"0001-01-01T00:00:00Z"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := decodeAccount(body)
		if err != nil {
			require.Nil(t, a)
			ownWords(t, err)
			return
		}
		require.NotEmpty(t, a.ID)
		again, err := decodeAccount(body)
		require.NoError(t, err)
		require.Equal(t, a, again)
		if a.ExpiresAt.IsZero() {
			var top map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(body, &top))
			if data := top["data"]; top["id"] == nil {
				top = nil // else it would be added to
				require.NoError(t, json.Unmarshal(data, &top))
			}
			require.True(t, isNull(top["expires_at"]), "an end was overlooked: %s", body)
		}
	})
}

// ownWords fails t unless err is one of the known errors about an answer, none of
// which repeats anything of the answer.
func ownWords(t *testing.T, err error) {
	t.Helper()
	for _, known := range []error{errNotJSON, errBadExpiry, errBadCredentials, errNoToken, errBadLife, errBadLink, errNotFound, errInstead} {
		if errors.Is(err, known) {
			return
		}
	}
	var large tooLargeError
	if errors.As(err, &large) {
		return
	}
	t.Errorf("an error that may contain parts of the answer: %q", err)
}

func FuzzDecodePage(f *testing.F) {
	for _, seed := range []string{
		`{"page_info":{"total_count":1,"count":1,"start_cursor":"a","end_cursor":"b"},"data":[{"id":"apn_a"},{"id":"apn_b","expires_at":"x"}]}`,
		`{"page_info":{"end_cursor":""},"data":{"accounts":[{"id":"apn_a"}]}}`,
		`{"data":[{"id":"apn_a","credentials":{"oauth_access_token":null,"oauth_uid":"u"}},{"id":"apn_b","dead":true,"credentials":{"oauth_access_token":" "}}]}`,
		`{"page_info":{"end_cursor":17},"data":[]}`, `{"page_info":null,"data":[null,{}]}`, `{"data":{"accounts":null}}`, `{"data":null}`, `{}`, `[]`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := decodePage(body)
		if err != nil {
			require.Nil(t, p)
			ownWords(t, err)
			return
		}
		for _, a := range p.Accounts {
			require.NotNil(t, a)
			require.NotEmpty(t, a.ID)
		}
	})
}

func FuzzDecodeToken(f *testing.F) {
	for _, seed := range []string{
		`{"access_token":"t","token_type":"Bearer","expires_in":3600,"created_at":1700000000}`,
		`{"access_token":"t","expires_in":"3600"}`, `{"access_token":"t","expires_in":1e400}`, `{"access_token":"t","expires_in":-1}`,
		`{"access_token":"t","expires_in":0.0000001}`, `{"access_token":"a\r\nb","expires_in":1}`, `{"access_token":["t"]}`, `null`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		asked := time.Now()
		token, err := decodeToken(body, asked)
		if err != nil {
			require.Nil(t, token)
			ownWords(t, err)
			return
		}
		require.NotEmpty(t, string(token.token))
		require.False(t, strings.ContainsFunc(string(token.token), func(r rune) bool { return r <= ' ' || r > '~' }), "no header takes %q", string(token.token))
		require.False(t, token.until.Before(asked))
		require.False(t, token.until.After(asked.Add(24*time.Hour)))
	})
}
