// Package ctf plays gateways (Charging Trigger Functions, TS 32.299): it opens
// sessions against one or more servers, reports usage, resends what was lost,
// and keeps its own books of what was acknowledged. It shares the wire formats
// with the server and does not know anything else of it: no figure of its books
// comes from there.
package ctf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"rtm/diameter/peer"
)

// Config says what is played.
type Config struct {
	Targets     []string // addresses of instances
	Host, Realm string   // Origin-Host and -Realm of the gateway
	Destination string   // Destination-Realm; empty: Realm
	IMSIs       []string // subscribers, used one after the other
	Sessions    int
	First       int           // sessions before the first one, which other runs play: 10 begins with the eleventh
	Sent        int           // messages that other runs have sent of each session: it is open, and is gone on with
	Leave       bool          // a session is left open after its updates, for another run to go on with
	Updates     int           // CCR-U per session
	Groups      int           // rating groups per session
	Mix         bool          // sessions are of data, with one to five rating groups, of calls, and single messages, some of which are refunded
	Group       uint32        // the first of them; zero: 1
	Parallel    int           // sessions at once
	Rate        float64       // sessions begun per second; zero: as fast as they end
	Hold        time.Duration // between an answer and the next message
	Hop         bool          // each message to another target
	Dup         bool          // each message twice, to two targets
	Drop        float64       // share of answers that are taken for lost
	Abandon     int           // every n-th session is left without a word; zero: none
	Watched     int           // CCR-U of the first session, if it is to go on for longer
	Length      time.Duration // after that every session ends with its next message; zero: no matter how long it takes
	Patient     bool          // begin as soon as one target is there
	Tx          time.Duration // resend after that
	Resends     int           // then a message is given up
	Again       time.Duration // a message that was answered 3004 goes out again after that; zero: its session has failed
	Yield       bool          // every other session waits four times as long, and takes a 3004 to a message that it sent once for what it says
	Octets      int64         // used per message and group, at most
	Trace       io.Writer     // hex dump of every message, for text2pcap; nil: none
	Seed        uint64

	Stop <-chan struct{} // closed: every session ends with its next message; nil: never
}

func (c *Config) defaults() error {
	if len(c.Targets) == 0 || len(c.IMSIs) == 0 {
		return errors.New("a simulation needs at least one target and one subscriber")
	}
	if c.Sessions < 1 || c.Updates < 0 || c.Groups < 1 || c.Groups > 16 || c.First < 0 || c.Sent < 0 {
		return errors.New("sessions must be at least 1, groups 1 to 16, updates, first and sent at least 0")
	}
	c.Parallel = min(max(c.Parallel, 1), c.Sessions)
	c.Group = max(c.Group, 1)
	if c.Tx == 0 {
		c.Tx = 5 * time.Second
	}
	if c.Resends == 0 {
		c.Resends = 12
	}
	if c.Octets == 0 {
		c.Octets = 1_000_000
	}
	if c.Destination == "" {
		c.Destination = c.Realm
	}
	return nil
}

// kinds of messages, by CC-Request-Type.
const (
	kindInitial     = 1
	kindUpdate      = 2
	kindTermination = 3
	kindEvent       = 4
)

// KindNames are the kinds by CC-Request-Type.
var KindNames = [...]string{"", "INITIAL_REQUEST", "UPDATE_REQUEST", "TERMINATION_REQUEST", "EVENT_REQUEST"}

// Counts is what happened.
type Counts struct {
	Started, Ended, Abandoned atomic.Int64
	Left                      atomic.Int64 // sessions that another run may go on with
	Events                    atomic.Int64 // of those that ended: they were no sessions, but single messages
	Sent, Resent, Answered    atomic.Int64
	Duplicates                atomic.Int64 // second answers that were compared
	Different                 atomic.Int64 // … and were not the same
	Dropped                   atomic.Int64
	Failed                    atomic.Int64 // answers that are not 2001
	Busy                      atomic.Int64 // answers 3004 after which a message went out again
	Yielded                   atomic.Int64 // messages that were answered 3004, and are taken for not done
	GivenUp                   atomic.Int64
	Closed                    atomic.Int64 // connections lost
	ReAuths, Aborts           atomic.Int64
}

// A Sim is one run.
type Sim struct {
	Counts  Counts
	config  Config
	node    *peer.Node
	links   []*link
	ends    time.Time    // when Length is over; zero: never
	next    atomic.Int64 // target of the next message
	begun   atomic.Int64
	left    atomic.Int64
	done    chan struct{}
	end     sync.Once
	results sync.Map          // Result-Code → *atomic.Int64
	Matrix  [][5]atomic.Int64 // answered, by target and CC-Request-Type

	mu       sync.Mutex // guards all below
	books    map[string]*Book
	reports  map[string][]Report
	sessions map[string]*session // those that are open
	latency  []time.Duration
	slowest  time.Duration
	acked    time.Time // when a message was last acknowledged
	gap      time.Duration
	rng      *rand.Rand
	trace    sync.Mutex
	firstBad string
}

