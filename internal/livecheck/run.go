package livecheck

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// Run looks at everything and returns the report. It returns early, with what was seen until then, if ctx ends.
func Run(ctx context.Context, c Config) *Report {
	a, n := newAsker(ctx, &c), newNames()
	r := &Report{Program: "pipedream-check " + c.Version, Format: reportFormat, Key: "API key", Real: c.BaseURL.String() == DefaultBaseURL}
	if c.ClientID != "" {
		r.Key = "OAuth client"
	}
	l := &look{asker: a, names: n}
	r.add(l, "", tokenFacts, userFacts)
	for _, at := range c.places() {
		r.Places = append(r.Places, at.name())
		r.lookAt(&look{asker: a, names: n, at: at})
	}
	r.add(l, "", answerFacts, limitFacts)
	r.Requests = len(a.answers)
	r.Day = time.Now().UTC().Format(time.DateOnly)
	r.Interrupted = a.stopped == interrupted
	for _, result := range r.Results {
		if result.Verdict == NotHandled {
			r.NotHandled = append(r.NotHandled, result.Name)
		}
	}
	slices.Sort(r.NotHandled)
	r.NotHandled = slices.Compact(r.NotHandled)
	return r
}

// lookAt looks at all facts of a place, and leaves nothing behind there.
func (r *Report) lookAt(l *look) {
	defer func() {
		if !l.remove() {
			r.Left = true
		}
	}()
	r.add(l, l.at.name(), listFacts, filterFacts, accountFacts, lifeFacts, fieldFacts, errorFacts, scopeFacts, engineFacts, writeFacts)
}

// add looks at facts, and adds what was seen.
func (r *Report) add(l *look, where string, tables ...[]fact) {
	for _, table := range tables {
		for i := range table {
			f := &table[i]
			if l.stopped == "" && l.ctx.Err() != nil {
				l.stop(interrupted)
			}
			s := l.see(f)
			if len(s.forms) == 0 {
				s.why = cmp.Or(l.stopped, s.why)
			}
			r.Results = append(r.Results, f.judge(where, s))
		}
	}
}

// see runs the look of a fact. A panic ends that look alone, and its text, which may have anything in it, is dropped.
func (l *look) see(f *fact) (s seen) {
	defer func() {
		if recover() != nil {
			s = unseen("a mistake of this program: please report it")
		}
	}()
	return f.look(l)
}
