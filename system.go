package pipedream

import (
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// systemViewAge is how long systemView remembers an answer, and so how long a change
// may go unnoticed. Until then, Vault itself caps leases at a new max-lease-ttl, with
// a warning, and refuses writes that a standby must not make.
const systemViewAge = time.Second

// systemView remembers for a moment what every request asks Vault. In a plugin, each
// answer is a round trip between two processes.
type systemView struct {
	logical.SystemView

	maxLeaseTTL      remembered[time.Duration]
	replicationState remembered[consts.ReplicationState]
}

// MaxLeaseTTL returns the longest lease of the mount; 0 if it is not known.
func (s *systemView) MaxLeaseTTL() time.Duration {
	return s.maxLeaseTTL.get(s.SystemView.MaxLeaseTTL)
}

// ReplicationState returns the replication state of the node.
func (s *systemView) ReplicationState() consts.ReplicationState {
	return s.replicationState.get(s.SystemView.ReplicationState)
}

// remembered is an answer that is asked for again after systemViewAge. The zero
// value is ready to use.
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
