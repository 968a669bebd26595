package durable

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Each test describes its events by number, in the order in which they happen.

func TestADeleteWhileTheKeyIsLoaded(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.has("new/a", "1")
		s.storage.isLate(get, time.Second)
		loaded := -1
		// 1. A reader asks storage, which is slow.
		reader := after(func() { loaded = s.load("a") })
		// 2. A delete of the key waits for the reader's lock.
		deleter := after(func() { s.Delete("a") })
		require.True(t, open(reader) && open(deleter))
		// 3. Storage answers, and memory has the value.
		// 4. The delete gets its turn and leaves nothing.
		<-reader
		<-deleter
		require.Equal(t, 1, loaded, "the reader came first")
		s.agree("a", -1)
		require.Equal(t, -1, s.load("a"))
	})
}

func TestADeleteWhileTheKeyIsStored(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.storage.isLate(put, time.Second)
		// 1. A value is on its way to storage.
		writer := after(func() { s.put("a", 1) })
		// 2. A delete of the key waits.
		deleter := after(func() { s.Delete("a") })
		require.True(t, open(deleter))
		// 3. First storage has the value, then memory.
		// 4. The delete leaves nothing of it.
		<-writer
		<-deleter
		s.agree("a", -1)
	})
}

func TestAValueThatComesWhileTheKeyIsDeleted(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.put("a", 1)
		s.storage.isLate(remove, time.Second)
		// 1. Memory has nothing from now on. Storage is about to delete the key.
		deleter := after(func() { s.Delete("a") })
		require.Equal(t, -1, s.inMemory("a"), "a value that is being deleted is not served")
		// 2. A new value comes and waits.
		writer := after(func() { s.put("a", 2) })
		require.True(t, open(writer))
		// 3. The key is deleted. 4. The new value is stored.
		<-deleter
		<-writer
		s.agree("a", 2)
	})
}

func TestAReaderWhileTheKeyIsDeleted(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.put("a", 1)
		s.storage.isLate(remove, time.Second)
		// 1. Storage is about to delete the key, but still has it.
		deleter := after(func() { s.Delete("a") })
		// 2. A reader waits for that, and does not load the value that is being deleted.
		loaded := 0
		reader := after(func() { loaded = s.load("a") })
		require.True(t, open(reader))
		<-deleter
		<-reader
		require.Equal(t, -1, loaded)
		s.agree("a", -1)
	})
}

func TestAReaderWhileTheKeyIsStored(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.has("new/a", "1")
		s.storage.isLate(put, time.Second)
		// 1. A new value is on its way to storage, which has an old one.
		writer := after(func() { s.put("a", 2) })
		// 2. A reader waits for that and finds the new value in memory.
		loaded := 0
		reader := after(func() { loaded = s.load("a") })
		<-writer
		<-reader
		require.Equal(t, 2, loaded)
		s.agree("a", 2)
		require.Equal(t, []string{"put new/a"}, s.storage.operations())
	})
}

func TestAValueThatComesWhileTheKeyIsLoaded(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.has("new/a", "1")
		s.storage.isLate(get, time.Second)
		// 1. A reader asks storage, which is slow.
		reader := after(func() { require.Equal(t, 1, s.load("a")) })
		// 2. A new value comes. Its merge sees what the reader found.
		seen := 0
		writer := after(func() {
			s.Update("a", func(latest int, _ bool) (int, bool) {
				seen = latest
				return 2, true
			})
		})
		<-reader
		<-writer
		require.Equal(t, 1, seen)
		s.agree("a", 2)
	})
}

func TestTwoValuesAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.storage.isLate(put, time.Second)
		// 1. One is on its way to storage. 2. Another comes, and its merge sees the first.
		one := after(func() { s.put("a", 1) })
		two := after(func() {
			s.Update("a", func(latest int, known bool) (int, bool) {
				require.True(t, known)
				return latest + 1, true
			})
		})
		<-one
		s.agree("a", 1)
		<-two
		s.agree("a", 2)
	})
}

func TestASlowKeyHoldsUpNoOther(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.put("a", 1)
		s.has("new/b", "2")
		s.storage.does(func(_, key string) (time.Duration, error) {
			if key == "new/a" {
				return 4 * time.Second, nil
			}
			return 0, nil
		})
		began := time.Now()
		late := after(func() { s.put("a", 2) })
		require.Equal(t, 1, s.load("a"), "reading memory takes no lock")
		require.Equal(t, 2, s.load("b"))
		s.put("b", 3)
		s.agree("b", 3)
		s.Delete("b")
		s.put("c", 4)
		s.DeleteIf(t.Context(), "c", func(int) bool { return true })
		require.Equal(t, 1, s.Len())
		require.Zero(t, time.Since(began))
		<-late
		s.agree("a", 2)
	})
}

