package ctf

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"rtm/diameter"
	"rtm/diameter/peer"
)

// A session is one session as its gateway knows it: one message at a time.
type session struct {
	sim     *Sim
	id      string
	imsi    string
	random  *rand.Rand
	abandon bool
	yields  bool
	updates int
	service service
	groups  int // rating groups

	mu      sync.Mutex // guards all below
	kind    uint32
	number  uint32
	granted []int64 // what each rating group may use
	usage   []int64 // what the message on its way reports
	waiting bool    // for an answer
	sent    time.Time
	first   time.Time
	pause   time.Duration
	tries   int
	copies  int // of the message that were sent
	target  int
	answer  []byte // AVPs of the first answer to this message, for comparison
	asked   bool   // a RAR or ASR wants the next message at once
	abort   bool
	opened  bool
	over    bool

	refunding bool // the message that was charged is taken back, in part
}

// A service is what a session is of.
type service uint8

const (
	ofData     service = iota
	ofCall             // seconds
	ofMessage          // no session: one message that is charged
	ofRefunded         // … and another one that takes a part of it back
)

// context is the Service-Context-Id of a service.
func (v service) context() string {
	switch v {
	case ofCall:
		return "32260@3gpp.org"
	case ofMessage, ofRefunded:
		return "32274@3gpp.org"
	case ofData:
	}
	return "32251@3gpp.org"
}

// mix draws what the session is of.
func (c *session) mix() {
	switch n := c.random.IntN(10); {
	case n < 5:
		c.groups = 1 + c.random.IntN(5)
	case n < 7:
		c.service, c.groups = ofCall, 1
	case n < 9:
		c.service, c.groups = ofMessage, 1
	default:
		c.service, c.groups = ofRefunded, 1
	}
}

// single reports whether it is no session.
func (c *session) single() bool { return c.service >= ofMessage }

// messagesMax is how many units a single message costs at most.
const messagesMax = 10

// exchange is one sending of a message.
type exchange struct {
	c      *session
	number uint32
	target int
}

// send makes the next message and sends it. c.mu is held.
func (c *session) send(kind uint32) {
	s := c.sim
	if c.opened || c.kind != 0 {
		c.number++
	}
	c.kind, c.waiting, c.tries, c.copies, c.answer = kind, true, 0, 0, nil
	for g, was := range c.usage {
		c.usage[g] = 0
		switch {
		case kind == kindEvent && c.refunding:
			c.usage[g] = 1 + c.random.Int64N(was)
		case kind == kindEvent:
			c.usage[g] = 1 + c.random.Int64N(messagesMax)
		case kind != kindInitial && c.granted[g] > 0:
			c.usage[g] = 1 + c.random.Int64N(min(c.granted[g], s.config.Octets))
		}
	}
	c.first = time.Now()
	prefer := c.target
	if s.config.Hop || c.kind == kindInitial || c.kind == kindEvent {
		prefer = int(s.next.Add(1)) % len(s.links)
	}
	c.deliver(prefer, -1, 0)
	if s.config.Dup && c.waiting {
		c.deliver(prefer+1, c.target, diameter.FlagRetransmit)
	}
}

// resume goes on with a session that another run has left open. What it was
// granted is forgotten: it uses no more than any message does. c.mu is held.
func (c *session) resume() {
	s := c.sim
	c.opened, c.number = true, uint32(s.config.Sent-1)
	c.updates += s.config.Sent - 1
	for g := range c.granted {
		c.granted[g] = s.config.Octets
	}
	if s.config.Updates == 0 {
		c.send(kindTermination)
		return
	}
	c.send(kindUpdate)
}

