package rtmtest

import (
	"fmt"
	"slices"
	"time"

	"rtm/store"
	"rtm/tenant"
)

// A mode is a kind of store, and what it promises (reliability.md, Durability
// modes).
type mode uint8

const (
	embedded mode = iota + 1 // in the process of the one instance: what was synced survives
	single                   // one redis-server that syncs before it answers
	safe                     // master and two replicas, three Sentinels, WAIT
	sharded                  // two or three times that, as in a Redis Cluster: each has partitions of its own
)

// Times of the store's parts.
const (
	downAfter    = time.Second
	demoteAfter  = 8 * time.Second // a Sentinel makes one that wrongly believes to be master a replica
	restartAfter = 3 * time.Second // a node's service does not start it earlier
	waitMax      = 400 * time.Millisecond
	lagMax       = 2500 * time.Millisecond // min-replicas-max-lag, and a second
)

// A cluster is the simulated store: one node, or three with their Sentinels. A
// sharded store is several of them, each with faults of its own. In a Redis Cluster
// the masters vote for whom Sentinels do here, those of other shards: what a client
// sees of that is the same, a master of a newer epoch.
type cluster struct {
	m         *Sim
	mode      mode // never sharded
	index     int
	first     place // of its nodes and Sentinels
	nodes     []*node
	sentinels []*sentinel
	faulty    bool // a fault is not mended yet: the Sentinels have something to look at
	electing  bool
	promoted  time.Duration // when a node last became the master by election
	epoch     int
}

// A node is one server. A master has a state; a replica has only a log, of
// which it got a part.
type node struct {
	m       *Sim
	cluster *cluster
	id      int
	addr    string
	place   place
	state   *state
	ops     []op
	marks   map[store.Key]uint8
	up      bool
	paused  bool
	pile    []func()
	boot    int // rises with each start: connections end with it
	synced  int // ops on disk
	syncing bool
	scripts bool
	skew    time.Duration // of its clock
	lag     time.Duration // until it takes what the master sends
	link    *following    // to its master; nil: it is one
	joining bool          // … and is reading all of it
	links   []*following  // of its replicas
	waiters []*waiter
	sent    time.Duration // when the batch in hand was
	wrong   time.Duration // since when the Sentinels want it to be something else
}

// A following is a replica's connection to its master.
type following struct {
	from, to *node
	flying   bool
	dead     bool
	acked    int
	broken   time.Duration // when it was cut; zero: it is not
}

// A waiter is a WAIT.
type waiter struct {
	offset, need int
	done         func(ok bool)
}

func makeNode(m *Sim, c *cluster, id int) *node {
	d := &node{m: m, cluster: c, id: id, up: true, state: newState(), marks: make(map[store.Key]uint8)}
	if c != nil {
		d.place, d.addr = c.first+place(id), c.addr(id)
	}
	return d
}

// build makes the clusters of a store.
func (m *Sim) build() {
	kind, count := m.mode, 1
	if kind == sharded {
		kind, count = safe, 2+m.rng.IntN(clustersMax-1)
	}
	for i := range count {
		m.clusters = append(m.clusters, newCluster(m, kind, i))
	}
	least, most := m.clusters[0].nodes[0].skew, m.clusters[0].nodes[0].skew
	for _, c := range m.clusters {
		for _, d := range c.nodes {
			least, most = min(least, d.skew), max(most, d.skew)
		}
	}
	m.jump, m.ahead = most-least, most
	m.net.places = clusterPlace(count)
}

// clusterOf is where a partition lies.
func (m *Sim) clusterOf(p store.Partition) *cluster {
	if len(m.clusters) == 1 {
		return m.clusters[0]
	}
	return m.clusters[scramble(m.deal^uint64(p))%uint64(len(m.clusters))]
}

// dealOut deals the partitions out over the clusters, so that each has some of those
// that accounts and identities lie in, or each of these has a cluster to itself: by
// chance few accounts and all that leads to them could lie on one.
func (m *Sim) dealOut() {
	for range 16 {
		m.deal = m.rng.Uint64()
		used := make(map[store.Partition]*cluster)
		for _, a := range m.accounts {
			used[a.key.Partition] = m.clusterOf(a.key.Partition)
			for _, id := range a.identities {
				p := tenant.Partition(id)
				used[p] = m.clusterOf(p)
			}
		}
		some := make(map[*cluster]bool)
		for _, c := range used {
			some[c] = true
		}
		if len(some) == min(len(m.clusters), len(used)) {
			return
		}
	}
}

// streams are those of the whole store.
func (m *Sim) streams() (all []*stream) {
	for _, c := range m.clusters {
		if d := c.master(); d.state != nil {
			all = append(all, d.state.streams...)
		}
	}
	return all
}