func TestStorageThatHangsKeepsNobodyWaitingForLong(t *testing.T) {
	t.Run("a value is in memory only", func(t *testing.T) {
		inBubble(t, func(t *testing.T, s *store) {
			s.storage.isLate(put, time.Hour)
			began := time.Now()
			s.put("a", 1)
			require.Equal(t, Timeout, time.Since(began))
			require.Equal(t, 1, s.inMemory("a"))
			require.Equal(t, -1, s.stored("new/a"))
			require.Contains(t, s.logs.String(), `[WARN]  a number is served, but could not be stored for the next start: key=new/a`)
		})
	})
	t.Run("a reader finds nothing", func(t *testing.T) {
		inBubble(t, func(t *testing.T, s *store) {
			s.has("new/a", "1")
			s.storage.isLate(get, time.Hour)
			began := time.Now()
			require.Equal(t, -1, s.load("a"))
			require.Equal(t, Timeout, time.Since(began))
			s.storage.isWell()
			require.Equal(t, 1, s.load("a"))
		})
	})
	t.Run("a delete is left for later", func(t *testing.T) {
		inBubble(t, func(t *testing.T, s *store) {
			s.put("a", 1)
			s.storage.isLate(remove, time.Hour)
			began := time.Now()
			s.Delete("a")
			require.Equal(t, Timeout, time.Since(began))
			s.storage.isWell()
			require.Equal(t, -1, s.load("a"))
		})
	})
	t.Run("a delete that never got its turn is left for later too", func(t *testing.T) {
		inBubble(t, func(t *testing.T, s *store) {
			s.put("a", 1)
			s.storage.does(func(string, string) (time.Duration, error) { return time.Hour, nil })
			// 1. A value comes and holds the key for 5 s. 2. A second later another one comes,
			// which holds the key for 5 s after that.
			after(func() { s.put("a", 2) })
			time.Sleep(time.Second)
			after(func() { s.put("a", 3) })
			// 3. A second later a delete of the key gets no turn within 5 s.
			time.Sleep(time.Second)
			began := time.Now()
			s.Delete("a")
			require.Equal(t, Timeout, time.Since(began))
			// 4. All have given up, and storage is well again.
			time.Sleep(time.Minute)
			s.storage.isWell()
			s.Forget("a")
			require.Equal(t, -1, s.load("a"), "a key that is still to be deleted is never loaded")
			s.Settle(t.Context())
			s.agree("a", -1)
		})
	})
}

func TestAValueThatCannotBeStoredIsInMemoryOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.put("a", 1)
		s.storage.fails(put)
		s.put("a", 2)
		require.Equal(t, 2, s.load("a"))
		require.Equal(t, 1, s.stored("new/a"))
		s.storage.isWell()
		s.put("a", 3)
		s.agree("a", 3)
	})
}

func TestADeleteThatFailsIsDoneLater(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.put("a", 1)
		s.put("b", 1)
		s.storage.fails(remove)
		s.Delete("a")
		require.Contains(t, s.logs.String(), `[WARN]  a number could not be deleted from storage: key=new/a`)
		s.storage.operations()
		require.Equal(t, -1, s.load("a"), "it is never loaded")
		require.Equal(t, 1, s.load("b"))
		require.Empty(t, s.storage.operations())

		s.Settle(t.Context())
		require.Equal(t, 1, s.stored("new/a"), "it still fails")
		require.Equal(t, -1, s.load("a"))

		s.storage.isWell()
		s.storage.operations()
		s.Settle(t.Context())
		s.agree("a", -1)
		s.Settle(t.Context())
		require.Equal(t, []string{"delete new/a"}, s.storage.operations(), "once")
	})
}

func TestAValueThatIsStoredAgainIsNotDeletedLater(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.put("a", 1)
		s.storage.fails(remove)
		s.Delete("a")
		s.storage.isWell()
		s.put("a", 2)
		s.Settle(t.Context())
		s.agree("a", 2)
		require.Equal(t, 2, s.restarted().load("a"))
	})
}

func TestAValueInMemoryOnlyReplacesTheOldOne(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.put("a", 1)
		s.storage.fails(remove, put)
		s.Delete("a")
		s.put("a", 2)
		require.Equal(t, 2, s.load("a"))
		s.storage.isWell()
		s.Settle(t.Context())
		s.agree("a", 2)
	})
}

// A new value comes while Settle deletes the old one.
func TestAValueThatComesDuringSettle(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.put("a", 1)
		s.storage.fails(remove)
		s.Delete("a")
		s.storage.isLate(remove, time.Second)
		// 1. Storage is about to delete the old one. 2. The new one waits.
		later := after(func() { s.Settle(t.Context()) })
		writer := after(func() { s.put("a", 2) })
		require.True(t, open(writer))
		<-later
		<-writer
		s.agree("a", 2)
	})
}

