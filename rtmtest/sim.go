// Package rtmtest proves the loop: a simulation of instances, network, store
// and gateways on one thread, with faults drawn from a seed, and a player of
// conversations written as text. It drives the same shards, timers, notices and
// followers that run in production. It does not know sockets or real stores.
package rtmtest

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
)

// A Sim is one simulated world. All in it happens on one thread, in the order
// of its clock.
type Sim struct {
	World
	rng        *rand.Rand
	now        time.Duration // since epoch
	queue      queue
	rates      [hazardsEnd]float64
	luck       [hazardsEnd]uint64
	calm       bool // faults and traffic have stopped
	calmSince  time.Duration
	quiet      bool // … and long timers are all that is left
	net        network
	mode       mode // of the store
	clusters   []*cluster
	restless   bool          // numbers move all the time, messages are repeated late, and what is cut off stays so: what an old master says meets what is newer elsewhere
	deal       uint64        // which partitions lie on which of them
	jump       time.Duration // how far the nodes' clocks may be from each other
	ahead      time.Duration // how far the furthest of them is ahead of the world's: what a node says is due at some moment is due that much sooner at most
	instances  []*instance
	tenants    []*simTenant
	accounts   []*simAccount
	identities []*simIdentity
	gateways   []*gateway
	operator   operator
	sessions   []*session
	notices    []*noticeBook
	sent       map[request][]*message // by what names them
	versions   uint64
	hash       uint64
	failures   []string
	check      func(d *node, c *store.Commit, was []*entry, changes []change) // of each commit; nil: none
	account    charging.Account                                               // of a check; used again
	entry      charging.Entry                                                 // likewise
	validity   time.Duration                                                  // of each grant
	grace      time.Duration
	records    bool // events are followed into files
	audited    bool // an auditor walks
	sober      bool // decisions do not panic
	Steps      int
}

// epoch is when every world begins.
var epoch = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

// Times of a world.
const (
	trafficMin = 15 * time.Second
	trafficMax = 60 * time.Second
	settling   = 40 * time.Second             // after traffic: leases, elections and resends come to an end
	worldMax   = 2*time.Hour + 10*time.Minute // by then even a session that was granted nothing is closed
)

// Run simulates a world until it is quiet and returns what was wrong in it, and
// a hash over all that was committed, answered and promoted.
func Run(w World) (failures []string, hash uint64) {
	m := newSim(w)
	m.play()
	m.checkEnd()
	for _, n := range m.instances {
		n.end()
	}
	return m.failures, m.hash
}

func newSim(w World) *Sim {
	m := &Sim{World: w, rng: rand.New(rand.NewPCG(w.Seed, 0x52544d)), sent: make(map[request][]*message)}
	m.drawFaults()
	m.found()
	m.settle()
	return m
}

// play runs the world: traffic and faults, then calm until every session must
// be gone.
func (m *Sim) play() {
	traffic := trafficMin + m.upTo(trafficMax-trafficMin)
	if m.Until > 0 {
		traffic = min(traffic, m.Until)
	}
	m.after(traffic, m.calmDown)
	m.after(traffic+settling, func() { m.quiet = true })
	for _, n := range m.instances {
		n.start()
	}
	for _, g := range m.gateways {
		g.start()
	}
	m.operator.start(m)
	m.after(5*time.Second, m.checkTimers)
	for _, c := range m.clusters {
		c.start()
	}
	for len(m.failures) == 0 {
		e, ok := m.queue.pop()
		if !ok || e.at > worldMax {
			break
		}
		m.now = e.at
		m.Steps++
		e.run()
	}
}

// calmDown ends all faults, and lets sessions end.
func (m *Sim) calmDown() {
	m.calm, m.calmSince = true, m.now
	m.net.freeAll()
	for _, c := range m.clusters {
		c.heal()
	}
	for _, n := range m.instances {
		n.thaw()
	}
}

func (m *Sim) after(d time.Duration, run func()) { m.queue.push(m.now+d, run) }

func (m *Sim) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(m.rng.Int64N(int64(d)))
}

func (m *Sim) between(least, most time.Duration) time.Duration { return least + m.upTo(most-least) }

func (m *Sim) oneIn(n int) bool { return m.rng.IntN(n) == 0 }

func (m *Sim) failf(format string, args ...any) {
	if len(m.failures) < 10 {
		m.failures = append(m.failures, epoch.Add(m.now).Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
	}
}

// tracef tells what happens, to whoever looks at one world.
func (m *Sim) tracef(format string, args ...any) {
	if m.Trace != nil {
		m.Trace(epoch.Add(m.now).Format("15:04:05.000000 ") + fmt.Sprintf(format, args...))
	}
}

// version draws a version: never the same twice in a world.
func (m *Sim) version() (v store.Version) {
	m.versions++
	binary.BigEndian.PutUint64(v[:], m.versions)
	return v
}

func (m *Sim) shard(name string) *rtm.Shard {
	sh := rtm.NewShard()
	sh.Version, sh.Instance, sh.Jitter = m.version, []byte(name), m.rng.Int64N
	return sh
}

// mix adds b to the hash over the world's history.
func (m *Sim) mix(b []byte) {
	h := m.hash
	for ; len(b) >= 8; b = b[8:] {
		h = scramble(h ^ binary.LittleEndian.Uint64(b))
	}
	for _, c := range b {
		h = h<<8 ^ uint64(c)
	}
	m.hash = scramble(h)
}

func (m *Sim) mixText(s string) {
	h := m.hash
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	m.hash = scramble(h)
}

func (m *Sim) mixNumber(n uint64) { m.hash = scramble(m.hash ^ n) }

func scramble(h uint64) uint64 {
	hi, lo := bits.Mul64(h^0x9E3779B97F4A7C15, 0xE7037ED1A0B428DB)
	return hi ^ lo
}
