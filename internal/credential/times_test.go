package credential

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/clock"
)

// fetched is when the credentials of these tests were fetched. All other times
// count from then.
var fetched = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

const never = time.Duration(0)

var usual = Policy{MinTTL: 5 * time.Minute, StaticTTL: time.Hour}

// credentialOf is a credential that was fetched at the time above, ends after
// expires, and is refreshed by Pipedream after next.
func credentialOf(expires, next time.Duration) *Credential {
	c := &Credential{AccountID: "apn_github", Fields: map[string]string{"token": "t"}, FetchedAt: fetched, CheckedAt: fetched}
	if expires != never {
		c.ExpiresAt = fetched.Add(expires)
	}
	if next != never {
		c.NextRefreshAt = fetched.Add(next)
	}
	return c
}

func TestDemand(t *testing.T) {
	require.Equal(t, Demand{MinTTL: 5 * time.Minute, AtLeast: 75 * time.Second}, usual.Default())
	short := Policy{MinTTL: 30 * time.Second}
	require.Equal(t, Demand{MinTTL: 30 * time.Second, AtLeast: 30 * time.Second}, short.Default())
	require.Equal(t, Demand{MinTTL: 10 * time.Minute, AtLeast: 10 * time.Minute}, usual.Default().Raise(10*time.Minute))
	require.Equal(t, usual.Default(), usual.Default().Raise(time.Minute), "the default is the least")
}

func TestDue(t *testing.T) {
	const m, s = time.Minute, time.Second
	for name, tc := range map[string]struct {
		c         *Credential
		policy    Policy
		demand    time.Duration // a reader's own min_ttl
		at        time.Duration
		due, wait bool
	}{
		"a token with life enough":                             {c: credentialOf(60*m, never), at: 54 * m, due: false, wait: true},
		"a token with exactly min_ttl left":                    {c: credentialOf(60*m, never), at: 55 * m, due: false, wait: true},
		"a token with less than min_ttl left":                  {c: credentialOf(60*m, never), at: 55*m + s, due: true, wait: true},
		"a token with less than the reader's min_ttl left":     {c: credentialOf(60*m, never), demand: 20 * m, at: 41 * m, due: true, wait: true},
		"a reader's min_ttl of less than the mount's":          {c: credentialOf(60*m, never), demand: 1 * m, at: 56 * m, due: true, wait: true},
		"a token that was short from the beginning":            {c: credentialOf(2*m, never), at: 29 * s, due: false, wait: false},
		"the same after a quarter of its life":                 {c: credentialOf(2*m, never), at: 30 * s, due: true, wait: true},
		"a reader who asks for more than any token has":        {c: credentialOf(60*m, never), demand: 1000 * time.Hour, at: 59 * s, due: false, wait: false},
		"the same a minute after the fetch":                    {c: credentialOf(60*m, never), demand: 1000 * time.Hour, at: m, due: true, wait: true},
		"before the announced refresh":                         {c: credentialOf(60*m, 50*m), at: 50*m - 1, due: false, wait: false},
		"at the announced refresh, while the old token lasts":  {c: credentialOf(60*m, 50*m), at: 50 * m, due: true, wait: false},
		"after it, with 75 s left":                             {c: credentialOf(60*m, 50*m), at: 60*m - 75*s, due: true, wait: false},
		"after it, with less than 75 s left":                   {c: credentialOf(60*m, 50*m), at: 60*m - 74*s, due: true, wait: true},
		"after it, with less than a reader's own min_ttl left": {c: credentialOf(60*m, 50*m), demand: 8 * m, at: 53 * m, due: true, wait: true},
		"before it, a reader's own min_ttl has no effect":      {c: credentialOf(60*m, 55*m), demand: 30 * m, at: 40 * m, due: false, wait: true},
		"a mount's min_ttl below 75 s counts in full":          {c: credentialOf(60*m, 50*m), policy: Policy{MinTTL: 20 * s}, at: 59 * m, due: true, wait: false},
		"and once less is left":                                {c: credentialOf(60*m, 50*m), policy: Policy{MinTTL: 20 * s}, at: 60*m - 19*s, due: true, wait: true},
		"a refresh announced for after the end does not count": {c: credentialOf(60*m, 70*m), at: 56 * m, due: true, wait: true},
		"nor does one announced for the end itself":            {c: credentialOf(60*m, 60*m), at: 56 * m, due: true, wait: true},
		"a refresh that is late, a moment after the fetch":     {c: credentialOf(60*m, -m), at: 59 * s, due: false, wait: false},
		"a refresh that is late, a minute after the fetch":     {c: credentialOf(60*m, -m), at: m, due: true, wait: false},
		"a key within static_ttl":                              {c: credentialOf(never, never), at: 60*m - 2*s - 1, due: false, wait: false},
		"a key two seconds before static_ttl is over":          {c: credentialOf(never, never), at: 60*m - 2*s, due: true, wait: true},
		"a key with a static_ttl of 3 s":                       {c: credentialOf(never, never), policy: Policy{StaticTTL: 3 * s}, at: s - 1, due: false, wait: false},
		"the same after a second":                              {c: credentialOf(never, never), policy: Policy{StaticTTL: 3 * s}, at: s, due: true, wait: true},
		"a key with a static_ttl of 1 s is always due":         {c: credentialOf(never, never), policy: Policy{StaticTTL: s}, at: 0, due: true, wait: true},
		"no end, before the announced refresh":                 {c: credentialOf(never, 10*m), at: 10*m - 1, due: false, wait: false},
		"no end, refreshed later than static_ttl":              {c: credentialOf(never, 3*60*m), at: 60*m - 2*s - 1, due: false, wait: false},
		"the same two seconds before static_ttl is over":       {c: credentialOf(never, 3*60*m), at: 60*m - 2*s, due: true, wait: true},
		"no end, refreshed sooner than static_ttl":             {c: credentialOf(never, 10*m), at: 10 * m, due: true, wait: true},
		"no end, a refresh that is late":                       {c: credentialOf(never, -m), at: 10 * m, due: false, wait: false},
	} {
		t.Run(name, func(t *testing.T) {
			policy := tc.policy
			if policy == (Policy{}) {
				policy = usual
			}
			due, wait := tc.c.Due(policy, policy.Default().Raise(tc.demand), clock.At(fetched.Add(tc.at)))
			require.Equal(t, tc.due, due, "due")
			if due {
				require.Equal(t, tc.wait, wait, "a reader waits")
			}
		})
	}
}

