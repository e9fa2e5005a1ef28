package rtm_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/rtmtest"
	"rtm/store"
	"rtm/store/storetest"
	"rtm/tenant"
)

// knowing starts an instance that knows that level.
func knowing(t *testing.T, s store.Store, name string, level uint32, settle time.Duration, log *lines) (*rtm.Instance, error) {
	t.Helper()
	n, err := rtm.Start(t.Context(), rtm.Config{
		Name: name, Store: s, Log: slog.New(slog.NewTextHandler(log, nil)), Knows: level, Settle: settle,
		Presence: rtm.Presence{PeerHost: name, Diameter: []string{name}},
	})
	if err == nil {
		t.Cleanup(n.Stop)
	}
	return n, err
}

// The level rises when all who live know the next, and not before; it never
// falls; who does not know it does not start.
func TestTheLevelRises(t *testing.T) {
	s := storetest.NewMemory()
	open(t, s)
	log := &lines{}
	old, err := knowing(t, s, "old", 1, 0, log)
	if err != nil {
		t.Fatal(err)
	}
	next, err := knowing(t, s, "next", 2, 0, log)
	if err != nil {
		t.Fatal(err)
	}
	l, err := next.Levels(t.Context())
	if err != nil || l.Level != 1 || l.Next != 1 || len(l.Old) != 1 || l.Old[0] != "old" || l.Knows["next"] != 2 {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err := next.Raise(t.Context()); !errors.Is(err, rtm.ErrOld) || !strings.Contains(err.Error(), "old") {
		t.Errorf("raised beside an old instance: %v", err)
	}
	old.Stop()
	if l, err = next.Raise(t.Context()); err != nil || l.Level != 2 || next.Level() != 2 {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err := next.Raise(t.Context()); !errors.Is(err, rtm.ErrOld) {
		t.Errorf("raised beyond what is known: %v", err)
	}
	if _, err := knowing(t, s, "late", 1, 0, log); !errors.Is(err, rtm.ErrLevel) || !strings.Contains(err.Error(), "the store is at level 2, and this version of rtm knows level 1") {
		t.Errorf("an old one starts: %v", err)
	}
	third, err := knowing(t, s, "third", 3, 0, log)
	if err != nil || third.Level() != 2 {
		t.Fatalf("%v", err)
	}
	next.Stop()
	if l, err = third.Raise(t.Context()); err != nil || l.Level != 3 {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestTheLevelRisesByItself(t *testing.T) {
	s := storetest.NewMemory()
	open(t, s)
	log := &lines{}
	old, err := knowing(t, s, "old", 1, time.Nanosecond, log)
	if err != nil {
		t.Fatal(err)
	}
	var all []*rtm.Instance
	for _, name := range []string{"a", "b"} {
		n, err := knowing(t, s, name, 2, time.Nanosecond, log)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	rtmtest.Until(t, "all have heard of each other", func() bool { return len(old.Instances()) == 3 && len(all[0].Instances()) == 3 })
	if all[0].Level() != 1 {
		t.Error("it rose beside an old instance")
	}
	old.Stop()
	for _, n := range all {
		rtmtest.Until(t, "the level has risen", func() bool { return n.Level() == 2 })
	}
	if log.count("the store's level has risen") != 1 {
		t.Error("it did not rise once")
	}
}

// meanwhile is a store in which something happens once, just after that key was
// read.
type meanwhile struct {
	store.Store
	read store.Key
	do   atomic.Pointer[func()]
}

func (m *meanwhile) Load(ctx context.Context, keys []store.Key) ([]store.Record, error) {
	recs, err := m.Store.Load(ctx, keys)
	if slices.Contains(keys, m.read) {
		if do := m.do.Swap(nil); do != nil {
			(*do)()
		}
	}
	return recs, err
}

// Where the list of instances is, and the store's level.
var (
	presenceKey = store.Key{Partition: tenant.Partition("presence"), Kind: tenant.KindPresence, Name: "instances"}
	levelKey    = store.Key{Partition: presenceKey.Partition, Kind: tenant.KindLevel, Name: "level"}
)

// An old instance that comes while the level rises is seen, or sees it.
func TestAnInstanceComesWhileTheLevelRises(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	log := &lines{}
	next, err := knowing(t, m, "next", 2, 0, log)
	if err != nil {
		t.Fatal(err)
	}
	s := &meanwhile{Store: m, read: presenceKey}
	raise := func() { // an old one has read the level, and looks who is there
		if _, err := next.Raise(t.Context()); err != nil {
			t.Errorf("the level does not rise while nobody else is there: %v", err)
		}
	}
	s.do.Store(&raise)
	if _, err := knowing(t, s, "old", 1, 0, log); !errors.Is(err, rtm.ErrLevel) {
		t.Errorf("the old one that did not see the level rise starts: %v", err)
	}
	if live, err := rtm.Live(t.Context(), m); err != nil || len(live) != 1 {
		t.Errorf("it is still on the list: %+v, %v", live, err)
	}

	m = storetest.NewMemory()
	open(t, m)
	s = &meanwhile{Store: m, read: levelKey}
	if next, err = knowing(t, s, "next", 2, 0, log); err != nil {
		t.Fatal(err)
	}
	var coming error
	come := func() { _, coming = knowing(t, m, "old", 1, 0, log) }
	s.do.Store(&come)
	if _, err := next.Raise(t.Context()); !errors.Is(err, rtm.ErrOld) || coming != nil {
		t.Errorf("the level rises, and an old instance has come: %v, %v", err, coming)
	}
}

// An instance that was away while the level rose takes no traffic when it is back,
// and says once what to do.
func TestAnInstanceIsOutgrown(t *testing.T) {
	s := storetest.NewMemory()
	open(t, s)
	log := &lines{}
	n, err := knowing(t, s, "old", 1, 0, log)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Fit(); err != nil {
		t.Fatal(err)
	}
	put := store.Write{Op: store.Put, Key: levelKey, New: storetest.NewVersion(), Bytes: []byte(`{"level":2}`)}
	if rs, _ := s.Commit(t.Context(), []store.Commit{{Writes: []store.Write{put}}}); rs[0].Outcome != store.Done {
		t.Fatal(rs[0])
	}
	<-n.Outgrown()
	if err := n.Fit(); !errors.Is(err, rtm.ErrLevel) {
		t.Errorf("it is fit: %v", err)
	}
	if n.Level() != 1 {
		t.Errorf("it writes level %d", n.Level())
	}
	rtmtest.Until(t, "it says so", func() bool { return log.count("level=ERROR", "takes no peers", "rtm upgrade --help") == 1 })
	others, err := rtm.Live(t.Context(), s)
	rtmtest.Until(t, "the others know that it leaves", func() bool {
		others, err = rtm.Live(t.Context(), s)
		return err == nil && len(others) == 1 && others[0].Leaving
	})
}

// An account above what this build knows is not decided on, whoever asks and
// whatever else waits: nothing is written.
func TestAnAccountAboveTheLevel(t *testing.T) {
	s := storetest.NewMemory()
	open(t, s)
	log := &lines{}
	n, err := knowing(t, s, "old", 0, 0, log)
	if err != nil {
		t.Fatal(err)
	}
	subscribe(t, n)
	var was store.Record
	spoil(t, s, alice, func(a *charging.Account, c *store.Commit) {
		a.Level = charging.Level + 1
		was = store.Record{Version: c.Writes[0].New, Bytes: a.Append(nil)}
	})
	update := initial("s")
	update.Kind, update.Number = charging.Update, 1
	replied := make(chan rtm.Outcome, 4)
	for _, r := range []charging.Request{update, {Kind: charging.Tick}, {Kind: charging.Audit}, {Kind: charging.TopUp, Amount: 1}} {
		n.Submit(&rtm.Inbound{
			Account: alice, Request: r, Arrived: n.Now(), Deadline: n.Now().Add(5 * time.Second), Reply: func(_ *rtm.Inbound, o rtm.Outcome) { replied <- o },
		})
	}
	for range 4 {
		if o := <-replied; o != rtm.Above {
			t.Errorf("outcome %d", o)
		}
	}
	<-n.Outgrown()
	if n.Fit() == nil || !strings.Contains(n.Fit().Error(), "account shop/alice is above level 1") {
		t.Errorf("%v", n.Fit())
	}
	rtmtest.Until(t, "it is counted", func() bool { return n.Load.Above.Load() > 0 })
	if _, err := n.Do(t.Context(), &rtm.Inbound{Account: alice, Request: update}); !errors.Is(err, charging.ErrLevel) {
		t.Errorf("%v", err)
	}
	if p := n.ProvisionAll(t.Context(), []rtm.Subscription{{Tenant: "shop", Account: "alice", Profile: charging.Profile{Plan: "gold", Identities: []string{"imsi:7"}}}}); !errors.Is(p[0].Err, charging.ErrLevel) {
		t.Errorf("%v", p[0].Err)
	}
	recs, err := s.Load(t.Context(), []store.Key{alice})
	if err != nil || recs[0].Version != was.Version || string(recs[0].Bytes) != string(was.Bytes) {
		t.Errorf("the account was written: %v", err)
	}
}

// What another version says of itself in the list of instances stays as it is.
func TestPresenceKeepsWhatItDoesNotKnow(t *testing.T) {
	s := storetest.NewMemory()
	open(t, s)
	n := start(t, s, "A")
	stranger := func() map[string]any {
		recs, err := s.Load(t.Context(), []store.Key{presenceKey})
		var all []map[string]any
		if err != nil || json.Unmarshal(recs[0].Bytes, &all) != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			if p["name"] == "Z" {
				return p
			}
		}
		body, err := json.Marshal(append(all, map[string]any{"name": "Z", "seen": n.Now().Add(time.Minute), "level": 9, "later": map[string]any{"deep": []int{1}}}))
		if err != nil {
			t.Fatal(err)
		}
		s.Commit(t.Context(), []store.Commit{{Writes: []store.Write{{Op: store.Put, Key: presenceKey, Seen: recs[0].Version, New: storetest.NewVersion(), Bytes: body}}}})
		return nil
	}
	rtmtest.Until(t, "it is on the list", func() bool { return stranger() != nil })
	rtmtest.Until(t, "A has written the list, with Z", func() bool { return len(n.Instances()) == 2 })
	if p := stranger(); p == nil || p["later"] == nil || p["level"] != 9.0 {
		t.Errorf("left of it is %v", p)
	}
}
