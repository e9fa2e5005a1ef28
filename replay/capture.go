// Package replay reads Gy and Ro traffic out of captures (pcap, pcapng), plays
// it to a server as other subscribers and in new sessions, and compares what is
// answered with what was. It does not know how the server decides, nor what a
// plan is: what it expects is in the capture.
package replay

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/gopacket/gopacket/reassembly"

	"rtm/diameter"
)

// Bounds of what a capture can take up.
const (
	packetMax      = 1 << 20 // octets of one packet that is read
	pagesMax       = 1 << 15 // of 1.9 KB, of segments that came before others, of all connections
	pagesEach      = 64      // … of one
	connectionsMax = 1 << 16 // of TCP, that are followed at once
	pathsMax       = 1 << 10 // of SCTP
	gapMax         = 5 * time.Second
	idleMax        = 10 * time.Minute
)

// Counts is what was found in a capture.
type Counts struct {
	Packets      int `json:"packets"`
	Connections  int `json:"connections"`       // of TCP that carry Diameter
	Associations int `json:"associations"`      // of SCTP, likewise
	Messages     int `json:"messages"`          // of Diameter
	Requests     int `json:"requests"`          // CCR of credit control
	Answers      int `json:"answers"`           // CCA of credit control
	Strays       int `json:"strays,omitempty"`  // CCA without their CCR
	ReAuths      int `json:"reAuths,omitempty"` // RAR of credit control
	Aborts       int `json:"aborts,omitempty"`  // ASR
	Policy       int `json:"policy,omitempty"`  // CCR of Gx
	Others       int `json:"others,omitempty"`  // messages of other commands and applications

	Midway    int    `json:"midway,omitempty"`    // directions of connections that began before the capture
	Resynced  int    `json:"resynced,omitempty"`  // times that the next message was looked for, since octets were missing or none
	Skipped   int64  `json:"skipped,omitempty"`   // octets that belong to no message
	Lost      int    `json:"lost,omitempty"`      // messages that are not there whole
	TooLong   int    `json:"tooLong,omitempty"`   // messages, of more than 64 KiB
	Malformed int    `json:"malformed,omitempty"` // what should be a message, and is none
	Cut       int    `json:"cut,omitempty"`       // packets of which the capture has only the beginning
	Fragments int    `json:"fragments,omitempty"` // of IP packets with TCP or SCTP, which are not put together
	Encrypted int    `json:"encrypted,omitempty"` // connections with TLS or DTLS
	Unread    int    `json:"unread,omitempty"`    // packets on links of a kind that is not read
	Damage    string `json:"damage,omitempty"`    // where the file could not be read any further
}

// ErrNoCapture says that a file is none.
var ErrNoCapture = errors.New("this is no capture: neither pcap nor pcapng")

// source gives one packet after the other; its memory is the source's.
type source interface {
	ZeroCopyReadPacketData() ([]byte, gopacket.CaptureInfo, error)
}

// A Capture is a file of packets, read once from its beginning to its end. It
// holds what is not complete yet, and nothing else.
type Capture struct {
	Counts Counts

	source    source
	link      layers.LinkType // of all packets; of a pcapng each has its own
	each      bool
	ports     map[uint16]bool // those that are known to be Diameter's
	only      bool            // … and nothing else is read
	assembler *reassembly.Assembler
	open      int // connections of TCP
	lives     map[pairOfEnds]*life
	life      *life // of the segment that is taken in
	sctp      map[pairOfEnds]*path
	serial    uint64    // of the last connection
	held      int       // octets of beginnings of messages
	clock     time.Time // of the last packet
	flushed   time.Time
	pairs     pairs
	ended     bool
}

// usual are the ports of Diameter, and of Diameter over TLS (RFC 6733 §2.1). What
// is on them is not given up when no message can be found in it.
var usual = []uint16{3868, 5658}

