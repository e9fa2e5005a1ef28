package cdr

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"rtm/charging"
	"rtm/store"
)

// A Search collects the records that tell what happened in a session, or on an
// account: those of the account while the session was open, since all of them
// change the balance. It reads what is still in the store, then record files,
// the newest first, and stops where the session began.
type Search struct {
	Store   store.Store // what is not in files yet; nil: files alone
	Dirs    []string
	Session string // empty: the last entries of the account

	Tenant, Account string          // whose it is; empty: it is looked for
	Partition       store.Partition // of the account
	Opened          time.Time       // of the session; zero: it is looked for
	Last            int             // without a Session: how many entries

	found map[string]*Record // by ID
	first uint64             // the lowest entry number of the session
	begun bool               // its first message is there
}

// Bounds of a Search.
const (
	FoundMax = 100_000   // records that it collects
	wrongBy  = time.Hour // how far clocks of machines that name files may be off
)

// ErrTooMany ends a search that found more than FoundMax records.
var ErrTooMany = fmt.Errorf("more than %d records of the account belong to it", FoundMax)

// Run returns the records in the order of the account's entries, each once.
// None: there are no records of it. Records of other sessions come without
// their lines. What was found before an error comes with it.
func (s *Search) Run(ctx context.Context) ([]Record, error) {
	s.found = make(map[string]*Record)
	files, err := newestFirst(s.Dirs)
	if err == nil && s.Account == "" {
		err = s.find(ctx, files)
	}
	if err == nil && s.Account != "" {
		err = s.collect(ctx, files)
	}
	return s.sorted(), err
}

// EntryNumber is the number of a record among the entries of its account.
func (r *Record) EntryNumber() uint64 {
	parts := strings.Split(r.ID, "/")
	if len(parts) < 4 {
		return 0
	}
	n, _ := strconv.ParseUint(parts[len(parts)-2], 10, 64)
	return n
}

// newestFirst lists the finished files of all directories.
func newestFirst(dirs []string) (all []string, err error) {
	for _, dir := range dirs {
		files, err := Files(dir)
		if err != nil {
			return nil, err
		}
		all = append(all, files...)
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Compare(filepath.Base(b), filepath.Base(a)) })
	return all, nil
}

// errEnough ends the reading of a file.
var errEnough = errors.New("enough")

// find looks for the account of the session: in files, then in the events of
// all partitions.
func (s *Search) find(ctx context.Context, files []string) error {
	take := func(r *Record) error {
		if r.Session != s.Session || r.Opened == "" {
			return nil
		}
		s.Tenant, s.Account, s.Partition = r.Tenant, r.Account, r.Partition
		return errEnough
	}
	for _, file := range files {
		if err := scan(ctx, file, s.Session, take); err != nil {
			return enough(err)
		}
	}
	for p := range store.Partitions {
		if s.Store == nil {
			break
		}
		if err := s.events(ctx, store.Partition(p), take); err != nil {
			return enough(err)
		}
	}
	return nil
}

func enough(err error) error {
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// collect reads the records of the account. The store comes first: what leaves
// it meanwhile is in a file already.
func (s *Search) collect(ctx context.Context, files []string) error {
	if s.Store != nil {
		if err := s.events(ctx, s.Partition, s.take); err != nil {
			return err
		}
	}
	for _, file := range files {
		if s.complete() || s.before(file) {
			return nil
		}
		if err := scan(ctx, file, s.Account, s.take); err != nil {
			return err
		}
	}
	return nil
}

// take keeps a record of the account.
func (s *Search) take(r *Record) error {
	switch {
	case r.Account != s.Account || r.Tenant != s.Tenant || s.found[r.ID] != nil:
		return nil
	case len(s.found) >= FoundMax:
		return ErrTooMany
	}
	if s.Session != "" && r.Session != s.Session {
		r.Lines, r.Service = nil, nil
	} else if s.Session != "" {
		s.note(r)
	}
	s.found[r.ID] = r
	return nil
}

// note learns from a record of the session where it began. A Session-Id that
// was opened more than once means the last one.
func (s *Search) note(r *Record) {
	opened, err := time.Parse(time.RFC3339, r.Opened)
	if err != nil || opened.Before(s.Opened) {
		return
	}
	n := r.EntryNumber()
	if opened.After(s.Opened) {
		s.Opened, s.first, s.begun = opened, n, false
	}
	if s.first == 0 || n < s.first {
		s.first = n
	}
	s.begun = s.begun || r.Messages == 1 && r.Type == charging.Message.String()
}

// complete reports whether nothing is missing between the session's beginning
// and the last entry that was found, or enough entries of the account.
func (s *Search) complete() bool {
	if s.Session == "" {
		return s.Last > 0 && len(s.found) >= s.Last
	}
	if !s.begun {
		return false
	}
	count, last := uint64(0), uint64(0)
	for _, r := range s.found {
		if n := r.EntryNumber(); n >= s.first {
			count, last = count+1, max(last, n)
		}
	}
	return count == last-s.first+1
}

// before reports whether a file was begun well before the session was opened.
func (s *Search) before(file string) bool {
	at, known := begun(file)
	return known && !s.Opened.IsZero() && at.Before(s.Opened.Add(-wrongBy))
}

// sorted is what was found from the beginning on.
func (s *Search) sorted() []Record {
	var rs []Record
	for _, r := range s.found {
		if s.Session == "" || s.first > 0 && r.EntryNumber() >= s.first {
			rs = append(rs, *r)
		}
	}
	slices.SortFunc(rs, func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.EntryNumber(), b.EntryNumber()), cmp.Compare(a.ID, b.ID))
	})
	if s.Session == "" && s.Last > 0 {
		rs = rs[max(0, len(rs)-s.Last):]
	}
	return rs
}

// scan calls each for the records of a file that hold that text as a value. The
// rest is not decoded.
func scan(ctx context.Context, file, value string, each func(*Record) error) error {
	quoted, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return lines(file, func(line []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !bytes.Contains(line, quoted) {
			return nil
		}
		r := &Record{}
		if err := json.Unmarshal(line, r); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		return each(r)
	})
}

// events calls each for the events of a partition that are still in the store.
func (s *Search) events(ctx context.Context, p store.Partition, each func(*Record) error) error {
	for after := uint64(0); ; {
		found, err := s.Store.Events(ctx, p, after, readMax)
		if err != nil {
			return err
		}
		for _, ev := range found {
			after = ev.Seq
			var e charging.Entry
			r := Of(&e, ev.Bytes, p, ev.Seq)
			if err := each(&r); err != nil {
				return err
			}
		}
		if len(found) < readMax {
			return nil
		}
	}
}
