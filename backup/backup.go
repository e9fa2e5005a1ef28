package backup

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"rtm/store"
)

// expireMin is how long a record that expires is kept in a store that was
// filled, at least: so none vanishes before it was compared, and a gateway or an
// operator that comes back after the outage finds what was done.
const expireMin = time.Hour

// gap is how many numbers a restored stream leaves out. What the system wrote
// after the backup, and has lost, has numbers in it; what comes now has others.
const gap = 1 << 32

// A Progress says how far a run has come.
type Progress struct {
	Stage   string `json:"stage"` // one of the stages below
	Records int64  `json:"records"`
	Of      int64  `json:"of,omitempty"` // zero: it is not known
	Bytes   int64  `json:"bytes,omitempty"`
}

// The stages.
const (
	Copying    = "copy"    // records and events are read and written
	Checking   = "check"   // a file is read to its end
	Comparing  = "compare" // what was written is read again
	CatchingUp = "catch up"
	Switching  = "switch"
)

// Write writes a backup of a store that is in use. Any error means that what was
// written is no backup; a reader would say so too.
func Write(ctx context.Context, s store.Portable, w io.Writer, program string, told func(Progress)) (Summary, error) {
	facts, err := s.Facts(ctx)
	if err != nil {
		return Summary{}, err
	}
	out, err := newWriter(w, &About{Program: program, Store: facts.Node, Mode: facts.Mode, Begun: facts.Clock.UTC(), Partitions: store.Partitions})
	if err != nil {
		return Summary{}, err
	}
	p := Progress{Stage: Copying}
	at, whole, err := s.Walk(ctx, func(part *store.Part) error {
		p.Records += int64(len(part.Copies))
		if err := out.part(part); err != nil {
			return err
		}
		p.Bytes = out.said.Bytes
		told(p)
		return ctx.Err()
	})
	if err != nil {
		return out.said, err
	}
	return out.end(at, whole)
}

// Bounds of a gentle run.
const (
	restEvery = 1000 // records
	restMax   = 100 * time.Millisecond
)

// Gently has a run rest now and then, for as long as it has worked: what is
// decided on the same cores meanwhile must not wait for it.
func Gently(ctx context.Context, told func(Progress)) func(Progress) {
	since, at := time.Now(), int64(0)
	return func(p Progress) {
		if told(p); p.Records >= at && p.Records < at+restEvery {
			return
		}
		t := time.NewTimer(min(time.Since(since), restMax))
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		since, at = time.Now(), p.Records
	}
}

// A tally is what a store holds, in a form that does not depend on the order in
// which it is read: counts, and the sums of the hashes of all records, events and
// stream numbers, modulo 2^64.
type tally struct {
	records        map[byte]int64
	events         int64
	recordSums     map[byte]uint64
	eventSum, last uint64
}

func newTally() *tally {
	return &tally{records: make(map[byte]int64), recordSums: make(map[byte]uint64)}
}

// hashOf is the hash of a record, without how long it stays.
func hashOf(c *store.Copy) uint64 {
	c2 := *c
	if c2.Expire > 0 {
		c2.Expire = 1
	}
	sum := sha256.Sum256(appendCopy(nil, &c2))
	return binary.BigEndian.Uint64(sum[:])
}

func numbersOf(p store.Partition, n uint64, b []byte) uint64 {
	v := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(p)), n)
	sum := sha256.Sum256(append(v, b...))
	return binary.BigEndian.Uint64(sum[:])
}

// add counts a record.
func (t *tally) add(c *store.Copy) {
	if c.Version != (store.Version{}) {
		t.records[c.Key.Kind]++
		t.recordSums[c.Key.Kind] += hashOf(c)
	}
}

// drop takes a record off again.
func (t *tally) drop(c *store.Copy) {
	if c.Version != (store.Version{}) {
		t.records[c.Key.Kind]--
		t.recordSums[c.Key.Kind] -= hashOf(c)
	}
}

func (t *tally) streams(ss []store.Stream) {
	for i := range ss {
		for _, e := range ss[i].Events {
			t.events++
			t.eventSum += numbersOf(ss[i].Partition, e.Seq, e.Bytes)
		}
		if ss[i].Last > 0 {
			t.last += numbersOf(ss[i].Partition, ss[i].Last, nil)
		}
	}
}

func (t *tally) total() (n int64) {
	for _, of := range t.records {
		n += of
	}
	return n
}

