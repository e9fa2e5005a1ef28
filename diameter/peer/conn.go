package peer

import (
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"rtm/diameter"
)

const (
	readFirst  = 4 << 10   // octets read at once at first: who has not sent a CER takes up no more
	readBuffer = 16 << 10  // … and at most, where so much comes: some forty messages, then it is the turn of others
	cerMax     = 16 << 10  // of a CER
	socketMax  = 256 << 10 // octets wait in the system before they are read: who is read slowly notices
	slowRate   = 1 << 10   // octets a second of a message that is not whole after half of SlowMax
)

// A Conn is one connection.
type Conn struct {
	Capabilities     // of the other end, once open
	Peer         any // what Admit said
	Since        time.Time
	node         *Node
	raw          net.Conn
	net          net.Conn         // raw, or TLS over it
	secure       *tls.Conn        // nil: in the clear
	knocks       bool             // counted among those without a CER; guarded by node.mu
	enc          diameter.Encoder // of answers of this layer, on the goroutine that reads
	scratch      []byte           // its memory
	dialled      bool
	counted      bool // at its seat; both guarded by node.mu
	seat         seat
	parting      bool        // a DPR was received; only the reader uses it
	open         atomic.Bool // capabilities are exchanged
	leaving      atomic.Bool // a DPR was sent or received
	parted       atomic.Bool // our DPR was answered
	suspect      atomic.Bool // a DWR has no answer yet
	inFlight     atomic.Int64
	bad          atomic.Int64 // messages of this second that could not be used
	wasted       atomic.Int64 // these, and requests that were turned away, since it was last looked
	Received     atomic.Int64
	Sent         atomic.Int64
	heard        atomic.Int64 // when something last came, unix nanoseconds
	spent        time.Time    // what serves nobody has used its part of the time until then; likewise
	came         time.Time    // the earliest that what is being cut may have come; only the reader uses it
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
	before   uint32 // hop, before anything was sent
	hop      uint32
	end      uint32
	waiting  map[uint32]owed // requests that Send sent, by Hop-by-Hop

	forgotten []any // tokens of these that forgive has taken out, and that nobody was told of yet
}

// owed is a request that the other end has not answered yet.
type owed struct {
	token any
	since time.Time
}

// mark is one message in pending that must not leave after its time.
type mark struct {
	start, end int
	late       time.Time
}

func (n *Node) conn(nc net.Conn, dialled bool) *Conn {
	c := &Conn{
		node: n, raw: nc, net: nc, dialled: dialled, Since: time.Now(), waiting: make(map[uint32]owed),
		hop: rand.Uint32(), end: uint32(time.Now().Unix())<<20 | rand.Uint32()>>12,
	}
	c.before = c.hop
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
	c.raw.Close() // with TLS not its farewell, which may wait for who does not read
}

// Suspect reports whether the other end owes an answer to a DWR.
func (c *Conn) Suspect() bool { return c.suspect.Load() }

// Heard is when something last came.
func (c *Conn) Heard() time.Time { return time.Unix(0, c.heard.Load()) }

// Leaving reports whether one of both ends has begun to disconnect, or the connection
// is closed.
func (c *Conn) Leaving() bool { return c.leaving.Load() || !c.open.Load() }

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
			closed := c.closed
			c.out.Unlock()
			if c.secure != nil && !closed {
				c.net.SetWriteDeadline(time.Now().Add(c.node.config.WriteTimeout))
				c.secure.CloseWrite()
			}
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
			if timeout(err) {
				c.node.limited(LimitWrite)
			}
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
	c.net.SetReadDeadline(time.Now().Add(c.node.config.CERTimeout))
	if !c.handshake() {
		return
	}
	buf := make([]byte, readFirst)
	have := 0
	var began time.Time // when the message that is not whole yet was first seen
	var batch []*Request
	second := time.Now()
	for {
		n, err := c.net.Read(buf[have:])
		if err != nil {
			c.overdue(err, have > 0)
			return
		}
		c.heard.Store(time.Now().UnixNano())
		c.suspect.Store(false)
		have += n
		full := have == len(buf)
		rest, ok := buf[:have], true
		begun, before := time.Now(), c.Received.Load()
		c.came = c.node.pulse.came()
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
		if !c.thrifty(begun, before) || !c.room() || !c.patience(&second) {
			return
		}
		if full { // there is more, and reading it at once would keep others waiting
			runtime.Gosched()
		}
		buf, have = c.keep(buf, rest, full)
		if c.open.Load() {
			deadline := time.Time{}
			if have > 0 {
				most := c.node.config.SlowMax
				deadline = began.Add(min(most, most/2+time.Duration(have)*time.Second/slowRate))
			} else {
				began = time.Time{}
			}
			c.net.SetReadDeadline(deadline)
		}
	}
}

