// Package storetest holds every store to the promises of package store: one
// suite, a subtest per promise. It also has the simplest store that keeps them,
// so that the suite itself can be tried on stores that break them. It does not
// know any backend.
package storetest

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"rtm/store"
)

// Memory is a store in maps. It keeps every promise but durability.
type Memory struct {
	mu      sync.Mutex // guards all below
	records map[store.Key]*entry
	wakes   map[store.Key]wake
	streams map[store.Partition]*stream
	closed  bool
}

type entry struct {
	store.Record
	expires   time.Time
	contended uint8
}

type wake struct{ at, leased time.Time }

type stream struct {
	last   uint64
	events []store.Event
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{records: make(map[store.Key]*entry), wakes: make(map[store.Key]wake), streams: make(map[store.Partition]*stream)}
}

func (m *Memory) at(k store.Key) *entry {
	e := m.records[k]
	if e == nil || !e.expires.IsZero() && !time.Now().Before(e.expires) {
		return nil
	}
	return e
}

func (m *Memory) read(k store.Key) store.Record {
	if e := m.at(k); e != nil {
		return store.Record{Version: e.Version, Bytes: slices.Clone(e.Bytes)}
	}
	return store.Record{}
}

// Load implements store.Store.
func (m *Memory) Load(_ context.Context, keys []store.Key) ([]store.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, store.ErrClosed
	}
	recs := make([]store.Record, len(keys))
	for i, k := range keys {
		recs[i] = m.read(k)
	}
	return recs, nil
}

// Commit implements store.Store.
func (m *Memory) Commit(_ context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rs := make([]store.Result, len(cs))
	for i := range cs {
		rs[i] = m.one(&cs[i])
	}
	return rs, time.Now()
}

func (m *Memory) one(c *store.Commit) store.Result {
	if m.closed {
		return store.Result{Outcome: store.Refused, Err: store.ErrClosed}
	}
	if err := c.Check(); err != nil {
		return store.Result{Outcome: store.Refused, Err: err}
	}
	fresh, same := make([]store.Record, len(c.Writes)), true
	for i, w := range c.Writes {
		fresh[i] = m.read(w.Key)
		same = same && fresh[i].Version == w.Seen
	}
	first := m.at(c.Writes[0].Key)
	if !same {
		if first != nil {
			first.contended = max(first.contended, c.Distance, 1)
		}
		return store.Result{Outcome: store.Conflict, Fresh: fresh}
	}
	r := store.Result{Outcome: store.Done}
	if first != nil {
		r.Contended = first.contended
	}
	for _, w := range c.Writes {
		switch w.Op {
		case store.Check:
		case store.Delete:
			delete(m.records, w.Key)
		case store.Put:
			e := &entry{Record: store.Record{Version: w.New, Bytes: slices.Clone(w.Bytes)}}
			if w.Expire > 0 {
				e.expires = time.Now().Add(w.Expire)
			}
			m.records[w.Key] = e
		}
	}
	if first = m.at(c.Writes[0].Key); first != nil {
		first.contended = c.Left(r.Contended)
	}
	m.arm(c)
	s := m.stream(c.Writes[0].Key.Partition)
	for _, e := range c.Events {
		s.last++
		s.events = append(s.events, store.Event{Seq: s.last, Bytes: slices.Clone(e)})
	}
	return r
}

func (m *Memory) stream(p store.Partition) *stream {
	if m.streams[p] == nil {
		m.streams[p] = &stream{}
	}
	return m.streams[p]
}

func (m *Memory) arm(c *store.Commit) {
	k, at := c.Writes[0].Key, c.Wake.Truncate(time.Millisecond)
	was, ok := m.wakes[k]
	switch {
	case c.Index == store.Leave || c.Index == store.Earlier && ok && !at.Before(was.at):
	case c.Wake.IsZero():
		delete(m.wakes, k)
	default:
		m.wakes[k] = wake{at: at}
	}
}

// Due implements store.Store.
func (m *Memory) Due(_ context.Context, ps []store.Partition, n int, lease time.Duration) (due []store.Due, next, now time.Time, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now = time.Now()
	if m.closed {
		return nil, next, now, store.ErrClosed
	}
	keys := make([]store.Key, 0, len(m.wakes))
	for k := range m.wakes {
		if ps == nil || slices.Contains(ps, k.Partition) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b store.Key) int { return m.wakes[a].at.Compare(m.wakes[b].at) })
	for _, k := range keys {
		w := m.wakes[k]
		until := w.at
		if w.leased.After(until) {
			until = w.leased
		}
		if !now.Before(until) && len(due) < n {
			due = append(due, store.Due{Key: k, Wake: w.at})
			until = now.Add(lease)
			m.wakes[k] = wake{w.at, until}
		}
		if next.IsZero() || until.Before(next) {
			next = until
		}
	}
	return due, next, now, nil
}

// Events implements store.Store.
func (m *Memory) Events(_ context.Context, p store.Partition, after uint64, n int) ([]store.Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, store.ErrClosed
	}
	var out []store.Event
	for _, e := range m.stream(p).events {
		if e.Seq > after && len(out) < n {
			out = append(out, e)
		}
	}
	return out, nil
}

// Trim implements store.Store.
func (m *Memory) Trim(_ context.Context, p store.Partition, upTo uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stream(p)
	s.events = slices.DeleteFunc(s.events, func(e store.Event) bool { return e.Seq <= upTo })
	return nil
}

// Scan implements store.Store; the cursor is the last key's text.
func (m *Memory) Scan(_ context.Context, cursor []byte, n int) (ks []store.Key, rs []store.Record, next []byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(cursor) > 0 && cursor[0] != '{' {
		return nil, nil, nil, store.ErrCursor
	}
	keys := make([]store.Key, 0, len(m.records))
	for k := range m.records {
		if k.String() > string(cursor) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b store.Key) int { return cmp.Compare(a.String(), b.String()) })
	for _, k := range keys {
		if len(ks) >= n {
			return ks, rs, []byte(ks[len(ks)-1].String()), nil
		}
		if r := m.read(k); r.Version != (store.Version{}) {
			ks, rs = append(ks, k), append(rs, r)
		}
	}
	return ks, rs, nil, nil
}

// Facts implements store.Store.
func (m *Memory) Facts(context.Context) (store.Facts, error) {
	return store.Facts{Partitions: store.Partitions, Node: "memory", Mode: "memory", Clock: time.Now()}, nil
}

// Close implements store.Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}
