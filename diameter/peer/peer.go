// Package peer keeps Diameter connections (RFC 6733 §2.1, §5; RFC 3539): it
// listens or dials, exchanges capabilities, watches, disconnects, cuts the
// stream into messages and sends answers together. It does not know what a
// credit-control request says.
package peer

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"rtm/diameter"
)

// MessageMost is what Config.MessageMax may be at most: 1 MiB.
const MessageMost = 1 << 20

// Config says who this end is and what it bears. Zero values take the defaults
// named beside them.
type Config struct {
	OriginHost    string // of answers to applications' requests, here only 3004
	PeerHost      string // of CER, CEA, DWR, DWA, DPR, DPA
	Realm         string
	OriginStateID uint32
	Product       string        // "rtm"
	MessageMax    int           // 64 KiB
	CERTimeout    time.Duration // 5 s from accept to a whole CER
	SlowMax       time.Duration // 10 s for one message; after half of it, 1 KiB/s since its beginning
	Watchdog      time.Duration // 30 s of silence before a DWR
	WriteMax      int           // 1 MiB waits to be written: then that peer is not read
	WriteTimeout  time.Duration // 5 s of a full buffer: then the connection is closed
	InFlight      int           // 1,024 requests of one connection are worked on
	InFlightAll   int           // 16,384 of all
	BadMax        int           // 100 messages a second of one connection that cannot be used; then it is not read for the rest of it
	OwedMax       int           // 1,024 requests sent over one connection have no answer; after a minute none is expected
	OwedFor       time.Duration // a minute: after that an answer comes too late for whoever sent the request, and its place is free again
	PerPeer       int           // 4 connections with one Origin-Host and -Realm, let in for one reason
	Connections   int           // 10,000 in all
	CERRate       int           // 10 new connections a second from one address
	Open          int           // 100 connections from one address whose CER has not come
	OpenAll       int           // 1,000 of all
	Loopback      bool          // these three hold for this machine's own addresses too
	LeaveMax      time.Duration // 900 ms after DPA
	Log           *slog.Logger
	// Unsecured is told of a TLS handshake that failed; nil: nobody is.
	Unsecured func(from netip.AddrPort, err error)
	// Panicked is told when the program failed on a message; nil: nobody is.
	Panicked func()
}

