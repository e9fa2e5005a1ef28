package rtmtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/rating"
	"rtm/store"
	"rtm/tenant"
)

const (
	forgotten  = 40 * time.Second // nothing is under way that long
	txTimer    = 4 * time.Second  // a gateway resends after that
	resendsMax = 40
	echoMax    = 500 * time.Millisecond
	repeatMax  = 15 * time.Second // a message that was answered comes again that late at most
	recovery   = 15 * time.Second // after the last fault, elections and leases included
	answerMax  = 7 * time.Second  // after that no answer leaves to an initial request or an update
)

// A gateway opens one session after the other, reports what was used, and
// keeps its own books. It serves some tenants.
type gateway struct {
	m        *Sim
	rng      *rand.Rand // its own: what others do does not change what it does
	host     string
	tenants  []string
	sessions int
	links    uint8 // which instances it is connected to, as bits
	reuses   bool  // it names a session like an earlier one, now and then: it has restarted
	bears    charging.Client
	apns     bool // its sessions name their APN
}

// A session is one as its gateway knows it.
type session struct {
	g        *gateway
	name     string
	sub      uint64
	account  *simAccount // whose identity it was when it was opened, as far as anybody knew
	at       store.Key   // the account that has opened it, as a commit says
	who      *simIdentity
	key      store.Key // of its entry in the session index
	services bool      // it names a Service-Identifier beside a rating group
	plain    bool      // its units are at message level, without a rating group
	named    bool      // every message names the subscriber
	indexed  bool
	rival    *message // that opened the session before it of that name, if there was one
	life     uint64   // how many sessions of that name there were before
	dead     bool     // its gateway has restarted, and knows nothing of it
	number   uint32
	granted  [5]int64     // by rating group
	change   [5]time.Time // of its tariff
	final    [5]bool      // these were the last units, and where to go when they are used
	messages []*message
	flying   int
	opened   bool
	ending   bool          // a T was sent
	aborted  bool          // an ASR came, or an operator asked for one
	doomed   bool          // an ASR is to be sent, whoever wanted that
	surely   time.Duration // until then it is open, whatever happens
}

// A message is a request of a session, until it is answered.
type message struct {
	s        *session
	kind     charging.Kind
	action   charging.Action
	number   uint32
	asks     []charging.Ask
	first    time.Duration // when it was first sent
	tries    int
	last     time.Duration // when it was last sent
	flying   int           // copies on their way to instances
	other    *message      // it has that one's number, and other content
	calm     int           // … when faults were over
	copies   []*taken      // that instances took
	answer   *charging.Answer
	granting []grantBook     // what commits have granted it
	costs    []rating.Micros // … or debited or refunded
	granted  time.Duration   // when the first answer that it was carried out left an instance; zero: none yet
}

// A taken is a copy of a message in an instance.
type taken struct {
	*message
	at       time.Duration
	in       *instance
	from, to uint64      // versions that were drawn in the world when it came, and when it had left; zero: it did not
	out      rtm.Outcome // how it left; zero: not
	upset    bool        // deciding it may have panicked, on the record that was in hand
}

func newGateway(m *Sim, i int) *gateway {
	g := &gateway{m: m, host: fmt.Sprintf("gw%d.sim", i), rng: rand.New(rand.NewPCG(m.Seed, uint64(i)+1))}
	g.links, g.reuses = uint8(1+m.rng.IntN(15)), m.oneIn(2)
	g.bears = charging.Client{Deaf: m.oneIn(4), Splits: m.oneIn(2), Informed: m.oneIn(2)}
	if m.oneIn(3) {
		g.bears.Least = 1000
	}
	if m.oneIn(3) {
		g.bears.Validity = m.validity / 2 / time.Second * time.Second
	}
	g.apns = m.oneIn(3)
	for _, t := range m.tenants {
		if m.oneIn(2) {
			g.tenants = append(g.tenants, t.name)
		}
	}
	if len(g.tenants) == 0 {
		g.tenants = append(g.tenants, m.tenants[i%len(m.tenants)].name)
	}
	return g
}