func TestAnOmittedRefreshTokenIsFetchedOnceItIsExposed(t *testing.T) {
	c := credentialOf(time.Hour, 50*time.Minute)
	c.RefreshTokenOmitted = true
	exposing := usual
	exposing.ExposeRefreshToken = true
	due, wait := c.Due(exposing, exposing.Default(), clock.At(fetched))
	require.True(t, due && wait)
	due, _ = c.Due(usual, usual.Default(), clock.At(fetched))
	require.False(t, due)
}

func TestDueSoon(t *testing.T) {
	const m, s = time.Minute, time.Second
	for name, tc := range map[string]struct {
		c    *Credential
		at   time.Duration
		soon bool
	}{
		"a token, more than 75 s before it is due":  {c: credentialOf(60*m, never), at: 55*m - 76*s, soon: false},
		"a token, 75 s before it is due":            {c: credentialOf(60*m, never), at: 55*m - 75*s, soon: true},
		"a key, 75 s before it is due":              {c: credentialOf(never, never), at: 60*m - 2*s - 75*s, soon: true},
		"a key, before that":                        {c: credentialOf(never, never), at: 60*m - 78*s, soon: false},
		"no end, refreshed later than static_ttl":   {c: credentialOf(never, 3*60*m), at: 60*m - 2*s - 75*s, soon: true},
		"never before Pipedream refreshes it":       {c: credentialOf(60*m, 50*m), at: 50*m - 1, soon: false},
		"once Pipedream has":                        {c: credentialOf(60*m, 50*m), at: 50 * m, soon: true},
		"no end, never before Pipedream does":       {c: credentialOf(never, 50*m), at: 50*m - 1, soon: false},
		"no end, once Pipedream has":                {c: credentialOf(never, 50*m), at: 50 * m, soon: true},
		"not again in the minute after a late one":  {c: credentialOf(60*m, -m), at: 59 * s, soon: false},
		"a short token, 75 s before its turn comes": {c: credentialOf(4*m, never), at: 0, soon: true},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.soon, tc.c.DueSoon(usual, clock.At(fetched.Add(tc.at))))
		})
	}
}

