package fetch

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// An empty page at the end of a list does not make the list useless.
func TestAnEmptyLastPageDoesNotMakeTheListUseless(t *testing.T) {
	bubble(t, 200, func(t *testing.T, f *fetcher) {
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, NoTotalCount: true})
		f.answersTake(account, time.Second)
		gone := f.wants("apn_gone") // makes the fetch go on to the end of the list
		f.getAll(150)
		<-gone.ended
		time.Sleep(5 * time.Minute)
		require.True(t, f.ListWorks())
	})
}

// A page without credentials says nothing about other pages. Here a hundred accounts
// in a row use Pipedream's own client, and come without credentials.
func TestAPageWithoutCredentialsDoesNotMakeTheListUseless(t *testing.T) {
	bubble(t, 400, func(t *testing.T, f *fetcher) {
		for i := range 100 {
			f.sim.Update(id(i), func(a *pipedreamtest.Account) { a.NoCredentials = true })
		}
		f.answersTake(account, time.Second)
		var readers []*reader
		for i := 100; i < 400; i++ {
			readers = append(readers, f.wants(id(i)))
		}
		for i, r := range readers {
			f.served(r, id(100+i))
		}
		require.Less(t, f.sim.Count(account), 100)
	})
}

// A page that fails says nothing about which accounts exist.
func TestAPageThatFailsForgetsNoAccount(t *testing.T) {
	bubble(t, 100, func(t *testing.T, f *fetcher) {
		f.fetchFirstPage()
		time.Sleep(5 * time.Minute)
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, Status: http.StatusBadRequest, Delay: time.Second, Times: 1})
		f.fetchFirstPage()
		f.get(id(0))
		time.Sleep(time.Minute)
		_, known := f.page(id(0))
		require.True(t, known)
		f.isIdle()
	})
}

// Readers need not wait for a list that is fetched for others: they are asked for by
// themselves at once.
func TestReadersDoNotWaitForAListOfOthers(t *testing.T) {
	for name, begin := range map[string]func(*fetcher){
		"ahead of readers":     func(f *fetcher) { f.listWanted(90) },
		"to learn what exists": func(f *fetcher) { f.takeStock() },
	} {
		for _, n := range []int{1, 8, 9, 20} {
			t.Run(fmt.Sprintf("%s, %d readers", name, n), func(t *testing.T) {
				bubble(t, 6000, func(t *testing.T, f *fetcher) {
					f.answersTake(account, 100*time.Millisecond)
					f.answersTake(list, 500*time.Millisecond)
					f.budget.SetLimit(100)
					begin(f)
					for _, wait := range []time.Duration{100 * time.Millisecond, 1600 * time.Millisecond} {
						time.Sleep(wait)
						var readers []*reader
						for i := range n {
							readers = append(readers, f.wantsAs(t.Context(), pace.Known, id(5900+int(wait/time.Second)*50+i), time.Time{}))
						}
						for i, r := range readers {
							f.served(r, id(5900+int(wait/time.Second)*50+i))
							require.LessOrEqual(t, r.took, 5*time.Second)
						}
					}
					time.Sleep(5 * time.Minute)
				})
			})
		}
	}
}