func (g *gateway) oneIn(n int) bool { return g.rng.IntN(n) == 0 }

func (g *gateway) upTo(d time.Duration) time.Duration { return time.Duration(g.rng.Int64N(int64(d))) }

func (g *gateway) start() {
	for range 1 + g.rng.IntN(3) {
		g.m.after(g.upTo(5*time.Second), g.open)
	}
}

// open begins a session, or does one thing once.
func (g *gateway) open() {
	if g.m.calm || g.m.Sessions > 0 && len(g.m.sessions) >= g.m.Sessions {
		return
	}
	g.sessions++
	if g.oneIn(5) { // a connection comes or goes
		g.links ^= 1 << g.rng.IntN(4)
	}
	who := g.m.identities[g.rng.IntN(len(g.m.identities))]
	name, before := fmt.Sprintf("%s;%d", g.host, g.sessions), (*session)(nil)
	if g.reuses && !g.m.operator.moves && g.oneIn(3) { // with moves, the one that is forgotten may be found again
		if before = g.restart(); before != nil {
			if name = before.name; g.oneIn(2) {
				who = before.who
			}
		}
	}
	foreign := !g.serves(who.owner())
	s := &session{g: g, name: name, account: who.owner(), who: who, named: g.oneIn(2)}
	s.services, s.plain = g.oneIn(4), g.oneIn(8)
	s.indexed = !s.named || g.oneIn(2)
	if foreign && g.oneIn(2) {
		g.m.after(g.upTo(time.Second), g.open) // few gateways ask for what is not theirs
		return
	}
	if before != nil {
		before.dead, before.ending = true, true
		s.sub, s.life, s.aborted = before.sub, before.life+1, g.m.prompted(name)
		s.rival = before.messages[0]
	} else if g.oneIn(6) {
		s.sub = 1 + g.rng.Uint64N(2)
	}
	s.key = tenant.SessionKey("sim", s.name, s.sub)
	g.m.sessions = append(g.m.sessions, s)
	if before == nil && g.oneIn(5) {
		s.event()
		return
	}
	s.send(charging.Initial, s.someGroups())
	if s.sub == 1 && before == nil { // its sibling
		twin := *s
		twin.sub, twin.messages = 2, nil
		twin.key = tenant.SessionKey("sim", twin.name, 2)
		g.m.sessions = append(g.m.sessions, &twin)
		twin.number, twin.flying = 0, 0
		twin.send(charging.Initial, twin.someGroups())
	}
}

// echo lets the message that opened another subscriber's session of that name, which
// the gateway has forgotten, come once more, with one of this session now and then:
// networks have held messages for minutes.
func (s *session) echo() {
	m, first := s.g.m, s.rival
	if first == nil || m.mode != sharded || s.account == first.s.account || first.answer == nil || first.answer.Result != charging.Success || !s.g.oneIn(2) {
		return
	}
	m.after(s.g.upTo(echoMax), func() {
		if !s.dead {
			first.sendTo(m.instances[s.g.rng.IntN(len(m.instances))])
		}
	})
}

// home is the account that the session is in, as far as anybody knows.
func (s *session) home() store.Key {
	if s.at != (store.Key{}) {
		return s.at
	}
	return s.account.key
}

// restart is a session that the gateway has forgotten by now: nothing of it is on
// its way any more. nil: there is none.
func (g *gateway) restart() *session {
	for range min(4, len(g.m.sessions)) {
		s := g.m.sessions[g.rng.IntN(len(g.m.sessions))]
		if s.g == g && !s.dead && s.messages[0].kind != charging.Event && !slices.ContainsFunc(s.messages, (*message).underWay) {
			return s
		}
	}
	return nil
}

// underWay reports whether a copy of the message may still take effect.
func (m *message) underWay() bool {
	if m.s.g.m.now > m.last+forgotten {
		return false
	}
	return m.answer == nil || m.flying > 0 || slices.ContainsFunc(m.copies, func(t *taken) bool { return t.out != rtm.Answered && t.out != rtm.Busy })
}

