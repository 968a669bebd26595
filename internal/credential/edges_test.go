package credential

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/clock"
)

func TestARefreshTokenInAListOfStrings(t *testing.T) {
	c := made(t, `{"tokens":["{\"refresh_token\":\"r\",\"a\":1}"]}`, false)
	require.Equal(t, map[string]string{"tokens": `["{\"a\":1}"]`}, c.Fields)
}

func TestARefreshTokenAfterTheFirstJSONValue(t *testing.T) {
	c := made(t, `{"tokens":"{\"a\":1}\n{\"refresh_token\":\"rrr\"}"}`, false)
	require.NotContains(t, c.Fields["tokens"], "rrr")
}

func TestJSONAfterAStrippedValueStays(t *testing.T) {
	c := made(t, `{"tokens":"{\"refresh_token\":\"r\"}\n{\"a\":1}"}`, false)
	require.Contains(t, c.Fields["tokens"], `"a"`)
}

func TestARefreshTokenInAQuotedString(t *testing.T) {
	c := made(t, `{"tokens":"\"{\\\"refresh_token\\\":\\\"rrr\\\"}\""}`, false)
	require.NotContains(t, c.Fields["tokens"], "rrr")
}

func TestANameThatIsTakenOncePrintable(t *testing.T) {
	c := made(t, `{"\u0007key":"k","key":"l"}`, false)
	require.Equal(t, map[string]string{"key": "l", "key_": "k"}, c.Fields)
}

func TestLeaseAroundTheAnnouncedRefresh(t *testing.T) {
	c := credentialOf(never, 10*time.Minute)
	require.Equal(t, time.Minute, c.Lease(usual, clock.At(fetched.Add(11*time.Minute))), "overdue")
	require.LessOrEqual(t, c.Lease(usual, clock.At(fetched.Add(10*time.Minute-time.Second))), 2*time.Second)
}
