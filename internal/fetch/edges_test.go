package fetch

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// Two ask for the same page, one after the other. The time of the later request
// must not be taken for that of the earlier one.
func TestOfTwoRequestsForAPageEachHasItsTime(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fetcher) {
		require.NoError(t, f.Prefetch(t.Context(), ""))
		f.get(id(0))
		time.Sleep(2 * time.Minute)
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, SlowBody: time.Millisecond, Times: 1})
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, Delay: 5 * time.Second, Times: 1})
		// 1. A page is asked for, answered, and on its way for more than a second.
		go func() { _ = f.Prefetch(t.Context(), "") }()
		time.Sleep(200 * time.Millisecond)
		// 2. The token is replaced. 3. Somebody finds the old one refused.
		f.sim.Rotate(id(0))
		time.Sleep(50 * time.Millisecond)
		refused := time.Now()
		// 4. The same page is asked for again. 5. Whoever was refused wants a newer token.
		time.Sleep(200 * time.Millisecond)
		go func() { _ = f.Prefetch(t.Context(), "") }()
		synctest.Wait()
		r := f.wantsAs(t.Context(), pace.Known, id(0), refused)
		// 6. The first page comes.
		f.served(r, id(0))
		var token string
		require.NoError(t, json.Unmarshal(r.account.Credentials["oauth_access_token"], &token))
		require.Equal(t, f.sim.Token(id(0)), token, "as of %s after the refusal, took %s", r.at.Sub(refused), r.took)
		time.Sleep(time.Minute)
	})
}

// An empty page at the end of a list says nothing of its use.
func TestAnEmptyLastPageMakesNoListUseless(t *testing.T) {
	bubble(t, 200, func(t *testing.T, f *fetcher) {
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, NoTotalCount: true})
		f.answersTake(account, time.Second)
		gone := f.wants("apn_gone") // for which all of the list is fetched
		f.getAll(150)
		<-gone.ended
		time.Sleep(5 * time.Minute)
		require.True(t, time.Now().After(f.list.uselessUntil))
	})
}

// A page without credentials says nothing of the others: a hundred accounts on
// Pipedream's own client, which come without, one after the other.
func TestAPageWithoutCredentialsMakesNoListUseless(t *testing.T) {
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
