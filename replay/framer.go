package replay

import (
	"encoding/binary"

	"rtm/diameter"
)

// Bounds of looking for messages.
const (
	lengthMax = 1 << 20   // octets of a message that is stepped over; read are those of up to diameter.MessageMax
	searchMax = 128 << 10 // octets of one direction in which a first message is looked for
	heldMax   = 64 << 20  // octets of beginnings of messages, of all connections
)

// A framer cuts one direction of a connection into messages. It holds the
// beginning of one message at most.
type framer struct {
	counts  *Counts
	held    *int // octets in all framers' buf
	message func(b []byte, at stamp)
	buf     []byte
	at      stamp // of the first octet of buf
	ahead   int   // octets still to come of a message that is not kept
	passed  int   // octets before the first message
	synced  bool  // the next octet begins a message
	found   bool  // there was a message
	begun   bool  // the direction was seen from its first octet
	patient bool  // the port is Diameter's: never given up
	given   bool  // given up: this is something else
	secret  bool  // … namely TLS
}

// feed takes in what comes next; at says where in the capture its octets are.
func (f *framer) feed(data []byte, at func(offset int) stamp) {
	if len(data) == 0 || f.given {
		return
	}
	if !f.found && len(f.buf) == 0 && f.passed == 0 && tls(data) {
		f.given, f.secret = true, true
		return
	}
	b, held := data, len(f.buf)
	if held > 0 {
		b = append(f.buf, data...)
	}
	stamped := func(pos int) stamp {
		if pos < held {
			return f.at
		}
		return at(pos - held)
	}
	pos := f.cut(b, stamped)
	*f.held -= held
	if f.given || pos == len(b) {
		f.buf = nil
		return
	}
	f.buf = nil
	if len(b)-pos > heldMax-*f.held {
		if f.found {
			f.counts.Lost++
		}
		f.astray()
		return
	}
	*f.held += len(b) - pos
	f.at = stamped(pos)
	f.buf = append(b[:0:0], b[pos:]...)
}

// drop gives up a message that has begun.
func (f *framer) drop() {
	if f.found && len(f.buf) > 0 || f.ahead > 0 {
		f.counts.Lost++
	}
	*f.held -= len(f.buf)
	f.buf, f.ahead = nil, 0
}

// cut gives away the messages of b, and returns where the rest begins.
func (f *framer) cut(b []byte, stamped func(int) stamp) (pos int) {
	for pos < len(b) && !f.given {
		if f.ahead > 0 {
			n := min(f.ahead, len(b)-pos)
			f.ahead -= n
			pos += n
			continue
		}
		if !f.synced {
			n := f.seek(b[pos:])
			if pos += n; !f.synced {
				break
			}
			continue
		}
		n, sure := plausible(b[pos:], false)
		switch {
		case !sure, n > 0 && n <= diameter.MessageMax && n > len(b)-pos:
			return pos
		case n > diameter.MessageMax && f.found:
			f.counts.TooLong++
			f.ahead = n
		case n == 0, n > diameter.MessageMax, !f.found && !tiled(b[pos+diameter.HeaderLength:pos+n]):
			f.astray()
			pos++
			f.pass(1)
		default:
			f.first()
			f.message(b[pos:pos+n], stamped(pos))
			pos += n
		}
	}
	return pos
}

// first notes that there was a message.
func (f *framer) first() {
	if f.found {
		return
	}
	f.found = true
	f.counts.Skipped += int64(f.passed)
	switch {
	case !f.begun:
		f.counts.Midway++
	case f.passed > 0:
		f.counts.Resynced++
	}
}

// pass notes octets that belong to no message, or to one whose beginning is not
// there. Who has passed too many before the first message is given up.
func (f *framer) pass(n int) {
	if f.found {
		f.counts.Skipped += int64(n)
		return
	}
	f.passed += n
	f.given = !f.patient && (f.begun && f.passed > 0 || f.passed > searchMax)
}

// astray notes that it is not known where the next message begins.
func (f *framer) astray() {
	if f.found && f.synced {
		f.counts.Resynced++
	}
	f.synced = false
}

// seek looks for a message in b, and returns behind how many octets it begins, or
// may begin.
func (f *framer) seek(b []byte) (pos int) {
	for ; pos < len(b); pos++ {
		n, sure := plausible(b[pos:], true)
		f.synced = n > 0
		if f.synced || !sure {
			break
		}
	}
	f.pass(pos)
	return pos
}

// gap notes that n octets are missing. If they are all of one message, it is lost
// and the next one begins where it should.
func (f *framer) gap(n int) {
	missing := f.ahead
	if missing == 0 && f.synced && len(f.buf) >= 4 {
		length, _ := plausible(f.buf, false)
		missing = length - len(f.buf)
	}
	f.begun = f.begun && f.found
	f.drop()
	if n <= missing {
		f.ahead = missing - n
		return
	}
	f.astray()
}

// tls reports whether b is the beginning of a TLS record.
func tls(b []byte) bool {
	return len(b) >= 3 && b[0] >= 20 && b[0] <= 23 && b[1] == 3 && b[2] <= 4
}

// plausible reports how long the message is that b begins with; zero: it is none.
// Not sure: b is too short to say. Who looks for a message among other octets is
// strict: also its command and first AVP must be such as exist.
func plausible(b []byte, strict bool) (n int, sure bool) {
	if b[0] != 1 {
		return 0, true
	}
	if len(b) < 4 {
		return 0, false
	}
	n = int(binary.BigEndian.Uint32(b) & 0xFFFFFF)
	if n < diameter.HeaderLength || n%4 != 0 || n > lengthMax || strict && n > diameter.MessageMax {
		return 0, true
	}
	if !strict {
		return n, true
	}
	if len(b) < diameter.HeaderLength {
		return 0, false
	}
	flags, command := b[4], binary.BigEndian.Uint32(b[4:])&0xFFFFFF
	if flags&0x0F != 0 || flags&diameter.FlagRequest != 0 && flags&diameter.FlagError != 0 || !known(command) {
		return 0, true
	}
	if n == diameter.HeaderLength {
		return n, true
	}
	first := b[diameter.HeaderLength:]
	if len(first) < 8 {
		return 0, false
	}
	length := int(binary.BigEndian.Uint32(first[4:]) & 0xFFFFFF)
	code := binary.BigEndian.Uint32(first)
	if code == 0 || code > 1<<16 || first[4]&0x1F != 0 || length < 8 || length > n-diameter.HeaderLength {
		return 0, true
	}
	return n, true
}

// known reports whether there is a command with that code: of base Diameter, of
// the IETF's applications, or of 3GPP's.
func known(command uint32) bool {
	return command >= 257 && command <= 330 || command >= 8388608 && command < 8388608+1024
}

// tiled reports whether AVPs fill b.
func tiled(b []byte) bool {
	for len(b) > 0 {
		_, rest, err := diameter.Next(b)
		if err != nil {
			return false
		}
		b = rest
	}
	return true
}
