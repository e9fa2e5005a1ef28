package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"rtm/store"
)

// T is what a promise needs of a *testing.T.
type T interface {
	Helper()
	Fatalf(format string, args ...any)
}

// A Promise is one sentence of the contract, and how it is tried on an empty
// store.
type Promise struct {
	Name string
	Try  func(t T, s store.Store)
}

// Run holds the stores that open returns, each of them empty, to every promise.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, p := range Promises {
		t.Run(p.Name, func(t *testing.T) { p.Try(t, open(t)) })
	}
}

// Promises is the contract.
var Promises = []Promise{
	{"what is written is read, under its version", written},
	{"a missing record has the zero version", missing},
	{"a conflict changes nothing and returns the fresh records in order", conflict},
	{"a conflict leaves no event behind", conflictEvent},
	{"a conflict leaves no wake-up behind", conflictWake},
	{"commits of one batch are independent of each other", independent},
	{"of two commits on one version in one batch the first wins", firstWins},
	{"checks only: done while what was seen holds, refused after", checksOnly},
	{"a commit is there whole or not at all over several records", whole},
	{"a record deleted and created anew has another version", recreated},
	{"whoever was refused leaves a mark, and those who are done take it off", contended},
	{"a malformed or too large commit is refused and changes nothing", malformed},
	{"a record that expires is there before and missing after", expires},
	{"a put without expiry outlives an earlier one with", outlives},
	{"a wake-up is due at its time and not before", due},
	{"a claimed wake-up comes back after its lease", lease},
	{"Earlier only ever moves a wake-up forward", earlier},
	{"Exact moves and removes a wake-up, also in a commit of checks", exactly},
	{"Due gives at most n, and next names the earliest that is left", dueNext},
	{"Due looks at the partitions it is asked for", duePartitions},
	{"events come in order, each once", events},
	{"a trimmed event does not come back, and its number is never used again", trim},
	{"Scan sees everything that exists throughout", scan},
	{"Scan refuses a cursor that is none", strangeCursor},
	{"the store's time does not step back", timeRises},
	{"eight loops on one record: exactly the accepted commits count", races},
	{"a closed store refuses", closed},
}

// NewVersion draws a version.
func NewVersion() (v store.Version) {
	rand.Read(v[:])
	v[0] |= 1
	return v
}

// Key is a key for tests.
func Key(p store.Partition, name string) store.Key {
	return store.Key{Partition: p, Kind: 't', Name: name}
}

func put(k store.Key, seen store.Version, text string) store.Write {
	return store.Write{Op: store.Put, Key: k, Seen: seen, New: NewVersion(), Bytes: []byte(text)}
}

func commit(t T, s store.Store, cs ...store.Commit) []store.Result {
	t.Helper()
	rs, now := s.Commit(context.Background(), cs)
	if len(rs) != len(cs) || now.IsZero() {
		t.Fatalf("%d results for %d commits, time %v", len(rs), len(cs), now)
	}
	return rs
}

// must commits one commit that has to be done.
func must(t T, s store.Store, c store.Commit) store.Result {
	t.Helper()
	r := commit(t, s, c)[0]
	if r.Outcome != store.Done {
		t.Fatalf("the commit is %s (%v), want done", r.Outcome, r.Err)
	}
	return r
}

func refused(t T, s store.Store, c store.Commit) store.Result {
	t.Helper()
	r := commit(t, s, c)[0]
	if r.Outcome != store.Conflict {
		t.Fatalf("the commit is %s (%v), want conflict", r.Outcome, r.Err)
	}
	return r
}

func load(t T, s store.Store, k store.Key) store.Record {
	t.Helper()
	recs, err := s.Load(context.Background(), []store.Key{k})
	if err != nil || len(recs) != 1 {
		t.Fatalf("load %s: %v", k, err)
	}
	return recs[0]
}

