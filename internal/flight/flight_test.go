package flight

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/guard"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// takesOff starts or joins a flight of that name and class.
func takesOff(f *Group[int], name string, class pace.Class, work func(*pace.Claim) (int, error)) *Flight[int] {
	started, _ := f.Start(name, pace.NewBudget(0), class, pace.Caller{Name: "somebody"}, hclog.NewNullLogger(), work)
	return started
}

func TestCallersWhoWantTheSameShareTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Group[int]
		var worked atomic.Int32
		work := func(*pace.Claim) (int, error) {
			time.Sleep(time.Second)
			return int(worked.Add(1)), nil
		}
		first, second, other := takesOff(&f, "a", pace.Known, work), takesOff(&f, "a", pace.Known, work), takesOff(&f, "b", pace.Known, work)
		require.Same(t, first, second)
		require.NotSame(t, first, other)
		<-first.landed
		<-other.landed
		require.Equal(t, 3, first.value+other.value, "1 and 2")
		again := takesOff(&f, "a", pace.Known, work)
		<-again.landed
		require.Equal(t, 3, again.value)
		require.Empty(t, f.byName)
	})
}

func TestWorkBecomesAsUrgentAsItsCallersNeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Group[int]
		classes := make(chan pace.Class, 2)
		work := func(claim *pace.Claim) (int, error) {
			classes <- claim.Class()
			time.Sleep(time.Second)
			classes <- claim.Class()
			return 0, nil
		}
		underWay := takesOff(&f, "a", pace.Ahead, work)
		synctest.Wait()
		takesOff(&f, "a", pace.Known, work)
		<-underWay.landed
		require.Equal(t, pace.Ahead, <-classes)
		require.Equal(t, pace.Known, <-classes)
	})
}

func TestAFlightThatFailsOrPanicsLands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Group[int]
		failed := errors.New("it failed")
		underWay := takesOff(&f, "a", pace.Known, func(*pace.Claim) (int, error) { return 0, failed })
		<-underWay.landed
		require.Equal(t, failed, underWay.err)
		underWay = takesOff(&f, "a", pace.Known, func(*pace.Claim) (int, error) { panic("at work") })
		<-underWay.landed
		require.ErrorIs(t, underWay.err, guard.ErrPanic)
		require.Empty(t, f.byName, "the next caller starts over")
	})
}
