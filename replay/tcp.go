package replay

import (
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/reassembly"
)

// A pairOfEnds names a connection, as one of its directions does.
type pairOfEnds [2]gopacket.Flow

func (p pairOfEnds) reversed() pairOfEnds { return pairOfEnds{p[0].Reverse(), p[1].Reverse()} }

// A life is one of the connections that two ends had one after the other from the
// same ports. Gateways like to come from the same port again, and a capture need
// not hold how the connection before ended, which the assembler would wait for.
type life struct {
	ends   pairOfEnds
	number gopacket.EndpointType // the assembler's name for it: a type of addresses that there is not
	syn    uint32
	begun  bool // by that SYN
}

// livesFirst is far above the types of addresses that there are.
const livesFirst gopacket.EndpointType = 1 << 32

// segment gives a segment to the assembler.
func (c *Capture) segment(ip gopacket.Flow, t *layers.TCP, now stamp) {
	ends := pairOfEnds{ip, t.TransportFlow()}
	l := c.lives[ends]
	if l == nil {
		l = c.lives[ends.reversed()]
	}
	if l == nil || t.SYN && !t.ACK && (!l.begun || l.syn != t.Seq) {
		c.serial++
		l = &life{ends: ends, number: livesFirst + gopacket.EndpointType(c.serial)}
		delete(c.lives, ends.reversed())
		c.lives[ends] = l
	}
	if t.SYN && !t.ACK {
		l.syn, l.begun = t.Seq, true
	}
	c.life = l
	from, to := ip.Endpoints()
	at := moment(now)
	c.assembler.AssembleWithContext(gopacket.NewFlow(l.number, from.Raw(), to.Raw()), t, &at)
}

// A stream is one connection of TCP: two directions, which are told apart by who
// was seen first.
type stream struct {
	capture *Capture
	life    *life
	ways    [2]framer
	spoke   bool // Diameter was found on it
	secret  bool // … or TLS
}

func way(d reassembly.TCPFlowDirection) int {
	if d == reassembly.TCPDirServerToClient {
		return 1
	}
	return 0
}

// New implements reassembly.StreamFactory.
func (c *Capture) New(_, _ gopacket.Flow, t *layers.TCP, _ reassembly.AssemblerContext) reassembly.Stream {
	c.open++
	s := &stream{capture: c, life: c.life}
	for i := range s.ways {
		f := &s.ways[i]
		f.counts, f.held, f.patient = &c.Counts, &c.held, c.ports[uint16(t.SrcPort)] || c.ports[uint16(t.DstPort)]
		f.message = func(b []byte, at stamp) {
			if !s.spoke {
				s.spoke = true
				c.Counts.Connections++
			}
			c.message(side{uint64(s.life.number), i == 1}, b, at)
		}
	}
	return s
}

// Accept implements reassembly.Stream: a direction that was not seen from its
// beginning begins with what is seen first.
func (s *stream) Accept(t *layers.TCP, _ gopacket.CaptureInfo, d reassembly.TCPFlowDirection, _ reassembly.Sequence, start *bool, _ reassembly.AssemblerContext) bool {
	f := &s.ways[way(d)]
	f.begun = f.begun || t.SYN
	*start = true
	return !f.given || t.FIN || t.RST
}

// ReassembledSG implements reassembly.Stream.
func (s *stream) ReassembledSG(sg reassembly.ScatterGather, _ reassembly.AssemblerContext) {
	n, _ := sg.Lengths()
	d, _, _, missing := sg.Info()
	f := &s.ways[way(d)]
	if missing > 0 {
		f.gap(missing)
	}
	f.feed(sg.Fetch(n), func(offset int) stamp {
		at := sg.CaptureInfo(offset)
		return stamp{at.InterfaceIndex, at.Timestamp}
	})
	if f.secret && !s.secret {
		s.secret = true
		s.capture.Counts.Encrypted++
	}
}

// ReassemblyComplete implements reassembly.Stream.
func (s *stream) ReassemblyComplete(reassembly.AssemblerContext) bool {
	c := s.capture
	for i := range s.ways {
		s.ways[i].drop()
	}
	c.open--
	if c.lives[s.life.ends] == s.life {
		delete(c.lives, s.life.ends)
	}
	return true
}
