package rtmtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A Fault is what a Net does to what goes between two of its parties.
type Fault uint8

// The faults of a network.
const (
	Hole  Fault = iota + 1 // connections are accepted and nothing comes through until it heals, nobody is told
	Cut                    // connections are reset, new ones too
	Lost                   // a machine is gone: what is on its way is dropped, nobody is told before it is back
	Slow                   // delay and rate, nothing else
	whole Fault = 0
)

func (f Fault) String() string {
	switch f {
	case Hole:
		return "hole"
	case Cut:
		return "cut"
	case Lost:
		return "lost"
	case Slow:
		return "slow"
	case whole:
	}
	return "whole"
}

const (
	parcelMax = 16 << 10 // octets that are carried at once
	wayMax    = 256      // parcels on their way in one direction
	sliceTime = 20 * time.Millisecond
)

// A Net is the network between the processes of a test, on loopback. Whoever
// reaches another through one of its relays is told by the process that owns
// the connection, so that any two of them can be parted.
type Net struct {
	t    testing.TB
	over chan struct{} // closed when the test ends
	tls  *secured      // the redis-servers speak nothing else; nil: they speak plain TCP

	mu      sync.Mutex // guards all below
	parties []party
	rules   []*rule
	changed chan struct{} // closed when rules change
	links   map[*link]struct{}
}

// A party is a process with a name.
type party struct {
	name string
	pid  func() int
}

// A rule is a fault between all of a and all of b, both ways unless it says
// otherwise. An empty list is everybody.
type rule struct {
	fault  Fault
	a, b   []string
	oneWay bool
	delay  time.Duration
	rate   int // octets a second; zero: no bound
}

func (r *rule) holds(from, to string) bool {
	in := func(list []string, name string) bool { return len(list) == 0 || slices.Contains(list, name) }
	return in(r.a, from) && in(r.b, to) || !r.oneWay && in(r.b, from) && in(r.a, to)
}

// NewNet is a network without faults, until the test ends.
func NewNet(t testing.TB) *Net {
	n := &Net{t: t, over: make(chan struct{}), changed: make(chan struct{}), links: make(map[*link]struct{})}
	t.Cleanup(func() {
		close(n.over)
		n.mu.Lock()
		defer n.mu.Unlock()
		for l := range n.links {
			l.close()
		}
	})
	return n
}

// Join gives a process a name. pid is asked at each new connection, since a
// process that is started again has another.
func (n *Net) Join(name string, pid func() int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.parties = append(n.parties, party{name, pid})
}

// Part puts a fault between all of a and all of b, both ways; nil is everybody.
// heal takes it away again: connections that were cut or lost are not mended.
func (n *Net) Part(f Fault, a, b []string) (heal func()) { return n.rule(&rule{fault: f, a: a, b: b}) }

// Deafen lets nothing that from says come to to, before it heals.
func (n *Net) Deafen(from, to []string) (heal func()) {
	return n.rule(&rule{fault: Hole, a: from, b: to, oneWay: true})
}

// Away puts a and b apart: each octet comes later by delay, and at most rate of
// them a second, in slices; a rate of zero has no bound.
func (n *Net) Away(a, b []string, delay time.Duration, rate int) (heal func()) {
	return n.rule(&rule{fault: Slow, a: a, b: b, delay: delay, rate: rate})
}

func (n *Net) rule(r *rule) (heal func()) {
	n.change(func() { n.rules = append(n.rules, r) })
	if r.fault == Cut {
		n.reset(r)
	}
	return func() {
		n.change(func() { n.rules = slices.DeleteFunc(n.rules, func(o *rule) bool { return o == r }) })
		if r.fault == Lost {
			n.reset(r)
		}
	}
}

// change does what changes the rules, and wakes whoever waits for that.
func (n *Net) change(do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do()
	close(n.changed)
	n.changed = make(chan struct{})
}

// reset ends the connections that a rule is about.
func (n *Net) reset(r *rule) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for l := range n.links {
		if r.holds(l.from, l.to) || r.holds(l.to, l.from) {
			l.close()
		}
	}
}

