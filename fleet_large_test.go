package pipedream

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// manyAccounts answers for Pipedream at little cost. The tokens of a page live for an
// hour, and are refreshed five minutes before their end. Each page has an end of its own.
type manyAccounts struct {
	n, requests int
	began       time.Time
	mu          sync.Mutex // guards requests
}

func (a *manyAccounts) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	a.requests++
	a.mu.Unlock()
	time.Sleep(60 * time.Millisecond)
	var body bytes.Buffer
	if id := strings.TrimPrefix(r.URL.Path, "/v1/accounts/"); id != r.URL.Path {
		i, _ := strconv.Atoi(strings.TrimPrefix(id, "apn_"))
		body.WriteString(`{"data":`)
		a.render(&body, i)
		body.WriteByte('}')
	} else {
		first, _ := strconv.Atoi(r.URL.Query().Get("after"))
		after := min(first+100, a.n)
		fmt.Fprintf(&body, `{"page_info":{"total_count":%d,"end_cursor":"%d"},"data":[`, a.n, after)
		for i := first; i < after; i++ {
			if i > first {
				body.WriteByte(',')
			}
			a.render(&body, i)
		}
		body.WriteString("]}")
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(&body), Request: r}, nil
}

func (a *manyAccounts) render(w io.Writer, i int) {
	phase := time.Duration(i/100) * 55 * time.Minute / time.Duration(a.n/100)
	token := (time.Since(a.began) + 5*time.Minute - phase + time.Hour) / time.Hour
	end := a.began.Add(phase + token*time.Hour)
	_, _ = fmt.Fprintf(w, `{"id":"apn_%06d","name":"Octo Cat","external_id":"user-%d","app":{"id":"app_OrkhR1","name_slug":"github","name":"GitHub","auth_type":"oauth"},`+
		`"healthy":true,"dead":null,"created_at":"2026-01-01T00:00:00.000Z","expires_at":%q,"next_refresh_at":%q,`+
		`"credentials":{"oauth_access_token":"gho_%06d_%d_0123456789abcdef0123456789abcdef","oauth_client_id":"Iv1.0123456789abcdef","oauth_uid":"%d"}}`,
		i, i, end.Format(time.RFC3339), end.Add(-5*time.Minute).Format(time.RFC3339), i, token, i)
}

// All accounts of a large mount are read every ten minutes, through three token lives. No
// read waits, and the list brings a hundred accounts with each request. LARGE_FLEET sets
// how many accounts there are.
func TestALargeMount(t *testing.T) {
	t.Parallel()
	n := 1000
	if more, err := strconv.Atoi(os.Getenv("LARGE_FLEET")); err == nil {
		n = more
	}
	synctest.Test(t, func(t *testing.T) {
		accounts := &manyAccounts{n: n, began: time.Now()}
		m := newMount(t)
		m.b.Cleanup(t.Context())
		m.b = newBackend(m.storage, accounts)
		require.NoError(t, m.b.Setup(t.Context(), &logical.BackendConfig{Logger: hclog.NewNullLogger(), System: m.system, StorageView: m.storage}))
		m.configure(map[string]any{"rate_limit": 0, "verify": false})
		m.largeReads(n, 0, 1)
		m.configure(map[string]any{"rate_limit": 400, "verify": false})
		accounts.requests = 0
		for minute := range 180 {
			before := time.Now()
			m.largeReads(n, minute%10, 10)
			require.Zero(t, time.Since(before), "a reader waited in minute %d", minute)
			m.periodic()
			time.Sleep(time.Minute)
		}
		t.Logf("%d accounts: %d requests in an hour, %s", n, accounts.requests/3, memoryInUse())
		require.LessOrEqual(t, accounts.requests/3, n/100*11/10+10)
	})
}

// largeReads reads every so many accounts, from the first on.
func (m *mount) largeReads(n, first, every int) {
	m.Helper()
	var readers sync.WaitGroup
	places := make(chan struct{}, 1000)
	for i := first; i < n; i += every {
		places <- struct{}{}
		readers.Go(func() {
			defer func() { <-places }()
			_, err := m.b.HandleRequest(m.Context(), &logical.Request{
				Operation: logical.ReadOperation, Path: fmt.Sprintf("creds/apn_%06d", i), Storage: m.storage, MountPoint: "pipedream/",
			})
			if err != nil {
				m.Errorf("%d: %v", i, err)
			}
		})
	}
	readers.Wait()
}

// memoryInUse returns what this process takes, in words.
func memoryInUse() string {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	text := fmt.Sprintf("%d MB of heap", stats.HeapAlloc>>20)
	status, err := os.Open("/proc/self/status")
	if err != nil {
		return text
	}
	defer func() { _ = status.Close() }()
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if name, value, _ := strings.Cut(lines.Text(), ":"); name == "VmHWM" {
			return text + ", process " + strings.Join(strings.Fields(value), " ") + " at the most"
		}
	}
	return text
}
