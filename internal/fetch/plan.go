package fetch

import (
	"context"
	"time"

	"vault-plugin-secrets-pipedream/internal/pace"
)

const (
	// MaxSingles is how many requests for one account are under way at a time. A
	// request that takes longer than slowAfter no longer counts, so that it does not
	// hold up the others.
	MaxSingles = 8
	slowAfter  = 2 * time.Second
	// gatherFor is how long requests for one account go out one by one after the first
	// of many readers, who show in that time whether the list is cheaper.
	gatherFor = 25 * time.Millisecond
	// lateAfter is how long a page holds up those who wait for it. After that they are
	// asked for one by one.
	lateAfter = 3 * time.Second
	// demandFrom is how many accounts must be wanted in a minute before pages are
	// fetched for accounts that do not all wait at the same time.
	demandFrom = MaxSingles + MaxSingles/2
	// maxPagesAhead is how many pages that nobody waits for are fetched at a time.
	maxPagesAhead = 4
)

// place has a pending want wait where it belongs.
func (f *Fetcher) place(w *Want, now time.Time) {
	w.withdraw()
	if f.refuseIfHeld(w, now) {
		return
	}
	class := w.claim.ClassNow()
	if class == pace.Unproven {
		if w.claim.MayQueue() {
			f.unproven.Add(w.claim, func() { f.sendNext(w) })
		} else {
			w.end(f.full(w.ID, max(w.claim.Wait(now), time.Second)))
		}
		return
	}
	if after, known := f.fleet.index.of(w.ID); known && !w.single && f.useful(now) {
		w.page = f.pageAt(after)
		w.page.wants[w] = struct{}{}
		if w.page.isComing(now) && w.page.isNewerThan(w) {
			return
		}
	}
	if class == pace.Ahead {
		f.gatherAhead(w)
		return
	}
	line := f.lineOf(w, now)
	if line == f.single || line != f.paged && !f.walkPays(now, 1) {
		if wait := w.claim.Wait(now); wait > 0 && w.until.Before(now.Add(wait+time.Second)) {
			w.end(f.full(w.ID, max(wait, time.Second)))
			return
		}
	}
	line.Add(w.claim, func() { f.sendNext(w) })
}

// withdraw takes w from where it waits.
func (w *Want) withdraw() {
	w.claim.Leave()
	delete(w.f.ahead, w)
	if w.page != nil {
		w.page.leave(w)
		w.page = nil
	}
}

// lineOf returns the line in which a known want belongs.
func (f *Fetcher) lineOf(w *Want, now time.Time) *pace.Line {
	switch {
	case w.single || !f.useful(now):
		return f.single
	case w.page == nil && (w.claim.Line() == f.unlisted || w.claim.Line() == f.late):
		return w.claim.Line()
	case w.page == nil && f.walk != nil && f.walk.fetched > 0:
		return f.late
	case w.page == nil:
		return f.unlisted
	case f.pagePays(w.page, now):
		return f.paged
	default:
		return f.single
	}
}

// sendNext sends the best request for w, whose turn it is.
func (f *Fetcher) sendNext(w *Want) {
	now := time.Now()
	if w.isOver(now) {
		w.end(context.Canceled)
		return
	}
	if w.claim.ClassNow() == pace.Unproven {
		f.sendAlone(w, now)
		return
	}
	line := f.lineOf(w, now)
	switch {
	case line == f.paged: // whichever line it waited in: all others are closed when this one is
		f.sendPage(w.page, w.claim.Pass(), now)
	case line != w.claim.Line():
		line.Add(w.claim, func() { f.sendNext(w) })
	case line != f.single && !f.walkIsUnderWay() && f.walkPays(now, 0):
		f.walkOn(w.claim, now)
	default:
		f.sendAlone(w, now)
	}
}

// useful reports whether the list may be used.
func (f *Fetcher) useful(now time.Time) bool { return !now.Before(f.uselessUntil) }