// until waits for something that must come to be within five seconds.
func until(t T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func written(t T, s store.Store) {
	k := Key(7, "a")
	for i, text := range []string{"one", "", string(make([]byte, 60_000))} {
		was := load(t, s, k)
		w := put(k, was.Version, text)
		must(t, s, store.Commit{Writes: []store.Write{w}})
		if got := load(t, s, k); got.Version != w.New || string(got.Bytes) != text {
			t.Fatalf("write %d: got %d octets under %x, want %d under %x", i, len(got.Bytes), got.Version, len(text), w.New)
		}
	}
}

func missing(t T, s store.Store) {
	a, b := Key(1, "there"), Key(2, "not there")
	must(t, s, store.Commit{Writes: []store.Write{put(a, store.Version{}, "x")}})
	recs, err := s.Load(context.Background(), []store.Key{b, a, b})
	if err != nil || recs[0].Version != (store.Version{}) || recs[2].Version != (store.Version{}) || string(recs[1].Bytes) != "x" {
		t.Fatalf("got %v %v", recs, err)
	}
}

func conflict(t T, s store.Store) {
	a, b, c := Key(3, "a"), Key(3, "b"), Key(3, "c")
	wa, wb := put(a, store.Version{}, "A"), put(b, store.Version{}, "B")
	must(t, s, store.Commit{Writes: []store.Write{wa, wb}})
	r := refused(t, s, store.Commit{Writes: []store.Write{put(a, wa.New, "A2"), put(b, NewVersion(), "B2"), put(c, store.Version{}, "C")}})
	if len(r.Fresh) != 3 || r.Fresh[0].Version != wa.New || string(r.Fresh[1].Bytes) != "B" || r.Fresh[2].Version != (store.Version{}) {
		t.Fatalf("fresh records are %v", r.Fresh)
	}
	if got := load(t, s, a); string(got.Bytes) != "A" || got.Version != wa.New {
		t.Fatalf("a became %q", got.Bytes)
	}
	if got := load(t, s, c); got.Version != (store.Version{}) {
		t.Fatalf("c was written")
	}
}

func conflictEvent(t T, s store.Store) {
	k := Key(4, "a")
	must(t, s, store.Commit{Writes: []store.Write{put(k, store.Version{}, "x")}, Events: [][]byte{[]byte("first")}})
	refused(t, s, store.Commit{Writes: []store.Write{put(k, store.Version{}, "y")}, Events: [][]byte{[]byte("second")}})
	es, err := s.Events(context.Background(), 4, 0, 10)
	if err != nil || len(es) != 1 || string(es[0].Bytes) != "first" {
		t.Fatalf("events are %v %v", es, err)
	}
}

func conflictWake(t T, s store.Store) {
	k := Key(4, "b")
	must(t, s, store.Commit{Writes: []store.Write{put(k, store.Version{}, "x")}})
	refused(t, s, store.Commit{Writes: []store.Write{put(k, store.Version{}, "y")}, Index: store.Exact, Wake: time.Now()})
	due, next, _, err := s.Due(context.Background(), []store.Partition{4}, 10, time.Second)
	if err != nil || len(due) != 0 || !next.IsZero() {
		t.Fatalf("due %v, next %v, %v", due, next, err)
	}
}

func independent(t T, s store.Store) {
	a, b, c := Key(5, "a"), Key(600, "b"), Key(5, "c")
	rs := commit(t, s,
		store.Commit{Writes: []store.Write{put(a, store.Version{}, "A")}},
		store.Commit{Writes: []store.Write{put(b, NewVersion(), "B")}},
		store.Commit{},
		store.Commit{Writes: []store.Write{put(c, store.Version{}, "C")}},
	)
	for i, want := range []store.Outcome{store.Done, store.Conflict, store.Refused, store.Done} {
		if rs[i].Outcome != want {
			t.Fatalf("commit %d is %s, want %s", i, rs[i].Outcome, want)
		}
	}
}

func firstWins(t T, s store.Store) {
	k := Key(6, "a")
	first := put(k, store.Version{}, "first")
	rs := commit(t, s, store.Commit{Writes: []store.Write{first}}, store.Commit{Writes: []store.Write{put(k, store.Version{}, "second")}})
	if rs[0].Outcome != store.Done || rs[1].Outcome != store.Conflict {
		t.Fatalf("they are %s and %s", rs[0].Outcome, rs[1].Outcome)
	}
	if f := rs[1].Fresh; len(f) != 1 || f[0].Version != first.New || string(f[0].Bytes) != "first" {
		t.Fatalf("the second saw %v", f)
	}
}

func checksOnly(t T, s store.Store) {
	k, gone := Key(8, "a"), Key(8, "gone")
	w := put(k, store.Version{}, "x")
	must(t, s, store.Commit{Writes: []store.Write{w}})
	check := store.Commit{Writes: []store.Write{{Op: store.Check, Key: k, Seen: w.New}, {Op: store.Check, Key: gone}}}
	must(t, s, check)
	must(t, s, store.Commit{Writes: []store.Write{put(gone, store.Version{}, "back")}})
	refused(t, s, check)
	if got := load(t, s, k); got.Version != w.New {
		t.Fatalf("a check changed the record")
	}
}

func whole(t T, s store.Store) {
	var writes []store.Write
	for i := range store.WritesMax {
		writes = append(writes, put(Key(9, fmt.Sprint(i)), store.Version{}, "x"))
	}
	must(t, s, store.Commit{Writes: writes})
	for i := range writes {
		writes[i] = put(writes[i].Key, writes[i].New, "y")
	}
	writes[store.WritesMax-1].Seen = NewVersion()
	refused(t, s, store.Commit{Writes: writes})
	for _, w := range writes {
		if got := load(t, s, w.Key); string(got.Bytes) != "x" {
			t.Fatalf("%s is %q", w.Key, got.Bytes)
		}
	}
}

func recreated(t T, s store.Store) {
	k := Key(10, "a")
	w := put(k, store.Version{}, "old")
	must(t, s, store.Commit{Writes: []store.Write{w}})
	must(t, s, store.Commit{Writes: []store.Write{{Op: store.Delete, Key: k, Seen: w.New}}})
	if got := load(t, s, k); got.Version != (store.Version{}) {
		t.Fatalf("the deleted record is there")
	}
	must(t, s, store.Commit{Writes: []store.Write{put(k, store.Version{}, "new")}})
	refused(t, s, store.Commit{Writes: []store.Write{put(k, w.New, "zombie")}})
}

func contended(t T, s store.Store) {
	k := Key(11, "a")
	w := put(k, store.Version{}, "x")
	if r := must(t, s, store.Commit{Writes: []store.Write{w}}); r.Contended != 0 {
		t.Fatalf("a new record is contended")
	}
	refused(t, s, store.Commit{Writes: []store.Write{put(k, NewVersion(), "y")}})
	if got := load(t, s, k); got.Version != w.New || string(got.Bytes) != "x" {
		t.Fatalf("the mark changed the record: %q", got.Bytes)
	}
	next := put(k, w.New, "z")
	for _, d := range []uint8{7, 200, 9} {
		refused(t, s, store.Commit{Writes: []store.Write{put(k, NewVersion(), "y")}, Distance: d})
	}
	if r := must(t, s, store.Commit{Writes: []store.Write{next}, Distance: 50}); r.Contended != 200 {
		t.Fatalf("the mark is %d, the furthest of those refused left 200", r.Contended)
	}
	check := store.Commit{Writes: []store.Write{{Op: store.Check, Key: k, Seen: next.New}}, Distance: 198}
	for _, want := range []uint8{199, 198, 0} {
		if r := must(t, s, check); r.Contended != want {
			t.Fatalf("the mark is %d, want %d", r.Contended, want)
		}
	}
	refused(t, s, store.Commit{Writes: []store.Write{put(k, NewVersion(), "y")}})
	if r := must(t, s, store.Commit{Writes: []store.Write{put(k, next.New, "w")}, Distance: 255}); r.Contended != 1 {
		t.Fatalf("the mark of a refusal without a distance is %d", r.Contended)
	}
}

func malformed(t T, s store.Store) {
	a, b := Key(12, "a"), Key(13, "b")
	big := put(a, store.Version{}, "")
	big.Bytes = make([]byte, store.CommitBytesMax+1)
	var many []store.Write
	for i := range store.WritesMax + 1 {
		many = append(many, put(Key(12, fmt.Sprint(i)), store.Version{}, ""))
	}
	zero := put(a, store.Version{}, "")
	zero.New = store.Version{}
	for name, c := range map[string]struct {
		c    store.Commit
		want error
	}{
		"nothing":        {store.Commit{Events: [][]byte{{1}}}, store.ErrMalformed},
		"two partitions": {store.Commit{Writes: []store.Write{put(a, store.Version{}, ""), put(b, store.Version{}, "")}}, store.ErrMalformed},
		"a key twice":    {store.Commit{Writes: []store.Write{put(a, store.Version{}, ""), put(a, store.Version{}, "")}}, store.ErrMalformed},
		"zero version":   {store.Commit{Writes: []store.Write{zero}}, store.ErrMalformed},
		"too many":       {store.Commit{Writes: many}, store.ErrTooLarge},
		"too large":      {store.Commit{Writes: []store.Write{big}}, store.ErrTooLarge},
		"large events":   {store.Commit{Writes: []store.Write{put(a, store.Version{}, "")}, Events: [][]byte{make([]byte, store.CommitBytesMax)}, Index: store.Exact, Wake: time.Now()}, nil},
	} {
		r := commit(t, s, c.c)[0]
		if c.want == nil {
			if r.Outcome != store.Done {
				t.Fatalf("%s: %s %v, want done", name, r.Outcome, r.Err)
			}
			must(t, s, store.Commit{Writes: []store.Write{{Op: store.Delete, Key: a, Seen: load(t, s, a).Version}}})
			continue
		}
		if r.Outcome != store.Refused || !errors.Is(r.Err, c.want) {
			t.Fatalf("%s: %s %v, want refused, %v", name, r.Outcome, r.Err, c.want)
		}
	}
}

func expires(t T, s store.Store) {
	k, stays := Key(14, "a"), Key(14, "stays")
	w := put(k, store.Version{}, "x")
	w.Expire = 300 * time.Millisecond
	must(t, s, store.Commit{Writes: []store.Write{w, put(stays, store.Version{}, "y")}})
	began := time.Now()
	if got := load(t, s, k); got.Version != w.New && time.Since(began) < w.Expire/2 {
		t.Fatalf("it is missing at once")
	}
	until(t, "the record expires", func() bool {
		gone := load(t, s, k).Version == store.Version{}
		if gone && time.Since(began) < w.Expire-50*time.Millisecond {
			t.Fatalf("it vanished after %s, and was to stay %s", time.Since(began), w.Expire)
		}
		return gone
	})
	refused(t, s, store.Commit{Writes: []store.Write{put(k, w.New, "late")}})
	must(t, s, store.Commit{Writes: []store.Write{put(k, store.Version{}, "new")}})
	if load(t, s, stays).Version == (store.Version{}) {
		t.Fatalf("its neighbour expired with it")
	}
}

func outlives(t T, s store.Store) {
	k := Key(15, "a")
	w := put(k, store.Version{}, "x")
	w.Expire = 100 * time.Millisecond
	must(t, s, store.Commit{Writes: []store.Write{w}})
	w2 := put(k, w.New, "y")
	must(t, s, store.Commit{Writes: []store.Write{w2}})
	began := time.Now()
	until(t, "time passes", func() bool { return time.Since(began) > 3*w.Expire })
	if got := load(t, s, k); got.Version != w2.New {
		t.Fatalf("it expired with what was there before")
	}
}

// dueOnce claims all that is due in p.
func dueOnce(t T, s store.Store, p store.Partition, lease time.Duration) ([]store.Due, time.Time, time.Time) {
	t.Helper()
	due, next, now, err := s.Due(context.Background(), []store.Partition{p}, 100, lease)
	if err != nil {
		t.Fatalf("Due: %v", err)
	}
	return due, next, now
}

func due(t T, s store.Store) {
	k := Key(16, "a")
	_, _, now := dueOnce(t, s, 16, time.Second)
	wake := now.Add(200 * time.Millisecond).Truncate(time.Millisecond)
	must(t, s, store.Commit{Writes: []store.Write{put(k, store.Version{}, "x")}, Index: store.Earlier, Wake: wake})
	until(t, "it is due", func() bool {
		due, next, now := dueOnce(t, s, 16, time.Minute)
		if len(due) == 0 {
			if !next.Equal(wake) {
				t.Fatalf("next is %v, want %v", next, wake)
			}
			return false
		}
		if now.Before(wake) {
			t.Fatalf("due %s early", wake.Sub(now))
		}
		if due[0].Key != k || !due[0].Wake.Equal(wake) {
			t.Fatalf("due is %v, want %s at %v", due, k, wake)
		}
		return true
	})
}

func lease(t T, s store.Store) {
	k := Key(17, "a")
	must(t, s, store.Commit{Writes: []store.Write{put(k, store.Version{}, "x")}, Index: store.Exact, Wake: time.Now().Add(-time.Second)})
	const lease = 200 * time.Millisecond
	first, _, claimed := dueOnce(t, s, 17, lease)
	if len(first) != 1 {
		t.Fatalf("due is %v", first)
	}
	until(t, "it comes back", func() bool {
		due, _, now := dueOnce(t, s, 17, lease)
		if len(due) > 0 && now.Sub(claimed) < lease-20*time.Millisecond { // the time of several servers is learnt, better and better
			t.Fatalf("it came back after %s, its lease is %s", now.Sub(claimed), lease)
		}
		return len(due) == 1
	})
}

func earlier(t T, s store.Store) {
	k := Key(18, "a")
	w := put(k, store.Version{}, "x")
	base := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	arm := func(at time.Time, want time.Time) {
		t.Helper()
		must(t, s, store.Commit{Writes: []store.Write{w}, Index: store.Earlier, Wake: at})
		w = put(k, w.New, "x")
		if _, next, _ := dueOnce(t, s, 18, time.Second); !next.Equal(want) {
			t.Fatalf("next is %v, want %v", next, want)
		}
	}
	arm(base, base)
	arm(base.Add(time.Minute), base)
	arm(base.Add(-time.Minute), base.Add(-time.Minute))
}

func exactly(t T, s store.Store) {
	k := Key(19, "a")
	w := put(k, store.Version{}, "x")
	base := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	must(t, s, store.Commit{Writes: []store.Write{w}, Index: store.Earlier, Wake: base})
	check := store.Write{Op: store.Check, Key: k, Seen: w.New}
	must(t, s, store.Commit{Writes: []store.Write{check}, Index: store.Exact, Wake: base.Add(time.Hour)})
	if _, next, _ := dueOnce(t, s, 19, time.Second); !next.Equal(base.Add(time.Hour)) {
		t.Fatalf("next is %v", next)
	}
	must(t, s, store.Commit{Writes: []store.Write{check}, Index: store.Exact, Wake: base.Add(-2 * time.Hour)})
	due, _, _ := dueOnce(t, s, 19, time.Hour)
	if len(due) != 1 {
		t.Fatalf("due is %v", due)
	}
	must(t, s, store.Commit{Writes: []store.Write{check}, Index: store.Exact, Wake: base.Add(-time.Hour - time.Minute)})
	if due, _, _ := dueOnce(t, s, 19, time.Hour); len(due) != 1 {
		t.Fatalf("an entry set anew is still leased")
	}
	must(t, s, store.Commit{Writes: []store.Write{check}, Index: store.Exact})
	if due, next, _ := dueOnce(t, s, 19, time.Hour); len(due) != 0 || !next.IsZero() {
		t.Fatalf("due %v, next %v", due, next)
	}
	gone := Key(19, "gone") // a record that is missing can lose its entry
	must(t, s, store.Commit{Writes: []store.Write{{Op: store.Check, Key: gone}}, Index: store.Exact, Wake: base})
	must(t, s, store.Commit{Writes: []store.Write{{Op: store.Check, Key: gone}}, Index: store.Exact})
	if _, next, _ := dueOnce(t, s, 19, time.Hour); !next.IsZero() {
		t.Fatalf("next is %v", next)
	}
}

func dueNext(t T, s store.Store) {
	base := time.Now().Add(-time.Minute).Truncate(time.Millisecond)
	for i := range 10 {
		c := store.Commit{Writes: []store.Write{put(Key(20, fmt.Sprint(i)), store.Version{}, "")}, Index: store.Earlier}
		c.Wake = base.Add(time.Duration(i) * time.Second)
		must(t, s, c)
	}
	seen := make(map[string]bool)
	for round := range 3 {
		due, next, _, err := s.Due(context.Background(), []store.Partition{20}, 4, time.Hour)
		if want := min(4, 10-4*round); err != nil || len(due) != want {
			t.Fatalf("round %d: %d due, want %d (%v)", round, len(due), want, err)
		}
		for i, d := range due {
			if seen[d.Key.Name] || d.Key.Name != fmt.Sprint(4*round+i) {
				t.Fatalf("round %d: %s comes as number %d", round, d.Key.Name, i)
			}
			seen[d.Key.Name] = true
		}
		if round < 2 && !next.Equal(base.Add(time.Duration(4*round+4)*time.Second)) {
			t.Fatalf("round %d: next is %v", round, next)
		}
	}
}

func duePartitions(t T, s store.Store) {
	past := time.Now().Add(-time.Minute)
	for _, p := range []store.Partition{21, 22, 1023} {
		must(t, s, store.Commit{Writes: []store.Write{put(Key(p, "a"), store.Version{}, "")}, Index: store.Earlier, Wake: past})
	}
	due, _, _, err := s.Due(context.Background(), []store.Partition{22}, 10, time.Hour)
	if err != nil || len(due) != 1 || due[0].Key.Partition != 22 {
		t.Fatalf("of partition 22: %v %v", due, err)
	}
	due, _, _, err = s.Due(context.Background(), nil, 10, time.Hour)
	if err != nil || len(due) != 2 {
		t.Fatalf("of all: %v %v", due, err)
	}
}

func events(t T, s store.Store) {
	k := Key(23, "a")
	seen := store.Version{}
	for i := range 5 {
		w := put(k, seen, "x")
		must(t, s, store.Commit{Writes: []store.Write{w}, Events: [][]byte{fmt.Appendf(nil, "%d", 2*i), fmt.Appendf(nil, "%d", 2*i+1)}})
		seen = w.New
	}
	var all []string
	after := uint64(0)
	for {
		es, err := s.Events(context.Background(), 23, after, 3)
		if err != nil {
			t.Fatalf("Events: %v", err)
		}
		if len(es) == 0 {
			break
		}
		for _, e := range es {
			if e.Seq <= after {
				t.Fatalf("seq %d comes after %d", e.Seq, after)
			}
			after = e.Seq
			all = append(all, string(e.Bytes))
		}
	}
	if fmt.Sprint(all) != "[0 1 2 3 4 5 6 7 8 9]" {
		t.Fatalf("events are %v", all)
	}
	if es, err := s.Events(context.Background(), 24, 0, 3); err != nil || len(es) != 0 {
		t.Fatalf("partition 24 has %v %v", es, err)
	}
}

func trim(t T, s store.Store) {
	k := Key(25, "a")
	w := put(k, store.Version{}, "x")
	must(t, s, store.Commit{Writes: []store.Write{w}, Events: [][]byte{[]byte("1"), []byte("2"), []byte("3")}})
	es, err := s.Events(context.Background(), 25, 0, 10)
	if err != nil || len(es) != 3 {
		t.Fatalf("events are %v %v", es, err)
	}
	if err := s.Trim(context.Background(), 25, es[1].Seq); err != nil {
		t.Fatalf("Trim: %v", err)
	}
	if left, _ := s.Events(context.Background(), 25, 0, 10); len(left) != 1 || string(left[0].Bytes) != "3" {
		t.Fatalf("left are %v", left)
	}
	if err := s.Trim(context.Background(), 25, es[2].Seq); err != nil {
		t.Fatalf("Trim: %v", err)
	}
	must(t, s, store.Commit{Writes: []store.Write{put(k, w.New, "y")}, Events: [][]byte{[]byte("4")}})
	if left, _ := s.Events(context.Background(), 25, 0, 10); len(left) != 1 || left[0].Seq <= es[2].Seq {
		t.Fatalf("left are %v, the last number was %d", left, es[2].Seq)
	}
}

func scan(t T, s store.Store) {
	want := make(map[store.Key]string)
	for i := range 200 {
		k := Key(store.Partition(i*5), fmt.Sprint("s", i))
		must(t, s, store.Commit{Writes: []store.Write{put(k, store.Version{}, fmt.Sprint(i))}, Events: [][]byte{{1}}, Index: store.Earlier, Wake: time.Now().Add(time.Hour)})
		want[k] = fmt.Sprint(i)
	}
	var cursor []byte
	for rounds := 0; ; rounds++ {
		ks, rs, next, err := s.Scan(context.Background(), cursor, 17)
		if err != nil || len(ks) != len(rs) || rounds > 5000 {
			t.Fatalf("Scan: %d keys, %d records, round %d, %v", len(ks), len(rs), rounds, err)
		}
		for i, k := range ks {
			if text, ok := want[k]; ok && text == string(rs[i].Bytes) && rs[i].Version != (store.Version{}) {
				delete(want, k)
			}
		}
		if next == nil {
			break
		}
		cursor = next
	}
	if len(want) > 0 {
		t.Fatalf("%d records were never seen", len(want))
	}
}

func strangeCursor(t T, s store.Store) {
	must(t, s, store.Commit{Writes: []store.Write{put(Key(27, "a"), store.Version{}, "x")}})
	if ks, _, _, err := s.Scan(context.Background(), []byte("zzz"), 10); !errors.Is(err, store.ErrCursor) {
		t.Fatalf("%d keys, %v", len(ks), err)
	}
}

func timeRises(t T, s store.Store) {
	last := time.Time{}
	for range 200 {
		_, now := s.Commit(context.Background(), []store.Commit{{Writes: []store.Write{{Op: store.Check, Key: Key(26, "a")}}}})
		if now.Before(last) {
			t.Fatalf("%v came after %v", now, last)
		}
		last = now
	}
	f, err := s.Facts(context.Background())
	if err != nil || f.Clock.Before(last.Add(-time.Second)) || f.Partitions != store.Partitions || f.Node == "" || f.Mode == "" {
		t.Fatalf("facts are %+v %v", f, err)
	}
}

func races(t T, s store.Store) {
	const loops, each = 8, 1000
	k := Key(27, "counter")
	var wg sync.WaitGroup
	done := make([]int, loops)
	failed := make([]string, loops)
	for i := range loops {
		wg.Go(func() {
			rec := store.Record{}
			for range each {
				n := uint64(0)
				if len(rec.Bytes) == 8 {
					n = binary.BigEndian.Uint64(rec.Bytes)
				}
				w := put(k, rec.Version, "")
				w.Bytes = binary.BigEndian.AppendUint64(nil, n+1)
				rs, _ := s.Commit(context.Background(), []store.Commit{{Writes: []store.Write{w}, Events: [][]byte{w.Bytes}}})
				switch rs[0].Outcome {
				case store.Done:
					done[i]++
					rec = store.Record{Version: w.New, Bytes: w.Bytes}
				case store.Conflict:
					rec = rs[0].Fresh[0]
				default:
					failed[i] = fmt.Sprint(rs[0])
					return
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for i := range loops {
		if failed[i] != "" {
			t.Fatalf("loop %d: %s", i, failed[i])
		}
		sum += done[i]
	}
	if got := binary.BigEndian.Uint64(load(t, s, k).Bytes); got != uint64(sum) {
		t.Fatalf("the counter is %d, %d commits were done", got, sum)
	}
	after := uint64(0)
	for n := uint64(1); n <= uint64(sum); {
		es, err := s.Events(context.Background(), 27, after, 1000)
		if err != nil || len(es) == 0 {
			t.Fatalf("%d events of %d: %v", n-1, sum, err)
		}
		for _, e := range es {
			if !bytes.Equal(e.Bytes, binary.BigEndian.AppendUint64(nil, n)) {
				t.Fatalf("event %d is %x", n, e.Bytes)
			}
			after = e.Seq
			n++
		}
	}
}

func closed(t T, s store.Store) {
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if _, err := s.Load(context.Background(), []store.Key{Key(1, "a")}); err == nil {
		t.Fatalf("Load works after Close")
	}
	rs, _ := s.Commit(context.Background(), []store.Commit{{Writes: []store.Write{put(Key(1, "a"), store.Version{}, "x")}}})
	if rs[0].Outcome != store.Refused || rs[0].Err == nil {
		t.Fatalf("Commit after Close is %s %v", rs[0].Outcome, rs[0].Err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("Close again: %v", err)
	}
}
