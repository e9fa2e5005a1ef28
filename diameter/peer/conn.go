package peer

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"rtm/diameter"
)

const readBuffer = 64 << 10

// A Conn is one connection.
type Conn struct {
	Capabilities     // of the other end, once open
	Peer         any // what Admit said
	Since        time.Time
	node         *Node
	net          net.Conn
	dialled      bool
	counted      bool
	open         atomic.Bool // capabilities are exchanged
	leaving      atomic.Bool // a DPR was sent or received
	parted       atomic.Bool // our DPR was answered
	suspect      atomic.Bool // a DWR has no answer yet
	inFlight     atomic.Int64
	Received     atomic.Int64
	Sent         atomic.Int64
	heard        atomic.Int64 // when something last came, unix nanoseconds
	ready        chan error   // a dialled connection: capabilities are exchanged, or why not

	out      sync.Mutex // guards all below
	space    sync.Cond  // pending has shrunk, or the connection is closed
	work     sync.Cond  // pending has grown, or the connection is closed
	pending  []byte
	marks    []mark
	earliest time.Time // of the marks' deadlines
	messages int64
	closed   bool
	ending   bool // close when pending is written
	watch    *time.Timer
	hop      uint32
	end      uint32
	waiting  map[uint32]owed // requests that Send sent, by Hop-by-Hop
}

// owed is a request that the other end has not answered yet.
type owed struct {
	token any
	since time.Time
}

// owedFor is how long an answer is expected. After that it comes too late for
// whoever sent the request, and its place is free again.
const owedFor = time.Minute

// mark is one message in pending that must not leave after its time.
type mark struct {
	start, end int
	late       time.Time
}

