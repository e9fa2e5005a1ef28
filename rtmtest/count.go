package rtmtest

import (
	"encoding/binary"
	"slices"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// A count is the reference model. It knows no balances, prices or rules: it
// counts what the ledger of the store says, message by message, to be held
// against what the gateways know.
type count struct {
	m       *Sim
	homes   map[*session]store.Key // whose they were
	effects map[*message]int       // times that a message took effect
	used    map[usage]int64        // octets of a session's rating group
	assumed map[usage]int64        // … of them, charged when nothing was heard any more
	totals  map[usage]int64        // … as its final and supplementary records say
	finals  map[named]int          // final records of sessions of that name
	topUps  map[string]int64       // credited under a key
	times   map[string]int         // how often
}

// named is what names a session, and those after it that are named like it.
type named struct {
	session string
	sub     uint64
}

type request struct {
	session string
	sub     uint64
	number  uint32
}

type usage struct {
	session string
	sub     uint64
	group   uint32
}

// tally counts the entries of all streams.
func (m *Sim) tally() *count {
	c := &count{
		m: m, homes: make(map[*session]store.Key), effects: make(map[*message]int), used: make(map[usage]int64), assumed: make(map[usage]int64), totals: make(map[usage]int64),
		finals: make(map[named]int), topUps: make(map[string]int64), times: make(map[string]int),
	}
	for _, t := range m.streams() {
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
		c.finals[named{r.session, r.sub}]++
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

// at notes in which account an effect was: one of those that had the identity, and
// all of a session in the same one.
func (c *count) at(s *session, e *charging.Entry) {
	account := tenant.AccountKey(e.Tenant, e.Account)
	if !s.who.had(account) {
		c.m.failf("I11: %s of %s took effect on %s, which never had it", s.name, s.who.name, account)
	}
	if was, ok := c.homes[s]; ok && was != account {
		c.m.failf("I10: %s took effect on %s and on %s", s.name, was, account)
	}
	c.homes[s] = account
}

// effect counts an effect for the message that had it: by a copy that was in the
// instance which decided it when that drew the version of the write. That copy was
// not told that nothing took effect (3004).
func (c *count) effect(r request, e *charging.Entry) {
	version, away := binary.BigEndian.Uint64(e.Version[:]), (*message)(nil)
	for _, msg := range slices.Backward(c.m.sent[r]) { // of those named alike the last one, which came when nothing was left of the others
		for _, t := range msg.copies {
			if t.in == nil || t.in.name != string(e.Instance) || version <= t.from || t.to != 0 && version > t.to {
				continue
			}
			if t.out != rtm.Busy {
				c.effects[msg]++
				c.at(msg.s, e)
				return
			}
			away = msg
		}
	}
	if away != nil {
		c.m.failf("I6: %s %s %d was turned away by %s and took effect", r.session, e.Kind, r.number, e.Instance)
	} else {
		c.m.failf("I6: %s %s %d took effect in %s, which did not have it", r.session, e.Kind, r.number, e.Instance)
	}
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
	for _, c := range m.clusters {
		if !c.master().master() {
			m.failf("the store has no master in the end")
			return
		}
	}
	m.checkFiles()
	c := m.tally()
	for _, a := range m.accounts {
		m.checkAccount(a, m.clusterOf(a.key.Partition).master())
	}
	for _, s := range m.sessions {
		m.checkSession(s, c)
	}
	m.checkRecords(c)
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

// checkSession: what the gateway knows to be acknowledged took effect once (I6),
// nothing twice, and what is not its tenants' not at all.
func (m *Sim) checkSession(s *session, c *count) {
	for _, msg := range s.messages {
		n := c.effects[msg]
		changes := msg.kind != charging.Event || msg.action <= charging.RefundAccount
		acked := msg.granted != 0 && changes && msg.other == nil
		switch {
		case n > 1:
			m.failf("I6: %s %s %d took effect %d times", s.name, msg.kind, msg.number, n)
		case n > 0 && msg.other != nil:
			m.failf("I6: %s %s took effect under the number of another, %d", s.name, msg.kind, msg.number)
		case acked && n != 1:
			m.failf("I6: %s %s %d was acknowledged and took effect %d times", s.name, msg.kind, msg.number, n)
		case s.g.strange(s.who) && n > 0:
			m.failf("I11: %s %s took effect on %s of another tenant", s.name, msg.kind, s.account.key)
		case msg.answer == nil && msg.calm > 2 && !s.dead:
			m.failf("I12: %s %s %d was sent %d times when all was in order, and not answered", s.name, msg.kind, msg.number, msg.calm)
		}
	}
}

// checkRecords: each use of a session is recorded (I3), and one that was opened has
// one final record that says so (I8).
func (m *Sim) checkRecords(c *count) {
	want, finals := make(map[usage]int64), make(map[named][2]int) // at least and at most
	for _, s := range m.sessions {
		if s.messages[0].kind == charging.Event {
			continue
		}
		effective := false
		for _, msg := range s.messages {
			n := c.effects[msg]
			effective = effective || n > 0
			for i := range msg.asks {
				want[usage{s.name, s.sub, msg.asks[i].Group}] += int64(n) * msg.asks[i].Used.Octets
			}
		}
		k := named{s.name, s.sub}
		n := finals[k]
		if n[1]++; s.opened || effective {
			n[0]++
		}
		finals[k] = n
	}
	for k, n := range finals {
		if c.finals[k] < n[0] || c.finals[k] > n[1] {
			m.failf("I8: %s has %d final records instead of %d", k.session, c.finals[k], n[0])
		}
	}
	for k, used := range want {
		if used += c.assumed[k]; c.used[k] != used || c.totals[k] != used {
			m.failf("I8: %s group %d: %d octets reported or assumed, %d charged, %d in its records", k.session, k.group, used, c.used[k], c.totals[k])
		}
	}
}
