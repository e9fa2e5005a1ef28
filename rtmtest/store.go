package rtmtest

import (
	"cmp"
	"hash/fnv"
	"slices"
	"time"

	"rtm/store"
)

// A Store is the simulated store: the contract of package store without
// waiting, on one thread, with the simulation's clock. It keeps everything it
// was ever told, for the checks at the end.
type Store struct {
	Now     func() time.Time
	Written func(w store.Write) // called after each Put and Delete

	records map[store.Key]*entry
	wakes   map[store.Key]time.Time // the time index
	leases  map[store.Key]time.Time // claimed until
	streams map[store.Partition][]store.Event
	hash    uint64
	bug     string
}

type entry struct {
	store.Record
	expires   time.Time
	contended uint8
}

// NewStore returns an empty store.
func NewStore(now func() time.Time) *Store {
	return &Store{
		Now: now, records: make(map[store.Key]*entry), wakes: make(map[store.Key]time.Time),
		leases: make(map[store.Key]time.Time), streams: make(map[store.Partition][]store.Event),
	}
}

func (s *Store) at(k store.Key) *entry {
	e := s.records[k]
	if e == nil || !e.expires.IsZero() && !s.Now().Before(e.expires) {
		return nil
	}
	return e
}

// Load is store.Store's Load.
func (s *Store) Load(keys []store.Key) []store.Record {
	recs := make([]store.Record, len(keys))
	for i, k := range keys {
		if e := s.at(k); e != nil {
			recs[i] = e.Record
		}
	}
	return recs
}

// Commit is store.Store's Commit, for one commit.
func (s *Store) Commit(c store.Commit) store.Result {
	if err := c.Check(); err != nil {
		return store.Result{Outcome: store.Refused, Err: err}
	}
	fresh := make([]store.Record, len(c.Writes))
	same := true
	for i, w := range c.Writes {
		if e := s.at(w.Key); e != nil {
			fresh[i] = e.Record
		}
		same = same && fresh[i].Version == w.Seen
	}
	first := s.at(c.Writes[0].Key)
	if !same && s.bug != "version-unchecked" {
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
		s.write(w)
	}
	if first = s.at(c.Writes[0].Key); first != nil {
		first.contended = c.Left(r.Contended)
	}
	s.arm(c)
	p := c.Writes[0].Key.Partition
	for _, e := range c.Events {
		s.streams[p] = append(s.streams[p], store.Event{Seq: uint64(len(s.streams[p])) + 1, Bytes: slices.Clone(e)})
		s.mix(e)
	}
	return r
}

func (s *Store) write(w store.Write) {
	switch w.Op {
	case store.Check:
		return
	case store.Delete:
		delete(s.records, w.Key)
	case store.Put:
		if s.bug == "closed-dropped" && w.Key.Kind == 'c' {
			return
		}
		e := &entry{Record: store.Record{Version: w.New, Bytes: slices.Clone(w.Bytes)}}
		if w.Expire > 0 {
			e.expires = s.Now().Add(w.Expire)
		}
		s.records[w.Key] = e
	}
	s.mix([]byte(w.Key.Name))
	s.mix(w.Bytes)
	if s.Written != nil {
		s.Written(w)
	}
}

func (s *Store) arm(c store.Commit) {
	k, wake := c.Writes[0].Key, c.Wake.Truncate(time.Millisecond)
	switch c.Index {
	case store.Leave:
	case store.Earlier:
		if was, ok := s.wakes[k]; !ok || wake.Before(was) {
			s.wakes[k] = wake
			delete(s.leases, k)
		}
	case store.Exact:
		delete(s.leases, k)
		if delete(s.wakes, k); !c.Wake.IsZero() {
			s.wakes[k] = wake
		}
	}
}

// Due is store.Store's Due over all partitions.
func (s *Store) Due(n int, lease time.Duration) (due []store.Due, next time.Time) {
	now := s.Now()
	var all []store.Due
	for k, wake := range s.wakes {
		all = append(all, store.Due{Key: k, Wake: wake})
	}
	slices.SortFunc(all, func(a, b store.Due) int {
		return cmp.Or(a.Wake.Compare(b.Wake), cmp.Compare(a.Key.Name, b.Key.Name))
	})
	for _, d := range all {
		at := d.Wake
		if l := s.leases[d.Key]; l.After(at) {
			at = l
		}
		if !now.Before(at) && len(due) < n {
			due = append(due, d)
			at = now.Add(lease)
			if s.leases[d.Key] = at; s.bug == "remove-on-claim" {
				delete(s.wakes, d.Key)
				continue
			}
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return due, next
}

// mix adds b to the hash over all that was written.
func (s *Store) mix(b []byte) {
	h := fnv.New64a()
	var was [8]byte
	for i := range was {
		was[i] = byte(s.hash >> (8 * i))
	}
	h.Write(was[:])
	h.Write(b)
	s.hash = h.Sum64()
}
