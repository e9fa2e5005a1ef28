package rtmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"maps"
	"slices"
	"time"

	"rtm/cdr"
	"rtm/charging"
	"rtm/store"
)

// A routine is code of production that waits for a store or a disk. It runs as a
// coroutine on the world's thread: up to where it waits, and on from there when
// the world says so. Whoever crashes never gets there.
type routine struct {
	next func() (wait, bool)
	stop func()
	pass func(wait) bool
}

// A wait begins what is waited for, and calls resume when it has come.
type wait func(resume func())

type crashed struct{}

// key is where a routine's context has it.
type key struct{}

// routine runs code as a routine of this life of n, and then done.
func (n *instance) routine(code func(ctx context.Context), done func()) {
	r := &routine{}
	ctx := context.WithValue(context.Background(), key{}, r)
	r.next, r.stop = iter.Pull(func(yield func(wait) bool) {
		defer func() {
			if p := recover(); p != nil && p != (crashed{}) {
				panic(p)
			}
		}()
		r.pass = yield
		code(ctx)
	})
	n.routines = append(n.routines, r)
	life := n.life
	var step func()
	step = func() {
		w, ok := r.next()
		if !ok {
			n.routines = slices.DeleteFunc(n.routines, func(o *routine) bool { return o == r })
			done()
			return
		}
		w(func() { n.do(life, step) })
	}
	step()
}

// waitFor waits, in a routine.
func waitFor(ctx context.Context, w wait) {
	if !ctx.Value(key{}).(*routine).pass(w) {
		panic(crashed{})
	}
}

// end ends what n was in the middle of.
func (n *instance) end() {
	for len(n.routines) > 0 {
		r := n.routines[0]
		n.routines = n.routines[1:]
		r.stop()
	}
}

// How often a follower looks for new events.
const (
	followMin = 100 * time.Millisecond
	followMax = 4 * time.Second
	lookEvery = time.Minute // when all is quiet
)

// follow lets a cdr.Follower make a pass now and then.
func (n *instance) follow() {
	m := n.m
	if !m.records {
		return
	}
	var only []store.Partition
	for _, a := range m.accounts {
		only = append(only, a.key.Partition)
	}
	f, err := cdr.NewFollower(cdr.Config{
		Store: &waiting{n: n}, Disk: n.disk, Instance: n.name, Single: true, Only: only, Version: m.version,
		Now: func() time.Time { return epoch.Add(n.elapsed()) },
		Share: func() (place, of int) {
			if m.strikes(hazardShare) { // it believes to be alone
				return 0, 1
			}
			return int(n.place-firstInstance) % len(m.instances), len(m.instances)
		},
	})
	if err != nil {
		m.failf("follower: %s", err)
		return
	}
	n.keepFollowing(f, -1, -1)
}

// keepFollowing makes passes; when all is quiet, only if there are other events
// than at the last two, which found nothing to do: what the first of them did not
// see since it was not durable yet, the second one sees.
func (n *instance) keepFollowing(f *cdr.Follower, seen, before int) {
	pause := n.m.between(followMin, followMax)
	if n.m.quiet {
		pause = lookEvery
	}
	n.later(pause, func() {
		total := n.m.events()
		if n.m.quiet && total == seen {
			n.keepFollowing(f, seen, before)
			return
		}
		failed, written := f.Failed.Load(), n.disk.written
		n.routine(func(ctx context.Context) {
			n.disk.ctx = ctx
			f.Follow(ctx)
		}, func() {
			if f.Failed.Load() != failed || n.disk.written != written || pause < cdr.SweepEvery {
				total = -1
			}
			if total == before {
				seen = total
			} else {
				seen = -1
			}
			n.keepFollowing(f, seen, total)
		})
	})
}

// events is how many events there are.
func (m *Sim) events() (n int) {
	for _, c := range m.clusters {
		if d := c.master(); d.state != nil {
			for _, t := range d.state.streams {
				n += len(t.events)
			}
		}
	}
	return n
}

// waiting is the store as code of production sees it: its verbs return when the
// world has an answer.
type waiting struct {
	store.Store // the verbs that no follower uses
	n           *instance
}

var errStore = errors.New("the store does not answer")

// Load implements store.Store.
func (w *waiting) Load(ctx context.Context, keys []store.Key) (recs []store.Record, err error) {
	waitFor(ctx, func(resume func()) {
		w.n.store.load(keys, func(rs []store.Record) { recs = rs; resume() })
	})
	if recs == nil {
		return nil, errStore
	}
	return recs, nil
}

// Commit implements store.Store.
func (w *waiting) Commit(ctx context.Context, cs []store.Commit) (rs []store.Result, now time.Time) {
	waitFor(ctx, func(resume func()) {
		w.n.store.commit(cs, func(results []store.Result) { rs = results; resume() })
	})
	return rs, w.n.now()
}

