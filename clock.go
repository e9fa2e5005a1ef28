package rtm

import (
	"hash/maphash"
	"sync"
	"time"

	"rtm/store"
)

// A clock is a store.Clock over the machine's monotonic one.
type clock struct {
	base  time.Time  // when it was started, with its monotonic reading
	mu    sync.Mutex // guards known
	known store.Clock
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base.Round(0).Add(c.known.Now(time.Since(c.base)))
}

// learn takes the store's time from an operation between before and after.
func (c *clock) learn(before, after, at time.Time) {
	if at.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known.Learn(before.Sub(c.base), after.Sub(c.base), at.Round(0).Sub(c.base.Round(0)))
}

// Moved tells the instance that its store lies elsewhere now: what it knows of the
// clock there is forgotten with the next answer.
func (n *Instance) Moved() {
	n.clock.mu.Lock()
	defer n.clock.mu.Unlock()
	n.clock.known.Forget()
}

// Offset is how far the store's clock is ahead of the machine's.
func (n *Instance) Offset() time.Duration {
	n.clock.mu.Lock()
	defer n.clock.mu.Unlock()
	return n.clock.known.Now(0)
}

// hints remember which account an identity had. They may be wrong without
// harm: the account's record is the truth.
type hints struct {
	seed    maphash.Seed
	stripes [16]struct {
		mu sync.Mutex // guards of
		of map[string]store.Key
	}
}

// hintsMax bounds what one of the 16 stripes remembers; then it begins anew.
const hintsMax = 8192

func (h *hints) init() {
	h.seed = maphash.MakeSeed()
	for i := range h.stripes {
		h.stripes[i].of = make(map[string]store.Key)
	}
}

func (h *hints) stripe(id string) int {
	return int(maphash.String(h.seed, id) % uint64(len(h.stripes)))
}

func (h *hints) get(id string) (store.Key, bool) {
	if id == "" {
		return store.Key{}, false
	}
	s := &h.stripes[h.stripe(id)]
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.of[id]
	return k, ok
}

func (h *hints) drop(id string) {
	s := &h.stripes[h.stripe(id)]
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of, id)
}

func (h *hints) put(id string, k store.Key) {
	s := &h.stripes[h.stripe(id)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.of) >= hintsMax {
		clear(s.of)
	}
	s.of[id] = k
}
