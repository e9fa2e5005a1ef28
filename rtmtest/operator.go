package rtmtest

import (
	"fmt"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/rating"
)

// An operator tops accounts up, aborts sessions, publishes versions of plans and
// moves accounts to other plans or identities to other accounts, while all goes on.
type operator struct {
	m      *Sim
	topUps []*command
	keys   int
	moves  bool // it gives identities to other accounts, and leaves plans alone
	moving bool
}

// A command is what an operator asks for, again under the same key until it is
// answered.
type command struct {
	m       *Sim
	make    func() *rtm.Inbound
	tries   int
	key     string
	amount  int64
	on      *simAccount
	answer  *charging.Answer
	about   *session // a RAR or ASR
	session *session // likewise, if nobody asked it to end before
}

func (o *operator) start(m *Sim) {
	o.m, o.moves = m, m.oneIn(3) || m.restless
	if m.oneIn(4) && !m.restless {
		return // this world has none
	}
	m.after(m.upTo(5*time.Second), o.act)
}

func (o *operator) act() {
	m := o.m
	if m.calm {
		if m.now < m.calmSince+promptUntil {
			o.prompt()
			m.after(m.between(time.Second, 4*time.Second), o.act)
		}
		return
	}
	account := m.accounts[m.rng.IntN(len(m.accounts))]
	what := m.rng.IntN(8)
	if o.moves && m.oneIn(2) {
		what = 5
	}
	switch what {
	case 6, 7:
		o.prompt()
	case 0, 1:
		o.topUp(account)
	case 2, 3:
		o.prompt()
	case 4:
		p := account.tenant.plans[m.rng.IntN(2)]
		p.publish(m, epoch.Add(m.clusters[0].nodes[0].time()).Add(m.upTo(3*time.Second)))
	case 5:
		if o.moves {
			o.move()
			break
		}
		plan := account.tenant.plans[m.rng.IntN(2)].name
		o.command(account, func() *rtm.Inbound {
			return &rtm.Inbound{Account: account.key, Request: charging.Request{
				Kind: charging.Provision, Profile: &charging.Profile{Plan: plan, Identities: account.identities},
			}}
		})
	}
	pause := m.between(500*time.Millisecond, 8*time.Second)
	if m.restless {
		pause /= 4
	}
	m.after(pause, o.act)
}

func (o *operator) command(account *simAccount, make func() *rtm.Inbound) *command {
	c := &command{m: o.m, make: make, on: account}
	c.send()
	return c
}

// topUp credits money, or a bucket with an end.
func (o *operator) topUp(account *simAccount) {
	o.keys++
	key, amount := fmt.Sprintf("key-%d", o.keys), 1+o.m.rng.Int64N(100_000)
	var b charging.Bucket
	if o.m.oneIn(2) {
		b = charging.Bucket{Unit: rating.Octets, Until: epoch.Add(o.m.now + o.m.between(30*time.Second, 90*time.Second))}
	}
	c := o.command(account, func() *rtm.Inbound {
		return &rtm.Inbound{
			Account: account.key, OnceDoor: "api", OnceName: key,
			Request: charging.Request{Kind: charging.TopUp, Amount: amount, Bucket: b, Content: uint64(amount) | 1, Cause: key},
		}
	})
	c.key, c.amount = key, amount
	o.topUps = append(o.topUps, c)
}

// prompt asks a gateway to report, or to end a session.
func (o *operator) prompt() {
	m := o.m
	for range 4 {
		if len(m.sessions) == 0 {
			return
		}
		recent := m.sessions[max(len(m.sessions)-4, 0):]
		s := recent[m.rng.IntN(len(recent))]
		if !s.opened || s.ending {
			continue
		}
		kind, sure := charging.Reauthorise, !s.aborted
		if m.oneIn(4) {
			kind, s.aborted = charging.Abort, true
		}
		c := o.command(s.account, func() *rtm.Inbound {
			return &rtm.Inbound{Account: s.home(), Request: charging.Request{
				Kind: kind, Realm: []byte("sim"), Session: []byte(s.name), Sub: s.sub,
			}}
		})
		c.about = s
		if sure && len(s.who.owners) == 1 && !s.plain { // a refusal ends a plain one
			c.session = s
		}
		return
	}
}

// send sends the command to any instance, and again until it is answered.
func (c *command) send() {
	if c.tries++; c.answer != nil || c.tries > 8 {
		return
	}
	n := c.m.instances[c.m.rng.IntN(len(c.m.instances))]
	c.m.after(c.m.upTo(10*time.Millisecond), func() {
		n.arrive(func() *rtm.Inbound {
			in := c.make()
			in.Token = c
			return in
		})
	})
	c.m.after(3*time.Second, c.send)
}

// left takes what an instance made of the command.
func (c *command) left(_ *instance, in *rtm.Inbound, o rtm.Outcome) {
	if o == rtm.Answered && c.answer == nil {
		a := in.Answer
		a.Grants = nil
		c.answer = &a
		if c.m.checkPrompt(c); c.about != nil {
			c.checkPrompted(in)
		}
	}
}
