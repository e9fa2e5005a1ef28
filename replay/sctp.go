package replay

import (
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"rtm/diameter"
)

// Payload protocols of Diameter over SCTP (RFC 6733 §2.1.1).
const (
	payloadAny      layers.SCTPPayloadProtocol = 0
	payloadDiameter layers.SCTPPayloadProtocol = 46
	payloadDTLS     layers.SCTPPayloadProtocol = 47
)

// A path is one direction of an association. Of a host with several addresses
// each pair of them counts by itself, so a request and its answer must take the
// same path.
type path struct {
	side   side
	spoke  *bool
	seen   [1024]uint64 // one more than the newest TSN of those that fall on it
	part   []byte       // of a message in several chunks
	next   uint32       // TSN of what follows it
	at     stamp
	within bool
	secret bool
}

// path finds or makes the path between two ends.
func (c *Capture) path(ends pairOfEnds) *path {
	if p := c.sctp[ends]; p != nil {
		return p
	}
	if len(c.sctp) >= pathsMax {
		clear(c.sctp)
	}
	p := &path{}
	if back := c.sctp[ends.reversed()]; back != nil {
		p.side, p.spoke = side{back.side.serial, true}, back.spoke
	} else {
		c.serial++
		p.side, p.spoke = side{serial: c.serial}, new(bool)
	}
	c.sctp[ends] = p
	return p
}

// chunks reads the DATA chunks of a packet. They are taken in the order in which
// they were captured, each TSN once.
func (c *Capture) chunks(ip gopacket.Flow, t *layers.SCTP, all []gopacket.Layer, at stamp) {
	for _, l := range all {
		d, ok := l.(*layers.SCTPData)
		if !ok {
			continue
		}
		switch d.PayloadProtocol {
		case payloadDiameter, payloadAny:
			c.chunk(c.path(pairOfEnds{ip, t.TransportFlow()}), d, at)
		case payloadDTLS:
			if p := c.path(pairOfEnds{ip, t.TransportFlow()}); !p.secret {
				p.secret = true
				c.Counts.Encrypted++
			}
		default: // another protocol
		}
	}
}

// chunk takes one chunk in: a message, or the next part of one.
func (c *Capture) chunk(p *path, d *layers.SCTPData, at stamp) {
	if mark := &p.seen[d.TSN%uint32(len(p.seen))]; *mark == uint64(d.TSN)+1 {
		return // it was sent again
	} else {
		*mark = uint64(d.TSN) + 1
	}
	switch {
	case d.BeginFragment && d.EndFragment:
		c.datagram(p, d.Payload, at, d.PayloadProtocol)
		return
	case d.BeginFragment:
		if p.within {
			c.Counts.Lost++
		}
		p.part, p.at, p.within = append(p.part[:0], d.Payload...), at, true
	case !p.within:
		return
	case d.TSN != p.next || len(p.part)+len(d.Payload) > diameter.MessageMax:
		c.Counts.Lost++
		p.within = false
		return
	default:
		p.part = append(p.part, d.Payload...)
	}
	p.next = d.TSN + 1
	if d.EndFragment {
		p.within = false
		c.datagram(p, p.part, p.at, d.PayloadProtocol)
	}
}

// datagram takes in what SCTP carried as one message.
func (c *Capture) datagram(p *path, b []byte, at stamp, as layers.SCTPPayloadProtocol) {
	n := 0
	if len(b) > 0 {
		n, _ = plausible(b, as == payloadAny)
	}
	if n == 0 || n > len(b) {
		if as == payloadDiameter || *p.spoke {
			c.Counts.Malformed++
		}
		return
	}
	if !*p.spoke {
		*p.spoke = true
		c.Counts.Associations++
	}
	c.message(p.side, b[:n], at)
}
