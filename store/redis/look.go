package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// settingsEvery is how often the servers' settings are looked at again.
const settingsEvery = 30 * time.Second

// What the mode safe asks for. Names are those of redis.conf.
const (
	replicasMin    = 2
	sentinelsMin   = 3
	quorumMin      = 2
	backlogMin     = 256 << 20
	bufferHardMin  = 1 << 30
	bufferSoftMin  = 512 << 20
	memoryShareMax = 45 // percent of the machine's memory that maxmemory may be: a copy needs the rest
	fullShare      = 80 // percent of its memory that a server may use before it is a doubt
	skewMax        = 10 * time.Second
	downAfterMin   = 1200 * time.Millisecond
)

// A Report is what the servers say of themselves, as far as it matters to a
// store.
type Report struct {
	Where     string
	Mode      Mode
	Nodes     []Server // masters first, each with its replicas behind it
	Sentinels []Sentinel
	Format    string // what rtm wrote into it; empty: nothing yet

	cluster bool
	silent  []string // nodes that are named and did not answer
}

// A Server is what one redis-server says of itself.
type Server struct {
	Addr      string
	Version   string
	Role      string
	Master    string // of a replica
	AOF       bool
	Open      bool   // it is off this machine, and answers whoever has neither password nor certificate
	Fsync     string // appendfsync
	Replicas  int    // connected
	Memory    int64  // octets in use
	MemoryMax int64  // maxmemory; zero: none
	Machine   int64  // octets of the machine's memory; zero: unknown
	Policy    string
	Broken    string // why it takes no writes; empty: it takes them
	Priority  int    // replica-priority
	Never     bool   // of a replica: it is configured never to be promoted
	Writes    int    // min-replicas-to-write
	Lag       int    // min-replicas-max-lag, in seconds
	Backlog   int64  // repl-backlog-size
	Hard      int64  // client-output-buffer-limit replica, at once; zero: none, or unknown
	Soft      int64  // … for some time
	Skew      time.Duration
}

// A Sentinel is what one of them says about the master.
type Sentinel struct {
	Addr      string
	Quorum    int
	Others    int // Sentinels that it knows
	DownAfter time.Duration
}

// A Doubt is something that servers may be used with, and what mends it.
type Doubt struct{ Who, Text, Mend string }

// Look opens a store to look at it: nothing is written, not even into an empty
// one. With an error, the report may be there all the same.
func Look(ctx context.Context, c Config) (*Store, *Report, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s, r, err := open(ctx, c)
	if err != nil || r.Format == "" {
		return s, r, err
	}
	if err := checkFormat(r.Format); err != nil {
		s.Close()
		return nil, r, fmt.Errorf("redis at %s: %w", r.Where, err)
	}
	return s, r, nil
}

// Examine looks at the servers at a URL without refusing any, to tell what they
// could promise; nothing is written. With an error the report may be there.
func Examine(ctx context.Context, c Config) (*Report, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s, r, err := connect(ctx, c)
	if s != nil {
		s.shut()
	}
	return r, err
}

// Report is the last look at the servers' settings.
func (s *Store) Report() *Report { return s.report.Load() }

// Full is how full the fullest master is, in percent of its maxmemory; zero if it
// has none. It is at most some seconds old.
func (s *Store) Full() (percent int) { return int(s.full.Load()) }

// weigh asks the masters how full they are, and what time it is.
func (s *Store) weigh(ctx context.Context) {
	s.compare(ctx, s.topology.Load())
	full := int64(0)
	for _, m := range s.topology.Load().masters {
		text, err := m.client.Do(ctx, m.client.B().Info().Section("memory").Build()).ToString()
		if err != nil {
			return // what was known stays, until it answers
		}
		in := readInfo(text)
		used, _ := strconv.ParseInt(in["used_memory"], 10, 64)
		if most, _ := strconv.ParseInt(in["maxmemory"], 10, 64); most > 0 {
			full = max(full, used*100/most)
		}
	}
	s.full.Store(full)
}

// readInfo reads the lines of INFO.
func readInfo(text string) map[string]string {
	in := make(map[string]string)
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			in[k] = v
		}
	}
	return in
}

