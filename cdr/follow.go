package cdr

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"rtm/charging"
	"rtm/store"
)

// Bounds and times of a Follower.
const (
	BatchMax   = 20_000 // events in one file
	readMax    = 250    // events of one partition at a time
	strideMax  = 16     // partitions that are read, moved or trimmed at once, between two pauses
	SweepEvery = 5 * time.Second
	PassEvery  = 500 * time.Millisecond
)

// kindCursor is the kind of record that says how far a partition was followed.
const kindCursor = 'f'

// movesMax bounds how many followers a cursor remembers.
const movesMax = 16

// A cursor says up to which event a partition is in files, and which file each
// follower's last move went to: a follower that died before its file had its
// name finishes the file when it is back, whoever followed meanwhile.
type cursor struct {
	Seq   uint64 `json:"seq"`
	Moves []move `json:"moves"` // the newest first, one of each instance
}

// A move put the events after From, up to Seq, into a file of an instance.
type move struct {
	Instance string `json:"instance"`
	File     string `json:"file"`
	From     uint64 `json:"from"`
	Seq      uint64 `json:"seq"`
}

// after is c once m is made.
func (c *cursor) after(m move) cursor {
	next := cursor{Seq: m.Seq, Moves: []move{m}}
	for _, old := range c.Moves {
		if old.Instance != m.Instance && len(next.Moves) < movesMax {
			next.Moves = append(next.Moves, old)
		}
	}
	return next
}

// holds reports whether a move put event seq into that file.
func (c *cursor) holds(file string, seq uint64) bool {
	return slices.ContainsFunc(c.Moves, func(m move) bool { return m.File == file && seq > m.From && seq <= m.Seq })
}

// Config says what is followed and where files go.
type Config struct {
	Store    store.Store
	Dir      string
	Instance string
	Log      *slog.Logger
	// Share is which of how many followers this one is: it follows the
	// partitions p with p mod of = place.
	Share func() (place, of int)
	// Dirty reports, and forgets, whether this instance wrote to a partition
	// since it was last asked; nil: all are looked at every SweepEvery.
	Dirty func(p store.Partition) bool
	Tail  func(r *Record) // gets each record when it is in a file; nil: nobody

	// What a follower has of its machine, for whoever puts another in its place.
	Disk    Disk                 // nil: Dir
	Now     func() time.Time     // nil: time.Now
	Version func() store.Version // nil: drawn at random
	Single  bool                 // the store is asked for one thing at a time
	Only    []store.Partition    // those that can have events; nil: all
}

// A Follower writes the events of its share of partitions into files.
type Follower struct {
	Config
	Records  atomic.Int64
	Files    atomic.Int64
	Failed   atomic.Int64
	Sessions atomic.Int64 // that ended, by their final records
	Open     atomic.Int64 // milliseconds that those were open
	Whole    atomic.Int64 // when all there was, was in files, in milliseconds since 1970; at first: when it began

	behind  bool // the last pass did not take all there was
	broken  bool // a pass failed, or none was made yet: a file may be unfinished
	swept   time.Time
	pending [store.Partitions]bool // may have new events
	next    int                    // the partition to begin with: all have their turn
	number  int
	cursors map[store.Partition]stored
}

type stored struct {
	cursor
	version store.Version
}

// NewFollower makes the directory. The first pass finishes what an earlier
// follower of this instance began.
func NewFollower(c Config) (*Follower, error) {
	if c.Disk == nil {
		if err := os.MkdirAll(c.Dir, 0o755); err != nil {
			return nil, fmt.Errorf("record files: %w", err)
		}
		c.Disk = directory(c.Dir)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Only == nil {
		for p := range store.Partition(store.Partitions) {
			c.Only = append(c.Only, p)
		}
	}
	f := &Follower{Config: c, broken: true, cursors: make(map[store.Partition]stored)}
	f.Whole.Store(c.Now().UnixMilli())
	return f, nil
}

// Run follows until ctx ends, then makes one last pass.
func (f *Follower) Run(ctx context.Context) {
	t := time.NewTicker(PassEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			f.swept, f.behind = time.Time{}, true
			f.Follow(last)
			cancel()
			return
		case <-t.C:
			f.Follow(ctx)
		}
	}
}

