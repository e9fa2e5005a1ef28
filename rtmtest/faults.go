package rtmtest

import (
	"math/rand/v2"
	"slices"
	"time"
)

// A hazard is a way in which a world can go wrong. Each has its own rate in each
// world; a third of them do not happen at all.
type hazard uint8

// The hazards.
const (
	hazardDrop        hazard = iota // a message between gateway and instance is lost
	hazardDuplicate                 // … comes twice
	hazardDelay                     // … comes late, and is overtaken
	hazardLost                      // commits never reach the store
	hazardCut                       // some of a batch of commits reach it, the reply does not come back
	hazardZombie                    // commits arrive after their sender gave them up
	hazardRefused                   // the store does not take a commit: full, TRYAGAIN, loading
	hazardQueueFull                 // … nor the whole batch
	hazardUnread                    // a load fails
	hazardNoScript                  // the node has forgotten its scripts
	hazardCrash                     // an instance dies and comes back
	hazardFreeze                    // an instance stands still, then goes on
	hazardSkew                      // an instance's date is wrong by up to an hour
	hazardDistance                  // an instance is far from the store
	hazardPanic                     // a decision panics
	hazardSlow                      // a sync of the embedded store takes long
	hazardFsync                     // a sync fails: the process ends
	hazardPower                     // power is lost: what was not synced is gone, or a part of it
	hazardPause                     // the master stands still for a moment
	hazardKill                      // the master's process dies
	hazardMachineLoss               // the master's machine is gone, with what was on its way
	hazardReplica                   // a replica dies
	hazardLag                       // a replica falls behind
	hazardIsolate                   // the master and some instances are cut off from the others
	hazardSwizzle                   // links are clogged one by one, and freed in another order
	hazardJump                      // the nodes' clocks differ by up to 20 seconds
	hazardShare                     // two followers believe that the same events are theirs
	hazardShards                    // the store is several clusters, which go wrong one by one
	hazardsEnd
)

// Names of the faults, and how often they happen at most: per message, commit,
// sync, second, or once per occasion.
var hazards = [hazardsEnd]struct {
	name string
	most float64
}{
	hazardDrop: {"drop", 0.2}, hazardDuplicate: {"duplicate", 0.3}, hazardDelay: {"delay", 0.3}, hazardLost: {"lost", 0.1}, hazardCut: {"cut", 0.1},
	hazardZombie: {"zombie", 0.1}, hazardRefused: {"refused", 0.1}, hazardQueueFull: {"queue-full", 0.05}, hazardUnread: {"unread", 0.1},
	hazardNoScript: {"noscript", 0.05}, hazardCrash: {"crash", 0.06}, hazardFreeze: {"freeze", 0.06}, hazardSkew: {"skew", 1}, hazardDistance: {"distance", 1},
	hazardPanic: {"panic", 0.02}, hazardSlow: {"slow", 0.3}, hazardFsync: {"fsync", 0.05}, hazardPower: {"power", 0.08}, hazardPause: {"pause", 1},
	hazardKill: {"kill", 1}, hazardMachineLoss: {"machine-loss", 1}, hazardReplica: {"replica", 1}, hazardLag: {"lag", 1}, hazardIsolate: {"isolate", 1},
	hazardSwizzle: {"swizzle", 0.5}, hazardJump: {"jump", 1}, hazardShare: {"share", 0.5}, hazardShards: {"shards", 1.5},
}

// String gives the fault's name, as a seed file spells it.
func (f hazard) String() string { return hazards[f].name }

// drawFaults draws which faults this world has, and how often. Whether its store is
// sharded is drawn apart: a world that was kept before there were such is still the
// same without that.
func (m *Sim) drawFaults() {
	rng := m.rng
	for f := range hazardsEnd {
		if f == hazardShards {
			rng = rand.New(rand.NewPCG(m.Seed, uint64(f)))
		}
		rate := rng.Float64() * hazards[f].most
		if rng.IntN(3) == 0 || slices.Contains(m.Without, f.String()) {
			rate = 0
		}
		m.rates[f], m.luck[f] = rate, rng.Uint64()
	}
}

// strikes reports whether a fault happens now. Each has luck of its own, so that a
// world without one of them is still much the same.
func (m *Sim) strikes(f hazard) bool {
	if m.rates[f] == 0 || m.calm {
		return false
	}
	m.luck[f]++
	return float64(scramble(m.luck[f])>>11) < m.rates[f]*(1<<53)
}

// Pauses between faults of a cluster: one at a time, as the promise of the mode
// safe has it, and the next when all is mended.
const (
	faultPauseMin = 500 * time.Millisecond
	faultPauseMax = 6 * time.Second
)

