// Package front is a relay in front of the instances of a cluster (RFC 6733 §2.8.1),
// for gateways that hold one connection: towards them it is the cluster. It gives each
// message to any instance, and to another one when that dies or stays silent; what
// instances want of a gateway it passes on. It remembers nothing but what is under way,
// and does not know what a credit-control request says.
package front

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"rtm/diameter"
	"rtm/diameter/peer"
)

// Bounds of what is under way.
const (
	triesMax  = 3     // instances that have one message in hand
	sendsMax  = 4     // connections that are tried for it at once
	routesMax = 65536 // clients behind gateways and relays whose connection is remembered
)

// Config says who a front is, and whom it lets in.
type Config struct {
	Gates peer.Config // towards gateways: the cluster's identity
	Cores peer.Config // towards instances: this front's own
	// Admit decides on a gateway's CER, as peer.Handler does.
	Admit func(c peer.Capabilities) (client any, refuse diameter.Result)
	// Take looks at a request before it is passed on; false: it has answered it.
	Take     func(r *peer.Request) bool
	Patience time.Duration // an instance that is silent for so long is passed by; 1.5 s
	Hold     time.Duration // a message waits that long for an instance to be there; 3 s
	GiveUp   time.Duration // … and for its answer: then its gateway sends it again; 8 s
	Log      *slog.Logger
}

// An Instance is where messages can go.
type Instance struct {
	Name    string
	Addr    string // host:port
	Leaving bool   // it is given nothing new while there are others
}

// Counts is what a front did.
type Counts struct {
	Passed  atomic.Int64 // requests of gateways that were given to an instance
	Resent  atomic.Int64 // … given to a further one
	Late    atomic.Int64 // answers that came when another instance had answered
	Dropped atomic.Int64 // requests that no instance has answered
	Refused atomic.Int64 // requests that were answered here
	Prompts atomic.Int64 // RARs and ASRs passed on
	Strays  atomic.Int64 // RARs and ASRs for whom nobody is connected here
}

// A Front is one relay.
type Front struct {
	Counts Counts
	config Config
	gates  *peer.Node
	cores  *peer.Node
	ctx    context.Context // ends when the front leaves
	end    context.CancelFunc
	dials  sync.WaitGroup

	mu     sync.Mutex // guards all below
	links  []*link
	turn   int
	held   []*trip // that wait for an instance
	routes map[string]*peer.Conn
}

// A link is an instance, and the connection to it.
type link struct {
	Instance
	conn    *peer.Conn // nil: there is none
	dialing bool
	wanted  bool      // it is among the instances
	silent  time.Time // when a message had waited there too long; what is heard after that counts
	legs    map[*leg]bool
	over    int // of these, those whose trips are over
}

// A trip is a request of a gateway on its way.
type trip struct {
	request *peer.Request
	tried   []*link
	resend  bool // somebody may have got it
	done    bool
	legs    int    // that are not answered
	busy    []byte // the answer of an instance that did nothing: another one may do better
	limit   *time.Timer
	holds   int    // how often it had to wait for an instance
	on      []*leg // all of its legs
}

// A leg is a trip's way over one link.
type leg struct {
	trip  *trip
	link  *link
	timer *time.Timer
}

// New returns a front that knows no instances.
func New(c Config) (f *Front, err error) {
	span := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	span(&c.Patience, 1500*time.Millisecond)
	span(&c.Hold, 3*time.Second)
	span(&c.GiveUp, 8*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	f = &Front{config: c, routes: make(map[string]*peer.Conn)}
	f.ctx, f.end = context.WithCancel(context.Background())
	if f.gates, err = peer.New(c.Gates, gates{f}); err != nil {
		return nil, err
	}
	f.cores, err = peer.New(c.Cores, cores{f})
	return f, err
}

// Serve accepts gateways on l until Leave or Close.
func (f *Front) Serve(l net.Listener) { f.gates.Serve(l) }

// ServeTLS is Serve for connections that begin with TLS.
func (f *Front) ServeTLS(l net.Listener, secure *tls.Config) { f.gates.ServeTLS(l, secure) }

// Gates is the node that gateways are connected to.
func (f *Front) Gates() *peer.Node { return f.gates }

// Links are the instances, by name, and how many messages each has in hand; −1: there
// is no connection.
func (f *Front) Links() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make(map[string]int)
	for _, l := range f.links {
		if all[l.Name] = -1; l.conn != nil {
			all[l.Name] = l.load()
		}
	}
	return all
}

// Leave ends in good order: DPR to all gateways, what is in hand is answered, then
// the instances hear a DPR. It takes most at the longest.
func (f *Front) Leave(most time.Duration) {
	end := time.Now().Add(most)
	f.gates.Leave(most)
	f.end()
	f.cores.Leave(max(time.Until(end), time.Second))
	f.dials.Wait()
}

// Close ends at once, without a word.
func (f *Front) Close() {
	f.end()
	f.gates.Close()
	f.cores.Close()
	f.dials.Wait()
}

