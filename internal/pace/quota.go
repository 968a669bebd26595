package pace

import (
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// maxCallers bounds the memory that a quota takes. Whoever was longest away is
// forgotten first.
const maxCallers = 10_000

// Quota lets each caller do something a few times in any minute.
type Quota struct {
	most int

	mu    sync.Mutex // guards the read-modify-write of times; never held across I/O
	times *lru.Cache[string, []time.Time]
}

// NewQuota returns a quota of so many times in any minute for each caller.
func NewQuota(most int) *Quota {
	times, err := lru.New[string, []time.Time](maxCallers)
	if err != nil { // only for a size below 1
		panic(err)
	}
	return &Quota{most: most, times: times}
}

// Take counts once more for caller, unless that would be too often: then it
// returns how long to wait.
func (q *Quota) Take(caller string) (wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	times, _ := q.times.Get(caller)
	times = slices.DeleteFunc(times, func(t time.Time) bool { return now.Sub(t) >= Window })
	if len(times) >= q.most {
		wait = times[0].Add(Window).Sub(now)
	} else {
		times = append(times, now)
	}
	q.times.Add(caller, times)
	return wait
}
