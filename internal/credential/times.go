package credential

import (
	"time"

	"vault-plugin-secrets-pipedream/internal/clock"
)

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
	// abandonedAfter is how long a credential that never expires is kept after it was
	// last read. That is stored once in readsStoredEvery at most.
	abandonedAfter   = 7 * 24 * time.Hour
	readsStoredEvery = 24 * time.Hour
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
func (c *Credential) Ended(now clock.Moment) bool {
	return c.Expires() && !now.There.Before(c.ExpiresAt)
}

// Servable reports whether the credential may be handed out at now.
func (c *Credential) Servable(now clock.Moment) bool {
	return !c.Expires() || c.left(now) >= MinServable
}

// left returns the life that the credential has left, if it ever ends.
func (c *Credential) left(now clock.Moment) time.Duration { return c.ExpiresAt.Sub(now.There) }

// announcesRefresh reports whether Pipedream announced a refresh before the
// credential's end. For one that never ends, that is a refresh since it was handed
// out.
func (c *Credential) announcesRefresh(now clock.Moment) bool {
	if !c.Expires() {
		return now.ToHere(c.NextRefreshAt).After(c.CheckedAt)
	}
	return !c.NextRefreshAt.IsZero() && c.NextRefreshAt.Before(c.ExpiresAt)
}

// confirmBy returns when a credential that never expires must be confirmed: at the
// last moment at which a lease can still end within StaticTTL.
func (c *Credential) confirmBy(p Policy) time.Time {
	return c.CheckedAt.Add(max(0, p.StaticTTL-MinServable))
}

