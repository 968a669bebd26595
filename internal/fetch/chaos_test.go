package fetch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// chaosFaults is what may go wrong at any time.
var chaosFaults = []pipedreamtest.Fault{
	{Hang: true},
	{Cut: true},
	{Garbage: true},
	{Status: http.StatusInternalServerError},
	{Status: http.StatusForbidden},
	{Status: http.StatusNotFound},
	{Status: http.StatusUnauthorized},
	{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"3"}}},
	{Delay: 4 * time.Second},
	{Delay: 100 * time.Millisecond},
	{Delay: 200 * time.Millisecond},
}

// Whatever happens, nobody waits for nothing, nobody waits too long, the limit holds,
// and nothing is left behind. CHAOS_SEEDS sets how many courses of events are tried.
func TestChaos(t *testing.T) {
	t.Parallel()
	seeds := 100
	if more, err := strconv.Atoi(os.Getenv("CHAOS_SEEDS")); err == nil {
		seeds = more
	}
	for seed := range seeds {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			bubble(t, 600, func(_ *testing.T, f *fetcher) {
				c := &chaos{fetcher: f, random: rand.New(rand.NewPCG(uint64(seed), 7))} //nolint:gosec // the same each time
				c.run([]int{0, 5, 20, 100, 400}[c.random.IntN(5)])
			})
		})
	}
}

type chaos struct {
	*fetcher

	random  *rand.Rand
	readers sync.WaitGroup
	ends    []func() // of faults
}

func (c *chaos) run(limit int) {
	c.budget.SetLimit(limit)
	for range 40 {
		switch c.random.IntN(12) {
		case 0, 1:
			fault := chaosFaults[c.random.IntN(len(chaosFaults))]
			fault.Times = 1 + c.random.IntN(20)
			fault.Kind = []pipedreamtest.Kind{"", list, account}[c.random.IntN(3)]
			c.ends = append(c.ends, c.sim.AddFault(fault))
		case 2:
			var due []Due
			from := c.random.IntN(500)
			for i := range c.random.IntN(60) {
				due = append(due, Due{ID: id(from + i), By: time.Now().Add(time.Duration(c.random.IntN(120)) * time.Second)})
			}
			c.Ahead(due...)
		case 3:
			c.takeStock()
		case 4: // a new connection
			next := c.bare(c.Fetcher)
			c.Close()
			c.Fetcher = next
		default:
			c.read()
		}
		for range 1 + c.random.IntN(12) {
			time.Sleep(197*time.Millisecond + 123*time.Nanosecond) // at no time of any timer
			c.check()
		}
	}
	c.readers.Wait()
	for _, end := range c.ends {
		end()
	}
	for range 60 {
		time.Sleep(10*time.Second + 123*time.Nanosecond)
		c.check()
	}
	if limit > 0 {
		require.LessOrEqual(c, pipedreamtest.MostPerMinute(c.sim.Requests()), limit)
	}
	c.isIdle()
	require.Zero(c, c.budget.Used())
	c.get(id(7))
}

// read has some readers want accounts next to each other.
func (c *chaos) read() {
	from, n := c.random.IntN(500), 1
	if c.random.IntN(4) > 0 {
		n += c.random.IntN(40)
	}
	for i := range n {
		name, class := id(from+i), pace.Known
		if c.random.IntN(20) == 0 {
			name, class = fmt.Sprint("apn_guess", c.random.IntN(1000)), pace.Unproven
		}
		newer := time.Time{}
		if c.random.IntN(3) == 0 {
			newer = time.Now()
		}
		within := timeout
		if c.random.IntN(4) == 0 {
			within = time.Duration(1+c.random.IntN(20_000)) * time.Millisecond
		}
		f, caller := c.Fetcher, strconv.Itoa(c.random.IntN(5))
		c.readers.Go(func() {
			ctx, cancel := context.WithTimeout(c.Context(), within)
			defer cancel()
			began := time.Now()
			got, err := (&fetcher{Fetcher: f, T: c.T}).Account(ctx, name, class, caller, newer)
			if time.Since(began) > within {
				c.Errorf("%s waited for %s", name, time.Since(began))
			}
			if err == nil && got.account.ID != name {
				c.Errorf("%s got %s", name, got.account.ID)
			}
			if e := (*api.Error)(nil); err != nil && !errors.As(err, &e) {
				c.Errorf("%s: %v", name, err)
			}
		})
	}
}

// check fails if something can be sent for which nothing woke the planner, or if a want
// waits for nothing.
func (c *chaos) check() {
	c.Helper()
	synctest.Wait()
	sent := c.sim.Count("")
	c.budget.Do(func(time.Time) {}) // sends what can be sent
	synctest.Wait()
	require.Equal(c, sent, c.sim.Count(""), "requests that nothing woke the planner for")
	c.budget.Do(func(time.Time) {
		for _, w := range c.Fetcher.wants {
			if wrong := c.wrongWith(w); wrong != "" {
				c.Fatalf("%s %s", w.ID, wrong)
			}
		}
		for _, pg := range c.pages {
			for w := range pg.wants {
				if w.page != pg || w.state != pending {
					c.Fatalf("%s is left on a page", w.ID)
				}
			}
		}
	})
}

// wrongWith says what is wrong with where w waits.
func (c *chaos) wrongWith(w *Want) string {
	_, isAhead := c.ahead[w]
	line, onPage := w.claim.Line(), false
	if w.page != nil {
		_, onPage = w.page.wants[w]
	}
	switch class := w.claim.ClassNow(); {
	case onPage != (w.page != nil):
		return "is not on its page"
	case w.state != pending && (line != nil && w.state == served || onPage || isAhead):
		return "waits, though it is asked for or served"
	case w.state != pending:
		return ""
	case class == pace.Ahead && (line != nil || isAhead == onPage):
		return "does not wait with those that nobody waits for"
	case class == pace.Unproven && line == nil:
		return "does not wait for a turn"
	case class == pace.Known && isAhead:
		return "still waits with those that nobody waits for"
	case class == pace.Known && line == nil && (!onPage || !w.page.underWay):
		return "waits for nothing"
	}
	return ""
}