// Follow makes passes until nothing is new. What fails stays in the store for the
// next time.
func (f *Follower) Follow(ctx context.Context) {
	for {
		full, err := f.Pass(ctx)
		if ctx.Err() != nil { // leaving: what is not in a file stays in the store
			f.broken = true
			return
		}
		if err != nil {
			f.Failed.Add(1)
			f.Log.Error("records wait: events stay in the store until they are in a file", "dir", f.Dir, "error", err)
			clear(f.cursors)
			f.broken = true
			return
		}
		if !full {
			f.Whole.Store(f.Now().UnixMilli())
			return
		}
	}
}

// A section is what one file holds of one partition.
type section struct {
	partition store.Partition
	was       stored
	upTo      uint64
	more      bool // the partition has further events
	lines     []byte
	records   []Record
}

// Pass writes one file of what is new in this follower's partitions, if
// anything is. full: there is more.
func (f *Follower) Pass(ctx context.Context) (full bool, err error) {
	defer func() {
		if err != nil {
			f.swept = time.Time{} // what was read and is in no file is read again
		}
	}()
	if f.broken {
		if err := f.recover(ctx); err != nil {
			return false, err
		}
		f.broken = false
	}
	sections, full, err := f.read(ctx)
	f.behind = full
	if err != nil || len(sections) == 0 {
		return false, err
	}
	name := f.name()
	if err := f.write(name+part, sections); err != nil {
		return false, err
	}
	kept, err := f.move(ctx, name, sections)
	if err != nil {
		return false, err
	}
	if len(kept) < len(sections) { // another follower was there first
		if err := f.mend(name, kept); err != nil {
			return false, err
		}
	} else if err := f.publish(name+part, name); err != nil {
		return false, err
	}
	f.announce(ctx, kept)
	return full, nil
}

// A file's name: when it was begun, by whom, and a number.
const (
	stamp    = "20060102-150405.000"
	finished = ".jsonl"
)

// mine reports whether a file of that name is this follower's.
func (f *Follower) mine(name string) bool {
	if len(name) < len(stamp) {
		return false
	}
	by, ok := strings.CutPrefix(name[len(stamp):], "-"+f.Instance+"-")
	return ok && !strings.Contains(by, "-")
}

// name is a name that no file has, finished or not.
func (f *Follower) name() string {
	for {
		f.number++
		name := fmt.Sprintf("%s-%s-%06d%s", f.Now().UTC().Format(stamp), f.Instance, f.number, finished)
		if !f.Disk.Has(name) && !f.Disk.Has(name+part) {
			return name
		}
	}
}

// read collects the new events of the partitions that may have some, several
// partitions in one round trip to the store.
func (f *Follower) read(ctx context.Context) (sections []section, full bool, err error) {
	f.look()
	total := 0
	for ps := range slices.Chunk(f.turn(), strideMax) {
		found, err := f.stride(ctx, ps)
		if err != nil {
			return nil, false, err
		}
		before := len(sections)
		for i := range found {
			s := &found[i]
			f.pending[s.partition] = s.more
			full = full || s.more
			if len(s.records) > 0 {
				sections = append(sections, *s)
			}
			total += len(s.records)
		}
		if len(sections)/strideMax > before/strideMax {
			f.giveWay(ctx)
		}
		if total >= BatchMax {
			f.next = int(ps[len(ps)-1]) + 1
			return sections, true, nil
		}
	}
	return sections, full, nil
}

// turn is the partitions of this follower's share that may have new events, in
// the order in which they have their turn.
func (f *Follower) turn() (ps []store.Partition) {
	place, of := 0, 1
	if f.Share != nil {
		place, of = f.Share()
	}
	for i := range store.Partitions {
		if p := (f.next + i) % store.Partitions; p%of == place && f.pending[p] {
			ps = append(ps, store.Partition(p))
		}
	}
	return ps
}

