package rtmtest

import (
	"fmt"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
)

const (
	simShards = 2
	giveUp    = 2500 * time.Millisecond // an instance's deadline for a request
)

// An instance runs shards and timers on the simulated clock. What it knows
// goes with a crash.
type instance struct {
	m      *Sim
	name   string
	life   int // rises with each crash; what was begun in an earlier one is dead
	shards [simShards]*lane
	timers *rtm.Timers
	hints  map[string]store.Key
}

// A lane is a shard and the requests that wait for its next cycle.
type lane struct {
	shard *rtm.Shard
	inbox []*rtm.Inbound
	busy  bool
	alarm time.Time
}

func newInstance(m *Sim, i int) *instance {
	n := &instance{m: m, name: fmt.Sprintf("%c", 'A'+i)}
	n.boot()
	return n
}

func (n *instance) boot() {
	n.timers, n.hints = &rtm.Timers{}, make(map[string]store.Key)
	for i := range n.shards {
		n.shards[i] = &lane{shard: n.m.shard(n.name)}
	}
}

func (n *instance) start() {
	n.poll(n.life)
	n.mortal()
}

// mortal lets the instance crash now and then; it is back after a second.
func (n *instance) mortal() {
	n.m.after(time.Second, func() {
		if n.m.chance(n.m.faults.Crash) {
			n.life++
			n.boot()
			life := n.life
			n.m.after(n.m.upTo(2*time.Second), func() { n.poll(life) })
		}
		n.mortal()
	})
}

// poll asks for due wake-ups, for as long as this life lasts.
func (n *instance) poll(life int) {
	if life != n.life {
		return
	}
	due, next := n.m.store.Due(rtm.TicksMax, rtm.TickLease)
	for _, in := range n.timers.Claimed(due, next, n.m.now, n.m.now) {
		n.submit(in)
	}
	wait := n.timers.Poll().Sub(n.m.now)
	n.m.after(max(wait, time.Millisecond, n.m.slow)+n.m.upTo(10*time.Millisecond), func() { n.poll(life) })
}

// submit sends a request to its shard, by hint where its account is not known.
func (n *instance) submit(in *rtm.Inbound) {
	for _, id := range in.Identities {
		if k, ok := n.hints[id]; ok && in.Account == (store.Key{}) {
			in.Account, in.Hinted = k, true
			in.Request.Identity = []byte(id)
		}
	}
	l := n.shards[int(in.Account.Partition)%simShards]
	l.inbox = append(l.inbox, in)
	n.run(l)
}

// run begins a cycle of the shard, unless one is running.
func (n *instance) run(l *lane) {
	if l.busy {
		return
	}
	keys := l.shard.Begin(l.inbox, n.m.now)
	l.inbox = l.inbox[:0]
	if l.shard.Idle() {
		if at, ok := l.shard.Next(); ok && !at.Equal(l.alarm) {
			l.alarm = at
			n.later(max(at.Sub(n.m.now), 0), func() { l.alarm = time.Time{}; n.run(l) })
		}
		return
	}
	l.busy = true
	keys = append([]store.Key(nil), keys...)
	n.later(n.m.upTo(n.m.faults.Store), func() {
		var recs []store.Record
		if !n.m.chance(n.m.faults.Unread) {
			recs = n.m.store.Load(keys)
		}
		n.commit(l, l.shard.Loaded(recs, n.m.now))
	})
}

// commit sends the commits to the store, each with its own fate.
func (n *instance) commit(l *lane, cs []store.Commit) {
	results := make([]store.Result, len(cs))
	for i := range cs {
		n.fate(copied(cs[i]), &results[i])
	}
	n.later(n.m.faults.Store, func() {
		for i := range results {
			if results[i].Outcome == 0 || n.m.bug == "doubt-is-done" && results[i].Outcome == store.InDoubt {
				results[i].Outcome = store.InDoubt
				if n.m.bug == "doubt-is-done" {
					results[i].Outcome = store.Done
				}
			}
		}
		for _, r := range l.shard.Committed(results, n.m.now) {
			n.reply(r)
		}
		l.busy = false
		n.run(l)
	})
}

// fate carries out c soon, late or never, and fills in what its sender hears.
func (n *instance) fate(c store.Commit, r *store.Result) {
	f, d := &n.m.faults, n.m.upTo(n.m.faults.Store)
	switch {
	case n.m.chance(f.Lost):
	case n.m.chance(f.Zombie):
		n.m.after(f.Store+n.m.upTo(20*time.Second), func() { n.m.store.Commit(c) })
	case n.m.chance(f.Refused):
		r.Outcome = store.Refused
	case n.m.chance(f.Swallowed):
		n.m.after(d, func() { n.m.store.Commit(c) })
	default:
		n.m.after(d, func() { *r = n.m.store.Commit(c) })
	}
}

// copied is c in memory of its own: a commit may outlive the cycle that made it.
func copied(c store.Commit) store.Commit {
	writes := append([]store.Write(nil), c.Writes...)
	for i := range writes {
		writes[i].Bytes = append([]byte(nil), writes[i].Bytes...)
	}
	events := make([][]byte, len(c.Events))
	for i := range events {
		events[i] = append([]byte(nil), c.Events[i]...)
	}
	c.Writes, c.Events = writes, events
	return c
}

// later runs f after d, if the instance still lives.
func (n *instance) later(d time.Duration, f func()) {
	life := n.life
	n.m.after(d, func() {
		if life == n.life {
			f()
		}
	})
}

func (n *instance) reply(r rtm.Reply) {
	switch r.Outcome {
	case rtm.Forward:
		if id := string(r.In.Request.Identity); id != "" {
			n.hints[id] = r.In.Account
		}
		l := n.shards[int(r.In.Account.Partition)%simShards]
		l.inbox = append(l.inbox, r.In)
		n.later(0, func() { n.run(l) })
	case rtm.Answered:
		if g, ok := r.In.Token.(*message); ok {
			n.m.send(func() { g.answered(answerOf(r.In)) })
		}
	case rtm.Busy, rtm.Silent, rtm.NeedPlan:
	}
}

// answerOf copies what the client reads of an answer.
func answerOf(in *rtm.Inbound) charging.Answer {
	a := in.Answer
	a.Grants = append([]charging.Grant(nil), a.Grants...)
	return a
}

// send lets a message travel: late, twice, or not at all.
func (m *Sim) send(deliver func()) {
	if m.chance(m.faults.Drop) {
		return
	}
	m.after(m.upTo(m.faults.Delay), deliver)
	if m.chance(m.faults.Duplicate) {
		m.after(m.upTo(m.faults.Delay), deliver)
	}
}
