package rtmtest

import (
	"slices"
	"time"

	"rtm/store"
	"rtm/tenant"
)

// Times of a client of the store, as production has them.
const (
	operationMax  = time.Second // of one store operation
	discoverEvery = 200 * time.Millisecond
)

// A client is an instance's way to a cluster: the node it takes for the master,
// and what that needs to be safe. How many replicas that are is decided by
// the Quorum of store/redis, as in production.
type client struct {
	n        *instance
	c        *cluster
	node     *node
	quorum   Quorum
	epoch    int                         // the newest in which a Sentinel was believed
	acks     int                         // replicas that were in step with the node when it was last asked
	looking  bool                        // for another master, soon
	ahead    [nodesMax]time.Duration     // how far each node's clock is ahead of the store's
	doubtful map[store.Key]*store.Record // with a planted bug
}

func newClient(n *instance, c *cluster) *client {
	k := &client{n: n, c: c, quorum: NewQuorum(), node: c.nodes[0], epoch: -1}
	if c.mode == safe {
		k.discover()
	}
	return k
}

// A Quorum decides how many replicas of a master must have a write before it is
// safe, from what each of its watchers says of them and which are in step.
type Quorum interface {
	Hear(watchers int, heard [][]Replica, attached []string)
	Need() int
	Proves(have, need int, all map[string]int64) bool
	Inherit(addr string) Quorum
}

// A Replica is what one watcher says of a replica.
type Replica struct {
	Addr string
	Down bool
}

// NewQuorum makes the Quorum of production. A test says what that is: this
// package cannot know store/redis, whose own tests use it.
var NewQuorum func() Quorum

// A trip is one operation on its way.
type trip struct{ over bool }

// ask sends work to the node. failed is told when no answer comes in time, or
// the connection breaks; answer brings one back.
func (k *client) ask(late time.Duration, failed func(), work func(d *node, answer func(func()))) {
	n, d, t := k.n, k.node, &trip{}
	life := n.life
	end := func(what func()) {
		n.do(life, func() {
			if !t.over {
				t.over = true
				what()
			}
		})
	}
	fail := func() { k.lookAgain(); failed() }
	n.m.after(operationMax, func() {
		if !t.over {
			end(fail)
		}
	})
	n.m.net.carry(n.place, d.place, n.distance()+late, func() {
		if !d.up {
			end(fail)
			return
		}
		d.receive(func() {
			boot := d.boot
			work(d, func(what func()) {
				if d.boot == boot {
					n.m.net.carry(d.place, n.place, n.distance(), func() { end(what) })
				}
			})
		})
	})
}

// load reads records; nil: it failed.
func (k *client) load(keys []store.Key, done func([]store.Record)) {
	if k.n.m.strikes(hazardUnread) {
		k.n.later(k.n.distance(), func() { done(nil) })
		return
	}
	keys = slices.Clone(keys)
	k.ask(0, func() { done(nil) }, func(d *node, answer func(func())) {
		if d.state == nil || d.joining {
			answer(func() { k.lookAgain(); done(nil) })
			return
		}
		recs := d.load(keys)
		answer(func() { done(k.remembered(keys, recs)) })
	})
}

