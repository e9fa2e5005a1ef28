// Package embed is the store in a directory of one machine, on Pebble: nothing
// else has to run. A single committer turns all waiting commits into one batch
// with one sync; answers leave when that sync is back. It does not know what
// the records mean.
package embed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"rtm/store"
)

// Bounds of the store.
const (
	QueueMax   = 4096    // requests that wait for the committer; beyond it they are Refused
	groupsMax  = 4       // batches that wait for their sync
	cacheMax   = 1 << 16 // headers remembered, twice
	sweepMax   = 250     // expired records removed at a time
	sweepEvery = time.Second
	sweepAgain = 2 * time.Millisecond // while there are more of them
	trimMax    = 10_000               // events trimmed one by one, more by a range
	memory     = 256 << 20
)

// format is the number of the layout below; a directory with a higher one is
// refused.
//
//	r partition kind name      version(8) expiry(8) bytes     a record
//	i partition kind name      wake(8)                        its entry in the time index
//	w wake(8) partition kind name                             the time index, by time
//	x expiry(8) partition kind name                           what expires, by time
//	e partition seq(8)         bytes                          an event
//	q partition                seq(8)                         events up to here are trimmed
//	l partition                seq(8)                         numbers up to here are used, if it is more than the events tell
//	m…                                                        format, partitions, last time, mark
const format = 1

const header = 16 // octets before a record's bytes

// Config says where the store is and how it fails.
type Config struct {
	Dir    string
	Memory int64          // octets that the store's buffers and cache may take; zero: 256 MiB
	FS     vfs.FS         // nil: the machine's
	Log    *slog.Logger   // nil: none
	Exit   func(code int) // nil: os.Exit; called when a sync fails
}

// A Store is an open directory.
type Store struct {
	db    *pebble.DB
	log   *slog.Logger
	exit  func(int)
	dir   string
	gate  atomic.Bool // closed for ever by the first failed sync, or for a look
	clock clock

	disk           func(dir string) (free, all uint64, err error)
	looked, filled atomic.Int64 // when the disk was looked at, in milliseconds, and how full it was then

	reading sync.RWMutex // held by readers, and by Close when the database goes

	marking sync.Mutex // held by whoever changes the mark

	walksMu sync.Mutex // guards walks
	walks   map[*pebble.Snapshot]bool

	queueMu sync.Mutex // guards queue and closed
	queue   []*request
	closed  bool
	wake    chan struct{}

	mu     sync.Mutex // guards all below: held while a group is decided, never while waiting
	heads  heads
	leases map[string]int64 // time index entries that are claimed, until when
	swept  int64            // what expired before that is gone
	low    int64            // no entry of the time index is earlier
	next   [store.Partitions]uint64
	batch  *pebble.Batch

	trimMu  sync.Mutex               // guards trimmed, and writes what it says
	trimmed [store.Partitions]uint64 // events up to here are gone

	durable [store.Partitions]atomic.Uint64 // events up to here are synced
	groups  chan *group
	done    sync.WaitGroup
	scratch []byte
}

// A request is one call of Commit.
type request struct {
	cs    []store.Commit
	rs    []store.Result
	now   time.Time
	taken bool
	done  chan struct{}
}

// A group is what one sync covers.
type group struct {
	requests []*request
	batch    *pebble.Batch // nil: nothing was written
	events   []eventMark
}

type eventMark struct {
	partition store.Partition
	seq       uint64
}

// Open opens the store in a directory, and makes one where there is none. A
// directory that another process has open, or that a newer program wrote, is
// refused.
func Open(c Config) (*Store, error) { return openDir(c, false, false) }

