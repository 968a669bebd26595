// Package cache serves credentials. It serves a cached one while that is fresh, and
// otherwise fetches a new one. If that fails, it serves the cached one for as long
// as it lives. The package also finds the accounts of external users, and fetches
// credentials that are due ahead of their readers.
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
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/clock"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/durable"
	"vault-plugin-secrets-pipedream/internal/fetch"
	"vault-plugin-secrets-pipedream/internal/flight"
	"vault-plugin-secrets-pipedream/internal/guard"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/redact"
)

const (
	// Prefix is where the cache is in storage, with a folder for the credentials of
	// each generation, and one for the users of each place.
	Prefix = "cache/"

	// maxCached and maxCachedBytes bound the credentials in memory. Storage has the
	// rest, which is not refreshed ahead of its readers. 131,072 credentials of usual
	// size take about that many bytes.
	maxCached      = 131_072
	maxCachedBytes = 160 << 20
	maxUsers       = 32_768
	maxUsersBytes  = 16 << 20

	// Patience is how long a reader waits for a newer credential if there is a live
	// one. The fetch goes on without the reader.
	Patience = 5 * time.Second
	// maxExpiredRetries is how often a fetch is repeated that brought a credential
	// just before its end: Pipedream is about to refresh it.
	maxExpiredRetries = 3
)

// How says how a reader was served.
type How int

const (
	// Hit means from the cache.
	Hit How = iota + 1
	// Fetched means by a fetch.
	Fetched
	// Stale means from the cache, although the credential is due.
	Stale
)

// Stats counts how readers were served.
type Stats interface {
	Served(path string, how How)
	// Missed is called if a fetch did not serve its reader.
	Missed()
	// Refreshed is called for each new token that was fetched, either ahead of its
	// readers or while one waited.
	Refreshed(ahead bool)
}

// Cache has the credentials of one generation, those of the accounts that one API
// key or OAuth client sees. What is still under way when the next generation takes
// over is stored in a folder that nobody reads. Which account each user has outlives
// the generation, as long as the accounts are those of the same place.
type Cache struct {
	redact.Opaque

	ctx        context.Context // ends when the mount does
	storage    logical.Storage
	generation string
	place      string
	stats      Stats
	clock      *clock.Clock
	logger     func() hclog.Logger
	removed    *Removed

	credentials *durable.Store[*entry]
	users       *durable.Store[found]  // shared by all generations of the place
	searches    flight.Group[string]   // by user key
	lists       flight.Group[*listing] // likewise
	choices     *lru.Cache[string, choice]
	quiet       *lru.Cache[string, quiet]
	recent      *lru.Cache[string, *listed] // by user key
	looks       *looks                      // shared by all generations of the place
	rosters     *lru.Cache[api.Filter, *roster]
	// passedAt is when the periodic pass last looked for credentials that are due, in
	// Unix nanoseconds.
	passedAt atomic.Int64
}

// entry is a cached credential.
type entry struct {
	*credential.Credential

	// read is set once the entry has served a reader, and noting once that is being
	// stored.
	read, noting atomic.Bool
}

// New returns the cache of a generation of a place. Both are names of folders, which
// no two of either may share. removed is shared by all caches of a mount.
func New(ctx context.Context, storage logical.Storage, generation, place string, removed *Removed, stats Stats, clk *clock.Clock, logger func() hclog.Logger) *Cache {
	c := &Cache{ctx: ctx, storage: storage, place: place, removed: removed, stats: stats, clock: clk, logger: logger, looks: newLooks()}
	c.users = durable.New(ctx, storage, Prefix+place+"/", maxUsers, maxUsersBytes, userCodec, logger)
	return c.Next(generation)
}

// Next returns the cache of another generation of the same place.
func (c *Cache) Next(generation string) *Cache {
	recent, err := lru.New[string, quiet](maxQuiet)
	if err != nil { // only for a size below 1
		panic(err)
	}
	choices, err := lru.New[string, choice](maxChoices)
	if err != nil {
		panic(err)
	}
	lists, err := lru.New[string, *listed](maxListed)
	if err != nil {
		panic(err)
	}
	rosters, err := lru.New[api.Filter, *roster](maxRosters)
	if err != nil {
		panic(err)
	}
	return &Cache{
		ctx: c.ctx, storage: c.storage, generation: generation, place: c.place, stats: c.stats, clock: c.clock, logger: c.logger, removed: c.removed,
		credentials: durable.New(c.ctx, c.storage, Prefix+generation+"/", maxCached, maxCachedBytes, credentialCodec(c.clock), c.logger),
		users:       c.users, quiet: recent, choices: choices, recent: lists, looks: c.looks, rosters: rosters,
	}
}

// errNotOurs replaces the error of a decoder, which may quote what it read.
var errNotOurs = errors.New("the stored entry is not one of this engine's")

func credentialCodec(clk *clock.Clock) durable.Codec[*entry] {
	return durable.Codec[*entry]{
		Name:   "cached credential",
		Encode: func(e *entry) ([]byte, error) { return json.Marshal(e.Credential) },
		Decode: func(id string, stored []byte) (*entry, error) {
			var c credential.Credential
			if json.Unmarshal(stored, &c) != nil || c.AccountID != id || len(c.Fields) == 0 {
				return nil, errNotOurs
			}
			e := &entry{Credential: c.Loaded(time.Now())}
			if e.Unconfirmed() { // by a clock that was ahead of this one
				clk.Suspect()
			}
			return e, nil
		},
		Size: func(e *entry) int { return e.Size() },
	}
}

// Len returns how many credentials are in memory.
func (c *Cache) Len() int { return c.credentials.Len() }

