package fetch

import (
	"context"
	"fmt"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// state is the state of a call.
//
//	queued ──► alone ──► done
//	queued ──► inPage ──► done       the page brought it
//	           inPage ──► queued     the page lacked it
//	queued ──► done                  a page brought it anyway, or no request can go out now
//	queued, inPage ──► abandoned     nobody waits any more
type state int

const (
	// queued: nothing was sent for it yet.
	queued state = iota
	// alone: a request for it by itself is under way.
	alone
	// inPage: a page that should bring it is under way.
	inPage
	// done: its outcome is known.
	done
	// abandoned: nobody waits for it any more, and nothing was sent for it.
	abandoned
)

func (s state) String() string {
	return [...]string{"queued", "alone", "inPage", "done", "abandoned"}[s]
}

// moves has the states that a call may go to from each state.
var moves = map[state][]state{
	queued: {alone, inPage, done, abandoned},
	alone:  {done},
	inPage: {queued, done, abandoned},
}

// call is one account that is wanted. Fetcher.mu guards its fields. The fields of
// the outcome never change once finished is closed.
type call struct {
	id    string
	state state
	claim *pace.Claim
	since time.Time // when it was first wanted
	// newerThan bounds the pages that may bring it: those asked for after that time.
	newerThan time.Time
	page      string    // the cursor of its page while it is inPage, or anyPage
	asked     time.Time // when a request for it went out; zero for none
	waiting   int       // how many wait for it
	stop      context.CancelFunc

	finished chan struct{}
	account  *api.Account
	at       time.Time // the time as of which account is
	err      error
}

// move changes the state. It panics if that move is not legal, which is a bug.
func (c *call) move(to state) {
	for _, legal := range moves[c.state] {
		if legal == to {
			c.state = to
			return
		}
	}
	panic(fmt.Sprintf("fetch: a call went from %s to %s", c.state, to))
}

// open reports whether no request for this call alone was sent, and it has no
// outcome yet.
func (c *call) open() bool { return c.state == queued || c.state == inPage }
