package storetest

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"rtm/store"
)

func TestMemoryKeepsEveryPromise(t *testing.T) {
	Run(t, func(*testing.T) store.Store { return NewMemory() })
}

// recorder is a T that notes its first failure.
type recorder struct{ failure string }

func (r *recorder) Helper() {}
func (r *recorder) Fatalf(format string, args ...any) {
	r.failure = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// broken is Memory with one promise broken.
type broken struct {
	*Memory
	unchecked, loseEvent, loseWake, early, stale bool
	before                                       map[store.Key]store.Record
}

func (b *broken) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	cs = append([]store.Commit(nil), cs...)
	for i := range cs {
		c := &cs[i]
		c.Writes = append([]store.Write(nil), c.Writes...)
		for j := range c.Writes {
			w := &c.Writes[j]
			if b.unchecked && w.Op == store.Put {
				b.mu.Lock()
				w.Seen = b.read(w.Key).Version
				b.mu.Unlock()
			}
			if b.stale {
				b.mu.Lock()
				b.before[w.Key] = b.read(w.Key)
				b.mu.Unlock()
			}
		}
		if b.loseEvent && len(c.Events) > 0 {
			c.Events = c.Events[1:]
		}
		if b.loseWake && c.Index == store.Earlier {
			c.Index = store.Leave
		}
	}
	return b.Memory.Commit(ctx, cs)
}

func (b *broken) Load(ctx context.Context, keys []store.Key) ([]store.Record, error) {
	recs, err := b.Memory.Load(ctx, keys)
	for i, k := range keys {
		if old, ok := b.before[k]; ok {
			recs[i] = old
		}
	}
	return recs, err
}

func (b *broken) Due(ctx context.Context, ps []store.Partition, n int, lease time.Duration) ([]store.Due, time.Time, time.Time, error) {
	if b.early {
		b.mu.Lock()
		for k, w := range b.wakes {
			b.wakes[k] = wake{w.at.Add(-100 * time.Millisecond), w.leased}
		}
		b.mu.Unlock()
	}
	return b.Memory.Due(ctx, ps, n, lease)
}

func TestTheSuiteNamesTheBrokenPromise(t *testing.T) {
	for name, c := range map[string]struct {
		broken  broken
		promise string
	}{
		"no version check":        {broken{unchecked: true}, "a conflict changes nothing"},
		"lost event":              {broken{loseEvent: true}, "events come in order, each once"},
		"lost wake-up":            {broken{loseWake: true}, "a wake-up is due at its time"},
		"early due":               {broken{early: true}, "a wake-up is due at its time and not before"},
		"stale read after commit": {broken{stale: true, before: map[store.Key]store.Record{}}, "what is written is read"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, p := range Promises {
				s := c.broken
				s.Memory = NewMemory()
				if s.stale {
					s.before = make(map[store.Key]store.Record)
				}
				r := &recorder{}
				done := make(chan struct{})
				go func() {
					defer close(done)
					p.Try(r, &s)
				}()
				<-done
				if r.failure != "" && strings.HasPrefix(p.Name, c.promise) {
					return
				}
			}
			t.Errorf("nobody says %q", c.promise)
		})
	}
}
