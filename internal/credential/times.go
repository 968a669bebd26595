package credential

import "time"

const (
	// MinServable is the least life that a credential must have left to be handed
	// out. Vault's leases count whole seconds, and a TTL of 0 means 768 hours. One
	// of 1 s is not enough: consul-template, and so Vault Agent, tell two answers
	// apart by the second they came in (dependency.respWithMetadata), so that a
	// read in the second of the one before is lost to them, for the whole life of
	// its lease.
	MinServable = 2 * time.Second
	// overdueLease is how long a credential that never expires is leased where it
	// could not be confirmed with Pipedream in time.
	overdueLease = time.Minute
	// Lookahead is how far ahead of its time a credential is fetched: the minute
	// until the next pass, and some.
	Lookahead = 75 * time.Second
	// abandonedAfter is how long a credential that never expires is kept after it
	// was last fetched, which its readers see to.
	abandonedAfter = 7 * 24 * time.Hour
)

// Policy is what a mount's configuration says of credentials.
type Policy struct {
	// MinTTL is the life that a credential is to have left.
	MinTTL time.Duration
	// StaticTTL is the lease of a credential that never expires.
	StaticTTL time.Duration
	// ExposeRefreshToken returns refresh tokens too.
	ExposeRefreshToken bool
}

// Demand is what a reader asks of a credential.
type Demand struct {
	// MinTTL makes a credential due once it has less life left.
	MinTTL time.Duration
	// AtLeast is the life below which a reader waits even for a refresh that
	// Pipedream has only just made.
	AtLeast time.Duration
}

// Default is what a reader asks for who says nothing.
func (p Policy) Default() Demand {
	return Demand{MinTTL: p.MinTTL, AtLeast: min(p.MinTTL, Lookahead)}
}

// Raise is d for a reader who asks for more life, if so.
func (d Demand) Raise(minTTL time.Duration) Demand {
	if minTTL > d.MinTTL {
		return Demand{MinTTL: minTTL, AtLeast: minTTL}
	}
	return d
}

// Expires tells whether the credential ends at all.
func (c *Credential) Expires() bool { return !c.ExpiresAt.IsZero() }

// Ended tells whether the credential is past its end at now.
func (c *Credential) Ended(now time.Time) bool { return c.Expires() && !now.Before(c.ExpiresAt) }

// Servable tells whether the credential may be handed out at now.
func (c *Credential) Servable(now time.Time) bool {
	return !c.Expires() || c.ExpiresAt.Sub(now) >= MinServable
}

// announcesRefresh tells whether Pipedream said when it refreshes the
// credential, and that before its end.
func (c *Credential) announcesRefresh() bool {
	return !c.NextRefreshAt.IsZero() && (!c.Expires() || c.NextRefreshAt.Before(c.ExpiresAt))
}

// askAgainAt is until when asking Pipedream again would bring nothing new: for a
// quarter of the life left, within 1 s to 1 min.
func (c *Credential) askAgainAt() time.Time {
	wait := time.Minute
	if c.Expires() {
		wait = min(max(c.ExpiresAt.Sub(c.CheckedAt)/4, time.Second), time.Minute)
	}
	return c.CheckedAt.Add(wait)
}

// Due tells whether c is to be fetched again at now, and whether a reader must
// wait for that.
//
// Where Pipedream says when it next refreshes the token, asking earlier can
// only bring the same one, however short its life: c is due from then on.
// Readers then leave the fetch to the background while the old token is good
// for longer than the pass that fetches it needs to come round.
func (c *Credential) Due(p Policy, d Demand, now time.Time) (due, wait bool) {
	left := c.ExpiresAt.Sub(now)
	switch {
	case c.RefreshTokenOmitted && p.ExposeRefreshToken:
		return true, true
	case !c.Expires():
		due = !now.Before(c.dueAt(p, d))
		return due, due
	case now.Before(c.askAgainAt()):
		return false, false
	case c.announcesRefresh():
		return !now.Before(c.NextRefreshAt), left < d.AtLeast
	default:
		return left < d.MinTTL, true
	}
}

// dueAt is the time from which c is due.
func (c *Credential) dueAt(p Policy, d Demand) time.Time {
	at := c.ExpiresAt.Add(-d.MinTTL)
	switch {
	case c.announcesRefresh() && (c.Expires() || c.NextRefreshAt.After(c.CheckedAt)):
		at = c.NextRefreshAt
	case !c.Expires():
		// A second early, so that the last lease before it is not too short.
		return c.CheckedAt.Add(max(p.StaticTTL-time.Second, p.StaticTTL/2))
	}
	if again := c.askAgainAt(); at.Before(again) {
		return again
	}
	return at
}