// defaults fills in what is zero.
func (c *Config) defaults() {
	set := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	span := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	set(&c.MessageMax, diameter.MessageMax)
	set(&c.WriteMax, 1<<20)
	set(&c.InFlight, 1024)
	set(&c.InFlightAll, 16384)
	set(&c.OwedMax, 1024)
	set(&c.BadMax, 100)
	set(&c.PerPeer, 4)
	set(&c.Connections, 10_000)
	set(&c.CERRate, 10)
	set(&c.Open, 100)
	set(&c.OpenAll, 1000)
	span(&c.CERTimeout, 5*time.Second)
	span(&c.SlowMax, 10*time.Second)
	span(&c.Watchdog, 30*time.Second)
	span(&c.OwedFor, time.Minute)
	span(&c.WriteTimeout, 5*time.Second)
	span(&c.LeaveMax, 900*time.Millisecond)
	if c.Product == "" {
		c.Product = "rtm"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// Check reports what is missing.
func (c *Config) Check() error {
	if c.PeerHost == "" || c.Realm == "" {
		return errors.New("a Diameter node needs a host name and a realm")
	}
	if c.MessageMax < 0 || c.MessageMax > MessageMost {
		return fmt.Errorf("messages may be limited to at most %d octets, not %d", MessageMost, c.MessageMax)
	}
	return nil
}

// Capabilities is what a CER or CEA says of the other end.
type Capabilities struct {
	Host, Realm, Product string
	OriginState          uint32 // Origin-State-Id; zero: none
	Remote               netip.AddrPort
	Secure               bool     // TLS, and the certificate of the other end was verified
	Names                []string // the DNS names of that certificate
}

// A Handler is who uses connections. Its methods are called on the goroutine
// that reads the connection, and must not wait.
type Handler interface {
	// Admit decides on a CER: zero, or the Result-Code that refuses it (3010).
	// peer is kept in Conn.Peer. If it has a method OriginHost() string, what
	// this layer answers to applications' requests carries that name. If it has a
	// method Reason() string, connections that were let in for different reasons
	// are counted apart.
	Admit(c Capabilities) (peer any, refuse diameter.Result)
	// Receive gets the requests that came together. Each is answered or dropped
	// exactly once, by anyone.
	Receive(batch []*Request)
	// Answered gets the answer to a request that Send sent; m is valid during
	// the call only.
	Answered(c *Conn, token any, m *diameter.Message)
	// Closed tells that the connection is gone, and which requests that Send
	// sent have no answer.
	Closed(c *Conn, unanswered []any)
}

// A Forgetter is a Handler that is told of requests that Send sent, and whose answers
// nobody expects any more, after a minute.
type Forgetter interface {
	Forgotten(c *Conn, tokens []any)
}

// Counts is what all connections of a node did.
type Counts struct {
	Accepted, Refused, Closed atomic.Int64
	Received, Sent            atomic.Int64 // messages
	Busy                      atomic.Int64 // requests answered 3004 from the read loop
	Late                      atomic.Int64 // answers that were not sent since their time was over
	Silent                    atomic.Int64 // requests left without an answer in place of 3004
	Malformed                 atomic.Int64
	Panics                    atomic.Int64 // messages of base Diameter on which the program failed
	InFlight                  atomic.Int64
	Limits                    [Limits]atomic.Int64 // how often a bound was reached
}

// A Limit is one of the bounds on what peers can take up.
type Limit uint8

// The bounds, as Config has them.
const (
	LimitRate        Limit = iota // CERRate: closed before a word, also before TLS
	LimitOpen                     // Open or OpenAll: likewise
	LimitConnections              // Connections: likewise
	LimitTLS                      // the TLS handshake failed, or took longer than CERTimeout
	LimitCER                      // CERTimeout: closed
	LimitPerPeer                  // PerPeer: refused with 5012
	LimitSlow                     // SlowMax: closed
	LimitFrame                    // a length that is none, or above MessageMax: closed
	LimitInFlight                 // InFlight: 3004, or nothing
	LimitInFlightAll              // InFlightAll: likewise
	LimitWrite                    // WriteTimeout: closed
	LimitOwed                     // OwedMax: not sent
	LimitBad                      // BadMax: not read for a while
	LimitWaste                    // wasteShare: likewise
	Limits
)

var limitNames = [Limits]string{
	"rate", "open", "connections", "tls", "cer", "per-peer", "slow", "frame", "in-flight", "in-flight-all", "write", "owed", "bad", "waste",
}

// String is its name in metrics.
func (l Limit) String() string { return limitNames[l] }

// limited counts that a bound was reached.
func (n *Node) limited(l Limit) { n.Counts.Limits[l].Add(1) }

// A Node is one end of many connections.
type Node struct {
	Counts  Counts
	config  Config
	handler Handler
	pool    sync.Pool // of *Request
	pulse   pulse
	thrift  thrift

	mu        sync.Mutex // guards all below
	conns     map[*Conn]bool
	seats     map[seat]int
	listeners []net.Listener
	sources   map[netip.Addr]int // new connections of this second
	knocking  map[netip.Addr]int // connections without a CER
	waiting   int                // sum of knocking
	window    time.Time
	leaving   bool
	done      sync.WaitGroup
}

// New returns a node without connections.
func New(c Config, h Handler) (*Node, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	c.defaults()
	n := &Node{
		config: c, handler: h, conns: make(map[*Conn]bool), seats: make(map[seat]int),
		sources: make(map[netip.Addr]int), knocking: make(map[netip.Addr]int),
	}
	n.pool.New = func() any { return &Request{} }
	return n, nil
}

// A Request is a request of the other end, on memory of its own until it is
// answered or dropped.
type Request struct {
	Message diameter.Message
	Conn    *Conn
	At      time.Time // when it was read; if the process was stopped, when that began
	Late    time.Time // no answer leaves after that; zero: whenever
	Value   any       // the handler's, kept with the memory for the next request
	frame   []byte
}

// Answer sends frame, which is copied, and ends r.
func (r *Request) Answer(frame []byte) {
	r.Conn.enqueue(frame, r.Late)
	r.end()
}

// Bad notes that r could not be used: who sends many such is read more slowly.
func (r *Request) Bad() { r.Conn.misused() }

// TurnedAway notes that r is not worked on: that is cheap, but so many can come
// that their sender must be read more slowly.
func (r *Request) TurnedAway() { r.Conn.wasted.Add(1) }

// Drop ends r without an answer.
func (r *Request) Drop() { r.end() }

func (r *Request) end() {
	c := r.Conn
	c.node.Counts.InFlight.Add(-1)
	if c.inFlight.Add(-1) == 0 && c.leaving.Load() {
		c.left()
	}
	r.Conn, r.Late = nil, time.Time{}
	c.node.pool.Put(r)
}

// Serve accepts connections on l until Leave or Close.
func (n *Node) Serve(l net.Listener) { n.serve(l, nil) }

// ServeTLS is Serve for connections that begin with TLS (RFC 6733 §13.1).
func (n *Node) ServeTLS(l net.Listener, secure *tls.Config) { n.serve(l, secure) }

func (n *Node) serve(l net.Listener, secure *tls.Config) {
	n.mu.Lock()
	if n.leaving {
		n.mu.Unlock()
		l.Close()
		return
	}
	n.listeners = append(n.listeners, l)
	n.done.Add(1)
	n.mu.Unlock()
	defer n.done.Done()
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			<-time.After(50 * time.Millisecond) // out of file descriptors
			continue
		}
		n.accept(c, secure)
	}
}

