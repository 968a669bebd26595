package pace

import (
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// maxCallers bounds the memory that a quota takes. The caller who was away
// longest is forgotten first.
const maxCallers = 10_000

// Quota limits how often each caller, and each of a caller's users, may do something in
// any minute.
type Quota struct {
	most int

	mu    sync.Mutex // guards the read-modify-write of times; never held across I/O
	times *lru.Cache[Caller, []time.Time]
}

// NewQuota returns a quota that each caller may use most times in any minute.
func NewQuota(most int) *Quota {
	times, err := lru.New[Caller, []time.Time](maxCallers)
	if err != nil { // only for a size below 1
		panic(err)
	}
	return &Quota{most: most, times: times}
}

// Take uses the quota of caller once and returns 0. If it is used up, Take
// returns how long to wait.
func (q *Quota) Take(caller Caller) (wait time.Duration) {
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
