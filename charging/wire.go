package charging

import (
	"errors"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrRecord says that stored bytes are not a record: they were damaged, or
// something else wrote them.
var ErrRecord = errors.New("stored bytes are not a record of an account")

// ErrLevel says that a record is above [Level]: a later version may decide on it,
// and this one must not.
var ErrLevel = errors.New("the record is of a higher level than this version of rtm knows: install the one that the other instances run")

// The record's fields carry their meaning by number (fields.go). A field with
// the zero value is not written.

func appendUint(b []byte, n protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

func appendInt(b []byte, n protowire.Number, v int64) []byte {
	return appendUint(b, n, protowire.EncodeZigZag(v))
}

func appendBytes[T ~string | ~[]byte](b []byte, n protowire.Number, v T) []byte {
	if len(v) == 0 {
		return b
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, n, protowire.BytesType), uint64(len(v)))
	return append(b, v...)
}

func appendFixed(b []byte, n protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendFixed64(protowire.AppendTag(b, n, protowire.Fixed64Type), v)
}

// appendTime writes t in milliseconds since 1970; the zero time is not written.
func appendTime(b []byte, n protowire.Number, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return appendUint(b, n, uint64(t.UnixMilli()))
}

// open starts a nested message; done ends it. Between them nothing else may
// be done to b than appending.
func open(b []byte, n protowire.Number) ([]byte, int) {
	b = protowire.AppendTag(b, n, protowire.BytesType)
	return append(b, 0), len(b) + 1
}

// done writes the length of the message that began at start. Messages below
// 128 octets, the usual ones, are not moved.
func done(b []byte, start int) []byte {
	n := len(b) - start
	if n < 0x80 {
		b[start-1] = byte(n)
		return b
	}
	extra := protowire.SizeVarint(uint64(n)) - 1
	for range extra {
		b = append(b, 0)
	}
	copy(b[start+extra:], b[start:start+n])
	protowire.AppendVarint(b[:start-1], uint64(n))
	return b
}

// A field is one field of a message, with its value in the form its type has.
type field struct {
	number protowire.Number
	kind   protowire.Type
	value  uint64 // varint, fixed
	bytes  []byte // bytes
	raw    []byte // all of it, tag included
}

func (f *field) int() int64      { return protowire.DecodeZigZag(f.value) }
func (f *field) time() time.Time { return milli(f.value) }

// milli is the inverse of appendTime.
func milli(v uint64) time.Time {
	if v == 0 || v > 1<<53 {
		return time.Time{}
	}
	return time.UnixMilli(int64(v)).UTC()
}

// next cuts the first field off b; false: b is not a message.
func next(b []byte, f *field) (rest []byte, ok bool) {
	number, kind, n := protowire.ConsumeTag(b)
	if n < 0 {
		return nil, false
	}
	f.number, f.kind, f.value, f.bytes = number, kind, 0, nil
	var m int
	switch kind {
	case protowire.VarintType:
		f.value, m = protowire.ConsumeVarint(b[n:])
	case protowire.Fixed64Type:
		f.value, m = protowire.ConsumeFixed64(b[n:])
	case protowire.BytesType:
		f.bytes, m = protowire.ConsumeBytes(b[n:])
	default:
		m = protowire.ConsumeFieldValue(number, kind, b[n:])
	}
	if m < 0 {
		return nil, false
	}
	f.raw = b[: n+m : n+m]
	return b[n+m:], true
}
