package redis

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"rtm/store"
)

// members is what a node of a cluster says, in the lines of CLUSTER NODES.
func members(s *Store, own string, lines ...string) *view {
	v := &view{node: s.nodes.at(own), replication: &replication{role: "master"}}
	for _, l := range lines {
		m, _ := readLine(l)
		v.members = append(v.members, m)
	}
	return v
}

// apart is a store in a cluster whose nodes are not there.
func apart(t *testing.T) *Store {
	p, _, err := parse("redis+cluster://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	s := &Store{place: p, mode: Safe, aliases: make(map[string]string)}
	s.nodes = nodes{of: make(map[string]*node), opt: func(a string) rueidis.ClientOption { return p.options(a, "", "", 0) }}
	t.Cleanup(s.shut)
	return s
}

// A node that was cut off before a failover still has its slots, by its own word.
// Nobody goes back to it, unless all nodes say so.
func TestAnOldOwnerIsNotBelievedAgain(t *testing.T) {
	const a, b = "127.0.0.1:1", "127.0.0.1:2"
	has := func(addr string, epoch int) string {
		return fmt.Sprintf("%s %s@3 master - 0 0 %d connected 0-16383", addr, addr, epoch)
	}
	s := apart(t)
	for i, c := range []struct {
		views []*view
		whole bool
		want  string
	}{
		{[]*view{members(s, a, has(a, 1)), members(s, b, has(a, 1))}, true, a},
		{[]*view{members(s, a, has(a, 1)), members(s, b, has(b, 4))}, true, b},
		{[]*view{members(s, a, has(a, 1))}, false, b},
		{[]*view{members(s, a, has(a, 5))}, false, a},
		{[]*view{members(s, b, has(b, 4))}, false, a},
		{[]*view{members(s, a, has(b, 2)), members(s, b, has(b, 2))}, true, b},
	} {
		topology, err := s.agree(c.views, c.whole)
		if err != nil {
			t.Fatal(err)
		}
		s.topology.Store(topology)
		for p := range store.Partition(store.Partitions) {
			if got := topology.of[p].addr; got != c.want {
				t.Fatalf("look %d: partition %d is at %s, want %s", i, p, got, c.want)
			}
		}
	}
}

// A master finds its replicas wherever its own line stands: in RESP3 the first
// one has the format of the text in front of it.
func TestReplicasOfAMaster(t *testing.T) {
	const (
		self = "aaaa 127.0.0.1:7001@17001 myself,master - 0 1795653352000 1 connected 0-5460\n"
		peer = "bbbb 127.0.0.1:7002@17002 master - 0 1795653352000 2 connected 5461-16383\n"
		one  = "cccc 127.0.0.1:7003@17003 slave aaaa 0 1795653352000 1 connected\n"
		two  = "dddd 127.0.0.1:7004@17004,host slave,fail aaaa 0 1795653352000 1 disconnected\n"
		far  = "eeee 127.0.0.1:7005@17005 slave bbbb 0 1795653352000 2 connected\n"
	)
	want := []Replica{{"127.0.0.1:7003", false}, {"127.0.0.1:7004", true}}
	for _, text := range []string{"txt:" + self + peer + one + two + far, "txt:" + peer + one + far + self + two, self + one + two} {
		v := &view{members: readMembers(text, "127.0.0.1:7001")}
		if got := v.replicas(); !slices.Equal(got, want) {
			t.Errorf("replicas %v, want %v, of\n%s", got, want, text)
		}
	}
}

// A slot that its owner does not know to be on its way is nobody's, from when it
// is seen until the two agree, and holds up nothing else.
func TestATornSlotIsNobodys(t *testing.T) {
	const a, b, heir, p, q = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", 5, 6
	s := apart(t)
	s.log, s.hurry = slog.New(slog.DiscardHandler), make(chan struct{}, 1)
	says := func(own, id string, epoch int, marks string) *view {
		return members(s, own, fmt.Sprintf("%s %s@3 myself,master - 0 0 %d connected %s", id, own, epoch, marks))
	}
	owner := fmt.Sprint("0-16383 [", slots[p], "->-bbbb]")
	takes := fmt.Sprint("[", slots[p], "-<-aaaa]")
	for i, c := range []struct {
		views []*view
		whole bool
		want  string // who has p; empty: nobody
	}{
		{[]*view{says(a, "aaaa", 1, "0-16383"), says(b, "bbbb", 2, "")}, true, a},
		{[]*view{says(a, "aaaa", 1, "0-16383"), says(b, "bbbb", 2, takes)}, true, ""},
		{[]*view{says(a, "aaaa", 1, owner), says(b, "bbbb", 2, takes)}, true, a},
		{[]*view{says(heir, "cccc", 4, "0-16383"), says(b, "bbbb", 2, takes)}, false, ""},
		{[]*view{says(heir, "cccc", 4, "0-16383")}, false, ""}, // who takes it in is silent
		{[]*view{says(heir, "cccc", 4, owner)}, false, heir},
		{[]*view{says(heir, "cccc", 4, "0-16383"), says(b, "bbbb", 2, "")}, true, heir},
	} {
		topology, err := s.agree(c.views, c.whole)
		if err != nil {
			t.Fatal(err)
		}
		s.topology.Store(topology)
		got := ""
		if nd := topology.of[p]; nd != nil {
			got = nd.addr
		}
		if got != c.want || topology.of[q] == nil {
			t.Errorf("look %d: it is at %q, want %q", i, got, c.want)
		}
		mine, of := s.Node(p)
		others, _ := s.Node(q)
		if (mine != others) != (c.want == "") || max(mine, others) != of-1 {
			t.Errorf("look %d: it is on node %d, another one on %d of %d", i, mine, others, of)
		}
	}
}

// Addresses of IPv6 stand in CLUSTER NODES without brackets; a node that has none
// yet is of no use.
func TestAddressesOfMembers(t *testing.T) {
	for in, want := range map[string]string{
		"::1:7001@17001": "[::1]:7001", "fe80::1:2:7001@17001,host": "[fe80::1:2]:7001", "10.0.0.1:7001@17001": "10.0.0.1:7001",
		":7001@17001": "", "10.0.0.1:0@17001": "", ":0@0": "",
	} {
		if m, ok := readLine("aaaa " + in + " master - 0 0 1 connected 0-16383"); !ok || m.addr != want {
			t.Errorf("%s: %q, want %q", in, m.addr, want)
		}
	}
}

// Who may acknowledge a write, by the word of the master.
func TestWhoIsInStep(t *testing.T) {
	const text = "role:master\r\n" +
		"slave0:ip=127.0.0.1,port=1,state=online,offset=99000000,lag=1\r\n" +
		"slave1:ip=127.0.0.1,port=2,state=wait_bgsave,offset=0,lag=0\r\n" +
		"slave2:ip=127.0.0.1,port=3,state=online,offset=0,lag=0\r\n" + // it loads
		"slave3:ip=127.0.0.1,port=4,state=online,offset=70000000,lag=0\r\n" + // it catches up
		"slave4:ip=127.0.0.1,port=5,state=online,offset=99000000,lag=2\r\n" +
		"slave5:ip=::1,port=6,state=online,offset=98999000,lag=0\r\n" +
		"slave6:ip=127.0.0.1,port=1,state=online,offset=99000100,lag=0\r\n" + // it has come back
		"slave7:ip=::1,port=6,state=online,offset=99000100,lag=0\r\n" +
		"master_repl_offset:99000100\r\n"
	r, err := readReplication(text)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.inStep(), []string{"127.0.0.1:1", "[::1]:6"}; !slices.Equal(got, want) {
		t.Errorf("in step are %v, want %v", got, want)
	}
	named := map[string]bool{"127.0.0.1:1": true, "127.0.0.1:3": true, "127.0.0.1:4": true}
	strangers := r.strangers(named)
	if want := []string{"127.0.0.1:5", "[::1]:6"}; !slices.Equal(strangers, want) {
		t.Errorf("strangers are %v, want %v", strangers, want)
	}
	m := &node{}
	list := []Replica{{Addr: "127.0.0.1:1"}, {Addr: "127.0.0.1:4"}}
	m.hear(3, [][]Replica{list, list, list}, r.inStep(), r, strangers)
	if m.need.Load() != 4 {
		t.Errorf("%d are needed of the two that are named, and two strangers", m.need.Load())
	}
}

// Whom a master's word counts beside the replicas of the cluster, which it may list by
// other addresses: what is listed at each look, and what is needed then.
func TestOutsiders(t *testing.T) {
	const nodes = "m 127.0.0.1:1@9 myself,master - 0 0 1 connected 0-16383\n" +
		"a 127.0.0.1:2@9 slave m 0 0 1 connected\nb 127.0.0.1:3@9 slave m 0 0 1 connected\n"
	has := func(addr string, offset int64) follower { return follower{addr, offset, 0} }
	type word struct { // of a replica
		id   string
		port string
		at   int64
	}
	type look struct {
		master []follower
		words  []word
		want   int64
	}
	plain := []follower{has("127.0.0.1:2", 100), has("127.0.0.1:3", 100)}
	behind := []follower{has("10.0.0.9:7002", 100), has("10.0.0.9:7003", 100)} // a relay, and so they have other addresses
	masked := []follower{has("10.0.0.8:6379", 100), has("10.0.0.9:6379", 100)} // and one port
	words := []word{{"a", "7002", 100}, {"b", "7003", 100}}
	alike := []word{{"a", "6379", 100}, {"b", "6379", 100}}
	with := func(fs []follower, more ...follower) []follower { return slices.Concat(fs, more) }
	for name, looks := range map[string][]look{
		"the addresses of the cluster need nobody's word": {{plain, nil, 2}},
		"nor does a stranger beside them":                 {{with(plain, has("10.0.0.7:1", 100)), nil, 3}},
		"a stranger does not stand for one that is away":  {{plain, nil, 2}, {with(plain[:1], has("10.0.0.7:1", 100)), nil, 3}},
		"one that has not said anything yet":              {{with(plain, has("10.0.0.7:1", 0)), nil, 2}},
		"other addresses are known at the second look":    {{behind, words, 4}, {behind, words, 2}},
		"… and stay known when nobody says so":            {{behind, words, 4}, {behind, words, 2}, {behind, nil, 2}},
		"… and when they are away":                        {{behind, words, 4}, {behind, words, 2}, {behind[:1], words[:1], 2}, {behind, words[:1], 2}},
		"… and when one of them comes back":               {{behind, words, 4}, {behind, words, 2}, {with(behind, behind[0]), words, 2}},
		"they are known one by one":                       {{behind, words[:1], 4}, {behind, words[:1], 3}, {behind, words, 3}, {behind, words, 2}},
		"one port":                                        {{masked, alike, 4}, {masked, alike, 2}, {masked, alike[:1], 2}},
		"one port, and one of them is silent":             {{masked, alike[:1], 4}, {masked, alike[:1], 4}},
		"a stranger has another port":                     {{with(behind, has("10.0.0.9:1", 100)), words, 5}, {with(behind, has("10.0.0.9:1", 100)), words, 3}},
		"a stranger has the same port": {
			{masked, alike, 4}, {masked, alike, 2}, {with(masked, has("10.0.0.7:6379", 100)), alike, 3},
			{with(masked[:1], has("10.0.0.7:6379", 100)), alike[:1], 3}, {with(masked[:1], has("10.0.0.7:6379", 100)), alike[:1], 3},
		},
		"one that was cut off does not know it yet": {
			{behind, words, 4}, {behind, words, 2}, {with(behind[:1], has("10.0.0.7:7003", 200)), words, 3}, {with(behind[:1], has("10.0.0.7:7003", 300)), words, 3},
		},
		"one has another address": {
			{behind, words, 4}, {behind, words, 2}, {with(behind[:1], has("10.0.0.7:7003", 100)), words, 3}, {with(behind[:1], has("10.0.0.7:7003", 100)), words, 2},
		},
	} {
		s := apart(t)
		for i, l := range looks {
			m := &view{node: s.nodes.at("127.0.0.1:1"), members: readMembers(nodes, ""), replication: &replication{role: "master", online: l.master, offset: 300}}
			views := []*view{m}
			for _, w := range l.words {
				v := &view{members: readMembers(strings.Replace(nodes, "myself,", "", 1), ""), port: w.port}
				for j := range v.members {
					if v.members[j].id == w.id {
						v.members[j].flags = append(v.members[j].flags, "myself")
					}
				}
				v.node, v.replication = s.nodes.at(v.self().addr), &replication{role: "slave", linked: true, offset: w.at}
				views = append(views, v)
			}
			topology, err := s.agree(views, true)
			if err != nil {
				t.Fatal(err)
			}
			s.topology.Store(topology)
			if got := topology.masters[0].need.Load(); got != l.want {
				t.Errorf("%s: look %d: %d are needed, want %d", name, i, got, l.want)
			}
		}
	}
}
