package pipedream

import (
	"context"
	"net/http"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"
)

const rolePrefix = "role/"

// roleStore keeps roles that were read in memory.
type roleStore struct {
	// writes makes writers of roles wait for each other. Readers never take it.
	writes sync.Mutex

	mu    sync.RWMutex // guards the fields below; never held across I/O
	epoch int
	known map[string]*role
}

func newRoleStore() *roleStore { return &roleStore{known: map[string]*role{}} }

// get returns a role; nil if there is none of that name.
func (r *roleStore) get(ctx context.Context, storage logical.Storage, name string) (*role, error) {
	r.mu.RLock()
	found, epoch := r.known[name], r.epoch
	r.mu.RUnlock()
	if found != nil {
		return found, nil
	}
	found, err := readRole(ctx, storage, name)
	if err != nil || found == nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.epoch == epoch { // otherwise it may have changed since it was read
		r.known[name] = found
	}
	return found, nil
}

// forget drops a role from memory.
func (r *roleStore) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch++
	delete(r.known, name)
}

// errBadRole replaces the error of the decoder, which may quote what it read.
var errBadRole = logical.CodedError(http.StatusInternalServerError, "the stored role cannot be read; write it again")

func readRole(ctx context.Context, storage logical.Storage, name string) (*role, error) {
	entry, err := storage.Get(ctx, rolePrefix+name)
	if err != nil || entry == nil {
		return nil, err
	}
	var r role
	if entry.DecodeJSON(&r) != nil {
		return nil, errBadRole
	}
	return &r, nil
}