// strikeStore lets one of the cluster's faults begin, if it is in order.
func (c *cluster) strikeStore() {
	if c.mended() {
		c.faulty = false
		if c.m.calm {
			return
		}
		c.begin()
	}
	c.m.after(c.m.between(faultPauseMin, faultPauseMax), c.strikeStore)
}

// begin begins the fault whose turn it is.
func (c *cluster) begin() {
	m := c.m
	some := [...]hazard{hazardPause, hazardKill, hazardMachineLoss, hazardReplica, hazardLag, hazardIsolate, hazardIsolate, hazardSwizzle}
	f := some[m.rng.IntN(len(some))]
	for tries := 0; !m.strikes(f); tries++ {
		if tries == len(some) {
			return
		}
		f = some[m.rng.IntN(len(some))]
	}
	if m.restless && m.oneIn(2) && m.strikes(hazardIsolate) {
		f = hazardIsolate
	}
	m.tracef("begins: %s, of %s", f, c.nodes[0].addr)
	m.mixText(f.String())
	if c.mode == single {
		c.beginSingle(f)
		return
	}
	c.watch()
	master, replica := c.master(), c.otherThan(c.view().master)
	switch f {
	case hazardPause:
		length := m.between(900*time.Millisecond, 3*time.Second)
		if m.oneIn(5) {
			length = 8 * time.Second
		}
		c.pause(master, length)
	case hazardKill, hazardMachineLoss:
		c.kill(master, f == hazardMachineLoss)
	case hazardReplica:
		c.kill(replica, m.oneIn(2))
		if m.oneIn(2) { // the other one has all that was acknowledged since
			m.after(m.between(4*time.Second, 6*time.Second), func() { c.killBeside(master, replica) })
		}
	case hazardLag:
		replica.lag = m.between(100*time.Millisecond, 4*time.Second)
		m.after(m.between(2*time.Second, 8*time.Second), func() { replica.lag = 0 })
		if m.oneIn(2) {
			m.after(m.between(500*time.Millisecond, 3*time.Second), func() { c.killBeside(master, nil) })
		}
	case hazardIsolate:
		c.isolate(master)
	case hazardSwizzle:
		c.swizzle()
	default:
	}
}

// beginSingle begins a fault of a server that stands alone.
func (c *cluster) beginSingle(f hazard) {
	switch d := c.nodes[0]; f {
	case hazardPause:
		c.pause(d, c.m.between(100*time.Millisecond, 5*time.Second))
	case hazardKill:
		c.kill(d, false)
	case hazardSwizzle:
		c.swizzle()
	default:
	}
}

// killBeside kills a master while another fault lasts, unless it is no longer one.
func (c *cluster) killBeside(master, down *node) {
	if !c.m.calm && master.up && !master.paused && c.master() == master && (down == nil || !down.up) {
		c.watch()
		c.kill(master, c.m.oneIn(2))
	}
}

// isolate cuts the master, some instances and perhaps a replica off from all
// others. Where there are other clusters, mostly only what is of this one is cut off
// from each other: the instances still see those.
func (c *cluster) isolate(master *node) {
	m := c.m
	var inside [placesMax]bool
	inside[master.place] = true
	if r := c.otherThan(master.id); m.oneIn(2) {
		inside[r.place] = true
	}
	for _, n := range m.instances {
		inside[n.place] = m.oneIn(2)
	}
	for _, s := range c.sentinels {
		if s.place < c.first+nodesMax { // it stands beside a node
			continue
		}
		inside[s.place] = m.oneIn(4)
	}
	length := m.between(time.Second, 10*time.Second)
	if m.restless {
		length *= 2
	}
	wide := len(m.clusters) == 1 || m.oneIn(4)
	for a := range m.net.places {
		for b := range a {
			if inside[a] != inside[b] && (wide || c.has(a) || c.has(b)) {
				m.net.clog(a, b)
				m.after(length, func() { m.net.free(a, b) })
			}
		}
	}
}

// swizzle clogs the links of an instance to the cluster one by one, and frees them in another
// order (FoundationDB's word for it).
func (c *cluster) swizzle() {
	m := c.m
	n := m.instances[m.rng.IntN(len(m.instances))]
	length := m.between(time.Second, 6*time.Second)
	for p := c.first; c.has(p); p++ {
		m.after(m.upTo(length), func() {
			if m.calm {
				return
			}
			m.net.clog(n.place, p)
			m.after(m.upTo(length), func() { m.net.free(n.place, p) })
		})
	}
}