// thrifty holds up who sends what serves nobody, while that takes more of the
// processors than it may: what was read since begun, when so many messages had
// come before. False: the connection is closed.
func (c *Conn) thrifty(begun time.Time, before int64) bool {
	wasted := c.wasted.Swap(0)
	if wasted == 0 {
		return true
	}
	now := time.Now()
	came := max(wasted, c.Received.Load()-before)
	pause := c.node.thrift.spend(&c.spent, now.Sub(begun)*time.Duration(wasted)/time.Duration(came), now)
	if pause <= 0 {
		return true
	}
	defer c.node.thrift.rested()
	c.node.limited(LimitWaste)
	return c.rest(now.Add(pause))
}

// patience holds up who sends more than BadMax messages a second that cannot be
// used: it is not read until the second that began at *second is over. False: the
// connection is closed.
func (c *Conn) patience(second *time.Time) bool {
	if c.bad.Load() == 0 {
		return true
	}
	over := second.Add(time.Second)
	if time.Now().Before(over) {
		if c.bad.Load() <= int64(c.node.config.BadMax) {
			return true
		}
		c.node.limited(LimitBad)
		if !c.rest(over) {
			return false
		}
	}
	*second = time.Now()
	if c.bad.Swap(0) > int64(c.node.config.BadMax) {
		c.spent = *second // nothing of it is free then
	}
	return true
}

// rest does not read until then. False: the connection is closed.
func (c *Conn) rest(until time.Time) bool {
	over := time.AfterFunc(time.Until(until), func() {
		c.out.Lock()
		defer c.out.Unlock()
		c.space.Broadcast()
	})
	defer over.Stop()
	c.out.Lock()
	defer c.out.Unlock()
	for !c.closed && time.Now().Before(until) {
		c.space.Wait()
	}
	return !c.closed
}

// misused notes a message that cannot be used.
func (c *Conn) misused() {
	c.bad.Add(1)
	c.wasted.Add(1)
}

// handshake is TLS, within the time for the CER.
func (c *Conn) handshake() bool {
	if c.secure == nil {
		return true
	}
	c.net.SetWriteDeadline(time.Now().Add(c.node.config.CERTimeout))
	if err := c.secure.Handshake(); err != nil {
		c.node.limited(LimitTLS)
		if c.node.config.Unsecured != nil {
			c.node.config.Unsecured(c.Remote, err)
		}
		return false
	}
	state := c.secure.ConnectionState()
	if c.Secure = len(state.VerifiedChains) > 0; c.Secure {
		c.Names = state.PeerCertificates[0].DNSNames
	}
	return true
}

// overdue counts a connection that is closed since something did not come in
// time: its CER, or the rest of a message.
func (c *Conn) overdue(err error, partial bool) {
	switch {
	case !timeout(err):
	case !c.open.Load():
		c.node.limited(LimitCER)
	case partial:
		c.node.limited(LimitSlow)
	}
}

func timeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
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

// keep moves an incomplete message to the front of the buffer, and grows it for
// a message whose announced length is within bounds, or when so much comes that
// it was full.
func (c *Conn) keep(buf, rest []byte, full bool) ([]byte, int) {
	size := len(buf)
	if full && size < readBuffer && c.open.Load() {
		size = min(4*size, readBuffer)
	}
	if n, err := diameter.FrameLength(rest, c.most()); err == nil {
		size = max(size, n)
	}
	if size > len(buf) {
		bigger := make([]byte, size)
		return bigger, copy(bigger, rest)
	}
	return buf, copy(buf, rest)
}

// most is how long a message may be.
func (c *Conn) most() int {
	if !c.open.Load() {
		return min(c.node.config.MessageMax, cerMax)
	}
	return c.node.config.MessageMax
}

// cut takes all whole messages off b. False: the connection must be closed.
func (c *Conn) cut(b []byte, batch []*Request) (rest []byte, requests []*Request, ok bool) {
	for {
		m, rest, err := diameter.Frame(b, c.most())
		if errors.Is(err, diameter.ErrShort) {
			return b, batch, true
		}
		if err != nil {
			c.node.Counts.Malformed.Add(1)
			c.node.limited(LimitFrame)
			c.unframed(err)
			return nil, batch, false
		}
		c.Received.Add(1)
		c.node.Counts.Received.Add(1)
		b = rest
		if !m.Request() {
			c.protected(&m)
			continue
		}
		if m.Application != diameter.ApplicationCreditControl || m.Command == diameter.CapabilitiesExchange ||
			m.Command == diameter.DeviceWatchdog || m.Command == diameter.DisconnectPeer || !c.open.Load() {
			if !c.protected(&m) {
				return nil, batch, false
			}
			continue
		}
		if r := c.request(&m); r != nil {
			batch = append(batch, r)
		}
	}
}