// recheck looks at the settings again, and says what has become wrong.
func (s *Store) recheck(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	r, err := s.examine(ctx)
	if err != nil {
		return // who is master is not settled; the watch says so
	}
	was := s.report.Swap(r)
	if err, before := r.Refuses(s.mode), was.Refuses(s.mode); err != nil && (before == nil || before.Error() != err.Error()) {
		s.log.Error("the store cannot promise any more what its mode says", "redis", r.Where, "mode", r.Mode, "mend", err)
	}
	for _, d := range r.Doubts() {
		if !slices.Contains(was.Doubts(), d) {
			s.log.Warn(d.Who+" "+d.Text, "redis", r.Where, "mend", d.Mend)
		}
	}
}

// examine asks all servers, and the Sentinels, what they are.
func (s *Store) examine(ctx context.Context) (*Report, error) {
	r := &Report{Where: s.place.where(), Mode: s.mode, cluster: s.place.kind == byCluster}
	asked := make(map[string]bool)
	for _, m := range s.topology.Load().masters {
		n, err := m.examine(ctx)
		if err != nil {
			return r, err
		}
		n.Open = s.place.open(ctx, n.Addr)
		asked[m.addr] = true
		r.Nodes = append(r.Nodes, *n)
		format, err := m.client.Do(ctx, m.client.B().Get().Key(s.formatKey(m)).Build()).ToString()
		if err != nil && !rueidis.IsRedisNil(err) {
			return r, err
		}
		r.Format = format
	}
	if s.place.kind == alone {
		return r, nil
	}
	for _, nd := range s.nodes.list() {
		if asked[nd.addr] {
			continue
		}
		short, cancel := context.WithTimeout(ctx, watchAnswer)
		n, err := nd.examine(short)
		cancel()
		if err != nil {
			r.silent = append(r.silent, nd.addr)
			continue
		}
		n.Open = s.place.open(ctx, n.Addr)
		r.Nodes = append(r.Nodes, *n)
	}
	if s.place.kind == bySentinel {
		for _, w := range s.sentinels.list() {
			short, cancel := context.WithTimeout(ctx, watchAnswer)
			v, err := w.sight(short, s.place.master)
			cancel()
			if err != nil {
				r.silent = append(r.silent, w.addr)
				continue
			}
			ms, _ := strconv.Atoi(v.settings["down-after-milliseconds"])
			r.Sentinels = append(r.Sentinels, Sentinel{w.addr, v.quorum, v.others, time.Duration(ms) * time.Millisecond})
		}
	}
	slices.Sort(r.silent)
	slices.SortStableFunc(r.Nodes, func(a, b Server) int {
		if o := order(b.Role == "master") - order(a.Role == "master"); o != 0 {
			return o
		}
		return strings.Compare(a.Addr, b.Addr)
	})
	slices.SortFunc(r.Sentinels, func(a, b Sentinel) int { return strings.Compare(a.Addr, b.Addr) })
	return r, nil
}

