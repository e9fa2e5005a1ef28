package redis

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"rtm/store"
)

// Times of the watch over who is master.
const (
	watchEvery  = 200 * time.Millisecond
	watchAnswer = 300 * time.Millisecond // what does not answer by then has not answered
	hurryEvery  = 20 * time.Millisecond  // it is not looked more often, however many want it
	weighEvery  = time.Second
	blindAfter  = 3 * time.Second
	watchMax    = 16          // nodes of a cluster that are asked at one time, while their masters know them by their names
	poolMax     = 64          // connections with a WAIT on them, to one node
	poolIdle    = time.Minute // they are closed when they were not used for so long
)

// A node is one server, and the connections to it. Commands without WAIT share
// one connection; a batch with its WAIT has one to itself, since a WAIT speaks
// for its own connection only and holds up what follows it.
type node struct {
	addr   string
	client rueidis.Client
	id     string      // in a cluster, of a master; only the watch uses it
	quorum *Quorum     // likewise
	clock  store.Clock // likewise
	marks  []mark      // likewise: of slots that come or go, as the node itself said last
	need   atomic.Int64
	names  atomic.Pointer[map[string]bool] // those that are meant by need; stored after it, and read before it
	fence  atomic.Int64                    // the partition in which fences are written
	ahead  atomic.Int64                    // nanoseconds that its clock is ahead of the store's

	mu    sync.Mutex     // guards wires
	wires map[*wire]bool // the connections that are open
}

// A wire is a connection to a node.
type wire struct {
	net.Conn
	to *node
}

// Close implements net.Conn.
func (w *wire) Close() error {
	w.to.mu.Lock()
	delete(w.to.wires, w)
	w.to.mu.Unlock()
	return w.Conn.Close()
}

// dial makes a connection that cut can end.
func (nd *node) dial(ctx context.Context, addr string, d *net.Dialer, secure *tls.Config) (net.Conn, error) {
	var c net.Conn
	var err error
	if secure != nil {
		c, err = (&tls.Dialer{NetDialer: d, Config: secure}).DialContext(ctx, "tcp", addr)
	} else {
		c, err = d.DialContext(ctx, "tcp", addr)
	}
	if err != nil {
		return nil, err
	}
	w := &wire{c, nd}
	nd.mu.Lock()
	defer nd.mu.Unlock()
	nd.wires[w] = true
	return w, nil
}

// cut ends all connections to a node: what is under way to a master that was
// replaced is in doubt at once, and not when its time is over.
func (nd *node) cut() {
	nd.mu.Lock()
	open := slices.Collect(maps.Keys(nd.wires))
	nd.mu.Unlock()
	for _, w := range open {
		w.Close()
	}
}

// nodes are the servers that were named so far.
type nodes struct {
	mu   sync.Mutex // guards of
	of   map[string]*node
	opt  func(addr string) rueidis.ClientOption
	done sync.WaitGroup // connections that are being closed: a silent server takes a second
}

// at is the node at addr, connected or not.
func (n *nodes) at(addr string) *node {
	n.mu.Lock()
	nd := n.of[addr]
	n.mu.Unlock()
	if nd != nil {
		return nd
	}
	nd = &node{addr: addr, wires: make(map[*wire]bool)}
	nd.need.Store(needUnknown)
	opt := n.opt(addr)
	opt.DialCtxFn = nd.dial
	nd.client, _ = rueidis.NewClient(opt) // it is there also if nobody answers yet
	if nd.client == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if first := n.of[addr]; first != nil {
		nd.client.Close()
		return first
	}
	n.of[addr] = nd
	return nd
}

// keep closes the connections to all nodes but those, and forgets them.
func (n *nodes) keep(named map[string]bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for addr, nd := range n.of {
		if !named[addr] {
			delete(n.of, addr)
			n.done.Go(nd.client.Close)
		}
	}
}

func (n *nodes) list() (all []*node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, nd := range n.of {
		all = append(all, nd)
	}
	return all
}

// options are those of one connection to addr, in the store's own settings.
func (p *place) options(addr, user, password string, db int) rueidis.ClientOption {
	o := rueidis.ClientOption{
		InitAddress: []string{addr}, Username: user, Password: password, SelectDB: db, ClientName: "rtm", ClientSetInfo: rueidis.DisableClientSetInfo,
		DisableCache: true, DisableRetry: true, ForceSingleClient: true, AlwaysPipelining: true,
		PipelineMultiplex: -1, // one connection: a batch and what follows stay in order
		ConnWriteTimeout:  writeTimeout,
		BlockingPoolSize:  poolMax, BlockingPoolCleanup: poolIdle, BlockingPoolMinSize: 1,
	}
	o.Dialer.Timeout = dialTimeout
	if p.tls != nil {
		o.TLSConfig = p.tls.Clone()
	}
	return o
}

