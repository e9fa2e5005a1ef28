package embed

import (
	"context"
	"testing"
	"time"

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
