package fetch

import (
	"context"
	"slices"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// keepAhead is how long a want that nobody waits for is kept, unless it is wanted again.
const keepAhead = 150 * time.Second

// Want is an account that is wanted. All who want it share it, and it goes on when they
// give up. Whatever comes first serves it: a page, an answer of its own, or a page that
// is remembered.
type Want struct {
	ID string
	// Began is when it was first wanted. Tries and Doubted are for the function that
	// takes its outcome.
	Began   time.Time
	Tries   int
	Doubted bool

	// The budget's mutex guards the following.
	f         *Fetcher
	claim     *pace.Claim
	state     state
	newerThan time.Time // bounds the pages that may serve it: those asked for after that time
	seq       int       // when newerThan was set, to tell times that are equal apart
	until     time.Time // when the last who waits gives up
	by        time.Time // when it must be fetched even if nobody waits for it
	waiting   int       // how many wait for it
	page      *page     // that it was last seen on; nil if that is unknown or of no use
	single    bool      // whether only a request of its own can serve it
	asked     time.Time // when that went out
	answered  bool      // whether a request for it was answered, and it is asked for once more
	late      bool      // whether IsLate was true

	// Account, At and Err are the outcome, set once before it is delivered.
	Account *api.Account
	At      time.Time
	Err     error
	// Done is closed once Value and Failed, which are for those who wait, are set.
	Done   chan struct{}
	Value  any
	Failed error
}

type state int

const (
	pending state = iota // it waits for a turn, or for a page that is under way
	alone                // a request of its own is under way
	served               // its outcome is being delivered
)

// Wish says who wants an account, and how.
type Wish struct {
	Class pace.Class
	// Caller and User say who wants it, as for [pace.Caller].
	Caller, User string
	// NewerThan is the time after which the account must be asked for.
	NewerThan time.Time
	// Until is when the one who waits gives up.
	Until time.Time
}

// Due is an account that nobody waits for yet.
type Due struct {
	ID        string
	NewerThan time.Time // as in [Wish]
	// By is when it can wait no longer for others on its page.
	By time.Time
}

// Want returns the want of an account, for somebody who waits for it and must call
// Leave when that ends.
func (f *Fetcher) Want(id string, wish Wish) (w *Want) {
	f.budget.Do(func(now time.Time) {
		w = f.want(id, wish, time.Time{}, now)
		w.waiting++
	})
	return w
}

// Ahead wants accounts that nobody waits for yet.
func (f *Fetcher) Ahead(due ...Due) {
	for some := range slices.Chunk(due, manyAtOnce) {
		f.budget.Do(func(now time.Time) {
			for _, d := range some {
				if !f.closed {
					f.want(d.ID, Wish{Class: pace.Ahead, NewerThan: d.NewerThan, Until: now.Add(keepAhead)}, d.By, now)
				}
			}
		})
	}
}

func (w Wish) who() pace.Caller { return pace.Caller{Name: w.Caller, User: w.User} }

// want returns the want of an account, which can wait until by if nobody waits for it.
func (f *Fetcher) want(id string, wish Wish, by, now time.Time) *Want {
	f.attach()
	w := f.wants[id]
	if w == nil {
		w = &Want{ID: id, Began: now, f: f, claim: f.budget.NewClaim(wish.Class, wish.who()), by: by, until: wish.Until, Done: make(chan struct{})}
		w.claim.For = w
		if err := f.failedSince(id, wish); err != nil {
			w.state = served
			w.deliver(nil, err)
			return w
		}
		f.wants[id] = w
		w.mustBeNewer(wish.NewerThan)
		b, ok := f.fleet.memory.take(id, wish.NewerThan)
		if wish.Class != pace.Ahead {
			f.fleet.demandOf(id, wish.Class, b.walked).add(id, now, f.rememberFor())
		}
		if wish.Class == pace.Known {
			f.gather(now)
		}
		if ok && !by.After(now) { // what can wait gets a newer one
			f.serve(w, b.account, b.at, nil)
		} else {
			f.place(w, now)
		}
		return w
	}
	before, sooner := w.claim.ClassNow(), wish.Class == pace.Ahead && by.Before(w.by)
	w.claim.Add(wish.Class, wish.who())
	if wish.Until.After(w.until) {
		w.until = wish.Until
	}
	if sooner {
		w.by = by
	}
	newer := w.mustBeNewer(wish.NewerThan)
	waitsForPage := w.claim.Line() == nil // who waits for a turn keeps it
	if w.state == pending && (newer && waitsForPage || sooner || w.claim.ClassNow() != before) {
		f.place(w, now)
	}
	return w
}

// failedSince returns why an account is held off, if that began after the caller looked. Its
// fetch has ended since, and another one would only fail again.
func (f *Fetcher) failedSince(id string, wish Wish) error {
	if wish.Class == pace.Ahead || !f.holdOffs.FailedAt(id).After(wish.NewerThan) {
		return nil
	}
	return f.holdOffs.Check(id)
}

// mustBeNewer has w be served only by what is asked for after t. It reports whether that
// is new.
func (w *Want) mustBeNewer(t time.Time) bool {
	if w.seq > 0 && !t.After(w.newerThan) {
		return false
	}
	w.newerThan, w.seq = t, w.f.next()
	return true
}

// next counts what happens in an order that matters.
func (f *Fetcher) next() int {
	f.count++
	return f.count
}

// Leave says that somebody who waited for w no longer does.
func (w *Want) Leave() {
	w.f.budget.Do(func(now time.Time) {
		if w.waiting--; w.isOver(now) {
			w.end(context.Canceled)
		}
	})
}

// isOver reports whether nobody wants w any more. What a reader wanted is wanted for as
// long as a read may take, since the reader is likely to come again.
func (w *Want) isOver(now time.Time) bool {
	return w.waiting == 0 && w.state == pending && !now.Before(w.until)
}

// end ends w with an error at once, so that nobody can join it who would not get that
// error.
func (w *Want) end(err error) {
	w.withdraw()
	w.state = served
	w.claim.GiveBack()
	w.deliver(nil, err)
}

// Deliver ends w with the outcome for those who wait.
func (w *Want) Deliver(value any, err error) {
	w.f.budget.Do(func(time.Time) { w.deliver(value, err) })
}

func (w *Want) deliver(value any, err error) {
	w.Value, w.Failed = value, err
	delete(w.f.wants, w.ID)
	close(w.Done)
}

// Retry asks for w once more, for an answer to a request that is sent from now on. If
// alone is set, it is asked for by itself.
func (w *Want) Retry(alone bool) {
	w.f.budget.Do(func(now time.Time) {
		w.state, w.asked, w.single, w.answered = pending, time.Time{}, w.single || alone, w.answered || alone
		w.mustBeNewer(now)
		if w.waiting == 0 && w.claim.ClassNow() != pace.Ahead {
			w.until = now.Add(w.f.client.Timeout())
		}
		w.f.place(w, now)
	})
}

// IsAhead reports whether nobody waits for w yet.
func (w *Want) IsAhead() (ahead bool) {
	w.f.budget.Do(func(time.Time) { ahead = w.claim.ClassNow() == pace.Ahead })
	return ahead
}

// IsLate reports, only once, whether a request for w was sent. Its account is held off
// then, since others would wait in vain, too.
func (w *Want) IsLate() (late bool) {
	w.f.budget.Do(func(time.Time) {
		late = !w.late && !w.asked.IsZero()
		w.late = w.late || late
	})
	return late
}
