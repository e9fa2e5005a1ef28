// Package backup takes what a store holds into a file, from a file into a store,
// or from one store into another while it is in use, and proves that it is the
// same on both sides. It does not know what the records mean, nor which kind of
// store it reads and writes.
package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc64"
	"io"
	"slices"
	"strings"
	"time"

	"rtm/store"
)

// A backup file is a line of text, blocks, and a last block that proves that it
// is whole:
//
//	rtm backup 1 {"program": …, "store": …, "begun": …, "partitions": 1024}\n
//	'R'  records     for each: partition, kind, name, version(8), expiry, wake-up time, bytes
//	'E'  events      for each: partition, number, bytes
//	'L'  streams     for each: partition, the last number it gave out
//	'Z'  the end     JSON: a Summary, then SHA-256 of everything before this block
//
// A block is its letter, the length of its body (4 octets), CRC-64 (ECMA) of the
// body (8 octets), the body. Numbers in a body are varints of protocol buffers,
// names and bytes have their length before them. An expiry is the milliseconds
// that were left of the record, zero if it stays for ever; a wake-up time is in
// milliseconds since 1970, zero if there is none. A record may come more than
// once if the Summary is not Whole: the last one counts, and one with a version
// of zeros says that the record was removed.
const magic = "rtm backup 1 "

// Bounds of a file. A reader refuses what is beyond them before it makes room.
const (
	headMax  = 4 << 10
	blockMax = 64 << 20 // a part of a walk is some MiB, one commit at most 256 kB
)

// About says where a backup is from.
type About struct {
	Program    string    `json:"program"`
	Store      string    `json:"store"`
	Mode       string    `json:"mode"`
	Begun      time.Time `json:"begun"` // by the store's clock
	Partitions int       `json:"partitions"`
}

// A Summary is what a backup holds.
type Summary struct {
	// At is the moment that it is of, by the store's clock. Without Whole, each
	// partition is of a moment of its own between the beginning and At.
	At      time.Time        `json:"at"`
	Whole   bool             `json:"whole"`
	Records map[string]int64 `json:"records"` // by their kind's letter, with those that come again
	Events  int64            `json:"events"`
	Streams int64            `json:"streams"`
	Bytes   int64            `json:"bytes"` // of the file
}

// Total is how many records there are.
func (s *Summary) Total() (n int64) {
	for _, of := range s.Records {
		n += of
	}
	return n
}

// ErrDamaged refuses a file that is not whole, or not a backup.
var ErrDamaged = errors.New("this is not a whole backup")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

var table = crc64.MakeTable(crc64.ECMA)

// A writer writes a file.
type writer struct {
	w    io.Writer
	sum  hash.Hash
	body []byte
	said Summary
}

func newWriter(w io.Writer, about *About) (*writer, error) {
	out := &writer{w: w, sum: sha256.New(), said: Summary{Records: make(map[string]int64)}}
	head, err := json.Marshal(about)
	if err == nil {
		err = out.write([]byte(magic + string(head) + "\n"))
	}
	return out, err
}

func (w *writer) write(b []byte) error {
	w.sum.Write(b)
	n, err := w.w.Write(b)
	w.said.Bytes += int64(n)
	return err
}

func (w *writer) block(letter byte, body []byte) error {
	head := binary.BigEndian.AppendUint32([]byte{letter}, uint32(len(body)))
	if err := w.write(binary.BigEndian.AppendUint64(head, crc64.Checksum(body, table))); err != nil {
		return err
	}
	return w.write(body)
}

// part writes a part, as a block of each sort that it has.
func (w *writer) part(p *store.Part) error {
	w.body = w.body[:0]
	for i := range p.Copies {
		w.body = appendCopy(w.body, &p.Copies[i])
		w.said.Records[string(p.Copies[i].Key.Kind)]++
	}
	if len(p.Copies) > 0 {
		if err := w.block('R', w.body); err != nil {
			return err
		}
	}
	w.body = w.body[:0]
	for i := range p.Streams {
		st := &p.Streams[i]
		for _, e := range st.Events {
			w.body = binary.AppendUvarint(w.body, uint64(st.Partition))
			w.body = binary.AppendUvarint(w.body, e.Seq)
			w.body = appendBytes(w.body, e.Bytes)
			w.said.Events++
		}
	}
	if len(w.body) > 0 {
		if err := w.block('E', w.body); err != nil {
			return err
		}
	}
	w.body = w.body[:0]
	for i := range p.Streams {
		if st := &p.Streams[i]; st.Last > 0 {
			w.body = binary.AppendUvarint(w.body, uint64(st.Partition))
			w.body = binary.AppendUvarint(w.body, st.Last)
			w.said.Streams++
		}
	}
	if len(w.body) > 0 {
		return w.block('L', w.body)
	}
	return nil
}

