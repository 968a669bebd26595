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

// TestFatAnswersLeaveMemoryAlone has 300 accounts of 3.9 MB each, and a list whose pages are as fat as an answer may be and
// that never ends. All are refused or bounded, and the plugin's process stays small.
func TestFatAnswersLeaveMemoryAlone(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("there is no /proc here to read a process's size from")
	}
	if strings.Contains(pluginBin, "race") {
		t.Skip("the race detector takes many times the memory: make test-size runs this without it")
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
			assert.Error(t, err) // by the bound, or for want of time on a slow machine
		})
	}
	readers.Wait()
	size := residentSize(t, m.vault.pluginPID(t))
	t.Logf("%d MiB", size>>20)
	require.Less(t, size, most)
}

// residentSize is the memory of a process that is in RAM, in bytes.
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
	t.Fatal("the process has no VmRSS")
	return 0
}
