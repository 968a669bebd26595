package cache

import (
	"context"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-pipedream/internal/clock"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/guard"
)

// servable reports whether cred may be served: it is live, and its account was not
// removed since Pipedream handed it out.
func (c *Cache) servable(cred *credential.Credential, now clock.Moment) bool {
	return cred.Servable(now) && !c.removed.isOutdated(cred.AccountID, cred.OwnerOrLast(), cred.CheckedAt)
}

// Removal is what is about to be removed at Pipedream.
type Removal struct {
	// Accounts are ids of accounts.
	Accounts []string
	// Users are those for whom the accounts may be remembered.
	Users []User
	// ExternalID is the external user who is removed as a whole; empty for none.
	ExternalID string
}

// Prepare deletes the stored copies of the removal's accounts. Those in memory are still
// served. It fails if storage does, because a restart could bring back what was removed
// then. Call Remove or Keep afterwards.
func (c *Cache) Prepare(ctx context.Context, r Removal) error {
	if r.ExternalID != "" {
		if c.removed.unread.Load() { // Keep would forget an earlier removal
			if err := c.LoadRemoved(); err != nil {
				return err
			}
		}
		if err := c.storeRemoval(ctx, r.ExternalID, true); err != nil {
			return err
		}
	}
	return c.each(r.Accounts, func(id string) error {
		if _, _, err := c.credentials.Load(ctx, id); err != nil { // for Keep
			return err
		}
		return c.credentials.Unstore(ctx, id)
	})
}

// Keep stores again what Prepare deleted, because nothing was removed. What cannot be
// stored now is stored by the next pass.
func (c *Cache) Keep(ctx context.Context, r Removal) {
	if r.ExternalID != "" {
		_ = c.storeRemoval(ctx, r.ExternalID, false)
	}
	_ = c.each(r.Accounts, func(id string) error {
		c.credentials.Restore(ctx, id)
		return nil
	})
}

// Remove drops what was removed. Nobody is served any of it once Remove has returned,
// whatever is still under way, and whether or not storage works.
func (c *Cache) Remove(r Removal) {
	names := slices.Clone(r.Accounts)
	if r.ExternalID != "" {
		names = append(names, ofUser(r.ExternalID))
	}
	c.removed.note(names...)
	if r.ExternalID != "" { // Prepare has stored an earlier time
		_ = c.storeRemoval(c.ctx, r.ExternalID, false)
	}
	gone := map[string]bool{}
	for _, id := range r.Accounts {
		gone[id] = true
	}
	if r.ExternalID != "" { // accounts that were connected since they were listed
		for _, e := range c.credentials.Values() {
			gone[e.AccountID] = gone[e.AccountID] || e.OwnerOrLast() == r.ExternalID
		}
		maps.DeleteFunc(gone, func(_ string, is bool) bool { return !is })
	}
	_ = c.each(slices.Collect(maps.Keys(gone)), func(id string) error {
		c.credentials.Delete(id)
		return nil
	})
	c.forgetChoices(gone, r.Users)
	if r.ExternalID != "" { // their links too
		for _, u := range r.Users {
			c.users.Delete(u.Key())
		}
	}
}

// forgetChoices forgets who has, or has chosen, one of these accounts.
func (c *Cache) forgetChoices(gone map[string]bool, users []User) {
	for _, name := range c.choices.Keys() {
		if chosen, ok := c.choices.Peek(name); ok && gone[chosen.id] {
			c.choices.Remove(name)
		}
	}
	for _, f := range c.users.Values() {
		if gone[f.AccountID] {
			c.forgetUser(f.User, f.AccountID)
		}
	}
	for _, u := range users {
		key := u.Key()
		if f, ok, err := c.users.Load(c.ctx, key); err == nil && ok && gone[f.AccountID] {
			c.forgetUser(key, f.AccountID)
		}
	}
}

// maxParallel is how many calls to storage are made at the same time.
const maxParallel = 8

// each calls f for each id or other name, some at a time, and returns one of the errors.
func (c *Cache) each(ids []string, f func(id string) error) error {
	var g errgroup.Group
	g.SetLimit(maxParallel)
	for _, id := range ids {
		g.Go(func() (err error) {
			return guard.Run(c.logger(), func() error { return f(id) })
		})
	}
	return g.Wait()
}

// Lift ends the hold-offs of the users of a removal, so that their next read finds out
// what there is now.
func (v *View) Lift(r Removal) {
	for _, id := range r.Accounts {
		v.holdOffs.Retry(id)
	}
	for _, u := range r.Users {
		v.holdOffs.Retry(heldName(u.Key()))
		v.holdOffs.Retry(choicesName(u.Key()))
		v.holdOffs.Retry(bareName(u.Key()))
	}
}

// Remembered returns the id of the account that reads of u get, as far as is known; empty
// for none.
func (v *View) Remembered(ctx context.Context, u User) (id string, err error) {
	f, err := v.known(ctx, u.Key())
	return f.AccountID, err
}
