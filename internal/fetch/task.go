package fetch

import (
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// manyAtOnce bounds for how many wants the budget's lock is held, if something concerns
// very many. It is held for some milliseconds then.
const manyAtOnce = 1000

// task is what is to be done with wants, as far as they still wait then.
type task struct {
	wants []*Want
	do    func(w *Want, now time.Time)
}

// forAll has do be called for all wants that wait, some at a time.
func (f *Fetcher) forAll(do func(w *Want, now time.Time)) {
	wants := make([]*Want, 0, len(f.wants))
	for _, w := range f.wants {
		if w.state == pending {
			wants = append(wants, w)
		}
	}
	f.tasks = append(f.tasks, task{wants, do})
}

// work does some of what is to be done with many wants.
func (f *Fetcher) work(now time.Time) {
	for left := manyAtOnce; len(f.tasks) > 0 && left > 0; {
		t := &f.tasks[0]
		some := t.wants[:min(left, len(t.wants))]
		left -= len(some)
		if t.wants = t.wants[len(some):]; len(t.wants) == 0 {
			f.tasks = f.tasks[1:]
		}
		for _, w := range some {
			if w.state == pending {
				t.do(w, now)
			}
		}
	}
}

// tellOfHoldOff ends the wants that cannot wait for the end of a hold-off of everything
// that began meanwhile, whichever request it was that failed.
func (f *Fetcher) tellOfHoldOff() {
	if until := f.holdOffs.AllUntil(); until.After(f.heldUntil) {
		f.heldUntil = until
		f.forAll(func(w *Want, now time.Time) { f.refuseIfHeld(w, now) })
	}
}

// refuseIfHeld ends w if everything is held off, and reports whether it did. A 429 fails
// nobody who can wait for its end.
func (f *Fetcher) refuseIfHeld(w *Want, now time.Time) bool {
	until := f.holdOffs.AllUntil()
	if !until.After(now) {
		return false
	}
	err := f.holdOffs.CheckAll()
	if api.KindOf(err) == api.Throttled && w.claim.ClassNow() != pace.Ahead && !w.until.Before(until.Add(time.Second)) {
		return false
	}
	f.serve(w, nil, time.Time{}, api.WithAccount(err, w.ID))
	return true
}
