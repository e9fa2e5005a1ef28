package redis

import "testing"

// Three watchers, two replicas: what is heard, and what is needed then.
func TestQuorum(t *testing.T) {
	up := func(addrs ...string) (rs []Replica) {
		for _, a := range addrs {
			rs = append(rs, Replica{Addr: a})
		}
		return rs
	}
	down := func(addr string, others ...string) []Replica { return append(up(others...), Replica{addr, true}) }
	type news struct {
		heard    [][]Replica
		attached []string
		want     int
	}
	all := []string{"a", "b"}
	every := func(l []Replica) [][]Replica { return [][]Replica{l, l, l} }
	for name, story := range map[string][]news{
		"both are needed":                        {{every(up("a", "b")), all, 2}},
		"one minute of silence changes nothing":  {{every(up("a", "b")), all, 2}, {nil, nil, 2}},
		"the master alone lowers nothing":        {{every(up("a", "b")), all, 2}, {every(up("a", "b")), []string{"b"}, 2}},
		"one watcher lowers nothing":             {{every(up("a", "b")), all, 2}, {[][]Replica{down("a", "b"), up("a", "b"), up("a", "b")}, []string{"b"}, 2}},
		"one that answers alone lowers nothing":  {{every(up("a", "b")), all, 2}, {[][]Replica{down("a", "b")}, []string{"b"}, 2}},
		"a majority lowers":                      {{every(up("a", "b")), all, 2}, {[][]Replica{down("a", "b"), down("a", "b"), up("a", "b")}, []string{"b"}, 1}},
		"not while it acknowledges":              {{every(up("a", "b")), all, 2}, {every(down("a", "b")), all, 2}},
		"never below one":                        {{every(up("a", "b")), all, 2}, {every(append(down("a"), Replica{"b", true})), nil, 1}},
		"a replica that comes back counts again": {{every(up("a", "b")), all, 2}, {every(down("a", "b")), []string{"b"}, 1}, {every(up("a", "b")), []string{"b"}, 1}, {every(up("a", "b")), all, 2}},
		"one that was removed is forgotten":      {{every(up("a", "b")), all, 2}, {every(up("b")), []string{"b"}, 1}},
		"a new one counts when it is in step":    {{every(up("a", "b")), all, 2}, {every(up("a", "b", "c")), all, 2}, {every(up("a", "b", "c")), []string{"a", "b", "c"}, 3}},
		"at first a silent one counts":           {{every(up("a", "b")), []string{"b"}, 2}},
		"at first one that is down does not":     {{every(down("a", "b")), []string{"b"}, 1}},
		"nobody knows a replica":                 {{every(nil), nil, 1}},
	} {
		q := &Quorum{}
		if q.Need() <= 1000 {
			t.Errorf("%s: %d is enough before anything is known", name, q.Need())
		}
		for i, n := range story {
			q.Hear(3, n.heard, n.attached)
			if q.Need() != n.want {
				t.Errorf("%s: after news %d %d are needed, want %d", name, i, q.Need(), n.want)
			}
		}
	}
}

// While no watcher is heard, a replica is added and none is taken off.
func TestQuorumThatMeetsReplicas(t *testing.T) {
	q := &Quorum{}
	if q.Meet([]string{"a"}); q.Need() != needUnknown {
		t.Errorf("%d are needed, and nobody was heard", q.Need())
	}
	q.Hear(3, [][]Replica{{{Addr: "a"}}, {{Addr: "a"}}, {{Addr: "a"}}}, []string{"a"})
	for _, attached := range [][]string{{"a", "b"}, nil, {"b"}} {
		if q.Meet(attached); q.Need() != 2 {
			t.Errorf("%d are needed when %v are in step", q.Need(), attached)
		}
	}
}

// After a failover the old master counts only when it is in step again.
func TestQuorumOfAPromotedReplica(t *testing.T) {
	q := &Quorum{}
	old := []Replica{{Addr: "a"}, {Addr: "b"}}
	q.Hear(3, [][]Replica{old, old, old}, []string{"a", "b"})
	q = q.Inherit("a")
	now := []Replica{{Addr: "old"}, {Addr: "b"}}
	for _, attached := range [][]string{nil, {"b"}} {
		if q.Hear(3, [][]Replica{now, now, now}, attached); q.Need() != 1 {
			t.Fatalf("%d are needed while the old master is away", q.Need())
		}
	}
	if q.Hear(3, [][]Replica{now, now, now}, []string{"old", "b"}); q.Need() != 2 {
		t.Fatalf("%d are needed when the old master is back", q.Need())
	}
	if q = (*Quorum)(nil).Inherit("a"); q.Need() != needUnknown {
		t.Fatal("nothing was inherited from nobody, and yet something is known")
	}
}

// A WAIT tells how many replicas have a write: that proves nothing about one that
// counts if another, which nobody had heard of, may be among those many.
func TestWhoHasIt(t *testing.T) {
	new(Quorum).Names()["a"] = true // also before anything was heard
	a, b, c := Acked{Addr: "a", Offset: 100}, Acked{Addr: "b", Offset: 100}, Acked{Addr: "c", Offset: 100}
	behind := func(x Acked) Acked { x.Offset = 40; return x }
	for _, w := range []struct {
		why        string
		have, need int
		names      string
		all        []Acked
		want       bool
	}{
		{"both that count have it", 2, 2, "ab", []Acked{a, b}, true},
		{"one of them has not", 1, 2, "ab", []Acked{a, behind(b)}, false},
		{"the one that counts has it", 1, 1, "a", []Acked{a}, true},
		{"the other one is behind, and does not count", 1, 1, "a", []Acked{behind(b), a}, true},
		{"another one has come, and has it in its place", 1, 1, "a", []Acked{behind(a), b}, false},
		{"another one has come, and both have it", 2, 1, "a", []Acked{a, b}, true},
		{"another one has come, and which of them has it is not known", 1, 1, "a", []Acked{a, b}, false},
		{"one that counts has gone, and another has come", 2, 2, "ab", []Acked{a, c}, false},
		{"… and all three have it", 3, 2, "ab", []Acked{a, b, c}, true},
		{"one of those that had it has gone", 2, 1, "ab", []Acked{a}, false},
		{"nobody has it, and nobody must", 0, 0, "", nil, false},
		{"one has it on two connections", 2, 2, "ab", []Acked{a, a, behind(b)}, false},
		{"… and which of the three were counted is not known", 2, 2, "ab", []Acked{a, a, b}, false},
		{"… and so has the other", 3, 2, "ab", []Acked{a, b, a}, true},
		{"its old connection is behind", 2, 2, "ab", []Acked{a, behind(a), b}, true},
		{"both are there twice", 3, 2, "ab", []Acked{a, a, b, b}, false},
		{"one that has come is there twice", 3, 2, "ab", []Acked{a, c, c, behind(b)}, false},
	} {
		names := make(map[string]bool)
		for _, n := range w.names {
			names[string(n)] = true
		}
		if got := Proves(w.have, w.need, names, w.all); got != w.want {
			t.Errorf("%s: %t", w.why, got)
		}
	}
}