// commit sends a batch. What its results say, its WAIT or the sync has proven.
func (k *client) commit(cs []store.Commit, done func([]store.Result)) {
	m := k.n.m
	own := make([]store.Commit, len(cs))
	for i := range cs {
		own[i] = copied(&cs[i])
	}
	k.count(own)
	doubt := func() { done(k.inDoubt(own)) }
	late, carried, deaf := time.Duration(0), len(own), false
	switch {
	case k.need() > len(k.c.nodes): // it is not known yet
		k.lookAgain()
		fallthrough
	case m.strikes(hazardQueueFull):
		k.n.later(0, func() { done(results(len(own), store.Refused)) })
		return
	case m.strikes(hazardLost):
		k.n.later(operationMax, doubt)
		return
	case m.strikes(hazardZombie):
		late = m.between(operationMax, 20*time.Second)
	case m.strikes(hazardCut):
		carried, deaf = m.rng.IntN(len(own)+1), true
	}
	before, need := m.now, k.need() // of this node: another has another
	k.ask(late, doubt, func(d *node, answer func(func())) {
		if deaf {
			answer = func(func()) {}
		}
		d.sent = before
		k.execute(d, own, carried, need, func(rs []store.Result, w *waited) {
			now := k.shown(d)
			answer(func() {
				if w != nil && w.ok && m.Bug != "ack-one-of-two" && !(k.node == d && k.quorum.Proves(w.have, max(need, k.need()), w.all)) {
					unproved(rs)
				}
				if w != nil {
					m.checkProof(d, own, rs, before)
				}
				k.n.learn(before, now)
				if len(rs) > 0 && rs[0].Err == errMoved {
					k.lookAgain()
				}
				done(rs)
			})
		})
	})
}

// errMoved is READONLY, or LOADING.
var errMoved = store.ErrClosed

// waited is what a WAIT and the ROLE behind it found.
type waited struct {
	ok   bool
	have int
	all  map[string]int64 // how far each replica has acknowledged
}

// execute carries out a batch on a node and calls told when what it says is
// durable, as far as the node knows.
func (k *client) execute(d *node, cs []store.Commit, carried, need int, told func([]store.Result, *waited)) {
	m := k.n.m
	done := func(rs []store.Result) { told(rs, nil) }
	if !d.master() {
		rs := results(len(cs), store.Refused)
		rs[0].Err = errMoved
		done(rs)
		return
	}
	alone := k.c.mode == safe && d.replicas() < 1                          // NOREPLICAS answers each write
	if k.c.mode != embedded && (!d.scripts || m.strikes(hazardNoScript)) { // EVAL, one trip later
		d.scripts = true
		sent := d.sent
		m.after(2*k.n.distance(), func() { d.receive(func() { d.sent = sent; k.execute(d, cs, carried, need, told) }) })
		return
	}
	rs := make([]store.Result, len(cs))
	before, fence := len(d.ops), false
	for i := range cs[:carried] {
		if m.strikes(hazardRefused) || alone && !checksOnly(&cs[i]) {
			rs[i].Outcome = store.Refused
			continue
		}
		if k.trusts(&cs[i]) {
			rs[i].Outcome = store.Done
			continue
		}
		rs[i] = d.commit(&cs[i])
		fence = fence || checksOnly(&cs[i])
	}
	if m.Bug == "ship-before-durable" && cs[0].Writes[0].Key.Kind == tenant.KindCursor {
		done(rs)
		return
	}
	switch k.c.mode {
	case single:
		done(rs)
	case embedded:
		if m.Bug == "answer-repeat-before-durable" && len(d.ops) == before {
			done(rs)
			return
		}
		d.sync(k.n, func() { done(rs) })
	case safe:
		if fence && len(d.ops) == before && m.Bug != "read-not-fenced" {
			if alone {
				unproved(rs)
				done(rs)
				return
			}
			d.append(op{})
		}
		offset := len(d.ops)
		switch m.Bug {
		case "wait-elsewhere":
			offset = 0
		case "ack-one-of-two":
			need = 1
		}
		d.wait(offset, need, func(ok bool) {
			if !ok {
				unproved(rs)
			}
			w := &waited{ok, d.acknowledged(offset), make(map[string]int64)}
			for _, l := range d.links {
				w.all[l.to.addr] = int64(l.acked)
			}
			told(rs, w)
		})
	}
}

// unproved puts commits in doubt that are done at their node, and not known to be at
// all replicas that count. A conflict or a refusal stays one, as store/redis has it.
func unproved(rs []store.Result) {
	for i := range rs {
		if rs[i].Outcome == store.Done {
			rs[i] = store.Result{Outcome: store.InDoubt}
		}
	}
}

