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

// The same page is asked for twice, one after the other. The first answer must not
// get the time of the second request.
func TestTwoRequestsForAPageEachHaveTheirTime(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fetcher) {
		require.NoError(t, f.Prefetch(t.Context(), ""))
		f.get(id(0))
		time.Sleep(2 * time.Minute)
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, SlowBody: time.Millisecond, Times: 1})
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, Delay: 5 * time.Second, Times: 1})
		// 1. A page is asked for and answered. Its body takes more than a second.
		go func() { _ = f.Prefetch(t.Context(), "") }()
		time.Sleep(200 * time.Millisecond)
		// 2. The token is replaced. 3. A reader finds that the old one is refused.
		f.sim.Rotate(id(0))
		time.Sleep(50 * time.Millisecond)
		refused := time.Now()
		// 4. The same page is asked for again. 5. That reader wants a newer token.
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

// An empty page at the end of a list does not make the list useless.
func TestAnEmptyLastPageDoesNotMakeTheListUseless(t *testing.T) {
	bubble(t, 200, func(t *testing.T, f *fetcher) {
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, NoTotalCount: true})
		f.answersTake(account, time.Second)
		gone := f.wants("apn_gone") // makes the fetch go on to the end of the list
		f.getAll(150)
		<-gone.ended
		time.Sleep(5 * time.Minute)
		require.True(t, time.Now().After(f.list.uselessUntil))
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