// A topology says which master has which partition, at one time.
type topology struct {
	masters []*node // by address
	of      [store.Partitions]*node
	orphans bool // some have none
}

// same reports whether t and o send every partition to the same node.
func (t *topology) same(o *topology) bool { return o != nil && t.of == o.of }

func (t *topology) String() string {
	addrs := make([]string, len(t.masters))
	for i, m := range t.masters {
		addrs[i] = m.addr
	}
	return strings.Join(addrs, ",")
}

// add makes m the master of p.
func (t *topology) add(p store.Partition, m *node) {
	if t.of[p] = m; !slices.Contains(t.masters, m) {
		t.masters = append(t.masters, m)
		slices.SortFunc(t.masters, func(a, b *node) int { return strings.Compare(a.addr, b.addr) })
	}
}

// watch keeps the topology, and how many replicas each master needs, up to date.
func (s *Store) watch(ctx context.Context) {
	defer s.done.Done()
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	check, weigh := time.Now().Add(settingsEvery), time.Now()
	var blind, looked time.Time // since when nobody said who is master; when it was last asked
	var checking atomic.Bool
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-s.hurry:
			select {
			case <-ctx.Done():
				return
			case <-time.After(hurryEvery - time.Since(looked)):
			}
		}
		looked = time.Now()
		short, cancel := context.WithTimeout(ctx, 2*watchAnswer)
		if s.place.kind != alone {
			blind = s.sees(s.look(short), blind)
		}
		if time.Now().After(weigh) {
			s.weigh(short)
			weigh = time.Now().Add(weighEvery)
		}
		cancel()
		if time.Now().After(check) && !checking.Swap(true) {
			check = time.Now().Add(settingsEvery)
			s.done.Go(func() { // beside the watch: a server that is silent must not hide a failover
				s.recheck(ctx)
				checking.Store(false)
			})
		}
	}
}

// sees logs once when nobody has said for a while who is master, and once when
// somebody does again. since is the beginning of the silence, or zero.
func (s *Store) sees(err error, since time.Time) time.Time {
	switch {
	case err == nil && !since.IsZero() && s.blind.Swap(false):
		s.log.Info("it is known again who is master", "now", s.topology.Load().String())
	case err == nil:
	case since.IsZero():
		return time.Now()
	case time.Since(since) > blindAfter && !s.blind.Swap(true):
		s.log.Error("nobody says who is master: what was known before is used, and a failover would not be seen", "redis", s.place.where(), "error", err)
	}
	if err == nil {
		return time.Time{}
	}
	return since
}

// compare learns how far the masters' clocks are apart. The slowest is the store's:
// what the others show is told as if they went by it, so that nobody sees time go
// forth and back who speaks to one and then to another.
func (s *Store) compare(ctx context.Context, t *topology) {
	if len(t.masters) == 1 {
		t.masters[0].ahead.Store(0)
		return
	}
	var all sync.WaitGroup
	for _, m := range t.masters {
		all.Go(func() {
			before := time.Since(s.base)
			if now, err := readTime(m.client.Do(ctx, m.client.B().Time().Build())); err == nil {
				m.clock.Learn(before, time.Since(s.base), now.Sub(s.base.Round(0)))
			}
		})
	}
	all.Wait()
	known := slices.DeleteFunc(slices.Clone(t.masters), func(m *node) bool { return !m.clock.Known() })
	for _, m := range known {
		slowest := slices.MinFunc(known, func(a, b *node) int { return cmp.Compare(a.clock.Now(0), b.clock.Now(0)) })
		m.ahead.Store(int64(m.clock.Now(0) - slowest.clock.Now(0)))
	}
}

// shown is the store's time when the node's clock shows t.
func (nd *node) shown(t time.Time) time.Time { return t.Add(-time.Duration(nd.ahead.Load())) }

// soon has the watch look at once.
func (s *Store) soon() {
	select {
	case s.hurry <- struct{}{}:
	default:
	}
}