// A Book is what one subscriber's gateways reported and were told.
type Book struct {
	Units     int64 // in acknowledged reports: octets, seconds of calls, messages
	Refunded  int64 // of these, acknowledged too
	Uncertain int64 // in reports that were given up
	Doubtful  int64 // in refunds that were given up
}

// A Report is what one message of a session said was used, or is to be refunded.
type Report struct {
	Number       uint32 // CC-Request-Number
	Units        int64  // in all rating groups
	Acknowledged bool   // else nobody knows whether it took effect
}

// link is a target and the connection to it.
type link struct {
	index int
	addr  string
	conn  atomic.Pointer[peer.Conn]
	dial  chan struct{}
}

// New prepares a run.
func New(c Config) (*Sim, error) {
	if err := c.defaults(); err != nil {
		return nil, err
	}
	s := &Sim{
		config: c, done: make(chan struct{}), books: make(map[string]*Book), reports: make(map[string][]Report), sessions: make(map[string]*session),
		Matrix: make([][5]atomic.Int64, len(c.Targets)), rng: rand.New(rand.NewPCG(c.Seed, 1)),
	}
	node, err := peer.New(peer.Config{
		PeerHost: c.Host, Realm: c.Realm, Product: "rtm sim", PerPeer: 1000, InFlight: 1 << 16, InFlightAll: 1 << 20, OwedMax: 1 << 20, WriteMax: 16 << 20,
	}, s)
	s.node = node
	for i, t := range c.Targets {
		s.links = append(s.links, &link{index: i, addr: t, dial: make(chan struct{}, 1)})
	}
	return s, err
}

