package embed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"rtm/store"
)

// Bounds of a part of a walk.
const (
	partMax   = 2048    // copies or events
	partBytes = 1 << 20 // … and their octets, roughly
)

// Receive opens a directory to be filled, and marks it so under that id. What an
// earlier try left is removed, also that of the move old (see store.MayEmpty); a
// store with records is refused. Nobody else can open it meanwhile.
func Receive(c Config, id, old string) (*Store, error) {
	s, err := openDir(c, false, true)
	if err != nil {
		return nil, err
	}
	if err := s.receive(context.Background(), id, old); err != nil {
		s.Close()
		return nil, fmt.Errorf("fill %s: %w", c.Dir, err)
	}
	return s, nil
}

func (s *Store) receive(ctx context.Context, id, old string) error {
	mark, err := s.Mark(ctx)
	if err != nil {
		return err
	}
	anew := store.MayEmpty(mark, old)
	if err := store.InService(mark); err != nil && !anew {
		return err
	}
	switch empty, err := s.empty(); {
	case err != nil:
		return err
	case !empty && !anew:
		return fmt.Errorf("%w: name another directory, or move this one away", store.ErrNotEmpty)
	}
	if err := s.SetMark(ctx, mark, store.Filling(id)); err != nil || !anew {
		return err
	}
	return s.clear()
}

// Marked opens a directory whatever its mark says, to read or write that. Where
// there is no store, the error is fs.ErrNotExist.
func Marked(c Config) (*Store, error) {
	if _, err := os.Stat(filepath.Join(c.Dir, "LOCK")); err != nil {
		return nil, fmt.Errorf("open %s: %w", c.Dir, fs.ErrNotExist)
	}
	return openDir(c, false, true)
}

// empty reports whether no record and no event was ever written.
func (s *Store) empty() (bool, error) {
	for _, kind := range []byte{'r', 'e', 'l', 'q'} {
		it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kind}, UpperBound: []byte{kind + 1}})
		if err != nil {
			return false, err
		}
		found := it.First()
		if err := errors.Join(it.Error(), it.Close()); found || err != nil {
			return false, err
		}
	}
	return true, nil
}

// clear removes everything but what m… says.
func (s *Store) clear() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.db.NewBatch()
	defer b.Close()
	b.DeleteRange([]byte{'e'}, []byte{'m'}, nil)
	b.DeleteRange([]byte{'n'}, []byte{'z'}, nil)
	if err := s.db.Apply(b, pebble.Sync); err != nil {
		return err
	}
	s.heads, s.low = heads{}, 0
	clear(s.leases)
	for p := range s.next {
		s.next[p], s.trimmed[p] = 1, 0
		s.durable[p].Store(0)
	}
	return nil
}

var markKey = []byte("mmark")