// look notes which partitions may have new events: those that were written to
// here, and now and then all, since others write too.
func (f *Follower) look() {
	now := f.Now()
	sweep := now.Sub(f.swept) >= SweepEvery
	if sweep {
		f.swept = now
	}
	for _, p := range f.Only {
		dirty := f.Dirty != nil && f.Dirty(p)
		f.pending[p] = f.pending[p] || dirty || sweep
	}
}

// giveWay spreads a pass over the time until the next one, unless it is behind:
// charging on the same cores must not wait for a burst of records.
func (f *Follower) giveWay(ctx context.Context) {
	if f.behind {
		return
	}
	t := time.NewTimer(PassEvery / 4 * strideMax / store.Partitions)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// stride reads what is new in these partitions. Only the store is asked for all
// of them at once: lines are made one after another, on one core.
func (f *Follower) stride(ctx context.Context, ps []store.Partition) ([]section, error) {
	if err := f.load(ctx, ps); err != nil {
		return nil, err
	}
	events := make([][]store.Event, len(ps))
	err := f.atOnce(len(ps), func(i int) (err error) {
		events[i], err = f.Store.Events(ctx, ps[i], f.cursors[ps[i]].Seq, readMax)
		return err
	})
	if err != nil {
		return nil, err
	}
	found := make([]section, len(ps))
	for i, p := range ps {
		found[i].partition, found[i].was = p, f.cursors[p]
		if err := f.section(&found[i], events[i]); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// atOnce does n things at the same time, so that a store whose client gathers
// what waits sends them in one write.
func (f *Follower) atOnce(n int, do func(i int) error) error {
	errs := make([]error, n)
	if f.Single {
		for i := range n {
			errs[i] = do(i)
		}
		return errors.Join(errs...)
	}
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = do(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// section turns the events of one partition into lines.
func (f *Follower) section(s *section, events []store.Event) error {
	s.upTo, s.more = s.was.Seq, len(events) == readMax
	if len(events) == 0 {
		return nil
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	var e charging.Entry
	for _, ev := range events {
		s.upTo = ev.Seq
		r := Of(&e, ev.Bytes, s.partition, ev.Seq)
		if r.Type == Unreadable {
			f.Log.Error("an event cannot be read: it is in the record file as it is", "partition", s.partition, "seq", ev.Seq)
		}
		if err := enc.Encode(&r); err != nil {
			return err
		}
		s.records = append(s.records, r)
	}
	s.lines = buf.Bytes()
	return nil
}

func cursorKey(p store.Partition) store.Key {
	return store.Key{Partition: p, Kind: kindCursor, Name: "files"}
}

func (f *Follower) cursor(ctx context.Context, p store.Partition) (stored, error) {
	err := f.load(ctx, []store.Partition{p})
	return f.cursors[p], err
}

// load reads the cursors of these partitions that are not known.
func (f *Follower) load(ctx context.Context, ps []store.Partition) error {
	var keys []store.Key
	for _, p := range ps {
		if _, ok := f.cursors[p]; !ok {
			keys = append(keys, cursorKey(p))
		}
	}
	if len(keys) == 0 {
		return nil
	}
	recs, err := f.Store.Load(ctx, keys)
	if err != nil {
		return err
	}
	for i, k := range keys {
		c := stored{version: recs[i].Version}
		if len(recs[i].Bytes) > 0 {
			if err := json.Unmarshal(recs[i].Bytes, &c.cursor); err != nil {
				return fmt.Errorf("cursor of partition %d: %w", k.Partition, err)
			}
		}
		f.cursors[k.Partition] = c
	}
	return nil
}

// Names of files that are not finished: as first written, and with the lines
// taken out that are not this follower's.
const (
	part    = ".part"
	mending = ".mend"
)

// write makes a file, on disk.
func (f *Follower) write(name string, sections []section) error {
	parts := make([][]byte, len(sections))
	for i := range sections {
		parts[i] = sections[i].lines
	}
	return f.Disk.Write(name, parts)
}

// mend puts a file with these sections in the place of the .part.
func (f *Follower) mend(name string, sections []section) error {
	if len(sections) > 0 {
		if err := f.write(name+mending, sections); err != nil {
			return err
		}
		if err := f.publish(name+mending, name); err != nil {
			return err
		}
	}
	return f.Disk.Remove(name + part)
}

// move moves the cursors to the end of the sections; kept are those that no
// other follower moved before.
func (f *Follower) move(ctx context.Context, name string, sections []section) (kept []section, err error) {
	commits := make([]store.Commit, len(sections))
	next := make([]stored, len(sections))
	for i := range sections {
		s := &sections[i]
		next[i] = stored{cursor: s.was.after(move{Instance: f.Instance, File: name, From: s.was.Seq, Seq: s.upTo})}
		commits[i] = f.put(s.partition, &s.was, next[i].cursor)
		next[i].version = commits[i].Writes[0].New
	}
	var rs []store.Result
	for part := range slices.Chunk(commits, strideMax) {
		done, _ := f.Store.Commit(ctx, part)
		rs = append(rs, done...)
		if len(part) == strideMax {
			f.giveWay(ctx)
		}
	}
	for i := range rs {
		switch rs[i].Outcome {
		case store.Done:
			f.cursors[sections[i].partition] = next[i]
			kept = append(kept, sections[i])
		case store.Conflict:
			delete(f.cursors, sections[i].partition)
			f.pending[sections[i].partition] = true
		case store.InDoubt, store.Refused:
			// Whether this section counts is for the cursor to say: recover, later.
			return nil, fmt.Errorf("move the cursor of partition %d: %w", sections[i].partition, rs[i].Err)
		}
	}
	return kept, nil
}

// draw draws a version.
func (f *Follower) draw() (v store.Version) {
	if f.Version != nil {
		return f.Version()
	}
	rand.Read(v[:])
	return v
}

// put is the commit that writes a partition's cursor over was.
func (f *Follower) put(p store.Partition, was *stored, c cursor) store.Commit {
	body, err := json.Marshal(c)
	if err != nil {
		panic("a cursor is numbers and strings: " + err.Error())
	}
	w := store.Write{Op: store.Put, Key: cursorKey(p), Seen: was.version, New: f.draw(), Bytes: body}
	return store.Commit{Writes: []store.Write{w}}
}

// publish gives a finished file its name.
func (f *Follower) publish(from, name string) error {
	err := f.Disk.Rename(from, name)
	if err == nil {
		f.Files.Add(1)
	}
	return err
}

// announce tells whoever listens, and forgets the events that are in files.
func (f *Follower) announce(ctx context.Context, sections []section) {
	for part := range slices.Chunk(sections, strideMax) {
		for i := range part {
			f.tell(&part[i])
		}
		_ = f.atOnce(len(part), func(i int) error {
			if err := f.Store.Trim(ctx, part[i].partition, part[i].upTo); err != nil {
				f.Log.Warn("events that are in files are still in the store", "partition", part[i].partition, "error", err)
			}
			return nil
		})
		if len(part) == strideMax {
			f.giveWay(ctx)
		}
	}
}

func (f *Follower) tell(s *section) {
	f.Records.Add(int64(len(s.records)))
	for j := range s.records {
		f.lived(&s.records[j])
		if f.Tail != nil {
			f.Tail(&s.records[j])
		}
	}
}

// lived counts the life of a session that ended.
func (f *Follower) lived(r *Record) {
	if r.Type != charging.FinalRecord.String() {
		return
	}
	f.Sessions.Add(1)
	from, err := time.Parse(time.RFC3339, r.Opened)
	to, failed := time.Parse(time.RFC3339, r.Ended)
	if err == nil && failed == nil {
		f.Open.Add(to.Sub(from).Milliseconds())
	}
}

// recover finishes the files that this instance left unfinished: a line counts
// if its partition's cursor says that a move put it there.
func (f *Follower) recover(ctx context.Context) error {
	names, err := f.Disk.Names()
	if err != nil {
		return err
	}
	for _, file := range names {
		name, unfinished := strings.CutSuffix(file, part)
		if !unfinished || !f.mine(name) {
			continue
		}
		if err := f.fence(ctx, file); err != nil {
			return err
		}
		var valid bytes.Buffer
		err := f.positions(file, func(line []byte, p store.Partition, seq uint64) error {
			c, err := f.cursor(ctx, p)
			if err == nil && c.holds(name, seq) {
				valid.Write(line)
				valid.WriteByte('\n')
			}
			return err
		})
		if err != nil {
			return err
		}
		var sections []section
		if valid.Len() > 0 {
			sections = []section{{lines: valid.Bytes()}}
		}
		if err := f.mend(name, sections); err != nil {
			return err
		}
		f.Log.Info("a record file was finished after a restart", "file", name)
	}
	return nil
}

// fence writes the cursor of each partition of a file anew, as it is: a move
// that is in doubt has then taken place, or never will.
func (f *Follower) fence(ctx context.Context, file string) error {
	open := make(map[store.Partition]bool)
	err := f.positions(file, func(_ []byte, p store.Partition, _ uint64) error { open[p] = true; return nil })
	for len(open) > 0 && err == nil {
		var commits []store.Commit
		for _, p := range slices.Sorted(maps.Keys(open)) {
			delete(f.cursors, p)
			var c stored
			if c, err = f.cursor(ctx, p); err != nil {
				return err
			}
			commits = append(commits, f.put(p, &c, c.cursor))
		}
		rs, _ := f.Store.Commit(ctx, commits)
		for i := range rs {
			p := commits[i].Writes[0].Key.Partition
			delete(f.cursors, p)
			switch rs[i].Outcome {
			case store.Done:
				delete(open, p)
			case store.Conflict: // it moved just now: look again
			case store.InDoubt, store.Refused:
				err = fmt.Errorf("fence the cursor of partition %d: %w", p, rs[i].Err)
			}
		}
	}
	return err
}

// positions calls each for the lines of a file that say where they come from;
// one that a crash cut off does not.
func (f *Follower) positions(file string, each func(line []byte, p store.Partition, seq uint64) error) error {
	r, err := f.Disk.Open(file)
	if err != nil {
		return err
	}
	return eachLine(r, func(line []byte) error {
		var r struct {
			Partition store.Partition `json:"partition"`
			Seq       uint64          `json:"seq"`
		}
		if json.Unmarshal(line, &r) != nil {
			return nil
		}
		return each(line, r.Partition, r.Seq)
	})
}

func lines(file string, each func([]byte) error) error {
	r, err := os.Open(file)
	if err != nil {
		return err
	}
	return eachLine(r, each)
}

// eachLine calls each for the lines of r, and closes it.
func eachLine(r io.ReadCloser, each func([]byte) error) error {
	defer r.Close()
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), 4<<20)
	for s.Scan() {
		if err := each(s.Bytes()); err != nil {
			return err
		}
	}
	return s.Err()
}

// Files lists the finished record files of a directory, the oldest first.
func Files(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if os.IsNotExist(err) {
			return nil, nil
		}
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type()&fs.ModeType == 0 && strings.HasSuffix(e.Name(), finished) {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Read calls each for every record of the files of a directory, in the order of
// the files.
func Read(dir string, each func(*Record) error) error {
	files, err := Files(dir)
	if err != nil {
		return err
	}
	for _, file := range files {
		err := lines(file, func(line []byte) error {
			var r Record
			if err := json.Unmarshal(line, &r); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			return each(&r)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Unfinished lists the record files of a directory that wait for the instances
// that began them to finish them, by instance.
func Unfinished(dir string) (map[string][]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	waiting := make(map[string][]string)
	for _, e := range entries {
		name, unfinished := strings.CutSuffix(e.Name(), part)
		if by := instanceOf(name); unfinished && by != "" {
			waiting[by] = append(waiting[by], e.Name())
		}
	}
	return waiting, err
}

// instanceOf is the instance that began a record file; empty: it is none.
func instanceOf(name string) string {
	name, ok := strings.CutSuffix(name, finished)
	if i := strings.LastIndexByte(name, '-'); ok && i > len(stamp) && name[len(stamp)] == '-' {
		return name[len(stamp)+1 : i]
	}
	return ""
}