// Bytes returns about how many bytes the credentials in memory take.
func (c *Cache) Bytes() int { return c.credentials.Bytes() }

// Users returns how many external users are in memory with their account.
func (c *Cache) Users() int { return c.users.Len() }

// View is the cache for the readers of one connection.
type View struct {
	*Cache

	client   *api.Client
	fetcher  *fetch.Fetcher
	budget   *pace.Budget
	holdOffs *backoff.HoldOffs
	policy   credential.Policy
}

// View returns c for the readers of a connection.
func (c *Cache) View(client *api.Client, fetcher *fetch.Fetcher, budget *pace.Budget, holdOffs *backoff.HoldOffs, policy credential.Policy) *View {
	v := &View{Cache: c, client: client, fetcher: fetcher, budget: budget, holdOffs: holdOffs, policy: policy}
	fetcher.DeliverTo(v.arrived)
	return v
}

// Reader says who reads, and what they demand of the credential.
type Reader struct {
	// Demand is at least the policy's default.
	Demand credential.Demand
	// Path is the path that is read, for the statistics.
	Path string
	// Caller identifies who reads. Callers take turns, and share the budget.
	Caller string
	// User is the external user for whom a caller reads who works for many; empty for
	// none. Within a caller, users take turns.
	User string
	// Bare is set if the account is used without its credentials.
	Bare bool
}

func (r Reader) who() pace.Caller { return pace.Caller{Name: r.Caller, User: r.User} }

// Get returns a live credential of an account. Its errors are of type
// [*api.Error], or that of the context.
func (v *View) Get(ctx context.Context, r Reader, id string) (*credential.Credential, error) {
	if e := v.fresh(r, id); e != nil { // needs no deadline
		return e.Credential, nil
	}
	ctx, cancel := v.deadline(ctx)
	defer cancel()
	e, err := v.get(ctx, r, id, false)
	if err != nil {
		return nil, err
	}
	return e.Credential, nil
}

// deadline bounds one read as a whole, waits and retries included.
func (v *View) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, v.client.Timeout())
}

// fresh serves the cached credential if it needs no fetch, and returns nil
// otherwise.
func (v *View) fresh(r Reader, id string) *entry {
	e, ok := v.credentials.Get(id)
	if !ok {
		return nil
	}
	return v.serveFresh(r, e)
}

// serveFresh serves e if it needs no fetch, and returns nil otherwise.
func (v *View) serveFresh(r Reader, e *entry) *entry {
	now := v.clock.Now()
	if due, _ := e.Due(v.policy, r.Demand, now); due || !v.servable(e.Credential, now) || e.Expires() && now.Unsure {
		return nil
	}
	return v.serve(r, e, Hit)
}

// get is like [View.Get], with the deadline already set. exists is set if the account
// was seen to exist, though its credential may be gone.
func (v *View) get(ctx context.Context, r Reader, id string, exists bool) (*entry, error) {
	e, err := v.lookup(ctx, id)
	if err != nil { // ctx ended before storage answered
		return nil, err
	}
	if e != nil && e.Expires() && v.clock.Now().Unsure {
		v.askTime(ctx)
	}
	now := v.clock.Now()
	class := v.fetcher.Class(id, exists || e != nil)
	if e == nil || !v.servable(e.Credential, now) {
		return v.await(ctx, r, class, id, e, time.Time{}, nil)
	}
	due, wait := e.Due(v.policy, r.Demand, now)
	if !due {
		return v.serve(r, e, Hit), nil
	}
	switch held := v.holdOffs.Check(id); {
	case api.IsAccountFault(held) && e.CheckedAt.Before(v.holdOffs.FailedAt(id)): // it was dropped just now
		return v.await(ctx, r, class, id, e, time.Time{}, nil)
	case held != nil:
		return v.serve(r, e, Stale), nil //nolint:nilerr // what is live is served meanwhile
	case !wait:
		if !v.passing(now.Here) {
			v.fetcher.Ahead(v.ahead(nil, id, e, now.Here)...)
		}
		return v.serve(r, e, Stale), nil
	default:
		return v.await(ctx, r, class, id, e, time.Time{}, e)
	}
}

// askTime waits until Pipedream has told the time, but no longer than for a credential.
// This machine's clock was probably changed while the plugin did not run, and a stored
// credential may have ended. If Pipedream cannot be reached, it is served by the
// difference that was known before.
func (v *View) askTime(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	v.client.AskTime(ctx)
}

// lookup returns the cached credential of the account, live or not; nil for none.
func (v *View) lookup(ctx context.Context, id string) (*entry, error) {
	reading, cancel := context.WithTimeout(ctx, v.client.Timeout()/2) // so that there is time left to ask Pipedream
	defer cancel()
	e, _, err := v.credentials.Load(reading, id)
	if err != nil && ctx.Err() == nil { // storage cannot be read, but Pipedream can
		return nil, nil
	}
	return e, err
}

// serve notes that e serves a reader.
func (v *View) serve(r Reader, e *entry, how How) *entry {
	v.stats.Served(r.Path, how)
	// Reading it first avoids a write to a cache line that all readers share.
	if !e.read.Load() {
		e.read.Store(true)
	}
	v.noteRead(e)
	return e
}

// noteRead stores once in a while that e is read, if it is only kept for as long as
// it is. Its reader does not wait for that.
func (v *View) noteRead(e *entry) {
	again, store := e.ReadAgain(time.Now())
	if !store || e.noting.Swap(true) {
		return
	}
	guard.Go(v.logger(), func() {
		read := &entry{Credential: again}
		read.read.Store(true)
		v.credentials.Replace(v.ctx, e.AccountID, func(latest *entry) bool { return latest == e }, read)
	})
}