// deliver sends the message once. c.mu is held.
func (c *session) deliver(prefer, not int, flags uint8) {
	s := c.sim
	c.sent, c.pause = time.Now(), c.tx()
	l := s.pick(prefer, not)
	if l == nil {
		c.pause = 50 * time.Millisecond // nobody is connected: look again soon
		return
	}
	if flags == 0 || not < 0 {
		c.target = l.index
	}
	conn := l.conn.Load()
	if conn == nil || !conn.Send(&exchange{c, c.number, l.index}, func(hop, end uint32) []byte {
		frame := c.encode(flags, hop, end)
		s.dump(frame)
		return frame
	}) {
		c.pause = 50 * time.Millisecond
		return
	}
	c.copies++
	s.Counts.Sent.Add(1)
}

// tx is how long the session waits for an answer: who takes a 3004 for what it
// says waits until there is one.
func (c *session) tx() time.Duration {
	if c.yields {
		return 4 * c.sim.config.Tx
	}
	return c.sim.config.Tx
}

// resend sends the message again, to another target, or gives it up. c.mu is
// held.
func (c *session) resend() {
	s := c.sim
	if c.pause == c.tx() {
		c.tries++
		s.Counts.Resent.Add(1)
	}
	if c.tries <= s.config.Resends && time.Since(c.first) < time.Duration(s.config.Resends)*s.config.Tx {
		c.deliver(c.target+1, -1, diameter.FlagRetransmit)
		return
	}
	c.waiting, c.over = false, true
	s.Counts.GivenUp.Add(1)
	s.bad("%s number %d was never answered", c.id, c.number)
	s.book(c, false)
	go s.ended(c)
}

func sumOf(list []int64) (n int64) {
	for _, v := range list {
		n += v
	}
	return n
}

// encode writes the message.
func (c *session) encode(flags uint8, hop, end uint32) []byte {
	s := c.sim
	var e diameter.Encoder
	e.Reset(make([]byte, 0, 512))
	e.Request(diameter.CreditControl, diameter.ApplicationCreditControl, diameter.FlagProxiable|flags, hop, end)
	e.String(diameter.SessionID, c.id)
	e.String(diameter.OriginHost, s.config.Host)
	e.String(diameter.OriginRealm, s.config.Realm)
	e.String(diameter.DestinationRealm, s.config.Destination)
	e.Uint32(diameter.AuthApplicationID, uint32(diameter.ApplicationCreditControl))
	e.String(diameter.ServiceContextID, c.service.context())
	e.Uint32(diameter.CCRequestType, c.kind)
	e.Uint32(diameter.CCRequestNumber, c.number)
	e.Time(diameter.EventTimestamp, c.first)
	e.Open(diameter.SubscriptionID)
	e.Uint32(diameter.SubscriptionIDType, 1)
	e.String(diameter.SubscriptionIDData, c.imsi)
	e.Close()
	switch c.kind {
	case kindTermination:
		e.Uint32(diameter.TerminationCause, 1)
	case kindEvent:
		action := uint32(0) // DIRECT_DEBITING
		if c.refunding {
			action = 1 // REFUND_ACCOUNT
		}
		e.Uint32(diameter.RequestedAction, action)
	}
	e.Uint32(diameter.MultipleServicesIndicator, 1)
	for g := range c.usage {
		e.Open(diameter.MultipleServicesCreditControl)
		if c.kind != kindTermination {
			e.Open(diameter.RequestedServiceUnit)
			if c.kind == kindEvent {
				c.units(&e, c.usage[g])
			}
			e.Close()
		}
		if c.kind == kindUpdate || c.kind == kindTermination {
			e.Open(diameter.UsedServiceUnit)
			c.units(&e, c.usage[g])
			e.Close()
		}
		e.Uint32(diameter.RatingGroup, s.config.Group+uint32(g))
		e.Close()
	}
	return e.Bytes()
}

// units writes units of the service.
func (c *session) units(e *diameter.Encoder, n int64) {
	switch c.service {
	case ofCall:
		e.Uint32(diameter.CCTime, uint32(n))
	case ofMessage, ofRefunded:
		e.Uint64(diameter.CCServiceSpecificUnits, uint64(n))
	case ofData:
		e.Uint64(diameter.CCTotalOctets, uint64(n))
	}
}

