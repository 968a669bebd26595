package pipedream

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/credential"
)

// report writes what a test measured into the test log, as an attribute that
// tools/plots reads.
func report(t *testing.T, what string, measured map[string]any) {
	t.Helper()
	text, err := json.Marshal(measured)
	require.NoError(t, err)
	t.Attr(what, string(text))
}

// benchmarkMount returns a mount with that many accounts in storage, none of which
// had to be fetched. They can be in memory too.
func benchmarkMount(b *testing.B, accounts int, inMemory bool) *backend {
	b.Helper()
	storage := &logical.InmemStorage{}
	m := newBackend(storage, nil)
	b.Cleanup(func() { m.Cleanup(context.Background()) })
	system := logical.TestSystemView()
	system.MaxLeaseTTLVal = testMaxTTL
	err := m.Setup(b.Context(), &logical.BackendConfig{Logger: hclog.NewNullLogger(), System: system, StorageView: storage})
	if err != nil {
		b.Fatal(err)
	}
	c := defaultConfig()
	c.APIKey, c.BaseURL, c.CacheID = testKey, testBaseURL, "benchmark"
	if err := writeConfig(b.Context(), storage, c); err != nil {
		b.Fatal(err)
	}
	r, err := logical.StorageEntryJSON(rolePrefix+"role", &role{AccountID: accountName(0)})
	if err != nil {
		b.Fatal(err)
	}
	if err := storage.Put(b.Context(), r); err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	for i := range accounts {
		entry, err := logical.StorageEntryJSON(cache.Prefix+c.CacheID+"/"+accountName(i), benchmarkCredential(i, now))
		if err != nil {
			b.Fatal(err)
		}
		if err := storage.Put(b.Context(), entry); err != nil {
			b.Fatal(err)
		}
	}
	if inMemory {
		benchmarkReadAll(b, m, accounts)
	}
	return m
}

// benchmarkReadAll loads accounts from storage to memory.
func benchmarkReadAll(b *testing.B, m *backend, accounts int) {
	b.Helper()
	for i := range accounts {
		benchmarkReadOne(b, m, "creds/"+accountName(i))
	}
}

func benchmarkReadOne(b *testing.B, m *backend, path string) {
	b.Helper()
	if _, err := m.HandleRequest(b.Context(), &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: m.storage}); err != nil {
		b.Fatal(err)
	}
}

func benchmarkCredential(i int, now time.Time) *credential.Credential {
	return &credential.Credential{
		AccountID: accountName(i), AccountName: "Octo Cat", App: "github",
		Fields: map[string]string{
			"oauth_access_token": fmt.Sprintf("gho_%036d", i),
			"oauth_client_id":    fmt.Sprintf("client_%d", i),
			"oauth_uid":          fmt.Sprintf("uid_%d", i),
		},
		ExpiresAt: now.Add(12 * time.Hour), FetchedAt: now, CheckedAt: now,
	}
}

func benchmarkRead(b *testing.B, m *backend, path func(i int) string) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		benchmarkReadOne(b, m, path(i))
	}
}

func BenchmarkWarmRead(b *testing.B) {
	m := benchmarkMount(b, 10_000, true)
	for name, path := range map[string]func(int) string{
		"creds":                 func(int) string { return "creds/" + accountName(0) },
		"static-creds":          func(int) string { return "static-creds/" + accountName(0) },
		"role":                  func(int) string { return "creds/role" },
		"creds-10000-in-turn":   func(i int) string { return "creds/" + accountName(i%10_000) },
		"baseline-config-field": func(int) string { return "config" },
	} {
		b.Run(name, func(b *testing.B) { benchmarkRead(b, m, path) })
	}
}

// BenchmarkFirstReadAfterStart has 100,000 credentials in storage. Only the one that
// is read is loaded.
func BenchmarkFirstReadAfterStart(b *testing.B) {
	stored := benchmarkMount(b, 100_000, false)
	b.ResetTimer()
	for range b.N {
		m := newBackend(stored.storage, nil)
		if err := m.Setup(b.Context(), &logical.BackendConfig{Logger: hclog.NewNullLogger(), System: logical.TestSystemView()}); err != nil {
			b.Fatal(err)
		}
		benchmarkReadOne(b, m, "creds/"+accountName(7))
		if n := m.connections.current.Load().view.Len(); n != 1 {
			b.Fatalf("%d credentials were loaded", n)
		}
		m.Cleanup(b.Context())
	}
}

// BenchmarkPeriodicPass measures one pass over a full memory. Of 100,000 credentials
// in storage, it looks at one batch.
func BenchmarkPeriodicPass(b *testing.B) {
	m := benchmarkMount(b, 100_000, false)
	benchmarkReadAll(b, m, 32_768)
	b.ResetTimer()
	for range b.N {
		req := &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage}
		if _, err := m.HandleRequest(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMemory reports the bytes of heap that a cached account takes.
func BenchmarkMemory(b *testing.B) {
	for _, accounts := range []int{10_000, 20_000, 32_768, 50_000, 100_000} {
		b.Run(strconv.Itoa(accounts), func(b *testing.B) {
			for range b.N {
				m := benchmarkMount(b, accounts, false) // storage is not part of the measurement
				before := heap()
				benchmarkReadAll(b, m, accounts)
				b.ReportMetric(float64(heap()-before)/float64(accounts), "B/account")
				b.ReportMetric(float64(heap()-before)/(1<<20), "MiB")
				runtime.KeepAlive(m)
			}
		})
	}
}

func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