// between is what holds for what from says to to, until changed.
func (n *Net) between(from, to string) (f Fault, delay time.Duration, rate int, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.rules {
		switch {
		case !r.holds(from, to):
		case r.fault == Slow:
			delay += r.delay
			if r.rate > 0 && (rate == 0 || r.rate < rate) {
				rate = r.rate
			}
		default:
			f = max(f, r.fault)
		}
	}
	return f, delay, rate, n.changed
}

// pass waits while there is a hole between the two; anything but whole: what was
// to be carried is not. A link that ends meanwhile is cut.
func (n *Net) pass(from, to string, end <-chan struct{}) Fault {
	for {
		f, _, _, changed := n.between(from, to)
		if f != Hole {
			return f
		}
		select {
		case <-changed:
		case <-end:
			return Cut
		case <-n.over:
			return Cut
		}
	}
}

// A Relay stands before one process: whoever connects to Addr reaches it as the
// Net allows.
type Relay struct {
	Addr    string
	Swallow atomic.Bool // what the process says is dropped, and does not come later
	net     *Net
	to      string
	server  string
}

// StartRelay forwards connections to a server until the test ends; each
// direction takes delay longer.
func StartRelay(t testing.TB, to string, delay time.Duration) *Relay {
	t.Helper()
	n := NewNet(t)
	n.Away(nil, nil, delay, 0)
	return n.Relay("server", to)
}

// Relay is a way to the process of that name, which listens on server.
func (n *Net) Relay(name, server string) *Relay {
	n.t.Helper()
	l := Listen(n.t)
	n.t.Cleanup(func() { l.Close() })
	r := &Relay{Addr: l.Addr().String(), net: n, to: name, server: server}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go r.serve(c)
		}
	}()
	return r
}

// serve carries one connection.
func (r *Relay) serve(c net.Conn) {
	l := &link{from: r.net.whose(c), to: r.to, client: c, ended: make(chan struct{})}
	if !r.net.add(l) {
		l.close()
		return
	}
	defer r.net.remove(l)
	if f := r.net.pass(l.from, l.to, l.ended); f != whole {
		if f == Lost { // a machine that is not there says nothing, also not that
			<-l.ended
		}
		l.close()
		return
	}
	s, err := net.DialTimeout("tcp", r.server, 5*time.Second)
	if err != nil || !l.reached(s) {
		l.close()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.carry(l, l.to, l.from, s, c, &r.Swallow)
	}()
	r.carry(l, l.from, l.to, c, s, nil)
	<-done
}

func (n *Net) add(l *link) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.over:
		return false
	default:
	}
	n.links[l] = struct{}{}
	return true
}

func (n *Net) remove(l *link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.links, l)
}

// A link is one connection, from a party to another.
type link struct {
	from, to string
	client   net.Conn
	ended    chan struct{}

	mu     sync.Mutex // guards all below
	server net.Conn
	closed bool
}

// reached notes the connection to the server; false: the link has ended.
func (l *link) reached(s net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		s.Close()
		return false
	}
	l.server = s
	return true
}

// close resets both ends.
func (l *link) close() { l.end(true) }

// hangUp closes both ends in good order.
func (l *link) hangUp() { l.end(false) }

func (l *link) end(reset bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	close(l.ended)
	for _, c := range []net.Conn{l.client, l.server} {
		if c == nil {
			continue
		}
		if tcp, ok := c.(*net.TCPConn); ok && reset {
			tcp.SetLinger(0)
		}
		c.Close()
	}
}

// parcel is what was read at once, and when; no octets: the speaker has hung up.
type parcel struct {
	b  []byte
	at time.Time
}