func newCluster(m *Sim, kind mode, index int) *cluster {
	c := &cluster{m: m, mode: kind, index: index, first: clusterPlace(index)}
	count := 1
	if kind == safe {
		count = 3
	}
	for i := range count {
		d := makeNode(m, c, i)
		if m.strikes(hazardJump) && kind != embedded {
			d.skew = m.between(-20*time.Second, 20*time.Second)
		}
		c.nodes = append(c.nodes, d)
	}
	if kind == safe {
		beside := m.oneIn(2)
		for i := range 3 {
			s := &sentinel{cluster: c, id: i, place: c.first + nodesMax + place(i)}
			if beside {
				s.place = c.first + place(i)
			}
			c.sentinels = append(c.sentinels, s)
		}
	}
	return c
}

// start is when the world is founded: replicas have all of it.
func (c *cluster) start() {
	for _, d := range c.nodes[1:] {
		d.state = nil
		d.attach(c.nodes[0])
	}
	for _, d := range c.nodes {
		d.synced = len(d.ops)
	}
	if c.mode != embedded {
		c.m.after(c.m.upTo(faultPauseMax), c.strikeStore)
	}
}

// time is what the node's clock shows.
func (d *node) time() time.Duration { return d.m.now + d.skew }

// receive does run on the node, later if it stands still; never if it is dead.
func (d *node) receive(run func()) {
	switch {
	case !d.up:
	case d.paused:
		d.pile = append(d.pile, run)
	default:
		run()
	}
}

// master reports whether the node believes to be one.
func (d *node) master() bool { return d.up && d.link == nil && !d.joining && d.state != nil }

// attach makes d a replica of master that has all it has.
func (d *node) attach(master *node) {
	d.detach()
	d.m.tracef("%s is in step with %s", d.addr, master.addr)
	d.joining, d.wrong, d.state = false, 0, nil
	d.ops = master.ops[:len(master.ops):len(master.ops)]
	d.link = &following{from: master, to: d, acked: len(d.ops)}
	master.links = append(master.links, d.link)
}

// detach ends d's connection to its master, which hears of it when it can: until
// then it counts what d has acknowledged.
func (d *node) detach() {
	l := d.link
	if l == nil {
		return
	}
	l.dead, d.link = true, nil
	d.m.net.carry(d.place, l.from.place, time.Millisecond, func() { l.from.receive(l.forget) })
}

// forget takes a connection off its master's list.
func (l *following) forget() {
	l.from.links = slices.DeleteFunc(l.from.links, func(o *following) bool { return o == l })
}

// dismiss ends the connections of d's replicas.
func (d *node) dismiss() {
	for _, l := range d.links {
		if l.dead = true; l.to.link == l {
			l.to.link = nil
		}
	}
	d.links = nil
}

// follow makes d read all that master has, and then be its replica.
func (d *node) follow(master *node) {
	if d == master || d.joining {
		return
	}
	d.detach()
	d.dismiss()
	d.joining, d.waiters = true, nil
	boot := d.boot
	d.m.after(d.m.between(100*time.Millisecond, 2*time.Second), func() {
		if d.boot != boot || !d.up {
			return
		}
		d.joining = false
		if d.m.net.open(d.place, master.place) && master.master() && !master.paused && !d.paused {
			d.attach(master)
		}
	})
}

// push sends what is new to the replicas.
func (d *node) push() {
	for _, l := range d.links {
		l.feed()
	}
}

func (l *following) feed() {
	d, r, upTo := l.from, l.to, len(l.from.ops)
	if l.flying || l.dead || !d.up || d.paused || len(r.ops) >= upTo && l.acked >= upTo || !d.m.net.open(d.place, r.place) {
		return
	}
	l.flying = true
	ops := d.ops[:upTo:upTo]
	d.m.net.carry(d.place, r.place, d.m.upTo(4*time.Millisecond)+r.lag, func() {
		r.receive(func() {
			l.flying = false
			if l.dead {
				return
			}
			if upTo > len(r.ops) {
				r.ops = ops
			}
			d.m.net.carry(r.place, d.place, d.m.upTo(2*time.Millisecond), func() {
				d.receive(func() {
					if !l.dead && upTo > l.acked {
						l.acked = upTo
						d.settle()
					}
				})
			})
			l.feed()
		})
	})
}

// wait is WAIT: done is told whether need replicas have acknowledged offset, at
// once or within waitMax.
func (d *node) wait(offset, need int, done func(ok bool)) {
	if d.acknowledged(offset) >= need {
		done(true)
		return
	}
	w := &waiter{offset, need, done}
	d.waiters = append(d.waiters, w)
	boot := d.boot
	d.m.after(waitMax, func() {
		d.receive(func() {
			if i := slices.Index(d.waiters, w); i >= 0 && d.boot == boot {
				d.waiters = slices.Delete(d.waiters, i, i+1)
				done(false)
			}
		})
	})
}