func (s *session) someGroups() []uint32 {
	if s.plain {
		return []uint32{0}
	}
	return [][]uint32{{1, 2}, {1}, {2}, {1, 2}, {1, 4}}[s.g.rng.IntN(5)]
}

// send sends the session's next message about these rating groups.
func (s *session) send(kind charging.Kind, groups []uint32) {
	m := &message{s: s, kind: kind, number: s.number}
	s.number++
	s.flying++
	s.ending = s.ending || kind == charging.Termination
	for _, group := range groups {
		ask := charging.Ask{Group: group, Has: charging.HasGroup, Wants: kind != charging.Termination}
		if group == 0 {
			ask.Has = charging.AtMessage
		}
		if s.services && group == 2 && (kind == charging.Initial || !s.g.oneIn(4)) { // some reports leave it out
			ask.Service, ask.Has = 21, charging.HasGroup|charging.HasService
		}
		if kind != charging.Initial {
			ask.Reports = true
			ask.Used.Octets = s.usage(group)
			s.granted[group] = 0
			if s.final[group] && s.g.oneIn(2) { // they are used, and nothing can be asked for
				ask.Wants = false
			}
			s.split(&ask)
		}
		m.asks = append(m.asks, ask)
	}
	m.begin()
}

// split tells what was used after a tariff change from what was before.
func (s *session) split(ask *charging.Ask) {
	change := s.change[ask.Group]
	if change.IsZero() || !s.g.bears.Splits || s.g.oneIn(4) { // some do not, all the same
		return
	}
	ask.Split = true
	if s.g.m.now > change.Sub(epoch) {
		ask.After.Octets = s.g.rng.Int64N(ask.Used.Octets + 1)
	}
}

// usage is what was used of the last grant: some, all, or a little more.
func (s *session) usage(group uint32) int64 {
	n := s.granted[group]
	if s.g.oneIn(8) {
		return n + s.g.rng.Int64N(20_000)
	}
	return s.g.rng.Int64N(n + 1)
}

// event sends a one-time request.
func (s *session) event() {
	m := &message{s: s, kind: charging.Event, action: charging.Action(1 + s.g.rng.IntN(4))}
	s.number, s.flying, s.ending = 1, 1, true
	ask := charging.Ask{Group: 3, Has: charging.HasGroup, Wants: true}
	ask.Want.Events = 1 + s.g.rng.Int64N(3)
	if s.g.oneIn(3) {
		ask.Want = charging.Units{Money: rating.Micros(1 + s.g.rng.Int64N(50_000))}
	}
	m.asks = append(m.asks, ask)
	m.begin()
}

// begin sends the message for the first time.
func (m *message) begin() {
	s := m.s
	s.messages = append(s.messages, m)
	r := request{s.name, s.sub, m.number}
	s.g.m.sent[r] = append(s.g.m.sent[r], m)
	m.first = s.g.m.now
	m.send()
	s.echo()
}

// send sends the message to any instance, and again until it is answered.
func (m *message) send() {
	sim := m.s.g.m
	if m.answer != nil || m.s.dead {
		return
	}
	if m.tries++; m.tries > resendsMax || sim.quiet {
		return
	}
	if sim.calm && sim.now > sim.calmSince+recovery {
		m.calm++
	}
	m.sendTo(sim.instances[m.s.g.rng.IntN(len(sim.instances))])
	if m.s.g.oneIn(10) { // to two at once
		m.sendTo(sim.instances[m.s.g.rng.IntN(len(sim.instances))])
	}
	sim.after(txTimer, m.send)
}

func (m *message) sendTo(n *instance) {
	m.last = m.s.g.m.now
	m.flying += m.s.g.m.send(func() { n.arrive(m.inbound) })
}