// look asks who is master of what, and takes over what it hears.
func (s *Store) look(ctx context.Context) (err error) {
	var t *topology
	switch s.place.kind {
	case alone:
		t, err = s.lookAtServer()
	case bySentinel:
		t, err = s.lookAtSentinels(ctx)
	case byCluster:
		t, err = s.lookAtCluster(ctx)
	}
	if err != nil || t == nil {
		return err
	}
	if !t.same(s.topology.Load()) {
		s.compare(ctx, t)
	}
	was := s.topology.Swap(t)
	if was != nil && !t.same(was) {
		s.Failovers.Add(1)
		for _, m := range was.masters {
			if !slices.Contains(t.masters, m) {
				m.quorum = nil
				m.need.Store(needUnknown) // who still holds it is refused
				m.cut()
			}
		}
		s.log.Warn("the store has other masters now", "before", was.String(), "now", t.String())
	}
	return nil
}

// lookAtServer is the whole of a store on one server.
func (s *Store) lookAtServer() (*topology, error) {
	t, m := &topology{}, s.nodes.at(s.place.addrs[0])
	if m == nil {
		return nil, errors.New("no connection can be made with these settings")
	}
	for p := range store.Partition(store.Partitions) {
		t.add(p, m)
	}
	return t, nil
}

// A sighting is what one Sentinel says.
type sighting struct {
	id       string
	master   string
	epoch    int64
	moving   bool // a failover is under way, and master has been promoted
	others   int
	quorum   int
	replicas []Replica
	sure     []map[string]string // replicas, in full
	peers    []string            // other Sentinels
	settings map[string]string   // of the master
}

// believe chooses among what Sentinels say: the newest epoch and, of several in
// it, the master that is known already. Another master than that needs a newer
// epoch than was ever believed. In no newer one it is believed only when all
// Sentinels that are known have agreed on it, as they do when they were set up
// anew, and count from there: some of them may have been cut off since before the
// last failover.
func believe(seen []sighting, whole bool, known string, epoch int64) (best *sighting, agreed bool, err error) {
	best = &seen[0]
	for i := range seen {
		if v := &seen[i]; v.epoch > best.epoch || v.epoch == best.epoch && v.master == known {
			best = v
		}
	}
	agreed = whole && !slices.ContainsFunc(seen, func(v sighting) bool { return v.master != best.master })
	if agreed || known == "" || best.master == known || best.epoch > epoch {
		return best, agreed, nil
	}
	return nil, false, fmt.Errorf("some Sentinels name %s as master in epoch %d, which is not newer than epoch %d, in which it was %s: it is believed when all of them do",
		best.master, best.epoch, epoch, known)
}

// lookAtSentinels believes Sentinels about who is master, and a majority of all
// of them about which replicas are down.
func (s *Store) lookAtSentinels(ctx context.Context) (*topology, error) {
	var was *node
	known := ""
	if t := s.topology.Load(); t != nil {
		was = t.of[0]
		known = was.addr
	}
	var best *sighting
	var agreed bool
	seen, whole, err := s.sight(ctx)
	if err == nil {
		best, agreed, err = believe(seen, whole, known, s.epoch)
	}
	if err != nil {
		was.linger(ctx)
		return nil, err
	}
	m := s.nodes.at(best.master)
	if m == nil {
		return nil, fmt.Errorf("no connection to %s can be made with these settings", best.master)
	}
	told, err := m.replication(ctx)
	if err != nil || told.role != "master" {
		if err == nil {
			err = fmt.Errorf("%s is named as master %s, but is a %s", m.addr, s.place.master, told.role)
		}
		if was == nil || was == m {
			return nil, err
		}
		was.linger(ctx)
		return nil, nil // the promotion is not finished: what we have stays
	}
	if was != m {
		m.quorum = &Quorum{}
		if was != nil && best.epoch > s.epoch {
			m.quorum = was.quorum.Inherit(m.addr)
		}
	}
	if agreed || best.epoch > s.epoch {
		s.epoch = best.epoch
	}
	watchers, named := 0, map[string]bool{m.addr: true}
	var heard [][]Replica
	for i := range seen {
		v := &seen[i]
		watchers = max(watchers, v.others+1)
		if v.master == m.addr && !v.moving {
			heard = append(heard, v.replicas)
		}
		for _, r := range v.sure {
			named[net.JoinHostPort(r["ip"], r["port"])] = true
		}
	}
	m.hear(watchers, heard, told.inStep(), told, told.strangers(named))
	for addr := range named {
		s.nodes.at(addr) // replicas are examined too
	}
	t := &topology{}
	for p := range store.Partition(store.Partitions) {
		t.add(p, m)
	}
	if was != nil {
		named[was.addr] = true
	}
	s.nodes.keep(named)
	return t, nil
}