// Events implements store.Store.
func (w *waiting) Events(ctx context.Context, p store.Partition, after uint64, n int) (evs []store.Event, err error) {
	waitFor(ctx, func(resume func()) {
		w.n.store.events(p, after, n, func(found []store.Event, ok bool) {
			if evs = found; !ok {
				err = errStore
			}
			resume()
		})
	})
	return evs, err
}

// Trim implements store.Store.
func (w *waiting) Trim(ctx context.Context, p store.Partition, upTo uint64) (err error) {
	waitFor(ctx, func(resume func()) {
		w.n.store.trim(p, upTo, func(ok bool) {
			if !ok {
				err = errStore
			}
			resume()
		})
	})
	return err
}

// A disk is a directory of record files. What was not synced may be gone, or a
// part of it, after a loss of power.
type disk struct {
	n       *instance
	files   map[string]*file
	removed map[string]*file // not yet on disk
	written int
	ctx     context.Context // of the follower that uses it
}

type file struct {
	data   []byte
	synced bool
	was    string // its name on disk, if that is another
}

func newDisk(n *instance) *disk {
	return &disk{n: n, files: make(map[string]*file), removed: make(map[string]*file)}
}

// takes lets an operation of the disk take its time.
func (d *disk) takes() {
	waitFor(d.ctx, func(resume func()) { d.n.later(d.n.m.upTo(5*time.Millisecond), resume) })
}

// Names implements cdr.Disk.
func (d *disk) Names() ([]string, error) { return slices.Sorted(maps.Keys(d.files)), nil }

// Has implements cdr.Disk.
func (d *disk) Has(name string) bool { return d.files[name] != nil }

// Open implements cdr.Disk.
func (d *disk) Open(name string) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(d.files[name].data)), nil
}

// Write implements cdr.Disk.
func (d *disk) Write(name string, parts [][]byte) error {
	f := &file{data: bytes.Join(parts, nil)}
	d.n.m.tracef("%s writes %s", d.n.name, name)
	d.files[name] = f
	d.written++
	d.takes()
	f.synced = true
	clear(d.removed)
	return nil
}

// Rename implements cdr.Disk.
func (d *disk) Rename(from, to string) error {
	f := d.files[from]
	d.n.m.tracef("%s renames %s", d.n.name, from)
	delete(d.files, from)
	d.files[to], f.was = f, from
	d.takes()
	f.was = ""
	clear(d.removed)
	return nil
}

// Remove implements cdr.Disk.
func (d *disk) Remove(name string) error {
	d.n.m.tracef("%s removes %s", d.n.name, name)
	d.removed[name] = d.files[name]
	delete(d.files, name)
	return nil
}

// crash is the end of the process, or of the machine's power: what was on its
// way to the disk is there, or in part, or not.
func (d *disk) crash(power bool) {
	m := d.n.m
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		f := d.files[name]
		if !f.synced {
			f.data = f.data[:m.rng.IntN(len(f.data)+1)]
			if power && m.oneIn(2) {
				delete(d.files, name)
				continue
			}
		}
		f.synced = true
		if f.was != "" && power && m.oneIn(2) {
			delete(d.files, name)
			d.files[f.was] = f
		}
		f.was = ""
	}
	for _, name := range slices.Sorted(maps.Keys(d.removed)) {
		if power && m.oneIn(2) {
			d.files[name] = d.removed[name]
		}
	}
	clear(d.removed)
}

// checkFiles: each event is in one line of one finished file, and each line is an
// event (I8).
func (m *Sim) checkFiles() {
	if !m.records {
		return
	}
	type place struct {
		partition store.Partition
		seq       uint64
	}
	lines := make(map[place]string)
	for _, n := range m.instances {
		for _, name := range slices.Sorted(maps.Keys(n.disk.files)) {
			if !bytes.HasSuffix([]byte(name), []byte(".jsonl")) {
				continue
			}
			for line := range bytes.Lines(n.disk.files[name].data) {
				var r struct {
					ID        string          `json:"id"`
					Partition store.Partition `json:"partition"`
					Seq       uint64          `json:"seq"`
				}
				if err := json.Unmarshal(line, &r); err != nil {
					m.failf("I8: %s of %s has a line that cannot be read: %s", name, n.name, err)
					return
				}
				k := place{r.Partition, r.Seq}
				if was, twice := lines[k]; twice {
					m.failf("I8: event %d of partition %d is in two lines, %s and %s", k.seq, k.partition, was, r.ID)
				}
				lines[k] = r.ID
			}
		}
	}
	for _, t := range m.streams() {
		for i, ev := range t.events {
			k := place{t.partition, uint64(i) + 1}
			var e charging.Entry
			if e.Decode(ev) != nil {
				continue
			}
			if want := cdr.FromEntry(&e, k.partition, k.seq).ID; lines[k] != want {
				m.failf("I8: event %s of partition %d is recorded as %q", want, k.partition, lines[k])
			}
			delete(lines, k)
		}
	}
	if len(lines) > 0 {
		m.failf("I8: %d lines of record files are of no event", len(lines))
	}
}
