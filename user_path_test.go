package pipedream

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

func encoded(id string) string { return "b64:" + base64.RawURLEncoding.EncodeToString([]byte(id)) }

func TestTheWrittenFormOfAnExternalUserID(t *testing.T) {
	for id, want := range map[string]string{
		"alice": "alice", "acme:1": "acme:1", "alice@example.com": "alice@example.com", "a_b.c~d+e-f": "a_b.c~d+e-f", "0": "0",
		"b64": "b64", "B64:x": "B64:x", "+4915112345": "+4915112345", "-x": "-x", "a.": "a.", ".a": ".a", "~": "~", "++": "++",
		"b64:x": encoded("b64:x"), "b64:": encoded("b64:"), "b64:YQ": encoded("b64:YQ"),
		".": encoded("."), "..": encoded(".."), "+": encoded("+"), "a..b": encoded("a..b"), "...": encoded("..."),
		"acme:1/../acme:2": encoded("acme:1/../acme:2"), "a/b": encoded("a/b"), "a//b": encoded("a//b"), "/": encoded("/"),
		"a b": encoded("a b"), " a": encoded(" a"), "a\n": encoded("a\n"), "a\x00": encoded("a\x00"), "a%2Fb": encoded("a%2Fb"),
		"a*": encoded("a*"), "a?b": encoded("a?b"), "a#b": encoded("a#b"), "a\\b": encoded("a\\b"), "{{a}}": encoded("{{a}}"),
		"J\u00e9": "b64:SsOp", "Je\u0301": "b64:SmXMgQ", "名": "b64:5ZCN",
		strings.Repeat("a", 250): strings.Repeat("a", 250), strings.Repeat("😀", 250): encoded(strings.Repeat("😀", 250)),
	} {
		require.Equal(t, want, segmentOfUser(id))
		got, err := userOfSegment(want)
		require.NoError(t, err, want)
		require.Equal(t, id, got)
	}
}

// A form that is not the written one is refused, with the one that is.
func TestOtherFormsOfAnExternalUserID(t *testing.T) {
	for segment, text := range map[string]string{
		encoded("acme:1"): "is written acme:1 in", encoded("a"): "is written a in",
		"a/b": "is written b64:YS9i in", "a//b": "is written b64:YS8vYg in", "acme:1/": "is written " + encoded("acme:1/") + " in",
		"a b": "is written b64:YSBi in", "..": "is written b64:Li4 in", "a..b": "is written " + encoded("a..b") + " in", "Jé": "is written b64:SsOp in",
		".": "is written b64:Lg in", "+": "is written b64:Kw in", "a%2Fb": "is written " + encoded("a%2Fb") + " in",
		"b64:SsOp=": "without padding", "b64:SsOp\n": "is written b64:SsOp in", "b64:SsOq\n\n": "is written b64:SsOq in",
		"b64:Lh": "without padding", "b64:L": "without padding", "b64:Lg==": "without padding",
		"b64:a+b": "without padding", "b64:a/b": "without padding", "b64:b64:Lg": "without padding", "b64: Lg": "without padding",
		"b64:": "blank", encoded(" "): "blank", " ": "blank", encoded("\u00a0"): "blank", "": "blank",
		"\xff": "not valid UTF-8", encoded("\xff"): "not valid UTF-8",
		strings.Repeat("a", 251): "longer than 250 characters", encoded(strings.Repeat("é", 251)): "longer than 250 characters",
		strings.Repeat("a", 100_000): "longer than 250 characters",
	} {
		_, err := userOfSegment(segment)
		requireBadRequest(t, err, text)
	}
}

// FuzzUserInPath checks that each user has exactly one path, and that nothing on the way
// to Vault changes it.
func FuzzUserInPath(f *testing.F) {
	for _, seed := range []string{"alice", "a/../b", "b64:YQ", "b64:Li4", "..", "+", "名", "b64:SsOp", "\xff", "a%2eb", "b64:YWxpY2U"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := userOfSegment(text); err == nil {
			require.Equal(t, text, segmentOfUser(id), "the only written form")
		}
		if checkExternalUserID(text) != nil {
			return
		}
		segment := segmentOfUser(text)
		id, err := userOfSegment(segment)
		require.NoError(t, err)
		require.Equal(t, text, id)
		asPath := "/v1/pipedream/creds/github/" + segment
		require.Equal(t, asPath, path.Clean(asPath), "Vault's Go client")
		parsed, err := url.Parse(asPath)
		require.NoError(t, err, "consul-template")
		require.Equal(t, asPath, parsed.Path)
		require.Equal(t, asPath, parsed.EscapedPath(), "a client that encodes")
		require.NotContains(t, segment, "..", "Vault makes no lease")
		require.NotContains(t, segment, "*", "a glob of a policy")
		require.NotEqual(t, "+", segment, "a wildcard of a policy")
	})
}

func requireBadRequest(t *testing.T, err error, text string) {
	t.Helper()
	require.ErrorContains(t, err, text)
	coded, ok := err.(logical.HTTPCodedError) //nolint:errorlint // a wrapped one would lose its code on gRPC
	require.True(t, ok)
	require.Equal(t, http.StatusBadRequest, coded.Code())
}