// carry takes what in says to out, as late and as slowly as the two are apart.
func (r *Relay) carry(l *link, from, to string, in, out net.Conn, swallow *atomic.Bool) {
	way := make(chan parcel, wayMax)
	go func() {
		defer close(way)
		for {
			b := make([]byte, parcelMax)
			n, err := in.Read(b)
			if err != nil {
				way <- parcel{nil, time.Now()}
				return
			}
			if swallow == nil || !swallow.Load() {
				way <- parcel{b[:n], time.Now()}
			}
		}
	}()
	for p := range way {
		if !r.deliver(l, from, to, out, p) {
			break
		}
	}
	for range way { // nobody carries it any more
	}
}

// deliver brings one parcel; false: the link has ended.
func (r *Relay) deliver(l *link, from, to string, out net.Conn, p parcel) bool {
	_, delay, rate, _ := r.net.between(from, to)
	l.pause(time.Until(p.at.Add(delay)))
	switch r.net.pass(from, to, l.ended) {
	case Lost:
		return true // dropped, and the reset comes when the machine is back
	case Cut:
		l.close()
		return false
	case Hole, Slow, whole:
	}
	if p.b == nil {
		l.hangUp()
		return false
	}
	for b := p.b; len(b) > 0; {
		n := len(b)
		if rate > 0 {
			n = min(n, max(rate*int(sliceTime/time.Millisecond)/1000, 1))
		}
		if _, err := out.Write(b[:n]); err != nil {
			l.close()
			return false
		}
		if b = b[n:]; rate > 0 {
			l.pause(sliceTime)
		}
	}
	return true
}

// pause waits, unless the link ends.
func (l *link) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-l.ended:
	}
}

// whose is the name of the process that a connection comes from; empty: it is
// nobody's who has joined.
func (n *Net) whose(c net.Conn) string {
	n.mu.Lock()
	parties := slices.Clone(n.parties)
	n.mu.Unlock()
	if len(parties) == 0 {
		return ""
	}
	inode, err := inodeOf(c.RemoteAddr(), c.LocalAddr())
	if err != nil { // whoever it was has hung up
		return ""
	}
	socket := fmt.Sprintf("socket:[%d]", inode)
	for _, p := range parties {
		dir := fmt.Sprintf("/proc/%d/fd", p.pid())
		list, _ := os.ReadDir(dir) // a process that is gone has none
		for _, fd := range list {
			if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && to == socket {
				return p.name
			}
		}
	}
	return ""
}

// inodeOf asks the kernel for the socket that is bound to here and connected to
// there, both on this machine. (sock_diag(7))
//
//	nlmsghdr: 0 length 32 | 4 type 16 | 6 flags 16 | 8 sequence 32 | 12 port 32
//	request:  16 family 8 | 17 protocol 8 | 20 states 32 | 24 ports 2 × 16 | 28 here 128 | 44 there 128 | 64 cookie 64
//	answer:   16 family 8 | … | 84 inode 32
func inodeOf(here, there net.Addr) (uint32, error) {
	h, ok := here.(*net.TCPAddr)
	t, also := there.(*net.TCPAddr)
	if !ok || !also || h.IP.To4() == nil || t.IP.To4() == nil {
		return 0, errors.New("it is no IPv4 connection")
	}
	const byFamily, sockDiag = 20, 4
	var b [72]byte
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], byFamily)
	binary.NativeEndian.PutUint16(b[6:], syscall.NLM_F_REQUEST)
	b[16], b[17] = syscall.AF_INET, syscall.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[20:], 1<<32-1)
	binary.BigEndian.PutUint16(b[24:], uint16(h.Port))
	binary.BigEndian.PutUint16(b[26:], uint16(t.Port))
	copy(b[28:], h.IP.To4())
	copy(b[44:], t.IP.To4())
	binary.NativeEndian.PutUint64(b[64:], 1<<64-1)
	s, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, sockDiag)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(s)
	if err := syscall.Sendto(s, b[:], 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return 0, err
	}
	var answer [512]byte
	n, _, err := syscall.Recvfrom(s, answer[:], 0)
	if err != nil || n < 88 || binary.NativeEndian.Uint16(answer[4:]) != byFamily {
		return 0, errors.Join(err, errors.New("no such socket"))
	}
	return binary.NativeEndian.Uint32(answer[84:]), nil
}
