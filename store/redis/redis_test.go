package redis

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/goleak"

	"rtm/rtmtest"
	"rtm/store"
	"rtm/store/storetest"
)

// TestMain has four tests run at once, on however few processors, unless it is told
// otherwise: most of their time servers wait until others are down.
func TestMain(m *testing.M) {
	flag.Parse()
	told := false
	flag.Visit(func(f *flag.Flag) { told = told || f.Name == "test.parallel" })
	if !told {
		flag.Set("test.parallel", "4")
	}
	os.Exit(m.Run())
}

// busy are the tests that keep processors busy: two at once, since what they commit is
// to be acknowledged in time.
var busy = make(chan struct{}, 2)

// busily is Parallel for one of them.
func busily(t *testing.T) {
	t.Parallel()
	busy <- struct{}{}
	t.Cleanup(func() { <-busy })
}

// server is a redis-server of this test's own.
type server struct {
	*rtmtest.Redis
	t testing.TB
}

func start(t testing.TB, args ...string) *server {
	t.Helper()
	return &server{rtmtest.StartRedis(t, args...), t}
}

func (s *server) open() *Store {
	s.t.Helper()
	st, err := Open(context.Background(), Config{URL: "redis://" + s.Addr})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { st.Close() })
	return st
}

// client is a way around the store to its first master.
func client(s *Store) rueidis.Client { return s.topology.Load().masters[0].client }