// protected deals with an answer, or a request of base Diameter. A mistake of
// ours is answered 5012, counted, and does not end the connection. False: the
// connection must be closed.
func (c *Conn) protected(m *diameter.Message) (ok bool) {
	defer func() {
		failed := recover()
		if failed == nil {
			return
		}
		c.node.Counts.Panics.Add(1)
		c.misused() // a line in the log for each, so not too many
		if c.node.config.Panicked != nil {
			c.node.config.Panicked()
		}
		c.node.config.Log.Error("a message could not be worked on: please report it", "panic", failed,
			"command", m.Command, "host", c.Host, "stack", string(debug.Stack()))
		if m.Request() {
			c.answer(m, diameter.UnableToComply, nil)
		}
		ok = c.open.Load()
	}()
	if m.Request() {
		return c.base(m)
	}
	c.answered(m)
	return true
}

// request takes an application's request in, or refuses it at once.
func (c *Conn) request(m *diameter.Message) *Request {
	switch {
	case m.Flags&diameter.FlagError != 0:
		c.misused()
		c.refuse(m, diameter.InvalidHdrBits)
		return nil
	case m.Command != diameter.CreditControl && !c.dialled, c.dialled && m.Command != diameter.ReAuth && m.Command != diameter.AbortSession:
		c.misused()
		c.refuse(m, diameter.CommandUnsupported)
		return nil
	case c.inFlight.Load() >= int64(c.node.config.InFlight):
		c.busy(m, LimitInFlight)
		return nil
	case c.node.Counts.InFlight.Load() >= int64(c.node.config.InFlightAll):
		c.busy(m, LimitInFlightAll)
		return nil
	}
	c.inFlight.Add(1)
	c.node.Counts.InFlight.Add(1)
	r := c.node.pool.Get().(*Request)
	r.frame = append(r.frame[:0], m.Body...)
	r.Message = diameter.Message{Header: m.Header, Body: r.frame}
	r.Conn, r.At = c, c.came
	return r
}

// busy turns a request away before anybody looks at it: with 3004, or without a
// word if that serves its sender better, which Conn.Peer knows if it has a method
// Silent(*diameter.Message) bool.
func (c *Conn) busy(m *diameter.Message, l Limit) {
	c.node.limited(l)
	c.wasted.Add(1)
	if p, ok := c.Peer.(interface {
		Silent(m *diameter.Message) bool
	}); ok && p.Silent(m) {
		c.node.Counts.Silent.Add(1)
		return
	}
	c.node.Counts.Busy.Add(1)
	c.refuse(m, diameter.TooBusy)
}

// gone tidies up after the connection.
func (c *Conn) gone() {
	c.Close()
	c.node.forget(c)
	c.out.Lock()
	if c.watch != nil {
		c.watch.Stop()
	}
	lost := c.takeForgotten()
	for _, w := range c.waiting {
		if _, own := w.token.(ours); !own {
			lost = append(lost, w.token)
		}
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
// identifiers it is given, before anybody can answer it. The answer comes back with
// token. False: the connection is closed, or its other end owes OwedMax answers; what
// keeps the connection itself is sent all the same.
func (c *Conn) Send(token any, build func(hopByHop, endToEnd uint32) []byte) bool {
	_, own := token.(ours)
	c.out.Lock()
	full := len(c.waiting) >= c.node.config.OwedMax && !own
	if full {
		c.forgive()
		full = len(c.waiting) >= c.node.config.OwedMax
	}
	c.hop++
	c.end++
	hop, end, closed := c.hop, c.end, c.closed
	c.out.Unlock()
	if full || closed {
		if full {
			c.node.limited(LimitOwed)
		}
		return false
	}
	frame := build(hop, end)
	c.out.Lock()
	if closed = c.closed; !closed {
		c.waiting[hop] = owed{token, time.Now()}
	}
	c.out.Unlock()
	if !closed {
		c.enqueue(frame, time.Time{})
	}
	return !closed
}

// answered gives an answer to whoever sent the request; others are dropped.
func (c *Conn) answered(m *diameter.Message) {
	c.out.Lock()
	w, ok := c.waiting[m.HopByHop]
	delete(c.waiting, m.HopByHop)
	c.out.Unlock()
	if !ok {
		c.unasked(m.HopByHop)
		return
	}
	if own, ok := w.token.(ours); ok {
		c.basic(own, m)
		return
	}
	c.node.handler.Answered(c, w.token, m)
}

// unasked notes an answer that nobody waits for: it comes late, or to what was never
// sent.
func (c *Conn) unasked(hop uint32) {
	c.out.Lock()
	sent := hop-c.before-1 < c.hop-c.before // as they count up, also beyond the last number
	c.out.Unlock()
	if !sent {
		c.misused()
	} else if !c.dialled {
		c.wasted.Add(1)
	}
}

// forgive forgets answers that nobody expects any more. c.out is held.
func (c *Conn) forgive() {
	for hop, w := range c.waiting {
		if time.Since(w.since) > c.node.config.OwedFor {
			delete(c.waiting, hop)
			if _, own := w.token.(ours); !own {
				c.forgotten = append(c.forgotten, w.token)
			}
		}
	}
}

// takeForgotten is what was forgotten since it was last taken. c.out is held.
func (c *Conn) takeForgotten() (tokens []any) {
	tokens, c.forgotten = c.forgotten, nil
	return tokens
}