// inbound is the request as the door makes it of the message.
func (m *message) inbound() *rtm.Inbound {
	s := m.s
	m.flying--
	copied := &taken{message: m, at: s.g.m.now}
	m.copies = append(m.copies, copied)
	if s.g.m.Trace != nil {
		s.g.m.tracef("%s;%d %s %d arrives", s.name, s.sub, m.kind, m.number)
	}
	in := &rtm.Inbound{
		Request: charging.Request{
			Kind: m.kind, Realm: []byte("sim"), Session: []byte(s.name), Sub: s.sub, Host: []byte(s.g.host),
			Number: m.number, Context: 32251, Asks: slices.Clone(m.asks), Content: m.content(), Indexed: s.indexed, Action: m.action,
			Client: s.g.bears,
		},
		Tenants: s.g.mayName(), Token: copied,
	}
	if s.g.apns {
		in.Request.Particulars.APN = []byte("internet")
	}
	if m.kind == charging.Initial || m.kind == charging.Event || s.named {
		in.Identities = []string{s.who.name}
	}
	if m.kind == charging.Event && m.action <= charging.RefundAccount {
		in.OnceDoor, in.OnceName = "gy", fmt.Sprintf("%s;%d;%d", s.name, s.sub, m.number)
	}
	return in
}

func (m *message) content() uint64 {
	h := (m.s.life*1_000_003+uint64(m.kind))*1_000_003 + uint64(m.number)
	for _, a := range m.asks {
		h = h*1_000_003 + uint64(a.Group)*31 + uint64(a.Used.Octets)
		h = h*1_000_003 + uint64(a.After.Octets)
	}
	return h | 1
}

// left takes what an instance made of a copy of the message.
func (m *taken) left(n *instance, in *rtm.Inbound, o rtm.Outcome) {
	switch o {
	case rtm.Answered:
		if m.kind <= charging.Update && m.s.g.m.now-m.at > answerMax {
			return // the door does not send it any more: there are gateways that abort on it
		}
		a := in.Answer
		a.Grants = slices.Clone(a.Grants)
		if sim := m.s.g.m; a.Result == charging.Success && m.granted == 0 {
			m.granted = sim.now
		}
		m.s.g.m.checkGrants(m.message, &a)
		before := m.granted == 0 || m.at < m.granted // it may have been decided first
		m.s.g.m.send(func() { m.answered(&a, before) })
	case rtm.Busy, rtm.Silent, rtm.Forward, rtm.Onward, rtm.NeedPlan, rtm.Above: // the gateway sends it again
	}
}

// answered takes the answer and goes on.
func (m *message) answered(a *charging.Answer, before bool) {
	s := m.s
	g := s.g
	g.m.mixNumber(uint64(a.Result))
	if g.m.Trace != nil {
		g.m.tracef("%s;%d %s %d is answered %d %v", s.name, s.sub, m.kind, m.number, a.Result, a.Grants)
	}
	if m.answer != nil {
		m.compare(a, before)
		return
	}
	m.answer = a
	if m.other != nil {
		g.m.checkOther(m)
		return
	}
	s.flying--
	g.m.checkAnswer(m)
	if g.oneIn(4) { // sends it once more, answered or not
		m.sendTo(g.m.instances[g.rng.IntN(len(g.m.instances))])
	}
	if g.m.restless && g.oneIn(2) { // and long after
		for range 2 {
			g.m.after(g.upTo(repeatMax), func() { m.sendTo(g.m.behind(g.rng.IntN(len(g.m.instances)))) })
		}
	}
	if a.Result != charging.Success {
		if s.flying == 0 {
			g.m.after(g.upTo(5*time.Second), g.open)
		}
		s.ending = true
		return
	}
	s.opened = s.opened || m.kind == charging.Initial
	for _, grant := range a.Grants {
		s.granted[grant.Group], s.change[grant.Group] = grant.Units, grant.Change
		s.final[grant.Group] = grant.Final > rating.Terminate
	}
	if s.flying == 0 {
		s.goOn()
	}
}

