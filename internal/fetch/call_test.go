package fetch

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOnlyLegalMovesOfACall(t *testing.T) {
	states := []state{queued, alone, inPage, done, abandoned}
	legal := map[state][]state{
		queued: {alone, inPage, done, abandoned},
		alone:  {done},
		inPage: {queued, done, abandoned},
	}
	for _, from := range states {
		for _, to := range states {
			t.Run(fmt.Sprintf("from %s to %s", from, to), func(t *testing.T) {
				c := &call{state: from}
				if slices.Contains(legal[from], to) {
					c.move(to)
					require.Equal(t, to, c.state)
					return
				}
				require.PanicsWithValue(t, fmt.Sprintf("fetch: a call went from %s to %s", from, to), func() { c.move(to) })
				require.Equal(t, from, c.state)
			})
		}
	}
}

func TestOpenStatesOfACall(t *testing.T) {
	for s, open := range map[state]bool{queued: true, inPage: true, alone: false, done: false, abandoned: false} {
		require.Equal(t, open, (&call{state: s}).open(), s.String())
	}
}