// openDir opens a directory: to look at it, or whatever its mark says, or to use
// it.
func openDir(c Config, look, marked bool) (*Store, error) {
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Exit == nil {
		c.Exit = os.Exit
	}
	s := &Store{
		disk: disk,
		log:  c.Log, exit: c.Exit, dir: c.Dir, wake: make(chan struct{}, 1), leases: make(map[string]int64),
		groups: make(chan *group, groupsMax),
	}
	if c.Memory == 0 {
		c.Memory = memory
	}
	cache := pebble.NewCache(c.Memory / 2)
	defer cache.Unref()
	if look {
		c.FS = unlocked{c.FS}
		s.gate.Store(true)
	}
	db, err := pebble.Open(c.Dir, &pebble.Options{
		ReadOnly: look, FS: c.FS, Cache: cache, MemTableSize: uint64(c.Memory) / 8, MemTableStopWritesThreshold: 4, Logger: logger{s},
		L0CompactionThreshold: 4, CompactionConcurrencyRange: func() (int, int) { return 1, 1 },
	})
	if err != nil {
		if errors.Is(err, syscall.EAGAIN) {
			pid, _ := Holder(c.Dir)
			err = fmt.Errorf("process %d has it open; an embedded store serves one process: end that, or name another directory (%w)", pid, err)
		}
		return nil, fmt.Errorf("open %s: %w", c.Dir, err)
	}
	s.db = db
	err = s.begin()
	if err == nil && !marked {
		err = s.inService()
	}
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("open %s: %w", c.Dir, err)
	}
	if look {
		return s, nil
	}
	s.done.Add(2)
	go s.commit()
	go s.finish()
	return s, nil
}

// logger hands Pebble's messages on. A failed sync reaches us only as Fatalf;
// if that returned, Pebble would acknowledge what is not on disk.
type logger struct{ s *Store }

func (l logger) Infof(string, ...any) {}
func (l logger) Errorf(f string, args ...any) {
	l.s.log.Error("store", "pebble", fmt.Sprintf(f, args...))
}
func (l logger) Fatalf(f string, args ...any) {
	l.s.fail(fmt.Errorf(f, args...))
	select {} // never acknowledge anything after it
}

// fail closes the gate that every answer passes, and ends the process.
func (s *Store) fail(err error) {
	if s.gate.CompareAndSwap(false, true) {
		s.log.Error("the disk did not take a write: stopping, so that nothing is acknowledged that is not stored",
			"dir", s.dir, "error", err)
		s.exit(1)
	}
}

// begin checks the format and reads where the event streams stand.
func (s *Store) begin() error {
	found, err := s.meta("format")
	if err != nil {
		return err
	}
	if found > format {
		return fmt.Errorf("it has format %d, this program knows %d: use the newer program", found, format)
	}
	partitions, err := s.meta("partitions")
	if err != nil {
		return err
	}
	if partitions != 0 && partitions != store.Partitions {
		return fmt.Errorf("it has %d partitions, this program %d", partitions, store.Partitions)
	}
	last, err := s.meta("time")
	if err != nil {
		return err
	}
	s.clock.start(last)
	if found == 0 && !s.gate.Load() {
		b := s.db.NewBatch()
		s.setMeta(b, "format", format)
		s.setMeta(b, "partitions", store.Partitions)
		if err := b.Commit(pebble.Sync); err != nil {
			return err
		}
	}
	for p := range store.Partition(store.Partitions) {
		if s.next[p], err = s.lastEvent(p); err != nil {
			return err
		}
		s.durable[p].Store(s.next[p])
		s.next[p]++
	}
	return nil
}

func (s *Store) meta(name string) (int64, error) {
	v, closer, err := s.db.Get([]byte("m" + name))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer closer.Close()
	if len(v) != 8 {
		return 0, fmt.Errorf("its %s is damaged", name)
	}
	return int64(binary.BigEndian.Uint64(v)), nil
}

func (s *Store) setMeta(b *pebble.Batch, name string, v int64) {
	b.Set([]byte("m"+name), binary.BigEndian.AppendUint64(nil, uint64(v)), nil)
}

// lastEvent is the highest Seq that partition p ever gave out.
func (s *Store) lastEvent(p store.Partition) (uint64, error) {
	v, closer, err := s.db.Get(partitionKey('q', p))
	if err == nil {
		s.trimmed[p] = binary.BigEndian.Uint64(v)
		closer.Close()
	} else if !errors.Is(err, pebble.ErrNotFound) {
		return 0, err
	}
	last := s.trimmed[p]
	if v, closer, err := s.db.Get(partitionKey('l', p)); err == nil {
		last = max(last, binary.BigEndian.Uint64(v))
		closer.Close()
	} else if !errors.Is(err, pebble.ErrNotFound) {
		return 0, err
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: partitionKey('e', p), UpperBound: after(partitionKey('e', p))})
	if err != nil {
		return 0, err
	}
	defer it.Close()
	if it.Last() {
		return max(last, binary.BigEndian.Uint64(it.Key()[3:])), nil
	}
	return last, it.Error()
}

