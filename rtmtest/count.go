package rtmtest

import (
	"encoding/binary"
	"slices"
	"time"

	"rtm"
	"rtm/charging"
)

// A count is the reference model. It knows no balances, prices or rules: it
// counts what the ledger of the store says, message by message, to be held
// against what the gateways know.
type count struct {
	effects map[request]int    // times that a request took effect
	by      map[request]effect // … and the last time
	used    map[usage]int64    // octets of a session's rating group
	assumed map[usage]int64    // … of them, charged when nothing was heard any more
	totals  map[usage]int64    // … as its final and supplementary records say
	finals  map[request]int    // final records of a session, under number zero
	topUps  map[string]int64   // credited under a key
	times   map[string]int     // how often
}

type request struct {
	session string
	sub     uint64
	number  uint32
}

// An effect is who decided a request, in the write of which version.
type effect struct {
	instance string
	version  uint64
}

type usage struct {
	session string
	sub     uint64
	group   uint32
}

// tally counts the entries of all streams.
func (m *Sim) tally(s *state) *count {
	c := &count{
		effects: make(map[request]int), by: make(map[request]effect), used: make(map[usage]int64), assumed: make(map[usage]int64), totals: make(map[usage]int64),
		finals: make(map[request]int), topUps: make(map[string]int64), times: make(map[string]int),
	}
	for _, t := range s.streams {
		for _, ev := range t.events {
			if m.entry.Decode(ev) == nil {
				c.add(&m.entry)
			}
		}
	}
	return c
}

func (c *count) add(e *charging.Entry) {
	r := request{string(e.Session), e.Sub, e.Request}
	into := c.used
	switch e.Sort {
	case charging.Message:
		if e.Kind == charging.Tick { // its client has vanished: what it had is charged
			c.lines(c.assumed, e)
			break
		}
		c.effect(r, e)
	case charging.Supplementary:
		c.effect(r, e)
		c.lines(c.totals, e)
	case charging.OneTime:
		c.effect(r, e)
		return
	case charging.FinalRecord:
		c.finals[request{r.session, r.sub, 0}]++
		into = c.totals
	case charging.Ledger:
		for _, mv := range e.Movements {
			c.topUps[e.Text] += mv.Credit
		}
		c.times[e.Text]++
		return
	default:
		return
	}
	c.lines(into, e)
}

func (c *count) effect(r request, e *charging.Entry) {
	c.effects[r]++
	c.by[r] = effect{string(e.Instance), binary.BigEndian.Uint64(e.Version[:])}
}

func (c *count) lines(into map[usage]int64, e *charging.Entry) {
	for _, l := range e.Lines {
		into[usage{string(e.Session), e.Sub, l.Group}] += l.Used.Octets
	}
}

// checkEnd checks what must hold when faults have stopped and all is quiet.
func (m *Sim) checkEnd() {
	if len(m.failures) > 0 {
		return
	}
	d := m.cluster.nodes[0]
	if m.cluster.mode == safe {
		d = m.cluster.nodes[m.cluster.view().master]
	}
	if !d.master() {
		m.failf("the store has no master in the end")
		return
	}
	m.checkFiles(d.state)
	c := m.tally(d.state)
	for _, a := range m.accounts {
		m.checkAccount(a, d)
	}
	for _, s := range m.sessions {
		m.checkSession(s, c)
	}
	for _, n := range m.instances {
		for in, s := range n.inside {
			if s.until+overtime < m.now {
				m.failf("I12: %s of %s never left %s", in.Request.Kind, in.Request.Session, n.name)
				break
			}
		}
	}
	for _, t := range m.operator.topUps {
		n := c.times[t.key]
		acked := t.answer != nil && t.answer.Result == charging.Success
		if n > 1 || acked && n != 1 || n == 1 && c.topUps[t.key] != t.amount {
			m.failf("I6: top-up %s (acknowledged: %t) took effect %d times", t.key, acked, n)
		}
	}
}