// linger asks a master of which nobody speaks for its replicas. What it says can
// only raise what is needed.
func (nd *node) linger(ctx context.Context) {
	if nd == nil || nd.quorum == nil {
		return
	}
	if r, err := nd.replication(ctx); err == nil && r.role == "master" {
		nd.quorum.Meet(r.inStep())
		before := nd.need.Load()
		nd.need.Store(max(before, int64(nd.quorum.Need())))
		nd.mean(before, r, nil)
	}
}

// mean notes whom its need means: those that count, also under the names that the
// node itself has for them, which it told of those that are in step and of
// strangers. One that is not in step for a moment keeps its name while it is there,
// unless fewer are needed than before.
func (nd *node) mean(before int64, told *replication, strangers []string) {
	names := nd.quorum.Names()
	for _, addr := range slices.Concat(told.inStep(), strangers) {
		names[addr] = true
	}
	if was := nd.names.Load(); was != nil && nd.need.Load() >= before && before < needUnknown {
		for _, f := range told.online {
			if (*was)[f.addr] {
				names[f.addr] = true
			}
		}
	}
	nd.names.Store(&names)
}

// hear tells the quorum, and those who commit. told is the master's own word, by
// which alone strangers are replicas, whether they are in step or not.
func (nd *node) hear(watchers int, heard [][]Replica, attached []string, told *replication, strangers []string) {
	if nd.quorum == nil {
		nd.quorum = &Quorum{}
	}
	nd.quorum.Hear(watchers, heard, attached)
	nd.demand(told, strangers)
}

// demand is what the quorum and strangers make of what must be waited for.
func (nd *node) demand(told *replication, strangers []string) {
	need := nd.quorum.Need()
	for _, addr := range strangers {
		if !nd.quorum.counted[addr] {
			need++
		}
	}
	need = max(need, len(told.inStep())) // one may be back, and not known by that name
	before := nd.need.Swap(int64(need))
	nd.mean(before, told, strangers)
}

// sight asks all Sentinels at once. whole reports whether all that anybody knows
// have answered.
func (s *Store) sight(ctx context.Context) (seen []sighting, whole bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, watchAnswer)
	defer cancel()
	asked := s.sentinels.list()
	answers, errs := make([]*sighting, len(asked)), make([]error, len(asked))
	var all sync.WaitGroup
	for i, w := range asked {
		all.Go(func() { answers[i], errs[i] = w.sight(ctx, s.place.master) })
	}
	all.Wait()
	known := make(map[string]bool)
	for _, v := range answers {
		if v == nil || known[v.id] {
			continue
		}
		known[v.id] = true
		seen = append(seen, *v)
	}
	if len(seen) == 0 {
		return nil, false, fmt.Errorf("no Sentinel answers: %w", errors.Join(errs...))
	}
	whole = !slices.Contains(answers, nil)
	for i := range seen {
		for _, addr := range seen[i].peers {
			if !slices.ContainsFunc(asked, func(w *node) bool { return w.addr == addr }) {
				whole = false
			}
			if len(asked) < watchMax {
				s.sentinels.at(addr)
			}
		}
	}
	s.forget(asked, answers, seen)
	return seen, whole, nil
}

// forget leaves out the Sentinels that do not answer and that nobody knows any more,
// when more than half of them are there to know it.
func (s *Store) forget(asked []*node, answers []*sighting, seen []sighting) {
	if 2*len(seen) <= len(asked) {
		return
	}
	named := make(map[string]bool)
	for _, addr := range s.place.addrs {
		named[addr] = true
	}
	for i, w := range asked {
		if answers[i] != nil {
			named[w.addr] = true
		}
	}
	for _, v := range seen {
		for _, addr := range v.peers {
			named[addr] = true
		}
	}
	s.sentinels.keep(named)
}

