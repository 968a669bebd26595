package acceptance

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestLargeAnswersDoNotGrowMemory has 300 accounts of 3.9 MB each, and an endless list whose pages are as large as an
// answer may be. All of them are rejected or bounded, and the plugin's process stays small.
func TestLargeAnswersDoNotGrowMemory(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("reading the size of a process needs /proc")
	}
	if strings.Contains(pluginBin, "race") {
		t.Skip("the race detector needs far more memory; make test-size runs this without it")
	}
	const most = 150 << 20
	m := onOwnVault(t)
	m.configure(t, map[string]any{"rate_limit": 0, "max_retries": 0})
	m.sim.SetLimit(0)
	m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, EndlessList: true, Fat: 30_000})
	m.sim.AddFault(pipedreamtest.Fault{
		Kind: pipedreamtest.KindAccount, Status: http.StatusOK,
		Body: fmt.Sprintf(`{"data":{"id":"apn_fat","credentials":{"token":"%s"}}}`, strings.Repeat("x", 3_900_000)),
	})
	client := m.vault.client(m.vault.rootToken)
	var readers sync.WaitGroup
	places := make(chan struct{}, 30)
	for i := range 300 {
		readers.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			_, err := client.Logical().Read(m.in(fmt.Sprintf("static-creds/apn_fat%d", i)))
			assert.Error(t, err) // the answer is too large, or a slow machine runs out of time
		})
	}
	readers.Wait()
	size := residentSize(t, m.vault.pluginPID(t))
	t.Logf("%d MiB", size>>20)
	require.Less(t, size, most)
}

// residentSize returns the resident memory of a process in bytes.
func residentSize(t *testing.T, pid int) int {
	t.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	defer file.Close() //nolint:errcheck // it was only read
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if kilobytes, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(kilobytes), " kB"))
			require.NoError(t, err)
			return n << 10
		}
	}
	t.Fatal("there is no VmRSS")
	return 0
}