// compare says in what the store that was filled differs; nil: in nothing.
func (t *tally) compare(found *tally) error {
	var wrong []string
	kinds := slices.Sorted(maps.Keys(t.records))
	for k := range found.records {
		if !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	for _, k := range kinds {
		switch {
		case t.records[k] != found.records[k]:
			wrong = append(wrong, fmt.Sprintf("%d records of kind %c were written, %d are there", t.records[k], k, found.records[k]))
		case t.recordSums[k] != found.recordSums[k]:
			wrong = append(wrong, fmt.Sprintf("records of kind %c are not as they were written", k))
		}
	}
	switch {
	case t.events != found.events:
		wrong = append(wrong, fmt.Sprintf("%d events were written, %d are there", t.events, found.events))
	case t.eventSum != found.eventSum:
		wrong = append(wrong, "events are not as they were written")
	case t.last != found.last:
		wrong = append(wrong, "the numbers of event streams are not as they were written")
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%w: %s", ErrDiffers, strings.Join(wrong, "; "))
	}
	return nil
}

// ErrDiffers says that a store does not hold what was written into it.
var ErrDiffers = errors.New("the store does not hold what was written into it: does somebody else write to it?")

// count walks over a store that was filled, and says what it holds.
func count(ctx context.Context, s store.Portable, p Progress, told func(Progress)) (*tally, error) {
	found := newTally()
	_, _, err := s.Walk(ctx, func(part *store.Part) error {
		for i := range part.Copies {
			found.add(&part.Copies[i])
		}
		found.streams(part.Streams)
		p.Records += int64(len(part.Copies))
		told(p)
		return ctx.Err()
	})
	return found, err
}

// NewID draws the name of a run.
func NewID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Fill opens a store that is to be filled under that id. old is the id of a move
// whose copy does not count and may be removed; empty: there is none.
type Fill func(id, old string) (store.Portable, error)

// A Restoring says what is restored, and into what.
type Restoring struct {
	Open  func() (io.ReadCloser, error)        // the file, twice
	Fill  Fill                                 // the store that is to be filled
	Leave func(store.Key) bool                 // records that are left out; nil: none
	After func(store.Portable, *Summary) error // what is done before the store may be used; nil: nothing
	Told  func(Progress)
}

// Restore fills an empty store from a file. First the file is read to its end,
// and nothing is done if it is not whole. What was then written is read again
// and compared. If Restore fails, the store stays marked as half filled.
func Restore(ctx context.Context, r Restoring) (*Summary, error) {
	open, fill, after, told := r.Open, r.Fill, r.After, r.Told
	said, err := check(ctx, open, told)
	if err != nil {
		return nil, err
	}
	id := NewID()
	s, err := fill(id, "")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	file, err := open()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	f := filler{to: s, sums: newTally(), again: !said.Whole}
	p := Progress{Stage: Copying, Of: said.Total()}
	_, twice, err := Read(file, func(part *store.Part) error {
		for i := range part.Streams {
			if st := &part.Streams[i]; st.Last > 0 {
				f.lasts[st.Partition], st.Last = st.Last, 0
			}
		}
		p.Records += int64(len(part.Copies))
		if r.Leave != nil {
			part.Copies = slices.DeleteFunc(part.Copies, func(c store.Copy) bool { return r.Leave(c.Key) })
		}
		if err := f.part(ctx, part); err != nil {
			return err
		}
		told(p)
		return ctx.Err()
	})
	if err == nil && twice.Bytes != said.Bytes {
		err = errors.New("the file has changed while it was read")
	}
	if err == nil {
		err = f.leap(ctx)
	}
	if err != nil {
		return nil, err
	}
	err = compare(ctx, s, f.sums, told)
	if err == nil && after != nil {
		err = after(s, said)
	}
	if err != nil {
		return nil, err
	}
	return said, s.SetMark(ctx, store.Filling(id), "")
}

// check reads a file to its end.
func check(ctx context.Context, open func() (io.ReadCloser, error), told func(Progress)) (*Summary, error) {
	file, err := open()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	p := Progress{Stage: Checking}
	_, said, err := Read(file, func(part *store.Part) error {
		p.Records += int64(len(part.Copies))
		told(p)
		return ctx.Err()
	})
	return &said, err
}

// A filler fills a store, and knows what it must hold then.
type filler struct {
	to    store.Portable
	sums  *tally
	again bool                     // a record may come again
	lasts [store.Partitions]uint64 // where streams stood
}

func (f *filler) part(ctx context.Context, part *store.Part) error {
	if f.again && len(part.Copies) > 0 {
		keys := make([]store.Key, len(part.Copies))
		for i := range part.Copies {
			keys[i] = part.Copies[i].Key
		}
		old, err := f.to.Copies(ctx, keys)
		if err != nil {
			return err
		}
		for i := range old {
			f.sums.drop(&old[i])
		}
	}
	for i := range part.Copies {
		c := &part.Copies[i]
		if c.Expire > 0 {
			c.Expire = max(c.Expire, expireMin)
		}
		f.sums.add(c)
	}
	f.sums.streams(part.Streams)
	return f.to.Fill(ctx, part)
}

// leap has all streams go on behind the numbers that the system may have given
// out after the backup.
func (f *filler) leap(ctx context.Context) error {
	part := store.Part{Streams: make([]store.Stream, store.Partitions)}
	for p := range part.Streams {
		part.Streams[p] = store.Stream{Partition: store.Partition(p), Last: f.lasts[p] + gap}
	}
	f.sums.streams(part.Streams)
	return f.to.Fill(ctx, &part)
}