// granted reads units of the service from a Granted-Service-Unit.
func (v service) granted(unit []byte) (n int64) {
	if v == ofCall {
		if a, ok := diameter.Find(unit, diameter.CCTime); ok {
			seconds, _ := a.Uint32()
			n = int64(seconds)
		}
		return n
	}
	if a, ok := diameter.Find(unit, diameter.CCTotalOctets); ok {
		octets, _ := a.Uint64()
		n = int64(octets)
	}
	return n
}

// Answered implements peer.Handler.
func (s *Sim) Answered(_ *peer.Conn, token any, m *diameter.Message) {
	x := token.(*exchange)
	c := x.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Counts.Answered.Add(1)
	if s.config.Drop > 0 && c.waiting && c.random.Float64() < s.config.Drop {
		s.Counts.Dropped.Add(1)
		return
	}
	if x.number != c.number || !c.waiting {
		c.compare(x, m)
		return
	}
	if s.config.Again > 0 && code(m.Body) == uint32(diameter.TooBusy) {
		c.busy()
		return
	}
	c.waiting = false
	c.answer = slices.Clone(m.Body)
	s.took(time.Since(c.first))
	s.Matrix[x.target][c.kind].Add(1)
	r := code(m.Body)
	s.result(r)
	if r != uint32(diameter.Success) {
		s.Counts.Failed.Add(1)
		s.bad("%s number %d, %s: answered %s", c.id, c.number, KindNames[c.kind], diameter.Result(r))
		s.book(c, false)
		c.over = true
		go s.ended(c)
		return
	}
	c.acknowledged(m)
}

// busy goes on after a 3004: the message goes out again, or what it asked for is
// taken for not done. c.mu is held.
func (c *session) busy() {
	s := c.sim
	s.Counts.Busy.Add(1)
	switch {
	case !c.yields || c.copies > 1 || c.kind == kindTermination:
		c.sent, c.pause = time.Now(), s.config.Again
	case c.kind == kindInitial, c.kind == kindEvent:
		s.Counts.Yielded.Add(1)
		c.waiting, c.over = false, true
		go s.ended(c)
	default: // its report is lost, and the session ends
		s.Counts.Yielded.Add(1)
		clear(c.granted)
		c.send(kindTermination)
	}
}

// compare holds a second answer to the message that was answered last against
// the first: header aside, they must be the same.
func (c *session) compare(x *exchange, m *diameter.Message) {
	busy := c.sim.config.Again > 0 && code(m.Body) == uint32(diameter.TooBusy) // which says nothing of the message
	if x.number != c.number || c.answer == nil || busy {
		return
	}
	c.sim.Counts.Duplicates.Add(1)
	if !slices.Equal(c.answer, m.Body) {
		c.sim.Counts.Different.Add(1)
		c.sim.bad("%s number %d: a repeat was answered differently", c.id, c.number)
	}
}

// acknowledged books the report and goes on. c.mu is held.
func (c *session) acknowledged(m *diameter.Message) {
	s := c.sim
	s.acknowledged()
	s.book(c, true)
	c.opened = true
	c.quotas(m.Body)
	switch {
	case c.service == ofRefunded && !c.refunding:
		c.refunding = true
		c.send(kindEvent)
		return
	case c.single():
		s.Counts.Events.Add(1)
		fallthrough
	case c.kind == kindTermination:
		s.Counts.Ended.Add(1)
		c.over = true
		go s.ended(c)
		return
	}
	if c.abandon && c.kind == kindUpdate {
		s.Counts.Abandoned.Add(1)
		c.over = true
		go s.ended(c)
		return
	}
	next := uint32(kindUpdate)
	if c.abort || s.over() || int(c.number) >= c.updates && !c.asked || sumOf(c.granted) == 0 {
		next = kindTermination
	}
	if next == kindTermination && s.config.Leave && !c.abort {
		s.Counts.Left.Add(1)
		c.over = true
		go s.ended(c)
		return
	}
	asked := c.asked
	c.asked = false
	if s.config.Hold > 0 && !asked {
		number := c.number
		time.AfterFunc(s.config.Hold/2+time.Duration(c.random.Int64N(int64(s.config.Hold))), func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.number == number && !c.waiting && !c.over {
				c.send(next)
			}
		})
		return
	}
	c.send(next)
}