// pagePays reports whether a page is worth a request: if several of its accounts are
// wanted, or many accounts whose pages are known were within the last minute.
func (f *Fetcher) pagePays(pg *page, now time.Time) bool {
	if pg.underWay {
		return false
	}
	known, enough := 0, 2
	if f.throttled > 0 { // requests for one account may go through
		enough = MaxSingles + 1
	}
	for w := range pg.wants {
		if w.claim.ClassNow() == pace.Known {
			if known++; known == enough {
				return true
			}
		}
	}
	return f.throttled == 0 && f.fleet.listed.count(now, f.rememberFor()) > demandFrom
}

// walkPays reports whether the walk through the list is the cheaper way to the accounts
// that are wanted and whose page is unknown, if there are that many more: whether they
// are more than the pages that are left.
func (f *Fetcher) walkPays(now time.Time, more int) bool {
	wanted, recently := f.unlisted.Len()+f.late.Len()+more, f.fleet.unlisted.count(now, f.rememberFor())
	switch {
	case !f.useful(now) || f.closed && wanted == 0:
		return false
	case f.walk == nil:
		return wanted > max(MaxSingles, f.fleet.length) || wanted > 0 && recently > max(demandFrom, f.fleet.length)
	case f.fleet.length == 0:
		return max(wanted, recently) > MaxSingles
	default:
		return max(wanted, recently, len(f.ahead)) > f.fleet.length-f.walk.fetched
	}
}

func (f *Fetcher) walkIsUnderWay() bool { return f.walk != nil && f.walk.underWay }

func (f *Fetcher) rememberFor() time.Duration { return rememberFor + f.listTime() }

// gather has requests for one account go out one by one for a moment, if nothing is
// going on.
func (f *Fetcher) gather(now time.Time) {
	if f.single.Len()+f.unlisted.Len()+f.late.Len()+len(f.singles)+len(f.running) == 0 && f.walk == nil && now.After(f.gathers) {
		f.gathers = now.Add(gatherFor)
	}
}

// The following report whether the first in a line may go.

// mayAsk is false while everything is held off. Then a request would only fail those
// who wait for it.
func (f *Fetcher) mayAsk(now time.Time) bool {
	return !now.Before(f.holdOffs.AllUntil()) && !now.Before(f.noTokenUntil)
}

func (f *Fetcher) mayAskAlone(now time.Time) bool {
	taken, most := 0, MaxSingles
	if now.Before(f.gathers) {
		most = 1
	}
	for _, since := range f.singles {
		if now.Sub(since) < slowAfter {
			taken++
		}
	}
	return f.mayAsk(now) && taken < most
}

func (f *Fetcher) mayAskUnlisted(now time.Time) bool {
	switch pays := f.walkPays(now, 0); {
	case pays && !f.walkIsUnderWay():
		return f.mayAsk(now)
	case pays && f.walk.isComing(now):
		return false
	default:
		return f.mayAskAlone(now)
	}
}

func (f *Fetcher) mayAskLate(now time.Time) bool {
	at := f.tooLate()
	return f.mayAskUnlisted(now) || !at.IsZero() && !at.After(now) && f.mayAskAlone(now)
}

// tooLate returns when those who came after the first page of the walk are asked for one
// by one, if they are few: their page may have come already.
func (f *Fetcher) tooLate() (at time.Time) {
	if f.late.Len() > MaxSingles {
		return at
	}
	for claim := range f.late.All() {
		at = sooner(at, claim.For.(*Want).Began.Add(lateAfter))
	}
	return at
}

func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// gatherAhead has w, which nobody waits for, wait for others on its page.
func (f *Fetcher) gatherAhead(w *Want) {
	if w.page == nil {
		f.ahead[w] = struct{}{}
	} else {
		w.page.by = sooner(w.page.by, w.by)
	}
	f.nextBy = sooner(f.nextBy, w.by)
}

// planner has the budget ask f what to send.
type planner struct{ *Fetcher }

// Done reports whether nothing is wanted and nothing is under way.
func (f planner) Done(now time.Time) bool {
	return len(f.wants)+len(f.running) == 0 && !f.walkIsReady(now)
}