// A new value is being stored just when Settle gets to its key.
func TestAValueThatIsStoredJustBeforeSettle(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.put("a", 1)
		s.storage.fails(remove)
		s.Delete("a")
		s.storage.isLate(put, time.Second)
		// 1. The new one is on its way to storage. 2. The delete of the old one waits.
		writer := after(func() { s.put("a", 2) })
		later := after(func() { s.Settle(t.Context()) })
		require.True(t, open(later))
		// 3. Storage has the new one. 4. There is nothing to delete any more.
		<-writer
		<-later
		s.agree("a", 2)
	})
}

func TestSettleEndsWithItsContext(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.put("a", 1)
		s.storage.fails(remove)
		s.Delete("a")
		s.storage.isLate(put, 3*time.Second)
		writer := after(func() { s.put("a", 2) }) // it holds the key
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		s.Settle(ctx)
		require.Equal(t, time.Second, time.Since(began))
		<-writer
	})
}

// Whatever is slow or fails, no reader finds a deleted value again, or an older one
// than was there before. Once storage is well, it has what memory has, except
// values that could not be stored.
func TestMemoryAndStorageAgree(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			inBubble(t, func(_ *testing.T, s *store) { keepAgreeing(s, rand.New(rand.NewPCG(seed, 1))) }) //nolint:gosec // a test repeats itself
		})
	}
}

// ledger has what must be true of each key.
type ledger struct {
	mu      sync.Mutex     // guards the fields below
	latest  int            // the last number that was made
	put     map[string]int // the newest number whose put has ended
	atLeast map[string]int // no older number may be found
}

func (l *ledger) next() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latest++
	return l.latest
}

func keepAgreeing(s *store, random *rand.Rand) {
	var chance sync.Mutex
	roll := func(n int) int {
		chance.Lock()
		defer chance.Unlock()
		return random.IntN(n)
	}
	s.storage.does(func(string, string) (time.Duration, error) {
		late := time.Duration(roll(200)) * time.Millisecond
		if roll(4) == 0 {
			return late, errStorage
		}
		return late, nil
	})
	l := &ledger{put: map[string]int{}, atLeast: map[string]int{}}
	var group sync.WaitGroup
	for range 6 {
		group.Go(func() {
			for range 100 {
				l.step(s, key(roll(3)), roll(10))
				time.Sleep(time.Duration(roll(100)) * time.Millisecond)
			}
		})
	}
	group.Wait()

	s.storage.isWell()
	s.Settle(s.Context())
	for i := range 3 {
		k := key(i)
		inMemory, stored := s.inMemory(k), s.stored("new/"+k)
		switch {
		case inMemory == -1 && stored != -1:
			require.GreaterOrEqual(s, stored, l.atLeast[k], k)
		case inMemory != -1 && !s.storage.lacks["new/"+k]:
			require.Equal(s, inMemory, stored, k)
		}
		require.Equal(s, stored, s.restarted().load(k), k)
	}
	require.Empty(s, s.keys.held, "no lock is left behind")
}

// step does one thing with a key and asserts that what it finds is not too old.
func (l *ledger) step(s *store, key string, what int) {
	l.mu.Lock()
	atLeast, before := l.atLeast[key], l.put[key]
	l.mu.Unlock()
	found := -1
	switch {
	case what < 3:
		found = s.load(key)
	case what < 4:
		found = s.inMemory(key)
	case what < 5:
		s.Settle(s.Context())
	case what < 7:
		s.Delete(key)
		l.raise(key, before+1) // everything that was there when the delete began is gone
	default: // a number is made when its turn comes, so a greater one is newer
		n := s.Update(key, func(int, bool) (int, bool) { return l.next(), true })
		l.raise(key, n)
		l.mu.Lock()
		l.put[key] = max(l.put[key], n)
		l.mu.Unlock()
	}
	if found != -1 {
		require.GreaterOrEqual(s, found, atLeast, key)
	}
}

func (l *ledger) raise(key string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.atLeast[key] = max(l.atLeast[key], n)
}

func TestAKeyIsHeldByOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var locks keyLocks
		holders := 0
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() {
				unlock, err := locks.lock(t.Context(), "a")
				require.NoError(t, err)
				holders++
				require.Equal(t, 1, holders)
				time.Sleep(time.Second)
				holders--
				unlock()
			})
		}
		synctest.Wait()
		other, err := locks.lock(t.Context(), "b")
		require.NoError(t, err)
		other()
		began := time.Now()
		group.Wait()
		require.Equal(t, 100*time.Second, time.Since(began))
		require.Empty(t, locks.held)
	})
}

func TestAWaitForAKeyEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var locks keyLocks
		unlock, err := locks.lock(t.Context(), "a")
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err = locks.lock(ctx, "a")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		unlock()
		require.Empty(t, locks.held)
		unlock, err = locks.lock(t.Context(), "a")
		require.NoError(t, err)
		unlock()
	})
}
