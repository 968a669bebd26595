package pipedream

import (
	"context"
	"maps"
	"os"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// clockPath has how far the clocks of servers are ahead of Pipedream's, so that a
	// restart while Pipedream cannot be reached judges tokens rightly. It is local: every
	// cluster has its own servers.
	clockPath = "clock"
	// maxClocks bounds how many servers it has.
	maxClocks = 32
)

// storedClocks is what storage has at clockPath.
type storedClocks struct {
	// Ahead is in whole seconds, by the name of the host. Hosts whose clock is right are
	// not in it.
	Ahead map[string]int64 `json:"ahead"`
}

func readClocks(ctx context.Context, storage logical.Storage) (*storedClocks, error) {
	clocks := &storedClocks{}
	entry, err := storage.Get(ctx, clockPath)
	if err != nil {
		return nil, err
	}
	if entry == nil || entry.DecodeJSON(clocks) != nil || clocks.Ahead == nil {
		clocks.Ahead = map[string]int64{} // it is learned again
	}
	return clocks, nil
}

// serverName names this server. Servers of a cluster can have different clocks.
func serverName() string {
	name, _ := os.Hostname()
	return name
}

// restoreClock takes over what was known about this server's clock before a restart.
// Nothing can be served if storage cannot tell it, because nobody knows what has ended.
func (b *backend) restoreClock(ctx context.Context, storage logical.Storage) error {
	if _, known := b.clock.Ahead(); known {
		return nil
	}
	clocks, err := readClocks(ctx, storage)
	if err != nil {
		b.Logger().Warn("how far this server's clock is ahead of Pipedream's could not be read from storage", "error", err)
		return err
	}
	if ahead, ok := clocks.Ahead[serverName()]; ok {
		b.clock.Restore(time.Duration(ahead) * time.Second)
		b.storedAhead.Store(ahead)
	} else if len(clocks.Ahead) > 0 { // another server's was wrong, and what it stored by it may be, too
		b.clock.Suspect()
	}
	return nil
}

// storeClock stores how far this server's clock is ahead of Pipedream's, if that has
// changed. The pass calls it, so that is once a minute at most. If it fails, the next
// pass tries again.
func (b *backend) storeClock(ctx context.Context, storage logical.Storage) {
	known, _ := b.clock.Ahead()
	ahead := int64(known / time.Second)
	if b.storedAhead.Load() == ahead {
		return
	}
	clocks, err := readClocks(ctx, storage)
	if err != nil {
		return
	}
	delete(clocks.Ahead, serverName())
	for name := range maps.Keys(clocks.Ahead) {
		if len(clocks.Ahead) >= maxClocks {
			delete(clocks.Ahead, name)
		}
	}
	if ahead != 0 {
		clocks.Ahead[serverName()] = ahead
	}
	entry, err := logical.StorageEntryJSON(clockPath, clocks)
	if err == nil && b.writes.watch(storage).Put(ctx, entry) == nil {
		b.storedAhead.Store(ahead)
	}
}