// sight asks one Sentinel about a master.
func (nd *node) sight(ctx context.Context, name string) (*sighting, error) {
	ask := func(words ...string) rueidis.Completed { return nd.client.B().Arbitrary(words...).Build() }
	rs := nd.client.DoMulti(ctx, ask("SENTINEL", "MYID"), ask("SENTINEL", "MASTER", name), ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name),
		ask("SENTINEL", "REPLICAS", name), ask("SENTINEL", "SENTINELS", name))
	v := &sighting{}
	var err error
	if v.id, err = rs[0].ToString(); err != nil {
		return nil, fmt.Errorf("%s: %w", nd.addr, err)
	}
	if v.settings, err = rs[1].AsStrMap(); err != nil {
		return nil, fmt.Errorf("%s: %w", nd.addr, err)
	}
	v.master = net.JoinHostPort(v.settings["ip"], v.settings["port"])
	v.epoch, _ = strconv.ParseInt(v.settings["config-epoch"], 10, 64)
	v.others, _ = strconv.Atoi(v.settings["num-other-sentinels"])
	v.quorum, _ = strconv.Atoi(v.settings["quorum"])
	addr, err := rs[2].AsStrSlice()
	if err != nil || len(addr) != 2 {
		return nil, fmt.Errorf("%s: %w", nd.addr, err)
	}
	if a := net.JoinHostPort(addr[0], addr[1]); a != v.master {
		v.master, v.moving = a, true // its epoch is that of the failover already
	}
	if v.sure, err = tables(rs[3]); err != nil {
		return nil, fmt.Errorf("%s: %w", nd.addr, err)
	}
	for _, r := range v.sure {
		v.replicas = append(v.replicas, Replica{net.JoinHostPort(r["ip"], r["port"]), strings.Contains(r["flags"], "_down")})
	}
	peers, err := tables(rs[4])
	for _, p := range peers {
		v.peers = append(v.peers, net.JoinHostPort(p["ip"], p["port"]))
	}
	return v, err
}

func tables(r rueidis.RedisResult) (all []map[string]string, err error) {
	list, err := r.ToArray()
	for i := range list {
		m, err := list[i].AsStrMap()
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, err
}

// A replication is what a server says of its replicas, and of its master.
type replication struct {
	role   string
	linked bool  // a replica, to its master
	offset int64 // up to which it has written
	online []follower
}

// A follower is a replica that its master has sent its data to.
type follower struct {
	addr   string
	offset int64 // up to which it has acknowledged; zero: nothing yet
	lag    int   // seconds since it acknowledged anything
}

// What a replica in step may lack.
const (
	lagMax    = 1        // seconds since its last word, and it has one every second at least
	behindMax = 16 << 20 // octets: hardly what a server takes in between two looks
)

// inStep are the replicas whose acknowledgement a write may get before the next
// look. One that was sent its master's data and is still loading it has not said
// a word, and will not before it has loaded: to wait for it would be to wait for
// that. It is the last to be promoted, having no offset to show, and then it has what
// it had when it went: it is as good as away. One that is far behind will not have
// caught up before it is looked at again. One that came back is there twice, while
// its old connection is not known to be dead.
func (r *replication) inStep() (addrs []string) {
	for _, f := range r.online {
		if f.lag >= 0 && f.lag <= lagMax && f.offset > 0 && f.offset >= r.offset-behindMax && !slices.Contains(addrs, f.addr) {
			addrs = append(addrs, f.addr)
		}
	}
	return addrs
}

// strangers are the replicas that acknowledge and are not named by anybody else.
// They are never promoted, and nobody says when they are down, so they count for
// as long as the master has them, in step or not.
func (r *replication) strangers(named map[string]bool) (addrs []string) {
	for _, f := range r.online {
		if f.offset > 0 && !named[f.addr] && !slices.Contains(addrs, f.addr) {
			addrs = append(addrs, f.addr)
		}
	}
	return addrs
}

// replication asks a server for its role and its replicas.
func (nd *node) replication(ctx context.Context) (*replication, error) {
	text, err := nd.client.Do(ctx, nd.client.B().Info().Section("replication").Build()).ToString()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", nd.addr, err)
	}
	return readReplication(text)
}

// readReplication reads the lines of INFO replication:
//
//	role:master
//	master_link_status:up
//	slave0:ip=127.0.0.1,port=7002,state=online,offset=1234,lag=0
//	master_repl_offset:1240
func readReplication(text string) (*replication, error) {
	r := &replication{}
	for line := range strings.Lines(text) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch k {
		case "role":
			r.role = v
		case "master_link_status":
			r.linked = v == "up"
		case "master_repl_offset":
			r.offset, _ = strconv.ParseInt(v, 10, 64)
		}
		if n, ok := strings.CutPrefix(k, "slave"); !ok || strings.Trim(n, "0123456789") != "" {
			continue
		}
		fields := make(map[string]string)
		for f := range strings.SplitSeq(v, ",") {
			name, value, _ := strings.Cut(f, "=")
			fields[name] = value
		}
		if fields["state"] != "online" {
			continue
		}
		f := follower{addr: net.JoinHostPort(fields["ip"], fields["port"]), lag: -1}
		if lag, err := strconv.Atoi(fields["lag"]); err == nil {
			f.lag = lag
		}
		f.offset, _ = strconv.ParseInt(fields["offset"], 10, 64)
		r.online = append(r.online, f)
	}
	if r.role == "" {
		return nil, errors.New("INFO replication names no role")
	}
	return r, nil
}

