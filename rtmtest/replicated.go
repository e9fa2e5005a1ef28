package rtmtest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rtm/examples"
)

// masterName is what Sentinels call what they watch.
const masterName = "rtm"

// A Sentinels is a master, its replicas and three Sentinels, each behind a
// relay of Net and under its name there: node1 … and sentinel1 …. They run on
// the settings of examples/redis/sentinel.
type Sentinels struct {
	Net       *Net
	Nodes     []*Redis
	Sentinels []*Redis
	t         testing.TB
}

// StartSentinels runs them until the test ends, and returns when every Sentinel
// knows all of them. Settings replace those of the redis-servers.
func StartSentinels(t testing.TB, n *Net, replicas int, settings ...string) *Sentinels {
	t.Helper()
	s := &Sentinels{Net: n, t: t}
	for i := range replicas + 1 {
		if i > 0 {
			host, port, _ := strings.Cut(s.Nodes[0].Addr, ":")
			settings = append(settings[:len(settings):len(settings)], "replicaof "+host+" "+port)
		}
		s.Nodes = append(s.Nodes, startNode(t, n, fmt.Sprintf("node%d", i+1), examples.RedisNode, settings))
	}
	Until(t, "the replicas follow the master", func() bool { return s.Nodes[0].followed(replicas) == "" })
	for i := range 3 {
		r := newNode(t, n, fmt.Sprintf("sentinel%d", i+1))
		host, port, _ := strings.Cut(s.Nodes[0].Addr, ":")
		conf := bytes.Replace(examples.RedisSentinel, []byte("127.0.0.1 6391"), []byte(host+" "+port), 1)
		host, port, _ = strings.Cut(r.Addr, ":")
		r.configure(conf, append(r.listens(), "dir "+r.dir, "sentinel announce-ip "+host, "sentinel announce-port "+port)...)
		r.args = append(r.args, "--sentinel")
		r.Start()
		s.Sentinels = append(s.Sentinels, r)
	}
	s.Whole()
	return s
}

// secured is TLS between servers, and between them and others.
type secured struct {
	ca     string
	lines  []string // of a server's settings
	client *tls.Config
}

// Secure has the redis-servers and Sentinels that are started on n from now on speak
// TLS only. The three are files in PEM; the certificate is of 127.0.0.1.
func (n *Net) Secure(ca, cert, key string) {
	n.t.Helper()
	pem, err := os.ReadFile(ca)
	authorities := x509.NewCertPool()
	if err != nil || !authorities.AppendCertsFromPEM(pem) {
		n.t.Fatalf("%s holds no certificate: %v", ca, err)
	}
	n.tls = &secured{ca: ca, client: &tls.Config{RootCAs: authorities}, lines: []string{
		"tls-ca-cert-file " + ca, "tls-cert-file " + cert, "tls-key-file " + key, "tls-auth-clients optional", "tls-replication yes",
	}}
}

// listens is the setting of a port that it, or whoever it tells of, is reached at.
func (r *Redis) listens() []string {
	if r.tls == nil {
		return []string{"port " + r.port()}
	}
	return append(slices.Clone(r.tls.lines), "port 0", "tls-port "+r.port())
}

// url is a store's URL at these servers.
func (n *Net) url(kind string, list []*Redis, rest string) string {
	if n.tls == nil {
		return "redis+" + kind + "://" + addrs(list) + rest
	}
	return "rediss+" + kind + "://" + addrs(list) + rest + "?ca=" + n.tls.ca
}

// newNode is a node that does not run yet, behind a relay.
func newNode(t testing.TB, n *Net, name string) *Redis {
	t.Helper()
	r := &Redis{Name: name, t: t, own: FreeAddr(t), dir: t.TempDir(), tls: n.tls}
	r.Addr = n.Relay(name, r.own).Addr
	n.Join(name, r.PID)
	t.Cleanup(r.Kill)
	return r
}

// configure writes the file that a node is started with, and rewrites itself.
func (r *Redis) configure(conf []byte, settings ...string) {
	r.t.Helper()
	file := filepath.Join(r.dir, "node.conf")
	text := string(conf) + strings.Join(append(settings, "logfile "+filepath.Join(r.dir, "log")), "\n") + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.args = []string{file}
}

