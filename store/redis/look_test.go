package redis

import (
	"strings"
	"testing"
	"time"
)

// What safe refuses of servers that are otherwise as they should be, and what it
// has doubts about.
func TestWhatIsRefused(t *testing.T) {
	const master, one, two = "10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.3:6379"
	server := func(addr, role, of string) Server {
		return Server{Addr: addr, Version: "7.0.15", Role: role, Master: of, AOF: true, Fsync: "everysec", Writes: 1, Lag: 2, Priority: 100}
	}
	report := func(cluster bool) *Report {
		r := &Report{Where: "10.0.0.1:26379/rtm", Mode: Safe, cluster: cluster}
		r.Nodes = []Server{server(master, "master", ""), server(one, "replica", master), server(two, "replica", master)}
		r.Nodes[0].Replicas = 2
		if !cluster {
			for _, a := range []string{"1", "2", "3"} {
				r.Sentinels = append(r.Sentinels, Sentinel{Addr: a, Quorum: 2, Others: 2, DownAfter: 1300 * time.Millisecond})
			}
		}
		return r
	}
	alone := func(r *Report) { r.Nodes, r.Nodes[0].Replicas = r.Nodes[:1], 0 }
	for name, c := range map[string]struct {
		cluster bool
		spoil   func(r *Report)
		want    string // empty: it is taken
	}{
		"Sentinels":                         {false, func(*Report) {}, ""},
		"a Cluster":                         {true, func(*Report) {}, ""},
		"a replica that needs no replica":   {false, func(r *Report) { r.Nodes[2].Writes = 0 }, "min-replicas-to-write 1 at every node, and " + two},
		"a replica that is never promoted":  {false, func(r *Report) { r.Nodes[2].Never = true }, "two replicas, and " + master + " has 1 that could be promoted"},
		"a replica that no Sentinel names":  {false, func(r *Report) { r.Nodes[0].Replicas = 3 }, "has 1 that are not"},
		"a silent replica":                  {false, func(r *Report) { r.Nodes, r.silent = r.Nodes[:2], []string{two} }, ""},
		"a follower outside the Cluster":    {true, func(r *Report) { r.Nodes[0].Replicas = 3 }, "there are 1 that are not"},
		"a Cluster without replicas":        {true, alone, master + " has none"},
		"a Cluster whose replica is silent": {true, func(r *Report) { alone(r); r.silent = []string{one} }, ""},
	} {
		r := report(c.cluster)
		c.spoil(r)
		if err := r.Refuses(Safe); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	r := report(false)
	r.Nodes[1].Fsync = "no"
	r.Nodes[1].Hard, r.Nodes[1].Soft = replicaBuffer("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60")
	r.Nodes[2].Hard, r.Nodes[2].Soft = replicaBuffer("normal 0 0 0 replica 1073741824 536870912 60")
	r.Nodes[1].Open = true
	said := make(map[string]string)
	for _, d := range r.Doubts() {
		said[d.Who] += d.Text
	}
	if !strings.Contains(said[master], "every second") || strings.Contains(said[one], "every second") || !strings.Contains(said[one], "when its machine likes to") {
		t.Errorf("doubts: %v", said)
	}
	if !strings.Contains(said[one], "256 MiB wait, or 64 MiB for long") || strings.Contains(said[master]+said[two], "MiB wait") {
		t.Errorf("doubts about what may wait for a replica: %v", said)
	}
	if !strings.Contains(said[one], "asks nobody who it is") || strings.Contains(said[two], "asks nobody") {
		t.Errorf("doubts about who may use it: %v", said)
	}
	if err := r.unguarded(); err == nil || !strings.Contains(err.Error(), one) || !strings.Contains(err.Error(), "?auth=none") {
		t.Errorf("a server that anybody may use: %v", err)
	}
}