// slots is the hash slot of each partition's keys in a cluster: CRC-16 of what
// stands between the braces, as the cluster specification has it.
var slots = func() (of [store.Partitions]int) {
	for p := range of {
		crc := uint16(0)
		for _, c := range []byte(strconv.Itoa(p)) {
			crc ^= uint16(c) << 8
			for range 8 {
				if crc&0x8000 != 0 {
					crc = crc<<1 ^ 0x1021
				} else {
					crc <<= 1
				}
			}
		}
		of[p] = int(crc) % slotsMax
	}
	return of
}()

const slotsMax = 16384

// A line of CLUSTER NODES: what one node says of another, or of itself.
type line struct {
	id, addr, master string
	flags            []string
	epoch            int64
	ranges           [][2]int
	marks            []mark
}

// A mark says of a slot that it is on its way between two nodes: MIGRATING at the
// one that it leaves, IMPORTING at the other. Nobody else has it, nor have their
// replicas.
type mark struct {
	slot  int
	out   bool   // MIGRATING
	other string // the other node's id
}

func (m *line) is(flag string) bool { return slices.Contains(m.flags, flag) }

// A view is what one node of a cluster says.
type view struct {
	node    *node
	members []line
	*replication
	port string // by which its master lists it; empty: it does not say
}

// lookAtCluster believes the newest epoch about who has a slot, and each master
// about its replicas: that one is down (FAIL) is a majority's decision already.
func (s *Store) lookAtCluster(ctx context.Context) (*topology, error) {
	ctx, cancel := context.WithTimeout(ctx, watchAnswer)
	defer cancel()
	asked := s.nodes.list()
	known := len(asked)
	if known > watchMax && !s.puzzled {
		was := s.topology.Load()
		rand.Shuffle(len(asked), func(i, j int) { asked[i], asked[j] = asked[j], asked[i] })
		slices.SortStableFunc(asked, func(a, b *node) int { // masters first: their replicas are to be counted
			return order(slices.Contains(was.masters, b)) - order(slices.Contains(was.masters, a))
		})
		asked = asked[:max(watchMax, len(was.masters))]
	}
	answers, errs := make([]*view, len(asked)), make([]error, len(asked))
	var all sync.WaitGroup
	for i, nd := range asked {
		all.Go(func() { answers[i], errs[i] = nd.view(ctx) })
	}
	all.Wait()
	views := slices.DeleteFunc(answers, func(v *view) bool { return v == nil })
	if len(views) == 0 {
		return nil, fmt.Errorf("no node of the cluster answers: %w", errors.Join(errs...))
	}
	return s.agree(views, len(views) == known)
}