// Open begins to read a capture, which may be compressed with gzip. If ports are
// given, others are not looked at. Errors: ErrNoCapture, or what reading says.
func Open(r io.Reader, ports ...uint16) (*Capture, error) {
	c := &Capture{ports: make(map[uint16]bool), only: len(ports) > 0, lives: make(map[pairOfEnds]*life), sctp: make(map[pairOfEnds]*path)}
	if !c.only {
		ports = usual
	}
	for _, p := range ports {
		c.ports[p] = true
	}
	c.pairs.reset()
	b := bufio.NewReaderSize(r, 1<<16)
	magic, err := b.Peek(4)
	if err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, fmt.Errorf("%w (%w)", ErrNoCapture, err)
		}
		b = bufio.NewReaderSize(z, 1<<16)
		magic, _ = b.Peek(4)
	} else if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := c.begin(b, string(magic)); err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrNoCapture, err)
	}
	c.assembler = reassembly.NewAssembler(reassembly.NewStreamPool(c))
	c.assembler.MaxBufferedPagesPerConnection, c.assembler.MaxBufferedPagesTotal = pagesEach, pagesMax
	return c, nil
}

// begin finds out what kind of file it is.
func (c *Capture) begin(b *bufio.Reader, magic string) error {
	if magic == "\x0a\x0d\x0d\x0a" {
		r, err := pcapgo.NewNgReader(&blocks{r: b}, pcapgo.NgReaderOptions{WantMixedLinkType: true})
		c.source, c.each = r, true
		return err
	}
	r, err := pcapgo.NewReader(b)
	if err != nil {
		return err
	}
	r.SetSnaplen(packetMax) // what the file says may be any number
	c.source, c.link = r, r.LinkType()
	return nil
}

// Next gives the next exchange, in the order of the requests. Errors: io.EOF
// when there is none any more; Counts.Damage then says whether the file itself
// was at its end.
func (c *Capture) Next() (*Exchange, error) {
	for {
		if x := c.pairs.next(c.clock, c.ended); x != nil {
			return x, nil
		}
		if c.ended {
			return nil, io.EOF
		}
		c.read()
	}
}

// read takes the next packet in.
func (c *Capture) read() {
	data, info, err := c.source.ZeroCopyReadPacketData()
	if err != nil {
		if !errors.Is(err, io.EOF) {
			c.Counts.Damage = fmt.Sprintf("behind frame %d: %v", c.Counts.Packets, err)
		}
		c.ended = true
		c.assembler.FlushAll()
		c.Counts.Strays = c.pairs.strays + len(c.pairs.early)
		return
	}
	c.Counts.Packets++
	c.clock = info.Timestamp
	link := c.link
	if c.each {
		link, _ = info.AncillaryData[0].(layers.LinkType)
	}
	info.AncillaryData = nil
	c.packet(data, info, link)
	if c.clock.Sub(c.flushed).Abs() >= time.Second || c.open > connectionsMax {
		c.flush()
	}
}

// flush goes on without segments that do not come any more, and forgets
// connections on which nothing does.
func (c *Capture) flush() {
	c.flushed = c.clock
	c.assembler.FlushWithOptions(reassembly.FlushOptions{T: c.clock.Add(-gapMax), TC: c.clock.Add(-idleMax)})
	if c.open > connectionsMax {
		c.assembler.FlushWithOptions(reassembly.FlushOptions{T: c.clock.Add(-gapMax), TC: c.clock.Add(-gapMax)})
	}
	if c.open > connectionsMax {
		c.assembler.FlushAll()
	}
}

// readable reports whether links of that kind are read: Ethernet, Linux cooked, IP
// without anything before it, and loopback.
func readable(link layers.LinkType) bool {
	switch link {
	case layers.LinkTypeEthernet, layers.LinkTypeLinuxSLL, layers.LinkTypeLinuxSLL2, layers.LinkTypeNull, layers.LinkTypeLoop,
		layers.LinkTypeRaw, layers.LinkTypeIPv4, layers.LinkTypeIPv6, 12, 14:
		return true
	default: // radio, USB and so on
		return false
	}
}

// decoder is what a packet of that link begins with.
func decoder(link layers.LinkType) gopacket.Decoder {
	switch link {
	case layers.LinkTypeIPv4:
		return layers.LayerTypeIPv4
	case layers.LinkTypeIPv6:
		return layers.LayerTypeIPv6
	case 12, 14: // BSD's numbers of raw IP
		return layers.LinkTypeRaw
	default:
		return link
	}
}