// Meet tells the front which instances there are now. To those that are new it
// connects, also again after a connection was lost; one that is not there any more
// keeps its connection while that stands.
func (f *Front) Meet(list []Instance) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.links {
		l.wanted = false
	}
	for _, i := range list {
		n := slices.IndexFunc(f.links, func(l *link) bool { return l.Addr == i.Addr })
		if n < 0 {
			n, f.links = len(f.links), append(f.links, &link{legs: make(map[*leg]bool)})
		}
		l := f.links[n]
		l.Instance, l.wanted = i, true
		if l.conn == nil && !l.dialing && f.ctx.Err() == nil {
			l.dialing = true
			f.dials.Go(func() { f.dial(l, i) })
		}
	}
	f.links = slices.DeleteFunc(f.links, func(l *link) bool { return !l.wanted && l.conn == nil && !l.dialing })
}

// dial connects to an instance once. Meet tries again.
func (f *Front) dial(l *link, i Instance) {
	ctx, cancel := context.WithTimeout(f.ctx, 2*time.Second)
	defer cancel()
	conn, err := f.cores.Dial(ctx, i.Addr)
	f.mu.Lock()
	defer f.mu.Unlock()
	l.dialing = false
	if err != nil {
		f.config.Log.Warn("no connection to an instance", "instance", i.Name, "address", i.Addr, "error", err)
		return
	}
	if !slices.Contains(f.cores.Conns(), conn) { // it is closed again
		return
	}
	l.conn, l.silent = conn, time.Time{}
	f.config.Log.Info("connected to an instance", "instance", i.Name, "address", i.Addr)
	held := f.held
	f.held = nil
	for _, other := range f.links { // what waits where nothing is heard goes to who has come
		if other != l && other.conn != nil && other.lost() {
			for g := range other.legs {
				f.send(g.trip)
			}
		}
	}
	for _, t := range held {
		f.send(t)
	}
}

// load is how many messages that are not answered yet have a leg over l.
func (l *link) load() int { return len(l.legs) - l.over }

// pick is the link that t goes over next, the one with the least in hand: one that t was
// not given to, that has not fallen silent, and that stays; if there is none, one that
// lacks some of it. nil: there is none that it could be given to.
func (f *Front) pick(t *trip) *link {
	for _, fits := range [...]func(l *link) bool{
		func(l *link) bool { return !t.was(l) && !l.lost() && !l.Leaving && l.wanted },
		func(l *link) bool { return !t.was(l) && !l.lost() },
		func(l *link) bool { return !t.was(l) },
		func(l *link) bool { return !l.waits(t) },
	} {
		var best *link
		f.turn++ // those with equally much take turns
		for n := range f.links {
			l := f.links[(n+f.turn)%len(f.links)]
			if l.conn != nil && !l.conn.Leaving() && fits(l) && (best == nil || l.load() < best.load()) {
				best = l
			}
		}
		if best != nil {
			return best
		}
	}
	return nil
}

// was reports whether t was given to l.
func (t *trip) was(l *link) bool { return slices.Contains(t.tried, l) }

// waits reports whether t is under way over l.
func (l *link) waits(t *trip) bool {
	for g := range l.legs {
		if g.trip == t {
			return true
		}
	}
	return false
}

// lost reports whether nothing was heard over l since a message waited there too long, or
// a watchdog was sent.
func (l *link) lost() bool {
	return l.conn.Suspect() || !l.silent.IsZero() && l.conn.Heard().Before(l.silent)
}

// send gives t to an instance, or has it wait for one. f.mu is held.
func (f *Front) send(t *trip) {
	if t.done || t.legs >= triesMax {
		return
	}
	for range sendsMax {
		l := f.pick(t)
		if l == nil {
			break
		}
		g := &leg{trip: t, link: l}
		flags := uint8(0)
		if t.resend {
			flags = diameter.FlagRetransmit
		}
		m, from := &t.request.Message, t.request.Conn.Host
		if !l.conn.Send(g, func(hop, _ uint32) []byte { return forwarded(m, flags, hop, from) }) {
			f.unlink(l)
			continue
		}
		if len(t.tried) > 0 {
			f.Counts.Resent.Add(1)
		} else {
			f.Counts.Passed.Add(1)
		}
		t.tried, t.resend = append(t.tried, l), true
		t.legs++
		t.on = append(t.on, g)
		l.legs[g] = true
		g.timer = time.AfterFunc(f.config.Patience, func() { f.overdue(g) })
		return
	}
	if t.legs == 0 && !slices.Contains(f.held, t) {
		f.held = append(f.held, t)
		t.holds++
		hold := t.holds
		time.AfterFunc(f.config.Hold, func() { f.starve(t, hold) })
	}
}

// starve ends a trip that has found no instance for so long, in that hold of it.
func (f *Front) starve(t *trip, hold int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.holds == hold && slices.Contains(f.held, t) {
		f.giveUp(t)
	}
}