func checksOnly(c *store.Commit) bool {
	return !slices.ContainsFunc(c.Writes, func(w store.Write) bool { return w.Op != store.Check })
}

func results(n int, o store.Outcome) []store.Result {
	rs := make([]store.Result, n)
	for i := range rs {
		rs[i].Outcome = o
	}
	return rs
}

// due claims wake-ups; ok is false when that failed.
func (k *client) due(n int, lease time.Duration, done func(due []store.Due, next, now time.Time, ok bool)) {
	m := k.n.m
	before := m.now
	k.ask(0, func() { done(nil, time.Time{}, time.Time{}, false) }, func(d *node, answer func(func())) {
		if !d.master() || k.c.mode == safe && d.replicas() < 1 {
			answer(func() { k.lookAgain(); done(nil, time.Time{}, time.Time{}, false) })
			return
		}
		due, next := d.due(n, lease, k.ahead[d.id])
		now := k.shown(d)
		answer(func() {
			k.n.learn(before, now)
			done(due, next, epoch.Add(now), true)
		})
	})
}

// events reads durable events: it reads them, and then proves that they are.
func (k *client) events(p store.Partition, after uint64, n int, done func(evs []store.Event, ok bool)) {
	failed := func() { done(nil, false) }
	k.ask(0, failed, func(d *node, answer func(func())) {
		if d.state == nil || d.joining {
			answer(func() { k.lookAgain(); failed() })
			return
		}
		evs := d.events(p, after, n)
		if k.c.mode == embedded && k.n.m.Bug != "ship-before-durable" {
			evs = slices.DeleteFunc(evs, func(e store.Event) bool { return e.Seq > d.durable(p) })
		}
		answer(func() {
			if len(evs) == 0 || k.c.mode != safe || k.n.m.Bug == "ship-before-durable" {
				done(evs, true)
				return
			}
			k.prove(func(ok bool) { done(evs, ok && k.node == d) })
		})
	})
}

// prove has all that the node has proven to be durable.
func (k *client) prove(done func(ok bool)) {
	need := k.need()
	if need > len(k.c.nodes) { // it is not known yet
		k.lookAgain()
		k.n.later(0, func() { done(false) })
		return
	}
	k.ask(0, func() { done(false) }, func(d *node, answer func(func())) {
		if !d.master() || d.replicas() < 1 {
			answer(func() { k.lookAgain(); done(false) })
			return
		}
		d.append(op{})
		d.wait(len(d.ops), need, func(ok bool) { answer(func() { done(ok) }) })
	})
}

// trim forgets events.
func (k *client) trim(p store.Partition, upTo uint64, done func(ok bool)) {
	k.ask(0, func() { done(false) }, func(d *node, answer func(func())) {
		ok := d.master() && (k.c.mode != safe || d.replicas() > 0)
		if ok {
			d.append(op{partition: p, trim: upTo})
		}
		answer(func() { done(ok) })
	})
}

// durable is the last event of a partition that is on disk.
func (d *node) durable(p store.Partition) uint64 {
	n := len(d.state.stream(p).events)
	for i := range d.ops[d.synced:] {
		if o := &d.ops[d.synced+i]; o.partition == p {
			n -= len(o.events)
		}
	}
	return uint64(n)
}

// shown is the store's time when a node answers.
func (k *client) shown(d *node) time.Duration { return d.time() - k.ahead[d.id] }

// askTime learns the store's time: nothing is decided before that.
func (k *client) askTime(done func(ok bool)) {
	m := k.n.m
	before := m.now
	k.ask(0, func() { done(false) }, func(d *node, answer func(func())) {
		now := k.shown(d)
		answer(func() { k.n.learn(before, now); done(true) })
	})
}

// lookAgain asks the Sentinels soon.
func (k *client) lookAgain() {
	if k.looking || k.c.mode != safe {
		return
	}
	k.looking = true
	k.n.later(k.n.m.between(10*time.Millisecond, 50*time.Millisecond), func() { k.looking = false; k.discover() })
}

