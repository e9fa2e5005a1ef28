package cdr

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"rtm/charging"
	"rtm/store"
)

// resumeMargin is how much older than the backup a file's name may be, if it may
// hold what the backup says is in no file yet: files are begun before they are
// named in a cursor, by the clock of another machine.
const resumeMargin = time.Hour

// ErrOtherRecords says that record files are not those of the system whose store
// was restored.
var ErrOtherRecords = errors.New("these record files are not of the system that the backup is of")

// ErrMissingRecords says that an event must be in a file that was not named.
var ErrMissingRecords = errors.New("record files are missing: name the directories of all instances. " +
	"If one is lost, leave them all out: what the backup holds then comes into files again, under the same id")

// Resume tells a store that was restored which of its events are in record files
// already: those that were followed between the backup, of that time, and the
// loss. Their cursors move behind them, so that they do not come into files
// again. What only a file holds that its instance has not finished counts if it
// fits between the others: the cursor names that file, and the instance finishes
// it when it is back in its directory. Lines of what happened after the backup
// belong to no event of the store and are left alone. Events that cursors say are
// in files are trimmed. It returns how many events were found in files. The store
// must not be in use.
//
// Errors: ErrOtherRecords; ErrMissingRecords, if an event is in none of the files
// though later ones of its partition are.
func Resume(ctx context.Context, s store.Store, dirs []string, at time.Time) (found int, err error) {
	r := &resume{
		f:   &Follower{Config: Config{Store: s, Instance: "restore"}, cursors: make(map[store.Partition]stored)},
		due: make(map[store.Partition][]due), later: make(map[store.Partition]bool), parts: make(map[store.Partition][]*unfinished),
	}
	for p := range store.Partition(store.Partitions) {
		if err := r.waiting(ctx, p); err != nil {
			return 0, err
		}
	}
	for _, of := range []func(dir string) ([]string, error){unfinishedFiles, Files} {
		for _, dir := range dirs {
			files, err := of(dir)
			for i := 0; i < len(files) && err == nil; i++ {
				err = r.file(files[i], at.Add(-resumeMargin))
			}
			if err != nil {
				return 0, err
			}
		}
	}
	for p := range store.Partition(store.Partitions) {
		n, err := r.move(ctx, p)
		if err != nil {
			return 0, err
		}
		found += n
	}
	return found, nil
}

// A resume is one run of Resume.
type resume struct {
	f     *Follower
	due   map[store.Partition][]due
	later map[store.Partition]bool // finished files hold events after all that are due
	parts map[store.Partition][]*unfinished
}

// due is an event that is in no file, as the store's cursor has it.
type due struct {
	seq  uint64
	id   string
	file bool // a finished file has it
}

// unfinished is the lines of a partition in a file without its name: all of them
// count, if a cursor was moved by them, or none.
type unfinished struct {
	move
	due  int  // how many of the lines are of due events
	told bool // a finished file has some: it was not this one that the cursor was moved by
}

func unfinishedFiles(dir string) (files []string, err error) {
	waiting, err := Unfinished(dir)
	for _, names := range waiting {
		for _, name := range names {
			files = append(files, filepath.Join(dir, name))
		}
	}
	slices.Sort(files)
	return files, err
}

// waiting lists the events of a partition that its cursor says are in no file.
func (r *resume) waiting(ctx context.Context, p store.Partition) error {
	c, err := r.f.cursor(ctx, p)
	if err != nil {
		return err
	}
	var e charging.Entry
	for after := c.Seq; ; {
		events, err := r.f.Store.Events(ctx, p, after, readMax)
		if err != nil {
			return err
		}
		for _, ev := range events {
			after = ev.Seq
			of := Of(&e, ev.Bytes, p, ev.Seq)
			r.due[p] = append(r.due[p], due{seq: ev.Seq, id: of.ID})
		}
		if len(events) < readMax {
			return nil
		}
	}
}

// at is where an event stands among those that are due, or would.
func (r *resume) at(p store.Partition, seq uint64) (i int, found bool) {
	return slices.BinarySearchFunc(r.due[p], seq, func(d due, seq uint64) int { return cmp.Compare(d.seq, seq) })
}