func order(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// agree makes one topology of what several nodes say. whole reports whether they
// are all that are known: only then somebody is believed to have a slot in an
// older epoch than was ever believed, since some may have been cut off since
// before the last failover.
func (s *Store) agree(views []*view, whole bool) (*topology, error) {
	owners, named := make([]*line, slotsMax), make(map[string]bool)
	for _, v := range views {
		named[v.node.addr] = true
		for i := range v.members {
			m := &v.members[i]
			if m.addr == "" || m.is("handshake") || m.is("noaddr") {
				continue
			}
			named[m.addr] = true
			for _, r := range m.ranges {
				for slot := r[0]; slot <= r[1]; slot++ {
					if o := owners[slot]; o == nil || m.epoch > o.epoch {
						owners[slot] = m
					}
				}
			}
		}
	}
	t, was := &topology{}, s.topology.Load()
	torn := s.torn(views, owners)
	for p := range store.Partition(store.Partitions) {
		o := owners[slots[p]]
		if o == nil || slices.Contains(torn, slots[p]) {
			continue // its requests wait
		}
		older := o.epoch < s.epochs[p]
		if older && !whole {
			if was.of[p] != nil {
				t.add(p, was.of[p])
			}
			continue
		}
		s.epochs[p] = o.epoch
		nd := s.nodes.at(o.addr)
		if nd.quorum == nil {
			nd.quorum = &Quorum{}
			if !older && was != nil && was.of[p] != nil && was.of[p] != nd {
				nd.quorum = was.of[p].quorum.Inherit(nd.addr)
			}
		}
		t.add(p, nd)
	}
	if len(t.masters) == 0 {
		return nil, errors.New("no node of the cluster has any slots: create the cluster first")
	}
	for p, nd := range t.of {
		if nd != nil && !slices.ContainsFunc(nd.marks, func(m mark) bool { return m.slot == slots[p] }) {
			nd.fence.Store(int64(p)) // one that stays where it is
		}
		t.orphans = t.orphans || nd == nil
	}
	guests := make(map[string]int64)
	s.puzzled = false
	for _, nd := range t.masters {
		for _, v := range views {
			if v.node == nd && v.role == "master" {
				nd.quorum.Hear(1, [][]Replica{v.replicas()}, v.followers(views))
				nd.demand(v.replication, s.outsiders(v, views, guests))
			}
		}
	}
	s.guests = guests
	for addr := range named { // replicas are asked too: one may be promoted
		if nd := s.nodes.at(addr); !slices.Contains(t.masters, nd) {
			nd.quorum = nil
			nd.need.Store(needUnknown)
		}
	}
	if was != nil {
		for _, nd := range was.masters { // what is under way to it is answered
			named[nd.addr] = true
		}
	}
	s.nodes.keep(named)
	return t, nil
}

// torn are the slots that a master takes in while their owner does not say that it
// gives them away: the owner has taken over from one that did. Which of their
// records have moved nobody knows then, and the owner would say of those that they
// never were. Nobody is asked until one of the two is told otherwise.
func (s *Store) torn(views []*view, owners []*line) (torn []int) {
	for _, v := range views {
		v.node.marks = nil
		if v.role == "master" {
			v.node.marks = v.self().marks
			v.node.id = v.self().id
		}
	}
	for _, to := range s.nodes.list() { // also those that do not answer: they may have records
		for _, m := range to.marks {
			from := owners[m.slot]
			if m.out || from == nil || from.addr == to.addr {
				continue
			}
			if !slices.Contains(s.nodes.at(from.addr).marks, mark{m.slot, true, to.id}) {
				torn = append(torn, m.slot)
			}
		}
	}
	slices.Sort(torn)
	switch again := slices.Equal(torn, s.tearing); {
	case len(torn) == 0:
		s.tearTold = false
	case !again:
		s.soon() // perhaps the one has been told, and the other is just about to be
	case !s.tearTold:
		s.tearTold = true
		s.log.Error("slots are on their way to a node, and their owner does not know it: nothing in them is answered", "slots", torn,
			"redis", s.place.where(), "mend", "redis-cli --cluster fix, or bring the move to its end as docs/redis.md says")
	}
	s.tearing = torn
	return torn
}

// replicas are those of the node whose view it is.
func (v *view) replicas() (rs []Replica) {
	me := v.self()
	for i := range v.members {
		if m := &v.members[i]; m.master == me.id && m.addr != "" {
			rs = append(rs, Replica{m.addr, m.is("fail")})
		}
	}
	return rs
}

// self is the line of the node whose view it is.
func (v *view) self() *line {
	for i := range v.members {
		if v.members[i].is("myself") {
			return &v.members[i]
		}
	}
	return &line{}
}

// followers are the replicas of the node that are in step, by its word or by
// theirs: it may know them by other addresses than the cluster does.
func (v *view) followers(views []*view) (addrs []string) {
	me, attached := v.self(), v.inStep()
	for _, r := range v.replicas() {
		if slices.Contains(attached, r.Addr) || slices.ContainsFunc(views, func(w *view) bool {
			return w.linked && w.self().master == me.id && w.self().addr == r.Addr
		}) {
			addrs = append(addrs, r.Addr)
		}
	}
	return addrs
}

// outsiders are the followers of the node that are none of the replicas that count.
// It may list those under other addresses than the cluster does, when there are
// relays or translated addresses between them. Such an address is believed to be a
// replica's if that says that it follows, has this port and is not listed; if in two
// looks in a row there were no more addresses with it than such replicas; and if it is
// further than whoever has that address was at the first of them, since one that was cut
// off may not know it yet. Until then who acknowledges from there is an outsider.
// guests gets the followers that may be replicas.
func (s *Store) outsiders(v *view, views []*view, guests map[string]int64) (addrs []string) {
	counted, ids, listed := v.node.quorum.counted, make(map[string]string), make(map[string]bool)
	for i := range v.members {
		if m := &v.members[i]; counted[m.addr] {
			ids[m.id] = m.addr
		}
	}
	strangers := make(map[string][]follower) // by port
	for _, f := range v.online {
		addr := f.addr
		if a, ok := ids[s.aliases[addr]]; ok {
			addr = a
		}
		_, port, _ := net.SplitHostPort(addr)
		if listed[addr] = true; !counted[addr] && !slices.ContainsFunc(strangers[port], func(o follower) bool { return o.addr == addr }) {
			strangers[port] = append(strangers[port], f)
		}
	}
	for port, fs := range strangers {
		free := slices.DeleteFunc(slices.Clone(views), func(w *view) bool {
			addr, counts := ids[w.self().id]
			return !counts || listed[addr] || w.port != port || !w.linked || w.self().master != v.self().id
		})
		enough := len(fs) <= len(free)
		for _, f := range fs {
			was, again := s.guests[f.addr]
			i := slices.IndexFunc(free, func(w *view) bool { return w.offset >= was })
			if enough && again && i >= 0 {
				id := free[i].self().id
				maps.DeleteFunc(s.aliases, func(_, other string) bool { return other == id })
				s.aliases[f.addr] = id
				free = slices.Delete(free, i, i+1)
				continue
			}
			if s.puzzled = true; enough {
				guests[f.addr] = f.offset
			}
			if f.offset > 0 {
				addrs = append(addrs, f.addr)
			}
		}
	}
	if len(guests) > 0 {
		s.soon()
	}
	return addrs
}

func (nd *node) view(ctx context.Context) (*view, error) {
	rs := nd.client.DoMulti(ctx, nd.client.B().Arbitrary("CLUSTER", "NODES").Build(), nd.client.B().Info().Section("replication").Build(),
		nd.client.B().Arbitrary("CONFIG", "GET", "port", "tls-port", "tls-replication", "replica-announce-port").Build())
	text, err := rs[0].ToString()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", nd.addr, err)
	}
	v := &view{node: nd, members: readMembers(text, nd.addr)}
	info, err := rs[1].ToString()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", nd.addr, err)
	}
	if v.replication, err = readReplication(info); err != nil {
		return nil, err
	}
	settings, _ := rs[2].AsStrMap() // who may not read them knows a replica by its address only
	v.port = settings["port"]
	if settings["tls-replication"] == "yes" {
		v.port = settings["tls-port"]
	}
	if p := settings["replica-announce-port"]; p != "0" && p != "" {
		v.port = p
	}
	return v, nil
}