// end writes the last block.
func (w *writer) end(at time.Time, whole bool) (Summary, error) {
	w.said.At, w.said.Whole = at.UTC(), whole
	text, err := json.Marshal(&w.said)
	if err != nil {
		return w.said, err
	}
	return w.said, w.block('Z', w.sum.Sum(text))
}

func appendBytes(b, v []byte) []byte { return append(binary.AppendUvarint(b, uint64(len(v))), v...) }

func appendCopy(b []byte, c *store.Copy) []byte {
	b = binary.AppendUvarint(b, uint64(c.Key.Partition))
	b = append(b, c.Key.Kind)
	b = appendBytes(b, []byte(c.Key.Name))
	b = append(b, c.Version[:]...)
	left, wake := int64(0), int64(0)
	if c.Expire > 0 {
		left = max(c.Expire.Milliseconds(), 1)
	}
	if !c.Wake.IsZero() {
		wake = c.Wake.UnixMilli()
	}
	b = binary.AppendUvarint(b, uint64(left))
	b = binary.AppendUvarint(b, uint64(wake))
	return appendBytes(b, c.Bytes)
}

// fields cuts values off a body; after the first one that is not there, bad.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) number() uint64 {
	v, n := binary.Uvarint(f.b)
	if n <= 0 || f.bad {
		f.bad, f.b = true, nil
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *fields) take(n uint64) []byte {
	if f.bad || n > uint64(len(f.b)) {
		f.bad, f.b = true, nil
		return nil
	}
	v := f.b[:n:n]
	f.b = f.b[n:]
	return v
}

func (f *fields) bytes() []byte { return f.take(f.number()) }

func (f *fields) partition() store.Partition {
	p := f.number()
	f.bad = f.bad || p >= store.Partitions
	return store.Partition(p)
}

func (f *fields) copy() (c store.Copy) {
	c.Key.Partition = f.partition()
	if k := f.take(1); len(k) == 1 {
		c.Key.Kind = k[0]
	}
	c.Key.Name = string(f.bytes())
	copy(c.Version[:], f.take(8))
	left, wake := f.number(), f.number()
	f.bad = f.bad || left > 1<<43 || wake > 1<<53
	c.Expire = time.Duration(left) * time.Millisecond
	if wake > 0 {
		c.Wake = time.UnixMilli(int64(wake)).UTC()
	}
	c.Bytes = f.bytes()
	return c
}

// Read reads a file from its beginning to its end, and calls each for its parts
// as they come; nil: they are only checked. Whether the file is whole is known
// when Read returns, so whoever writes something for a part has read the file
// once before. An error that is not of each or of r is an ErrDamaged.
func Read(r io.Reader, each func(*store.Part) error) (About, Summary, error) {
	in := &reader{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New(), found: Summary{Records: make(map[string]int64)}}
	var about About
	if err := in.head(&about); err != nil {
		return about, in.found, err
	}
	for {
		letter, body, before, err := in.block()
		if err != nil {
			return about, in.found, err
		}
		if letter == 'Z' {
			said, err := in.end(body, before)
			return about, said, err
		}
		part, err := in.part(letter, body)
		if err == nil && each != nil {
			err = each(part)
		}
		if err != nil {
			return about, in.found, err
		}
	}
}

type reader struct {
	r     *bufio.Reader
	sum   hash.Hash
	buf   []byte
	found Summary
}

// read reads len(b) octets.
func (r *reader) read(b []byte) error {
	n, err := io.ReadFull(r.r, b)
	r.found.Bytes += int64(n)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged("it ends after %d octets, before its end mark", r.found.Bytes)
	}
	if err != nil { // gzip says so in its own words
		return fmt.Errorf("%w: after %d octets: %w", ErrDamaged, r.found.Bytes, err)
	}
	return nil
}

