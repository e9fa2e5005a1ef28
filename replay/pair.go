package replay

import (
	"bytes"
	"time"
)

// Bounds of what waits for its answer in a capture.
const (
	answerMax    = 30 * time.Second // of the capture's time
	waitingMax   = 1 << 16          // exchanges
	waitingBytes = 64 << 20         // octets of them
	earlyMax     = 1 << 12          // answers that are seen before their requests
)

// An Exchange is a CCR and the CCA to it.
type Exchange struct {
	Request     []byte
	At          time.Time
	Frame       int    // of the first octet of the request, counted from 1
	Answer      []byte // nil: the capture has none
	AnswerFrame int

	key     pairKey
	settled bool
}

// A pairKey is what request and answer have in common: the connection and the
// Hop-by-Hop identifier (RFC 6733 §3).
type pairKey struct {
	from side
	hop  uint32
}

// pairs holds requests in the order in which they came, until each has its
// answer or none is expected any more.
type pairs struct {
	queue []*Exchange // from first on
	first int
	owed  map[pairKey]*Exchange
	early map[pairKey]early // answers to requests that are held up by what is missing before them
	order []pairKey         // of these, the oldest first
	bytes int
	// strays are answers whose requests did not come.
	strays int
}

// early is an answer that came before its request.
type early struct {
	answer []byte
	at     stamp
}

func (p *pairs) reset() {
	p.owed, p.early = make(map[pairKey]*Exchange), make(map[pairKey]early)
}

func (p *pairs) asked(from side, hop uint32, b []byte, at stamp) {
	x := &Exchange{Request: bytes.Clone(b), At: at.at, Frame: at.frame, key: pairKey{from, hop}}
	if e, ok := p.early[x.key]; ok && e.at.frame > at.frame {
		delete(p.early, x.key)
		x.Answer, x.AnswerFrame, x.settled = e.answer, e.at.frame, true
		p.queue = append(p.queue, x)
		p.bytes += len(b)
		return
	}
	if before := p.owed[x.key]; before != nil {
		before.settled = true // the identifier is used anew
	}
	p.owed[x.key] = x
	p.queue = append(p.queue, x)
	p.bytes += len(b)
}

// answered pairs an answer with the request of from.
func (p *pairs) answered(from side, hop uint32, b []byte, at stamp) {
	key := pairKey{from, hop}
	x := p.owed[key]
	p.bytes += len(b)
	if x != nil {
		delete(p.owed, key)
		x.Answer, x.AnswerFrame, x.settled = bytes.Clone(b), at.frame, true
		return
	}
	for len(p.order) > 0 && (len(p.order) >= earlyMax || p.bytes >= waitingBytes) {
		p.forget()
	}
	if e, ok := p.early[key]; ok {
		p.bytes -= len(e.answer)
		p.strays++
	}
	p.early[key] = early{bytes.Clone(b), at}
	p.order = append(p.order, key)
}

// forget gives up the oldest early answer, if its request has not come.
func (p *pairs) forget() {
	if e, ok := p.early[p.order[0]]; ok {
		p.bytes -= len(e.answer)
		p.strays++
		delete(p.early, p.order[0])
	}
	p.order = p.order[1:]
}

// next is the first of the queue, once it is settled; nil: it is not.
func (p *pairs) next(now time.Time, ended bool) *Exchange {
	waiting := len(p.queue) - p.first
	if waiting == 0 {
		return nil
	}
	x := p.queue[p.first]
	if !x.settled && !ended && now.Sub(x.At) < answerMax && waiting < waitingMax && p.bytes < waitingBytes {
		return nil
	}
	p.queue[p.first] = nil
	p.first++
	if p.first == len(p.queue) || p.first > waitingMax {
		p.queue, p.first = append(p.queue[:0], p.queue[p.first:]...), 0
	}
	p.bytes -= len(x.Request) + len(x.Answer)
	if p.owed[x.key] == x {
		delete(p.owed, x.key)
	}
	return x
}
