package livecheck

import (
	"cmp"
	"slices"
)

// Form is one way in which Pipedream can behave. All forms are texts of this package.
type Form string

// Verdict says how what was seen compares with what the engine was built on.
type Verdict string

// These are the verdicts.
const (
	// AsExpected: only what is documented was seen.
	AsExpected Verdict = "as expected"
	// Different: something else was seen, and the engine handles it.
	Different Verdict = "different"
	// NotHandled: something was seen that the engine does not handle.
	NotHandled Verdict = "not handled"
	// Learned: no documentation says how this is.
	Learned Verdict = "learned"
	// NotSeen: there was nothing to see.
	NotSeen Verdict = "not seen"
)

// fact is one thing that the engine, or its documentation, takes for granted about Pipedream.
type fact struct {
	name     string
	says     string
	expected []Form
	handled  []Form // other forms that the engine handles. It handles no form that is in neither list.
	open     bool   // no documentation says which of the forms it is
	look     func(*look) seen
}

// seen is what a look saw.
type seen struct {
	forms   []Form         // empty if there was nothing to see
	why     Form           // why there was not
	numbers map[string]int // what goes with the forms
}

// as returns what was seen in one form.
func as(form Form) seen { return seen{forms: []Form{form}} }

// with adds a number.
func (s seen) with(name string, n int) seen {
	if s.numbers == nil {
		s.numbers = map[string]int{}
	}
	s.numbers[name] = n
	return s
}

// unseen returns that there was nothing to see.
func unseen(why Form) seen { return seen{why: why} }

// add adds a form once.
func (s *seen) add(form Form) {
	if form != "" && !slices.Contains(s.forms, form) {
		s.forms = append(s.forms, form)
	}
}

// or returns s, or why there was nothing to see.
func (s seen) or(why Form) seen {
	if len(s.forms) == 0 {
		s.why = cmp.Or(s.why, why)
	}
	return s
}

// judge returns the result for a fact at a place.
func (f *fact) judge(where string, s seen) Result {
	r := Result{Name: f.name, Where: where, Fact: f.says, Expected: f.expected, Seen: s.forms, Numbers: s.numbers, Why: s.why}
	slices.Sort(r.Seen)
	for _, form := range s.forms {
		if !slices.Contains(f.expected, form) && !slices.Contains(f.handled, form) {
			r.Unhandled = append(r.Unhandled, form)
		}
	}
	switch {
	case len(s.forms) == 0:
		r.Verdict = NotSeen
	case len(r.Unhandled) > 0:
		r.Verdict = NotHandled
	case f.open:
		r.Verdict = Learned
	case slices.ContainsFunc(s.forms, func(form Form) bool { return !slices.Contains(f.expected, form) }):
		r.Verdict = Different
	default:
		r.Verdict = AsExpected
	}
	return r
}
