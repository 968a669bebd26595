package pipedream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"
)

const (
	// usersPrefix lies in the cache: local to the cluster, and emptied with it.
	usersFolder = "users/"
	usersPrefix = cachePrefix + usersFolder
	maxUsers    = maxCached
)

// user is an external user's account with an app, whichever that is.
type user struct {
	app        string // slug or id
	externalID string
}

// key is a name for u that any storage takes, whatever characters u has.
func (u user) key() string {
	text, err := json.Marshal([]string{u.app, u.externalID})
	if err != nil { // strings always marshal
		panic(err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// owns tells whether a is an account of u's. Pipedream was asked for such
// alone, but nobody's credential may hang on how it reads a filter.
func (u user) owns(a *account) bool {
	sameApp := a.App.Slug == u.app || a.App.ID == u.app || a.App.Slug == "" && a.App.ID == ""
	return a.ExternalID == u.externalID && u.externalID != "" && sameApp
}

// users finds the accounts of external users, and remembers them: in memory,
// and in storage so that a restart costs no request.
type users struct {
	cache    *cache
	memory   *lru.Cache[string, found] // by user.key
	searches singleflight.Group
}

// found is the account that a user was found to have.
type found struct {
	User      string `json:"user"` // key
	AccountID string `json:"account_id"`
	CacheID   string `json:"cache_id"`
}

func newUsers(c *cache) *users {
	memory, err := lru.New[string, found](maxUsers)
	if err != nil { // only for a size below 1
		panic(err)
	}
	return &users{cache: c, memory: memory}
}

// get returns a live credential of u's account. If the remembered account is
// at fault, u is searched for once more: the account may have been connected
// anew, under another id.
func (u *users) get(ctx context.Context, d demand, who user) (*entry, error) {
	began, key := time.Now(), who.key()
	id := u.remembered(ctx, d, key)
	if id != "" {
		e, err := u.cache.getOf(ctx, d, id, who)
		if err == nil {
			u.keepRemembered(ctx, d, key, id)
		}
		if !isOfAccount(err) {
			return e, err
		}
	}
	// request_timeout is for all of it.
	ctx, cancel := context.WithDeadline(ctx, began.Add(d.config.RequestTimeout))
	defer cancel()
	again, err := u.search(ctx, d, who, id)
	if err != nil {
		return nil, err
	}
	return u.cache.getOf(ctx, d, again, who)
}

// refresh is cache.refresh for u's account, searched for as get does.
func (u *users) refresh(ctx context.Context, d demand, who user) (e *entry, changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, d.config.RequestTimeout)
	defer cancel()
	key := who.key()
	id := u.remembered(ctx, d, key)
	if id != "" {
		e, changed, err = u.cache.refresh(ctx, d, id)
		if err == nil {
			err = d.owned(e, who)
		}
		if err == nil {
			u.keepRemembered(ctx, d, key, id)
		}
		if !isOfAccount(err) {
			return e, changed, err
		}
	}
	if id, err = u.search(ctx, d, who, id); err != nil {
		return nil, false, err
	}
	e, err = u.cache.getOf(ctx, d, id, who)
	return e, err == nil, err
}

// remembered is the account that the user with the key was found to have;
// empty for none.
func (u *users) remembered(ctx context.Context, d demand, key string) string {
	if f, ok := u.memory.Get(key); ok && f.CacheID == d.config.CacheID {
		return f.AccountID
	}
	deletes := u.cache.deletes.of(usersFolder + key).Load()
	f := u.load(ctx, key)
	if f.CacheID != d.config.CacheID || f.User != key {
		return ""
	}
	if !u.cache.inForce(ctx, f.CacheID) {
		return f.AccountID
	}
	u.memory.Add(key, f)
	if u.cache.deletes.of(usersFolder+key).Load() != deletes {
		u.store(ctx, f)
	}
	return f.AccountID
}

func (u *users) load(ctx context.Context, key string) (f found) {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	raw, err := u.cache.storage.Get(ctx, usersPrefix+key)
	if err == nil && raw != nil {
		err = raw.DecodeJSON(&f)
	}
	if err != nil {
		u.cache.logger().Warn("the account of an external user could not be read from storage", "error", err)
		return found{}
	}
	return f
}

// search finds u's account through the list; failed is an account that turned
// out to be at fault. All who search for u share one search, and one that
// brings nothing better holds the next off.
func (u *users) search(ctx context.Context, d demand, who user, failed string) (string, error) {
	if err := ctx.Err(); err != nil { // before storage had said whether u is remembered
		return "", err
	}
	key := who.key()
	searched := u.searches.DoChan(d.config.CacheID+"/"+key, func() (any, error) {
		id := ""
		err := guard(u.cache.logger(), func() (err error) {
			id, err = u.searchNow(d, who, failed)
			return err
		})
		return id, err
	})
	select {
	case result := <-searched:
		return result.Val.(string), result.Err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// searchNow is the search that all share.
func (u *users) searchNow(d demand, who user, failed string) (string, error) {
	key := who.key()
	if f, ok := u.memory.Peek(key); ok && f.CacheID == d.config.CacheID && f.AccountID != failed {
		return f.AccountID, nil // a search that ended since
	}
	held := "users/" + key
	if err := d.client.holdoffs.check(held); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(u.cache.ctx, d.config.RequestTimeout)
	defer cancel()
	a, err := u.list(ctx, d, who)
	switch {
	case err != nil:
		u.forget(ctx, who, err)
		u.holdOff(d, held, err)
		return "", err
	case a.ID == failed:
		u.holdOff(d, held, d.client.fail(&apiError{kind: failNoAccount, user: who}))
	default:
		d.client.holdoffs.succeeded(held)
	}
	if u.cache.inForce(ctx, d.config.CacheID) {
		u.cache.offer(ctx, d, a) // before others learn of the account, else they would fetch it
		u.remember(ctx, found{User: key, AccountID: a.ID, CacheID: d.config.CacheID})
	}
	return a.ID, nil
}

// list returns u's healthy account; of several, the one updated last.
func (u *users) list(ctx context.Context, d demand, who user) (*account, error) {
	var best *account
	filter := listFilter{app: who.app, externalUser: who.externalID, withCredentials: true}
	err := d.client.listAccounts(ctx, filter, func(page []*account) {
		for _, a := range page {
			if validAccountID(a.ID) && who.owns(a) && a.Healthy && !a.Dead && (best == nil || a.UpdatedAt.After(best.UpdatedAt)) {
				best = a
			}
		}
	})
	if err == nil && best == nil {
		err = d.client.fail(&apiError{kind: failNoAccount, user: who})
	}
	return best, err
}

func (u *users) holdOff(d demand, held string, err error) {
	api, ok := err.(*apiError) //nolint:errorlint // the client wraps none
	if ok && !api.ofMount() {
		d.client.holdoffs.failed(held, err)
	}
}

// remember stores f first, as [cache.keep] does.
func (u *users) remember(ctx context.Context, f found) {
	deletes := u.cache.deletes.of(usersFolder + f.User).Load()
	u.store(ctx, f)
	if !u.cache.inForce(ctx, f.CacheID) { // any more, and f may have replaced what is
		u.cache.deletes.of(usersFolder + f.User).Add(1)
		u.storeAgain(ctx, f.User)
		return
	}
	u.memory.Add(f.User, f)
	if u.cache.deletes.of(usersFolder+f.User).Load() != deletes {
		u.store(ctx, f)
	}
}

// keepRemembered remembers again a user who was just served. A sweep may have
// forgotten it, because the account was not cached before that.
func (u *users) keepRemembered(ctx context.Context, d demand, key, id string) {
	if !u.memory.Contains(key) && u.cache.inForce(ctx, d.config.CacheID) {
		u.remember(ctx, found{User: key, AccountID: id, CacheID: d.config.CacheID})
	}
}

// sweepStored forgets a user whose account is not cached any more: a search
// costs no more than to fetch it. s is nil where the engine is not configured.
func (u *users) sweepStored(ctx context.Context, s *settings, key string) {
	f, useful, err := u.stillOfUse(ctx, s, key)
	switch {
	case err != nil:
		u.cache.logger().Warn("the account of an external user could not be looked at for its sweep", "error", err)
	case !useful && ctx.Err() == nil && !u.justServed(ctx, key):
		u.memory.Remove(key)
		u.cache.deleteStored(ctx, usersFolder+key, nil)
		if u.cache.memory.Contains(f.AccountID) { // fetched since
			u.remember(ctx, f)
		}
	}
}

// justServed tells whether memory has the user's account and its credential,
// whatever storage had when it was asked and whatever was configured then.
func (u *users) justServed(ctx context.Context, key string) bool {
	f, ok := u.memory.Peek(key)
	return ok && u.cache.memory.Contains(f.AccountID) && u.cache.inForce(ctx, f.CacheID)
}

// stillOfUse tells whether the account that a user was found to have is cached.
func (u *users) stillOfUse(ctx context.Context, s *settings, key string) (f found, useful bool, err error) {
	if s == nil {
		return f, false, nil
	}
	raw, err := u.cache.storage.Get(ctx, usersPrefix+key)
	if err != nil || raw == nil || raw.DecodeJSON(&f) != nil || f.CacheID != s.config.CacheID {
		return found{}, false, err
	}
	if u.cache.memory.Contains(f.AccountID) {
		return f, true, nil
	}
	raw, err = u.cache.storage.Get(ctx, cachePrefix+f.AccountID)
	return f, raw != nil, err
}

// storeAgain stores what memory has of a user, after a delete that may have
// come too late.
func (u *users) storeAgain(ctx context.Context, key string) {
	if f, ok := u.memory.Peek(key); ok && u.cache.inForce(ctx, f.CacheID) {
		u.store(ctx, f)
	}
}

func (u *users) store(ctx context.Context, f found) {
	raw, err := logical.StorageEntryJSON(usersPrefix+f.User, f)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storageTimeout)
		defer cancel()
		err = u.cache.storage.Put(ctx, raw)
	}
	if err != nil {
		u.cache.logger().Warn("the account of an external user could not be stored for the next start", "account", f.AccountID, "error", err)
	}
}

// forget drops what is remembered of u if err says that there is no account.
func (u *users) forget(ctx context.Context, who user, err error) {
	if !isOfAccount(err) {
		return
	}
	key := who.key()
	if u.memory.Remove(key) { // which has what storage has, once it was looked for
		u.cache.deleteStored(ctx, usersFolder+key, nil)
	}
}

// getOf is get for an account that was found to be who's.
func (c *cache) getOf(ctx context.Context, d demand, id string, who user) (*entry, error) {
	e, err := c.get(ctx, d, id)
	if err == nil {
		err = d.owned(e, who)
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

// owned fails where an account is another user's, or nobody has said whose: not
// every answer for one account does, and with a new token it can be another's.
// The list says it.
func (d demand) owned(e *entry, who user) error {
	if e.credential.ExternalUser != who.externalID {
		return d.client.fail(&apiError{kind: failNoAccount, user: who})
	}
	return nil
}

// offer caches the credential of an account that a list brought, unless there
// is a live one already: a fetch may know better.
func (c *cache) offer(ctx context.Context, d demand, a *account) {
	now := time.Now()
	if e, ok := c.memory.Peek(a.ID); ok && e.cacheID == d.config.CacheID && e.credential.servable(now) &&
		(a.ExternalID == "" || e.credential.ExternalUser == a.ExternalID) {
		return
	}
	fetched, err := newCredential(a, a.ID, now, d.config.ExposeRefreshToken)
	if err == nil && fetched.servable(now) {
		c.keep(ctx, d, fetched, nil)
	}
}