// Run plays until every session has ended, or ctx does.
func (s *Sim) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.node.Close()
	defer cancel()
	for _, l := range s.links {
		wg.Go(func() { s.keep(ctx, l) })
	}
	if err := s.connected(ctx); err != nil {
		return err
	}
	wg.Go(func() { s.watch(ctx) })
	if s.config.Length > 0 {
		s.ends = time.Now().Add(s.config.Length)
	}
	s.left.Store(int64(s.config.Sessions))
	if s.config.Rate > 0 {
		wg.Go(func() { s.pace(ctx) })
	} else {
		for range s.config.Parallel {
			s.begin()
		}
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keep holds a connection to one target.
func (s *Sim) keep(ctx context.Context, l *link) {
	for ctx.Err() == nil {
		if l.conn.Load() == nil {
			dial, cancel := context.WithTimeout(ctx, 2*time.Second)
			if c, err := s.node.Dial(dial, l.addr); err == nil {
				l.conn.Store(c)
			}
			cancel()
		}
		select {
		case <-ctx.Done():
		case <-l.dial:
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// connected waits for the first connections.
func (s *Sim) connected(ctx context.Context) error {
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		n := 0
		for _, l := range s.links {
			if l.conn.Load() != nil {
				n++
			}
		}
		if n == len(s.links) || s.config.Patient && n > 0 {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return fmt.Errorf("no Diameter connection to all of %v within 10 s: is the server running, does it know this peer (%s), and is no other connected under its name?", s.config.Targets, s.config.Host)
}

// pace begins sessions at the rate that was asked for.
func (s *Sim) pace(ctx context.Context) {
	start := time.Now()
	for n := 0; n < s.config.Sessions; {
		if s.over() { // the last session may have ended before that
			if s.OpenCount() == 0 {
				s.end.Do(func() { close(s.done) })
			}
			return
		}
		due := min(int(time.Since(start).Seconds()*s.config.Rate)+1, s.config.Sessions)
		for ; n < due; n++ {
			s.begin()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// begin opens the next session, if one is left.
func (s *Sim) begin() {
	n := s.begun.Add(1)
	if n > int64(s.config.Sessions) {
		return
	}
	n += int64(s.config.First)
	c := &session{
		sim: s, id: s.id(n), updates: s.config.Updates, imsi: s.config.IMSIs[int(n)%len(s.config.IMSIs)],
		random: rand.New(rand.NewPCG(s.config.Seed, uint64(n))), groups: s.config.Groups,
	}
	if s.config.Mix {
		c.mix()
	}
	c.granted, c.usage = make([]int64, c.groups), make([]int64, c.groups)
	if n == int64(s.config.First)+1 {
		c.updates = max(c.updates, s.config.Watched)
	}
	c.yields = s.config.Yield && n%2 == 0
	c.abandon = s.config.Abandon > 0 && n%int64(s.config.Abandon) == 0
	s.mu.Lock()
	s.sessions[c.id] = c
	s.mu.Unlock()
	s.Counts.Started.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.single():
		c.send(kindEvent)
	case s.config.Sent == 0:
		c.send(kindInitial)
	default:
		c.resume()
	}
}

// over reports whether the time that was asked for is over, or Run was told to stop.
func (s *Sim) over() bool {
	select {
	case <-s.config.Stop:
		return true
	default:
		return !s.ends.IsZero() && time.Now().After(s.ends)
	}
}

func (s *Sim) id(n int64) string { return fmt.Sprintf("%s;%d;%d", s.config.Host, s.config.Seed, n) }

// Watched is the Session-Id of the first session.
func (s *Sim) Watched() string { return s.id(int64(s.config.First) + 1) }

// ended counts a session that is over, and begins another in its place.
func (s *Sim) ended(c *session) {
	s.mu.Lock()
	delete(s.sessions, c.id)
	s.mu.Unlock()
	switch left := s.left.Add(-1); {
	case left == 0, s.over() && s.OpenCount() == 0:
		s.end.Do(func() { close(s.done) })
	case s.config.Rate == 0 && !s.over():
		s.begin()
	}
}

// pick is a connected target; not is one to avoid if there is another.
func (s *Sim) pick(prefer int, not int) *link {
	for i := range s.links {
		l := s.links[(prefer+i)%len(s.links)]
		if l.index != not && l.conn.Load() != nil {
			return l
		}
	}
	if not >= 0 && not < len(s.links) && s.links[not].conn.Load() != nil {
		return s.links[not]
	}
	return nil
}

// watch resends what was not answered in time.
func (s *Sim) watch(ctx context.Context) {
	t := time.NewTicker(min(s.config.Tx/4, 50*time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		s.mu.Lock()
		open := make([]*session, 0, len(s.sessions))
		for _, c := range s.sessions {
			open = append(open, c)
		}
		s.mu.Unlock()
		now := time.Now()
		for _, c := range open {
			c.mu.Lock()
			if c.waiting && now.Sub(c.sent) >= c.pause {
				c.resend()
			}
			c.mu.Unlock()
		}
	}
}

// book notes the report, or refund, of the message that c has in hand.
func (s *Sim) book(c *session, acknowledged bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.books[c.imsi]
	if b == nil {
		b = &Book{}
		s.books[c.imsi] = b
	}
	units := sumOf(c.usage)
	switch {
	case acknowledged && c.refunding:
		b.Refunded += units
	case acknowledged:
		b.Units += units
	case c.refunding:
		b.Doubtful += units
	default:
		b.Uncertain += units
	}
	s.reports[c.id] = append(s.reports[c.id], Report{Number: c.number, Units: units, Acknowledged: acknowledged})
}

// Reports are what was reported in each session, in the order in which it was answered
// or given up, by Session-Id.
func (s *Sim) Reports() map[string][]Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string][]Report, len(s.reports))
	for id, list := range s.reports {
		out[id] = slices.Clone(list)
	}
	return out
}

// Books are what each subscriber's gateways reported, by IMSI.
func (s *Sim) Books() map[string]Book {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]Book, len(s.books))
	for k, b := range s.books {
		out[k] = *b
	}
	return out
}

// Results counts the answers by Result-Code.
func (s *Sim) Results() map[uint32]int64 {
	out := make(map[uint32]int64)
	s.results.Range(func(k, v any) bool {
		out[k.(uint32)] = v.(*atomic.Int64).Load()
		return true
	})
	return out
}

func (s *Sim) result(r uint32) {
	v, ok := s.results.Load(r)
	if !ok {
		v, _ = s.results.LoadOrStore(r, &atomic.Int64{})
	}
	v.(*atomic.Int64).Add(1)
}

// Latencies are the times from sending to the first answer, of the last 100,000
// messages.
func (s *Sim) Latencies() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Duration(nil), s.latency...)
}

const latencyMax = 100_000

// Slowest is the longest of all of them.
func (s *Sim) Slowest() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slowest
}

func (s *Sim) took(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slowest = max(s.slowest, d)
	if len(s.latency) < latencyMax {
		s.latency = append(s.latency, d)
		return
	}
	s.latency[s.rng.IntN(latencyMax)] = d
}

// Gap is the longest time in which nothing was acknowledged, after the first
// message that was.
func (s *Sim) Gap() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gap
}

// acknowledged notes that a message was, now.
func (s *Sim) acknowledged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !s.acked.IsZero() {
		s.gap = max(s.gap, now.Sub(s.acked))
	}
	s.acked = now
}

// FirstFailure describes the first answer that was not as it should be; empty:
// there was none.
func (s *Sim) FirstFailure() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.firstBad
}

func (s *Sim) bad(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.firstBad == "" {
		s.firstBad = fmt.Sprintf(format, args...)
	}
}

// dump writes a message as text2pcap reads it.
func (s *Sim) dump(frame []byte) {
	if s.config.Trace == nil {
		return
	}
	s.trace.Lock()
	defer s.trace.Unlock()
	fmt.Fprintf(s.config.Trace, "%s\n", time.Now().Format("2006-01-02 15:04:05.000000"))
	for i := 0; i < len(frame); i += 16 {
		fmt.Fprintf(s.config.Trace, "%06x % x\n", i, frame[i:min(i+16, len(frame))])
	}
	fmt.Fprintln(s.config.Trace)
}
