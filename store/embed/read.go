package embed

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"rtm/store"
)

// Due implements store.Store. Leases are in memory: after a restart everything
// that is due is due at once.
func (s *Store) Due(_ context.Context, ps []store.Partition, n int, lease time.Duration) (due []store.Due, next, now time.Time, err error) {
	if !s.enter() {
		return nil, next, s.clock.now(), store.ErrClosed
	}
	defer s.reading.RUnlock()
	var wanted map[store.Partition]bool
	if ps != nil {
		wanted = make(map[store.Partition]bool, len(ps))
		for _, p := range ps {
			wanted[p] = true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now = s.clock.now()
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: binary.BigEndian.AppendUint64([]byte{'w'}, uint64(s.low)), UpperBound: []byte{'x'},
	})
	if err != nil {
		return nil, next, now, err
	}
	defer it.Close()
	ms := now.UnixMilli()
	first := true
	for ok := it.First(); ok; ok = it.Next() {
		at := int64(binary.BigEndian.Uint64(it.Key()[1:]))
		if first {
			s.low, first = at, false
		}
		k := keyOf(it.Key()[9:])
		if wanted != nil && !wanted[k.Partition] {
			continue
		}
		until := max(at, s.leases[string(it.Key())])
		if until <= ms && len(due) < n {
			due = append(due, store.Due{Key: k, Wake: time.UnixMilli(at).UTC()})
			until = ms + lease.Milliseconds()
			s.leases[string(it.Key())] = until
		}
		if next.IsZero() || until < next.UnixMilli() {
			next = time.UnixMilli(until).UTC()
		}
		if at > ms || len(due) == n && until <= ms {
			break
		}
	}
	return due, next, now, it.Error()
}

// keyOf is the inverse of appendKey.
func keyOf(b []byte) store.Key {
	return store.Key{Partition: store.Partition(binary.BigEndian.Uint16(b)), Kind: b[2], Name: string(b[3:])}
}

// Events implements store.Store.
func (s *Store) Events(_ context.Context, p store.Partition, afterSeq uint64, n int) ([]store.Event, error) {
	if !s.enter() {
		return nil, store.ErrClosed
	}
	defer s.reading.RUnlock()
	last := s.durable[p].Load()
	if last <= afterSeq {
		return nil, nil
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: eventKey(p, afterSeq+1), UpperBound: eventKey(p, last+1)})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var events []store.Event
	for ok := it.First(); ok && len(events) < n; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, err
		}
		events = append(events, store.Event{Seq: binary.BigEndian.Uint64(it.Key()[3:]), Bytes: append([]byte(nil), v...)})
	}
	return events, it.Error()
}

// Trim implements store.Store.
func (s *Store) Trim(_ context.Context, p store.Partition, upTo uint64) error {
	if !s.enter() {
		return store.ErrClosed
	}
	defer s.reading.RUnlock()
	upTo = min(upTo, s.durable[p].Load())
	if upTo == 0 {
		return nil
	}
	s.trimMu.Lock()
	defer s.trimMu.Unlock()
	from := s.trimmed[p]
	if from >= upTo {
		return nil
	}
	b := s.db.NewBatch()
	defer b.Close()
	if upTo-from > trimMax {
		b.DeleteRange(eventKey(p, 0), eventKey(p, upTo+1), nil)
	} else { // range tombstones slow every Get down while they are in memory
		for seq := from + 1; seq <= upTo; seq++ {
			b.Delete(eventKey(p, seq), nil)
		}
	}
	b.Set(partitionKey('q', p), binary.BigEndian.AppendUint64(nil, upTo), nil)
	if err := s.db.Apply(b, pebble.NoSync); err != nil {
		return err
	}
	s.trimmed[p] = upTo
	return nil
}

// Scan implements store.Store; the cursor is the key to go on from.
func (s *Store) Scan(_ context.Context, cursor []byte, n int) (ks []store.Key, rs []store.Record, next []byte, err error) {
	if !s.enter() {
		return nil, nil, nil, store.ErrClosed
	}
	defer s.reading.RUnlock()
	if len(cursor) == 0 {
		cursor = []byte{'r'}
	}
	if cursor[0] != 'r' {
		return nil, nil, nil, store.ErrCursor
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: cursor, UpperBound: []byte{'s'}})
	if err != nil {
		return nil, nil, nil, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if len(ks) >= max(n, 1) {
			return ks, rs, append([]byte(nil), it.Key()...), nil
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, nil, nil, err
		}
		if r := s.record(v); r.Version != (store.Version{}) {
			ks, rs = append(ks, keyOf(it.Key()[1:])), append(rs, r)
		}
	}
	return ks, rs, nil, it.Error()
}
