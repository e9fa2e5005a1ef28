package rtmtest

import (
	"cmp"
	"slices"
	"time"

	"rtm/store"
)

// A state is what a node of the simulated store holds at one moment. It is what
// its log says, from the beginning: a replica needs none until it is promoted.
type state struct {
	records map[store.Key]*entry
	index   []indexed
	streams []*stream
}

// An entry is one write of one record, shared by all states that hold it.
type entry struct {
	store.Record
	expires time.Duration // zero: never
	books   *books        // of an account, for the checks
	proven  time.Duration // when it was told that it is durable; zero: it was not yet
}

// An indexed record wakes at that time. Redis has the lease in its place,
// embedded keeps it beside.
type indexed struct {
	key       store.Key
	at, lease time.Duration
}

// A stream is the events of a partition. Those that were trimmed stay, for the
// checks.
type stream struct {
	partition store.Partition
	events    [][]byte
	trimmed   uint64
}

// An op is one change of a state: what the log holds, and what is replicated.
type op struct {
	changes   []change
	arms      []indexed // a zero time: the entry goes
	partition store.Partition
	events    [][]byte
	trim      uint64
}

type change struct {
	key   store.Key
	entry *entry // nil: deleted
}

func newState() *state { return &state{records: make(map[store.Key]*entry)} }

// replay is the state after these ops.
func replay(ops []op) *state {
	s := newState()
	for i := range ops {
		s.apply(&ops[i])
	}
	return s
}

func (s *state) apply(o *op) {
	for _, c := range o.changes {
		if c.entry == nil {
			delete(s.records, c.key)
		} else {
			s.records[c.key] = c.entry
		}
	}
	for _, a := range o.arms {
		s.arm(a)
	}
	if len(o.events) == 0 && o.trim == 0 {
		return
	}
	t := s.stream(o.partition)
	t.events = append(t.events, o.events...)
	t.trimmed = max(t.trimmed, o.trim)
}

func (s *state) arm(a indexed) {
	i := slices.IndexFunc(s.index, func(x indexed) bool { return x.key == a.key })
	switch {
	case a.at == 0 && i >= 0:
		s.index = slices.Delete(s.index, i, i+1)
	case a.at == 0:
	case i >= 0:
		s.index[i] = a
	default:
		s.index = append(s.index, a)
	}
}

// armed is the index entry of a record; nil: there is none.
func (s *state) armed(k store.Key) *indexed {
	for i := range s.index {
		if s.index[i].key == k {
			return &s.index[i]
		}
	}
	return nil
}

func (s *state) stream(p store.Partition) *stream {
	for _, t := range s.streams {
		if t.partition == p {
			return t
		}
	}
	t := &stream{partition: p}
	s.streams = append(s.streams, t)
	return t
}

// at is the record, unless it has expired by then; nil: there is none.
func (s *state) at(k store.Key, now time.Duration) *entry {
	e := s.records[k]
	if e == nil || e.expires != 0 && now >= e.expires {
		return nil
	}
	return e
}

// load is store.Store's Load.
func (d *node) load(keys []store.Key) []store.Record {
	recs := make([]store.Record, len(keys))
	now := d.time()
	for i, k := range keys {
		if e := d.state.at(k, now); e != nil {
			recs[i] = e.Record
		}
	}
	return recs
}

// commit is store.Store's Commit, for one commit whose memory is the store's.
func (d *node) commit(c *store.Commit) store.Result {
	if err := c.Check(); err != nil {
		return store.Result{Outcome: store.Refused, Err: err}
	}
	now := d.time()
	var found [store.WritesMax]*entry
	same := true
	for i := range c.Writes {
		w := &c.Writes[i]
		var seen store.Version
		if found[i] = d.state.at(w.Key, now); found[i] != nil {
			seen = found[i].Version
		}
		same = same && seen == w.Seen
	}
	first := c.Writes[0].Key
	if !same && d.m.Bug != "version-unchecked" {
		if found[0] != nil {
			d.marks[first] = max(d.marks[first], c.Distance, 1)
		}
		if d.m.Bug == "rearm-unchecked" && c.Index == store.Exact {
			d.append(op{arms: d.arming(c)})
		}
		fresh := make([]store.Record, len(c.Writes))
		for i := range fresh {
			if found[i] != nil {
				fresh[i] = found[i].Record
			}
		}
		return store.Result{Outcome: store.Conflict, Fresh: fresh}
	}
	r := store.Result{Outcome: store.Done, Contended: d.marks[first]}
	if r.Contended > 0 {
		d.marks[first] = c.Left(r.Contended)
	}
	o := op{changes: d.changes(c, now), arms: d.arming(c), partition: first.Partition, events: c.Events}
	if len(o.changes)+len(o.arms)+len(o.events) > 0 {
		if d.m.check != nil {
			d.m.check(d, c, found[:len(c.Writes)], o.changes)
		}
		d.append(o)
	}
	return r
}

