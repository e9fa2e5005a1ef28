package cdr

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"rtm/store"
)

// Bounds of what is read for one page, and what is thought of the times in the
// names of files.
const (
	pageFiles   = 4096            // files
	pageBytes   = 256 << 20       // octets of them
	clocksApart = 5 * time.Minute // a record is never younger than its file by more than that
	lateMost    = time.Hour       // records that reached their file later than that are not found by when they were
)

// Wanted says which lines of record files are wanted, and how many of them make
// a page.
type Wanted struct {
	Limit  int
	Before []byte // what a page ended with: only what is older; nil: from the newest on
	Since  time.Time
	Until  time.Time
	Match  func(line json.RawMessage) bool
}

// Newest reads the newest lines of a directory's files that are wanted, the
// newest last. next is where the older ones are, nil: there are none. Files are
// read from the newest back, and no more of them than a page needs: one that has
// looked at very much may hold fewer lines than its limit. Files of other times
// than Since to Until are left out; the lines themselves are for Match.
//
// Errors: store.ErrCursor, if Before is not what a page ended with.
func Newest(ctx context.Context, dir string, w Wanted) (lines []json.RawMessage, next []byte, err error) {
	files, err := Files(dir)
	if err != nil {
		return nil, nil, err
	}
	end := int64(-1)
	if w.Before != nil {
		if files, end, err = older(files, dir, w.Before); err != nil {
			return nil, nil, err
		}
	}
	read, size := 0, 0
	for i := len(files) - 1; i >= 0; i, end = i-1, -1 {
		began, known := begun(files[i])
		if known && !w.Since.IsZero() && began.Before(w.Since.Add(-clocksApart)) {
			break // and so are all that are older
		}
		if known && !w.Until.IsZero() && began.After(w.Until.Add(lateMost)) {
			continue
		}
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		b, err := os.ReadFile(files[i])
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was taken away meanwhile
		}
		if err != nil {
			return nil, nil, err
		}
		if end >= 0 {
			b = b[:min(end, int64(len(b)))]
		}
		size += len(b)
		for len(b) > 0 && len(lines) < w.Limit {
			line := b[bytes.LastIndexByte(b[:len(b)-1], '\n')+1:]
			if b = b[:len(b)-len(line)]; w.Match(line) {
				lines = append(lines, bytes.Clone(bytes.TrimSuffix(line, []byte("\n"))))
			}
		}
		read++
		if full := len(lines) >= w.Limit || read >= pageFiles || size >= pageBytes; full && (i > 0 || len(b) > 0) {
			next = binary.BigEndian.AppendUint64(nil, uint64(len(b)))
			next = append(next, filepath.Base(files[i])...)
			break
		}
	}
	slices.Reverse(lines)
	return lines, next, nil
}

// older cuts files off behind the one that a page ended in, and says where in it
// that was. A file that is gone was read.
func older(files []string, dir string, before []byte) ([]string, int64, error) {
	if len(before) <= 8 || !strings.HasSuffix(string(before[8:]), finished) {
		return nil, 0, store.ErrCursor
	}
	i, found := slices.BinarySearch(files, filepath.Join(dir, string(before[8:])))
	if !found {
		return files[:i], -1, nil
	}
	return files[:i+1], int64(binary.BigEndian.Uint64(before) &^ (1 << 63)), nil
}

// begun is the time in the name of a file.
func begun(file string) (time.Time, bool) {
	name := filepath.Base(file)
	t, err := time.Parse(stamp, name[:min(len(stamp), len(name))])
	return t, err == nil
}