// transports carry Diameter.
var transports = gopacket.NewLayerClass([]gopacket.LayerType{layers.LayerTypeTCP, layers.LayerTypeSCTP})

// packet takes a packet apart, down to the first TCP or SCTP in it, also within
// tunnels.
func (c *Capture) packet(data []byte, info gopacket.CaptureInfo, link layers.LinkType) {
	if !readable(link) {
		c.Counts.Unread++
		return
	}
	if info.CaptureLength < info.Length {
		c.Counts.Cut++
	}
	p := gopacket.NewPacket(data, decoder(link), gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	found := p.LayerClass(transports)
	if found == nil {
		if fragment(p) {
			c.Counts.Fragments++
		}
		return
	}
	var ip gopacket.NetworkLayer
	for _, l := range p.Layers() {
		if n, ok := l.(gopacket.NetworkLayer); ok {
			ip = n
		}
		if l == found {
			break
		}
	}
	if ip == nil {
		return
	}
	now := stamp{c.Counts.Packets, info.Timestamp}
	switch t := found.(type) {
	case *layers.TCP:
		if c.only && !c.ports[uint16(t.SrcPort)] && !c.ports[uint16(t.DstPort)] {
			return
		}
		c.segment(ip.NetworkFlow(), t, now)
	case *layers.SCTP:
		if c.only && !c.ports[uint16(t.SrcPort)] && !c.ports[uint16(t.DstPort)] {
			return
		}
		c.chunks(ip.NetworkFlow(), t, p.Layers(), now)
	}
}

// fragment reports whether a packet is a part of one that carries TCP or SCTP.
func fragment(p gopacket.Packet) bool {
	if p.Layer(gopacket.LayerTypeFragment) == nil {
		return false
	}
	of := layers.IPProtocol(0)
	for _, l := range p.Layers() {
		switch l := l.(type) {
		case *layers.IPv4:
			of = l.Protocol
		case *layers.IPv6Fragment:
			of = l.NextHeader
		}
	}
	return of == layers.IPProtocolTCP || of == layers.IPProtocolSCTP
}

// stamp is where in a capture something is.
type stamp struct {
	frame int
	at    time.Time
}

// moment is a stamp on its way through the assembler, which hands back no more
// than a CaptureInfo: the frame's number travels as its interface.
type moment stamp

// GetCaptureInfo implements reassembly.AssemblerContext.
func (m *moment) GetCaptureInfo() gopacket.CaptureInfo {
	return gopacket.CaptureInfo{Timestamp: m.at, InterfaceIndex: m.frame}
}

// policy is the application of Gx, whose CCR has the same command code.
const policy diameter.Application = 16777238

// A side is one direction of a connection.
type side struct {
	serial  uint64
	reverse bool
}

// message takes in a message that is whole. b is the caller's.
func (c *Capture) message(from side, b []byte, at stamp) {
	m, _, err := diameter.Frame(b, diameter.MessageMax)
	if err != nil {
		c.Counts.Malformed++
		return
	}
	c.Counts.Messages++
	request := m.Request()
	switch {
	case m.Command == diameter.CreditControl && m.Application == diameter.ApplicationCreditControl && request:
		c.Counts.Requests++
		c.pairs.asked(from, m.HopByHop, b, at)
	case m.Command == diameter.CreditControl && m.Application == diameter.ApplicationCreditControl:
		c.Counts.Answers++
		from.reverse = !from.reverse
		c.pairs.answered(from, m.HopByHop, b, at)
	case m.Command == diameter.CreditControl && m.Application == policy && request:
		c.Counts.Policy++
	case m.Command == diameter.ReAuth && m.Application == diameter.ApplicationCreditControl && request:
		c.Counts.ReAuths++
	case m.Command == diameter.AbortSession && m.Application == diameter.ApplicationCreditControl && request:
		c.Counts.Aborts++
	default:
		c.Counts.Others++
	}
}
