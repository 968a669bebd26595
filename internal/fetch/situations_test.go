package fetch

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// What docs/architecture.md says of the decision what to ask for next lets a reader tell
// these, which it does not name.
func TestWhatIsAskedForNext(t *testing.T) {
	for name, tc := range map[string]struct {
		known          bool // whether all pages are, from an hour ago
		readers        func(f *fetcher)
		singles, pages int
	}{
		"30 new readers of a list of 10 pages, 3 on each page": {false, func(f *fetcher) {
			f.readAtOnce(30, 100/3)
		}, 1, 10},
		"10 readers at once, each of another known page": {true, func(f *fetcher) {
			f.readAtOnce(10, 100)
		}, 10, 0},
		"14 readers one after the other, of known pages": {true, func(f *fetcher) {
			for i := range 14 {
				f.get(id(i * 71))
			}
		}, 12, 2},
		"40 new readers, five minutes after the list was refused": {false, func(f *fetcher) {
			remove := f.sim.AddFault(pipedreamtest.Fault{Kind: list, Status: http.StatusForbidden})
			f.fetchFirstPage()
			remove()
			time.Sleep(5 * time.Minute)
			f.costs(0, 1)
			f.readAtOnce(40, 1)
		}, 40, 0},
		"a reader of the last page, who comes while a slow walk is at the second": {false, func(f *fetcher) {
			f.answersTake(list, time.Second)
			for i := range 30 {
				f.wantsAs(f.Context(), pace.Known, id(i*33), time.Time{})
			}
			time.Sleep(1500 * time.Millisecond)
			began := time.Now()
			f.get(id(999))
			require.Equal(f, lateAfter+time.Second, time.Since(began)) // and an answer
			time.Sleep(time.Minute)
		}, 2, 10},
		"a reader of one of three accounts of a page that are due in five minutes": {true, func(f *fetcher) {
			by := time.Now().Add(5 * time.Minute)
			for range 3 { // the per-minute pass says so again and again
				f.Ahead(Due{ID: id(0), NewerThan: time.Now(), By: by}, Due{ID: id(1), NewerThan: time.Now(), By: by}, Due{ID: id(2), NewerThan: time.Now(), By: by})
				time.Sleep(time.Minute)
			}
			f.get(id(1))
			f.costs(1, 0)
			f.Ahead(Due{ID: id(0), NewerThan: time.Now(), By: by}, Due{ID: id(2), NewerThan: time.Now(), By: by})
			time.Sleep(3 * time.Minute)
		}, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1000, func(_ *testing.T, f *fetcher) {
				f.answersTake(account, time.Second)
				if tc.known {
					f.takeStock()
					time.Sleep(time.Hour)
					f.costs(0, 10)
				}
				tc.readers(f)
				f.costs(tc.singles, tc.pages)
				f.isIdle()
			})
		})
	}
}

// readAtOnce has n readers want every so many accounts at the same moment, and get them.
func (f *fetcher) readAtOnce(n, every int) {
	f.Helper()
	readers := make([]*reader, n)
	for i := range readers {
		readers[i] = f.wantsAs(f.Context(), pace.Known, id(i*every), time.Time{})
	}
	for i, r := range readers {
		f.served(r, id(i*every))
	}
}
