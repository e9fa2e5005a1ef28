package embed

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"rtm/store"
)

// head is what the committer knows of a record: enough to check it.
type head struct {
	version   store.Version
	expiry    int64
	wake      int64 // its entry in the time index, 0: none
	armed     bool  // wake is known
	contended uint8 // the largest mark of those refused on it since the last one that was done
}

// heads remembers the heads of records, the newest ones for sure: when one half
// is full the older half is forgotten.
type heads struct{ young, old map[string]*head }

func (h *heads) get(key []byte) *head {
	if e := h.young[string(key)]; e != nil {
		return e
	}
	e := h.old[string(key)]
	if e != nil {
		h.put(string(key), e)
	}
	return e
}

func (h *heads) put(key string, e *head) {
	if h.young == nil || len(h.young) >= cacheMax {
		h.old, h.young = h.young, make(map[string]*head)
	}
	h.young[key] = e
}

func appendKey(b []byte, k store.Key) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(k.Partition))
	return append(append(b, k.Kind), k.Name...)
}

func eventKey(p store.Partition, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(partitionKey('e', p), seq)
}

func partitionKey(kind byte, p store.Partition) []byte { return []byte{kind, byte(p >> 8), byte(p)} }

// after is the first key behind all that begin with prefix.
func after(prefix []byte) []byte {
	b := append([]byte(nil), prefix...)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			return b[:i+1]
		}
	}
	return nil
}

// commit is the committer: it decides all that waits as one group, hands the
// group to finish, and goes on while that waits for the disk.
func (s *Store) commit() {
	defer s.done.Done()
	defer close(s.groups)
	sweep := time.NewTimer(sweepEvery)
	defer sweep.Stop()
	for open := true; open; {
		select {
		case _, open = <-s.wake:
		case <-sweep.C:
			if s.sweep() {
				sweep.Reset(sweepAgain)
			} else {
				sweep.Reset(sweepEvery)
			}
			continue
		}
		if g := s.decide(); len(g.requests) > 0 {
			s.groups <- g
		}
	}
}

// take empties the queue. Whoever gives up one of these waits for mu, which is
// held until they are decided: their memory is the caller's again after that.
func (s *Store) take() []*request {
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	requests := s.queue
	s.queue = nil
	for _, r := range requests {
		r.taken = true
	}
	return requests
}

// decide checks and applies the commits of all requests that wait, in their
// order.
func (s *Store) decide() *group {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests := s.take()
	g := &group{requests: requests}
	s.batch = s.db.NewBatch()
	now := s.clock.now()
	for _, r := range requests {
		r.now = now
		for i := range r.cs {
			r.rs[i] = s.one(&r.cs[i], now, g)
		}
	}
	if s.batch.Empty() {
		s.batch.Close()
		return g
	}
	g.batch = s.batch
	if err := s.db.ApplyNoSyncWait(s.batch, pebble.Sync); err != nil {
		s.fail(err)
	}
	return g
}

// one carries out a commit in the open batch, or refuses it.
func (s *Store) one(c *store.Commit, now time.Time, g *group) store.Result {
	if err := c.Check(); err != nil {
		return store.Result{Outcome: store.Refused, Err: err}
	}
	var found [store.WritesMax]*head
	same := true
	for i := range c.Writes {
		h, err := s.head(c.Writes[i].Key)
		if err != nil {
			return store.Result{Outcome: store.Refused, Err: err}
		}
		found[i] = h
		same = same && h.seen(now) == c.Writes[i].Seen
	}
	if !same {
		found[0].contended = max(found[0].contended, c.Distance, 1)
		return s.conflict(c)
	}
	r := store.Result{Outcome: store.Done, Contended: found[0].contended}
	found[0].contended = c.Left(found[0].contended)
	for i := range c.Writes {
		s.write(&c.Writes[i], found[i], now)
	}
	s.arm(c, found[0])
	p := c.Writes[0].Key.Partition
	for _, e := range c.Events {
		seq := s.next[p]
		s.next[p]++
		op := s.batch.SetDeferred(11, len(e))
		copy(op.Key, partitionKey('e', p))
		binary.BigEndian.PutUint64(op.Key[3:], seq)
		copy(op.Value, e)
		op.Finish()
		g.events = append(g.events, eventMark{p, seq})
	}
	return r
}

// seen is the version a reader has now.
func (h *head) seen(now time.Time) store.Version {
	if h.expiry != 0 && h.expiry <= now.UnixMilli() {
		return store.Version{}
	}
	return h.version
}

// head finds what a record's check needs: remembered, or read.
func (s *Store) head(k store.Key) (*head, error) {
	s.scratch = appendKey(append(s.scratch[:0], 'r'), k)
	if h := s.heads.get(s.scratch); h != nil {
		return h, nil
	}
	h := &head{}
	v, closer, err := s.db.Get(s.scratch)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
	case err != nil:
		return nil, err
	default:
		if len(v) >= header {
			h.version, h.expiry = store.Version(v[:8]), int64(binary.BigEndian.Uint64(v[8:]))
		}
		closer.Close()
	}
	s.heads.put(string(s.scratch), h)
	return h, nil
}

// conflict answers with the records as they are, what this group wrote included.
func (s *Store) conflict(c *store.Commit) store.Result {
	fresh := make([]store.Record, len(c.Writes))
	for i := range c.Writes {
		v, err := s.current(c.Writes[i].Key)
		if err != nil {
			return store.Result{Outcome: store.Refused, Err: err}
		}
		fresh[i] = s.record(v)
	}
	return store.Result{Outcome: store.Conflict, Fresh: fresh}
}

