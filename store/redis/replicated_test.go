package redis

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"rtm/rtmtest"
	"rtm/store"
	"rtm/store/storetest"
)

// at opens a store that is closed with the test.
func at(t testing.TB, c Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// empty forgets all that a store holds.
func empty(t testing.TB, s *Store) *Store {
	t.Helper()
	for _, m := range s.topology.Load().masters {
		if err := m.client.Do(t.Context(), m.client.B().Flushall().Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestStoreBehindSentinels(t *testing.T) {
	busily(t)
	servers := rtmtest.StartSentinels(t, rtmtest.NewNet(t), 2)
	for _, m := range []Mode{Safe, Fast} {
		t.Run(string(m), func(t *testing.T) {
			s := at(t, Config{URL: servers.URL(), Mode: m})
			storetest.Run(t, func(t *testing.T) store.Store { return empty(t, at(t, Config{URL: servers.URL(), Mode: m})) })
			if f, err := s.Facts(t.Context()); err != nil || f.Mode != string(m) || f.Machine != (m != Fast) {
				t.Errorf("%+v %v", f, err)
			}
		})
	}
}

// The clock of one of the masters is ahead of the others': all the same there is
// one time.
func TestStoreInCluster(t *testing.T) {
	busily(t)
	servers := rtmtest.StartCluster(t, rtmtest.NewNet(t), 3, 2)
	off := servers.Masters()[1]
	off.Ahead(4)
	servers.Whole()
	s := at(t, Config{URL: servers.URL()})
	before := time.Now()
	for i := range 50 {
		p := store.Partition(i * 20)
		c := store.Commit{Writes: []store.Write{{Op: store.Put, Key: storetest.Key(p, "clock"), New: storetest.NewVersion()}}}
		_, now := s.Commit(t.Context(), []store.Commit{c})
		if d := now.Sub(before); d < -100*time.Millisecond || d > 3*time.Second {
			t.Errorf("at %s it is %s later", s.topology.Load().of[p].addr, d)
		}
	}
	if !slices.ContainsFunc(s.topology.Load().masters, func(m *node) bool { return time.Duration(m.ahead.Load()).Round(time.Second) == 4*time.Second }) {
		t.Error("no clock is ahead: this test shows nothing")
	}
	for i := range 12 {
		c := store.Commit{Writes: []store.Write{{Op: store.Put, Key: storetest.Key(store.Partition(i*80), "due"), New: storetest.NewVersion()}}}
		c.Wake, c.Index = before.Add(-time.Hour), store.Exact
		if r := patient(t, s, c); r.Outcome != store.Done {
			t.Fatal(r)
		}
	}
	for left := 12; left > 0; {
		due, next, now, err := s.Due(t.Context(), nil, 4, time.Minute)
		if err != nil || len(due) == 0 {
			t.Fatalf("%d of %d are due, %v", len(due), left, err)
		}
		if left -= len(due); next.After(now.Add(time.Second)) != (left == 0) { // each node has its own now
			t.Errorf("%d are left, and the next at %s, %s from now", left, next, next.Sub(now))
		}
	}
	storetest.Run(t, func(t *testing.T) store.Store { return empty(t, at(t, Config{URL: servers.URL()})) })
}

// writers commit to a store as fast as it lets them, each to a record of its
// own, and keep what they were told.
type writers struct {
	s     *Store
	stop  chan struct{}
	wait  sync.WaitGroup
	mu    sync.Mutex                    // guards all below
	may   map[store.Key][]store.Version // what each record may be: what was told last, and what was tried since
	many  int
	worst time.Duration // between two commits that were told, of all writers
	last  time.Time
}

func write(s *Store, n int) *writers {
	w := &writers{s: s, stop: make(chan struct{}), may: make(map[store.Key][]store.Version), last: time.Now()}
	for i := range n {
		w.wait.Go(func() { w.run(storetest.Key(store.Partition(i*37%store.Partitions), fmt.Sprint("record", i))) })
	}
	return w
}

func (w *writers) run(k store.Key) {
	seen := store.Version{}
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		c := store.Commit{Writes: []store.Write{{Op: store.Put, Key: k, Seen: seen, New: storetest.NewVersion(), Bytes: []byte("x")}}}
		w.mu.Lock()
		w.may[k] = append(w.may[k], c.Writes[0].New)
		w.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		rs, _ := w.s.Commit(ctx, []store.Commit{c})
		cancel()
		switch rs[0].Outcome {
		case store.Done:
			seen = c.Writes[0].New
			w.mu.Lock()
			w.may[k] = append(w.may[k][:0], seen)
			w.many++
			w.worst, w.last = max(w.worst, time.Since(w.last)), time.Now()
			w.mu.Unlock()
			continue
		case store.Conflict:
			seen = rs[0].Fresh[0].Version
			continue
		case store.InDoubt, store.Refused:
		}
		<-time.After(20 * time.Millisecond)
		if recs, err := w.s.Load(context.Background(), []store.Key{k}); err == nil {
			seen = recs[0].Version
		}
	}
}

// patiently waits for what Redis does in its own time: Sentinels whose votes were
// split vote again after twice their failover-timeout.
func patiently(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// told is how many commits were told done so far.
func (w *writers) told() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.many
}

// more waits for n more commits.
func (w *writers) more(t *testing.T, n int) {
	t.Helper()
	n += w.told()
	patiently(t, "the writers write", func() bool { return w.told() >= n })
}

// end stops the writers and holds every record against what they were told.
func (w *writers) end(t *testing.T) {
	t.Helper()
	close(w.stop)
	w.wait.Wait()
	for k, may := range w.may {
		recs, err := w.s.Load(t.Context(), []store.Key{k})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(may, recs[0].Version) {
			t.Errorf("%s is not what was acknowledged last, nor what was tried since", k)
		}
	}
	t.Logf("%d commits told, %d batches unproved, the longest time without one %s", w.many, w.s.Unproved.Load(), w.worst.Round(time.Millisecond))
}

// overTLS is a network of servers that speak TLS only.
func overTLS(t *testing.T) *rtmtest.Net {
	t.Helper()
	n := rtmtest.NewNet(t)
	n.Secure(certificate(t, t.TempDir()))
	return n
}

// Servers and Sentinels speak TLS only.
func TestAMasterThatDiesIsReplaced(t *testing.T) {
	t.Parallel()
	servers := rtmtest.StartSentinels(t, overTLS(t), 2)
	s := at(t, Config{URL: servers.URL()})
	w := write(s, 8)
	w.more(t, 500)
	old := servers.Master()
	old.Kill()
	patiently(t, "the store has another master", func() bool { return s.Failovers.Load() > 0 })
	w.more(t, 500)
	if s.Masters()[old.Addr] != 0 {
		t.Errorf("the masters are %v", s.Masters())
	}
	old.Start()
	servers.Whole()
	patiently(t, "the old master counts as a replica", func() bool { return s.Masters()[servers.Master().Addr] == 2 })
	w.more(t, 500)
	w.end(t)
}

// All nodes speak TLS only.
func TestAShardThatDiesIsReplaced(t *testing.T) {
	t.Parallel()
	servers := rtmtest.StartCluster(t, overTLS(t), 3, 2)
	s := at(t, Config{URL: servers.URL()})
	w := write(s, 24)
	w.more(t, 500)
	old := servers.Masters()[0]
	old.Kill()
	patiently(t, "the store has another master", func() bool { return s.Failovers.Load() > 0 })
	w.more(t, 500)
	old.Start()
	servers.Whole()
	patiently(t, "each master has two replicas", func() bool {
		for _, need := range s.Masters() {
			if need != 2 {
				return false
			}
		}
		return true
	})
	w.end(t)
}

// Someone's copy of a master is none of the cluster's nodes. It acknowledges like a
// replica, and stands for none of them, which the masters know by other addresses than
// the cluster.
func TestAStrangerInACluster(t *testing.T) {
	t.Parallel()
	servers := rtmtest.StartCluster(t, rtmtest.NewNet(t), 1, 2, "cluster-node-timeout 60000")
	s := at(t, Config{URL: servers.URL()})
	master := servers.Masters()[0]
	needs := func(n int) func() bool { return func() bool { return s.Masters()[master.Addr] == n } }
	patiently(t, "both replicas are needed", needs(2))
	seen := store.Version{}
	commit := func() store.Outcome {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c := put("a", seen, "x")
		rs, _ := s.Commit(ctx, []store.Commit{c})
		switch rs[0].Outcome {
		case store.Done:
			seen = c.Writes[0].New
		case store.Conflict:
			seen = rs[0].Fresh[0].Version
		case store.InDoubt, store.Refused:
		}
		return rs[0].Outcome
	}
	done := func() bool { return commit() == store.Done }
	patiently(t, "a commit is done", done)
	host, port, _ := net.SplitHostPort(master.Addr)
	stranger := rtmtest.StartRedis(t, "--replicaof", host+" "+port, "--appendonly", "yes")
	patiently(t, "the stranger is waited for too", needs(3))
	patiently(t, "a commit is done", done)
	one := servers.Replicas(master)[0]
	one.Kill()
	patiently(t, "the master has lost the replica", func() bool { return master.Info("replication")["connected_slaves"] == "2" })
	for range 5 {
		if r := commit(); r == store.Done {
			t.Fatalf("it is done, and %s does not have it: %d are needed", one.Name, s.Masters()[master.Addr])
		}
	}
	one.Start()
	patiently(t, "a commit is done when the replica is back", done)
	if n := s.Masters()[master.Addr]; n != 3 {
		t.Errorf("%d are needed of two replicas and a stranger", n)
	}
	stranger.Kill()
	patiently(t, "both replicas are needed", needs(2))
	patiently(t, "a commit is done without the stranger", done)
}

// patient commits until it is done, or refused by what is there.
func patient(t *testing.T, s *Store, c store.Commit) (r store.Result) {
	t.Helper()
	patiently(t, "a commit is carried out", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		rs, _ := s.Commit(ctx, []store.Commit{c})
		r = rs[0]
		return r.Outcome == store.Done || r.Outcome == store.Conflict
	})
	return r
}

// ends are the master of p, and another one.
func ends(servers *rtmtest.Cluster, s *Store, p store.Partition) (from, to *rtmtest.Redis) {
	for _, m := range servers.Masters() {
		if m.Addr == s.topology.Load().of[p].addr {
			from = m
		} else {
			to = m
		}
	}
	return from, to
}

// While a slot is on its way, what shares a batch with it is told, and events are
// told by one master or not at all.
func TestWhileASlotIsOnItsWay(t *testing.T) {
	t.Parallel()
	servers := rtmtest.StartCluster(t, rtmtest.NewNet(t), 3, 2)
	s := at(t, Config{URL: servers.URL()})
	const p = 5
	nd := s.topology.Load().of[p]
	from, to := ends(servers, s, p)
	first := store.Commit{
		Writes: []store.Write{{Op: store.Put, Key: storetest.Key(p, "a"), New: storetest.NewVersion()}},
		Wake:   time.Now().Add(time.Hour), Index: store.Earlier, Events: [][]byte{[]byte("x")},
	}
	if r := patient(t, s, first); r.Outcome != store.Done {
		t.Fatal(r)
	}
	slot := strconv.Itoa(slots[p])
	to.Must("CLUSTER", "SETSLOT", slot, "IMPORTING", from.ID())
	from.Must("CLUSTER", "SETSLOT", slot, "MIGRATING", to.ID())
	other := store.Partition(0)
	for other == p || s.topology.Load().of[other] != nd {
		other++
	}
	commit := func() (checked, put store.Outcome) {
		rs, _ := s.Commit(t.Context(), []store.Commit{
			{Writes: []store.Write{{Op: store.Check, Key: first.Writes[0].Key, Seen: first.Writes[0].New}}},
			{Writes: []store.Write{{Op: store.Put, Key: storetest.Key(other, fmt.Sprint(storetest.NewVersion())), New: storetest.NewVersion()}}},
		})
		return rs[0].Outcome, rs[1].Outcome
	}
	patiently(t, "both are done", func() bool {
		checked, put := commit()
		return checked == store.Done && put == store.Done
	})
	patiently(t, "a fence is refused", func() bool {
		nd.fence.Store(p) // until the next look
		checked, put := commit()
		if put != store.Done {
			t.Fatalf("a write is %s with it", put)
		}
		return checked == store.InDoubt
	})
	events := func() bool {
		es, err := s.Events(t.Context(), p, 0, 10)
		return err == nil && len(es) == 1
	}
	patiently(t, "the events are read before they leave", events)
	host, port, _ := net.SplitHostPort(to.Addr)
	from.Must("MIGRATE", host, port, streamKey(p), "0", "1000")
	if es, err := s.Events(t.Context(), p, 0, 10); err == nil {
		t.Errorf("%d events were read from one master and proved at another", len(es))
	}
	servers.Migrate(slots[p], from, to)
	patiently(t, "the events are read where they are", events)
}

// The master that a slot is leaving is replaced. Its heir does not know that, and has
// not the records that have left: it is not asked until it is told.
func TestASlotIsTornByAFailover(t *testing.T) {
	t.Parallel()
	servers := rtmtest.StartCluster(t, rtmtest.NewNet(t), 3, 2)
	s := at(t, Config{URL: servers.URL()})
	const p = 5
	from, to := ends(servers, s, p)
	stays, left := storetest.Key(p, "stays"), storetest.Key(p, "left")
	first := store.Commit{Writes: []store.Write{
		{Op: store.Put, Key: stays, New: storetest.NewVersion()}, {Op: store.Put, Key: left, New: storetest.NewVersion()},
	}}
	if r := patient(t, s, first); r.Outcome != store.Done {
		t.Fatal(r)
	}
	slot := strconv.Itoa(slots[p])
	to.Must("CLUSTER", "SETSLOT", slot, "IMPORTING", from.ID())
	from.Must("CLUSTER", "SETSLOT", slot, "MIGRATING", to.ID())
	host, port, _ := net.SplitHostPort(to.Addr)
	from.Must("MIGRATE", host, port, recordKey(left), "0", "1000")
	reads := func() ([]store.Record, error) { return s.Load(t.Context(), []store.Key{stays, left}) }
	patiently(t, "both are read while the slot moves", func() bool {
		recs, err := reads()
		return err == nil && recs[0].Version == first.Writes[0].New && recs[1].Version == first.Writes[1].New
	})
	heir := servers.Replicas(from)[0]
	heir.Must("CLUSTER", "FAILOVER")
	patiently(t, "the store has the new master", func() bool {
		t := s.topology.Load()
		return t.master(heir.Addr) != nil && t.master(from.Addr) == nil
	})
	if recs, err := reads(); err == nil {
		t.Fatalf("read from the heir: %v", recs)
	}
	again := store.Commit{Writes: []store.Write{
		{Op: store.Check, Key: stays, Seen: first.Writes[0].New}, {Op: store.Put, Key: left, New: storetest.NewVersion()},
	}}
	if rs, _ := s.Commit(t.Context(), []store.Commit{again}); rs[0].Outcome != store.Refused {
		t.Fatalf("done anew: %v", rs[0])
	}
	for _, state := range []string{"NODE", "IMPORTING"} { // it may have learnt that its old owner is none, and never of the heir
		patiently(t, "the other knows the heir", func() bool {
			_, err := to.Ask("CLUSTER", "SETSLOT", slot, state, heir.ID())
			return err == nil
		})
	}
	heir.Must("SET", recordKey(left), "as if its master had died before it could tell that this has left")
	for _, k := range heir.Must("CLUSTER", "GETKEYSINSLOT", slot, "100") {
		if _, err := heir.Ask("MIGRATE", host, port, k, "0", "1000"); err != nil && strings.Contains(err.Error(), "BUSYKEY") {
			heir.Must("DEL", k)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range []*rtmtest.Redis{to, heir} {
		r.Must("CLUSTER", "SETSLOT", slot, "NODE", to.ID())
	}
	if r := patient(t, s, again); r.Outcome != store.Conflict || r.Fresh[1].Version != first.Writes[1].New {
		t.Errorf("when the slot has moved: %v", r)
	}
}

// What is under way to a master that is replaced does not wait for its own end.
func TestWhatIsUnderWayEndsWithTheOldMaster(t *testing.T) {
	t.Parallel()
	servers := rtmtest.StartSentinels(t, rtmtest.NewNet(t), 2)
	s := at(t, Config{URL: servers.URL()})
	w := write(s, 1)
	w.more(t, 10)
	w.end(t)
	old := servers.Master()
	old.Freeze()
	defer old.Thaw()
	ended := make(chan store.Result, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		rs, _ := s.Commit(ctx, []store.Commit{put("under way", store.Version{}, "x")})
		ended <- rs[0]
	}()
	patiently(t, "the store has another master", func() bool { return s.Failovers.Load() > 0 })
	select {
	case r := <-ended:
		if r.Outcome != store.InDoubt {
			t.Errorf("it is %s (%v)", r.Outcome, r.Err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for a master that was replaced")
	}
}

// A replica that dies is missed until the Sentinels say so, and not after that.
func TestAReplicaThatDiesIsNotWaitedForLong(t *testing.T) {
	t.Parallel()
	servers := rtmtest.StartSentinels(t, rtmtest.NewNet(t), 2)
	s := at(t, Config{URL: servers.URL()})
	w := write(s, 4)
	w.more(t, 100)
	servers.Replicas()[0].Kill()
	patiently(t, "one replica is enough", func() bool { return s.Masters()[servers.Master().Addr] == 1 })
	w.more(t, 100)
	w.end(t)
	if s.Unproved.Load() == 0 {
		t.Error("nothing was in doubt meanwhile")
	}
}

// A replica that is never promoted acknowledges like the others. Also when the
// master has just woken, and has not heard of any of them for a while, its word
// does not stand for theirs.
func TestAReplicaThatIsNeverPromoted(t *testing.T) {
	t.Parallel()
	servers := rtmtest.StartSentinels(t, rtmtest.NewNet(t), 3)
	master, never := servers.Master(), servers.Replicas()[0]
	never.Must("CONFIG", "SET", "replica-priority", "0")
	for _, w := range servers.Sentinels {
		w.Must("SENTINEL", "SET", "rtm", "down-after-milliseconds", "60000")
		patiently(t, "a Sentinel knows that it is never to be promoted", func() bool {
			return strings.Contains(strings.Join(w.Must("SENTINEL", "REPLICAS", "rtm"), " "), "slave-priority 0")
		})
	}
	s := at(t, Config{URL: servers.URL()})
	w := write(s, 8)
	w.more(t, 200)
	for range 4 {
		patiently(t, "all are needed", func() bool { return s.Masters()[master.Addr] == 3 })
		master.Freeze()
		patiently(t, "nobody has heard of the master for a while", func() bool {
			silent, _ := strconv.Atoi(never.Info("replication")["master_last_io_seconds_ago"])
			return silent >= 2
		})
		told := w.told()
		master.Thaw()
		patiently(t, "the writers write again", func() bool {
			if need := s.Masters()[master.Addr]; need < 3 {
				t.Fatalf("%d of 3 are needed", need)
			}
			return w.told() > told+500
		})
	}
	w.end(t)
}

// A replica that comes back empty has to load all its master has. Nobody waits for
// it meanwhile.
func TestAReplicaThatLoadsIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	servers := rtmtest.StartSentinels(t, rtmtest.NewNet(t), 2, "loading-process-events-interval-bytes 1024")
	s := at(t, Config{URL: servers.URL()})
	cs := make([]store.Commit, 16_000)
	for i := range cs {
		cs[i].Writes = []store.Write{{Op: store.Put, Key: storetest.Key(store.Partition(i%store.Partitions), fmt.Sprint(i)), New: storetest.NewVersion(), Bytes: make([]byte, 100)}}
	}
	for from := 0; from < len(cs); from += 1000 {
		s.Commit(t.Context(), cs[from:from+1000])
	}
	master, r := servers.Master(), servers.Replicas()[0]
	dir := r.Must("CONFIG", "GET", "dir")[1]
	r.Kill()
	patiently(t, "one replica is enough", func() bool { return s.Masters()[master.Addr] == 1 })
	if err := os.RemoveAll(filepath.Join(dir, "appendonlydir")); err != nil {
		t.Fatal(err)
	}
	r.Set("key-load-delay 400") // microseconds for each record
	loads := func() bool {
		in := master.Info("replication")
		return strings.Contains(in["slave0"]+in["slave1"], "state=online,offset=0,")
	}
	w := write(s, 4)
	r.Start()
	patiently(t, "the replica was sent everything, and has loaded a third", func() bool {
		done, _ := strconv.ParseFloat(r.Info("persistence")["loading_loaded_perc"], 64)
		return loads() && done > 33
	})
	w.more(t, 100)
	if !loads() {
		t.Error("nothing was told while it loaded")
	}
	patiently(t, "both are needed", func() bool { return s.Masters()[master.Addr] == 2 })
	w.more(t, 100)
	w.end(t)
}

// A replica comes back while no Sentinel is there to tell of it.
func TestAReplicaThatComesBackUnseen(t *testing.T) {
	t.Parallel()
	servers := rtmtest.StartSentinels(t, rtmtest.NewNet(t), 2)
	s := at(t, Config{URL: servers.URL()})
	master, r := servers.Master(), servers.Replicas()[0]
	r.Kill()
	patiently(t, "one replica is enough", func() bool { return s.Masters()[master.Addr] == 1 })
	for _, w := range servers.Sentinels {
		w.Kill()
	}
	r.Start()
	patiently(t, "both are needed", func() bool { return s.Masters()[master.Addr] == 2 })
	w := write(s, 4)
	w.more(t, 100)
	w.end(t)
}

// Sentinels are asked as often as is of use, and those that are gone are
// forgotten. A store whose servers are silent is closed all the same.
func TestWhomTheWatchAsks(t *testing.T) {
	t.Parallel()
	servers := rtmtest.StartSentinels(t, rtmtest.NewNet(t), 2)
	two := servers.Sentinels[:2]
	s := at(t, Config{URL: "redis+sentinel://" + two[0].Addr + "," + two[1].Addr + "/rtm"})
	known := func(n int) func() bool {
		return func() bool { return len(s.sentinels.list()) == n }
	}
	patiently(t, "the third Sentinel is known", known(3))
	asked := func() (n int) {
		stats := servers.Master().Info("commandstats")["cmdstat_info"]
		calls, _, _ := strings.Cut(strings.TrimPrefix(stats, "calls="), ",")
		n, _ = strconv.Atoi(calls)
		return n
	}
	before, began := asked(), time.Now()
	for time.Since(began) < time.Second {
		s.soon()
		<-time.After(time.Millisecond)
	}
	if n := asked() - before; n > 100 {
		t.Errorf("the master was asked %d times in %s", n, time.Since(began))
	}
	servers.Sentinels[2].Kill()
	for _, w := range two {
		w.Must("SENTINEL", "RESET", "rtm")
	}
	patiently(t, "the one that is gone is forgotten", known(2))
	for _, r := range servers.Nodes {
		r.Freeze()
		defer r.Thaw()
	}
	began = time.Now()
	s.Close()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it is closed after %s", took)
	}
}

// Settings that break the promise are refused, with what to set; a mode that
// promises less is taken.
func TestWhatSafeAsksFor(t *testing.T) {
	t.Parallel()
	servers := rtmtest.StartSentinels(t, rtmtest.NewNet(t), 2)
	for _, c := range []struct{ name, set, to, back, want string }{
		{"no append-only file", "appendonly", "no", "yes", "CONFIG SET appendonly yes"},
		{"an evicting policy", "maxmemory-policy", "allkeys-lru", "noeviction", "CONFIG SET maxmemory-policy noeviction"},
		{"no replica needed for a write", "min-replicas-to-write", "0", "1", "CONFIG SET min-replicas-to-write 1"},
	} {
		servers.Master().Must("CONFIG", "SET", "maxmemory", "1gb")
		servers.Master().Must("CONFIG", "SET", c.set, c.to)
		_, err := Open(t.Context(), Config{URL: servers.URL()})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		servers.Master().Must("CONFIG", "SET", c.set, c.back)
	}
	servers.Replicas()[0].Must("CONFIG", "SET", "replica-priority", "10")
	if _, err := Open(t.Context(), Config{URL: servers.URL()}); err == nil || !strings.Contains(err.Error(), "CONFIG SET replica-priority") {
		t.Errorf("a preferred replica: %v", err)
	}
	if s, err := Open(t.Context(), Config{URL: servers.URL(), Mode: Safe1}); err != nil {
		t.Errorf("safe-1: %v", err)
	} else {
		s.Close()
	}
	servers.Replicas()[0].Must("CONFIG", "SET", "replica-priority", "0")
	if _, err := Open(t.Context(), Config{URL: servers.URL()}); err == nil || !strings.Contains(err.Error(), "has 1 that could be promoted") {
		t.Errorf("a replica that is never promoted: %v", err)
	}
	servers.Replicas()[0].Must("CONFIG", "SET", "replica-priority", "100")
	at(t, Config{URL: servers.URL()})
	host, port, _ := net.SplitHostPort(servers.Master().Addr)
	extra := rtmtest.StartRedis(t, "--replicaof", host+" "+port, "--appendonly", "yes", "--replica-announced", "no")
	patiently(t, "a replica that is not announced follows", func() bool { return servers.Master().Info("replication")["connected_slaves"] == "3" })
	if _, err := Open(t.Context(), Config{URL: servers.URL()}); err == nil || !strings.Contains(err.Error(), "CONFIG SET replica-announced yes") {
		t.Errorf("a replica of which no Sentinel knows: %v", err)
	}
	extra.Kill()
}

// leastRights is the ACL of docs/redis.md: what a store needs, and nothing else.
const leastRights = "resetkeys ~{* ~rtm:format resetchannels -@all " +
	"+get +set +getrange +setrange +del +zadd +zrem +zrange +zrangebyscore +xadd +xrange +xtrim +scan +time " +
	"+evalsha +eval +wait +role +ping +info +config|get +client|setname +hello +select +cluster|nodes +asking"

func TestLeastRights(t *testing.T) {
	busily(t)
	docs, err := os.ReadFile("../../docs/redis.md")
	if err != nil || !strings.Contains(string(docs), "ACL SETUSER rtm on >PASSWORD "+leastRights) {
		t.Errorf("docs/redis.md has other rights: %v", err)
	}
	srv := start(t)
	admin := srv.open()
	set := append([]string{"ACL", "SETUSER", "rtm", "on", ">secret"}, strings.Fields(leastRights)...)
	if err := client(admin).Do(t.Context(), client(admin).B().Arbitrary(set...).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	storetest.Run(t, func(t *testing.T) store.Store {
		empty(t, admin)
		return at(t, Config{URL: "redis://rtm:secret@" + srv.Addr})
	})
	_, err = Open(t.Context(), Config{URL: "redis://rtm:wrong@" + srv.Addr})
	if err == nil || !strings.Contains(err.Error(), "WRONGPASS") || strings.Contains(err.Error(), "rtm:wrong") {
		t.Errorf("a wrong password: %v", err)
	}
}

// The rights of docs/redis.md are enough behind Sentinels and in a Cluster too, through a
// failover.
func TestLeastRightsOfMany(t *testing.T) {
	t.Parallel()
	const watching = "+sentinel|myid +sentinel|master +sentinel|get-master-addr-by-name +sentinel|replicas +sentinel|sentinels +ping +hello +client|setname"
	docs, err := os.ReadFile("../../docs/redis.md")
	if err != nil || !strings.Contains(strings.ReplaceAll(string(docs), "\n", " "), watching) {
		t.Errorf("docs/redis.md has other rights of a Sentinel's user: %v", err)
	}
	set := append([]string{"ACL", "SETUSER", "rtm", "on", ">secret"}, strings.Fields(leastRights)...)
	user := func(url string) string { return strings.Replace(url, "://", "://rtm:secret@", 1) }
	t.Run("sentinels", func(t *testing.T) {
		servers := rtmtest.StartSentinels(t, rtmtest.NewNet(t), 2)
		for _, n := range servers.Nodes {
			n.Must(set...)
		}
		for _, n := range servers.Sentinels {
			n.Must(append([]string{"ACL", "SETUSER", "watch", "on", ">word", "resetchannels", "-@all"}, strings.Fields(watching)...)...)
		}
		s := at(t, Config{URL: user(servers.URL()) + "?sentinel-user=watch&sentinel-password=word"})
		works(t, s)
		servers.Master().Kill()
		works(t, s)
	})
	t.Run("cluster", func(t *testing.T) {
		servers := rtmtest.StartCluster(t, rtmtest.NewNet(t), 3, 1)
		for _, n := range servers.Nodes {
			n.Must(set...)
		}
		s := at(t, Config{URL: user(servers.URL())})
		works(t, s)
	})
}

// works waits until s takes a write, and reads it.
func works(t *testing.T, s *Store) {
	t.Helper()
	k, v := storetest.Key(7, "account"), storetest.NewVersion()
	rtmtest.Until(t, "a write is taken", func() bool {
		recs, err := s.Load(t.Context(), []store.Key{k})
		if err != nil {
			return false
		}
		v = storetest.NewVersion()
		c := store.Commit{Writes: []store.Write{{Op: store.Put, Key: k, Seen: recs[0].Version, New: v, Bytes: []byte("x")}}}
		results, _ := s.Commit(t.Context(), []store.Commit{c})
		return results[0].Outcome == store.Done
	})
	if recs, err := s.Load(t.Context(), []store.Key{k}); err != nil || recs[0].Version != v {
		t.Errorf("%v, %v", recs, err)
	}
}

// A server that speaks TLS only: with its authority it is taken, without it not,
// and not when it asks for a certificate that is not given.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, cert, key := certificate(t, dir)
	srv := start(t)
	addr := rtmtest.FreeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	s := srv.open()
	for _, kv := range [][2]string{{"tls-ca-cert-file", ca}, {"tls-cert-file", cert}, {"tls-key-file", key}, {"tls-port", port}} {
		if err := client(s).Do(t.Context(), client(s).B().ConfigSet().ParameterValue().ParameterValue(kv[0], kv[1]).Build()).Error(); err != nil {
			t.Fatal(kv, err)
		}
	}
	at(t, Config{URL: "rediss://" + addr + "?ca=" + ca + "&cert=" + cert + "&key=" + key})
	for _, c := range []struct{ query, want string }{
		{"", "certificate"}, {"?ca=" + ca, ""}, {"?ca=" + ca + "&cert=" + cert, "cert and key go together"}, {"?ca=" + key, "no certificate in PEM"},
		{"?ca=" + ca + "&cert=" + cert + "&key=" + key + "&server-name=other.example", "other.example"},
	} {
		if _, err := Open(t.Context(), Config{URL: "rediss://" + addr + c.query}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.query, err)
		}
	}
}

// Whether a server answers anybody is asked of the server, without the password or
// certificate that the URL has.
func TestWhoIsAsked(t *testing.T) {
	t.Parallel()
	ca, cert, key := certificate(t, t.TempDir())
	plain, guarded := start(t), start(t)
	at := func(url, addr string) bool {
		t.Helper()
		p, _, err := parse(url)
		if err != nil {
			t.Fatal(err)
		}
		return p.answersAnybody(t.Context(), addr)
	}
	admin := guarded.open()
	set := func(key, value string) {
		t.Helper()
		if err := client(admin).Do(t.Context(), client(admin).B().ConfigSet().ParameterValue().ParameterValue(key, value).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	if !at("redis://:word@"+plain.Addr, plain.Addr) {
		t.Error("a server without a password asks who it is, as far as is seen")
	}
	secure := rtmtest.FreeAddr(t)
	_, port, _ := net.SplitHostPort(secure)
	for _, kv := range [][2]string{{"tls-ca-cert-file", ca}, {"tls-cert-file", cert}, {"tls-key-file", key}, {"tls-port", port}} {
		set(kv[0], kv[1])
	}
	url := "rediss://" + secure + "?ca=" + ca + "&cert=" + cert + "&key=" + key
	if at(url, secure) {
		t.Error("a server that wants a certificate answers who has none, as far as is seen")
	}
	set("tls-auth-clients", "optional")
	if !at(url, secure) {
		t.Error("a server that wants no certificate is taken for one that does")
	}
	set("requirepass", "word")
	if at("redis://:word@"+guarded.Addr, guarded.Addr) || at(url, secure) {
		t.Error("a server with a password answers who has none, as far as is seen")
	}
}

// certificate makes an authority, and a certificate of 127.0.0.1 signed by it.
func certificate(t *testing.T, dir string) (ca, cert, key string) {
	t.Helper()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "redis"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	pem1 := func(name, kind string, der []byte, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, signer.Public(), signer)
	ca = pem1("ca.pem", "CERTIFICATE", der, err)
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err = x509.CreateCertificate(rand.Reader, leaf, authority, own.Public(), signer)
	cert = pem1("cert.pem", "CERTIFICATE", der, err)
	der, err = x509.MarshalECPrivateKey(own)
	return ca, cert, pem1("key.pem", "EC PRIVATE KEY", der, err)
}

// Half of the nodes, with one Sentinel, are cut off, and a replica of the other half is
// promoted. Then the store hears only that one Sentinel, which knows nothing of it:
// nothing that the old master does is told.
func TestAnOldMasterIsNeverBelievedAgain(t *testing.T) {
	t.Parallel()
	n := rtmtest.NewNet(t)
	n.Join("instance", os.Getpid)
	servers := rtmtest.StartSentinels(t, n, 2)
	s := at(t, Config{URL: servers.URL()})
	m, near, next := servers.Master(), servers.Replicas()[0], servers.Replicas()[1]
	w := write(s, 8)
	w.more(t, 500)
	far := []string{next.Name, "sentinel2", "sentinel3"}
	heal := n.Part(rtmtest.Hole, []string{m.Name, near.Name, "sentinel1"}, far)
	patiently(t, "the store has another master", func() bool { return s.topology.Load().masters[0].addr == next.Addr })
	patiently(t, "nobody else is waited for", func() bool { return s.Masters()[next.Addr] == 1 })
	healOwn := n.Part(rtmtest.Hole, []string{"instance"}, far)
	was := w.told()
	patiently(t, "nobody that knows is heard", func() bool { return s.blind.Load() || w.told() > was })
	if w.told() != was {
		t.Errorf("%d commits were told that %s does not have", w.told()-was, next.Addr)
	}
	if at := s.topology.Load().masters[0].addr; at != next.Addr {
		t.Errorf("the store is at %s again", at)
	}
	healOwn()
	heal()
	servers.Whole()
	w.more(t, 500)
	w.end(t)
}
