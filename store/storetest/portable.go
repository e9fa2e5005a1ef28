package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rtm/store"
)

// RunPortable holds the stores that open returns, each of them empty, to the
// promises of store.Portable.
func RunPortable(t *testing.T, open func(t *testing.T) store.Portable) {
	for _, p := range []struct {
		name string
		try  func(t *testing.T, s store.Portable)
	}{
		{"a walk hands on all that a store keeps of a record, and all events", walkAll},
		{"what is filled is read again, fires, and its streams go on behind their numbers", fillAll},
		{"a copy that is filled again replaces the one before, and one without a version removes it", fillAgain},
		{"what a walk hands on of a partition is of one moment, while others write", walkOneMoment},
		{"a mark is read, and written over the one that is expected", marks},
	} {
		t.Run(p.name, func(t *testing.T) { p.try(t, open(t)) })
	}
}

// fill makes n records in so many partitions, a hundred at a time.
func fill(t *testing.T, s store.Store, n, partitions int, name string) {
	t.Helper()
	for from := 0; from < n; from += 100 {
		cs := make([]store.Commit, 100)
		for i := range cs {
			k := Key(store.Partition((from+i)%partitions), fmt.Sprint(name, from+i))
			cs[i].Writes = []store.Write{put(k, store.Version{}, "n")}
		}
		for _, r := range commit(t, s, cs...) {
			if r.Outcome != store.Done {
				t.Fatalf("a commit is %s (%v), want done", r.Outcome, r.Err)
			}
		}
	}
}

// walked is what a walk handed on, the last copy of each record.
type walked struct {
	records map[store.Key]store.Copy
	events  map[store.Partition][]store.Event
	last    map[store.Partition]uint64
	whole   bool
	at      time.Time
}

