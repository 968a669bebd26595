package pipedream

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestAColdFleetStaysWithinTheLimit(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 250
		for i := range fleet {
			m.sim.SetAccount(oauthAccount(accountName(i), 12*time.Hour))
		}
		var readers sync.WaitGroup
		for i := range fleet {
			readers.Go(func() {
				for {
					before := time.Now()
					_, err := m.read("creds/" + accountName(i))
					if time.Since(before) > defaultRequestTimeout {
						t.Errorf("a reader waited for %s", time.Since(before))
					}
					if err == nil {
						return
					}
					m.refused(err, http.StatusTooManyRequests, "try again in")
					time.Sleep(5 * time.Second)
				}
			})
		}
		readers.Wait()
		require.LessOrEqual(t, pipedreamtest.MostPerMinute(m.sim.Requests()), defaultRateLimit)
	})
}

func TestAConfigWriteDoesNotRefillTheBudget(t *testing.T) {
	bubble(t, func(_ *testing.T, m *mount) {
		m.configure(map[string]any{"rate_limit": 3, "verify": false})
		m.sim.SetAccount(oauthAccount("apn_third", time.Hour))
		m.sim.SetAccount(oauthAccount("apn_fourth", time.Hour))
		m.creds(github)
		m.creds(stripe)
		for _, limit := range []int{0, 3} {
			m.configure(map[string]any{"rate_limit": limit, "verify": false})
		}
		_, err := m.read("creds/apn_third")
		// The check of the key when the mount was configured counts too.
		m.refused(err, http.StatusTooManyRequests, "rate_limit", "try again in")

		time.Sleep(time.Minute)
		m.creds("apn_third")
	})
}
