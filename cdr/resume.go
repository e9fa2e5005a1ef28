package cdr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
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

// Resume tells a store that was restored which of its events are in record files
// already: those that were followed between the backup, of that time, and the
// loss. Their cursors move behind them, so that they do not come into files
// again. Lines of what happened after the backup belong to no event of the store
// and are left alone. Events that cursors say are in files are trimmed. It
// returns how many events were found in files. The store must not be in use.
func Resume(ctx context.Context, s store.Store, dirs []string, at time.Time) (found int, err error) {
	f := &Follower{Config: Config{Store: s, Instance: "restore"}, cursors: make(map[store.Partition]stored)}
	due := make(map[store.Partition]map[uint64]string) // the ids of events that are in no file, by their Seq
	for p := range store.Partition(store.Partitions) {
		if due[p], err = f.waiting(ctx, p); err != nil {
			return 0, err
		}
	}
	upTo := make(map[store.Partition]uint64)
	for _, dir := range dirs {
		n, err := resumeFrom(dir, at.Add(-resumeMargin), due, upTo)
		if err != nil {
			return 0, err
		}
		found += n
	}
	for p := range store.Partition(store.Partitions) {
		was := f.cursors[p]
		seq := max(was.Seq, upTo[p])
		// A backup of a store that others used meanwhile may hold some of the
		// events that were taken away while it was made.
		if err := s.Trim(ctx, p, seq); err != nil {
			return 0, fmt.Errorf("trim partition %d: %w", p, err)
		}
		if seq == was.Seq {
			continue
		}
		rs, _ := s.Commit(ctx, []store.Commit{f.put(p, &was, cursor{Seq: seq, Moves: was.Moves})})
		if rs[0].Outcome != store.Done {
			return 0, fmt.Errorf("move the cursor of partition %d: %s %v", p, rs[0].Outcome, rs[0].Err)
		}
	}
	return found, nil
}

// waiting lists the events of a partition that its cursor says are in no file.
func (f *Follower) waiting(ctx context.Context, p store.Partition) (ids map[uint64]string, err error) {
	c, err := f.cursor(ctx, p)
	if err != nil {
		return nil, err
	}
	var e charging.Entry
	for after := c.Seq; ; {
		events, err := f.Store.Events(ctx, p, after, readMax)
		if err != nil {
			return nil, err
		}
		for _, ev := range events {
			after = ev.Seq
			if e.Decode(ev.Bytes) != nil {
				continue
			}
			if ids == nil {
				ids = make(map[uint64]string)
			}
			ids[ev.Seq] = FromEntry(&e, p, ev.Seq).ID
		}
		if len(events) < readMax {
			return ids, nil
		}
	}
}

// resumeFrom looks for events in the files of a directory, and notes in upTo how
// far each partition is in files.
func resumeFrom(dir string, since time.Time, due map[store.Partition]map[uint64]string, upTo map[store.Partition]uint64) (found int, err error) {
	files, err := Files(dir)
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		if name := filepath.Base(file); len(name) >= len(stamp) && name[:len(stamp)] < since.UTC().Format(stamp) {
			continue
		}
		err := lines(file, func(line []byte) error {
			var r struct {
				ID        string          `json:"id"`
				Partition store.Partition `json:"partition"`
				Seq       uint64          `json:"seq"`
			}
			if json.Unmarshal(line, &r) != nil {
				return nil
			}
			id, ok := due[r.Partition][r.Seq]
			if ok && id != r.ID {
				return fmt.Errorf("%w: %s has %s as event %d of partition %d, which is %s", ErrOtherRecords, file, r.ID, r.Seq, r.Partition, id)
			}
			if ok {
				found++
				upTo[r.Partition] = max(upTo[r.Partition], r.Seq)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return found, nil
}
