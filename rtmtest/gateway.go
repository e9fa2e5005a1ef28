package rtmtest

import (
	"fmt"
	"slices"
	"time"

	"rtm"
	"rtm/charging"
)

const (
	txTimer    = 4 * time.Second // a gateway resends after that
	resendsMax = 40
)

// A gateway opens one session after the other, reports what was used, and
// keeps its own books.
type gateway struct {
	m        *Sim
	id       int
	sessions int
	stopping bool
}

// A call is one session as its gateway knows it.
type call struct {
	g        *gateway
	name     string
	identity string
	sender   bool // names its subscriber in every message
	number   uint32
	granted  map[uint32]int64
	used     map[uint32]int64 // acknowledged
	opened   bool
	closed   bool // a T was acknowledged
	lost     bool // some message was never acknowledged
	messages []*message
}

// A message is a request of a call, until it is answered.
type message struct {
	c      *call
	kind   charging.Kind
	number uint32
	asks   []charging.Ask
	tries  int
	answer *charging.Answer
}

func newGateway(m *Sim, id int) *gateway { return &gateway{m: m, id: id} }

func (g *gateway) start() { g.m.after(g.m.upTo(20*time.Second), g.open) }

// open begins a session.
func (g *gateway) open() {
	if g.stopping {
		return
	}
	g.sessions++
	account := g.m.rng.IntN(len(g.m.accounts))
	c := &call{
		g: g, name: fmt.Sprintf("gw%d.sim;%d", g.id, g.sessions), identity: fmt.Sprintf("imsi:00101%05d%05d", account, 0),
		granted: make(map[uint32]int64), used: make(map[uint32]int64), sender: g.m.rng.IntN(2) == 0,
	}
	g.m.calls = append(g.m.calls, c)
	c.next(charging.Initial)
}

// next sends the next message of the call.
func (c *call) next(kind charging.Kind) {
	m := &message{c: c, kind: kind, number: c.number}
	c.number++
	for group := uint32(1); group <= 2; group++ {
		ask := charging.Ask{Group: group, Has: charging.HasGroup, Wants: kind != charging.Termination}
		if kind != charging.Initial {
			ask.Reports = true
			ask.Used.Octets = c.usage(group)
		} else if c.g.m.rng.IntN(3) == 0 {
			continue
		}
		m.asks = append(m.asks, ask)
	}
	c.messages = append(c.messages, m)
	m.send()
}

// usage is what was used of the last grant: some, all, or a little more.
func (c *call) usage(group uint32) int64 {
	g := c.granted[group]
	if g == 0 {
		return 0
	}
	if c.g.m.rng.IntN(10) == 0 {
		return g + c.g.m.rng.Int64N(1000)
	}
	return c.g.m.rng.Int64N(g + 1)
}

// send sends the message to any instance, and again until it is answered.
func (m *message) send() {
	sim := m.c.g.m
	if m.answer != nil {
		return
	}
	if m.tries++; m.tries > resendsMax {
		m.c.lost = true
		return
	}
	n := sim.instances[sim.rng.IntN(len(sim.instances))]
	sim.send(func() { n.submit(m.inbound()) })
	sim.after(txTimer, m.send)
}

func (m *message) inbound() *rtm.Inbound {
	sim := m.c.g.m
	in := &rtm.Inbound{
		Request: charging.Request{
			Kind: m.kind, Realm: []byte("sim"), Session: []byte(m.c.name), Host: fmt.Appendf(nil, "gw%d.sim", m.c.g.id),
			Number: m.number, Context: 32251, Asks: slices.Clone(m.asks), Content: m.content(), Indexed: true,
		},
		Arrived: sim.now, Deadline: sim.now.Add(giveUp), Token: m,
	}
	if m.kind == charging.Initial || m.c.sender {
		in.Identities = []string{m.c.identity}
	}
	return in
}

func (m *message) content() uint64 {
	h := uint64(m.kind)*1_000_003 + uint64(m.number)
	for _, a := range m.asks {
		h = h*1_000_003 + uint64(a.Group)*31 + uint64(a.Used.Octets)
	}
	return h | 1
}

// answered takes the answer and goes on: more usage, the end, or silence.
func (m *message) answered(a charging.Answer) {
	sim := m.c.g.m
	if m.answer != nil {
		m.compare(&a)
		return
	}
	m.answer = &a
	c := m.c
	if a.Result == charging.Success {
		c.opened = true
		for _, ask := range m.asks {
			c.used[ask.Group] += ask.Used.Octets
			delete(c.granted, ask.Group)
		}
		for _, g := range a.Grants {
			c.granted[g.Group] = g.Units
		}
	}
	pause := sim.upTo(90 * time.Second)
	switch {
	case m.kind == charging.Termination:
		c.closed = a.Result == charging.Success
		sim.after(pause, c.g.open)
	case a.Result != charging.Success:
		sim.after(pause, c.g.open)
	case sim.rng.IntN(12) == 0: // vanishes
		sim.after(pause, c.g.open)
	case sim.rng.IntN(5) == 0 || c.g.stopping:
		sim.after(pause, func() { c.next(charging.Termination) })
	default:
		sim.after(pause, func() { c.next(charging.Update) })
	}
	if sim.rng.IntN(4) == 0 { // sends it once more, answered or not
		sim.send(func() { sim.instances[sim.rng.IntN(len(sim.instances))].submit(m.inbound()) })
	}
}

// compare holds a second answer to the same request against the first (I7).
func (m *message) compare(a *charging.Answer) {
	if m.number+1 != m.c.number {
		return // a higher number may have named its groups since
	}
	if a.Result != m.answer.Result || !slices.Equal(a.Grants, m.answer.Grants) {
		m.c.g.m.failf("I7: %s %s %d was answered %v, then %v", m.c.name, m.kind, m.number, *m.answer, *a)
	}
}
