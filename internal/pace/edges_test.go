package pace

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Work for two callers, one of whom has as many in the queue as one may have,
// waits in the other's turn, or else leaves nothing behind.
func TestWorkOfTwoCallersOneOfWhomHasTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(10)
		for range 5 { // all that unproven requests may have
			mustAcquire(t, b, Unproven, "greedy")()
		}
		for range 5 { // and as many as one caller may have in the queue
			passes(t, b, Unproven, "greedy")
		}
		claim := b.NewClaim(Unproven, "modest")
		claim.Join(Unproven, "greedy")
		refused := waitsAs(t, b, claim, 10*time.Second)
		<-refused.ended
		t.Log(refused.err)
		time.Sleep(time.Hour)
		require.Equal(t, 10, b.Left(), "a slot was given to nobody")
	})
}

func TestACheckThatIsJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1)
		hold := mustAcquire(t, b, Known, "")
		check := waits(t, b, Check, "")
		check.claim.Join(Known, "")
		hold()
		time.Sleep(Window)
		require.True(t, check.served())
		check.release()
		time.Sleep(10 * Window)
		require.Equal(t, 1, b.Left())
	})
}
