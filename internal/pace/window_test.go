package pace

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// sent is a request that went out. Pipedream counted it some time between out and
// end.
type sent struct {
	class    Class
	out, end time.Time
}

// traffic is what went out under random load.
type traffic struct {
	mu   sync.Mutex // guards all
	all  []sent
	lost int // how many requests got no slot
}

// request acquires a slot for a request of that class, and holds it for as long as
// the request takes.
func (r *traffic) request(ctx context.Context, b *Budget, claim *Claim, takes time.Duration) {
	release, err := b.Acquire(claim.With(ctx))
	if err != nil {
		r.mu.Lock()
		r.lost++
		r.mu.Unlock()
		return
	}
	out := time.Now()
	time.Sleep(takes)
	end := time.Now()
	release()
	// Somebody may have joined the claim, which changes its class.
	r.add(sent{claim.Class(), out, end})
}

// most returns the largest number of requests that could be counted within one
// minute, wherever that minute begins and whenever each was counted while it was
// under way.
func (r *traffic) most(of func(sent) bool) (most int) {
	for _, first := range r.all {
		within := 0
		for _, s := range r.all {
			// Counted at the latest after the minute begins, and at the earliest before it ends.
			if of(s) && !s.end.Before(first.end) && s.out.Before(first.end.Add(Window)) {
				within++
			}
		}
		most = max(most, within)
	}
	return most
}

// No minute sees more requests than the limit, nor more of a class than its share,
// however requests come, wait, are joined, end and give up.
func TestNoMinuteSeesMoreThanTheLimit(t *testing.T) {
	for _, limit := range []int{1, 2, 3, 5, 19, 20, 50} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("limit %d, seed %d", limit, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := NewBudget(limit)
					r := underLoad(t, b, limit, rand.New(rand.NewPCG(seed, uint64(limit)))) //nolint:gosec // a test repeats itself
					require.LessOrEqual(t, r.most(func(sent) bool { return true }), limit)
					require.GreaterOrEqual(t, len(r.all), 7*limit, "hardly anything went out")
					if limit > 2 {
						require.NotZero(t, r.lost, "the load was too small")
					}
					require.LessOrEqual(t, r.most(func(s sent) bool { return s.class == Unproven }), max(1, limit/2), "unproven")
					time.Sleep(Window)
					require.Equal(t, limit, b.Left(), "each slot comes free in the end")
				})
			})
		}
	}
}

// underLoad sends three times as much as the limit allows for ten minutes.
func underLoad(t *testing.T, b *Budget, limit int, random *rand.Rand) *traffic {
	t.Helper()
	r := &traffic{}
	var group sync.WaitGroup
	var open []*Claim // that others may join
	for range 30 * limit {
		class := Class(random.IntN(int(Check) + 1))
		claim := b.NewClaim(class, by(strconv.Itoa(random.IntN(4))))
		if class != Check { // nobody joins those
			open = append(open, claim)
		}
		within, takes := time.Duration(random.Int64N(int64(2*Window))), time.Duration(random.Int64N(int64(20*time.Second)))
		givesUp := random.IntN(4) == 0
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			if givesUp {
				time.AfterFunc(within/4, cancel)
			}
			r.request(ctx, b, claim, takes)
		})
		if random.IntN(5) == 0 && len(open) > 0 {
			open[random.IntN(len(open))].Join(Known, by("another"))
		}
		if random.IntN(5) == 0 {
			if release, ok := b.TryAcquire(); ok { // as for a request that net/http repeats
				out := time.Now()
				r.add(sent{Known, out, out})
				release()
			}
		}
		if random.IntN(10) == 0 {
			reserved := b.NewClaim(Known, by(""))
			if reserved.Reserve(t.Context()) == nil {
				reserved.Refund()
			}
		}
		time.Sleep(time.Duration(random.Int64N(int64(2 * 10 * time.Minute / time.Duration(30*limit)))))
	}
	group.Wait()
	return r
}

func (r *traffic) add(s sent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, s)
}

func TestASlotComesFreeAMinuteAfterItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1)
		release, err := b.Acquire(t.Context())
		require.NoError(t, err)
		time.Sleep(10 * time.Minute) // however long it is under way
		require.Zero(t, b.Left())
		require.Equal(t, Window, b.NextFree())
		release()
		release() // once is enough
		time.Sleep(Window - time.Nanosecond)
		require.Zero(t, b.Left())
		require.Equal(t, time.Duration(1), b.NextFree())
		time.Sleep(time.Nanosecond)
		require.Equal(t, 1, b.Left())
		require.Zero(t, b.NextFree())
	})
}

func TestANewLimitKeepsTheRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(10)
		use := func(n int) {
			for range n {
				release, err := b.Acquire(t.Context())
				require.NoError(t, err)
				release()
			}
		}
		use(10)
		b.SetLimit(15)
		require.Equal(t, 15, b.Limit())
		require.Equal(t, 5, b.Left())
		use(5)
		b.SetLimit(5)
		require.Zero(t, b.Left(), "more than the new limit is used")
		_, err := b.Acquire(t.Context())
		var refused *NoBudgetError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, Window, refused.Wait)
		require.EqualError(t, err, "the budget of requests is used up for another 1m0s")
		b.SetLimit(0)
		use(1000)
		b.SetLimit(2000)
		require.Equal(t, 2000-1015, b.Left())
		time.Sleep(Window)
		require.Equal(t, 2000, b.Left())
	})
}

func TestAHigherLimitServesWaiters(t *testing.T) {
	for _, limit := range []int{4, 0} {
		synctest.Test(t, func(t *testing.T) {
			b := NewBudget(1)
			hold := mustAcquire(t, b, Known, "")
			defer hold()
			known, unproven := waits(t, b, Known, ""), waits(t, b, Unproven, "somebody")
			require.False(t, known.served() || unproven.served())
			b.SetLimit(limit)
			require.True(t, known.served())
			require.True(t, unproven.served())
		})
	}
}

func TestPagesTheBudgetAllows(t *testing.T) {
	b := NewBudget(100)
	require.Equal(t, 80, b.Pages(Ahead, time.Minute))
	require.Equal(t, 75, b.Pages(Listing, time.Second))
	require.Equal(t, 160, b.Pages(Ahead, time.Minute+1))
	require.Equal(t, 1, NewBudget(1).Pages(Listing, time.Minute))
	require.Equal(t, -1, NewBudget(0).Pages(Ahead, time.Minute))
}
