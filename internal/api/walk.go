package api

// Walk goes through a list page by page and knows when it is complete. Its zero
// value is before the first page.
//
// Pipedream's last page has a cursor like any other, and the page behind that
// is empty. So a list is complete once as many accounts came as it says that it
// has, or a page has fewer than were asked for. A cursor that came before ends
// it too, else the list would never end.
type Walk struct {
	after   string
	done    bool
	looped  bool // a cursor came again
	seen    int
	total   int // as the last page said; 0 if it did not
	cursors map[string]struct{}
}

// After is the cursor that the next page is asked for with.
func (w *Walk) After() string { return w.after }

// Done tells whether the list is complete.
func (w *Walk) Done() bool { return w.done }

// Note takes the next page into account.
func (w *Walk) Note(p *Page) {
	if w.cursors == nil {
		w.cursors = map[string]struct{}{}
	}
	w.seen += p.Count
	w.total = p.Total
	w.cursors[w.after] = struct{}{}
	_, before := w.cursors[p.Next]
	w.looped = before && p.Next != ""
	w.done = p.Next == "" || w.looped || p.Count < PageLimit || p.Total > 0 && w.seen >= p.Total
	w.after = p.Next
}

// Whole tells whether nothing of the list can be missing.
func (w *Walk) Whole() bool { return w.done && w.seen >= w.total && (!w.looped || w.total > 0) }
