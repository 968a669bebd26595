package durable

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSettleHoldsAKeyForTimeoutAtMost(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.put("a", 1)
		s.storage.fails(remove)
		s.Delete("a")
		s.storage.isLate(remove, time.Minute)
		began := time.Now()
		s.Settle(t.Context())
		require.LessOrEqual(t, time.Since(began), Timeout)
	})
}

// Storage keeps others waiting for the key for so long that this value gets no
// turn. It is served, but kept neither in memory nor in storage.
func TestAValueThatGetsNoTurnIsServedOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.storage.isLate(put, time.Hour)
		one := after(func() { s.put("a", 1) })
		time.Sleep(time.Second)
		two := after(func() { s.put("a", 2) }) // gets its turn after 5 s
		time.Sleep(time.Second)
		s.put("a", 3) // gets no turn before 7 s
		<-one
		<-two
		require.Equal(t, 2, s.inMemory("a"))
	})
}