// DueSoon tells whether c is due before the pass after next comes round.
func (c *Credential) DueSoon(p Policy, now time.Time) bool {
	at := c.dueAt(p, p.Default())
	if c.announcesRefresh() {
		return !at.After(now)
	}
	return !at.After(now.Add(Lookahead))
}

// CanWait tells whether a credential that is due can be left to a later pass:
// until then, and for as long as fetch takes, its readers need not wait.
func (c *Credential) CanWait(p Policy, fetch time.Duration, now time.Time) bool {
	return c.Expires() && c.announcesRefresh() && c.ExpiresAt.Sub(now) >= p.Default().AtLeast+Lookahead+fetch
}

// Lease is how long a reader may hold c, in whole seconds. One that never
// expires is leased until it is due, so that a key rotated in Pipedream reaches
// every reader within static_ttl; its age counts in whole seconds too, else no
// lease would be as long as asked for.
func (c *Credential) Lease(p Policy, now time.Time) time.Duration {
	if c.Expires() {
		return max(MinServable, c.ExpiresAt.Sub(now).Truncate(time.Second))
	}
	left := p.StaticTTL - now.Sub(c.CheckedAt).Truncate(time.Second)
	switch {
	case !c.NextRefreshAt.After(c.CheckedAt): // nothing was announced since
	case c.NextRefreshAt.After(now):
		return min(p.StaticTTL, max(MinServable, c.NextRefreshAt.Sub(now).Truncate(time.Second)))
	default:
		left = 0
	}
	if left >= MinServable {
		return left
	}
	return min(overdueLease, p.StaticTTL)
}

// ReadAgainIn is when a reader without a lease had better read again: when the
// credential is due, but before it ends; and where it is overdue, because
// Pipedream could not be asked yet or the pass will see to it, in a while. It is
// in whole seconds, at least 1, and never a moment before the credential is due.
func (c *Credential) ReadAgainIn(p Policy, d Demand, now time.Time) time.Duration {
	wait := (c.dueAt(p, d).Sub(now) + time.Second - 1).Truncate(time.Second)
	left := c.ExpiresAt.Sub(now)
	switch {
	case wait > 0:
	case c.Expires():
		wait = min(left/4, time.Minute)
	default:
		wait = min(overdueLease, p.StaticTTL)
	}
	if c.Expires() {
		wait = min(wait, left-time.Second)
	} else if c.announcesRefresh() {
		wait = min(wait, p.StaticTTL)
	}
	return max(time.Second, wait.Truncate(time.Second))
}

// Life is how long the credential lives from when it was first seen; staticTTL
// where it never expires.
func (c *Credential) Life(p Policy) time.Duration {
	if !c.Expires() {
		return p.StaticTTL
	}
	return max(MinServable, c.ExpiresAt.Sub(c.FetchedAt))
}

// UntilNext is how long to wait before Pipedream is asked for the successor of
// a credential at its very end.
func (c *Credential) UntilNext(now time.Time) time.Duration {
	wait := time.Second
	for _, at := range []time.Time{c.NextRefreshAt, c.ExpiresAt} {
		if left := at.Sub(now); left > 0 {
			wait = min(wait, left+10*time.Millisecond)
		}
	}
	return wait
}

// Abandoned tells whether nobody has read a credential that never expires for so
// long that it is not worth its place.
func (c *Credential) Abandoned(p Policy, now time.Time) bool {
	return !c.Expires() && now.Sub(c.CheckedAt) >= max(abandonedAfter, 2*p.StaticTTL)
}

// Corrected is c as stored by a clock that may have been ahead of ours. It is due
// at once then: nobody knows when it was confirmed.
func (c *Credential) Corrected(p Policy, now time.Time) *Credential {
	if !c.CheckedAt.After(now) && !c.FetchedAt.After(now) {
		return c
	}
	corrected := *c
	corrected.CheckedAt = now.Add(-max(p.StaticTTL, time.Minute))
	if corrected.FetchedAt.After(corrected.CheckedAt) {
		corrected.FetchedAt = corrected.CheckedAt
	}
	return &corrected
}