// walkIsReady reports whether the next page of the walk is to be sent.
func (f *Fetcher) walkIsReady(now time.Time) bool {
	return f.walk != nil && !f.walk.underWay && (f.walk.stock && !f.closed || f.walkPays(now, 0))
}

// Tidy works on what concerns many wants. Those that have waited too long for a page are asked for one by one from then on.
func (f planner) Tidy(now time.Time) {
	f.tellOfHoldOff()
	f.work(now)
	if f.walk != nil && !f.walk.underWay && now.Sub(f.walk.asked) > f.rememberFor() {
		f.endWalk(false) // what it brought is forgotten by now
	}
	for pg := range f.running {
		if pg.isComing(now) || pg.stalled {
			continue
		}
		pg.stalled = true
		pg.placeAgain(now)
	}
}

// Ahead returns the next request for what nobody waits for yet.
func (f planner) Ahead(now time.Time) (send func(*pace.Claim)) {
	if !f.mayAsk(now) {
		return nil
	}
	if f.walkIsReady(now) {
		return func(slot *pace.Claim) { f.walkOn(slot, now) }
	}
	if !f.isDue(now) {
		return nil
	}
	f.nextBy, f.blocked = time.Time{}, false
	pages, most := 0, maxPagesAhead
	if now.Sub(f.pageCameAt) > uselessFor {
		most = 1 // it may not be there any more
	}
	for pg := range f.running {
		if pg.walk == nil {
			pages++
		}
	}
	for _, pg := range f.pages {
		switch {
		case pg.by.IsZero() || pg.underWay:
		case !f.useful(now):
			pg.placeAgain(now) // they are asked for one by one
		case pg.by.After(now):
			f.nextBy = sooner(f.nextBy, pg.by)
		case pages < most:
			f.blocked = true // until all was looked at
			return func(slot *pace.Claim) { f.sendPage(pg, slot.Pass(), now) }
		default:
			f.blocked = true
		}
	}
	mayWalk := f.walk == nil && f.useful(now) && len(f.ahead) > max(MaxSingles, f.fleet.length)
	mayAskAlone := !f.walkIsUnderWay() && f.mayAskAlone(now)
	if len(f.ahead) > 0 && !mayWalk && !mayAskAlone { // nothing of it can be sent, whatever is due
		f.blocked = true
		return nil
	}
	for w := range f.ahead {
		switch {
		case w.by.After(now):
			f.nextBy = sooner(f.nextBy, w.by)
			continue
		case w.isOver(now):
			send = func(*pace.Claim) { w.end(context.Canceled) }
		case mayWalk && !w.single:
			send = func(slot *pace.Claim) { f.walkOn(slot, now) }
		case mayAskAlone:
			send = func(slot *pace.Claim) { slot.PassTo(w.claim); f.sendAlone(w, now) }
		}
		f.blocked = true
		if send != nil {
			break
		}
	}
	return send
}

// isDue reports whether something that nobody waits for can wait no longer.
func (f *Fetcher) isDue(now time.Time) bool {
	return f.blocked || !f.nextBy.IsZero() && !f.nextBy.After(now)
}

// Wakes returns when something may go on without an event.
func (f planner) Wakes(now time.Time) (at time.Time, waits bool) {
	consider := func(t time.Time) {
		if t.After(now) {
			at = sooner(at, t)
		}
	}
	if len(f.tasks) > 0 {
		consider(now.Add(time.Millisecond))
	}
	consider(f.holdOffs.AllUntil())
	consider(f.noTokenUntil)
	consider(f.nextBy)
	due := f.isDue(now)
	if due || f.single.Len()+f.unlisted.Len()+f.late.Len() > 0 {
		consider(f.gathers)
		for _, since := range f.singles {
			consider(since.Add(slowAfter))
		}
	}
	for pg := range f.running {
		consider(pg.asked.Add(lateAfter))
	}
	if f.walk != nil {
		consider(f.tooLate())
	}
	return at, due || f.unproven.Len() > 0 || f.single.Len()+f.paged.Len()+f.unlisted.Len()+f.late.Len() > 0 || f.walkIsReady(now)
}
