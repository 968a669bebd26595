// Package cache serves credentials: what is cached while it is fresh, else what
// is fetched now, else what is cached for as long as it lives. It finds the
// accounts of external users, and has what is due fetched ahead of its readers.
package cache

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/durable"
	"vault-plugin-secrets-pipedream/internal/fetch"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/redact"
)

const (
	// Prefix is where all of the cache is in storage: below it a folder for each
	// generation.
	Prefix = "cache/"
	// usersFolder is where a generation keeps which account a user has.
	usersFolder = "users/"

	// maxCached and maxCachedBytes bound the credentials in memory; storage has
	// the rest. The bytes are those of 32,768 usual ones.
	maxCached      = 32_768
	maxCachedBytes = 64 << 20
	maxUsers       = maxCached
	maxUsersBytes  = 16 << 20

	// Patience is how long a reader for whom there is a live credential waits for
	// a newer one. The fetch goes on without the reader.
	Patience = 5 * time.Second
	// maxExpiredRetries is how often a fetch that brought a credential at its very
	// end is repeated: Pipedream is about to refresh it.
	maxExpiredRetries = 3
)

// How is how a reader was served.
type How int

const (
	// Hit is from the cache.
	Hit How = iota + 1
	// Fetched is by a fetch.
	Fetched
	// Stale is from the cache, while there should be something newer.
	Stale
)

// Stats counts how readers were served.
type Stats interface {
	Served(path string, how How)
	// Missed is called where a fetch did not serve its reader.
	Missed()
	// Refreshed is called for each new token that was fetched: ahead of its
	// readers, or while one waited.
	Refreshed(ahead bool)
}

// Cache has the credentials of one generation: of the accounts that one API key
// or OAuth client sees. What is still on its way when another takes its place
// lands in a folder of storage that nobody reads.
type Cache struct {
	redact.Opaque

	ctx        context.Context // ends with the mount
	generation string
	stats      Stats
	logger     func() hclog.Logger

	credentials *durable.Store[*entry]
	users       *durable.Store[found]
	flights     flights[*entry] // by account
	searches    flights[string] // by user key
	quiet       *lru.Cache[string, quiet]
	// passedAt is when the periodic pass last looked for what is due, in Unix
	// nanoseconds.
	passedAt atomic.Int64
}

// entry is a cached credential.
type entry struct {
	*credential.Credential

	// read is set once the entry has served a reader.
	read atomic.Bool
}

// New returns the cache of a generation. legacyGone tells whether storage has
// nothing of versions before 0.2 left.
func New(ctx context.Context, storage logical.Storage, generation string, legacyGone func() bool, stats Stats, logger func() hclog.Logger) *Cache {
	recent, err := lru.New[string, quiet](maxQuiet)
	if err != nil { // only for a size below 1
		panic(err)
	}
	prefix := Prefix + generation + "/"
	return &Cache{
		ctx: ctx, generation: generation, stats: stats, logger: logger, quiet: recent,
		credentials: durable.New(ctx, storage, prefix, maxCached, maxCachedBytes, credentialCodec(generation, legacyGone), logger),
		users:       durable.New(ctx, storage, prefix+usersFolder, maxUsers, maxUsersBytes, userCodec(generation, legacyGone), logger),
	}
}

// errNotOurs stands for a decoder's own error, which may quote what it read.
var errNotOurs = errors.New("the stored entry is not one of this engine's")

func credentialCodec(generation string, legacyGone func() bool) durable.Codec[*entry] {
	return durable.Codec[*entry]{
		Name:   "cached credential",
		Encode: func(e *entry) ([]byte, error) { return json.Marshal(e.Credential) },
		Decode: func(id string, stored []byte) (*entry, error) {
			var c credential.Credential
			if json.Unmarshal(stored, &c) != nil || c.AccountID != id || len(c.Fields) == 0 {
				return nil, errNotOurs
			}
			return &entry{Credential: &c}, nil
		},
		Size: func(e *entry) int { return e.Size() },
		Legacy: &durable.Legacy[*entry]{
			Key:    func(id string) string { return Prefix + id },
			Decode: func(id string, stored []byte) (*entry, bool) { return decodeLegacy(generation, id, stored) },
			Gone:   legacyGone,
		},
	}
}

// decodeLegacy reads a credential as version 0.1 stored it.
func decodeLegacy(generation, id string, stored []byte) (*entry, bool) {
	var old struct {
		Credential *credential.Credential `json:"credential"`
		CacheID    string                 `json:"cache_id"`
		CheckedAt  time.Time              `json:"checked_at"`
	}
	if json.Unmarshal(stored, &old) != nil || old.Credential == nil || old.CacheID != generation ||
		old.Credential.AccountID != id || len(old.Credential.Fields) == 0 {
		return nil, false
	}
	old.Credential.CheckedAt = old.CheckedAt
	stripped := old.Credential.Stripped()
	return &entry{Credential: stripped}, len(stripped.Fields) > 0
}

// Len is how many credentials are in memory.
func (c *Cache) Len() int { return c.credentials.Len() }

