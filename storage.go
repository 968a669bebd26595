package pipedream

import (
	"context"
	"errors"
	"net/http"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/cache"
)

const (
	// writeTimeout bounds how long a write of config or a role waits for storage.
	writeTimeout = 2 * time.Minute
	// probeTimeout bounds how long the per-minute pass waits for its own write.
	probeTimeout = 5 * time.Second
	// probeKey is a key that nothing reads. The sweeps delete it, like every folder of
	// cache/ that is not the cache's own.
	probeKey = cache.Prefix + "probe/write"
)

// storageWrites knows how the last write to the mount's storage ended.
type storageWrites struct {
	last   atomic.Pointer[written] // nil until something was written
	logger func() hclog.Logger
}

// written is how a write ended.
type written struct{ err error }

var errStorageTimeout = errors.New("a write to Vault's storage did not end in time")

// failure returns the error of the last write; nil if it succeeded, or if there was
// none.
func (w *storageWrites) failure() error {
	if last := w.last.Load(); last != nil {
		return last.err
	}
	return nil
}

// note records how a write ended. One that its caller gave up tells nothing about
// storage. Neither does one on a performance standby, which Vault forwards.
//
// The text of an error can contain the key, and so the id of an account, which is
// nothing for those who read status.
func (w *storageWrites) note(ctx context.Context, key string, err error) {
	switch {
	case err == nil:
	case errors.Is(ctx.Err(), context.Canceled), hasText(err, logical.ErrReadOnly):
		return
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = errStorageTimeout
	}
	if err != nil {
		err = withoutKey(err, key)
	}
	before := w.last.Swap(&written{err})
	if err != nil && (before == nil || before.err == nil) {
		w.logger().Error("the mount's storage cannot be written to", "error", storageText(err))
	}
}

// withoutKey returns err with a placeholder for the id of an account that key ends in.
func withoutKey(err error, key string) error {
	name := path.Base(key)
	if !api.ValidAccountID(name) || !strings.Contains(err.Error(), name) {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), name, "<account_id>"))
}

// probe makes a small write to storage, unless the last write is known to have
// succeeded. So status tells the truth on a mount that has nothing to write, and
// learns that storage is back.
func (w *storageWrites) probe(ctx context.Context, storage logical.Storage) {
	if last := w.last.Load(); last != nil && last.err == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_ = w.watch(storage).Put(ctx, &logical.StorageEntry{Key: probeKey, Value: []byte("{}")}) // its error is noted
}

// watch returns storage whose writes are noted.
func (w *storageWrites) watch(storage logical.Storage) logical.Storage {
	return &watchedStorage{Storage: storage, writes: w}
}

// watchedStorage is storage whose writes are noted.
type watchedStorage struct {
	logical.Storage

	writes *storageWrites
}

// Put is that of [logical.Storage].
func (s *watchedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	err := s.Storage.Put(ctx, entry)
	s.writes.note(ctx, entry.Key, err)
	return err
}

// Delete is that of [logical.Storage].
func (s *watchedStorage) Delete(ctx context.Context, key string) error {
	err := s.Storage.Delete(ctx, key)
	s.writes.note(ctx, key, err)
	return err
}

// toTheEnd writes to storage even if the client goes away meanwhile. Vault may store
// the change in that case too, and memory must learn of it.
func (w *storageWrites) toTheEnd(ctx context.Context, req *logical.Request, write func(context.Context, logical.Storage) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	err := write(ctx, w.watch(req.Storage))
	if hasText(err, logical.ErrSetupReadOnly) {
		return logical.CodedError(http.StatusInternalServerError, "nothing was changed: "+storageText(err))
	}
	return err // as it is: Vault forwards a request that failed with ErrReadOnly
}

// storageText says what is wrong with storage, and the way out if there is one.
func storageText(err error) string {
	switch {
	case hasText(err, logical.ErrSetupReadOnly):
		// Vault marks the storage of a mount as read-only while it sets the mount up. If
		// the plugin cannot be started then, the mark stays for as long as the server is
		// active, even after a reload (setupMounts in vault/mount.go).
		return "Vault does not let this mount write to its storage, because the plugin could not be started when this server became active. " +
			"To end that, run: " + cli + " operator step-down (or restart the server)"
	case errors.Is(err, errStorageTimeout):
		return err.Error()
	default:
		return "Vault's storage refused a write: " + err.Error()
	}
}

// hasText reports whether err is known, by its text: the plugin's gRPC keeps nothing
// else of an error.
func hasText(err, known error) bool {
	return err != nil && strings.Contains(err.Error(), known.Error())
}
