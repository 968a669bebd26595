package api

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// net/http repeats no request that the budget has no slot for.
func TestNothingIsRepeatedWithoutASlot(t *testing.T) {
	for range 1000 { // it must not depend on luck
		synctest.Test(t, func(t *testing.T) {
			sim := pipedreamtest.New()
			defer sim.Close()
			fleet(sim, 1)
			c := newClient(t, sim.Transport(), nil)
			defer c.Close()
			c.budget.SetLimit(2)
			_, err := c.Account(patient(t), "apn_0000")
			require.NoError(t, err)
			sim.AddFault(pipedreamtest.Fault{Cut: true, Times: 1})
			_, err = c.Account(patient(t), "apn_0000")
			e := isError(t, err, NoBudget, "the mount's budget of requests is used up")
			require.Positive(t, e.Wait)
			synctest.Wait()
			require.Equal(t, 2, sim.Count(""), "it reached Pipedream all the same")
			require.Equal(t, 2, c.counts.requests())
		})
	}
}

func TestAPageWithoutAListIsRefused(t *testing.T) {
	for body, why := range map[string]string{
		`{"data":null}`: "it is not the JSON that was expected",
		`{"error":"half of us is down","data":null}`: "an error stands in place of what was asked for",
	} {
		_, err := page(t, body)
		isError(t, err, BadAnswer, "Pipedream's answer could not be understood: "+why)
	}
}

func TestALoopOfCursorsIsNotWhole(t *testing.T) {
	var walk Walk
	walk.Note(&Page{Count: 100, Next: "a"})
	walk.Note(&Page{Count: 100, Next: "a"})
	require.True(t, walk.Done())
	require.False(t, walk.Whole(), "there may be more")
}
