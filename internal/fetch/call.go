package fetch

import (
	"context"
	"fmt"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// state is where a call is.
//
//	queued ──► alone ──► done
//	queued ──► inPage ──► done       the page brought it
//	           inPage ──► queued     the page lacked it
//	queued ──► done                  a page brought it all the same, or nothing can be asked just now
//	queued, inPage ──► abandoned     nobody waits any more
type state int

const (
	// queued: nothing was sent for it yet.
	queued state = iota
	// alone: a request for it by itself is under way.
	alone
	// inPage: a page is under way that should bring it.
	inPage
	// done: its outcome is known.
	done
	// abandoned: nobody waits for it any more, and nothing was sent for it.
	abandoned
)

func (s state) String() string {
	return [...]string{"queued", "alone", "inPage", "done", "abandoned"}[s]
}

// moves has where a call may go from each state.
var moves = map[state][]state{
	queued: {alone, inPage, done, abandoned},
	alone:  {done},
	inPage: {queued, done, abandoned},
}

// call is one account that is wanted. Fetcher.mu guards its fields, but for
// those of the outcome, which nobody changes once finished is closed.
type call struct {
	id    string
	state state
	claim *pace.Claim
	since time.Time // when it was wanted
	// newerThan is when a page must have been asked for after to bring it.
	newerThan time.Time
	page      string    // while it is inPage: that one's cursor, or anyPage
	asked     time.Time // since when a request for it is under way; zero for none
	waiting   int       // who waits for it
	stop      context.CancelFunc

	finished chan struct{}
	account  *api.Account
	at       time.Time // as of when account is
	err      error
}

// move changes the state. An illegal move is a bug, and panics.
func (c *call) move(to state) {
	for _, legal := range moves[c.state] {
		if legal == to {
			c.state = to
			return
		}
	}
	panic(fmt.Sprintf("fetch: a call went from %s to %s", c.state, to))
}

// open tells whether nothing was sent for the call yet.
func (c *call) open() bool { return c.state == queued || c.state == inPage }