// examine asks one server.
func (nd *node) examine(ctx context.Context) (*Server, error) {
	b := nd.client.B()
	before := time.Now()
	rs := nd.client.DoMulti(ctx, b.Time().Build(), b.Info().Build(),
		b.ConfigGet().Parameter("appendfsync").Build(), b.ConfigGet().Parameter("stop-writes-on-bgsave-error").Build(),
		b.ConfigGet().Parameter("min-replicas-*").Build(),
		b.ConfigGet().Parameter("repl-backlog-size").Build(), b.ConfigGet().Parameter("client-output-buffer-limit").Build(), b.ConfigGet().Parameter("cluster-replica-no-failover").Build())
	now, err := readTime(rs[0])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", nd.addr, err)
	}
	text, err := rs[1].ToString()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", nd.addr, err)
	}
	in := readInfo(text)
	for _, r := range rs[2:] { // who may not read settings is told less
		m, _ := r.AsStrMap()
		for k, v := range m {
			in[k] = v
		}
	}
	number := func(key string) int64 {
		n, _ := strconv.ParseInt(in[key], 10, 64)
		return n
	}
	n := &Server{
		Addr: nd.addr, Version: in["redis_version"], Role: in["role"], AOF: in["aof_enabled"] == "1", Fsync: in["appendfsync"],
		Replicas: int(number("connected_slaves")), Memory: number("used_memory"), MemoryMax: number("maxmemory"),
		Machine: number("total_system_memory"), Policy: in["maxmemory_policy"], Priority: int(number("slave_priority")),
		Writes: int(number("min-replicas-to-write")), Lag: int(number("min-replicas-max-lag")), Backlog: number("repl-backlog-size"),
		Skew: now.Sub(before),
	}
	n.Hard, n.Soft = replicaBuffer(in["client-output-buffer-limit"])
	if n.Role == "slave" {
		n.Role, n.Master = "replica", net.JoinHostPort(in["master_host"], in["master_port"])
		n.Never = n.Priority == 0
		if in["cluster_enabled"] == "1" {
			n.Never = in["cluster-replica-no-failover"] == "yes"
		}
	}
	switch {
	case n.AOF && in["aof_last_write_status"] == "err":
		n.Broken = "could not write its append-only file, and takes no writes until it can"
	case in["rdb_last_bgsave_status"] == "err" && in["stop-writes-on-bgsave-error"] != "no":
		n.Broken = "could not write its last snapshot, and takes no writes until it can"
	}
	return n, nil
}

// replicaBuffer reads what may wait for a replica, at once and for some time, out of
// "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60".
func replicaBuffer(limits string) (hard, soft int64) {
	words := strings.Fields(limits)
	for i := 0; i+2 < len(words); i++ {
		if words[i] == "slave" || words[i] == "replica" {
			hard, _ = strconv.ParseInt(words[i+1], 10, 64)
			soft, _ = strconv.ParseInt(words[i+2], 10, 64)
		}
	}
	return hard, soft
}

// Refuses says why these servers cannot be a store of that mode; nil: they can.
func (r *Report) Refuses(mode Mode) error {
	for i := range r.Nodes {
		if err := r.Nodes[i].refuse(mode); err != nil {
			if len(r.Nodes) > 1 {
				return fmt.Errorf("%s: %w", r.Nodes[i].Addr, err)
			}
			return err
		}
	}
	if mode != Safe {
		return nil
	}
	return r.safe()
}

// unguarded says that one of the servers answers anybody; nil: none does.
func (r *Report) unguarded() error {
	i := slices.IndexFunc(r.Nodes, func(n Server) bool { return n.Open })
	if i < 0 {
		return nil
	}
	return fmt.Errorf("%s, off this machine's loopback, asks nobody who it is: whoever reaches it can change every balance; give it a user and a password (docs/redis.md), "+
		"and the URL too, USER:PASSWORD@ in front of the address, or say ?auth=none if nobody else reaches it", r.Nodes[i].Addr)
}

// open reports whether a server, other than on loopback, answers who has neither password
// nor certificate.
func (p *place) open(ctx context.Context, addr string) bool {
	return !onLoopback(addr) && p.answersAnybody(ctx, addr)
}

func (p *place) answersAnybody(ctx context.Context, addr string) bool {
	o := p.options(addr, "", "", 0)
	if o.TLSConfig != nil {
		o.TLSConfig.Certificates = nil
	}
	c, err := rueidis.NewClient(o)
	if err != nil {
		return false
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, watchAnswer)
	defer cancel()
	return c.Do(ctx, c.B().Ping().Build()).Error() == nil
}

func (n *Server) refuse(mode Mode) error {
	major, _, _ := strings.Cut(n.Version, ".")
	switch v, _ := strconv.Atoi(major); {
	case v < 7:
		return fmt.Errorf("it is version %s; 7.0 or newer is needed", n.Version)
	case mode == Single && n.Role != "master":
		return errors.New("it is a replica: connect to its master")
	case n.MemoryMax != 0 && n.Policy != "noeviction":
		return fmt.Errorf("its maxmemory-policy is %s, which throws sessions away: CONFIG SET maxmemory-policy noeviction", n.Policy)
	case n.Role == "master" && n.Broken != "":
		return fmt.Errorf("it %s: look into its log; is its disk full?", n.Broken)
	}
	return nil
}