// Mark implements store.Portable.
func (s *Store) Mark(context.Context) (string, error) {
	if !s.enter() {
		return "", store.ErrClosed
	}
	defer s.reading.RUnlock()
	v, closer, err := s.db.Get(markKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer closer.Close()
	return string(v), nil
}

// SetMark implements store.Portable. Its sync takes all that was filled before
// to disk.
func (s *Store) SetMark(ctx context.Context, was, mark string) error {
	s.marking.Lock()
	defer s.marking.Unlock()
	found, err := s.Mark(ctx)
	if err != nil {
		return err
	}
	if found != was && found != mark {
		return fmt.Errorf("%w: it is marked %q", store.ErrMark, found)
	}
	if !s.enter() {
		return store.ErrClosed
	}
	defer s.reading.RUnlock()
	if mark == "" {
		return s.db.Delete(markKey, pebble.Sync)
	}
	return s.db.Set(markKey, []byte(mark), pebble.Sync)
}

// inService refuses a store that no server may use.
func (s *Store) inService() error {
	mark, err := s.Mark(context.Background())
	if err != nil {
		return err
	}
	return store.InService(mark)
}

// Walk implements store.Portable: it reads a snapshot, which is of one moment.
func (s *Store) Walk(ctx context.Context, each func(*store.Part) error) (at time.Time, whole bool, err error) {
	if !s.enter() {
		return at, true, store.ErrClosed
	}
	s.mu.Lock() // between two groups
	at = s.clock.now()
	next := s.next
	snap := s.db.NewSnapshot()
	s.mu.Unlock()
	s.walksMu.Lock()
	if s.walks == nil {
		s.walks = make(map[*pebble.Snapshot]bool)
	}
	s.walks[snap] = true
	s.walksMu.Unlock()
	s.reading.RUnlock()
	defer s.endWalk(snap)
	w := walk{s: s, snap: snap, at: at}
	if err := w.records(ctx, each); err != nil {
		return at, true, err
	}
	return at, true, w.streams(ctx, next[:], each)
}

// endWalk lets a snapshot go, unless Close has.
func (s *Store) endWalk(snap *pebble.Snapshot) {
	s.walksMu.Lock()
	defer s.walksMu.Unlock()
	if s.walks[snap] {
		delete(s.walks, snap)
		snap.Close()
	}
}

// endWalks lets all snapshots go; the walks end with ErrClosed.
func (s *Store) endWalks() {
	s.walksMu.Lock()
	defer s.walksMu.Unlock()
	for snap := range s.walks {
		snap.Close()
	}
	clear(s.walks)
}

// A walk reads a snapshot in parts. Between them the store may be closed.
type walk struct {
	s    *Store
	snap *pebble.Snapshot
	at   time.Time
	part store.Part
	size int
}

// piece reads one part from the keys between from and to: take gets each and
// says when the part is full. rest is where to go on, nil at the end.
func (w *walk) piece(from, to []byte, take func(key, value []byte) (full bool)) (rest []byte, err error) {
	if !w.s.enter() {
		return nil, store.ErrClosed
	}
	defer w.s.reading.RUnlock()
	it, err := w.snap.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, err
		}
		if take(it.Key(), v) {
			return append(append([]byte(nil), it.Key()...), 0), nil
		}
	}
	return nil, it.Error()
}

func (w *walk) records(ctx context.Context, each func(*store.Part) error) error {
	for from := []byte{'r'}; from != nil; {
		if err := ctx.Err(); err != nil {
			return err
		}
		w.part.Copies, w.size = w.part.Copies[:0], 0
		rest, err := w.piece(from, []byte{'s'}, func(key, v []byte) bool {
			if c, ok := copyOf(keyOf(key[1:]), v, w.at); ok {
				w.part.Copies = append(w.part.Copies, c)
				w.size += len(v) + len(key)
			}
			return len(w.part.Copies) >= partMax || w.size >= partBytes
		})
		if err == nil {
			err = w.wakes()
		}
		if err == nil && len(w.part.Copies) > 0 {
			err = each(&w.part)
		}
		if err != nil {
			return err
		}
		from = rest
	}
	return nil
}

// copyOf is the record that a value holds, if it has not expired by then.
func copyOf(k store.Key, v []byte, at time.Time) (c store.Copy, ok bool) {
	c.Key = k
	if len(v) < header {
		return c, false
	}
	if e := int64(binary.BigEndian.Uint64(v[8:])); e != 0 {
		if c.Expire = time.UnixMilli(e).Sub(at); c.Expire <= 0 {
			c.Expire = 0
			return c, false
		}
	}
	c.Version, c.Bytes = store.Version(v[:8]), append([]byte(nil), v[header:]...)
	return c, true
}

// wakes gives the copies of a part, which are in order, their wake-up times.
func (w *walk) wakes() error {
	cs := w.part.Copies
	if len(cs) == 0 {
		return nil
	}
	i, key := 0, appendKey([]byte{'i'}, cs[0].Key)
	last := append(appendKey([]byte{'i'}, cs[len(cs)-1].Key), 0)
	_, err := w.piece(append([]byte(nil), key...), last, func(k, v []byte) bool {
		for ; i < len(cs); i++ {
			key = appendKey(append(key[:0], 'i'), cs[i].Key)
			if string(key) >= string(k) {
				break
			}
		}
		if i < len(cs) && string(key) == string(k) {
			cs[i].Wake = time.UnixMilli(int64(binary.BigEndian.Uint64(v))).UTC()
		}
		return false
	})
	return err
}

