package main

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"rtm/rtmtest"
)

// A fleet is a store of several redis-servers and two instances, a and b, all of
// them processes of their own on a network that can fail. Gateways reach both.
type fleet struct {
	t      testing.TB
	net    *rtmtest.Net
	lab    *lab
	procs  map[string]*process
	apis   map[string]string
	whole  func() // waits until nothing is wrong with the store
	rows   []faultRow
	rounds int
	loses  bool // what is lost is counted, and is no failure
}

// A faultRow is what one round came to.
type faultRow struct {
	fault   string
	gap     time.Duration // the longest time without an acknowledged answer
	slowest time.Duration // from the first sending of a message to its acknowledgement
	o       *outcome
}

// What no fault may lead to, on however slow a machine: that the service does not come
// back, or grows.
const (
	outageMax = time.Minute
	memoryMax = 1 << 30 // octets of an instance
)

// memory is how much of the machine's memory the process takes, in KiB; zero: it does
// not run.
func (p *process) memory() (kib int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	fmt.Sscan(rest, &kib)
	return kib
}

// startFleet runs both instances on a store until the test ends.
func startFleet(t testing.TB, net *rtmtest.Net, url string, whole func(), args ...string) *fleet {
	t.Helper()
	s := &fleet{t: t, net: net, lab: &lab{records: t.TempDir()}, procs: make(map[string]*process), apis: make(map[string]string), whole: whole}
	for _, name := range []string{"a", "b"} {
		target, api := rtmtest.FreeAddr(t), rtmtest.FreeAddr(t)
		p := &process{t: t, args: append([]string{"serve", "--store", url, "--name", name, "--peer-host", name + ".ocs.example",
			"--diameter", target, "--http", api, "--records", s.lab.records}, args...)}
		net.Join(name, p.PID)
		p.run()
		s.procs[name], s.apis[name] = p, "http://"+api
		s.lab.targets, s.lab.api = append(s.lab.targets, target), s.apis[name] // the last one's: b is never the one that is parted
		rtmtest.Until(t, name+" is ready", ready(s.lab.api))
	}
	return s
}

// round plays load, has a fault happen in it, and waits until the store is whole
// again. The load goes on for a second after the fault.
func (s *fleet) round(fault string, do func()) {
	s.t.Helper()
	s.whole()
	s.forget()
	s.rounds++
	o := under(s.t, s.lab, func(p *play) {
		p.conf.Rate, p.conf.Hop, p.conf.Seed = faultRate, true, uint64(time.Now().UnixNano())>>10
		if s.loses { // of what is lost there is no record either
			p.records = ""
		}
	}, func() {
		<-time.After(time.Second)
		do()
		<-time.After(time.Second)
	})
	s.rows = append(s.rows, faultRow{fault, o.Gap, o.Max, o})
	for _, c := range o.Checks {
		if !c.OK && !s.loses {
			s.t.Errorf("%s, round %d: FAIL %s: %s", fault, s.rounds, c.What, c.Text)
		}
	}
	if o.Gap > outageMax || o.Max > outageMax {
		s.t.Errorf("%s, round %d: %s without an answer, the slowest took %s; %s are too much for any fault", fault, s.rounds, o.Gap, o.Max, outageMax)
	}
	for name, p := range s.procs {
		if kib := p.memory(); kib > memoryMax>>10 {
			s.t.Errorf("%s, round %d: instance %s takes %d MiB", fault, s.rounds, name, kib>>10)
		}
	}
	s.t.Logf("%s: gap %s, slowest %s, %d messages, %d resent, %d answered 3004 (%d believed), lost %d, doubled %d", fault, o.Gap.Round(time.Millisecond),
		o.Max.Round(time.Millisecond), o.Messages, o.Resent, o.Busy, o.Yielded, o.Lost, o.Doubled)
}