// Accept takes a connection that the other end opened.
func (n *Node) Accept(nc net.Conn) { n.accept(nc, nil) }

// accept looks at bounds first; TLS begins after them.
func (n *Node) accept(nc net.Conn, secure *tls.Config) {
	if tcp, ok := nc.(*net.TCPConn); ok {
		tcp.SetReadBuffer(socketMax)
	}
	c := n.conn(nc, false)
	if secure != nil {
		c.secure = tls.Server(nc, secure)
		c.net = c.secure
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.leaving || !n.welcome(c) {
		n.Counts.Refused.Add(1)
		nc.Close()
		return
	}
	n.begin(c)
}

// source is what connections are counted by: the address, or for IPv6 the /64 of
// it, which one sender has whole.
func (c *Conn) source() netip.Addr {
	a := c.Remote.Addr()
	if p, err := a.Prefix(64); err == nil && a.Is6() {
		return p.Addr()
	}
	return a
}

// welcome bounds connections: all of them, and those from one address that are
// new or have said nothing yet. n.mu is held.
func (n *Node) welcome(c *Conn) bool {
	if len(n.conns) >= n.config.Connections {
		n.limited(LimitConnections)
		return false
	}
	from := c.source()
	if !from.IsValid() || from.IsLoopback() && !n.config.Loopback {
		return true
	}
	if now := time.Now(); now.Sub(n.window) >= time.Second {
		n.window = now
		clear(n.sources)
	}
	n.sources[from]++
	if n.sources[from] > n.config.CERRate || len(n.sources) > n.config.Connections {
		n.limited(LimitRate)
		return false
	}
	if n.knocking[from] >= n.config.Open || n.waiting >= n.config.OpenAll {
		n.limited(LimitOpen)
		return false
	}
	n.knocking[from]++
	n.waiting++
	c.knocks = true
	return true
}

// heard notes that the CER of c has come, or will not come any more.
func (n *Node) heard(c *Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unknock(c)
}

// unknock takes c off those without a CER. n.mu is held.
func (n *Node) unknock(c *Conn) {
	if !c.knocks {
		return
	}
	c.knocks = false
	from := c.source()
	n.waiting--
	if n.knocking[from]--; n.knocking[from] <= 0 {
		delete(n.knocking, from)
	}
}

// begin starts the goroutines of c. n.mu is held.
func (n *Node) begin(c *Conn) {
	n.pulse.start()
	n.conns[c] = true
	n.Counts.Accepted.Add(1)
	n.done.Add(2)
	go c.read()
	go c.write()
}

// A seat is what connections of a peer are counted by: its names, in lower case,
// and why it was let in. So nobody takes the seats of another who calls itself
// alike.
type seat struct{ host, realm, reason string }

// admit counts a connection that exchanged capabilities; false: there are as many
// of its peer as may be.
func (n *Node) admit(c *Conn, peer any) bool {
	s := seat{host: strings.ToLower(c.Host), realm: strings.ToLower(c.Realm)}
	if p, ok := peer.(interface{ Reason() string }); ok {
		s.reason = p.Reason()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.seats[s] >= n.config.PerPeer {
		n.limited(LimitPerPeer)
		return false
	}
	n.seats[s]++
	c.seat, c.counted = s, true
	return true
}

func (n *Node) forget(c *Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
	n.unknock(c)
	if c.counted {
		if n.seats[c.seat]--; n.seats[c.seat] <= 0 {
			delete(n.seats, c.seat)
		}
	}
	n.Counts.Closed.Add(1)
}

// Conns lists the connections that exchanged capabilities and have not begun to
// disconnect.
func (n *Node) Conns() []*Conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	var cs []*Conn
	for c := range n.conns {
		if c.open.Load() && !c.leaving.Load() {
			cs = append(cs, c)
		}
	}
	return cs
}

// Leave ends all connections as a node does that will be back: no new ones, a
// DPR on each, what is in hand is answered, and each is closed when its DPA is
// there and nothing is in hand, at most LeaveMax after DPA. It returns when
// all are closed, at the latest after most.
func (n *Node) Leave(most time.Duration) {
	n.mu.Lock()
	n.leaving = true
	for _, l := range n.listeners {
		l.Close()
	}
	var conns []*Conn
	for c := range n.conns {
		conns = append(conns, c)
	}
	n.mu.Unlock()
	for _, c := range conns {
		c.disconnect()
	}
	done := make(chan struct{})
	go func() { n.done.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(most):
		n.Close()
		<-done
	}
	n.pulse.stop()
}

// Close ends all connections at once, without a word.
func (n *Node) Close() {
	n.pulse.stop()
	n.mu.Lock()
	n.leaving = true
	for _, l := range n.listeners {
		l.Close()
	}
	var conns []*Conn
	for c := range n.conns {
		conns = append(conns, c)
	}
	n.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	n.done.Wait()
}
