package embed

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/goleak"

	"rtm/store"
	"rtm/store/storetest"
)

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	defer goleak.VerifyNone(t)
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, t.TempDir()) })
}

// Who gives a commit up while the committer is kept from it is told that
// nothing was changed, and owns its memory again: nothing of it is ever written.
func TestGivenUpBeforeItIsDecided(t *testing.T) {
	s := open(t, t.TempDir())
	key := store.Key{Partition: 7, Kind: 'a', Name: "alice"}
	bytes := []byte("as it was")
	commits := []store.Commit{{Writes: []store.Write{{Op: store.Put, Key: key, New: store.Version{1}, Bytes: bytes}}}}
	s.mu.Lock() // as a long look for due wake-ups would
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	given := make(chan []store.Result)
	go func() {
		rs, _ := s.Commit(ctx, commits)
		given <- rs
	}()
	<-ctx.Done()
	<-time.After(50 * time.Millisecond)
	s.mu.Unlock()
	if rs := <-given; rs[0].Outcome != store.Refused {
		t.Errorf("%v (%v): the committer had not begun", rs[0].Outcome, rs[0].Err)
	}
	copy(bytes, "something")
	if rs, _ := s.Commit(t.Context(), []store.Commit{{Writes: []store.Write{{Op: store.Check, Key: key}}}}); rs[0].Outcome != store.Done {
		t.Errorf("%v: it was written after it was refused", rs[0].Outcome)
	}
}

// What has expired leaves the disk faster than it can come.
func TestTheSweepKeepsUp(t *testing.T) {
	s := open(t, t.TempDir())
	const records = 20_000
	for n := 0; n < records; n += 100 {
		cs := make([]store.Commit, 100)
		for i := range cs {
			key := store.Key{Partition: store.Partition((n + i) % store.Partitions), Kind: 'c', Name: fmt.Sprint(n + i)}
			cs[i].Writes = []store.Write{{Op: store.Put, Key: key, New: store.Version{1}, Bytes: make([]byte, 200), Expire: time.Millisecond}}
		}
		s.Commit(t.Context(), cs)
	}
	left := func() (n int) {
		for _, kind := range []byte{'r', 'x'} {
			it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kind}, UpperBound: []byte{kind + 1}})
			if err != nil {
				t.Fatal(err)
			}
			for ok := it.First(); ok; ok = it.Next() {
				n++
			}
			it.Close()
		}
		return n
	}
	for deadline := time.Now().Add(10 * time.Second); left() > 0; <-time.After(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d are still there", left(), 2*records)
		}
	}
}

// Whoever reads while the store is closed gets its records, or is told.
func TestClosedWhileReading(t *testing.T) {
	for range 20 {
		s, err := Open(Config{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		for reader := range 4 {
			go func() {
				for {
					var err error
					switch reader {
					case 0:
						_, err = s.Load(t.Context(), []store.Key{{Kind: 'a', Name: "a"}})
					case 1:
						_, _, _, err = s.Due(t.Context(), nil, 1, time.Second)
					case 2:
						_, _, _, err = s.Scan(t.Context(), nil, 1)
					case 3:
						err = s.Trim(t.Context(), 1, 1)
					}
					if err != nil {
						ended <- err
						return
					}
				}
			}()
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for range 4 {
			if err := <-ended; !errors.Is(err, store.ErrClosed) {
				t.Error(err)
			}
		}
	}
}