func (d *node) acknowledged(offset int) (n int) {
	for _, l := range d.links {
		if l.acked >= offset {
			n++
		}
	}
	return n
}

// settle ends the WAITs that have what they wait for.
func (d *node) settle() {
	kept := d.waiters[:0]
	for _, w := range d.waiters {
		if d.acknowledged(w.offset) >= w.need {
			w.done(true)
			continue
		}
		kept = append(kept, w)
	}
	clear(d.waiters[len(kept):])
	d.waiters = kept
}

// replicas is how many have been heard of within lagMax: min-replicas-to-write
// asks for one.
func (d *node) replicas() (n int) {
	for _, l := range d.links {
		if l.ok() || d.m.now-l.broken < lagMax {
			n++
		}
	}
	return n
}

// ok reports whether the link carries, and notes since when it does not.
func (l *following) ok() bool {
	if !l.dead && l.to.up && !l.to.paused && l.to.lag < time.Second && l.from.m.net.open(l.from.place, l.to.place) {
		l.broken = 0
		return true
	}
	if l.broken == 0 {
		l.broken = l.from.m.now
	}
	return false
}

// pause lets a node stand still for a while.
func (c *cluster) pause(d *node, length time.Duration) {
	d.paused = true
	c.m.tracef("%s stands still for %s", d.addr, length)
	boot := d.boot
	c.m.after(length, func() {
		if d.boot == boot {
			d.resume()
		}
	})
}

func (d *node) resume() {
	if !d.paused {
		return
	}
	d.paused = false
	d.m.tracef("%s goes on", d.addr)
	pile := d.pile
	d.pile = nil
	for _, run := range pile {
		d.receive(run)
	}
	d.push()
}

// kill ends a node's process. With its machine goes all that is on its way from
// it, and its disk. It is started again when the Sentinels have another master.
func (c *cluster) kill(d *node, machine bool) {
	c.m.tracef("%s dies, with its machine: %t", d.addr, machine)
	d.up, d.paused, d.joining, d.pile, d.waiters = false, false, false, nil, nil
	d.boot++
	if machine {
		for _, l := range d.links {
			l.dead = true
		}
		d.ops = nil
	}
	d.detach()
	c.m.after(c.m.between(restartAfter, 12*time.Second), func() { c.restart(d) })
}

func (c *cluster) restart(d *node) {
	if d.up {
		return
	}
	if len(c.nodes) > 1 && c.view().master == d.id {
		c.m.after(time.Second, func() { c.restart(d) })
		return
	}
	d.dismiss()
	c.m.tracef("%s is back", d.addr)
	d.up, d.scripts, d.state, d.wrong = true, false, replay(d.ops), 0
	d.marks = make(map[store.Key]uint8)
}

// master is the node that the Sentinels have made the master, or the only one.
func (c *cluster) master() *node {
	if c.mode != safe {
		return c.nodes[0]
	}
	return c.nodes[c.view().master]
}

// has reports whether one of its nodes or Sentinels stands there.
func (c *cluster) has(p place) bool { return p >= c.first && p < c.first+clusterPlaces }

// view is what the Sentinel that knows most believes.
func (c *cluster) view() *sentinel {
	best := c.sentinels[0]
	for _, s := range c.sentinels {
		if s.epoch > best.epoch {
			best = s
		}
	}
	return best
}

// otherThan is a node that is not that one.
func (c *cluster) otherThan(id int) *node {
	return c.nodes[(id+1+c.m.rng.IntN(len(c.nodes)-1))%len(c.nodes)]
}

// reconnect lets replication go on over a link that is free again.
func (c *cluster) reconnect(a, b place) {
	if !c.has(a) && !c.has(b) {
		return
	}
	for _, d := range c.nodes {
		for _, l := range slices.Clone(d.links) {
			if l.from.place == a && l.to.place == b || l.from.place == b && l.to.place == a {
				if l.flying = false; l.dead {
					l.forget()
				}
				l.feed()
			}
		}
	}
}

// mended reports whether all is in order: one master, two replicas that have all,
// Sentinels and instances that know it. Only then another fault is a single one.
func (c *cluster) mended() bool {
	if c.mode == single {
		return c.nodes[0].up && !c.nodes[0].paused
	}
	if c.electing {
		return false
	}
	master := c.master()
	for _, d := range c.nodes {
		if !d.up || d.paused || d.joining || d.lag > 0 || d != master && (d.link == nil || d.link.from != master || len(d.ops) < len(master.ops)) {
			return false
		}
	}
	for _, s := range c.sentinels {
		if s.master != master.id {
			return false
		}
	}
	for _, n := range c.m.instances {
		if k := n.store.clients[c.index]; k.node != master || k.quorum.Need() != 2 {
			return false
		}
	}
	for a := c.first; c.has(a); a++ {
		if c.m.net.clogged[a] != [placesMax]uint8{} {
			return false
		}
	}
	return true
}