// quotas takes what was granted.
func (c *session) quotas(b []byte) {
	for g := range c.granted {
		c.granted[g] = 0
	}
	for len(b) > 0 {
		a, rest, err := diameter.Next(b)
		if err != nil {
			return
		}
		b = rest
		if a.Attr != diameter.MultipleServicesCreditControl {
			continue
		}
		group, ok := diameter.Find(a.Data, diameter.RatingGroup)
		unit, granted := diameter.Find(a.Data, diameter.GrantedServiceUnit)
		if !ok || !granted {
			continue
		}
		g, _ := group.Uint32()
		g -= c.sim.config.Group
		if uint64(g) < uint64(len(c.granted)) {
			c.granted[g] = c.service.granted(unit.Data)
		}
	}
}

func code(b []byte) uint32 {
	a, ok := diameter.Find(b, diameter.ResultCode)
	if !ok {
		return 0
	}
	v, _ := a.Uint32()
	return v
}

// Closed implements peer.Handler: what was on its way over that connection goes
// elsewhere at once, with T.
func (s *Sim) Closed(conn *peer.Conn, unanswered []any) {
	select {
	case <-s.done: // the gateway itself has left
	default:
		s.Counts.Closed.Add(1)
	}
	for _, l := range s.links {
		if l.conn.CompareAndSwap(conn, nil) {
			select {
			case l.dial <- struct{}{}:
			default:
			}
		}
	}
	for _, t := range unanswered {
		x, ok := t.(*exchange)
		if !ok {
			continue
		}
		x.c.mu.Lock()
		if x.c.waiting && x.number == x.c.number {
			s.Counts.Resent.Add(1)
			x.c.deliver(x.target+1, x.target, diameter.FlagRetransmit)
		}
		x.c.mu.Unlock()
	}
}

// Admit implements peer.Handler; nobody connects to a gateway.
func (s *Sim) Admit(peer.Capabilities) (any, diameter.Result) { return nil, diameter.UnknownPeer }

// Receive implements peer.Handler: RAR and ASR.
func (s *Sim) Receive(batch []*peer.Request) {
	for _, r := range batch {
		s.prompted(r)
	}
}

// prompted answers a RAR with 2002 and a report, an ASR with 2001 and the end.
func (s *Sim) prompted(r *peer.Request) {
	id := ""
	if a, ok := diameter.Find(r.Message.Body, diameter.SessionID); ok {
		id = string(a.Data)
	}
	s.mu.Lock()
	c := s.sessions[id]
	s.mu.Unlock()
	result := diameter.UnknownSessionID
	if c != nil {
		result = diameter.LimitedSuccess
		if r.Message.Command == diameter.AbortSession {
			result = diameter.Success
			s.Counts.Aborts.Add(1)
		} else {
			s.Counts.ReAuths.Add(1)
		}
	}
	var e diameter.Encoder
	e.Reset(nil)
	e.Answer(&r.Message.Header, 0)
	e.String(diameter.SessionID, id)
	e.Uint32(diameter.ResultCode, uint32(result))
	e.String(diameter.OriginHost, s.config.Host)
	e.String(diameter.OriginRealm, s.config.Realm)
	aborted := r.Message.Command == diameter.AbortSession
	r.Answer(e.Bytes())
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abort = c.abort || aborted
	switch {
	case c.waiting || c.over:
		c.asked = true
	case aborted:
		c.send(kindTermination)
	default:
		c.send(kindUpdate)
	}
}

// OpenCount is how many sessions are open now.
func (s *Sim) OpenCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}