// changes are the records that c writes.
func (d *node) changes(c *store.Commit, now time.Duration) []change {
	changes := make([]change, 0, len(c.Writes))
	for i := range c.Writes {
		switch w := &c.Writes[i]; w.Op {
		case store.Check:
		case store.Delete:
			changes = append(changes, change{key: w.Key})
		case store.Put:
			if d.m.Bug == "closed-session-dropped" && w.Key.Kind == 'c' {
				continue
			}
			e := &entry{Record: store.Record{Version: w.New, Bytes: w.Bytes}}
			if w.Expire > 0 {
				e.expires = now + w.Expire
			}
			changes = append(changes, change{w.Key, e})
		}
	}
	return changes
}

// arming is what c does to the time index.
func (d *node) arming(c *store.Commit) []indexed {
	if c.Index == store.Leave {
		return nil
	}
	a := indexed{key: c.Writes[0].Key}
	if !c.Wake.IsZero() {
		if a.at = c.Wake.Truncate(time.Millisecond).Sub(epoch); a.at == 0 { // which is never, here
			a.at = 1
		}
	}
	was := d.state.armed(a.key)
	switch {
	case c.Index == store.Earlier && (a.at == 0 || was != nil && was.at <= a.at), was == nil && a.at == 0:
		return nil
	}
	return []indexed{a}
}

// due is store.Store's Due over all partitions, on a node whose clock is that far
// ahead of the store's.
func (d *node) due(n int, lease, ahead time.Duration) (due []store.Due, next time.Time) {
	now := d.time() - ahead
	var ripe []indexed
	for _, x := range d.state.index {
		if max(x.at, x.lease) <= now {
			ripe = append(ripe, x)
		}
	}
	slices.SortFunc(ripe, func(a, b indexed) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.key.Name, b.key.Name)) })
	ripe = ripe[:min(len(ripe), n)]
	for i, x := range ripe {
		due = append(due, store.Due{Key: x.key, Wake: epoch.Add(x.at)})
		switch {
		case d.m.Bug == "remove-on-claim":
			ripe[i].at = 0
		case d.cluster != nil && d.cluster.mode == embedded:
			ripe[i].lease = now + lease
		default:
			ripe[i].at = (now + lease).Truncate(time.Millisecond)
		}
	}
	switch {
	case len(ripe) == 0:
	case d.cluster != nil && d.cluster.mode == embedded && d.m.Bug != "remove-on-claim": // leases are in memory
		for _, x := range ripe {
			d.state.arm(x)
		}
	default:
		d.append(op{arms: ripe})
	}
	for _, x := range d.state.index {
		if at := epoch.Add(max(x.at, x.lease)); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return due, next
}

// events is store.Store's Events, of the first upTo ops of the log.
func (d *node) events(p store.Partition, after uint64, n int) (evs []store.Event) {
	t := d.state.stream(p)
	for seq := max(after, t.trimmed) + 1; seq <= uint64(len(t.events)) && len(evs) < n; seq++ {
		evs = append(evs, store.Event{Seq: seq, Bytes: t.events[seq-1]})
	}
	return evs
}

// append adds an op to the log and the state, and hands it to the replicas.
func (d *node) append(o op) {
	if d.m.Trace != nil && len(o.changes) > 0 {
		d.m.tracef("%s takes op %d: %s", d.addr, len(d.ops)+1, o.changes[0].key)
		for _, ev := range o.events {
			if e := &d.m.entry; e.Decode(ev) == nil {
				d.m.tracef("  %s %s;%d %d %s %s by %s", e.Sort, e.Session, e.Sub, e.Request, e.Kind, e.Text, e.Instance)
			}
		}
	}
	d.ops = append(d.ops, o)
	d.state.apply(&o)
	for i := range o.changes {
		d.m.mixText(o.changes[i].key.Name)
		if e := o.changes[i].entry; e != nil {
			d.m.mix(e.Bytes)
		}
	}
	for _, e := range o.events {
		d.m.mix(e)
	}
	d.push()
}

// copied is c in memory of its own: a commit may outlive the cycle that made it.
func copied(c *store.Commit) store.Commit {
	size := 0
	for i := range c.Writes {
		size += len(c.Writes[i].Bytes)
	}
	for _, e := range c.Events {
		size += len(e)
	}
	memory := make([]byte, 0, size)
	keep := func(b []byte) []byte {
		start := len(memory)
		memory = append(memory, b...)
		return memory[start:len(memory):len(memory)]
	}
	own := *c
	own.Writes = slices.Clone(c.Writes)
	for i := range own.Writes {
		own.Writes[i].Bytes = keep(own.Writes[i].Bytes)
	}
	own.Events = make([][]byte, len(c.Events))
	for i, e := range c.Events {
		own.Events[i] = keep(e)
	}
	return own
}