func TestStore(t *testing.T) {
	busily(t)
	srv := start(t)
	storetest.Run(t, func(t *testing.T) store.Store {
		s := srv.open()
		if err := client(s).Do(t.Context(), client(s).B().Flushdb().Build()).Error(); err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestNothingLeaks(t *testing.T) {
	srv := start(t) // somebody waits for it to end
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s, err := Open(t.Context(), Config{URL: "redis://" + srv.Addr})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func put(name string, seen store.Version, text string) store.Commit {
	return store.Commit{Writes: []store.Write{{
		Op: store.Put, Key: storetest.Key(1, name), Seen: seen, New: storetest.NewVersion(), Bytes: []byte(text),
	}}, Events: [][]byte{[]byte(text)}}
}

func TestWhatWasAcknowledgedIsThereAfterARestart(t *testing.T) {
	srv := start(t, "--appendonly", "yes", "--appendfsync", "always")
	s := srv.open()
	f, err := s.Facts(t.Context())
	if err != nil || !f.Power || !f.Kill || f.Machine {
		t.Fatalf("facts %+v %v", f, err)
	}
	for i := range 100 {
		if rs, _ := s.Commit(t.Context(), []store.Commit{put(fmt.Sprint(i), store.Version{}, "x")}); rs[0].Outcome != store.Done {
			t.Fatal(rs[0])
		}
	}
	srv.Kill()
	rs, _ := s.Commit(t.Context(), []store.Commit{put("while it is down", store.Version{}, "x")})
	if rs[0].Outcome == store.Done {
		t.Fatal("done without a server")
	}
	srv.Start()
	after := srv.open()
	for i := range 100 {
		recs, err := after.Load(t.Context(), []store.Key{storetest.Key(1, fmt.Sprint(i))})
		if err != nil || string(recs[0].Bytes) != "x" {
			t.Fatalf("record %d: %v %v", i, recs, err)
		}
	}
	if es, err := after.Events(t.Context(), 1, 0, 200); err != nil || len(es) != 100 {
		t.Fatalf("%d events, %v", len(es), err)
	}
	for tries := 0; ; tries++ { // the first store recovers by itself
		if rs, _ := s.Commit(t.Context(), []store.Commit{put("again", store.Version{}, "x")}); rs[0].Outcome == store.Done {
			return
		} else if rs[0].Outcome == store.Conflict || tries == 100 {
			t.Fatal(rs[0])
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestForgottenScriptsAreSentAgain(t *testing.T) {
	s := start(t).open()
	seen := store.Version{}
	for i := range 50 {
		if i%5 == 0 {
			if err := client(s).Do(t.Context(), client(s).B().ScriptFlush().Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
		c := put("a", seen, fmt.Sprint(i))
		rs, _ := s.Commit(t.Context(), []store.Commit{c, put(fmt.Sprint("b", i), store.Version{}, "x")})
		if rs[0].Outcome != store.Done || rs[1].Outcome != store.Done {
			t.Fatal(rs)
		}
		seen = c.Writes[0].New
	}
	if es, _ := s.Events(t.Context(), 1, 0, 200); len(es) != 100 {
		t.Fatalf("%d events of 100", len(es))
	}
}

// A reply that is lost leaves the commit in doubt, and its version tells.
func TestASwallowedReplyIsInDoubt(t *testing.T) {
	t.Parallel()
	srv := start(t)
	relay := rtmtest.StartRelay(t, srv.Addr, 0)
	s, err := Open(t.Context(), Config{URL: "redis://" + relay.Addr})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if rs, _ := s.Commit(t.Context(), []store.Commit{put("warm", store.Version{}, "x")}); rs[0].Outcome != store.Done {
		t.Fatal(rs[0])
	}
	relay.Swallow.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	c := put("a", store.Version{}, "once")
	rs, _ := s.Commit(ctx, []store.Commit{c})
	if rs[0].Outcome != store.InDoubt {
		t.Fatalf("the commit is %s, want in doubt", rs[0].Outcome)
	}
	recs, err := srv.open().Load(t.Context(), []store.Key{c.Writes[0].Key})
	if err != nil || recs[0].Version != c.Writes[0].New {
		t.Fatalf("the version does not tell: %v %v", recs, err)
	}
	if es, _ := srv.open().Events(t.Context(), 1, 0, 10); len(es) != 2 {
		t.Fatalf("%d events, want 2", len(es))
	}
}

func TestAFullServerRefusesAndChangesNothing(t *testing.T) {
	srv := start(t, "--maxmemory-policy", "noeviction")
	s := srv.open()
	c := put("a", store.Version{}, "x")
	if rs, _ := s.Commit(t.Context(), []store.Commit{c}); rs[0].Outcome != store.Done {
		t.Fatal(rs[0])
	}
	set := func(v string) {
		if err := client(s).Do(t.Context(), client(s).B().ConfigSet().ParameterValue().ParameterValue("maxmemory", v).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	set("1mb")
	two := put("a", c.Writes[0].New, "y")
	two.Writes = append(two.Writes, put("b", store.Version{}, "y").Writes...)
	if rs, _ := s.Commit(t.Context(), []store.Commit{two}); rs[0].Outcome != store.Refused {
		t.Fatalf("the commit is %s %v, want refused", rs[0].Outcome, rs[0].Err)
	}
	rtmtest.Until(t, "the store knows that it is full", func() bool { return s.Full() >= 100 })
	set("0")
	recs, err := s.Load(t.Context(), []store.Key{two.Writes[0].Key, two.Writes[1].Key})
	if err != nil || string(recs[0].Bytes) != "x" || recs[1].Version != (store.Version{}) {
		t.Fatalf("it changed something: %v %v", recs, err)
	}
	if es, _ := s.Events(t.Context(), 1, 0, 10); len(es) != 1 {
		t.Fatalf("%d events, want 1", len(es))
	}
}

func TestServersThatAreRefused(t *testing.T) {
	master := start(t)
	_, port, _ := net.SplitHostPort(master.Addr)
	for name, c := range map[string]struct {
		srv  *server
		want string
	}{
		"a replica":   {start(t, "--replicaof", "127.0.0.1 "+port), "connect to its master"},
		"an evicting": {start(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "noeviction"},
		"nobody":      {&server{Redis: &rtmtest.Redis{Addr: "127.0.0.1:1"}}, "is redis-server running"},
	} {
		_, err := Open(t.Context(), Config{URL: "redis://" + c.srv.Addr})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	s := master.open()
	client(s).Do(t.Context(), client(s).B().Set().Key(formatKey).Value("99 1024").Build())
	if _, err := Open(t.Context(), Config{URL: "redis://" + master.Addr}); err == nil || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("a newer format: %v", err)
	}
	if _, err := Open(t.Context(), Config{URL: "http://x"}); err == nil {
		t.Error("http:// was taken")
	}
}

// Who only looks makes no database of an empty one, and reads what is there.
func TestLook(t *testing.T) {
	srv := start(t)
	look := func() (*Store, *Report) {
		t.Helper()
		s, r, err := Look(t.Context(), Config{URL: "redis://" + srv.Addr})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s, r
	}
	s, r := look()
	if n, err := client(s).Do(t.Context(), client(s).B().Dbsize().Build()).AsInt64(); n != 0 || err != nil || r.Format != "" {
		t.Errorf("%d keys, %v, format %q", n, err, r.Format)
	}
	if d := r.Doubts(); len(d) != 1 || !strings.Contains(d[0].Text, "append-only") || r.Nodes[0].Version < "7" || r.Nodes[0].Memory == 0 {
		t.Errorf("%+v, %+v", r, d)
	}
	open := srv.open()
	key := store.Key{Partition: 7, Kind: 'a', Name: "alice"}
	open.Commit(t.Context(), []store.Commit{{Writes: []store.Write{{Op: store.Put, Key: key, New: store.Version{1}, Bytes: []byte("here")}}}})
	s, r = look()
	if recs, err := s.Load(t.Context(), []store.Key{key}); err != nil || string(recs[0].Bytes) != "here" || r.Format != "1 1024" {
		t.Errorf("%+v, %v, format %q", recs, err, r.Format)
	}
	set := func(v string) {
		client(open).Do(t.Context(), client(open).B().ConfigSet().ParameterValue().ParameterValue("maxmemory", v).Build())
	}
	set("1mb")
	if _, r = look(); len(r.Doubts()) != 2 || !strings.Contains(r.Doubts()[1].Text, "80 % of its maxmemory") {
		t.Errorf("%+v", r.Doubts())
	}
	set("0")
	client(open).Do(t.Context(), client(open).B().Set().Key(formatKey).Value("99 1024").Build())
	if _, r, err := Look(t.Context(), Config{URL: "redis://" + srv.Addr}); err == nil || !strings.Contains(err.Error(), "newer program") || r == nil {
		t.Errorf("a newer format: %v", err)
	}
}