func (n *Node) conn(nc net.Conn, dialled bool) *Conn {
	c := &Conn{
		node: n, net: nc, dialled: dialled, Since: time.Now(), waiting: make(map[uint32]owed),
		hop: rand.Uint32(), end: uint32(time.Now().Unix())<<20 | rand.Uint32()>>12,
	}
	c.space.L, c.work.L = &c.out, &c.out
	c.heard.Store(time.Now().UnixNano())
	if ap, err := netip.ParseAddrPort(nc.RemoteAddr().String()); err == nil {
		c.Remote = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return c
}

// Close closes the connection at once.
func (c *Conn) Close() {
	c.out.Lock()
	c.closed = true
	c.space.Broadcast()
	c.work.Broadcast()
	c.out.Unlock()
	c.net.Close()
}

// Suspect reports whether the other end owes an answer to a DWR.
func (c *Conn) Suspect() bool { return c.suspect.Load() }

// InFlight is how many of its requests are worked on.
func (c *Conn) InFlight() int64 { return c.inFlight.Load() }

// enqueue adds a message to what is to be written.
func (c *Conn) enqueue(frame []byte, late time.Time) {
	c.out.Lock()
	defer c.out.Unlock()
	if c.closed {
		return
	}
	start := len(c.pending)
	c.pending = append(c.pending, frame...)
	c.messages++
	if !late.IsZero() {
		c.marks = append(c.marks, mark{start, len(c.pending), late})
		if c.earliest.IsZero() || late.Before(c.earliest) {
			c.earliest = late
		}
	}
	c.work.Signal()
}

// write is the goroutine that writes all that is pending in one call.
func (c *Conn) write() {
	defer c.node.done.Done()
	var spare []byte
	var marks []mark
	for {
		c.out.Lock()
		for len(c.pending) == 0 && !c.closed && !c.ending {
			c.work.Wait()
		}
		if c.closed || len(c.pending) == 0 {
			c.out.Unlock()
			c.Close()
			return
		}
		batch, n, earliest := c.pending, c.messages, c.earliest
		c.pending, c.messages, c.earliest = spare[:0], 0, time.Time{}
		marks, c.marks = c.marks, marks[:0]
		c.out.Unlock()
		now := time.Now()
		if !earliest.IsZero() && now.After(earliest) {
			batch, n = c.punctual(batch, marks, now, n)
		}
		c.net.SetWriteDeadline(now.Add(c.node.config.WriteTimeout))
		if _, err := c.net.Write(batch); err != nil {
			c.Close()
			return
		}
		c.Sent.Add(n)
		c.node.Counts.Sent.Add(n)
		c.out.Lock()
		c.space.Broadcast()
		c.out.Unlock()
		spare = batch
		if cap(spare) > c.node.config.WriteMax {
			spare = nil
		}
	}
}

// punctual takes the messages out of batch whose time is over: a client may
// have gone on without them, and one aborts on a late answer.
func (c *Conn) punctual(batch []byte, marks []mark, now time.Time, n int64) ([]byte, int64) {
	kept, at := batch[:0], 0
	for _, m := range marks {
		if !now.After(m.late) {
			continue
		}
		kept = append(kept, batch[at:m.start]...)
		at = m.end
		n--
		c.node.Counts.Late.Add(1)
	}
	return append(kept, batch[at:]...), n
}

// finish closes the connection when all that is pending is written; a peer that
// does not read is cut off by the writer's deadline.
func (c *Conn) finish() {
	c.out.Lock()
	defer c.out.Unlock()
	c.ending = true
	c.work.Signal()
}

// room waits until the other end has read enough; false: the connection is
// closed.
func (c *Conn) room() bool {
	c.out.Lock()
	defer c.out.Unlock()
	for len(c.pending) > c.node.config.WriteMax && !c.closed {
		c.space.Wait()
	}
	return !c.closed
}

// read is the goroutine that reads, cuts and hands on.
func (c *Conn) read() {
	defer c.node.done.Done()
	defer c.gone()
	buf := make([]byte, readBuffer)
	have := 0
	var began time.Time // when the message that is not whole yet was first seen
	var batch []*Request
	c.net.SetReadDeadline(time.Now().Add(c.node.config.CERTimeout))
	for {
		n, err := c.net.Read(buf[have:])
		if err != nil {
			return
		}
		c.heard.Store(time.Now().UnixNano())
		c.suspect.Store(false)
		have += n
		rest, ok := buf[:have], true
		rest, batch, ok = c.cut(rest, batch[:0])
		if len(rest) < have || began.IsZero() {
			began = time.Now()
		}
		if len(batch) > 0 {
			c.node.handler.Receive(batch)
			clear(batch)
		}
		if !ok {
			c.finish()
			c.drain(buf)
			return
		}
		if !c.room() {
			return
		}
		buf, have = c.keep(buf, rest)
		if c.open.Load() {
			deadline := time.Time{}
			if have > 0 {
				deadline = began.Add(c.node.config.SlowMax)
			} else {
				began = time.Time{}
			}
			c.net.SetReadDeadline(deadline)
		}
	}
}

// drain reads on until the writer closes the connection: with octets unread,
// closing would reset it, and the last answer might never be seen.
func (c *Conn) drain(buf []byte) {
	c.net.SetReadDeadline(time.Now().Add(c.node.config.WriteTimeout))
	for {
		if _, err := c.net.Read(buf); err != nil {
			return
		}
	}
}

// keep moves an incomplete message to the front of the buffer, and grows it
// only for a message whose announced length is within bounds.
func (c *Conn) keep(buf, rest []byte) ([]byte, int) {
	if n, err := diameter.FrameLength(rest, c.node.config.MessageMax); err == nil && n > len(buf) {
		bigger := make([]byte, n)
		return bigger, copy(bigger, rest)
	}
	return buf, copy(buf, rest)
}

// cut takes all whole messages off b. False: the connection must be closed.
func (c *Conn) cut(b []byte, batch []*Request) (rest []byte, requests []*Request, ok bool) {
	for {
		m, rest, err := diameter.Frame(b, c.node.config.MessageMax)
		if errors.Is(err, diameter.ErrShort) {
			return b, batch, true
		}
		if err != nil {
			c.node.Counts.Malformed.Add(1)
			c.unframed(err)
			return nil, batch, false
		}
		c.Received.Add(1)
		c.node.Counts.Received.Add(1)
		b = rest
		if !m.Request() {
			c.answered(&m)
			continue
		}
		if m.Application != diameter.ApplicationCreditControl || m.Command == diameter.CapabilitiesExchange ||
			m.Command == diameter.DeviceWatchdog || m.Command == diameter.DisconnectPeer || !c.open.Load() {
			if !c.base(&m) {
				return nil, batch, false
			}
			continue
		}
		if r := c.request(&m); r != nil {
			batch = append(batch, r)
		}
	}
}

// request takes an application's request in, or refuses it at once.
func (c *Conn) request(m *diameter.Message) *Request {
	switch {
	case m.Flags&diameter.FlagError != 0:
		c.refuse(m, diameter.InvalidHdrBits)
		return nil
	case m.Command != diameter.CreditControl && !c.dialled, c.dialled && m.Command != diameter.ReAuth && m.Command != diameter.AbortSession:
		c.refuse(m, diameter.CommandUnsupported)
		return nil
	case c.inFlight.Load() >= int64(c.node.config.InFlight) || c.node.Counts.InFlight.Load() >= int64(c.node.config.InFlightAll):
		c.node.Counts.Busy.Add(1)
		c.refuse(m, diameter.TooBusy)
		return nil
	}
	c.inFlight.Add(1)
	c.node.Counts.InFlight.Add(1)
	r := c.node.pool.Get().(*Request)
	r.frame = append(r.frame[:0], m.Body...)
	r.Message = diameter.Message{Header: m.Header, Body: r.frame}
	r.Conn, r.At = c, time.Now()
	return r
}

// gone tidies up after the connection.
func (c *Conn) gone() {
	c.Close()
	c.node.forget(c)
	c.out.Lock()
	if c.watch != nil {
		c.watch.Stop()
	}
	var lost []any
	for _, w := range c.waiting {
		lost = append(lost, w.token)
	}
	clear(c.waiting)
	c.out.Unlock()
	if c.dialled {
		select {
		case c.ready <- errors.New("the connection was closed before capabilities were exchanged"):
		default:
		}
	}
	if c.open.Swap(false) {
		c.node.handler.Closed(c, lost)
	}
}

// Send sends a request: build writes it with the Hop-by-Hop and End-to-End
// identifiers it is given. The answer comes back with token. False: the
// connection is closed, or its other end owes OwedMax answers; what keeps the
// connection itself is sent all the same.
func (c *Conn) Send(token any, build func(hopByHop, endToEnd uint32) []byte) bool {
	_, own := token.(ours)
	c.out.Lock()
	if c.closed || len(c.waiting) >= c.node.config.OwedMax && !own {
		c.out.Unlock()
		return false
	}
	c.hop++
	c.end++
	hop, end := c.hop, c.end
	c.waiting[hop] = owed{token, time.Now()}
	c.out.Unlock()
	c.enqueue(build(hop, end), time.Time{})
	return true
}

// answered gives an answer to whoever sent the request; others are dropped.
func (c *Conn) answered(m *diameter.Message) {
	c.out.Lock()
	w, ok := c.waiting[m.HopByHop]
	delete(c.waiting, m.HopByHop)
	c.out.Unlock()
	if !ok {
		return
	}
	if own, ok := w.token.(ours); ok {
		c.basic(own, m)
		return
	}
	c.node.handler.Answered(c, w.token, m)
}

// forgive forgets answers that nobody expects any more. c.out is held.
func (c *Conn) forgive() {
	for hop, w := range c.waiting {
		if time.Since(w.since) > owedFor {
			delete(c.waiting, hop)
		}
	}
}
