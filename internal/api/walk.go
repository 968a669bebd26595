package api

// Walk goes through a list page by page and knows when the list ends. The zero
// value is before the first page.
//
// Pipedream's last page has a cursor like any other, and the page after it is
// empty. So a list ends once as many accounts came as it says that it has, which
// saves that page. How many are on a page says nothing: Pipedream may cap the limit
// or filter a page afterwards. A list that does not say how many accounts it has ends
// without a cursor. A cursor that came before ends every list, because it would never
// end otherwise.
type Walk struct {
	after   string
	done    bool
	looped  bool // whether a cursor came again
	seen    int
	total   int // as the last page said; 0 if it did not
	cursors map[string]struct{}
}

// After returns the cursor for the next page.
func (w *Walk) After() string { return w.after }

// Done reports whether the list has ended.
func (w *Walk) Done() bool { return w.done }

// Note records the next page.
func (w *Walk) Note(p *Page) {
	if w.cursors == nil {
		w.cursors = map[string]struct{}{}
	}
	w.seen += p.Count
	w.total = p.Total
	w.cursors[w.after] = struct{}{}
	_, before := w.cursors[p.Next]
	w.looped = before && p.Next != ""
	w.done = p.Next == "" || w.looped || p.Total > 0 && w.seen >= p.Total
	w.after = p.Next
}

// Whole reports whether the list has ended and nothing of it can be missing.
func (w *Walk) Whole() bool { return w.done && w.seen >= w.total && (!w.looped || w.total > 0) }