// checkAccount: nothing is open or reserved, and no timer is left (I5, I12).
func (m *Sim) checkAccount(sa *simAccount, d *node) {
	a := &m.account
	e := d.state.at(sa.key, d.time())
	if e == nil || a.Decode(e.Bytes) != nil || !a.Exists {
		m.failf("%s is lost", sa.key)
		return
	}
	for i := range a.Sessions {
		m.failf("I12: %s still has session %s open, due %s", sa.key, a.Sessions[i].ID, a.Sessions[i].Wake.Sub(epoch))
	}
	if x := d.state.armed(sa.key); x != nil && x.at < worldMax-time.Minute && len(a.Sessions) == 0 {
		m.failf("I12: %s has a timer left, at %s", sa.key, x.at)
	}
	for i := range a.Buckets {
		if b := &a.Buckets[i]; b.Reserved != 0 {
			m.failf("I5: %s bucket %d still has %d reserved", sa.key, b.Number, b.Reserved)
		}
	}
	m.mixNumber(uint64(len(e.Bytes)))
}

// carriedOut: a message that took effect did so by a copy that was in the instance
// which decided it when it drew the version of that write. That copy was not told
// that nothing took effect (3004).
func (m *Sim) carriedOut(s *session, msg *message, c *count) bool {
	e := c.by[request{s.name, s.sub, msg.number}]
	some := false
	for _, t := range msg.copies {
		if t.in == nil || t.in.name != e.instance || e.version <= t.from || t.to != 0 && e.version > t.to {
			continue
		}
		if some = true; t.out != rtm.Busy {
			return true
		}
	}
	if some {
		m.failf("I6: %s %s %d was turned away by %s and took effect", s.name, msg.kind, msg.number, e.instance)
	} else {
		m.failf("I6: %s %s %d took effect in %s, which did not have it", s.name, msg.kind, msg.number, e.instance)
	}
	return false
}

// checkSession: what the gateway knows to be acknowledged took effect once (I6),
// nothing twice, what was turned away not at all, each use of it is recorded
// (I3), and a session that was opened has one final record that says so (I8).
func (m *Sim) checkSession(s *session, c *count) {
	want := make(map[uint32]int64)
	for _, msg := range s.messages {
		n := c.effects[request{s.name, s.sub, msg.number}]
		changes := msg.kind != charging.Event || msg.action <= charging.RefundAccount
		acked := msg.granted != 0 && changes
		switch {
		case n > 1:
			m.failf("I6: %s %s %d took effect %d times", s.name, msg.kind, msg.number, n)
		case acked && n != 1:
			m.failf("I6: %s %s %d was acknowledged and took effect %d times", s.name, msg.kind, msg.number, n)
		case n == 1 && !m.carriedOut(s, msg, c):
		case s.foreign && n > 0:
			m.failf("I11: %s %s took effect on %s of another tenant", s.name, msg.kind, s.account.key)
		case msg.answer == nil && msg.calm > 2:
			m.failf("I12: %s %s %d was sent %d times when all was in order, and not answered", s.name, msg.kind, msg.number, msg.calm)
		}
		for i := range msg.asks {
			want[msg.asks[i].Group] += int64(n) * msg.asks[i].Used.Octets
		}
	}
	if s.messages[0].kind == charging.Event {
		return
	}
	effective := slices.ContainsFunc(s.messages, func(msg *message) bool { return c.effects[request{s.name, s.sub, msg.number}] > 0 })
	if n := c.finals[request{s.name, s.sub, 0}]; n > 1 || (s.opened || effective) && n != 1 {
		m.failf("I8: %s has %d final records", s.name, n)
	}
	for group, used := range want {
		k := usage{s.name, s.sub, group}
		if used += c.assumed[k]; c.used[k] != used || c.totals[k] != used {
			m.failf("I8: %s group %d: %d octets reported or assumed, %d charged, %d in its records", s.name, group, used, c.used[k], c.totals[k])
		}
	}
}