// forget removes the record files of earlier rounds, as an operator does who has
// fetched them.
func (s *fleet) forget() {
	err := filepath.WalkDir(s.lab.records, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, ".part") {
			err = os.Remove(path)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// table prints what the rounds came to, a line for each kind of fault.
func (s *fleet) table() {
	var kinds []string
	of := make(map[string][]faultRow)
	for _, r := range s.rows {
		if of[r.fault] == nil {
			kinds = append(kinds, r.fault)
		}
		of[r.fault] = append(of[r.fault], r)
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "fault\trounds\toutage p50\tmax\tslowest answer\tmessages\tresent\t3004\tacknowledged\tlost\tdoubled")
	for _, k := range kinds {
		list := of[k]
		slices.SortFunc(list, func(a, b faultRow) int { return cmp.Compare(a.gap, b.gap) })
		slowest, messages, resent, busy, octets, lost, doubled := time.Duration(0), int64(0), int64(0), int64(0), int64(0), int64(0), int64(0)
		for _, r := range list {
			slowest, messages, resent = max(slowest, r.slowest), messages+r.o.Messages, resent+r.o.Resent
			busy, octets, lost, doubled = busy+r.o.Busy, octets+r.o.Units, lost+r.o.Lost, doubled+r.o.Doubled
		}
		fmt.Fprintf(w, "%s\t%d\t%.2f s\t%.2f s\t%.2f s\t%d\t%d\t%d\t%d\t%d\t%d\n", k, len(list), list[len(list)/2].gap.Seconds(),
			list[len(list)-1].gap.Seconds(), slowest.Seconds(), messages, resent, busy, octets, lost, doubled)
	}
	w.Flush()
	s.t.Log("\n" + b.String())
}

// nodeNames are those of nodes in their network.
func nodeNames(list ...*rtmtest.Redis) (all []string) {
	for _, r := range list {
		all = append(all, r.Name)
	}
	return all
}

// bySentinels is a fleet whose master three Sentinels watch.
type bySentinels struct {
	*fleet
	*rtmtest.Sentinels
}

func startSentinels(t testing.TB, durability string) *bySentinels {
	t.Helper()
	n := rtmtest.NewNet(t)
	r := rtmtest.StartSentinels(t, n, 2, roomy()...)
	return &bySentinels{startFleet(t, n, r.URL(), r.Whole, "--durability", durability), r}
}

// roomy are the settings of servers that keep what an hour of load leaves, most of it at
// one master if slots move there: at 85 % of their memory no more sessions would begin.
func roomy() []string {
	if !longFaults {
		return nil
	}
	return []string{"maxmemory 3gb"}
}

// replaced waits until the Sentinels name another master.
func (s *bySentinels) replaced(m *rtmtest.Redis) {
	rtmtest.Within(s.t, time.Minute, "there is another master", func() bool {
		now := s.Master()
		return now != nil && now != m
	})
}

// killMaster ends the master, and starts it again once there is another.
func (s *bySentinels) killMaster() {
	m := s.Master()
	m.Kill()
	s.replaced(m)
	<-time.After(3 * time.Second) // as its service waits
	m.Start()
}

// loseMaster is the loss of its machine: what is on its way is gone, too.
func (s *bySentinels) loseMaster() {
	m := s.Master()
	away := s.fleet.net.Away(nodeNames(m), nodeNames(s.Replicas()...), 10*time.Millisecond, 0)
	<-time.After(500 * time.Millisecond)
	heal := s.fleet.net.Part(rtmtest.Lost, nodeNames(m), nil)
	m.Kill()
	s.replaced(m)
	<-time.After(3 * time.Second)
	m.Start()
	heal()
	away()
}

// freeze stops a node for a while.
func freeze(r *rtmtest.Redis, d time.Duration) {
	r.Freeze()
	<-time.After(d)
	r.Thaw()
}

// freezeInstance stops a, for a while.
func (s *fleet) freezeInstance(d time.Duration) {
	s.procs["a"].freeze()
	<-time.After(d)
	s.procs["a"].thaw()
}

// killInstance kills a, and starts it again.
func (s *fleet) killInstance() {
	s.procs["a"].kill9()
	<-time.After(presenceGone)
	s.procs["a"].start()
}

// isolate parts the master from everybody.
func (s *bySentinels) isolate(f rtmtest.Fault, d time.Duration) {
	heal := s.fleet.net.Part(f, nodeNames(s.Master()), nil)
	<-time.After(d)
	heal()
}

// split parts the master, a replica and instance a from the other replica, the
// Sentinels and instance b.
func (s *bySentinels) split(f rtmtest.Fault) {
	m, r := s.Master(), s.Replicas()
	heal := s.fleet.net.Part(f, append(nodeNames(m, r[0]), "a"), append(nodeNames(r[1]), append(nodeNames(s.Sentinels.Sentinels...), "b")...))
	<-time.After(6 * time.Second)
	heal()
}

// full gives the master no memory for a while.
func (s *bySentinels) full() {
	m := s.Master()
	before := m.Must("CONFIG", "GET", "maxmemory")[1]
	m.Must("CONFIG", "SET", "maxmemory", "1mb")
	<-time.After(2 * time.Second)
	m.Must("CONFIG", "SET", "maxmemory", before)
}

// slow has the store 200 ms further away, and 1 % as wide.
func (s *bySentinels) slow() {
	heal := s.fleet.net.Away([]string{"a", "b"}, nodeNames(s.Nodes...), 200*time.Millisecond, 100_000)
	<-time.After(3 * time.Second)
	heal()
}

// freezes are the lengths around down-after-milliseconds and an election: 8 s, and
// 3 s down to 0.9 s.
var freezes = func() []time.Duration {
	list := []time.Duration{8 * time.Second}
	for ms := 3000; ms >= 900; ms -= 100 {
		list = append(list, time.Duration(ms)*time.Millisecond)
	}
	return list
}()

// longFreezes are those beyond 3 s around an election in a Cluster, whose
// cluster-node-timeout is twice as long as down-after-milliseconds.
var longFreezes = func() (list []time.Duration) {
	for ms := 4000; ms > 3000; ms -= 100 {
		list = append(list, time.Duration(ms)*time.Millisecond)
	}
	return list
}()

// lag has one replica far behind, and the master die meanwhile.
func (s *bySentinels) lag() {
	heal := s.fleet.net.Away(nodeNames(s.Master()), nodeNames(s.Replicas()[0]), 150*time.Millisecond, 0)
	<-time.After(500 * time.Millisecond)
	s.killMaster()
	heal()
}

// Behind Sentinels, in safe: nothing that was acknowledged is lost, nothing is
// charged twice. The short form has one fault of each kind.
func TestFaultSentinel(t *testing.T) {
	t.Parallel()
	s := startSentinels(t, "safe")
	defer s.table()
	if !longFaults {
		s.round("kill master", s.killMaster)
		s.round("freeze master 1.6 s", func() { freeze(s.Master(), 1600*time.Millisecond) })
		s.round("master alone, silent", func() { s.isolate(rtmtest.Hole, 3*time.Second) })
		return
	}
	for n, d := range freezes {
		s.round("freeze master "+d.String(), func() { freeze(s.Master(), d) })
		switch (n + 2) % 3 {
		case 0:
			s.round("freeze replica "+d.String(), func() { freeze(s.Replicas()[n%2], d) })
		case 1:
			s.round("freeze Sentinel "+d.String(), func() { freeze(s.Sentinels.Sentinels[n%3], d) })
		case 2:
			s.round("freeze instance "+d.String(), func() { s.freezeInstance(d) })
		}
	}
	for range faultRounds {
		s.round("kill master", s.killMaster)
		s.round("one replica lags, kill master", s.lag)
		s.round("master alone 6 s, silent", func() { s.isolate(rtmtest.Hole, 6*time.Second) })
		s.round("split 6 s, silent", func() { s.split(rtmtest.Hole) })
		s.round("machine loss", s.loseMaster)
		s.round("kill instance", s.killInstance)
	}
	for range faultRounds / 7 {
		s.round("master alone 6 s, reset", func() { s.isolate(rtmtest.Cut, 6*time.Second) })
		s.round("split 6 s, reset", func() { s.split(rtmtest.Cut) })
		s.round("kill replica", func() {
			r := s.Replicas()[0]
			r.Kill()
			<-time.After(4 * time.Second)
			r.Start()
		})
		s.round("freeze replica 8 s", func() { freeze(s.Replicas()[0], 8*time.Second) })
		s.round("kill Sentinel", func() {
			r := s.Sentinels.Sentinels[0]
			r.Kill()
			<-time.After(2 * time.Second)
			r.Start()
		})
		s.round("freeze Sentinel 8 s", func() { freeze(s.Sentinels.Sentinels[1], 8*time.Second) })
		s.round("slow store 3 s", s.slow)
		s.round("maxmemory 2 s", s.full)
		s.round("SCRIPT FLUSH", func() {
			for range 5 {
				s.Master().Must("SCRIPT", "FLUSH")
				<-time.After(100 * time.Millisecond)
			}
		})
	}
}

// In fast an old master goes on answering while it is parted, and all of that is
// lost: so the books, the balances and the comparison of the two see a loss when
// there is one, and what the documentation says of fast is true.
func BenchmarkFaultFastLoses(t *testing.B) {
	defer t.ReportMetric(0, "ns/op")
	s := startSentinels(t, "fast")
	defer s.table()
	s.loses = true
	s.round("split, silent", func() { s.split(rtmtest.Hole) })
	if o := s.rows[0].o; o.Lost == 0 {
		t.Error("nothing was lost: fast is better than the documentation says, or the loss is not seen")
	}
	for range faultRounds / 4 {
		s.round("split, silent", func() { s.split(rtmtest.Hole) })
		s.round("kill master", s.killMaster)
		s.round("machine loss", s.loseMaster)
		s.round("freeze master 2s", func() { freeze(s.Master(), 2*time.Second) })
	}
}

// With one replica's word, what a master says that only paused may be lost.
func BenchmarkFaultSafe1(t *testing.B) {
	defer t.ReportMetric(0, "ns/op")
	s := startSentinels(t, "safe-1")
	defer s.table()
	for range faultRounds / 4 {
		s.round("kill master", s.killMaster)
		s.round("machine loss", s.loseMaster)
	}
	s.loses = true
	for n := range faultRounds / 2 {
		d := time.Duration(1400+100*(n%12)) * time.Millisecond
		s.round("freeze master "+d.String(), func() { freeze(s.Master(), d) })
	}
}

// inCluster is a fleet on a Redis Cluster.
type inCluster struct {
	*fleet
	*rtmtest.Cluster
	n int // which of the masters is the next one's turn
}

func startCluster(t testing.TB, masters, replicas int) *inCluster {
	t.Helper()
	n := rtmtest.NewNet(t)
	c := rtmtest.StartCluster(t, n, masters, replicas, roomy()...)
	return &inCluster{startFleet(t, n, c.URL(), c.Whole, "--durability", "safe"), c, 0}
}

// master is one of the masters, another one each time.
func (c *inCluster) master() *rtmtest.Redis {
	list := c.Masters()
	c.n++
	return list[c.n%len(list)]
}

// replaced waits until the others see as many masters as before, and not m.
func (c *inCluster) replaced(m *rtmtest.Redis, before int) {
	rtmtest.Within(c.t, time.Minute, "the shard has another master", func() bool {
		list := c.Masters()
		return len(list) == before && !slices.Contains(list, m)
	})
}

func (c *inCluster) killMaster() {
	m, before := c.master(), len(c.Masters())
	m.Kill()
	c.replaced(m, before)
	<-time.After(3 * time.Second) // as its service waits
	m.Start()
}

func (c *inCluster) loseMaster() {
	m, before := c.master(), len(c.Masters())
	away := c.fleet.net.Away(nodeNames(m), nodeNames(c.Replicas(m)...), 10*time.Millisecond, 0)
	<-time.After(500 * time.Millisecond)
	heal := c.fleet.net.Part(rtmtest.Lost, nodeNames(m), nil)
	m.Kill()
	c.replaced(m, before)
	<-time.After(3 * time.Second)
	m.Start()
	heal()
	away()
}

// split parts a master, one of its replicas and instance a from everybody else.
func (c *inCluster) split() {
	m := c.master()
	side := append(nodeNames(m, c.Replicas(m)[0]), "a")
	var others []string
	for _, name := range append(nodeNames(c.Nodes...), "b") {
		if !slices.Contains(side, name) {
			others = append(others, name)
		}
	}
	heal := c.fleet.net.Part(rtmtest.Hole, side, others)
	<-time.After(8 * time.Second)
	heal()
}

// alone parts a master from everybody.
func (c *inCluster) alone(f rtmtest.Fault) {
	heal := c.fleet.net.Part(f, nodeNames(c.master()), nil)
	<-time.After(8 * time.Second)
	heal()
}

// slow has the store 200 ms further away, and 1 % as wide.
func (c *inCluster) slow() {
	heal := c.fleet.net.Away([]string{"a", "b"}, nodeNames(c.Nodes...), 200*time.Millisecond, 100_000)
	<-time.After(3 * time.Second)
	heal()
}

// full gives a master no memory for a while.
func (c *inCluster) full() {
	m := c.master()
	before := m.Must("CONFIG", "GET", "maxmemory")[1]
	m.Must("CONFIG", "SET", "maxmemory", "1mb")
	<-time.After(2 * time.Second)
	m.Must("CONFIG", "SET", "maxmemory", before)
}

// flush has all masters forget their scripts, again and again.
func (c *inCluster) flush() {
	for range 5 {
		for _, m := range c.Masters() {
			m.Must("SCRIPT", "FLUSH")
		}
		<-time.After(100 * time.Millisecond)
	}
}

// migrate moves the fullest slots of a master to another one.
func (c *inCluster) migrate(slots int) {
	list := c.Masters()
	from, to := list[c.n%len(list)], list[(c.n+1)%len(list)]
	c.n++
	took, keys := []time.Duration{}, 0
	for _, slot := range c.Busiest(from, slots) {
		d, n := c.Migrate(slot, from, to)
		took, keys = append(took, d), keys+n
	}
	slices.Sort(took)
	c.t.Logf("%d slots with %d keys went from %s to %s, each in %s, at most %s", len(took), keys, from.Name, to.Name,
		took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
}

// In a Cluster, in safe: as behind Sentinels, and only the shard waits.
func TestFaultCluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, 2)
	defer c.table()
	if !longFaults {
		c.round("kill a shard's master", c.killMaster)
		c.round("migrate slots", func() { c.migrate(5) })
		return
	}
	for _, d := range append(longFreezes, freezes...) {
		c.round("freeze a shard's master "+d.String(), func() { freeze(c.master(), d) })
	}
	for range faultRounds / 7 {
		c.round("a master alone 8 s, reset", func() { c.alone(rtmtest.Cut) })
		c.round("slow store 3 s", c.slow)
		c.round("maxmemory 2 s", c.full)
		c.round("SCRIPT FLUSH", c.flush)
	}
	for range faultRounds {
		c.round("kill a shard's master", c.killMaster)
		c.round("a master alone 8 s, silent", func() { c.alone(rtmtest.Hole) })
		c.round("split 8 s, silent", c.split)
		c.round("machine loss", c.loseMaster)
		c.round("migrate slots", func() { c.migrate(20) })
		c.round("kill instance", c.killInstance)
	}
}

// With one replica for each master, a shard stops after its failover until the
// old master is back: nobody else could confirm a write. Nothing is lost.
func BenchmarkFaultClusterOfPairs(t *testing.B) {
	defer t.ReportMetric(0, "ns/op")
	c := startCluster(t, 3, 1)
	defer c.table()
	back := 10 * time.Second
	c.round("kill a shard's master, back after 10 s", func() {
		m, before := c.master(), len(c.Masters())
		m.Kill()
		c.replaced(m, before)
		<-time.After(back)
		m.Start()
	})
	if r := c.rows[0]; r.slowest < back {
		t.Errorf("the slowest answer took %s: something confirmed writes that nobody could", r.slowest)
	}
}

// How much of all this is done: `make fault-test` does the long form.
var longFaults, faultRounds, faultRate = os.Getenv("RTM_FAULTS") == "long", 20, 150.0 // faultRate: sessions of four messages a second

func init() {
	if n, err := strconv.Atoi(os.Getenv("RTM_FAULT_ROUNDS")); err == nil {
		faultRounds = n
	}
	if n, err := strconv.ParseFloat(os.Getenv("RTM_FAULT_RATE"), 64); err == nil {
		faultRate = n
	}
}