// A credential can be left to a later pass only while its readers need not wait.
func TestCanWaitUntil(t *testing.T) {
	const m, s = time.Minute, time.Second
	const fetching = 10 * s
	last := fetched.Add(60*m - 75*s - fetching) // readers insist on 75 s
	require.Equal(t, last, credentialOf(60*m, 50*m).CanWaitUntil(usual, fetching, clock.At(fetched)))
	require.Zero(t, credentialOf(60*m, never).CanWaitUntil(usual, 0, clock.At(fetched)), "it is due when its readers wait")
	require.Zero(t, credentialOf(never, 50*m).CanWaitUntil(usual, 0, clock.At(fetched)), "its readers wait from then on")
	require.Zero(t, credentialOf(never, never).CanWaitUntil(usual, 0, clock.At(fetched)))
}

func TestLease(t *testing.T) {
	const m, s, ms = time.Minute, time.Second, time.Millisecond
	for name, tc := range map[string]struct {
		c         *Credential
		staticTTL time.Duration
		at        time.Duration
		lease     time.Duration
	}{
		"a token, until its end":                           {c: credentialOf(60*m, never), at: 15 * m, lease: 45 * m},
		"a token, in whole seconds, rounded down":          {c: credentialOf(60*m, never), at: 15*m + ms, lease: 45*m - s},
		"a token, past the announced refresh too":          {c: credentialOf(60*m, 50*m), at: 10 * m, lease: 50 * m},
		"a token with 2 s left":                            {c: credentialOf(60*m, never), at: 60*m - 2*s, lease: 2 * s},
		"a token that ends while it is handed out":         {c: credentialOf(60*m, never), at: 60*m - 1*s, lease: 2 * s},
		"a key, for static_ttl":                            {c: credentialOf(never, never), at: 0, lease: 60 * m},
		"a key, for what is left of it":                    {c: credentialOf(never, never), at: 20 * m, lease: 40 * m},
		"a key, in whole seconds, rounded down":            {c: credentialOf(never, never), at: 20*m + ms, lease: 40*m - s},
		"a key with little more than 2 s left":             {c: credentialOf(never, never), at: 60*m - 2*s - ms, lease: 2 * s},
		"a key with less left is overdue":                  {c: credentialOf(never, never), at: 60*m - 1*s, lease: m},
		"a key that is long overdue":                       {c: credentialOf(never, never), at: 5 * time.Hour, lease: m},
		"an overdue key, with a static_ttl of less":        {c: credentialOf(never, never), staticTTL: 10 * s, at: m, lease: 10 * s},
		"a key with a static_ttl of 1 s":                   {c: credentialOf(never, never), staticTTL: s, at: 0, lease: s},
		"no end, until the announced refresh":              {c: credentialOf(never, 10*m), at: 4 * m, lease: 6 * m},
		"no end, in whole seconds":                         {c: credentialOf(never, 10*m), at: 4*m + ms, lease: 6*m - s},
		"no end, never longer than static_ttl":             {c: credentialOf(never, 3*60*m), at: 30 * m, lease: 30 * m},
		"no end, the refresh was late when it was fetched": {c: credentialOf(never, -m), at: 20 * m, lease: 40 * m},
	} {
		t.Run(name, func(t *testing.T) {
			policy := Policy{MinTTL: 5 * m, StaticTTL: tc.staticTTL}
			if policy.StaticTTL == 0 {
				policy.StaticTTL = time.Hour
			}
			require.Equal(t, tc.lease, tc.c.Lease(policy, clock.At(fetched.Add(tc.at))))
		})
	}
}