// Set adds a setting to the file of a node that does not run.
func (r *Redis) Set(setting string) {
	r.t.Helper()
	text, err := os.ReadFile(r.args[0])
	if err == nil {
		err = os.WriteFile(r.args[0], append(text, "\n"+setting+"\n"...), 0o600)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// startNode starts a node that tells others to reach it through its relay.
func startNode(t testing.TB, n *Net, name string, conf []byte, settings []string) *Redis {
	t.Helper()
	r := newNode(t, n, name)
	host, port, _ := strings.Cut(r.Addr, ":")
	r.configure(conf, slices.Concat(r.listens(), []string{"dir " + r.dir, "replica-announce-ip " + host, "replica-announce-port " + port}, settings)...)
	r.Start()
	return r
}

// URL is the store of it.
func (s *Sentinels) URL() string { return s.Net.url("sentinel", s.Sentinels, "/"+masterName) }

func addrs(list []*Redis) string {
	var all []string
	for _, r := range list {
		all = append(all, r.Addr)
	}
	return strings.Join(all, ",")
}

// Master is the node that most Sentinels call master; nil: there is none.
func (s *Sentinels) Master() *Redis {
	votes := make(map[string]int)
	for _, r := range s.Sentinels {
		if a, err := r.Ask("SENTINEL", "get-master-addr-by-name", masterName); err == nil && len(a) == 2 {
			votes[a[0]+":"+a[1]]++
		}
	}
	for _, r := range s.Nodes {
		if votes[r.Addr] > len(s.Sentinels)/2 {
			return r
		}
	}
	return nil
}

// Replicas are the nodes beside the master.
func (s *Sentinels) Replicas() []*Redis {
	master := s.Master()
	return slices.DeleteFunc(slices.Clone(s.Nodes), func(r *Redis) bool { return r == master })
}

// Whole waits until every Sentinel names the same master, all replicas follow it
// without lag, and no Sentinel misses any of them.
func (s *Sentinels) Whole() {
	s.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; {
		why := s.wrong()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not whole within two minutes: %s", why)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// wrong says what is not as it should be; empty: nothing.
func (s *Sentinels) wrong() string {
	master := s.Master()
	if master == nil {
		return "there is no master"
	}
	if why := master.followed(len(s.Nodes) - 1); why != "" {
		return why
	}
	for _, r := range s.Sentinels {
		reply, err := r.Ask("SENTINEL", "master", masterName)
		if err != nil {
			return r.Name + " is not there"
		}
		m := pairs(reply)
		if m["flags"] != "master" || m["ip"]+":"+m["port"] != master.Addr || m["num-other-sentinels"] != strconv.Itoa(len(s.Sentinels)-1) || m["num-slaves"] != strconv.Itoa(len(s.Nodes)-1) {
			return fmt.Sprintf("%s sees a %s at %s:%s with %s replicas and %s other Sentinels", r.Name, m["flags"], m["ip"], m["port"], m["num-slaves"], m["num-other-sentinels"])
		}
		for _, what := range []string{"replicas", "sentinels"} {
			list, err := r.Ask("SENTINEL", what, masterName)
			if err != nil {
				return r.Name + " is not there"
			}
			for i := 0; i+1 < len(list); i++ {
				if list[i] == "flags" && list[i+1] != "slave" && list[i+1] != "sentinel" {
					return fmt.Sprintf("%s sees one of the %s: %s %s", r.Name, what, list[i], list[i+1])
				}
			}
		}
	}
	return ""
}

// followed says what is wrong with the replicas of a master; empty: there are n,
// and none lags.
func (r *Redis) followed(n int) string {
	info := r.Info("replication")
	if info["role"] != "master" || info["connected_slaves"] != strconv.Itoa(n) {
		return fmt.Sprintf("%s is %s with %s of %d replicas", r.Name, info["role"], info["connected_slaves"], n)
	}
	for i := range n {
		line := info[fmt.Sprintf("slave%d", i)]
		if !strings.Contains(line, "state=online") || !strings.Contains(line, "lag=0") && !strings.Contains(line, "lag=1") {
			return fmt.Sprintf("%s has a replica with %s", r.Name, line)
		}
	}
	return ""
}

// pairs are a reply of names and values.
func pairs(list []string) map[string]string {
	m := make(map[string]string)
	for i := 0; i+1 < len(list); i += 2 {
		m[list[i]] = list[i+1]
	}
	return m
}

// A Cluster is a Redis Cluster, each node behind relays of Net for clients and
// for other nodes: node1 …. It runs on the settings of examples/redis/cluster.
type Cluster struct {
	Net    *Net
	Nodes  []*Redis
	t      testing.TB
	shards int
}

const slots = 16384

// StartCluster runs it until the test ends, and returns when every node knows
// all of them.
func StartCluster(t testing.TB, n *Net, masters, replicas int, settings ...string) *Cluster {
	t.Helper()
	c := &Cluster{Net: n, t: t, shards: masters}
	for i := range masters * (1 + replicas) {
		r := newNode(t, n, fmt.Sprintf("node%d", i+1))
		host, port, _ := strings.Cut(r.Addr, ":")
		bus := FreeAddr(t)
		_, busPort, _ := strings.Cut(bus, ":")
		_, announced, _ := strings.Cut(n.Relay(r.Name, bus).Addr, ":")
		announce := "cluster-announce-port "
		if r.tls != nil {
			announce = "tls-cluster yes\ncluster-announce-tls-port "
		}
		r.configure(examples.RedisClusterNode, slices.Concat(r.listens(), []string{
			"dir " + r.dir, "cluster-port " + busPort, "cluster-announce-ip " + host, announce + port, "cluster-announce-bus-port " + announced,
		}, settings)...)
		r.Start()
		c.Nodes = append(c.Nodes, r)
		first := c.Nodes[0]
		if i < masters {
			r.Must("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
			r.Must("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/masters), strconv.Itoa((i+1)*slots/masters-1))
		}
		if i > 0 {
			r.Must(append([]string{"CLUSTER", "MEET"}, first.meet()...)...)
		}
	}
	Until(t, "every node of the cluster knows all others", func() bool {
		return !slices.ContainsFunc(c.Nodes, func(r *Redis) bool {
			return r.Info("cluster")["cluster_enabled"] != "1" || len(r.nodes()) != len(c.Nodes)
		})
	})
	for i, r := range c.Nodes[masters:] {
		id := c.Nodes[i%masters].ID()
		Until(t, "a replica knows its master", func() bool {
			_, err := r.Ask("CLUSTER", "REPLICATE", id)
			return err == nil
		})
	}
	c.Whole()
	return c
}

// meet is the address, port and bus port by which it is met.
func (r *Redis) meet() []string {
	host, port, _ := strings.Cut(r.Addr, ":")
	conf := pairs(r.Must("CONFIG", "GET", "cluster-announce-bus-port"))
	return []string{host, port, conf["cluster-announce-bus-port"]}
}

// ID is the node's name in its cluster.
func (r *Redis) ID() string { return r.Must("CLUSTER", "MYID")[0] }

// A Member is a line of CLUSTER NODES.
type Member struct {
	ID, Addr, Master string // Master is empty for a master
	Flags            []string
	Linked           bool
	Slots            []string
}

// nodes are the cluster's nodes, as this one sees them; none: it does not answer.
func (r *Redis) nodes() (list []Member) {
	reply, err := r.Ask("CLUSTER", "NODES")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(reply[0]) {
		f := strings.Fields(line)
		if len(f) < 8 {
			continue
		}
		m := Member{ID: f[0], Flags: strings.Split(f[2], ","), Linked: f[7] == "connected", Slots: f[8:]}
		m.Addr, _, _ = strings.Cut(f[1], "@")
		if f[3] != "-" {
			m.Master = f[3]
		}
		list = append(list, m)
	}
	return list
}

// URL is the store of it.
func (c *Cluster) URL() string { return c.Net.url("cluster", c.Nodes[:min(3, len(c.Nodes))], "") }

// at is the node that others reach at an address.
func (c *Cluster) at(addr string) *Redis {
	for _, r := range c.Nodes {
		if r.Addr == addr {
			return r
		}
	}
	return nil
}

// Masters are the nodes that have slots, as most nodes that answer see it.
func (c *Cluster) Masters() (list []*Redis) {
	votes := make(map[*Redis]int)
	voters := 0
	for _, r := range c.Nodes {
		members := r.nodes()
		if len(members) > 0 {
			voters++
		}
		for _, m := range members {
			if slices.Contains(m.Flags, "master") && !slices.Contains(m.Flags, "fail") && len(m.Slots) > 0 {
				votes[c.at(m.Addr)]++
			}
		}
	}
	for _, r := range c.Nodes {
		if votes[r] > voters/2 {
			list = append(list, r)
		}
	}
	return list
}

// Whole waits until every node sees every slot served by as many masters as
// there were, and all others follow them without lag.
func (c *Cluster) Whole() {
	c.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; {
		why := c.wrong()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the cluster is not whole within two minutes: %s", why)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// wrong says what is not as it should be; empty: nothing.
func (c *Cluster) wrong() string {
	replicas := len(c.Nodes)/c.shards - 1
	for _, r := range c.Nodes {
		state, _ := r.Ask("CLUSTER", "INFO")
		if text := strings.Join(state, ""); !strings.Contains(text, "cluster_state:ok") || !strings.Contains(text, "cluster_slots_ok:16384") {
			return r.Name + " does not see the cluster well"
		}
		masters := 0
		for _, m := range r.nodes() {
			if slices.Contains(m.Flags, "fail") || slices.Contains(m.Flags, "fail?") || slices.Contains(m.Flags, "handshake") {
				return fmt.Sprintf("%s sees %s as %v", r.Name, m.Addr, m.Flags)
			}
			if slices.Contains(m.Flags, "master") {
				masters++
			}
		}
		if masters != c.shards {
			return fmt.Sprintf("%s sees %d masters", r.Name, masters)
		}
	}
	for _, r := range c.Masters() {
		if why := r.followed(replicas); why != "" {
			return why
		}
	}
	return ""
}

// Replicas are the nodes that follow a master, as that sees it.
func (c *Cluster) Replicas(master *Redis) (list []*Redis) {
	id := master.ID()
	for _, m := range master.nodes() {
		if r := c.at(m.Addr); m.Master == id && r != nil {
			list = append(list, r)
		}
	}
	return list
}

// Busiest are the slots of a master that hold most keys, the fullest first, n at
// most.
func (c *Cluster) Busiest(master *Redis, n int) (slots []int) {
	id, keys := master.ID(), make(map[int]int)
	for _, m := range master.nodes() {
		if m.ID != id {
			continue
		}
		for _, span := range m.Slots {
			low, high, several := strings.Cut(span, "-")
			from, err := strconv.Atoi(low)
			if err != nil { // one that is on its way
				continue
			}
			to := from
			if several {
				to, _ = strconv.Atoi(high)
			}
			for slot := from; slot <= to; slot++ {
				if k, _ := strconv.Atoi(master.Must("CLUSTER", "COUNTKEYSINSLOT", strconv.Itoa(slot))[0]); k > 0 {
					slots = append(slots, slot)
					keys[slot] = k
				}
			}
		}
	}
	slices.SortFunc(slots, func(a, b int) int { return keys[b] - keys[a] })
	return slots[:min(n, len(slots))]
}

// Migrate moves a slot from a master to another, key by key, and returns how
// long it was between the two, and how many keys it has. (Redis Cluster specification, live resharding)
func (c *Cluster) Migrate(slot int, from, to *Redis) (took time.Duration, moved int) {
	c.t.Helper()
	n, began := strconv.Itoa(slot), time.Now()
	host, port, _ := strings.Cut(to.Addr, ":")
	to.Must("CLUSTER", "SETSLOT", n, "IMPORTING", from.ID())
	from.Must("CLUSTER", "SETSLOT", n, "MIGRATING", to.ID())
	for {
		keys := from.Must("CLUSTER", "GETKEYSINSLOT", n, "100")
		if len(keys) == 0 {
			break
		}
		moved += len(keys)
		from.Must(append([]string{"MIGRATE", host, port, "", "0", "1000", "KEYS"}, keys...)...)
	}
	for _, r := range []*Redis{to, from} {
		r.Must("CLUSTER", "SETSLOT", n, "NODE", to.ID())
	}
	return time.Since(began), moved
}