// safe says what the mode safe lacks.
func (r *Report) safe() error {
	lacks := func(format string, args ...any) error {
		return fmt.Errorf("durability safe needs "+format+"; without it choose --durability safe-1 or fast, which lose answers at some failovers (rtm doctor redis tells)", args...)
	}
	priority := 0
	for i := range r.Nodes {
		n := &r.Nodes[i]
		switch {
		case !n.AOF:
			return lacks("appendonly yes at every node, and %s has none: a server that restarts empty would empty its replicas; CONFIG SET appendonly yes", n.Addr)
		case n.Writes < 1 && !r.cluster:
			return lacks("min-replicas-to-write 1 at every node, and %s has %d; CONFIG SET min-replicas-to-write 1", n.Addr, n.Writes)
		case n.Skew.Abs() > skewMax:
			return lacks("clocks that agree, and that of %s is %s away from this machine's: set them by NTP", n.Addr, n.Skew.Abs().Round(time.Second))
		}
		if n.Role != "replica" || n.Never {
			continue
		}
		if priority != 0 && n.Priority != priority {
			return lacks("equal replica-priority at all replicas, and they have %d and %d: a failover would prefer one that is behind; CONFIG SET replica-priority 100", priority, n.Priority)
		}
		priority = n.Priority
	}
	followers := 0 // by the word of the masters
	for i := range r.Nodes {
		m := &r.Nodes[i]
		if m.Role != "master" {
			break
		}
		have, fit := r.replicasOf(m.Addr)
		if followers += m.Replicas; r.cluster && max(have, m.Replicas)+len(r.silent) == 0 {
			return lacks("replicas for each master, two if its slots are to be served while one is away, and %s has none: CLUSTER REPLICATE at a new node", m.Addr)
		}
		if fit < replicasMin && !r.cluster {
			those := ""
			if fit < have {
				those = " that could be promoted"
			}
			host, port, _ := net.SplitHostPort(m.Addr)
			return lacks("two replicas, and %s has %d%s: start another one with replicaof %s %s", m.Addr, fit, those, host, port)
		}
		if m.Replicas > have && !r.cluster {
			return lacks("every replica to be known to the Sentinels, and %s has %d that are not: CONFIG SET replica-announced yes there, or stop them", m.Addr, m.Replicas-have)
		}
	}
	if r.cluster {
		if all := r.replicas() + len(r.silent); followers > all {
			return lacks("every replica to be a node of the cluster, and there are %d that are not: REPLICAOF NO ONE there, or stop them", followers-all)
		}
		return nil // with one replica a shard waits after its failover: a doubt
	}
	if n := len(r.Sentinels) + r.silentSentinels(); n < sentinelsMin {
		return lacks("three Sentinels, one beside each node, and there are %d", n)
	}
	for _, w := range r.Sentinels {
		if w.Quorum < quorumMin {
			return lacks("a quorum of two, and Sentinel %s has %d: SENTINEL SET %s quorum 2", w.Addr, w.Quorum, r.Where[strings.LastIndexByte(r.Where, '/')+1:])
		}
	}
	return nil
}

// replicasOf counts the replicas of a master that answered or are named, and how
// many of them could be promoted.
func (r *Report) replicasOf(addr string) (all, fit int) {
	for i := range r.Nodes {
		if n := &r.Nodes[i]; n.Role == "replica" && (n.Master == addr || !r.cluster) {
			all++
			fit += order(!n.Never)
		}
	}
	if !r.cluster {
		silent := len(r.silent) - r.silentSentinels()
		all, fit = all+silent, fit+silent
	}
	return all, fit
}

// replicas counts those that answered.
func (r *Report) replicas() (n int) {
	for i := range r.Nodes {
		n += order(r.Nodes[i].Role == "replica")
	}
	return n
}

// silentSentinels counts the Sentinels that did not answer: others know of them.
func (r *Report) silentSentinels() int {
	known := 0
	for _, w := range r.Sentinels {
		known = max(known, w.Others+1)
	}
	return max(known-len(r.Sentinels), 0)
}