// heal ends what is wrong at once: no more faults come.
func (c *cluster) heal() {
	for _, d := range c.nodes {
		if d.lag = 0; d.up {
			d.resume()
		}
	}
}

// A sentinel watches the nodes, agrees with the others that the master is down,
// and promotes a replica: the best of those it can reach, as far as it knows.
type sentinel struct {
	cluster *cluster
	id      int
	place   place
	master  int
	epoch   int
	heard   [3]time.Duration // when each node last answered
	offsets [3]int           // as of then, or before
	again   time.Duration    // no election before
	ticking bool
}

// watch begins the Sentinels' looking; as long as nothing is wrong they need not.
func (c *cluster) watch() {
	c.faulty = true
	for _, s := range c.sentinels {
		for i, d := range c.nodes {
			s.heard[i], s.offsets[i] = c.m.now, max(len(d.ops)-c.m.rng.IntN(4), 0)
		}
		if !s.ticking {
			s.ticking = true
			s.tick()
		}
	}
}

func (s *sentinel) tick() {
	c := s.cluster
	if !c.faulty {
		s.ticking = false
		return
	}
	for i, d := range c.nodes {
		if !s.reaches(d) {
			continue
		}
		s.heard[i] = c.m.now
		if c.m.oneIn(4) {
			s.offsets[i] = len(d.ops)
		}
		s.correct(d)
	}
	for _, o := range c.sentinels {
		if o.epoch > s.epoch && c.m.net.open(s.place, o.place) {
			s.master, s.epoch = o.master, o.epoch
		}
	}
	if s.down(s.master) && s.agreed() >= 2 && c.m.now >= s.again && !c.electing {
		s.again = c.m.now + c.m.between(2*time.Second, 10*time.Second)
		c.electing = true
		c.m.after(c.m.between(50*time.Millisecond, time.Second), s.promote)
	}
	c.m.after(c.m.between(100*time.Millisecond, 300*time.Millisecond), s.tick)
}

func (s *sentinel) reaches(d *node) bool {
	return d.up && !d.paused && s.cluster.m.net.open(s.place, d.place)
}

// down is s_down.
func (s *sentinel) down(id int) bool { return s.cluster.m.now-s.heard[id] > downAfter }

// agreed is how many Sentinels that this one reaches find the master down.
func (s *sentinel) agreed() (n int) {
	for _, o := range s.cluster.sentinels {
		if s.cluster.m.net.open(s.place, o.place) && o.down(s.master) && o.master == s.master {
			n++
		}
	}
	return n
}

// correct makes a node what it should be, after a while.
func (s *sentinel) correct(d *node) {
	c := s.cluster
	m, master := c.m, c.nodes[s.master]
	right := d == master && d.link == nil || d != master && d.link != nil && d.link.from == master
	switch {
	case right || d.joining || d == master:
		d.wrong = 0
	case d.wrong == 0:
		d.wrong = m.now
	case d.link == nil && d.state != nil && m.now-d.wrong < demoteAfter:
	case m.now-d.wrong < m.between(100*time.Millisecond, 1500*time.Millisecond):
	default:
		d.follow(master)
	}
}

// promote makes the replica that seems to have most the master.
func (s *sentinel) promote() {
	c := s.cluster
	c.electing = false
	best, reached := -1, 0
	for _, o := range c.sentinels {
		if c.m.net.open(s.place, o.place) {
			reached++
		}
	}
	for i, d := range c.nodes {
		if i != s.master && !s.down(i) && s.reaches(d) && d.link != nil && (best < 0 || s.offsets[i] > s.offsets[best]) {
			best = i
		}
	}
	if best < 0 || reached < 2 {
		return
	}
	d := c.nodes[best]
	d.detach()
	d.state, d.scripts, d.wrong = replay(d.ops), false, 0
	d.ops = slices.Clip(d.ops)
	d.marks = make(map[store.Key]uint8)
	old := s.master
	c.epoch++
	s.master, s.epoch, c.promoted = best, c.epoch, c.m.now
	c.m.tracef("%s is promoted with %d of %d ops", d.addr, len(d.ops), len(c.nodes[old].ops))
	c.m.mixNumber(uint64(best))
}

// replicasOf is what a client hears of a master's replicas from this Sentinel.
func (s *sentinel) replicasOf(master int) (list []Replica) {
	for i := range s.cluster.nodes {
		if i != master {
			list = append(list, Replica{Addr: s.cluster.nodes[i].addr, Down: s.cluster.faulty && s.down(i)})
		}
	}
	return list
}

// addr is what a node is called.
func (c *cluster) addr(id int) string { return fmt.Sprintf("node-%d", c.index*nodesMax+id) }
