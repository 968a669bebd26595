package bounded_test

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/bounded"
)

// newMemory returns a memory of texts, which take as many bytes as they are long.
func newMemory(maxEntries, maxBytes int) *bounded.Memory[string, string] {
	return bounded.New(maxEntries, maxBytes, func(_, value string) int { return len(value) })
}

func TestTheLeastRecentlyUsedMakesRoom(t *testing.T) {
	tests := map[string]struct {
		maxEntries, maxBytes int
		use                  func(*bounded.Memory[string, string])
		gone                 string
	}{
		"entries":             {3, 100, func(*bounded.Memory[string, string]) {}, "a"},
		"bytes":               {100, 6, func(*bounded.Memory[string, string]) {}, "a"},
		"after a use":         {3, 100, func(m *bounded.Memory[string, string]) { m.Get("a") }, "b"},
		"after another value": {3, 100, func(m *bounded.Memory[string, string]) { m.Put("a", "11") }, "b"},
		"after a look":        {3, 100, func(m *bounded.Memory[string, string]) { m.Peek("a") }, "a"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMemory(test.maxEntries, test.maxBytes)
			for _, key := range []string{"a", "b", "c"} {
				m.Put(key, "22")
			}
			test.use(m)
			m.Put("d", "22")
			for _, key := range []string{"a", "b", "c", "d"} {
				_, ok := m.Peek(key)
				require.Equal(t, key != test.gone, ok, key)
			}
		})
	}
}

func TestAnEntryThatIsTooLargeIsKeptAlone(t *testing.T) {
	m := newMemory(100, 6)
	m.Put("a", "1")
	m.Put("b", "1234567")
	require.Equal(t, []string{"1234567"}, m.Values())
	m.Put("c", "1")
	require.Equal(t, []string{"1"}, m.Values())
}

// Whatever happens, the bytes are those of the values that are there.
func TestBytesAreThoseOfTheValues(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // dice
	m := newMemory(20, 150)
	for range 5000 {
		key := strconv.Itoa(random.IntN(40))
		switch random.IntN(20) {
		case 0:
			m.Clear()
			require.Zero(t, m.Bytes())
		case 1:
			m.RemoveIf(func(_, value string) bool { return len(value) > 10 })
			for _, value := range m.Values() {
				require.LessOrEqual(t, len(value), 10)
			}
		case 2, 3, 4:
			_, had := m.Peek(key)
			require.Equal(t, had, m.Remove(key))
		default:
			value := "123456789012345"[:random.IntN(16)]
			m.Put(key, value)
			got, ok := m.Get(key)
			require.True(t, ok)
			require.Equal(t, value, got)
		}
		bytes := 0
		for _, value := range m.Values() {
			bytes += len(value)
		}
		require.Equal(t, bytes, m.Bytes())
		require.LessOrEqual(t, m.Bytes(), 150)
		require.LessOrEqual(t, m.Len(), 20)
	}
}
