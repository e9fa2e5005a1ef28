package diameter

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// groupsMax bounds how deep an Encoder nests groups.
const groupsMax = 8

// An Encoder appends one message after the other to a buffer. It is used
// again, and allocates nothing once its buffer has grown. The M bit of each AVP
// comes from the tables, V from its vendor.
type Encoder struct {
	buf   []byte
	start int // of the message being written
	open  [groupsMax]int
	depth int
}

// Reset makes the encoder append to b.
func (e *Encoder) Reset(b []byte) { e.buf, e.start, e.depth = b, len(b), 0 }

// Request begins a request.
func (e *Encoder) Request(c Command, app Application, flags uint8, hopByHop, endToEnd uint32) {
	e.begin(Header{Flags: FlagRequest | flags, Command: c, Application: app, HopByHop: hopByHop, EndToEnd: endToEnd})
}

// Answer begins the answer to the request with header h: same command,
// application, P bit and identifiers (RFC 6733 §6.2). flags adds E.
func (e *Encoder) Answer(h *Header, flags uint8) {
	e.begin(Header{
		Flags: h.Flags&FlagProxiable | flags, Command: h.Command, Application: h.Application,
		HopByHop: h.HopByHop, EndToEnd: h.EndToEnd,
	})
}

func (e *Encoder) begin(h Header) {
	e.start, e.depth = len(e.buf), 0
	e.buf = binary.BigEndian.AppendUint32(e.buf, 1<<24)
	e.buf = binary.BigEndian.AppendUint32(e.buf, uint32(h.Flags)<<24|uint32(h.Command)&0xFFFFFF)
	e.buf = binary.BigEndian.AppendUint32(e.buf, uint32(h.Application))
	e.buf = binary.BigEndian.AppendUint32(e.buf, h.HopByHop)
	e.buf = binary.BigEndian.AppendUint32(e.buf, h.EndToEnd)
}

// Refusal writes the whole answer of host and realm to a request that is refused with a
// protocol error (RFC 6733 §7.2): Session-Id first and Proxy-Info unchanged, if they
// can be read.
func (e *Encoder) Refusal(m *Message, r Result, host, realm string) {
	flags := uint8(0)
	if r.Protocol() {
		flags = FlagError
	}
	e.Answer(&m.Header, flags)
	if s, ok := Find(m.Body, SessionID); ok {
		e.Octets(SessionID, s.Data)
	}
	e.String(OriginHost, host)
	e.String(OriginRealm, realm)
	e.Uint32(ResultCode, uint32(r))
	for b := m.Body; len(b) > 0; {
		a, rest, err := Next(b)
		if err != nil {
			return
		}
		if b = rest; a.Attr == ProxyInfo {
			e.Raw(a.Raw)
		}
	}
}

// Bytes ends the message and returns the whole buffer.
func (e *Encoder) Bytes() []byte {
	for e.depth > 0 {
		e.Close()
	}
	n := len(e.buf) - e.start
	e.buf[e.start+1], e.buf[e.start+2], e.buf[e.start+3] = byte(n>>16), byte(n>>8), byte(n)
	return e.buf
}

// Len is how many octets the buffer holds.
func (e *Encoder) Len() int { return len(e.buf) }

// header writes the header of an AVP with n octets of data.
func (e *Encoder) header(a Attr, flags uint8, n int) {
	head := avpHeader
	if a.Vendor() != 0 {
		flags |= FlagV
		head = avpVendorHeader
	} else {
		flags &^= FlagV
	}
	e.buf = binary.BigEndian.AppendUint32(e.buf, a.Code())
	e.buf = binary.BigEndian.AppendUint32(e.buf, uint32(flags)<<24|uint32(head+n))
	if a.Vendor() != 0 {
		e.buf = binary.BigEndian.AppendUint32(e.buf, a.Vendor())
	}
}

// flags are the flags a is sent with.
func (a Attr) flags() uint8 {
	if i := place(a); i != nil && i.m {
		return FlagM
	}
	return 0
}

func (e *Encoder) pad() {
	for (len(e.buf)-e.start)%4 != 0 {
		e.buf = append(e.buf, 0)
	}
}

// Uint32 writes an Unsigned32, Integer32 or Enumerated.
func (e *Encoder) Uint32(a Attr, v uint32) {
	e.header(a, a.flags(), 4)
	e.buf = binary.BigEndian.AppendUint32(e.buf, v)
}

// Uint64 writes an Unsigned64 or Integer64.
func (e *Encoder) Uint64(a Attr, v uint64) {
	e.header(a, a.flags(), 8)
	e.buf = binary.BigEndian.AppendUint64(e.buf, v)
}

// Octets writes octets as they are.
func (e *Encoder) Octets(a Attr, v []byte) {
	e.header(a, a.flags(), len(v))
	e.buf = append(e.buf, v...)
	e.pad()
}

// Bare is Octets without padding, for a Failed-AVP's example.
func (e *Encoder) Bare(a Attr, v []byte) {
	e.header(a, a.flags(), len(v))
	e.buf = append(e.buf, v...)
}

// String writes text.
func (e *Encoder) String(a Attr, v string) {
	e.header(a, a.flags(), len(v))
	e.buf = append(e.buf, v...)
	e.pad()
}

// Time writes a Time, in the era it belongs to.
func (e *Encoder) Time(a Attr, t time.Time) { e.Uint32(a, uint32(t.Unix()+era)) }

// Address writes an IPv4 or IPv6 Address.
func (e *Encoder) Address(a Attr, ip netip.Addr) {
	ip = ip.Unmap()
	n, family := 18, uint16(2)
	if ip.Is4() {
		n, family = 6, 1
	}
	e.header(a, a.flags(), n)
	e.buf = binary.BigEndian.AppendUint16(e.buf, family)
	if ip.Is4() {
		b := ip.As4()
		e.buf = append(e.buf, b[:]...)
	} else {
		b := ip.As16()
		e.buf = append(e.buf, b[:]...)
	}
	e.pad()
}

// Raw writes a whole AVP as it came, AVP.Raw, and pads it.
func (e *Encoder) Raw(avp []byte) {
	e.buf = append(e.buf, avp...)
	e.pad()
}

// Open begins a group; Close ends it. More than groupsMax open groups are a
// mistake of the caller, and panic.
func (e *Encoder) Open(a Attr) {
	if e.depth == groupsMax {
		panic("diameter: groups are nested too deep by whoever encodes")
	}
	e.open[e.depth] = len(e.buf)
	e.depth++
	e.header(a, a.flags(), 0)
}

// Close ends the group that was opened last.
func (e *Encoder) Close() {
	e.depth--
	at := e.open[e.depth]
	n := len(e.buf) - at
	e.buf[at+5], e.buf[at+6], e.buf[at+7] = byte(n>>16), byte(n>>8), byte(n)
}