// Doubts lists what a store on these servers does not survive, or not for long.
func (r *Report) Doubts() (all []Doubt) {
	for i := range r.Nodes {
		n := &r.Nodes[i]
		who := "this redis"
		if len(r.Nodes) > 1 {
			who = n.Addr
		}
		doubt := func(mend, format string, args ...any) {
			all = append(all, Doubt{who, fmt.Sprintf(format, args...), mend})
		}
		if r.Mode == Single {
			if n.Replicas > 0 {
				doubt("name its Sentinels, or run it without automatic failover", "has replicas, but answers do not wait for them: a failover may lose the last second")
			} else if !n.AOF {
				doubt("CONFIG SET appendonly yes", "keeps no append-only file: if it stops, sessions and balances go back to its last snapshot")
			}
		} else {
			r.doubtNode(n, doubt)
		}
		if n.Open {
			doubt("give it a user and a password (docs/redis.md), and the URL too: redis://USER:PASSWORD@…", "asks nobody who it is: whoever reaches it can change every balance")
		}
		most, name := n.MemoryMax, "its maxmemory"
		if most == 0 {
			most, name = n.Machine, "the machine's memory"
		}
		if most > 0 && n.Memory/fullShare > most/100 {
			doubt("give it more memory", "uses %d MiB, more than %d %% of %s: when that is full, it takes no writes", n.Memory>>20, fullShare, name)
		}
	}
	for _, w := range r.Sentinels {
		if w.DownAfter > 0 && w.DownAfter < downAfterMin {
			all = append(all, Doubt{w.Addr, fmt.Sprintf("calls a server down after %d ms: it may replace a master that it has just got to know, since it asks it for the first time after a second",
				w.DownAfter.Milliseconds()), "SENTINEL SET MASTER down-after-milliseconds 1300"})
		}
	}
	for _, addr := range r.silent {
		all = append(all, Doubt{addr, "does not answer", "start it, or take it out of the configuration"})
	}
	return all
}

// onLoopback reports whether only this machine reaches that address.
func onLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback()
}

// doubtNode lists what one of several servers lacks.
func (r *Report) doubtNode(n *Server, doubt func(mend, format string, args ...any)) {
	if !n.AOF {
		doubt("CONFIG SET appendonly yes", "keeps no append-only file: if it restarts before it is seen to be down, it empties its replicas")
	} else if n.Fsync != "always" {
		when := "every second"
		if n.Fsync == "no" {
			when = "when its machine likes to"
		}
		doubt("have its service restart it after three times down-after-milliseconds at the soonest, or CONFIG SET appendfsync always",
			"writes to disk %s: if it restarts before it is seen to be down, it comes back older, and its replicas with it", when)
	}
	if n.Backlog > 0 && n.Backlog < backlogMin {
		doubt("CONFIG SET repl-backlog-size 256mb", "has a replication backlog of %d MiB: a replica that was away for a moment has to copy everything", n.Backlog>>20)
	}
	if n.Hard > 0 && n.Hard < bufferHardMin || n.Soft > 0 && n.Soft < bufferSoftMin {
		doubt(`CONFIG SET client-output-buffer-limit "replica 1gb 512mb 60"`,
			"cuts a replica off for which %d MiB wait, or %d MiB for long: under load that one copies everything again, and again", n.Hard>>20, n.Soft>>20)
	}
	switch {
	case n.MemoryMax == 0:
		doubt("CONFIG SET maxmemory to 45 % of the machine's memory", "has no maxmemory: the machine may end it when memory is short")
	case n.Machine > 0 && n.MemoryMax/memoryShareMax > n.Machine/100:
		doubt("CONFIG SET maxmemory to 45 % of the machine's memory", "may use more than %d %% of the machine's memory: a copy for a replica may not fit beside it", memoryShareMax)
	}
	if n.Role == "master" && r.cluster && r.Mode == Safe {
		if _, fit := r.replicasOf(n.Addr); fit < replicasMin {
			doubt("add a second replica to each master", "has one replica: after its failover nothing is answered from its slots until it is back")
		}
	}
	if n.Role == "master" && (n.Writes < 1 || n.Lag > 2 || n.Lag == 0) {
		doubt("CONFIG SET min-replicas-to-write 1, CONFIG SET min-replicas-max-lag 2", "goes on taking writes when no replica hears it: more work is done that nobody is told about")
	}
}