// askAgainAt returns when it is worth asking Pipedream again: after a quarter of
// the life that was left, but after 1 s at the earliest and 1 min at the latest.
func (c *Credential) askAgainAt(now clock.Moment) time.Time {
	wait := MinServable
	if c.Expires() {
		wait = min(max(now.ToHere(c.ExpiresAt).Sub(c.CheckedAt)/4, time.Second), time.Minute)
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
func (c *Credential) Due(p Policy, d Demand, now clock.Moment) (due, wait bool) {
	left := c.left(now)
	switch {
	case c.RefreshTokenOmitted && p.ExposeRefreshToken:
		return true, true
	case !c.Expires():
		due = !now.Here.Before(c.dueAt(p, d, now))
		return due, due
	case now.Here.Before(c.askAgainAt(now)):
		return false, false
	case c.announcesRefresh(now):
		return !now.There.Before(c.NextRefreshAt), left < d.AtLeast
	default:
		return left < d.MinTTL, true
	}
}

// dueAt returns when c becomes due, by this machine's clock. One that never expires is due at the announced
// refresh too, but never later than static_ttl demands: until then, nobody knows
// whether it was changed or deleted.
func (c *Credential) dueAt(p Policy, d Demand, now clock.Moment) time.Time {
	announced := c.announcesRefresh(now)
	if !c.Expires() && !announced {
		return c.confirmBy(p)
	}
	at := now.ToHere(c.ExpiresAt).Add(-d.MinTTL)
	if announced {
		at = now.ToHere(c.NextRefreshAt)
	}
	if again := c.askAgainAt(now); at.Before(again) {
		at = again
	}
	if by := c.confirmBy(p); !c.Expires() && by.Before(at) {
		return by
	}
	return at
}

// DueSoon reports whether c should be fetched ahead of its readers: whether it is
// due by the time of the next pass. It is never fetched just before an announced
// refresh.
func (c *Credential) DueSoon(p Policy, now clock.Moment) bool {
	at := c.dueAt(p, p.Default(), now)
	if c.announcesRefresh(now) && !at.Before(now.ToHere(c.NextRefreshAt)) {
		return !at.After(now.Here)
	}
	return !at.After(now.Here.Add(Lookahead))
}

// CanWaitUntil returns until when, by this machine's clock, a fetch of that length can be put off without readers
// having to wait for it; the zero time if it cannot.
func (c *Credential) CanWaitUntil(p Policy, fetch time.Duration, now clock.Moment) time.Time {
	if !c.Expires() || !c.announcesRefresh(now) {
		return time.Time{}
	}
	return now.ToHere(c.ExpiresAt).Add(-(p.Default().AtLeast + fetch))
}

// Lease returns how long a reader may hold c, in whole seconds. A credential that
// never expires is leased until static_ttl after Pipedream handed it out, or until
// an earlier refresh that it announced. So a key that was changed or deleted in
// Pipedream is out of use everywhere within static_ttl.
func (c *Credential) Lease(p Policy, now clock.Moment) time.Duration {
	if c.Expires() {
		return max(MinServable, c.left(now).Truncate(time.Second))
	}
	due := c.dueAt(p, p.Default(), now)
	if !now.Here.Before(due) && now.Here.Sub(c.CheckedAt) >= MinServable { // it could not be confirmed
		return min(overdueLease, p.StaticTTL)
	}
	end := c.CheckedAt.Add(p.StaticTTL)
	if due.Before(c.confirmBy(p)) {
		end = due
	}
	return max(min(MinServable, p.StaticTTL), end.Sub(now.Here).Truncate(time.Second))
}

// ReadAgainIn returns when a reader without a lease should read again: once the
// credential is due, but before it ends. If it is overdue, because Pipedream could
// not be asked yet or the pass will fetch it, that is in a while. The result is in
// whole seconds, at least 1, and never just before the credential is due.
func (c *Credential) ReadAgainIn(p Policy, d Demand, now clock.Moment) time.Duration {
	wait := (min(c.dueAt(p, d, now).Sub(now.Here), longestTold) + time.Second - 1).Truncate(time.Second)
	left := c.left(now)
	switch {
	case wait > 0:
	case c.Expires():
		wait = min(left/4, time.Minute)
	default:
		wait = min(overdueLease, p.StaticTTL)
	}
	if c.Expires() {
		wait = min(wait, left-time.Second)
	}
	return max(time.Second, wait.Truncate(time.Second))
}

// Life returns how long the credential lives after it was first seen, or static_ttl
// if it never expires.
func (c *Credential) Life(p Policy, now clock.Moment) time.Duration {
	if !c.Expires() {
		return p.StaticTTL
	}
	return min(max(MinServable, now.ToHere(c.ExpiresAt).Sub(c.FetchedAt)), longestTold)
}

// UntilNext returns how long to wait before asking Pipedream for the successor of a
// credential that is about to end.
func (c *Credential) UntilNext(now clock.Moment) time.Duration {
	wait := time.Second
	for _, at := range []time.Time{c.NextRefreshAt, c.ExpiresAt} {
		if left := at.Sub(now.There); left > 0 {
			wait = min(wait, min(left, wait)+10*time.Millisecond)
		}
	}
	return wait
}

// ReadAgain reports whether a read at now must be stored, and if so returns c with
// the time of that read. Only credentials that never expire are kept for as long as
// they are read.
func (c *Credential) ReadAgain(now time.Time) (read *Credential, store bool) {
	if c.Expires() || now.Sub(c.lastRead()) < readsStoredEvery {
		return c, false
	}
	again := *c
	again.ReadAt = now
	return &again, true
}

// lastRead returns when c was last known to be read. It was fetched for a reader,
// or ahead of those who had read it.
func (c *Credential) lastRead() time.Time {
	if c.ReadAt.After(c.CheckedAt) {
		return c.ReadAt
	}
	return c.CheckedAt
}

// Abandoned reports whether a credential that never expires has not been read for
// so long that it need not be kept. readSince is set if it may have been read since
// that was last stored.
func (c *Credential) Abandoned(p Policy, readSince bool, now time.Time) bool {
	after := max(abandonedAfter, 2*p.StaticTTL)
	if readSince {
		after += readsStoredEvery
	}
	return !c.Expires() && now.Sub(c.lastRead()) >= after
}

// Loaded returns c as it is to be used after it was loaded from storage at now. Its
// age counts on the monotonic clock from then on, so a step of the system's clock
// does not change it. A time in the future was stored by a clock that was ahead.
// Nobody knows when that was, so CheckedAt is zero then and c is due at once.
func (c *Credential) Loaded(now time.Time) *Credential {
	loaded := *c
	past := func(at time.Time) time.Time { return now.Add(min(0, at.Sub(now))) }
	loaded.FetchedAt = past(c.FetchedAt)
	if !c.ReadAt.IsZero() {
		loaded.ReadAt = past(c.ReadAt)
	}
	switch {
	case c.Unconfirmed():
	case c.CheckedAt.After(now):
		loaded.CheckedAt, loaded.ReadAt = time.Time{}, now
	default:
		loaded.CheckedAt = past(c.CheckedAt)
	}
	return &loaded
}

// Unconfirmed reports whether nobody knows when Pipedream handed out c.
func (c *Credential) Unconfirmed() bool { return c.CheckedAt.IsZero() }