func (r *reader) head(about *About) error {
	line := make([]byte, len(magic))
	if err := r.read(line); err != nil {
		return err
	}
	if string(line) != magic {
		if word := "rtm backup "; strings.HasPrefix(string(line), word) {
			return damaged("it has another format than this program knows: use the newer program")
		}
		return damaged("it does not begin as one")
	}
	for line[len(line)-1] != '\n' {
		var one [1]byte
		if err := r.read(one[:]); err != nil {
			return err
		}
		if line = append(line, one[0]); len(line) > headMax {
			return damaged("its first line does not end")
		}
	}
	r.sum.Write(line)
	if err := json.Unmarshal(line[len(magic):], about); err != nil {
		return damaged("its first line: %v", err)
	}
	if about.Partitions != store.Partitions {
		return damaged("it has %d partitions, this program %d", about.Partitions, store.Partitions)
	}
	return nil
}

// block reads one block; before is the sum of what was read before it.
func (r *reader) block() (letter byte, body, before []byte, err error) {
	var head [13]byte
	if err := r.read(head[:]); err != nil {
		return 0, nil, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > blockMax {
		return 0, nil, nil, damaged("a block of %d octets", n)
	}
	body = r.buf[:0]
	for uint32(len(body)) < n { // no more room than there is, if the length is wrong
		have, more := len(body), min(int(n)-len(body), 1<<20)
		body = slices.Grow(body, more)[:have+more]
		if err := r.read(body[have:]); err != nil {
			return 0, nil, nil, err
		}
	}
	r.buf = body
	if crc64.Checksum(body, table) != binary.BigEndian.Uint64(head[5:]) {
		return 0, nil, nil, damaged("its checksum is wrong near octet %d", r.found.Bytes)
	}
	before = r.sum.Sum(nil)
	r.sum.Write(head[:])
	r.sum.Write(body)
	return head[0], body, before, nil
}

// part reads the body of a block, and counts what is in it.
func (r *reader) part(letter byte, body []byte) (*store.Part, error) {
	part := &store.Part{}
	f := &fields{b: body}
	for len(f.b) > 0 && !f.bad {
		switch letter {
		case 'R':
			c := f.copy()
			part.Copies = append(part.Copies, c)
			r.found.Records[string(c.Key.Kind)]++
		case 'E':
			p := f.partition()
			e := store.Event{Seq: f.number(), Bytes: f.bytes()}
			if n := len(part.Streams); n == 0 || part.Streams[n-1].Partition != p {
				part.Streams = append(part.Streams, store.Stream{Partition: p})
			}
			st := &part.Streams[len(part.Streams)-1]
			st.Events = append(st.Events, e)
			r.found.Events++
		case 'L':
			part.Streams = append(part.Streams, store.Stream{Partition: f.partition(), Last: f.number()})
			r.found.Streams++
		default:
			return nil, damaged("a block of sort %q", letter)
		}
	}
	if f.bad {
		return nil, damaged("a block cannot be read near octet %d", r.found.Bytes)
	}
	return part, nil
}

// end compares what was read with what the last block says.
func (r *reader) end(body, before []byte) (said Summary, err error) {
	size := r.found.Bytes
	if len(body) < sha256.Size || !bytes.Equal(body[len(body)-sha256.Size:], before) {
		return r.found, damaged("its checksum over everything is wrong")
	}
	if err := json.Unmarshal(body[:len(body)-sha256.Size], &said); err != nil {
		return r.found, damaged("its end: %v", err)
	}
	same := said.Events == r.found.Events && said.Streams == r.found.Streams && len(said.Records) == len(r.found.Records)
	for kind, n := range said.Records {
		same = same && r.found.Records[kind] == n
	}
	if !same {
		return r.found, damaged("it holds other counts than it says")
	}
	if _, err := r.r.ReadByte(); !errors.Is(err, io.EOF) {
		if err != nil {
			return said, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		return said, damaged("something comes after its end")
	}
	said.Bytes = size
	return said, nil
}