// keepLooking asks the Sentinels again and again.
func (k *client) keepLooking() {
	if k.c.mode != safe || k.n.m.quiet {
		return
	}
	if k.c.faulty {
		k.discover()
		k.n.later(discoverEvery, k.keepLooking)
	} else {
		k.n.later(time.Second, k.keepLooking)
	}
}

// discover asks the Sentinels who is master, believes the one with the newest
// epoch, if it is not older than one that was believed, and goes there if that
// node says so too.
func (k *client) discover() {
	m, best := k.c.m, (*sentinel)(nil)
	for _, s := range k.c.sentinels {
		if m.net.open(k.n.place, s.place) && (best == nil || s.epoch > best.epoch) {
			best = s
		}
	}
	if best == nil || best.epoch < k.epoch {
		return // it was cut off since before the last failover
	}
	to := k.c.nodes[best.master]
	if !to.master() || to.paused || !m.net.open(k.n.place, to.place) {
		return
	}
	if to != k.node {
		k.quorum = k.quorum.Inherit(to.addr)
		k.node, k.epoch = to, best.epoch
		k.n.store.compare()
		m.tracef("%s goes to %s", k.n.name, to.addr)
	}
	k.hear()
}

// hear tells the quorum what the Sentinels and the master say of its replicas.
func (k *client) hear() {
	var heard [][]Replica
	var attached []string
	for _, s := range k.c.sentinels {
		if k.c.m.net.open(k.n.place, s.place) && s.master == k.node.id {
			heard = append(heard, s.replicasOf(k.node.id))
		}
	}
	for _, l := range k.node.links {
		if l.ok() {
			attached = append(attached, l.to.addr)
		}
	}
	k.quorum.Hear(len(k.c.sentinels), heard, attached)
	k.acks = len(attached)
	k.c.m.tracef("%s hears of %s: %v, attached %v: %d are needed", k.n.name, k.node.addr, heard, attached, k.need())
}

// need is how many replicas must have what is sent now.
func (k *client) need() int {
	if k.c.mode != safe {
		return 0
	}
	return max(k.quorum.Need(), k.acks)
}

// sync lets done follow when all that the node has now is on disk.
func (d *node) sync(n *instance, done func()) {
	upTo := len(d.ops)
	if d.synced >= upTo && !d.syncing {
		done()
		return
	}
	d.waiters = append(d.waiters, &waiter{offset: upTo, done: func(bool) { done() }})
	d.flush(n)
}

// flush is one fsync of the embedded store.
func (d *node) flush(n *instance) {
	if d.syncing {
		return
	}
	d.syncing = true
	upTo, length := len(d.ops), d.m.between(200*time.Microsecond, 5*time.Millisecond)
	slow := d.m.strikes(hazardSlow)
	if slow {
		length = d.m.upTo(3 * time.Second)
	}
	n.later(length, func() {
		d.syncing = false
		if d.m.strikes(hazardFsync) || slow && d.m.strikes(hazardSlow) {
			n.crash(d.m.oneIn(2)) // it closed its gate, and exits
			return
		}
		d.synced = upTo
		kept := d.waiters[:0]
		for _, w := range d.waiters {
			if w.offset <= upTo {
				w.done(true)
				continue
			}
			kept = append(kept, w)
		}
		clear(d.waiters[len(kept):])
		if d.waiters = kept; len(d.ops) > upTo {
			d.flush(n)
		}
	})
}

// die is the end of the embedded store's process, and of its machine's power:
// of what was not synced a part is there, in order.
func (d *node) die() {
	d.boot++
	cut := d.synced + d.m.rng.IntN(len(d.ops)-d.synced+1)
	d.ops = slices.Clip(d.ops[:cut])
	d.synced = cut
	d.state, d.syncing, d.waiters = replay(d.ops), false, nil
	for i := range d.state.index {
		d.state.index[i].lease = 0
	}
	d.m.mixNumber(uint64(cut))
}