// readMembers reads what CLUSTER NODES says at a node, whose address is own. In
// RESP3 it is a verbatim string, and the first line, which may be the node's own,
// has the format of that in front of it.
func readMembers(text, own string) (all []line) {
	for l := range strings.Lines(strings.TrimPrefix(text, "txt:")) {
		m, ok := readLine(l)
		if !ok {
			continue
		}
		if m.addr == "" && m.is("myself") {
			m.addr = own // a node that nobody has met yet does not know its own
		}
		all = append(all, m)
	}
	return all
}

// readLine reads a line of CLUSTER NODES:
//
//	id ip:port@cport[,hostname] flags master ping pong epoch link slot slot-slot [slot->-id] [slot-<-id] …
func readLine(text string) (m line, ok bool) {
	f := strings.Fields(text)
	if len(f) < 8 {
		return m, false
	}
	m.id, m.flags = f[0], strings.Split(f[2], ",")
	at, _, _ := strings.Cut(f[1], "@")
	if i := strings.LastIndexByte(at, ':'); i > 0 && at[i+1:] != "0" { // IPv6 has no brackets here
		m.addr = net.JoinHostPort(at[:i], at[i+1:])
	}
	if f[3] != "-" {
		m.master = f[3]
	}
	m.epoch, _ = strconv.ParseInt(f[6], 10, 64)
	for _, text := range f[8:] {
		if text, ok := strings.CutPrefix(text, "["); ok {
			if k, ok := readMark(strings.TrimSuffix(text, "]")); ok {
				m.marks = append(m.marks, k)
			}
			continue // its owner stands elsewhere
		}
		from, to, _ := strings.Cut(text, "-")
		a, err := strconv.Atoi(from)
		b := a
		if to != "" && err == nil {
			b, err = strconv.Atoi(to)
		}
		if err == nil && a >= 0 && b < slotsMax {
			m.ranges = append(m.ranges, [2]int{a, b})
		}
	}
	return m, true
}

// readMark reads what stands in brackets: slot->-id, which goes to id, or
// slot-<-id, which comes from it.
func readMark(text string) (m mark, ok bool) {
	slot, id, out := strings.Cut(text, "->-")
	if !out {
		slot, id, ok = strings.Cut(text, "-<-")
	}
	n, err := strconv.Atoi(slot)
	return mark{n, out, id}, (out || ok) && err == nil && n >= 0 && n < slotsMax
}
