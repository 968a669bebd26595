package durable

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"
)

func TestAValueIsFoundInMemoryAndAfterARestart(t *testing.T) {
	s := newStore(t)
	require.Equal(t, -1, s.load("a"))
	s.put("a", 1)
	s.agree("a", 1)
	s.storage.operations()
	require.Equal(t, 1, s.load("a"))
	require.Empty(t, s.storage.operations(), "memory has it")

	restarted := s.restarted()
	require.Equal(t, -1, restarted.inMemory("a"))
	require.Equal(t, 1, restarted.load("a"))
	require.Equal(t, 1, restarted.inMemory("a"))
	require.Equal(t, []string{"get new/a"}, s.storage.operations())
}

func TestStorageComesBeforeMemory(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.storage.isLate(put, time.Second)
		writer := after(func() { s.put("a", 1) })
		require.Equal(t, -1, s.inMemory("a"), "else a restart would lose what a reader was given")
		<-writer
		s.agree("a", 1)
	})
}

func TestUpdateStoresOnlyIfTold(t *testing.T) {
	s := newStore(t)
	s.put("a", 1)
	require.Equal(t, 2, s.Update("a", func(latest int, known bool) (int, bool) {
		require.True(t, known)
		require.Equal(t, 1, latest)
		return 2, false
	}))
	require.Equal(t, 2, s.inMemory("a"))
	require.Equal(t, 1, s.stored("new/a"))
	s.Update("b", func(_ int, known bool) (int, bool) {
		require.False(t, known)
		return 1, false
	})
	require.Equal(t, -1, s.stored("new/b"))
}

func TestMemoryIsBoundedInEntries(t *testing.T) {
	s := newStore(t)
	for i := range most + 2 {
		s.put(key(i), i)
		if i >= 1 {
			_, ok := s.Get(key(1)) // which counts as a use
			require.True(t, ok)
		}
		s.Peek(key(0)) // which does not
	}
	require.Equal(t, most, s.Len())
	require.Equal(t, -1, s.inMemory(key(0)))
	require.Equal(t, 1, s.inMemory(key(1)))
	require.Equal(t, -1, s.inMemory(key(2)))
	require.Equal(t, 3, s.inMemory(key(3)))
	require.Equal(t, 0, s.load(key(0)), "storage has it")
	require.Equal(t, most, s.Len())
}

func TestMemoryIsBoundedInBytes(t *testing.T) {
	s := newStore(t)
	s.put("a", 1)
	s.put("b", 12)
	require.Equal(t, 30, s.Bytes())
	s.put("b", 1234) // in place of the other
	require.Equal(t, 50, s.Bytes())
	for i := range 5 {
		s.put(key(i), 1234) // of 40 bytes each
	}
	require.Equal(t, maxBytes, s.Bytes())
	require.Equal(t, []int{1234, 1234, 1234, 1234, 1234}, s.Values(), "the oldest went")
	s.put("c", 123)
	require.Equal(t, maxBytes-10, s.Bytes())

	s.Forget("c")
	require.Equal(t, maxBytes-40, s.Bytes())
	s.Delete(key(4))
	require.Equal(t, maxBytes-80, s.Bytes())
	s.DeleteIf(t.Context(), key(3), func(int) bool { return true })
	require.Equal(t, maxBytes-120, s.Bytes())
	for i := range most + 3 {
		s.put(key(10+i), 1) // now the entries are too many
	}
	require.Equal(t, 10*most, s.Bytes())
	require.Equal(t, most, s.Len())
}

func TestReadersOfAKeyShareOneCallToStorage(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.has("new/a", "1")
		s.storage.isLate(get, time.Second)
		var group sync.WaitGroup
		for range 1000 {
			group.Go(func() { require.Equal(t, 1, s.load("a")) })
		}
		group.Wait()
		require.Equal(t, []string{"get new/a"}, s.storage.operations())
	})
}

func TestALoadGoesOnWhenItsReaderGivesUp(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.has("new/a", "1")
		s.storage.isLate(get, 2*time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, ok, err := s.Load(ctx, "a")
		require.False(t, ok)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1, s.load("a"), "the next one joins it")
		require.Equal(t, []string{"get new/a"}, s.storage.operations())
	})
}

