package credential

import "time"

const (
	// MinServable is the least life that a credential must have left to be handed
	// out. Vault's leases count whole seconds, and a TTL of 0 means 768 hours. A
	// lease of 1 s is too short: consul-template, and so Vault Agent, distinguishes
	// two answers by the second in which they came (dependency.respWithMetadata). It
	// would miss an answer that comes in the same second as the one before, for the
	// whole life of its lease.
	MinServable = 2 * time.Second
	// overdueLease is how long a credential that never expires is leased if Pipedream
	// could not confirm it in time.
	overdueLease = time.Minute
	// Lookahead is how far ahead of its time a credential is fetched: the minute
	// until the next pass, and a little more.
	Lookahead = 75 * time.Second
	// abandonedAfter is how long a credential that never expires is kept after its
	// last fetch. While it is read, it is fetched again and again.
	abandonedAfter = 7 * 24 * time.Hour
	// longestTold is the longest time that a read tells. A duration cannot hold the
	// time to the year 9999, which some APIs write for never, and programs add to what
	// they are told.
	longestTold = 100 * 365 * 24 * time.Hour
)

// Policy is what a mount's configuration says about credentials.
type Policy struct {
	// MinTTL is the life that a credential should have left.
	MinTTL time.Duration
	// StaticTTL is the lease of a credential that never expires.
	StaticTTL time.Duration
	// ExposeRefreshToken returns refresh tokens too.
	ExposeRefreshToken bool
}

// Demand is what a reader demands of a credential.
type Demand struct {
	// MinTTL makes a credential due once it has less life left.
	MinTTL time.Duration
	// AtLeast is the life below which a reader waits even for a refresh that
	// Pipedream made only just now.
	AtLeast time.Duration
}

// Default returns the demand of a reader who asks for nothing in particular.
func (p Policy) Default() Demand {
	return Demand{MinTTL: p.MinTTL, AtLeast: min(p.MinTTL, Lookahead)}
}

// Raise returns d raised to minTTL, if that is more.
func (d Demand) Raise(minTTL time.Duration) Demand {
	if minTTL > d.MinTTL {
		return Demand{MinTTL: minTTL, AtLeast: minTTL}
	}
	return d
}

// Expires reports whether the credential ever ends.
func (c *Credential) Expires() bool { return !c.ExpiresAt.IsZero() }

// Ended reports whether the credential has ended at now.
func (c *Credential) Ended(now time.Time) bool { return c.Expires() && !now.Before(c.ExpiresAt) }

// Servable reports whether the credential may be handed out at now.
func (c *Credential) Servable(now time.Time) bool {
	return !c.Expires() || c.ExpiresAt.Sub(now) >= MinServable
}

// announcesRefresh reports whether Pipedream announced a refresh before the
// credential's end.
func (c *Credential) announcesRefresh() bool {
	return !c.NextRefreshAt.IsZero() && (!c.Expires() || c.NextRefreshAt.Before(c.ExpiresAt))
}

// askAgainAt returns when it is worth asking Pipedream again: after a quarter of
// the life that was left, but after 1 s at the earliest and 1 min at the latest.
func (c *Credential) askAgainAt() time.Time {
	wait := time.Minute
	if c.Expires() {
		wait = min(max(c.ExpiresAt.Sub(c.CheckedAt)/4, time.Second), time.Minute)
	}
	return c.CheckedAt.Add(wait)
}

// Due reports whether c should be fetched again at now, and whether a reader must
// wait for that.
//
// If Pipedream says when it next refreshes the token, c is due from then on. An
// earlier request could only bring the same token, however short its life. Readers
// leave the fetch to the background while the old token lives for longer than it
// takes until the next pass.
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

// dueAt returns when c becomes due.
func (c *Credential) dueAt(p Policy, d Demand) time.Time {
	at := c.ExpiresAt.Add(-d.MinTTL)
	switch {
	case c.announcesRefresh() && (c.Expires() || c.NextRefreshAt.After(c.CheckedAt)):
		at = c.NextRefreshAt
	case !c.Expires():
		// A second early, so that the last lease before that is not too short.
		return c.CheckedAt.Add(max(p.StaticTTL-time.Second, p.StaticTTL/2))
	}
	if again := c.askAgainAt(); at.Before(again) {
		return again
	}
	return at
}

// DueSoon reports whether c should be fetched ahead of its readers: whether it is
// due by the time of the next pass. Before an announced refresh it never is.
func (c *Credential) DueSoon(p Policy, now time.Time) bool {
	at := c.dueAt(p, p.Default())
	if c.announcesRefresh() {
		return !at.After(now)
	}
	return !at.After(now.Add(Lookahead))
}

// CanWait reports whether a credential that is due can be left to a later pass: its
// readers need not wait until then, nor while the fetch takes that long.
func (c *Credential) CanWait(p Policy, fetch time.Duration, now time.Time) bool {
	return c.Expires() && c.announcesRefresh() && c.ExpiresAt.Sub(now) >= p.Default().AtLeast+Lookahead+fetch
}

// Lease returns how long a reader may hold c, in whole seconds. A credential that
// never expires is leased until it is due, so that a key rotated in Pipedream
// reaches every reader within static_ttl. Its age counts in whole seconds too,
// because no lease would otherwise be as long as static_ttl.
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

// ReadAgainIn returns when a reader without a lease should read again: once the
// credential is due, but before it ends. If it is overdue, because Pipedream could
// not be asked yet or the pass will fetch it, that is in a while. The result is in
// whole seconds, at least 1, and never just before the credential is due.
func (c *Credential) ReadAgainIn(p Policy, d Demand, now time.Time) time.Duration {
	wait := (min(c.dueAt(p, d).Sub(now), longestTold) + time.Second - 1).Truncate(time.Second)
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

// Life returns how long the credential lives after it was first seen, or static_ttl
// if it never expires.
func (c *Credential) Life(p Policy) time.Duration {
	if !c.Expires() {
		return p.StaticTTL
	}
	return min(max(MinServable, c.ExpiresAt.Sub(c.FetchedAt)), longestTold)
}

// UntilNext returns how long to wait before asking Pipedream for the successor of a
// credential that is about to end.
func (c *Credential) UntilNext(now time.Time) time.Duration {
	wait := time.Second
	for _, at := range []time.Time{c.NextRefreshAt, c.ExpiresAt} {
		if left := at.Sub(now); left > 0 {
			wait = min(wait, min(left, wait)+10*time.Millisecond)
		}
	}
	return wait
}

// Abandoned reports whether a credential that never expires has not been read for
// so long that it need not be kept.
func (c *Credential) Abandoned(p Policy, now time.Time) bool {
	return !c.Expires() && now.Sub(c.CheckedAt) >= max(abandonedAfter, 2*p.StaticTTL)
}

// Corrected returns c with times that are not in the future, as a clock that was
// ahead may have stored them. It is then due at once, since nobody knows when it
// was confirmed.
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