// streams hands on the events of all partitions, each with the last number that
// it had given out.
func (w *walk) streams(ctx context.Context, next []uint64, each func(*store.Part) error) error {
	w.part.Copies = nil
	for from := []byte{'e'}; from != nil; {
		if err := ctx.Err(); err != nil {
			return err
		}
		w.part.Streams, w.size = w.part.Streams[:0], 0
		n := 0
		rest, err := w.piece(from, []byte{'f'}, func(key, v []byte) bool {
			p := store.Partition(binary.BigEndian.Uint16(key[1:]))
			if l := len(w.part.Streams); l == 0 || w.part.Streams[l-1].Partition != p {
				w.part.Streams = append(w.part.Streams, store.Stream{Partition: p})
			}
			st := &w.part.Streams[len(w.part.Streams)-1]
			st.Events = append(st.Events, store.Event{Seq: binary.BigEndian.Uint64(key[3:]), Bytes: append([]byte(nil), v...)})
			n, w.size = n+1, w.size+len(v)
			return n >= partMax || w.size >= partBytes
		})
		if err == nil && n > 0 {
			err = each(&w.part)
		}
		if err != nil {
			return err
		}
		from = rest
	}
	w.part.Streams = w.part.Streams[:0]
	for p := range next {
		if next[p] > 1 {
			w.part.Streams = append(w.part.Streams, store.Stream{Partition: store.Partition(p), Last: next[p] - 1})
		}
	}
	if len(w.part.Streams) == 0 {
		return nil
	}
	return each(&w.part)
}

// Copies implements store.Portable.
func (s *Store) Copies(_ context.Context, keys []store.Key) ([]store.Copy, error) {
	if !s.enter() {
		return nil, store.ErrClosed
	}
	defer s.reading.RUnlock()
	now := s.clock.now()
	cs := make([]store.Copy, len(keys))
	var buf []byte
	for i, k := range keys {
		cs[i].Key = k
		buf = appendKey(append(buf[:0], 'r'), k)
		v, closer, err := s.db.Get(buf)
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", k, err)
		}
		var there bool
		cs[i], there = copyOf(k, v, now)
		closer.Close()
		if wake := s.armedAt(k); there && wake != 0 {
			cs[i].Wake = time.UnixMilli(wake).UTC()
		}
	}
	return cs, nil
}

// Stream implements store.Portable.
func (s *Store) Stream(ctx context.Context, p store.Partition, after uint64, n int) (store.Stream, error) {
	last := s.durable[p].Load()
	events, err := s.Events(ctx, p, after, n)
	return store.Stream{Partition: p, Events: events, Last: last}, err
}

// Fill implements store.Portable.
func (s *Store) Fill(_ context.Context, part *store.Part) error {
	if !s.enter() {
		return store.ErrClosed
	}
	defer s.reading.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.db.NewBatch()
	defer b.Close()
	now := s.clock.now()
	for i := range part.Copies {
		s.fill(b, &part.Copies[i], now)
	}
	for i := range part.Streams {
		st := &part.Streams[i]
		p := st.Partition
		last := max(st.Last, s.next[p]-1)
		for _, e := range st.Events {
			b.Set(eventKey(p, e.Seq), e.Bytes, nil)
			last = max(last, e.Seq)
		}
		b.Set(partitionKey('l', p), binary.BigEndian.AppendUint64(nil, last), nil)
		s.next[p] = last + 1
		s.durable[p].Store(last)
	}
	s.heads = heads{}
	return s.db.Apply(b, pebble.NoSync)
}

// fill writes one record and its entry in the time index.
func (s *Store) fill(b *pebble.Batch, c *store.Copy, now time.Time) {
	index := appendKey([]byte{'i'}, c.Key)
	if was := s.armedAt(c.Key); was != 0 {
		old := timedKey('w', was, c.Key)
		delete(s.leases, string(old))
		b.Delete(old, nil)
		b.Delete(index, nil)
	}
	key := appendKey([]byte{'r'}, c.Key)
	if c.Version == (store.Version{}) {
		b.Delete(key, nil)
		return
	}
	expiry := int64(0)
	if c.Expire > 0 {
		expiry = now.Add(c.Expire).UnixMilli() + 1
		b.Set(timedKey('x', expiry, c.Key), nil, nil)
	}
	v := make([]byte, header, header+len(c.Bytes))
	copy(v, c.Version[:])
	binary.BigEndian.PutUint64(v[8:], uint64(expiry))
	b.Set(key, append(v, c.Bytes...), nil)
	if c.Wake.IsZero() {
		return
	}
	wake := c.Wake.UnixMilli()
	b.Set(index, binary.BigEndian.AppendUint64(nil, uint64(wake)), nil)
	b.Set(timedKey('w', wake, c.Key), nil, nil)
	s.low = min(s.low, wake)
}

var _ store.Portable = (*Store)(nil)