func TestALoadEndsWithTheMount(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.has("new/a", "1")
		s.storage.isLate(get, time.Hour)
		ctx, unmount := context.WithCancel(t.Context())
		s.ctx = ctx
		time.AfterFunc(time.Second, unmount)
		began := time.Now()
		require.Equal(t, -1, s.load("a"))
		require.Equal(t, time.Second, time.Since(began))
	})
}

// If storage fails, or what it has makes no sense, a reader finds nothing.
func TestLoadFindsNothingThatCannotBeRead(t *testing.T) {
	for name, tc := range map[string]struct {
		stored string
		fails  []string
		log    string
	}{
		"storage fails":       {"1", []string{get}, `[WARN]  a number could not be read from storage: key=new/a error="storage is on fire"`},
		"it makes no sense":   {"pd_secret", nil, `[WARN]  a number could not be read from storage: key=new/a error="not a number"`},
		"the decoder panics":  {"panic", nil, `[ERROR] recovered from a panic: type=string`},
		"it is empty":         {"", nil, `not a number`},
		"it was never stored": {},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			if tc.log != "" {
				s.has("new/a", tc.stored)
			}
			s.storage.fails(tc.fails...)
			require.Equal(t, -1, s.load("a"))
			require.Zero(t, s.Len())
			require.NotContains(t, s.logs.String(), "pd_secret")
			require.Contains(t, s.logs.String(), tc.log)
			require.Equal(t, tc.log == "", s.logs.Len() == 0)
			s.storage.isWell()
			s.put("a", 2)
			s.agree("a", 2)
		})
	}
}

func TestAValueThatCannotBeEncodedIsInMemoryOnly(t *testing.T) {
	s := newStore(t)
	s.codec.Encode = func(int) ([]byte, error) { return nil, errors.New("no such number") }
	s.put("a", 1)
	require.Equal(t, 1, s.inMemory("a"))
	require.Equal(t, -1, s.stored("new/a"))
	require.Contains(t, s.logs.String(), `could not be stored for the next start: key=new/a error="no such number"`)
}

func TestCallsToStorageOfADelete(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare    func(s *store)
		operations []string
	}{
		"nothing there":       {func(*store) {}, []string{"get new/a"}},
		"in memory":           {func(s *store) { s.put("a", 1) }, []string{"delete new/a"}},
		"in storage":          {func(s *store) { s.has("new/a", "1") }, []string{"get new/a", "delete new/a"}},
		"nonsense in storage": {func(s *store) { s.has("new/a", "x") }, []string{"get new/a", "delete new/a"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			tc.prepare(s)
			s.storage.operations()
			s.Delete("a")
			require.Equal(t, tc.operations, s.storage.operations())
			s.agree("a", -1)
		})
	}
	t.Run("storage cannot read it", func(t *testing.T) {
		s := newStore(t)
		s.has("new/a", "1")
		s.storage.fails(get)
		s.Delete("a")
		require.Equal(t, -1, s.stored("new/a"))
	})
}

func TestDeleteIf(t *testing.T) {
	s := newStore(t)
	s.put("a", 1)
	s.DeleteIf(t.Context(), "a", func(n int) bool { return n == 2 })
	s.agree("a", 1)
	s.DeleteIf(t.Context(), "a", func(n int) bool { return n == 1 })
	s.agree("a", -1)

	s.has("new/b", "1")
	s.DeleteIf(t.Context(), "b", func(int) bool { return true })
	require.Equal(t, 1, s.stored("new/b"), "memory does not have it")

	s.put("c", 1)
	s.storage.fails(remove)
	s.DeleteIf(t.Context(), "c", func(int) bool { return true })
	require.Equal(t, -1, s.load("c"))
	s.storage.isWell()
	s.Settle(t.Context())
	require.Equal(t, -1, s.stored("new/c"))
}