// Load implements store.Store.
func (s *Store) Load(_ context.Context, keys []store.Key) ([]store.Record, error) {
	if !s.enter() {
		return nil, store.ErrClosed
	}
	defer s.reading.RUnlock()
	recs := make([]store.Record, len(keys))
	var buf []byte
	for i := range keys {
		buf = appendKey(append(buf[:0], 'r'), keys[i])
		v, closer, err := s.db.Get(buf)
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("load %s: %w", keys[i], err)
		}
		recs[i] = s.record(v)
		closer.Close()
	}
	return recs, nil
}

// record is the record that a value holds, if it has not expired.
func (s *Store) record(v []byte) store.Record {
	if len(v) < header || s.expired(int64(binary.BigEndian.Uint64(v[8:]))) {
		return store.Record{}
	}
	return store.Record{Version: store.Version(v[:8]), Bytes: append([]byte(nil), v[header:]...)}
}

func (s *Store) expired(at int64) bool { return at != 0 && at <= s.clock.now().UnixMilli() }

// enter keeps the database open for a reader, until it unlocks reading; false:
// the store is closed.
func (s *Store) enter() bool {
	s.reading.RLock()
	s.queueMu.Lock()
	closed := s.closed
	s.queueMu.Unlock()
	if closed {
		s.reading.RUnlock()
	}
	return !closed
}

// Commit implements store.Store.
func (s *Store) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	r := &request{cs: cs, rs: make([]store.Result, len(cs)), done: make(chan struct{})}
	if err := s.enqueue(r); err != nil {
		for i := range r.rs {
			r.rs[i] = store.Result{Outcome: store.Refused, Err: err}
		}
		return r.rs, s.clock.now()
	}
	select {
	case <-r.done:
		return r.rs, r.now
	case <-ctx.Done():
	}
	return s.giveUp(r, ctx.Err()), s.clock.now()
}

// ErrFull refuses commits when too many wait.
var ErrFull = errors.New("the store is busy: too many commits wait")

func (s *Store) enqueue(r *request) error {
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	switch {
	case s.closed || s.gate.Load():
		return store.ErrClosed
	case len(s.queue) >= QueueMax:
		return ErrFull
	}
	s.queue = append(s.queue, r)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// giveUp ends a request whose caller no longer waits: refused if the committer
// has not begun it, in doubt else.
func (s *Store) giveUp(r *request, err error) []store.Result {
	s.queueMu.Lock()
	outcome := store.InDoubt
	if !r.taken {
		outcome = store.Refused
		for i := range s.queue {
			if s.queue[i] == r {
				s.queue = append(s.queue[:i], s.queue[i+1:]...)
				break
			}
		}
	}
	s.queueMu.Unlock()
	s.mu.Lock() // the committer no longer reads what the caller owns
	defer s.mu.Unlock()
	rs := make([]store.Result, len(r.rs))
	for i := range rs {
		rs[i] = store.Result{Outcome: outcome, Err: err}
	}
	return rs
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.queueMu.Lock()
	if s.closed {
		s.queueMu.Unlock()
		return nil
	}
	s.closed = true
	s.queueMu.Unlock()
	close(s.wake)
	s.done.Wait()
	s.reading.Lock()
	defer s.reading.Unlock()
	s.endWalks()
	return s.db.Close()
}

// Facts implements store.Store.
func (s *Store) Facts(context.Context) (store.Facts, error) {
	return store.Facts{
		Kill: true, Power: true, Partitions: store.Partitions, Node: "embedded " + s.dir, Mode: "embedded", Clock: s.clock.now(),
	}, nil
}

// clock is the machine's clock, which never steps back: not in a run, and not
// behind what an earlier run wrote.
type clock struct {
	base  time.Time
	wall  time.Time
	later time.Duration
}

func (c *clock) start(last int64) {
	c.base = time.Now()
	c.wall = c.base
	if t := time.UnixMilli(last); t.After(c.wall) {
		c.later = t.Sub(c.wall)
	}
}

func (c *clock) now() time.Time { return c.wall.Add(time.Since(c.base) + c.later) }

var _ io.Closer = (*Store)(nil)
var _ store.Store = (*Store)(nil)