func TestReadAgainIn(t *testing.T) {
	const m, s, ms = time.Minute, time.Second, time.Millisecond
	for name, tc := range map[string]struct {
		c         *Credential
		staticTTL time.Duration
		demand    time.Duration
		at        time.Duration
		again     time.Duration
	}{
		"a token, when less than min_ttl is left":       {c: credentialOf(60*m, never), at: 15 * m, again: 40 * m},
		"a token, when the reader's own min_ttl is":     {c: credentialOf(60*m, never), demand: 20 * m, at: 15 * m, again: 25 * m},
		"a token, when Pipedream has refreshed it":      {c: credentialOf(60*m, 50*m), at: 15 * m, again: 35 * m},
		"never a moment before it is due":               {c: credentialOf(60*m, 50*m), at: 15*m + 1*ms, again: 35 * m},
		"a short token, when it is worth asking":        {c: credentialOf(2*m, never), at: 0, again: 30 * s},
		"overdue, in a while":                           {c: credentialOf(60*m, 50*m), at: 52 * m, again: m},
		"overdue, after a quarter of what is left":      {c: credentialOf(60*m, 50*m), at: 58 * m, again: 30 * s},
		"overdue, but before the end":                   {c: credentialOf(60*m, 50*m), at: 60*m - 3*s, again: s},
		"at the very end":                               {c: credentialOf(60*m, 50*m), at: 60*m - s, again: s},
		"due in the last second, but before the end":    {c: credentialOf(60*m, 60*m-500*ms), at: 59 * m, again: 59 * s},
		"a key, two seconds before static_ttl is over":  {c: credentialOf(never, never), at: 20 * m, again: 40*m - 2*s},
		"a key that is overdue":                         {c: credentialOf(never, never), at: 2 * time.Hour, again: m},
		"an overdue key, with a static_ttl of less":     {c: credentialOf(never, never), staticTTL: 10 * s, at: m, again: 10 * s},
		"a key with a static_ttl of 1 s":                {c: credentialOf(never, never), staticTTL: s, at: 0, again: s},
		"no end, when Pipedream has refreshed it":       {c: credentialOf(never, 10*m), at: 4 * m, again: 6 * m},
		"no end, but within static_ttl":                 {c: credentialOf(never, 3*60*m), at: 4 * m, again: 56*m - 2*s},
		"no end, and the announced refresh has gone by": {c: credentialOf(never, 10*m), at: 12 * m, again: m},
	} {
		t.Run(name, func(t *testing.T) {
			policy := Policy{MinTTL: 5 * m, StaticTTL: tc.staticTTL}
			if policy.StaticTTL == 0 {
				policy.StaticTTL = time.Hour
			}
			require.Equal(t, tc.again, tc.c.ReadAgainIn(policy, policy.Default().Raise(tc.demand), clock.At(fetched.Add(tc.at))))
		})
	}
}

// A reader who reads again when told to finds the credential due, and so gets a new
// one. That is before the old one ends.
func TestReadAgainInLeadsToADueCredential(t *testing.T) {
	for _, expires := range []time.Duration{never, 3 * time.Second, time.Minute, 10 * time.Minute, 61 * time.Minute, 24 * time.Hour} {
		for _, next := range []time.Duration{never, -time.Minute, 2 * time.Second, 9 * time.Minute, 59 * time.Minute, 23 * time.Hour} {
			c := credentialOf(expires, next)
			for at := time.Duration(0); at < 2*time.Hour; at += 7777 * time.Millisecond {
				now := fetched.Add(at)
				if !c.Servable(clock.At(now)) {
					break
				}
				again := c.ReadAgainIn(usual, usual.Default(), clock.At(now))
				require.Equal(t, again.Truncate(time.Second), again)
				require.GreaterOrEqual(t, again, time.Second)
				if c.Expires() && c.ExpiresAt.Sub(now) > MinServable {
					require.True(t, now.Add(again).Before(c.ExpiresAt), "expires %s, next %s, at %s: again in %s", expires, next, at, again)
				}
				due, _ := c.Due(usual, usual.Default(), clock.At(now))
				later, _ := c.Due(usual, usual.Default(), clock.At(now.Add(again+1))) // a request takes a moment
				ends := c.Expires() && !now.Add(again+time.Second).Before(c.ExpiresAt)
				require.True(t, due || later || ends, "expires %s, next %s, at %s: again in %s", expires, next, at, again)
			}
		}
	}
}

func TestServable(t *testing.T) {
	c := credentialOf(time.Hour, never)
	require.True(t, c.Servable(clock.At(fetched.Add(time.Hour-2*time.Second))))
	require.False(t, c.Servable(clock.At(fetched.Add(time.Hour-2*time.Second+1))), "the lease would be too short")
	require.False(t, c.Ended(clock.At(fetched.Add(time.Hour-1))))
	require.True(t, c.Ended(clock.At(fetched.Add(time.Hour))))
	key := credentialOf(never, never)
	require.True(t, key.Servable(clock.At(fetched.Add(10*365*24*time.Hour))))
	require.False(t, key.Ended(clock.At(fetched.Add(10*365*24*time.Hour))))
}