// Bytes is about how many bytes the credentials in memory take.
func (c *Cache) Bytes() int { return c.credentials.Bytes() }

// Users is how many external users' accounts are known in memory.
func (c *Cache) Users() int { return c.users.Len() }

// View is a cache as the readers of one connection use it.
type View struct {
	*Cache

	client   *api.Client
	fetcher  *fetch.Fetcher
	budget   *pace.Budget
	holdOffs *pace.HoldOffs
	policy   credential.Policy
}

// View returns c for readers of a connection.
func (c *Cache) View(client *api.Client, fetcher *fetch.Fetcher, budget *pace.Budget, holdOffs *pace.HoldOffs, policy credential.Policy) *View {
	return &View{Cache: c, client: client, fetcher: fetcher, budget: budget, holdOffs: holdOffs, policy: policy}
}

// Reader is who reads, and what is asked of the credential.
type Reader struct {
	// Demand is at least the policy's default.
	Demand credential.Demand
	// Path is the path that is read, for the statistics.
	Path string
	// Caller stands for whoever reads; callers that ask for what may not exist
	// take turns.
	Caller string
}

// Get returns a live credential of an account. Its errors are of type
// [*api.Error], or the context's own.
func (v *View) Get(ctx context.Context, r Reader, id string) (*credential.Credential, error) {
	if e := v.fresh(r, id); e != nil { // which needs no deadline
		return e.Credential, nil
	}
	ctx, cancel := v.deadline(ctx)
	defer cancel()
	e, err := v.get(ctx, r, id)
	if err != nil {
		return nil, err
	}
	return e.Credential, nil
}

// deadline bounds all that one read does, waits and retries included.
func (v *View) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, v.client.Timeout())
}

// fresh is the cached credential that needs no fetch; nil for none.
func (v *View) fresh(r Reader, id string) *entry {
	e, ok := v.credentials.Get(id)
	if !ok {
		return nil
	}
	return v.serveFresh(r, e)
}

// serveFresh serves e if it needs no fetch; nil if it does.
func (v *View) serveFresh(r Reader, e *entry) *entry {
	now := time.Now()
	if due, _ := e.Due(v.policy, r.Demand, now); due || !e.Servable(now) {
		return nil
	}
	return v.serve(r, e, Hit)
}

func (v *View) get(ctx context.Context, r Reader, id string) (*entry, error) {
	e, err := v.lookup(ctx, id)
	if err != nil { // before storage had answered
		return nil, err
	}
	now := time.Now()
	if e == nil || !e.Servable(now) {
		return v.await(ctx, r, id, v.start(r.Caller, id, e, false), nil)
	}
	due, wait := e.Due(v.policy, r.Demand, now)
	switch {
	case !due:
		return v.serve(r, e, Hit), nil
	case v.holdOffs.Held(id):
		return v.serve(r, e, Stale), nil
	case !wait:
		if !v.passing(now) {
			v.start(r.Caller, id, e, true)
		}
		return v.serve(r, e, Stale), nil
	default:
		return v.await(ctx, r, id, v.start(r.Caller, id, e, false), e)
	}
}

// lookup returns what is cached for the account, live or not; nil for nothing.
func (v *View) lookup(ctx context.Context, id string) (*entry, error) {
	e, ok, err := v.credentials.Load(ctx, id)
	if err != nil || !ok {
		return nil, err
	}
	corrected := e.Corrected(v.policy, time.Now())
	if corrected == e.Credential {
		return e, nil
	}
	return v.credentials.Update(id, func(latest *entry, known bool) (*entry, bool) {
		if known && latest != e {
			return latest, false
		}
		return &entry{Credential: corrected}, false
	}), nil
}

// serve notes that e serves a reader.
func (v *View) serve(r Reader, e *entry, how How) *entry {
	v.stats.Served(r.Path, how)
	// Looked at first: a line of memory that all readers write is slow to share.
	if !e.read.Load() {
		e.read.Store(true)
	}
	return e
}

