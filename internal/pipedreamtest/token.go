package pipedreamtest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// resolution is the resolution of the API's times. Tokens begin and end on it, so that clients read exact values.
const resolution = time.Millisecond

// wallClock returns the time without its monotonic part, because it is compared with times that have none.
func wallClock() time.Time { return time.Now().UTC().Truncate(resolution) }

// life is how long each token lives.
func (a *account) life() time.Duration { return max(a.TokenLife.Truncate(resolution), resolution) }

// period is how long after a token was issued Pipedream replaces it.
func (a *account) period() time.Duration {
	before := a.RefreshBefore
	if before == 0 {
		before = a.life() / 12
	}
	return max(a.life()-before.Truncate(resolution), resolution)
}

func (a *account) expires() time.Time     { return a.issued.Add(a.life()) }
func (a *account) nextRefresh() time.Time { return a.issued.Add(a.period()) }

// due reports whether Pipedream would have replaced the token by now.
func (a *account) due(now time.Time) bool {
	return a.TokenLife > 0 && !a.NoRefresh && !a.Dead && !now.Before(a.nextRefresh())
}

// advance performs the refreshes since the account was last used, each at the moment when it was due. They are computed
// and not simulated one by one, because years may have passed on the clock of a test.
func (a *account) advance(now time.Time) {
	if !a.due(now) {
		return
	}
	n := int64(now.Sub(a.issued) / a.period())
	a.token += n
	a.issued = a.issued.Add(time.Duration(n) * a.period())
}

// issue replaces the token at once.
func (a *account) issue(now time.Time) {
	a.token++
	a.issued = now
}

// accessToken returns the current token. It is easy to find in a search for leaks, and no other account, time or server
// uses it.
func (s *Server) accessToken(a *account) string {
	return fmt.Sprintf("pdtok_%s_%d_%s", a.ID, a.token, s.mark("access", a.serial, a.token))
}

// refreshToken returns the refresh token, which outlives the access tokens.
func (s *Server) refreshToken(a *account) string {
	return fmt.Sprintf("pdrefresh_%s_%s", a.ID, s.mark("refresh", a.serial, 0))
}

// mark returns hex digits that only this server generates for the nth token of the thing with that serial number.
func (s *Server) mark(kind string, serial int, n int64) string {
	h := hmac.New(sha256.New, s.seed[:])
	_, _ = fmt.Fprintf(h, "%s %d %d", kind, serial, n) // a hash never fails to write
	return hex.EncodeToString(h.Sum(nil)[:8])
}