func walk(t T, s store.Portable, look ...func(*store.Part)) *walked {
	t.Helper()
	w := &walked{records: make(map[store.Key]store.Copy), events: make(map[store.Partition][]store.Event), last: make(map[store.Partition]uint64)}
	var err error
	w.at, w.whole, err = s.Walk(context.Background(), func(part *store.Part) error {
		for _, see := range look {
			see(part)
		}
		for _, c := range part.Copies {
			if _, again := w.records[c.Key]; again && w.whole {
				t.Fatalf("%s came twice", c.Key)
			}
			c.Bytes = append([]byte(nil), c.Bytes...)
			w.records[c.Key] = c
			if c.Version == (store.Version{}) {
				delete(w.records, c.Key)
			}
		}
		for _, st := range part.Streams {
			w.events[st.Partition] = append(w.events[st.Partition], st.Events...)
			if st.Last > 0 {
				w.last[st.Partition] = st.Last
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("walk: %v", err)
	}
	return w
}

func walkAll(t *testing.T, s store.Portable) {
	wake := time.Now().Add(time.Hour).Truncate(time.Millisecond).UTC()
	account, once, plain := Key(5, "account"), Key(5, "once"), Key(1023, "plain")
	c := store.Commit{
		Writes: []store.Write{put(account, store.Version{}, "balance"), put(once, store.Version{}, "answer")},
		Index:  store.Exact, Wake: wake, Events: [][]byte{[]byte("e1"), []byte("e2"), []byte("e3")},
	}
	c.Writes[1].Expire = time.Hour
	must(t, s, c)
	must(t, s, store.Commit{Writes: []store.Write{put(plain, store.Version{}, "p")}})
	fill(t, s, 5000, 7, "") // more than a part of a walk
	if err := s.Trim(t.Context(), 5, 1); err != nil {
		t.Fatal(err)
	}
	w := walk(t, s)
	if len(w.records) != 5003 {
		t.Errorf("%d records, want 5003", len(w.records))
	}
	a, o, p := w.records[account], w.records[once], w.records[plain]
	if a.Version != c.Writes[0].New || string(a.Bytes) != "balance" || a.Expire != 0 || !a.Wake.Equal(wake) {
		t.Errorf("the account is %+v", a)
	}
	if o.Version != c.Writes[1].New || o.Expire < 59*time.Minute || o.Expire > time.Hour+time.Second || !o.Wake.IsZero() {
		t.Errorf("the record that expires is %+v", o)
	}
	if string(p.Bytes) != "p" || p.Expire != 0 {
		t.Errorf("the plain record is %+v", p)
	}
	if e := w.events[5]; len(e) != 2 || e[0].Seq != 2 || string(e[1].Bytes) != "e3" || w.last[5] != 3 {
		t.Errorf("events %v, last %d", e, w.last[5])
	}
	cs, err := s.Copies(t.Context(), []store.Key{plain, Key(9, "nobody"), account})
	if err != nil || cs[0].Version != p.Version || cs[1].Version != (store.Version{}) || !cs[2].Wake.Equal(wake) {
		t.Errorf("copies %v, %v", cs, err)
	}
	st, err := s.Stream(t.Context(), 5, 2, 10)
	if err != nil || st.Last != 3 || len(st.Events) != 1 || st.Events[0].Seq != 3 {
		t.Errorf("stream %v, %v", st, err)
	}
	if st, err := s.Stream(t.Context(), 77, 0, 10); err != nil || st.Last != 0 || len(st.Events) != 0 {
		t.Errorf("stream of a partition without events %v, %v", st, err)
	}
}

func fillAll(t *testing.T, s store.Portable) {
	ctx := t.Context()
	account, once := Key(5, "account"), Key(5, "once")
	wake := time.Now().Add(-time.Minute).Truncate(time.Millisecond).UTC()
	part := store.Part{
		Copies: []store.Copy{
			{Key: account, Version: NewVersion(), Bytes: []byte("balance"), Wake: wake},
			{Key: once, Version: NewVersion(), Bytes: []byte("answer"), Expire: time.Hour},
		},
		Streams: []store.Stream{
			{Partition: 5, Last: 100, Events: []store.Event{{Seq: 7, Bytes: []byte("e7")}, {Seq: 9, Bytes: []byte("e9")}}},
			{Partition: 6, Last: 40},
		},
	}
	if err := s.Fill(ctx, &part); err != nil {
		t.Fatal(err)
	}
	w := walk(t, s)
	if w.last[5] != 100 || w.last[6] != 40 || len(w.events[5]) != 2 || len(w.events[6]) != 0 || len(w.records) != 2 {
		t.Errorf("a walk over what was filled: last %v, events %v, %d records", w.last, w.events, len(w.records))
	}
	if r := load(t, s, account); r.Version != part.Copies[0].Version || string(r.Bytes) != "balance" {
		t.Errorf("the account is %v", r)
	}
	if r := load(t, s, once); r.Version != part.Copies[1].Version {
		t.Errorf("the record that expires is %v", r)
	}
	due, _, _, err := s.Due(ctx, nil, 10, time.Second)
	if err != nil || len(due) != 1 || due[0].Key != account || !due[0].Wake.Equal(wake) {
		t.Errorf("due %v, %v", due, err)
	}
	must(t, s, store.Commit{Writes: []store.Write{put(account, part.Copies[0].Version, "more")}, Index: store.Exact, Events: [][]byte{[]byte("new")}})
	events, err := s.Events(ctx, 5, 0, 10)
	if err != nil || len(events) != 3 || events[0].Seq != 7 || events[2].Seq != 101 {
		t.Errorf("events %v, %v", events, err)
	}
	must(t, s, store.Commit{Writes: []store.Write{put(Key(6, "x"), store.Version{}, "x")}, Events: [][]byte{[]byte("first")}})
	if events, err := s.Events(ctx, 6, 0, 10); err != nil || len(events) != 1 || events[0].Seq != 41 {
		t.Errorf("events %v, %v", events, err)
	}
	brief := Key(5, "brief")
	if err := s.Fill(ctx, &store.Part{Copies: []store.Copy{{Key: brief, Version: NewVersion(), Expire: 200 * time.Millisecond}}}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); load(t, s, brief).Version != (store.Version{}); {
		if time.Now().After(deadline) {
			t.Fatal("it does not expire")
		}
		<-time.After(20 * time.Millisecond)
	}
}

func fillAgain(t *testing.T, s store.Portable) {
	k, gone := Key(3, "again"), Key(3, "gone")
	early, late := time.Now().Add(-time.Hour).Truncate(time.Millisecond), time.Now().Add(-time.Minute).Truncate(time.Millisecond)
	fill := func(cs ...store.Copy) {
		t.Helper()
		if err := s.Fill(t.Context(), &store.Part{Copies: cs}); err != nil {
			t.Fatal(err)
		}
	}
	fill(store.Copy{Key: k, Version: NewVersion(), Bytes: []byte("1"), Wake: early}, store.Copy{Key: gone, Version: NewVersion(), Wake: early})
	v := NewVersion()
	fill(store.Copy{Key: k, Version: v, Bytes: []byte("2"), Wake: late}, store.Copy{Key: gone})
	if r := load(t, s, k); r.Version != v || string(r.Bytes) != "2" {
		t.Errorf("it is %v", r)
	}
	if r := load(t, s, gone); r.Version != (store.Version{}) {
		t.Errorf("what was removed is %v", r)
	}
	due, _, _, err := s.Due(t.Context(), nil, 10, time.Minute)
	if err != nil || len(due) != 1 || due[0].Key != k || !due[0].Wake.Equal(late) {
		t.Errorf("due %v, %v", due, err)
	}
	fill(store.Copy{Key: k, Version: v, Bytes: []byte("2")})
	if cs, err := s.Copies(t.Context(), []store.Key{k}); err != nil || !cs[0].Wake.IsZero() {
		t.Errorf("without a wake-up time it is %v, %v", cs, err)
	}
}

// walkOneMoment: writers change two records of a partition under one version,
// add a third that is new and takes an older one away, and append an event with
// that version. Whatever moment a walk is of, these agree.
func walkOneMoment(t *testing.T, s store.Portable) {
	const writers, filler, before = 4, 3000, 1500
	fill(t, s, filler, store.Partitions, "filler ")
	for i := range before / 50 { // more events than a part of a walk has
		c := store.Commit{Writes: []store.Write{put(Key(0, fmt.Sprint("filler with events ", i)), store.Version{}, "n")}}
		for range 50 {
			c.Events = append(c.Events, []byte("e"))
		}
		must(t, s, c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var calm atomic.Bool // they write more slowly while a walk is elsewhere, since that takes long
	for w := range writers {
		all.Go(func() { writePairs(ctx, s, store.Partition(w), &calm) })
	}
	wrote := -5 * before
	for range 5 {
		left := writers
		calm.Store(false)
		w := walk(t, s, func(part *store.Part) {
			for _, st := range part.Streams {
				if st.Partition < writers && st.Last > 0 {
					left--
				}
			}
			calm.Store(left == 0)
		})
		for p := range store.Partition(writers) {
			wrote += len(w.events[p])
			checkPair(t, w, p)
		}
	}
	cancel()
	all.Wait()
	if wrote <= 0 {
		t.Error("nothing was written meanwhile")
	}
	if w := walk(t, s); len(w.records) != filler+before/50+3*writers {
		t.Errorf("%d records at the end, want %d", len(w.records), filler+before/50+3*writers)
	}
}

func pairKeys(p store.Partition) (a, b store.Key) { return Key(p, "a"), Key(p, "b") }

func chainKey(p store.Partition, v store.Version) store.Key {
	return Key(p, fmt.Sprintf("chain %x", v))
}

func writePairs(ctx context.Context, s store.Portable, p store.Partition, calm *atomic.Bool) {
	a, b := pairKeys(p)
	var seen store.Version
	for ctx.Err() == nil || seen == (store.Version{}) {
		v := NewVersion()
		c := store.Commit{Events: [][]byte{v[:]}, Index: store.Exact, Wake: time.UnixMilli(int64(v[1])<<8 + int64(v[2]) + 1)}
		for _, k := range []store.Key{a, b, chainKey(p, v)} {
			w := store.Write{Op: store.Put, Key: k, Seen: seen, New: v, Bytes: v[:]}
			if k != a && k != b {
				w.Seen = store.Version{}
			}
			c.Writes = append(c.Writes, w)
		}
		if seen != (store.Version{}) {
			c.Writes = append(c.Writes, store.Write{Op: store.Delete, Key: chainKey(p, seen), Seen: seen})
		}
		if rs, _ := s.Commit(context.Background(), []store.Commit{c}); rs[0].Outcome == store.Done {
			seen = v
		}
		if calm.Load() {
			<-time.After(time.Millisecond)
		}
	}
}

func checkPair(t *testing.T, w *walked, p store.Partition) {
	t.Helper()
	a, b := pairKeys(p)
	va := w.records[a].Version
	if va == (store.Version{}) && w.records[b].Version == va { // its writer has not begun
		return
	}
	if w.records[b].Version != va {
		t.Errorf("partition %d: one record of a commit is %x, the other %x", p, va, w.records[b].Version)
	}
	if w.records[chainKey(p, va)].Version != va {
		t.Errorf("partition %d: the record that the commit added is not there", p)
	}
	if want := time.UnixMilli(int64(va[1])<<8 + int64(va[2]) + 1); !w.records[a].Wake.Equal(want) {
		t.Errorf("partition %d: the wake-up time is %s, the commit set %s", p, w.records[a].Wake, want)
	}
	chain := 0
	for k := range w.records {
		if k.Partition == p && k != a && k != b && !strings.HasPrefix(k.Name, "filler") {
			chain++
		}
	}
	if chain != 1 {
		t.Errorf("partition %d: %d records of one chain", p, chain)
	}
	e := w.events[p]
	if n := len(e); n == 0 || string(e[n-1].Bytes) != string(va[:]) || e[n-1].Seq != w.last[p] {
		t.Errorf("partition %d: the last of %d events is not that of the commit; last %d", p, n, w.last[p])
	}
	for i := 1; i < len(e); i++ {
		if e[i].Seq != e[i-1].Seq+1 {
			t.Errorf("partition %d: event %d comes after %d", p, e[i].Seq, e[i-1].Seq)
		}
	}
}

func marks(t *testing.T, s store.Portable) {
	is := func(want string) {
		t.Helper()
		if got, err := s.Mark(t.Context()); err != nil || got != want {
			t.Errorf("the mark is %q, %v, want %q", got, err, want)
		}
	}
	was := ""
	for _, mark := range []string{store.Moving("0"), "", store.Filling("1"), store.Ready("1"), store.Arrived("1"), ""} {
		for range 2 { // it may be repeated
			if err := s.SetMark(t.Context(), was, mark); err != nil {
				t.Fatal(err)
			}
			is(mark)
		}
		if err := s.SetMark(t.Context(), store.Filling("another's"), store.Ready("another's")); !errors.Is(err, store.ErrMark) {
			t.Errorf("over %q whoever expects another mark is told %v", mark, err)
		}
		is(mark)
		was = mark
	}
}