// current is the value of a record, from the open batch before the store: the
// last write of it in the batch counts.
func (s *Store) current(k store.Key) (v []byte, err error) {
	key := appendKey([]byte{'r'}, k)
	inBatch := false
	if !s.batch.Empty() {
		for r := s.batch.Reader(); ; {
			kind, ukey, value, ok, rerr := r.Next()
			if rerr != nil {
				return nil, rerr
			}
			if !ok {
				break
			}
			if string(ukey) == string(key) {
				inBatch, v = true, value
				if kind == pebble.InternalKeyKindDelete {
					v = nil
				}
			}
		}
	}
	if inBatch {
		return v, nil
	}
	value, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	return append([]byte(nil), value...), nil
}

func (s *Store) write(w *store.Write, h *head, now time.Time) {
	switch w.Op {
	case store.Check:
		return
	case store.Delete:
		h.version, h.expiry = store.Version{}, 0
		s.batch.Delete(appendKey(append(s.scratch[:0], 'r'), w.Key), nil)
		return
	case store.Put:
	}
	h.version, h.expiry = w.New, 0
	if w.Expire > 0 {
		h.expiry = now.Add(w.Expire).UnixMilli() + 1
		s.batch.Set(timedKey('x', h.expiry, w.Key), nil, nil)
	}
	op := s.batch.SetDeferred(4+len(w.Key.Name), header+len(w.Bytes))
	appendKey(append(op.Key[:0], 'r'), w.Key)
	copy(op.Value, w.New[:])
	binary.BigEndian.PutUint64(op.Value[8:], uint64(h.expiry))
	copy(op.Value[header:], w.Bytes)
	op.Finish()
}

// timedKey is a key that sorts by time.
func timedKey(kind byte, at int64, k store.Key) []byte {
	b := make([]byte, 0, 12+len(k.Name))
	b = binary.BigEndian.AppendUint64(append(b, kind), uint64(at))
	return appendKey(b, k)
}

// arm sets, moves or removes the time index's entry of a commit's first record.
func (s *Store) arm(c *store.Commit, h *head) {
	if c.Index == store.Leave {
		return
	}
	k := c.Writes[0].Key
	if !h.armed {
		h.wake, h.armed = s.armedAt(k), true
	}
	wake := int64(0)
	if !c.Wake.IsZero() {
		wake = c.Wake.UnixMilli()
	}
	if c.Index == store.Earlier && (wake == 0 || h.wake != 0 && h.wake <= wake) {
		return
	}
	index := appendKey([]byte{'i'}, k)
	if h.wake != 0 {
		old := timedKey('w', h.wake, k)
		delete(s.leases, string(old))
		s.batch.Delete(old, nil)
	}
	h.wake = wake
	if wake == 0 {
		s.batch.Delete(index, nil)
		return
	}
	s.batch.Set(index, binary.BigEndian.AppendUint64(nil, uint64(wake)), nil)
	s.batch.Set(timedKey('w', wake, k), nil, nil)
	s.low = min(s.low, wake)
}

// armedAt reads the entry of a record that is not remembered. The open batch
// cannot hold it: what that wrote is remembered.
func (s *Store) armedAt(k store.Key) int64 {
	v, closer, err := s.db.Get(appendKey([]byte{'i'}, k))
	if err != nil {
		return 0
	}
	defer closer.Close()
	return int64(binary.BigEndian.Uint64(v))
}

// finish waits for the sync of each group, in order, and lets its results go:
// so what only checks is answered when all that it saw is on disk.
func (s *Store) finish() {
	defer s.done.Done()
	for g := range s.groups {
		if g.batch != nil {
			if err := g.batch.SyncWait(); err != nil {
				s.fail(err)
			}
			g.batch.Close()
		}
		if s.gate.Load() {
			for _, r := range g.requests {
				for i := range r.rs {
					r.rs[i] = store.Result{Outcome: store.InDoubt, Err: store.ErrClosed}
				}
			}
		}
		for _, e := range g.events {
			s.durable[e.partition].Store(e.seq)
		}
		for _, r := range g.requests {
			close(r.done)
		}
	}
}

// sweep removes some of what has expired, and notes the time. more: that was
// not all.
func (s *Store) sweep() (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.now()
	b := s.db.NewBatch()
	defer b.Close()
	s.setMeta(b, "time", now.UnixMilli())
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: binary.BigEndian.AppendUint64([]byte{'x'}, uint64(s.swept)), UpperBound: binary.BigEndian.AppendUint64([]byte{'x'}, uint64(now.UnixMilli())),
	})
	if err != nil {
		return false
	}
	defer it.Close()
	for ok, n := it.First(), 0; ok; ok, n = it.Next(), n+1 {
		if n == sweepMax {
			more = true
			break
		}
		key := append([]byte{'r'}, it.Key()[9:]...)
		at := int64(binary.BigEndian.Uint64(it.Key()[1:]))
		s.swept = at
		b.Delete(append([]byte(nil), it.Key()...), nil)
		v, closer, err := s.db.Get(key)
		if err != nil {
			continue
		}
		if len(v) >= header && int64(binary.BigEndian.Uint64(v[8:])) == at {
			b.Delete(key, nil)
			if h := s.heads.get(key); h != nil {
				h.version, h.expiry = store.Version{}, 0
			}
		}
		closer.Close()
	}
	if err := s.db.Apply(b, pebble.NoSync); err != nil {
		s.fail(err)
	}
	return more
}