func TestReplace(t *testing.T) {
	s := newStore(t)
	s.put("a", 1)
	s.Replace(t.Context(), "a", func(n int) bool { return n == 2 }, 3)
	s.agree("a", 1)
	s.Replace(t.Context(), "a", func(n int) bool { return n == 1 }, 3)
	s.agree("a", 3)

	s.Delete("a")
	s.Replace(t.Context(), "a", func(int) bool { return true }, 4)
	s.agree("a", -1)

	s.put("b", 1)
	s.storage.fails(put)
	s.Replace(t.Context(), "b", func(int) bool { return true }, 2)
	require.Equal(t, 2, s.inMemory("b"), "memory has it in any case")
	require.Equal(t, 1, s.stored("new/b"))
}

func TestSettleStoresWhatCouldNotBeStored(t *testing.T) {
	s := newStore(t)
	s.storage.fails(put)
	s.put("a", 1)
	s.put("b", 2)
	s.storage.operations()
	s.Settle(t.Context())
	require.Len(t, s.storage.operations(), 1, "it stops when storage fails again")
	s.storage.isWell()
	s.Settle(t.Context())
	s.agree("a", 1)
	s.agree("b", 2)
	s.storage.operations()
	s.Settle(t.Context())
	require.Empty(t, s.storage.operations())
}

// A value is replaced while DeleteIf waits. The new value decides.
func TestDeleteIfOfAReplacedValue(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.put("a", 1)
		s.storage.isLate(put, time.Second)
		writer := after(func() { s.put("a", 2) })
		sweep := after(func() { s.DeleteIf(t.Context(), "a", func(n int) bool { return n == 1 }) })
		<-writer
		<-sweep
		s.agree("a", 2)
	})
}

func TestSweep(t *testing.T) {
	odd := func(n int, _ bool) bool { return n%2 == 1 }
	for name, tc := range map[string]struct {
		inMemory, stored string
		after            int
	}{
		"useful in memory":                     {"1", "1", 1},
		"useful in storage":                    {"", "1", 1},
		"useless in memory":                    {"2", "2", -1},
		"useless in storage":                   {"", "2", -1},
		"nonsense in storage":                  {"", "x", -1},
		"useless in memory, useful in storage": {"2", "1", 1},
		"nothing":                              {"", "", -1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			if tc.inMemory != "" {
				s.put("a", int(tc.inMemory[0]-'0'))
			}
			if tc.stored != "" {
				s.has("new/a", tc.stored)
			}
			require.NoError(t, s.Sweep(t.Context(), "a", odd))
			require.Equal(t, tc.after, s.stored("new/a"))
			require.Equal(t, tc.after, s.load("a"))
		})
	}
	t.Run("it says where it found the value", func(t *testing.T) {
		s := newStore(t)
		s.put("a", 1)
		s.has("new/b", "1")
		for k, want := range map[string]bool{"a": true, "b": false} {
			require.NoError(t, s.Sweep(t.Context(), k, func(_ int, inMemory bool) bool {
				require.Equal(t, want, inMemory)
				return true
			}))
		}
	})
	t.Run("it returns the error of storage", func(t *testing.T) {
		for _, operation := range []string{get, remove} {
			s := newStore(t)
			s.has("new/a", "2")
			s.storage.fails(operation)
			require.ErrorIs(t, s.Sweep(t.Context(), "a", odd), errStorage)
			require.Equal(t, 2, s.stored("new/a"))
		}
	})
	t.Run("it ends with its context", func(t *testing.T) {
		inBubble(t, func(t *testing.T, s *store) {
			s.storage.isLate(put, 3*time.Second)
			writer := after(func() { s.put("a", 1) })
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			require.ErrorIs(t, s.Sweep(ctx, "a", odd), context.DeadlineExceeded)
			<-writer
		})
	})
	t.Run("it keeps a value that comes meanwhile", func(t *testing.T) {
		inBubble(t, func(t *testing.T, s *store) {
			s.has("new/a", "2")
			s.storage.isLate(get, time.Second)
			// 1. The sweep looks at a useless value. 2. A useful one comes and waits.
			sweep := after(func() { require.NoError(t, s.Sweep(t.Context(), "a", odd)) })
			writer := after(func() { s.put("a", 3) })
			<-sweep
			<-writer
			s.agree("a", 3)
		})
	})
}

func TestAStoreOfNoValuesPanics(t *testing.T) {
	require.Panics(t, func() {
		New(t.Context(), &lateStorage{}, "", 0, 0, Codec[int]{}, hclog.NewNullLogger)
	})
}

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
