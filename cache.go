package pipedream

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"
)

const (
	cachePrefix = "cache/"
	// maxCached bounds the credentials held in memory; storage holds the rest.
	maxCached = 32_768
	// patience is how long a reader for whom there is a live credential waits
	// for a newer one. The fetch goes on without the reader.
	patience = 5 * time.Second
	// refreshQuiet is how long after a fetch an explicit refresh costs no request.
	refreshQuiet = 5 * time.Second
	// maxExpiredRetries is how often a fetch that brought a credential at its
	// very end is repeated: Pipedream is about to refresh it.
	maxExpiredRetries = 3
)

// cache holds the credentials of one mount: in memory, and behind that in
// Vault's encrypted storage. It decides when one is fresh, due or dead, and
// shares each fetch among all who wait for it.
type cache struct {
	ctx      context.Context // ends with the mount
	storage  logical.Storage
	stats    *stats
	settings *settingsHolder
	logger   func() hclog.Logger

	// replacing makes those who replace an entry in memory wait for each other.
	// No reader takes it, and it is not held across I/O.
	replacing sync.Mutex

	memory  *lru.Cache[string, *entry]
	users   *users
	loads   singleflight.Group // reads of storage, by account
	fetches singleflight.Group // requests to Pipedream, by cache id and account
	sweeper sweeper
	deletes deletes
	// passedAt is when the periodic pass last looked for what is due, in Unix
	// nanoseconds.
	passedAt atomic.Int64
}

func newCache(ctx context.Context, storage logical.Storage, s *stats, settings *settingsHolder, logger func() hclog.Logger) *cache {
	memory, err := lru.New[string, *entry](maxCached)
	if err != nil { // only for a size below 1
		panic(err)
	}
	c := &cache{ctx: ctx, storage: storage, stats: s, settings: settings, logger: logger, memory: memory}
	c.users = newUsers(c)
	return c
}

// entry is a cached credential. Only read changes after it was made.
type entry struct {
	opaque

	credential *credential
	cacheID    string
	// checkedAt is when Pipedream last handed out this credential.
	checkedAt time.Time
	// askAgainAt is until when asking Pipedream again would bring nothing new.
	askAgainAt time.Time
	// read is set once the entry has served a reader.
	read atomic.Bool
}

// newEntry caches what was fetched at now. Pipedream has nothing newer for the
// moment, so it is asked again after a quarter of the life left at the
// earliest, within 1 s to 1 min.
func newEntry(c *credential, cacheID string, now time.Time) *entry {
	wait := time.Minute
	if c.expires() {
		wait = min(max(c.ExpiresAt.Sub(now)/4, time.Second), time.Minute)
	}
	return &entry{credential: c, cacheID: cacheID, checkedAt: now, askAgainAt: now.Add(wait)}
}

// newTombstone stands for an account that was evicted at now: a credential that
// ended long ago, of no connection.
func newTombstone(id string, now time.Time) *entry {
	return &entry{credential: &credential{AccountID: id, ExpiresAt: time.Unix(1, 0)}, checkedAt: now}
}

func (e *entry) isTombstone() bool { return e.cacheID == "" }

// demand is what a reader asks of a credential, and the rules of its mount.
type demand struct {
	*settings
	// minTTL makes a credential due once it has less life left.
	minTTL time.Duration
	// atLeast is the life below which a reader waits even for a refresh that
	// Pipedream has only just made.
	atLeast time.Duration
}

// newDemand is what a reader asks for by default.
func newDemand(s *settings) demand {
	return demand{settings: s, minTTL: s.config.MinTTL, atLeast: min(s.config.MinTTL, refreshLookahead)}
}

// withMinTTL is d for a reader who asks for more life than the default, if so.
func (d demand) withMinTTL(asked time.Duration) demand {
	if asked > d.minTTL {
		d.minTTL, d.atLeast = asked, asked
	}
	return d
}

