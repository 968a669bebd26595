package pipedream

import (
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// systemViewAge bounds how long a change of what systemView remembers may go
// unnoticed. Until then Vault itself caps a lease at a new max-lease-ttl, with a
// warning, and refuses what a standby must not write.
const systemViewAge = time.Second

// systemView remembers for a moment what is asked on every request: in a plugin
// each answer is a round trip between two processes.
type systemView struct {
	logical.SystemView

	maxLeaseTTL      remembered[time.Duration]
	replicationState remembered[consts.ReplicationState]
}

// MaxLeaseTTL is the mount's, 0 if it is not known.
func (s *systemView) MaxLeaseTTL() time.Duration {
	return s.maxLeaseTTL.get(s.SystemView.MaxLeaseTTL)
}

func (s *systemView) ReplicationState() consts.ReplicationState {
	return s.replicationState.get(s.SystemView.ReplicationState)
}

// remembered is a value that is asked for anew after systemViewAge. Its zero
// value is ready for use.
type remembered[T any] struct {
	latest atomic.Pointer[answer[T]]
}

type answer[T any] struct {
	value T
	until time.Time
}

func (r *remembered[T]) get(ask func() T) T {
	now := time.Now()
	if a := r.latest.Load(); a != nil && now.Before(a.until) {
		return a.value
	}
	value := ask()
	r.latest.Store(&answer[T]{value: value, until: now.Add(systemViewAge)})
	return value
}
