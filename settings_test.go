package pipedream

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A slow load of config that began before a change of it sets no rate_limit.
func TestALateLoadOfConfigChangesNoLimit(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.start()
		m.slowOnce("get", "config", time.Second)
		var old sync.WaitGroup
		old.Go(func() { m.creds(github) })
		time.Sleep(100 * time.Millisecond)
		_, err := m.write("config", map[string]any{"rate_limit": 5})
		require.NoError(t, err)
		m.creds(stripe)
		old.Wait()
		resp, err := m.read("status")
		require.NoError(t, err)
		require.LessOrEqual(t, resp.Data["budget_left"], 5)
	})
}