// due tells whether e is to be fetched again at now, and whether a reader must
// wait for that.
//
// Where Pipedream says when it next refreshes the token, asking earlier can
// only bring the same one, however short its life: e is due from then on.
// Readers then leave the fetch to the background while the old token is good
// for longer than the pass that fetches it needs to come round.
func (e *entry) due(d demand, now time.Time) (due, wait bool) {
	c := e.credential
	left := c.ExpiresAt.Sub(now)
	switch {
	case c.RefreshTokenOmitted && d.config.ExposeRefreshToken:
		return true, true
	case !c.expires():
		due = !now.Before(e.dueAt(d))
		return due, due
	case now.Before(e.askAgainAt):
		return false, false
	case c.announcesRefresh():
		return !now.Before(c.NextRefreshAt), left < d.atLeast
	default:
		return left < d.minTTL, true
	}
}

// dueAt is the time from which e is due.
func (e *entry) dueAt(d demand) time.Time {
	c := e.credential
	at := c.ExpiresAt.Add(-d.minTTL)
	switch {
	case !c.expires():
		// A second early, so that the last lease before it is not too short.
		return e.checkedAt.Add(max(d.config.StaticTTL-time.Second, d.config.StaticTTL/2))
	case c.announcesRefresh():
		at = c.NextRefreshAt
	}
	if at.Before(e.askAgainAt) {
		return e.askAgainAt
	}
	return at
}

// readAgainIn is when a reader without a lease had better read again: when the
// credential is due, but before it ends; and where it is overdue, because
// Pipedream could not be asked yet or the pass will see to it, in a while. It is
// in whole seconds, and never a moment before the credential is due.
func (e *entry) readAgainIn(d demand, now time.Time) time.Duration {
	c := e.credential
	wait := (e.dueAt(d).Sub(now) + time.Second - 1).Truncate(time.Second)
	left := c.ExpiresAt.Sub(now)
	switch {
	case wait > 0:
	case c.expires():
		wait = min(left/4, time.Minute)
	default:
		wait = min(overdueLease, d.config.StaticTTL)
	}
	if c.expires() {
		wait = min(wait, left-time.Second)
	}
	return max(time.Second, wait.Truncate(time.Second))
}

// leaseTTL is how long a reader may hold e's credential, in whole seconds. One
// that never expires is leased until it is due, so that a key rotated in
// Pipedream reaches every reader within static_ttl; its age counts in whole
// seconds too, else no lease would be as long as asked for.
func (e *entry) leaseTTL(d demand, now time.Time) time.Duration {
	c := e.credential
	if c.expires() {
		return max(minServable, c.ExpiresAt.Sub(now).Truncate(time.Second))
	}
	if left := d.config.StaticTTL - now.Sub(e.checkedAt).Truncate(time.Second); left >= minServable {
		return left
	}
	return min(overdueLease, d.config.StaticTTL)
}

// get returns a live credential for the account: the cached one while it is
// fresh, else one fetched now, else the cached one for as long as it lives.
func (c *cache) get(ctx context.Context, d demand, id string) (*entry, error) {
	e := c.lookup(ctx, d, id)
	now := time.Now()
	if e == nil {
		if err := ctx.Err(); err != nil { // before storage had answered
			return nil, err
		}
		return c.await(ctx, c.start(c.ctx, d, id, nil), nil)
	}
	due, wait := e.due(d, now)
	switch {
	case !e.credential.servable(now):
		return c.await(ctx, c.start(c.ctx, d, id, e), nil)
	case !due:
		return c.hit(e), nil
	case d.client.holdoffs.held(id):
		return c.hit(e), nil
	case !wait:
		if !c.passing(now) {
			c.start(c.ctx, d, id, e)
		}
		return c.hit(e), nil
	default:
		return c.await(ctx, c.start(c.ctx, d, id, e), e)
	}
}

// hit notes that e served a reader.
func (c *cache) hit(e *entry) *entry {
	c.stats.hits.Add(1)
	// Looked at first: a line of memory that all readers write is slow to share.
	if !e.read.Load() {
		e.read.Store(true)
	}
	return e
}

