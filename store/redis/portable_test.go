package redis

import (
	"errors"
	"os"
	"strings"
	"testing"

	"rtm/rtmtest"
	"rtm/store"
	"rtm/store/storetest"
)

func TestPortable(t *testing.T) {
	busily(t)
	storetest.RunPortable(t, func(t *testing.T) store.Portable { return start(t).open() })
}

func TestPortableBehindSentinels(t *testing.T) {
	busily(t)
	servers := rtmtest.StartSentinels(t, rtmtest.NewNet(t), 2)
	storetest.RunPortable(t, func(t *testing.T) store.Portable { return empty(t, at(t, Config{URL: servers.URL()})) })
}

func TestPortableInCluster(t *testing.T) {
	busily(t)
	servers := rtmtest.StartCluster(t, rtmtest.NewNet(t), 3, 2)
	storetest.RunPortable(t, func(t *testing.T) store.Portable { return empty(t, at(t, Config{URL: servers.URL()})) })
}

// A walk that has read some of its records from one master and some from the next
// tells that it is of no use.
func TestWalkOverAFailover(t *testing.T) {
	t.Parallel()
	servers := rtmtest.StartSentinels(t, rtmtest.NewNet(t), 2)
	s := at(t, Config{URL: servers.URL()})
	w := write(s, 24)
	w.more(t, 500)
	w.end(t)
	was := servers.Master()
	parts := 0
	_, _, err := s.Walk(t.Context(), func(*store.Part) error {
		if parts++; parts == 1 {
			servers.Sentinels[0].Must("SENTINEL", "FAILOVER", "rtm")
			patiently(t, "there is another master", func() bool { return s.topology.Load().masters[0].addr != was.Addr })
		}
		return nil
	})
	if err == nil {
		t.Errorf("%d parts of two masters were taken for one walk", parts)
	}
	servers.Whole()
	if _, _, err := s.Walk(t.Context(), func(*store.Part) error { return nil }); err != nil {
		t.Errorf("a walk after it: %v", err)
	}
}

// moreRights is what docs/backup.md adds to the rights of a store's user.
const moreRights = "+client|tracking +pttl +zscore +exists +xinfo|stream +xdel"

func TestRightsToMove(t *testing.T) {
	busily(t)
	docs, err := os.ReadFile("../../docs/backup.md")
	if err != nil || !strings.Contains(string(docs), "ACL SETUSER rtm "+moreRights) {
		t.Errorf("docs/backup.md has other rights: %v", err)
	}
	srv := start(t)
	admin := srv.open()
	set := append([]string{"ACL", "SETUSER", "rtm", "on", ">secret"}, strings.Fields(leastRights+" "+moreRights)...)
	if err := client(admin).Do(t.Context(), client(admin).B().Arbitrary(set...).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	c := Config{URL: "redis://rtm:secret@" + srv.Addr}
	storetest.RunPortable(t, func(t *testing.T) store.Portable {
		empty(t, admin)
		return at(t, c)
	})
	empty(t, admin)
	for _, id := range []string{"1", "2"} {
		s, err := Receive(t.Context(), c, id, "")
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
}

// A database that is being filled is refused with a sentence that says what to
// do, by older programs too; one with records is never filled, and whatever else
// lies there stays.
func TestWhoMayOpen(t *testing.T) {
	srv := start(t)
	conf := Config{URL: "redis://" + srv.Addr}
	s, err := Receive(t.Context(), conf, "1", "")
	if err != nil {
		t.Fatal(err)
	}
	other := s.topology.Load().masters[0].client
	if err := other.Do(t.Context(), other.B().Set().Key("not rtm's").Value("x").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	fill := store.Part{
		Copies:  []store.Copy{{Key: storetest.Key(1, "a"), Version: storetest.NewVersion()}},
		Streams: []store.Stream{{Partition: 2, Last: 9}},
	}
	if err := s.Fill(t.Context(), &fill); err != nil {
		t.Fatal(err)
	}
	refused := func(want string) {
		t.Helper()
		if _, err := Open(t.Context(), conf); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open: %v, want %q", err, want)
		}
		if _, _, err := Look(t.Context(), conf); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Look: %v, want %q", err, want)
		}
	}
	refused("half filled")
	again, err := Receive(t.Context(), conf, "2", "")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if ks, _, _, err := again.Scan(t.Context(), nil, 10); err != nil || len(ks) != 0 {
		t.Errorf("begun anew it holds %v, %v", ks, err)
	}
	if st, err := again.Stream(t.Context(), 2, 0, 1); err != nil || st.Last != 0 {
		t.Errorf("begun anew its streams stand at %v, %v", st, err)
	}
	if mark, err := s.Mark(t.Context()); err != nil || mark != store.Filling("2") {
		t.Errorf("who began first finds the mark %q, %v", mark, err)
	}
	if err := s.Fill(t.Context(), &fill); !errors.Is(err, store.ErrMark) {
		t.Errorf("who began first goes on: %v", err)
	}
	if err := s.SetMark(t.Context(), store.Filling("1"), store.Ready("1")); !errors.Is(err, store.ErrMark) {
		t.Errorf("who began first says that it is ready: %v", err)
	}
	if ks, _, _, err := again.Scan(t.Context(), nil, 10); err != nil || len(ks) != 0 {
		t.Errorf("who began first wrote %v, %v", ks, err)
	}
	if err := again.Fill(t.Context(), &fill); err != nil {
		t.Fatal(err)
	}
	again.SetMark(t.Context(), store.Filling("2"), store.Ready("2"))
	refused("was not taken into service")
	for _, old := range []string{"", "1"} {
		if _, err := Receive(t.Context(), conf, "3", old); err == nil || !strings.Contains(err.Error(), "--finish") {
			t.Errorf("a copy that may count: %v", err)
		}
	}
	again.SetMark(t.Context(), store.Ready("2"), store.Arrived("2"))
	srv.open()
	if _, err := Receive(t.Context(), conf, "3", ""); !errors.Is(err, store.ErrNotEmpty) {
		t.Errorf("a store with records: %v", err)
	}
	if x, err := other.Do(t.Context(), other.B().Get().Key("not rtm's").Build()).ToString(); err != nil || x != "x" {
		t.Errorf("what is not rtm's is %q, %v", x, err)
	}
	s.Close()
}

// The connection that changes are told over is cut during a walk, and the
// database is emptied: neither walk is one.
func TestWalkWithoutItsFeed(t *testing.T) {
	for name, spoil := range map[string]string{"cut": "CLIENT KILL TYPE normal", "emptied": "FLUSHDB"} {
		t.Run(name, func(t *testing.T) {
			srv := start(t)
			s := srv.open()
			if err := s.Fill(t.Context(), &store.Part{Copies: []store.Copy{{Key: storetest.Key(1, "a"), Version: storetest.NewVersion()}}}); err != nil {
				t.Fatal(err)
			}
			killer := srv.open()
			_, _, err := s.Walk(t.Context(), func(*store.Part) error {
				c := killer.topology.Load().masters[0].client
				c.Do(t.Context(), c.B().Arbitrary(strings.Fields(spoil)...).Build())
				return nil
			})
			if err == nil {
				t.Error("the walk ends well")
			}
		})
	}
}
