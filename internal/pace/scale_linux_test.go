package pace_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/fetch"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// cheap answers for Pipedream at little cost. Its list has that many accounts.
type cheap struct {
	accounts int
	refused  bool // whether the list is
	breaks   int  // the list is refused from that account on
	delay    time.Duration
}

func (c cheap) RoundTrip(r *http.Request) (*http.Response, error) {
	time.Sleep(c.delay)
	account := func(i int) string {
		return fmt.Sprintf(`{"id":"apn_%d","app":{"id":"app_1","name_slug":"github"},"healthy":true,"dead":false,"credentials":{"oauth_access_token":"token%d"}}`, i, i)
	}
	var body bytes.Buffer
	status := http.StatusOK
	if id := strings.TrimPrefix(r.URL.Path, "/v1/accounts/apn_"); id != r.URL.Path {
		i, _ := strconv.Atoi(id)
		body.WriteString(`{"data":` + account(i) + `}`)
	} else if c.breaks > 0 && r.URL.Query().Get("after") == strconv.Itoa(c.breaks) || c.refused {
		status = http.StatusForbidden
		body.WriteString(`{"error":"no"}`)
	} else {
		first, _ := strconv.Atoi(r.URL.Query().Get("after"))
		after := min(first+api.PageLimit, c.accounts)
		var all []string
		for i := first; i < after; i++ {
			all = append(all, account(i))
		}
		fmt.Fprintf(&body, `{"page_info":{"total_count":%d,"end_cursor":"%d"},"data":[%s]}`, c.accounts, after, strings.Join(all, ","))
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(&body), Request: r}, nil
}

// nobody is an observer that does nothing.
type nobody struct{}

func (nobody) Sent()                                 {}
func (nobody) Answered(string, time.Duration, error) {}

// timed is a lock that measures for how much processor time it is held at most. So it
// makes no difference what else the machine does meanwhile.
type timed struct {
	sync.Mutex

	began, longest time.Duration
}

func (t *timed) Lock() {
	t.Mutex.Lock()
	runtime.LockOSThread()
	t.began = processorTime(syscall.RUSAGE_THREAD)
}

func (t *timed) Unlock() {
	t.longest = max(t.longest, processorTime(syscall.RUSAGE_THREAD)-t.began)
	runtime.UnlockOSThread()
	t.Mutex.Unlock()
}

func processorTime(of int) time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(of, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkScale has very many at a time want something. It reports for how long the
// budget's lock is held at most, and what all of it costs.
func BenchmarkScale(b *testing.B) {
	for name, bc := range map[string]struct {
		cheap

		limit int
		run   func(f *fetch.Fetcher)
	}{
		"50000 callers want 10000 accounts":                      {cheap{accounts: 10_000, delay: time.Millisecond}, 0, func(f *fetch.Fetcher) { want(f, 50_000, 50_000) }},
		"50000 callers want 10000 accounts of a list that fails": {cheap{accounts: 10_000, delay: 100 * time.Millisecond, refused: true}, 100, func(f *fetch.Fetcher) { want(f, 50_000, 50_000) }},
		"one caller wants 10000 accounts of a list that fails":   {cheap{accounts: 10_000, delay: 100 * time.Millisecond, refused: true}, 400, func(f *fetch.Fetcher) { want(f, 10_000, 1) }},
		"10000 callers wait for a walk that fails":               {cheap{accounts: 10_000, delay: 300 * time.Millisecond, breaks: 100}, 400, func(f *fetch.Fetcher) { want(f, 10_000, 10_000) }},
		"one caller waits for a walk that fails":                 {cheap{accounts: 10_000, delay: 300 * time.Millisecond, breaks: 100}, 400, func(f *fetch.Fetcher) { want(f, 10_000, 1) }},
		"100000 accounts are due": {cheap{accounts: 100_000, delay: time.Millisecond}, 0, func(f *fetch.Fetcher) {
			var due []fetch.Due
			for i := range 100_000 {
				due = append(due, fetch.Due{ID: fmt.Sprintf("apn_%d", i), By: time.Now().Add(time.Minute)})
			}
			f.Ahead(due...)
			f.Close()
		}},
	} {
		b.Run(name, func(b *testing.B) {
			var lock timed
			var cpu time.Duration
			for b.Loop() {
				base, err := url.Parse("http://pipedream.test/v1")
				require.NoError(b, err)
				budget, holdOffs := pace.NewBudget(bc.limit), backoff.NewHoldOffs()
				budget.Guard(&lock)
				client := api.New(b.Context(), api.Config{BaseURL: base, APIKey: "pd_test_key", Timeout: 20 * time.Second}, bc.cheap, budget, holdOffs, nobody{}, hclog.NewNullLogger)
				f := fetch.New(b.Context(), client, budget, holdOffs, nil, hclog.NewNullLogger)
				before := processorTime(syscall.RUSAGE_SELF)
				bc.run(f)
				cpu += processorTime(syscall.RUSAGE_SELF) - before
				client.Close()
			}
			b.ReportMetric(float64(lock.longest.Microseconds())/1000, "ms-locked")
			b.ReportMetric(cpu.Seconds()/float64(b.N), "s-cpu/op")
		})
	}
}

func want(f *fetch.Fetcher, readers, callers int) {
	var group sync.WaitGroup
	for i := range readers {
		group.Go(func() {
			w := f.Want(fmt.Sprintf("apn_%d", i%10_000), fetch.Wish{Caller: strconv.Itoa(i % callers), Until: time.Now().Add(5 * time.Second)})
			defer w.Leave()
			<-w.Done
		})
	}
	group.Wait()
}