// await waits for a fetch. Where there is a live credential to fall back on, it
// waits for a few seconds at most, and no failure but the account's own gets in
// the way of serving it.
func (v *View) await(ctx context.Context, r Reader, id string, f *flight[*entry], fallback *entry) (*entry, error) {
	var outOfPatience <-chan time.Time
	if fallback != nil {
		timer := time.NewTimer(Patience)
		defer timer.Stop()
		outOfPatience = timer.C
	}
	var err error
	select {
	case <-f.landed:
		if f.err == nil {
			return v.serve(r, f.value, Fetched), nil
		}
		err = f.err
	case <-outOfPatience:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if fallback != nil && fallback.Servable(time.Now()) && !api.OfAccount(err) {
		return v.serve(r, fallback, Stale), nil
	}
	if err == nil { // out of patience, and the fallback ended meanwhile
		return v.await(ctx, r, id, f, nil)
	}
	v.stats.Missed()
	if errors.Is(err, context.DeadlineExceeded) {
		err = v.fetcher.Overdue(id)
	}
	return nil, err
}

// start begins to fetch the account, or joins the fetch under way and makes it as
// urgent as this caller's. The fetch goes on when its readers give up. seen is
// what the caller found in the cache. ahead is for whom nobody waits.
func (v *View) start(caller, id string, seen *entry, ahead bool) *flight[*entry] {
	return v.startAs(v.class(id, seen, ahead), caller, id, seen, time.Time{})
}

func (v *View) class(id string, seen *entry, ahead bool) pace.Class {
	if ahead {
		return pace.Ahead
	}
	return v.fetcher.Class(id, seen != nil)
}

// startAs is start with a class. Where newerThan is not zero, nothing that is
// older is good enough.
func (v *View) startAs(class pace.Class, caller, id string, seen *entry, newerThan time.Time) *flight[*entry] {
	return v.flights.start(id, v.logger(), func() *pace.Claim { return v.budget.NewClaim(class, caller) },
		func(claim *pace.Claim) { claim.Join(class, caller) },
		func(claim *pace.Claim) (*entry, error) { return v.fetch(claim, id, seen, newerThan) })
}

// fetch asks Pipedream for the account's credential and caches it.
func (v *View) fetch(claim *pace.Claim, id string, seen *entry, newerThan time.Time) (*entry, error) {
	// A fetch that ended since the caller looked has done the work already.
	if e, ok := v.credentials.Peek(id); ok && e != seen && e.Servable(time.Now()) && !e.CheckedAt.Before(newerThan) {
		return e, nil
	}
	if err := v.holdOffs.Check(id); err != nil {
		return nil, err
	}
	if seen != nil && seen.CheckedAt.After(newerThan) {
		newerThan = seen.CheckedAt
	}
	if failed := v.holdOffs.FailedAt(id); failed.After(newerThan) {
		newerThan = failed
	}
	ctx, cancel := context.WithTimeout(v.ctx, v.client.Timeout())
	defer cancel()
	for {
		c, err := v.fetchLive(ctx, claim, id, newerThan)
		if err != nil {
			v.failed(id, err)
			return nil, err
		}
		v.holdOffs.Succeeded(id)
		e := v.keep(c, claim.Class() == pace.Ahead)
		if e.Servable(time.Now()) {
			return e, nil
		}
		// It ended while it was stored.
	}
}

// fetchLive fetches until it has a credential that can be served.
func (v *View) fetchLive(ctx context.Context, claim *pace.Claim, id string, newerThan time.Time) (*credential.Credential, error) {
	for began, retries := time.Now(), 0; ; {
		a, at, err := v.fetcher.Account(ctx, id, claim, newerThan)
		if err != nil {
			return nil, err
		}
		c, err := credential.New(a, at, v.policy.ExposeRefreshToken)
		if err != nil {
			return nil, err
		}
		now := time.Now()
		switch {
		case at.Before(began) && v.isStale(c, now): // of an earlier page
			newerThan = now
			continue
		case c.Servable(now):
			return c, nil
		case retries == maxExpiredRetries || v.holdOffs.Doubtful(id):
			return nil, &api.Error{Kind: api.Expired, Account: id}
		}
		switch err := pace.Sleep(ctx, c.UntilNext(now)); {
		case errors.Is(err, context.Canceled): // the mount is going away
			return nil, err
		case err != nil:
			return nil, &api.Error{Kind: api.Expired, Account: id}
		}
		newerThan = now
		retries++
	}
}

// isStale tells whether Pipedream may have something better by now than what a
// page brought.
func (v *View) isStale(c *credential.Credential, now time.Time) bool {
	due, _ := c.Due(v.policy, v.policy.Default(), now)
	return due || c.Expires() && c.ExpiresAt.Sub(now) < credential.Lookahead
}

// failed holds the account off, unless everything is, and drops what is cached
// of an account that is itself at fault.
func (v *View) failed(id string, err error) {
	var e *api.Error
	if !errors.As(err, &e) {
		return // the mount is going away
	}
	level := hclog.Warn
	if e.Kind == api.NoBudget || e.Kind == api.Busy { // could be said of thousands at a time; status shows it
		level = hclog.Debug
	}
	v.logger().Log(level, "credentials could not be fetched", "account", id, "error", err)
	if e.OfAccount() {
		v.credentials.Delete(id) // first: a reader who is held off is served what is cached
	}
	if !e.OfAll() {
		v.holdOffs.Failed(id, pace.Failure{Err: e, Lasting: e.OfAccount() || e.Kind == api.Expired || e.Kind == api.Unauthorized})
	}
}

// keep caches a fetched credential, unless what is cached is newer.
func (v *View) keep(fetched *credential.Credential, ahead bool) *entry {
	return v.credentials.Update(fetched.AccountID, func(latest *entry, known bool) (*entry, bool) {
		var before *credential.Credential
		if known {
			if latest.CheckedAt.After(fetched.CheckedAt) {
				return latest, false
			}
			before = latest.Credential
		}
		merged, store := fetched.Following(before)
		if before != nil && merged.FetchedAt.Equal(merged.CheckedAt) {
			v.stats.Refreshed(ahead)
		}
		return &entry{Credential: merged}, store
	})
}
