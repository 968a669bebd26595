package cache

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A caller may invent users. They take a bounded part of memory.
func TestInventedUsersTakeLittleMemory(t *testing.T) {
	r := &roster{}
	for i := range 3 * maxRosterWanted {
		r.wants(strconv.Itoa(i), time.Now())
	}
	require.Len(t, r.wanted, maxRosterWanted)
	require.True(t, r.wants("one more", time.Now()), "the list pays more than ever")
}