// await waits for a fetch. Where there is a live credential to fall back on,
// it waits for a few seconds at most, and no failure but the account's own
// gets in the way of serving it.
func (c *cache) await(ctx context.Context, fetched <-chan singleflight.Result, fallback *entry) (*entry, error) {
	var tired <-chan time.Time
	if fallback != nil {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		tired = timer.C
	}
	var err error
	select {
	case result := <-fetched:
		if result.Err == nil {
			c.stats.misses.Add(1)
			e := result.Val.(*entry)
			e.read.Store(true)
			return e, nil
		}
		err = result.Err
	case <-tired:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if fallback != nil && fallback.credential.servable(time.Now()) && !isOfAccount(err) {
		return c.hit(fallback), nil
	}
	if err == nil { // tired, and the fallback ended meanwhile
		return c.await(ctx, fetched, nil)
	}
	c.stats.misses.Add(1)
	return nil, err
}

// lookup returns what is cached for the account, live or not; nil for nothing.
func (c *cache) lookup(ctx context.Context, d demand, id string) *entry {
	if e, ok := c.memory.Get(id); ok {
		if e.cacheID == d.config.CacheID {
			return e
		}
		return nil
	}
	loaded := c.loads.DoChan(d.config.CacheID+"/"+id, func() (any, error) {
		var e *entry
		_ = guard(c.logger(), func() error { // then there is nothing cached
			e = c.load(d, id)
			return nil
		})
		return e, nil
	})
	select {
	case result := <-loaded:
		return result.Val.(*entry)
	case <-ctx.Done():
		return nil
	}
}

// start begins to fetch the account, or joins the fetch under way. The fetch
// goes on when its readers give up: ctx is the mount's, never a reader's. seen
// is what the caller found in the cache.
func (c *cache) start(ctx context.Context, d demand, id string, seen *entry) <-chan singleflight.Result {
	return c.share(d, id, func() (*entry, error) { return c.fetch(ctx, d, id, seen) })
}

// share has one of all who work at an account at the same time do the work.
func (c *cache) share(d demand, id string, work func() (*entry, error)) <-chan singleflight.Result {
	return c.fetches.DoChan(d.config.CacheID+"/"+id, func() (any, error) {
		var e *entry
		err := guard(c.logger(), func() (err error) {
			e, err = work()
			return err
		})
		return e, err
	})
}

// fetch asks Pipedream for the account's credential and caches it.
func (c *cache) fetch(ctx context.Context, d demand, id string, seen *entry) (*entry, error) {
	// A fetch that ended since the caller looked has done the work already.
	if e, ok := c.memory.Peek(id); ok && e != seen && e.cacheID == d.config.CacheID && e.credential.servable(time.Now()) {
		return e, nil
	}
	if err := d.client.holdoffs.check(id); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.config.RequestTimeout)
	defer cancel()
	for {
		fetched, err := c.fetchLive(ctx, d, id)
		e, err := c.settle(ctx, d, id, seen, fetched, err)
		if err != nil || e.credential.servable(time.Now()) {
			return e, err
		}
		seen = e // it ended while it was stored
	}
}

// settle draws the consequences of a fetch.
func (c *cache) settle(ctx context.Context, d demand, id string, seen *entry, fetched *credential, err error) (*entry, error) {
	if err != nil {
		c.failed(ctx, d, id, err)
		return nil, err
	}
	d.client.holdoffs.succeeded(id)
	return c.keep(ctx, d, fetched, seen), nil
}

