package diameter

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
	"unicode/utf8"
)

//go:generate go run ./gen

// An Attr names an AVP: its vendor in the upper, its code in the lower 32 bits.
type Attr uint64

// Code is the AVP code.
func (a Attr) Code() uint32 { return uint32(a) }

// Vendor is the Vendor-Id; zero: the IETF's.
func (a Attr) Vendor() uint32 { return uint32(a >> 32) }

// A Type is the format of an AVP's data (RFC 6733 §4.2, §4.3).
type Type uint8

// The formats that occur.
const (
	OctetString Type = iota + 1
	Integer32
	Integer64
	Unsigned32
	Unsigned64
	Grouped
	Address
	Time
	UTF8String
	DiameterIdentity
	DiameterURI
	Enumerated
	IPFilterRule
)

var typeNames = [...]string{
	"", "OctetString", "Integer32", "Integer64", "Unsigned32", "Unsigned64", "Grouped", "Address", "Time",
	"UTF8String", "DiameterIdentity", "DiameterURI", "Enumerated", "IPFilterRule",
}

// String gives the format's name in RFC 6733.
func (t Type) String() string {
	if int(t) < len(typeNames) && t > 0 {
		return typeNames[t]
	}
	return fmt.Sprintf("Type(%d)", uint8(t))
}

// size is the length of the data of fixed-size formats, zero for the others.
func (t Type) size() int {
	switch t {
	case Integer32, Unsigned32, Enumerated, Time:
		return 4
	case Integer64, Unsigned64:
		return 8
	case OctetString, Grouped, Address, UTF8String, DiameterIdentity, DiameterURI, IPFilterRule:
		return 0
	}
	return 0
}

// info is what the tables know of an AVP.
type info struct {
	attr  Attr
	name  string
	kind  Type
	m     bool // sent with the M bit
	loose bool // sources disagree about the type: any length is taken
}

// place finds a in the tables; nil: it is not known.
func place(a Attr) *info {
	code := a.Code()
	switch a.Vendor() {
	case 0:
		if code < uint32(len(ietfPlaces)) && ietfPlaces[code] != 0 {
			return &infos[ietfPlaces[code]]
		}
		if code == ReportingReason.Code() {
			// CGRateS' tests send Reporting-Reason as an IETF AVP with M.
			return place(ReportingReason)
		}
	case 10415:
		if code < uint32(len(tgppPlaces)) && tgppPlaces[code] != 0 {
			return &infos[tgppPlaces[code]]
		}
	default:
		for _, p := range others {
			if infos[p].attr == a {
				return &infos[p]
			}
		}
	}
	return nil
}

// Type is the format of a's data; zero: a is not in the tables.
func (a Attr) Type() Type {
	if i := place(a); i != nil {
		return i.kind
	}
	return 0
}

// String gives the AVP's name in its standard, or vendor and code.
func (a Attr) String() string {
	if i := place(a); i != nil {
		return i.name
	}
	return fmt.Sprintf("AVP %d/%d", a.Vendor(), a.Code())
}

// Flags of an AVP (RFC 6733 §4.1).
const (
	FlagV uint8 = 0x80 // Vendor-Id is there
	FlagM uint8 = 0x40 // whoever does not know it must refuse the message
)

// An AVP is a view on one attribute of a message.
type AVP struct {
	Attr  Attr
	Flags uint8
	Data  []byte
	Raw   []byte // header and data, without padding
}

// An AVPError reports an AVP that cannot be used. It holds all that the answer
// needs (RFC 6733 §7.5).
type AVPError struct {
	Result Result
	Attr   Attr
	Failed []byte // what goes into the Failed-AVP, a whole AVP without padding; nil: nothing
}

// Error says which AVP was wrong and how.
func (e *AVPError) Error() string {
	return fmt.Sprintf("%s: %s", e.Attr, e.Result)
}

func (a *AVP) fail(r Result) *AVPError {
	return &AVPError{Result: r, Attr: a.Attr, Failed: a.Raw}
}

// Fail is the error that refuses a for that reason.
func (a *AVP) Fail(r Result) *AVPError { return a.fail(r) }

// Missing is the error for a message without a: 5005, with an example of the
// shortest value there is (RFC 6733 §7.1.5).
func Missing(a Attr) *AVPError {
	return &AVPError{Result: MissingAVP, Attr: a, Failed: example(a)}
}

// example is a with a zero value of the least length.
func example(a Attr) []byte {
	var e Encoder
	e.Reset(nil)
	e.Bare(a, make([]byte, a.Type().size()))
	return e.buf
}

const (
	avpHeader       = 8
	avpVendorHeader = 12
)