func TestLife(t *testing.T) {
	c := credentialOf(time.Hour, 50*time.Minute)
	c.CheckedAt = fetched.Add(20 * time.Minute)
	require.Equal(t, time.Hour, c.Life(usual, clock.At(fetched)), "from when it was first seen")
	require.Equal(t, usual.StaticTTL, credentialOf(never, never).Life(usual, clock.At(fetched)))
	require.Equal(t, usual.StaticTTL, credentialOf(never, 10*time.Minute).Life(usual, clock.At(fetched)))
	require.Equal(t, MinServable, credentialOf(time.Second, never).Life(usual, clock.At(fetched)))
}

func TestAbandoned(t *testing.T) {
	const day = 24 * time.Hour
	key := credentialOf(never, never)
	require.False(t, key.Abandoned(usual, false, fetched.Add(7*day-1)))
	require.True(t, key.Abandoned(usual, false, fetched.Add(7*day)))
	require.False(t, key.Abandoned(usual, true, fetched.Add(8*day-1)), "it may have been read a day after that was last stored")
	require.True(t, key.Abandoned(usual, true, fetched.Add(8*day)))
	long := Policy{StaticTTL: 10 * day}
	require.False(t, key.Abandoned(long, true, fetched.Add(21*day-1)), "twice static_ttl, where that is longer")
	require.True(t, key.Abandoned(long, true, fetched.Add(21*day)))
	require.False(t, credentialOf(day, never).Abandoned(usual, true, fetched.Add(365*day)), "a token goes at its end")

	_, store := key.ReadAgain(fetched.Add(day - 1))
	require.False(t, store, "reads are stored once a day at most")
	read, store := key.ReadAgain(fetched.Add(day))
	require.True(t, store)
	require.False(t, read.Abandoned(usual, true, fetched.Add(9*day-1)), "it was read after a day")
	require.True(t, read.Abandoned(usual, true, fetched.Add(9*day)))
	_, store = read.ReadAgain(fetched.Add(2*day - 1))
	require.False(t, store)
	_, store = credentialOf(30*day, never).ReadAgain(fetched.Add(20 * day))
	require.False(t, store, "a token is kept until its end, whoever reads it")
}

func TestUntilNext(t *testing.T) {
	const ms = time.Millisecond
	require.Equal(t, time.Second, credentialOf(time.Hour, never).UntilNext(clock.At(fetched)))
	require.Equal(t, 510*ms, credentialOf(500*ms, never).UntilNext(clock.At(fetched)), "just after its end")
	require.Equal(t, 210*ms, credentialOf(500*ms, 200*ms).UntilNext(clock.At(fetched)), "just after its refresh")
	require.Equal(t, 510*ms, credentialOf(500*ms, -200*ms).UntilNext(clock.At(fetched)))
	require.Equal(t, time.Second, credentialOf(-time.Minute, -2*time.Minute).UntilNext(clock.At(fetched)), "both are in the past")
	require.Equal(t, time.Second, credentialOf(never, never).UntilNext(clock.At(fetched)))
	require.Equal(t, time.Second, credentialOf(-time.Minute, math.MaxInt64).UntilNext(clock.At(fetched)), "a refresh in centuries")
}

