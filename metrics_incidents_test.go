package pipedream

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// Six hours of a Connect project: an outage of Pipedream, a time in
// which others use up the rate limit, and accounts that die. The metrics show when each
// began and that it is over. With METRICS_OUT, the scrapes are kept: make dashboard.
func TestMetricsShowIncidents(t *testing.T) {
	t.Parallel()
	out, users := os.Getenv("METRICS_OUT"), 40
	if out != "" {
		users = 400
	}
	const (
		length = 6 * time.Hour

		outage, outageEnds     = 90 * time.Minute, 115 * time.Minute
		shortage, shortageEnds = 200 * time.Minute, 215 * time.Minute
		deaths, dead           = 260 * time.Minute, 3
	)
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("crm", map[string]any{"app": "github", "allowed_external_user_ids": "acme:*"})
		time.Sleep(7 * time.Hour)
		for i := range users {
			m.sim.SetAccount(connectAccount(accountName(i), fmt.Sprintf("acme:%d", i)))
			time.Sleep(time.Hour / time.Duration(users))
		}
		random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same hours each time
		readAfter := func(wait time.Duration, path string) {
			time.Sleep(wait)
			_, _ = m.b.HandleRequest(t.Context(), &logical.Request{
				Operation: logical.ReadOperation, Path: path, Storage: m.storage, MountPoint: "pipedream/",
			})
		}
		answer := func(f pipedreamtest.Fault) (end func()) {
			f.Delay = 120 * time.Millisecond
			return m.sim.AddFault(f)
		}
		answerNow := answer(pipedreamtest.Fault{})
		metric := func(name string, labels ...string) (sum float64) {
			for i := 0; i < len(labels); i += 2 {
				sum += m.metric(metricPrefix+name, label{labels[i], labels[i+1]})
			}
			return sum
		}
		refused := func() float64 {
			return metric("reads_total", "result", "refused_400", "result", "refused_429", "result", "refused_502")
		}

		var scrapes strings.Builder
		for minute := range length / time.Minute {
			now := minute * time.Minute
			switch now { //nolint:exhaustive // in most minutes nothing changes
			case outage:
				require.Zero(t, refused())
				answerNow()
				answerNow = answer(pipedreamtest.Fault{Status: http.StatusServiceUnavailable})
			case outageEnds:
				answerNow()
				answerNow = answer(pipedreamtest.Fault{})
				require.Positive(t, metric("reads_total", "result", "stale"))
				require.Positive(t, metric("accounts_failing", "reason", "failing"))
				require.InDelta(t, time.Now().Add(outage-outageEnds).Unix(), m.metric(metricPrefix+"last_success_timestamp_seconds"), 61)
			case shortage:
				require.Zero(t, metric("accounts_failing", "reason", "failing"))
				answerNow()
				answerNow = answer(pipedreamtest.Fault{Status: http.StatusTooManyRequests})
			case shortageEnds:
				throttled := label{"outcome", "throttled"}
				require.Positive(t, m.metric(metricPrefix+"requests_total", throttled, label{"kind", "account"})+
					m.metric(metricPrefix+"requests_total", throttled, label{"kind", "page"}))
				answerNow()
				answerNow = answer(pipedreamtest.Fault{})
			case deaths:
				require.Zero(t, metric("held_off", "scope", "mount", "scope", "account"))
				for i := range dead {
					m.sim.Update(accountName(i), func(a *pipedreamtest.Account) { a.Dead = true })
				}
			}
			atWork := 0.15 + 0.15*math.Sin(math.Pi*now.Hours()/length.Hours()) // most of them at noon
			for user := range users {
				wait := time.Duration(random.Int64N(int64(time.Minute)))
				switch {
				case user < dead: // of programs, which read them by id
					go readAfter(wait, "creds/"+accountName(user))
				case random.Float64() < atWork:
					go readAfter(wait, fmt.Sprintf("creds/crm/acme:%d", user))
				}
			}
			m.periodic()
			time.Sleep(time.Minute)
			if out == "" {
				continue
			}
			text, _ := m.metrics()
			for line := range strings.Lines(text) {
				if !strings.HasPrefix(line, "#") {
					fmt.Fprintf(&scrapes, "%s %d\n", strings.TrimSuffix(line, "\n"), time.Now().UnixMilli())
				}
			}
		}
		require.InDelta(t, dead, metric("accounts_failing", "reason", "dead"), 0)
		require.Zero(t, metric("accounts_failing", "reason", "failing"))
		require.Zero(t, m.metric(metricPrefix+"key_refused"))
		require.LessOrEqual(t, float64(m.mostPerMinute()), m.metric(metricPrefix+"budget_limit"))
		if out != "" {
			require.NoError(t, os.WriteFile(out, []byte(scrapes.String()), 0o600)) //nolint:gosec // where make dashboard says
		}
	})
}
