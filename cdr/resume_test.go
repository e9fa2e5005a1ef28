package cdr

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"rtm/store"
	"rtm/store/storetest"
)

// saved is a store as a backup of another one has it, whose events it was given too.
func saved(t *testing.T, of, into store.Store, ps int) {
	t.Helper()
	for p := range store.Partition(ps) {
		recs, err := of.Load(t.Context(), []store.Key{cursorKey(p)})
		if err != nil {
			t.Fatal(err)
		}
		if recs[0].Version == (store.Version{}) {
			continue
		}
		w := store.Write{Op: store.Put, Key: cursorKey(p), New: recs[0].Version, Bytes: recs[0].Bytes}
		if rs, _ := into.Commit(t.Context(), []store.Commit{{Writes: []store.Write{w}}}); rs[0].Outcome != store.Done {
			t.Fatal(rs[0])
		}
	}
}

// lines counts the lines of each event in finished files, by partition and number.
func linesOf(t *testing.T, dirs ...string) map[string]int {
	t.Helper()
	seen := make(map[string]int)
	for _, dir := range dirs {
		if err := Read(dir, func(r *Record) error { seen[fmt.Sprint(r.Partition, " ", r.EntryNumber())]++; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	return seen
}

// Followers crash between any two of their steps. A backup is made, they go on,
// the store is lost, restored, and told of their files: each event of the backup
// comes into exactly one line of a finished file, and each of those that the lost
// store knew to be in a file stays in one.
func TestRestoredEventsOnce(t *testing.T) {
	parts := 0
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { parts += restoredOnce(t, seed) })
	}
	if parts < 50 {
		t.Errorf("only %d times a line of an unfinished file counted: this shows nothing", parts)
	}
	t.Logf("%d lines of unfinished files counted", parts)
}

func restoredOnce(t *testing.T, seed uint64) (parts int) {
	lost, restored := storetest.NewMemory(), storetest.NewMemory()
	random := rand.New(rand.NewPCG(seed, 2))
	s := &shaky{Store: lost, random: random, rate: 0.2}
	names := []string{"A", "B", "C"}
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	fs := make([]*Follower, len(dirs))
	start := func(st store.Store, i int) *Follower {
		f, err := NewFollower(Config{Store: st, Dir: dirs[i], Instance: names[i], Only: []store.Partition{0, 1, 2}})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	step := func(i int) {
		defer func() {
			p := recover()
			if _, ok := p.(crash); p != nil && !ok {
				panic(p)
			}
			if p != nil || s.down {
				fs[i], s.down = nil, false
			}
		}()
		if fs[i] == nil {
			fs[i] = start(s, i)
		}
		fs[i].swept = fs[i].swept.Add(-SweepEvery)
		fs[i].Follow(t.Context())
	}
	var emitted, kept [3]uint64
	most := 1 + random.IntN(30)
	for range random.IntN(30) {
		p := store.Partition(random.IntN(len(emitted)))
		n, again := random.IntN(4), emitted[p]
		emit(t, lost, p, &emitted[p], n)
		emit(t, restored, p, &again, n)
		if random.IntN(2) == 0 {
			step(random.IntN(len(fs)))
		}
	}
	saved(t, lost, restored, len(emitted))
	kept = emitted
	for range most {
		if random.IntN(2) == 0 {
			p := random.IntN(len(emitted))
			emit(t, lost, store.Partition(p), &emitted[p], random.IntN(4))
		}
		step(random.IntN(len(fs)))
	}
	before := linesOf(t, dirs...)
	if _, err := Resume(t.Context(), restored, dirs, time.Now()); err != nil {
		t.Fatal(err)
	}
	number := uint64(1000)
	for range 2 {
		for i := range dirs {
			start(restored, i).Follow(t.Context())
		}
		for p := range store.Partition(len(emitted)) { // what comes after the restore
			emit(t, restored, p, &number, 2)
		}
	}
	for i := range dirs {
		start(restored, i).Follow(t.Context())
	}
	seen := linesOf(t, dirs...)
	for p := range emitted {
		recs, err := lost.Load(t.Context(), []store.Key{cursorKey(store.Partition(p))})
		if err != nil {
			t.Fatal(err)
		}
		f := &Follower{Config: Config{Store: lost}, cursors: make(map[store.Partition]stored)}
		c, err := f.cursor(t.Context(), store.Partition(p))
		if err != nil || c.version != recs[0].Version {
			t.Fatal(err)
		}
		for n := uint64(1); n <= max(kept[p], c.Seq); n++ {
			k := fmt.Sprint(p, " ", n)
			if seen[k] != 1 {
				t.Errorf("event %s is in %d lines; the backup ends at %d, what was in files at %d", k, seen[k], kept[p], c.Seq)
			}
			if n <= c.Seq && before[k] == 0 {
				parts++
			}
		}
	}
	for k, n := range seen {
		if n != 1 {
			t.Errorf("event %s is in %d lines", k, n)
		}
	}
	for n := uint64(1001); n <= number; n++ {
		if seen[fmt.Sprint((n-1001)/2%3, " ", n)] != 1 {
			t.Errorf("event %d, which came after the restore, is in %d lines", n, seen[fmt.Sprint((n-1001)/2%3, " ", n)])
		}
	}
	return parts
}

// dying is a store whose user dies when a commit has taken place.
type dying struct{ store.Store }

func (d dying) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	d.Store.Commit(ctx, cs)
	panic(crash{})
}

// A died before its file had its name, B went on, C as well: without the directory
// of one of them, and with files behind it, nothing is forgotten silently.
func TestADirectoryIsForgotten(t *testing.T) {
	lost := storetest.NewMemory()
	a, b, c := t.TempDir(), t.TempDir(), t.TempDir()
	var n uint64
	follow := func(s store.Store, dir, name string) {
		defer func() {
			if p := recover(); p != nil && p != (crash{}) {
				panic(p)
			}
		}()
		f, err := NewFollower(Config{Store: s, Dir: dir, Instance: name})
		if err != nil {
			t.Fatal(err)
		}
		f.Follow(t.Context())
	}
	emit(t, lost, 5, &n, 10)
	follow(dying{lost}, a, "A")
	emit(t, lost, 5, &n, 10)
	follow(lost, b, "B")
	emit(t, lost, 5, &n, 10)
	follow(dying{lost}, c, "C")
	for _, try := range []struct {
		name  string
		dirs  []string
		found int // -1: it is refused
	}{
		{"none", []string{a, b, c}, 30},
		{"the first, unfinished", []string{b, c}, -1},
		{"the second, finished", []string{a, c}, -1},
		{"all but the last, unfinished", []string{c}, -1},
		{"the last: there is nothing behind it", []string{a, b}, 20},
		{"all", nil, 0},
	} {
		restored := storetest.NewMemory()
		var m uint64
		emit(t, restored, 5, &m, 30)
		found, err := Resume(t.Context(), restored, try.dirs, time.Now())
		if refused := try.found < 0; refused != errors.Is(err, ErrMissingRecords) || !refused && (err != nil || found != try.found) {
			t.Errorf("forgotten: %s: %d events found, %v; want %d", try.name, found, err, try.found)
		}
		f := &Follower{Config: Config{Store: restored}, cursors: make(map[store.Partition]stored)}
		if c, err := f.cursor(t.Context(), 5); err != nil || c.Seq != uint64(max(try.found, 0)) {
			t.Errorf("forgotten: %s: the cursor stands at %d, %v", try.name, c.Seq, err)
		}
		left, err := restored.Events(t.Context(), 5, 0, 100)
		if err != nil || len(left) != 30-max(try.found, 0) {
			t.Errorf("forgotten: %s: %d events are left to be told, %v", try.name, len(left), err)
		}
	}
}