func TestLoaded(t *testing.T) {
	now := time.Now() // has a reading of the monotonic clock
	stored := func(expires, checked time.Duration) *Credential {
		c := &Credential{AccountID: "apn_github", Fields: map[string]string{"token": "t"}, FetchedAt: now.Add(checked).Round(0), CheckedAt: now.Add(checked).Round(0)}
		if expires != never {
			c.ExpiresAt = now.Add(expires).Round(0)
		}
		return c
	}
	t.Run("its age counts on the monotonic clock", func(t *testing.T) {
		c := stored(never, -20*time.Minute).Loaded(now)
		require.Equal(t, now.Add(-20*time.Minute).String(), c.CheckedAt.String(), "with the reading of that clock")
		require.Equal(t, 40*time.Minute, c.Lease(usual, clock.At(now)))
		require.True(t, c.FetchedAt.Equal(c.CheckedAt))
		require.True(t, c.ReadAt.IsZero())
	})
	t.Run("a key of a clock that was ahead is due at once, and leased as one that is overdue", func(t *testing.T) {
		for _, ttl := range []time.Duration{time.Second, time.Minute, time.Hour, 365 * 24 * time.Hour} {
			policy := Policy{StaticTTL: ttl}
			c := stored(never, 48*time.Hour).Loaded(now)
			due, wait := c.Due(policy, policy.Default(), clock.At(now))
			require.True(t, due && wait, ttl)
			require.Equal(t, min(time.Minute, ttl), c.Lease(policy, clock.At(now)))
			require.Equal(t, min(time.Minute, ttl), c.ReadAgainIn(policy, policy.Default(), clock.At(now)))
			require.False(t, c.Abandoned(policy, true, now), ttl)
			require.False(t, c.FetchedAt.After(now))
			again := c.Loaded(now.Add(8*24*time.Hour - 1))
			require.True(t, again.Unconfirmed())
			require.False(t, again.Abandoned(usual, true, now.Add(8*24*time.Hour-1)))
			require.True(t, c.Loaded(now.Add(8*24*time.Hour)).Abandoned(usual, true, now.Add(8*24*time.Hour)))
		}
	})
	t.Run("a token of a clock that was ahead is due as if it had not been fetched for long", func(t *testing.T) {
		c := stored(time.Hour, 48*time.Hour).Loaded(now)
		due, _ := c.Due(usual, usual.Default().Raise(2*time.Hour), clock.At(now))
		require.True(t, due)
		require.Equal(t, time.Hour, c.Lease(usual, clock.At(now)))
	})
	t.Run("a read of a clock that was ahead counts as one of now", func(t *testing.T) {
		c := stored(never, -20*24*time.Hour)
		c.ReadAt = now.Add(time.Hour)
		c = c.Loaded(now)
		require.False(t, c.Abandoned(usual, true, now))
		require.True(t, c.Abandoned(usual, true, now.Add(8*24*time.Hour)))
	})
	t.Run("the stored one itself is never changed", func(t *testing.T) {
		c := stored(never, time.Hour)
		before := *c
		c.Loaded(now)
		require.Equal(t, before, *c)
	})
}

// How far this machine's clock is ahead of Pipedream's changes nothing.
func TestTimesByTwoClocks(t *testing.T) {
	const m, s, h = time.Minute, time.Second, time.Hour
	type judgement struct {
		ended, servable, due, wait, soon  bool
		lease, again, life, next, canWait time.Duration
	}
	judge := func(c *Credential, now clock.Moment) (j judgement) {
		j.ended, j.servable = c.Ended(now), c.Servable(now)
		j.due, j.wait = c.Due(usual, usual.Default(), now)
		j.soon = c.DueSoon(usual, now)
		j.lease, j.again = c.Lease(usual, now), c.ReadAgainIn(usual, usual.Default(), now)
		j.life, j.next = c.Life(usual, now), c.UntilNext(now)
		j.canWait = c.CanWaitUntil(usual, s, now).Sub(now.Here)
		return j
	}
	for _, ahead := range []time.Duration{m, -m, 10 * m, -10 * m, 3 * h, -3 * h} {
		for _, ends := range []time.Duration{never, 30 * s, 10 * m, h, 5 * h} {
			for _, next := range []time.Duration{never, -m, 20 * s, 50 * m, 2 * h} {
				here, there := credentialOf(ends, next), credentialOf(ends, next)
				if there.Expires() {
					there.ExpiresAt = there.ExpiresAt.Add(-ahead)
				}
				if !there.NextRefreshAt.IsZero() {
					there.NextRefreshAt = there.NextRefreshAt.Add(-ahead)
				}
				for _, at := range []time.Duration{0, s, 29 * s, m, 9 * m, 51 * m, 59*m + 59*s, h, 3 * h, 6 * h} {
					now := fetched.Add(at)
					require.Equal(t, judge(here, clock.At(now)), judge(there, clock.Moment{Here: now, There: now.Add(-ahead)}),
						"%s ahead, ends %s, next refresh %s, at %s", ahead, ends, next, at)
				}
			}
		}
	}
}

func TestLeaseAroundTheAnnouncedRefresh(t *testing.T) {
	c := credentialOf(never, 10*time.Minute)
	require.Equal(t, time.Minute, c.Lease(usual, clock.At(fetched.Add(11*time.Minute))), "overdue")
	require.LessOrEqual(t, c.Lease(usual, clock.At(fetched.Add(10*time.Minute-time.Second))), 2*time.Second)
}