// Next returns the first AVP of b and the bytes behind its padding. The last
// AVP may lack its padding. (RFC 6733 §4.1)
//
//	0        4      5           8            8 or 12
//	| code   | flags| length 24 | vendor if V | data … | 0–3 padding |
//
// Errors: 5014 if the length is less than the AVP's own header or more than b
// holds; the Failed-AVP is then the header, with an empty or zero value.
func Next(b []byte) (a AVP, rest []byte, err *AVPError) {
	if len(b) < avpHeader {
		return a, nil, cut(b)
	}
	a.Attr, a.Flags = Attr(binary.BigEndian.Uint32(b)), b[4]
	n := int(b[5])<<16 | int(b[6])<<8 | int(b[7])
	head := avpHeader
	if a.Flags&FlagV != 0 {
		head = avpVendorHeader
		if n < head || len(b) < head {
			return a, nil, cut(b)
		}
		a.Attr |= Attr(binary.BigEndian.Uint32(b[8:])) << 32
	}
	if n < head || n > len(b) {
		return a, nil, cut(b)
	}
	a.Data, a.Raw = b[head:n:n], b[:n:n]
	return a, b[min((n+3)&^3, len(b)):], nil
}

// cut is the error for an AVP whose length is wrong: its header, with the
// length it should have, and a zero value.
func cut(b []byte) *AVPError {
	var head [avpVendorHeader]byte
	copy(head[:], b)
	a := Attr(binary.BigEndian.Uint32(head[:]))
	if head[4]&FlagV != 0 {
		a |= Attr(binary.BigEndian.Uint32(head[8:])) << 32
	}
	var e Encoder
	e.Reset(nil)
	e.header(a, head[4], a.Type().size())
	e.buf = append(e.buf, make([]byte, a.Type().size())...)
	return &AVPError{Result: InvalidAVPLength, Attr: a, Failed: e.buf}
}

// Uint32 is the value of an Unsigned32, Integer32 or Enumerated.
func (a *AVP) Uint32() (uint32, *AVPError) {
	if len(a.Data) != 4 {
		return 0, a.fail(InvalidAVPLength)
	}
	return binary.BigEndian.Uint32(a.Data), nil
}

// Uint64 is the value of an Unsigned64.
func (a *AVP) Uint64() (uint64, *AVPError) {
	if len(a.Data) != 8 {
		return 0, a.fail(InvalidAVPLength)
	}
	return binary.BigEndian.Uint64(a.Data), nil
}

// era is the first second of 1900 in seconds before 1970; times count from it,
// and again from its wrap in 2036.
const (
	era  = 2_208_988_800
	wrap = 1 << 32
)

// Time is the value of a Time: seconds since 1900, those with the top bit
// clear since 2036 (RFC 6733 §4.3.1).
func (a *AVP) Time() (time.Time, *AVPError) {
	v, err := a.Uint32()
	if err != nil {
		return time.Time{}, err
	}
	s := int64(v) - era
	if v < 1<<31 {
		s += wrap
	}
	return time.Unix(s, 0).UTC(), nil
}

// Address is the value of an Address that holds IPv4 or IPv6; family and bytes
// of another are 5004.
func (a *AVP) Address() (netip.Addr, *AVPError) {
	if len(a.Data) < 2 {
		return netip.Addr{}, a.fail(InvalidAVPLength)
	}
	family := binary.BigEndian.Uint16(a.Data)
	if family == 1 && len(a.Data) != 6 || family == 2 && len(a.Data) != 18 {
		return netip.Addr{}, a.fail(InvalidAVPLength)
	}
	ip, ok := netip.AddrFromSlice(a.Data[2:])
	if !ok || family != 1 && family != 2 {
		return netip.Addr{}, a.fail(InvalidAVPValue)
	}
	return ip, nil
}

// IdentityMax is the most octets of an identity or a Session-Id.
const IdentityMax = 255

// Identity is the value of a DiameterIdentity or a Session-Id: 1 to 255
// printable octets.
func (a *AVP) Identity() ([]byte, *AVPError) {
	if len(a.Data) == 0 || len(a.Data) > IdentityMax {
		return nil, a.fail(InvalidAVPValue)
	}
	for _, c := range a.Data {
		if c < 0x21 || c > 0x7e {
			return nil, a.fail(InvalidAVPValue)
		}
	}
	return a.Data, nil
}

// check reports what is wrong with a's data as its format goes.
func (a *AVP) check(i *info) *AVPError {
	if i.loose {
		return nil
	}
	if n := i.kind.size(); n != 0 && len(a.Data) != n {
		return a.fail(InvalidAVPLength)
	}
	switch i.kind {
	case UTF8String:
		if a.Attr == SessionID {
			_, err := a.Identity()
			return err
		}
		if !utf8.Valid(a.Data) {
			return a.fail(InvalidAVPValue)
		}
	case DiameterIdentity:
		_, err := a.Identity()
		return err
	case Address:
		if len(a.Data) < 2 {
			return a.fail(InvalidAVPLength)
		}
		if f := binary.BigEndian.Uint16(a.Data); f == 1 && len(a.Data) != 6 || f == 2 && len(a.Data) != 18 {
			return a.fail(InvalidAVPLength)
		}
	case OctetString, Integer32, Integer64, Unsigned32, Unsigned64, Grouped, Time, DiameterURI, Enumerated, IPFilterRule:
	}
	return nil
}