// goOn does what a gateway does next: more usage, the end, or silence.
func (s *session) goOn() {
	g := s.g
	pause := g.upTo([...]time.Duration{300 * time.Millisecond, 3 * time.Second, 6 * time.Second}[g.rng.IntN(3)])
	if g.oneIn(5) { // just when a reservation goes back, or the session is closed
		pause = g.m.validity*time.Duration(1+g.rng.IntN(2)) + g.m.grace + g.upTo(40*time.Millisecond) - 30*time.Millisecond
	}
	switch {
	case s.ending:
		g.m.after(pause, g.open)
	case g.oneIn(9): // vanishes
		g.m.after(pause, g.open)
		if g.oneIn(2) { // and comes back, too late or not
			g.m.after(g.upTo(4*g.m.validity), func() { s.endIfOpen(g.oneIn(2)) })
		}
	case g.oneIn(5) || g.m.calm:
		g.m.after(pause, func() { s.endIfOpen(true) })
	case g.oneIn(12): // it has lost count, and goes on far ahead, perhaps with one message left behind
		g.m.after(pause, func() {
			if s.ending {
				return
			}
			groups := s.someGroups()
			if !s.plain && g.oneIn(2) {
				s.send(charging.Update, groups[len(groups)-1:])
			}
			s.number += 60 + g.rng.Uint32N(20)
			s.send(charging.Update, groups[:1])
		})
	case g.oneIn(4) && !s.plain: // two updates at once, about one rating group each
		g.m.after(pause, func() {
			if !s.ending {
				s.send(charging.Update, []uint32{1})
				s.send(charging.Update, []uint32{2})
			}
		})
	default:
		g.m.after(pause, func() { s.endIfOpen(false) })
		if g.oneIn(6) {
			g.m.after(g.upTo(2*pause+time.Second), s.confuse)
		}
	}
}

// confuse sends another content under the number of a message that was answered.
func (s *session) confuse() {
	i := s.g.rng.IntN(len(s.messages))
	o := s.messages[i]
	if s.dead || s.g.m.calm || o.other != nil || o.kind != charging.Update || o.answer == nil || o.answer.Result != charging.Success {
		return
	}
	m := &message{s: s, kind: o.kind, number: o.number, asks: slices.Clone(o.asks), other: o}
	m.asks[0].Used.Octets += 1000
	m.begin()
}

// endIfOpen sends a termination, or an update, unless the session is over.
func (s *session) endIfOpen(end bool) {
	switch {
	case s.ending:
	case end && s.plain:
		s.send(charging.Termination, []uint32{0})
	case end:
		s.send(charging.Termination, []uint32{1, 2, 4}[:2+s.g.rng.IntN(2)])
	default:
		s.send(charging.Update, s.someGroups())
	}
}

// notice takes a RAR or ASR, and answers it.
func (g *gateway) notice(account store.Key, due charging.Due) {
	g.m.hears(&due)
	var s *session
	for _, o := range g.m.sessions {
		if o.name == string(due.Session) && o.sub == due.Sub && o.opened {
			s = o
		}
	}
	result := charging.UnknownSession
	if s != nil && !s.ending {
		result = charging.Success
		if due.Kind == charging.Abort {
			s.aborted = true
			g.m.after(g.upTo(2*time.Second), func() { s.endIfOpen(true) })
		} else if !g.bears.Deaf && g.oneIn(2) { // it reports soon, unless it does so already
			result = charging.LimitedSuccess
			g.m.after(g.upTo(2*time.Second), func() {
				if s.flying == 0 && !s.plain { // a refusal of units at message level ends the session
					s.endIfOpen(false)
				}
			})
		}
	}
	for _, o := range g.m.sessions {
		o.aborted = o.aborted || result == charging.UnknownSession && o.name == string(due.Session) // it says that it does not know it
	}
	n := g.m.instances[g.rng.IntN(len(g.m.instances))]
	g.m.send(func() {
		n.arrive(func() *rtm.Inbound {
			return &rtm.Inbound{Account: account, Request: charging.Request{
				Kind: charging.Notified, Realm: due.Realm, Session: due.Session, Sub: due.Sub, Result: result, Notice: due.Number,
			}}
		})
	})
}