// file looks for events in a file, unless it was begun before since. Those that
// are not finished come first.
func (r *resume) file(file string, since time.Time) error {
	name := filepath.Base(file)
	if len(name) >= len(stamp) && name[:len(stamp)] < since.UTC().Format(stamp) {
		return nil
	}
	name, isPart := strings.CutSuffix(name, part)
	sections := make(map[store.Partition]*unfinished)
	err := lines(file, func(line []byte) error {
		var l struct {
			ID        string          `json:"id"`
			Partition store.Partition `json:"partition"`
			Seq       uint64          `json:"seq"`
		}
		if json.Unmarshal(line, &l) != nil {
			return nil
		}
		i, isDue := r.at(l.Partition, l.Seq)
		if isDue && r.due[l.Partition][i].id != l.ID {
			return fmt.Errorf("%w: %s has %s as event %d of partition %d, which is %s", ErrOtherRecords, file, l.ID, l.Seq, l.Partition, r.due[l.Partition][i].id)
		}
		if isPart {
			s := sections[l.Partition]
			if s == nil {
				s = &unfinished{move: move{Instance: instanceOf(name), File: name, From: l.Seq - 1}}
				sections[l.Partition] = s
				r.parts[l.Partition] = append(r.parts[l.Partition], s)
			}
			s.Seq = l.Seq
			if isDue {
				s.due++
			}
			return nil
		}
		if isDue {
			r.due[l.Partition][i].file = true
		} else if i == len(r.due[l.Partition]) {
			r.later[l.Partition] = true
		}
		for _, s := range r.parts[l.Partition] {
			s.told = s.told || l.Seq > s.From && l.Seq <= s.Seq
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// move moves the cursor of a partition behind what is in files.
func (r *resume) move(ctx context.Context, p store.Partition) (found int, err error) {
	was, all := r.f.cursors[p], r.due[p]
	found, moves := r.reach(p, 0, nil)
	if found < len(all) && r.beyond(p, found) {
		return 0, fmt.Errorf("%w: event %d of partition %d is in none, and later ones are", ErrMissingRecords, all[found].seq, p)
	}
	seq := was.Seq
	if found > 0 {
		seq = all[found-1].seq
	}
	next := was.cursor
	for _, m := range moves {
		next = next.after(m)
	}
	next.Seq = seq // what happened after the backup has numbers that events of the store may get, too
	// A backup of a store that others used meanwhile may hold some of the
	// events that were taken away while it was made.
	if err := r.f.Store.Trim(ctx, p, seq); err != nil {
		return 0, fmt.Errorf("trim partition %d: %w", p, err)
	}
	if reflect.DeepEqual(next, was.cursor) {
		return found, nil
	}
	rs, _ := r.f.Store.Commit(ctx, []store.Commit{r.f.put(p, &was, next)})
	if rs[0].Outcome != store.Done {
		return 0, fmt.Errorf("move the cursor of partition %d: %s %v", p, rs[0].Outcome, rs[0].Err)
	}
	return found, nil
}

// reach is how many of the events that are due are in files without a gap, from
// the i-th on. Where no finished file has one, the cursor must have been moved by
// an unfinished one that begins there. moves are those, behind the ones before; of
// several ways it is the one with which most events are reached, then most lines.
func (r *resume) reach(p store.Partition, i int, before []move) (end int, moves []move) {
	all := r.due[p]
	for i < len(all) && all[i].file {
		i++
	}
	if i == len(all) {
		return i, r.after(p, before)
	}
	end, moves = i, before
	for _, s := range r.parts[p] {
		if s.told || s.From+1 != all[i].seq || !fits(before, s.move) {
			continue
		}
		j, isDue := r.at(p, s.Seq)
		if isDue {
			j++
		}
		if s.due != j-i {
			continue // it lacks some
		}
		if e, ms := r.reach(p, j, append(slices.Clone(before), s.move)); e > end || e == end && count(ms) > count(moves) {
			end, moves = e, ms
		}
	}
	return end, moves
}

// after adds the moves into unfinished files of what happened after the backup,
// whose events no store has any more: those with most lines.
func (r *resume) after(p store.Partition, before []move) (moves []move) {
	seq := r.f.cursors[p].Seq
	if n := len(r.due[p]); n > 0 {
		seq = r.due[p][n-1].seq
	}
	rest := slices.DeleteFunc(slices.Clone(r.parts[p]), func(s *unfinished) bool { return s.told || s.From < seq })
	slices.SortFunc(rest, func(a, b *unfinished) int { return cmp.Compare(a.From, b.From) })
	moves = before
	ways := [][]move{before} // that end with one of them each
	for _, s := range rest {
		var best []move
		for _, w := range ways {
			if fits(w, s.move) && (best == nil || count(w)+s.Seq-s.From > count(best)) {
				best = append(slices.Clone(w), s.move)
			}
		}
		if best == nil {
			continue
		}
		if ways = append(ways, best); count(best) > count(moves) {
			moves = best
		}
	}
	return moves
}

// count is how many lines moves put into files.
func count(moves []move) (n uint64) {
	for _, m := range moves {
		n += m.Seq - m.From
	}
	return n
}

// fits reports whether a cursor can hold one more move: it has one of each
// instance, and those behind the last one.
func fits(before []move, m move) bool {
	return len(before) < movesMax && !slices.ContainsFunc(before, func(b move) bool { return b.Instance == m.Instance || b.Seq > m.From })
}

// beyond reports whether the cursor was moved behind the i-th event that is due:
// later ones are in a finished file, or an unfinished one was begun behind it.
func (r *resume) beyond(p store.Partition, i int) bool {
	all := r.due[p]
	return r.later[p] || slices.ContainsFunc(all[i:], func(d due) bool { return d.file }) ||
		slices.ContainsFunc(r.parts[p], func(s *unfinished) bool { return s.From >= all[i].seq })
}
