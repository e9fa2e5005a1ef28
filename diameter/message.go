// Package diameter turns bytes into messages and back (RFC 6733 §3, §4). It
// knows lengths, flags, padding, and the names and formats of AVPs. It does not
// know what credit control is, and it never waits: sockets live in
// diameter/peer.
package diameter

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// HeaderLength is the length of a message without AVPs.
const HeaderLength = 20

// MessageMax is the usual limit for the length of a message.
const MessageMax = 64 << 10

// Command flags (RFC 6733 §3).
const (
	FlagRequest    uint8 = 0x80
	FlagProxiable  uint8 = 0x40
	FlagError      uint8 = 0x20
	FlagRetransmit uint8 = 0x10
)

// A Command is a command code.
type Command uint32

// The commands of base Diameter and credit control.
const (
	CapabilitiesExchange Command = 257
	ReAuth               Command = 258
	CreditControl        Command = 272
	AbortSession         Command = 274
	DeviceWatchdog       Command = 280
	DisconnectPeer       Command = 282
)

// String gives the abbreviation without its last letter: CC, DW.
func (c Command) String() string {
	switch c {
	case CapabilitiesExchange:
		return "CE"
	case ReAuth:
		return "RA"
	case CreditControl:
		return "CC"
	case AbortSession:
		return "AS"
	case DeviceWatchdog:
		return "DW"
	case DisconnectPeer:
		return "DP"
	}
	return fmt.Sprintf("Command(%d)", uint32(c))
}

// An Application is an application id.
type Application uint32

// The applications that matter here.
const (
	ApplicationBase          Application = 0
	ApplicationCreditControl Application = 4
	ApplicationRelay         Application = 0xFFFFFFFF
)

// A Header is the first 20 octets of a message.
type Header struct {
	Version     uint8
	Length      uint32
	Flags       uint8
	Command     Command
	Application Application
	HopByHop    uint32
	EndToEnd    uint32
}

// Request reports whether the message is a request.
func (h *Header) Request() bool { return h.Flags&FlagRequest != 0 }

// A Message is a view on one message of a frame; it is valid while that is.
type Message struct {
	Header
	Body []byte
}

// ErrShort says that a message is not there whole yet.
var ErrShort = errors.New("diameter: message is not complete")

// A FrameError says that the bytes cannot be cut into messages any more; the
// connection must be closed.
type FrameError struct {
	Result Result // 5015, 5011
	Header Header // what could be read of it
}

// Error tells why.
func (e *FrameError) Error() string {
	return fmt.Sprintf("diameter: message of %d octets, version %d: %s", e.Header.Length, e.Header.Version, e.Result)
}

// FrameLength reads from the first octets of a message how long it is, before
// anything is allocated for it. Errors: ErrShort below 20 octets; *FrameError
// when the version is not 1, or the length is below 20, above max or no
// multiple of four.
func FrameLength(b []byte, max int) (int, error) {
	if len(b) < 4 {
		return 0, ErrShort
	}
	n := binary.BigEndian.Uint32(b) & 0xFFFFFF
	if b[0] == 1 && n >= HeaderLength && n%4 == 0 && n <= uint32(max) {
		if len(b) < HeaderLength {
			return 0, ErrShort
		}
		return int(n), nil
	}
	e := &FrameError{Result: InvalidMessageLength, Header: Header{Version: b[0], Length: n}}
	if len(b) >= HeaderLength {
		e.Header = header(b)
	} else if b[0] == 1 {
		return 0, ErrShort
	}
	if b[0] != 1 {
		e.Result = UnsupportedVersion
	}
	return 0, e
}

func header(b []byte) Header {
	return Header{
		Version:     b[0],
		Length:      binary.BigEndian.Uint32(b) & 0xFFFFFF,
		Flags:       b[4],
		Command:     Command(binary.BigEndian.Uint32(b[4:]) & 0xFFFFFF),
		Application: Application(binary.BigEndian.Uint32(b[8:])),
		HopByHop:    binary.BigEndian.Uint32(b[12:]),
		EndToEnd:    binary.BigEndian.Uint32(b[16:]),
	}
}

// Frame returns the first message of b and what follows it. Errors are those of
// FrameLength.
func Frame(b []byte, max int) (m Message, rest []byte, err error) {
	n, err := FrameLength(b, max)
	if err != nil {
		return m, b, err
	}
	if len(b) < n {
		return m, b, ErrShort
	}
	return Message{Header: header(b), Body: b[HeaderLength:n:n]}, b[n:], nil
}

// Limits bounds what Check accepts.
type Limits struct {
	AVPs  int // in the whole message
	Depth int // of groups in groups
}

// DefaultLimits are those of an online charging server; real traffic nests six
// deep.
var DefaultLimits = Limits{AVPs: 512, Depth: 8}

// depthMax bounds Limits.Depth.
const depthMax = 32

// Check walks over the whole message once and reports the first AVP that makes
// it unusable: a wrong length (5014), an AVP with M that is not in the tables
// (5001), a value its format does not allow (5004, 5014), too many AVPs or
// groups in groups (5009). After it, walking over the message meets no error.
func (m *Message) Check(l Limits) *AVPError {
	var ends [depthMax][]byte // what follows each open group
	depth, count := 0, 0
	rest := m.Body
	for {
		for len(rest) == 0 {
			if depth == 0 {
				return nil
			}
			depth--
			rest = ends[depth]
		}
		a, after, err := Next(rest)
		if err != nil {
			return err
		}
		rest = after
		if count++; count > l.AVPs {
			return a.fail(AVPOccursTooManyTimes)
		}
		i := place(a.Attr)
		if i == nil {
			if a.Flags&FlagM != 0 {
				return a.fail(AVPUnsupported)
			}
			continue
		}
		if err := a.check(i); err != nil {
			return err
		}
		if i.kind != Grouped {
			continue
		}
		if depth >= min(l.Depth, depthMax) {
			return &AVPError{Result: AVPOccursTooManyTimes, Attr: a.Attr, Failed: example(a.Attr)}
		}
		ends[depth] = rest
		depth++
		rest = a.Data
	}
}

// Find returns the first AVP of that name in b, the body of a message or the
// data of a group; false: there is none, or an error comes before it.
func Find(b []byte, attr Attr) (AVP, bool) {
	for len(b) > 0 {
		a, rest, err := Next(b)
		if err != nil {
			return AVP{}, false
		}
		if a.Attr == attr {
			return a, true
		}
		b = rest
	}
	return AVP{}, false
}