// unlink takes a connection away that is closed, or full. f.mu is held.
func (f *Front) unlink(l *link) {
	if !slices.Contains(f.cores.Conns(), l.conn) {
		l.conn = nil
		return
	}
	l.silent = time.Now()
}

// overdue has all that waits at an instance go to another one: it has not answered
// this message for so long. Its answers still count, if they come first.
func (f *Front) overdue(g *leg) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := g.link
	if !l.legs[g] {
		return
	}
	l.silent = time.Now()
	if l.conn != nil && l.conn.Heard().After(l.silent.Add(-f.config.Patience/2)) { // it answers others
		f.send(g.trip)
		return
	}
	for other := range l.legs {
		f.send(other.trip)
	}
}

// release takes a leg off. f.mu is held.
func (f *Front) release(g *leg) {
	if g.link.legs[g] {
		delete(g.link.legs, g)
		g.timer.Stop()
		if g.trip.legs--; g.trip.done {
			g.link.over--
		}
	}
}

// finish answers the gateway, or lets it send again. f.mu is held.
func (f *Front) finish(t *trip, answer []byte) {
	t.done = true
	t.limit.Stop()
	for _, g := range t.on {
		if g.link.legs[g] {
			g.link.over++
		}
	}
	f.held = slices.DeleteFunc(f.held, func(o *trip) bool { return o == t })
	if answer == nil {
		f.Counts.Dropped.Add(1)
		t.request.Drop()
		return
	}
	t.request.Answer(answer)
}

// refuse answers the gateway that nothing was done, if it bears that.
func (f *Front) refuse(t *trip, answer []byte) {
	if p, ok := t.request.Conn.Peer.(interface {
		Silent(m *diameter.Message) bool
	}); ok && p.Silent(&t.request.Message) {
		answer = nil
	}
	f.finish(t, answer)
}

// expire ends a trip that nobody has answered in time.
func (f *Front) expire(t *trip) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.giveUp(t)
}

// giveUp ends a trip that nobody has answered. While there is no instance that is said;
// else nobody knows what has become of it. f.mu is held.
func (f *Front) giveUp(t *trip) {
	switch {
	case t.done:
	case t.busy != nil:
		f.refuse(t, t.busy)
	case !t.resend:
		f.refuse(t, f.refusal(&t.request.Message, diameter.UnableToDeliver))
	default:
		f.finish(t, nil)
	}
}

// refusal is a protocol error in answer to a request.
func (f *Front) refusal(m *diameter.Message, r diameter.Result) []byte {
	var e diameter.Encoder
	e.Reset(nil)
	e.Refusal(m, r, f.config.Gates.PeerHost, f.config.Gates.Realm)
	return e.Bytes()
}

// unfit is why a request cannot be passed on, with what a relay adds to it: an instance
// takes no message that is longer, or has more AVPs; zero: it can.
func unfit(m *diameter.Message, from string) diameter.Result {
	l := diameter.DefaultLimits
	switch l.AVPs--; {
	case diameter.HeaderLength+len(m.Body)+12+len(from) > diameter.MessageMax:
		return diameter.UnableToComply
	case len(m.Body) >= 8*l.AVPs: // it may have so many
		if err := m.Check(l); err != nil {
			return err.Result
		}
	}
	return 0
}

// forwarded is a request as a relay passes it on: its own Hop-by-Hop identifier, and
// who it came from (RFC 6733 §6.1.9).
func forwarded(m *diameter.Message, flags uint8, hop uint32, from string) []byte {
	var e diameter.Encoder
	e.Reset(make([]byte, 0, diameter.HeaderLength+len(m.Body)+12+len(from)))
	e.Request(m.Command, m.Application, m.Flags|flags, hop, m.EndToEnd)
	e.Raw(m.Body)
	e.String(diameter.RouteRecord, from)
	return e.Bytes()
}

// returned is an answer as a relay passes it back.
func returned(m *diameter.Message, hop uint32) []byte {
	var e diameter.Encoder
	e.Reset(make([]byte, 0, diameter.HeaderLength+len(m.Body)))
	h := m.Header
	h.HopByHop = hop
	e.Answer(&h, m.Flags)
	e.Raw(m.Body)
	return e.Bytes()
}

// result is the Result-Code of an answer; zero: it has none.
func result(m *diameter.Message) diameter.Result {
	a, ok := diameter.Find(m.Body, diameter.ResultCode)
	if !ok {
		return 0
	}
	v, _ := a.Uint32()
	return diameter.Result(v)
}

// looped reports whether a request was here before.
func (f *Front) looped(m *diameter.Message) bool {
	for b := m.Body; len(b) > 0; {
		a, rest, err := diameter.Next(b)
		if err != nil {
			return false
		}
		b = rest
		if a.Attr == diameter.RouteRecord && (fold(a.Data, f.config.Cores.PeerHost) || fold(a.Data, f.config.Gates.PeerHost)) {
			return true
		}
	}
	return false
}