// fetchLive fetches until it has a credential that can be served.
func (c *cache) fetchLive(ctx context.Context, d demand, id string) (*credential, error) {
	for retries := 0; ; retries++ {
		a, err := d.bulk.account(ctx, id, func(a *account) { c.offer(c.ctx, d, a) })
		if err != nil {
			return nil, err
		}
		now := time.Now()
		fetched, err := newCredential(a, id, now, d.config.ExposeRefreshToken)
		if err != nil {
			return nil, err
		}
		if fetched.servable(now) {
			return fetched, nil
		}
		if retries == maxExpiredRetries {
			return nil, &apiError{kind: failExpired, account: id}
		}
		switch err := sleep(ctx, fetched.untilNext(now)); {
		case errors.Is(err, context.Canceled): // the mount is going away
			return nil, err
		case err != nil:
			return nil, &apiError{kind: failExpired, account: id}
		}
	}
}

// failed holds the account off, unless the mount as a whole is, and drops what
// is cached of an account that is itself at fault.
func (c *cache) failed(ctx context.Context, d demand, id string, err error) {
	var api *apiError
	if !errors.As(err, &api) {
		return // the mount is going away
	}
	level := hclog.Warn
	if api.kind == failNoBudget || api.kind == failBusy { // could be said of thousands at a time; status shows it
		level = hclog.Debug
	}
	c.logger().Log(level, "credentials could not be fetched", "account", id, "error", logText(err))
	if api.ofAccount() && c.inForce(ctx, d.config.CacheID) {
		c.evict(ctx, id) // first: a reader who is held off is served what is cached
	}
	if !api.ofMount() {
		d.client.holdoffs.failed(id, err)
	}
}

// keep caches a fetched credential in memory and, where it is a new token, in
// storage: one write in a token's life. A credential that never expires is
// written each time, else a restart would forget when it was last confirmed.
func (c *cache) keep(ctx context.Context, d demand, fetched *credential, seen *entry) *entry {
	now, id := fetched.FetchedAt, fetched.AccountID
	deletes := c.deletes.of(id).Load()
	// A page of the list may have brought the account at the same time.
	if latest, ok := c.memory.Peek(id); ok && latest.cacheID == d.config.CacheID {
		seen = latest
	}
	same := seen != nil && fetched.sameToken(seen.credential)
	if same {
		fetched.FetchedAt = seen.credential.FetchedAt
		if fetched.ExternalUser == "" { // not every answer says whose it is
			fetched.ExternalUser = seen.credential.ExternalUser
		}
	}
	e := newEntry(fetched, d.config.CacheID, now)
	if !c.inForce(ctx, d.config.CacheID) {
		return e // for those who asked over the old connection, and nobody else
	}
	// Storage first: whatever a reader was given, a restart must find.
	if !same || !fetched.expires() || fetched.ExternalUser != seen.credential.ExternalUser {
		c.store(ctx, e)
		if !c.inForce(ctx, d.config.CacheID) { // any more, and e may have replaced what is
			c.deletes.of(id).Add(1)
			c.storeAgain(ctx, id, nil)
			return e
		}
	}
	c.replacing.Lock()
	c.memory.Add(id, e)
	c.replacing.Unlock()
	if c.deletes.of(id).Load() != deletes {
		c.store(ctx, e)
	}
	return e
}

// inForce tells whether cacheID is that of the configured connection.
func (c *cache) inForce(ctx context.Context, cacheID string) bool {
	s, err := c.settings.get(ctx, c.storage)
	return err == nil && s.config.CacheID == cacheID
}

// refresh fetches the account's credential whatever is cached, for a caller
// whose token was refused, unless that was done a moment ago. What is cached
// stays until there is something to replace it. changed tells whether the
// latest fetch brought another token than the one before it.
func (c *cache) refresh(ctx context.Context, d demand, id string) (e *entry, changed bool, err error) {
	e = c.lookup(ctx, d, id)
	if e == nil || time.Since(e.checkedAt) >= refreshQuiet || !e.credential.servable(time.Now()) {
		e, err = c.await(ctx, c.start(c.ctx, d, id, e), nil)
		if err != nil {
			return nil, false, err
		}
	}
	return e, e.checkedAt.Sub(e.credential.FetchedAt) < refreshQuiet, nil
}

// forget drops the account from memory alone.
func (c *cache) forget(id string) { c.memory.Remove(id) }
