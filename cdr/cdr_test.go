package cdr

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rtm/charging"
	"rtm/store"
	"rtm/store/storetest"
)

// shaky is a store whose commits and trims may crash the caller, or leave it in
// doubt, before or after they took place.
type shaky struct {
	store.Store
	random *rand.Rand
	rate   float64
	late   []store.Commit // in doubt, and not there yet
	mu     sync.Mutex     // held by trims, which come several at once
	down   bool           // one of them crashed the caller
}

type crash struct{}

var errCut = errors.New("cut")

func (s *shaky) strikes() bool { return s.random.Float64() < s.rate }

func (s *shaky) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	if s.down || s.strikes() {
		panic(crash{}) // the file is written, no cursor is moved
	}
	if len(s.late) > 0 && s.random.IntN(3) == 0 {
		s.Store.Commit(ctx, s.late)
		s.late = nil
	}
	if s.strikes() { // in doubt: some took place, some did not, some will
		n := s.random.IntN(len(cs) + 1)
		s.Store.Commit(ctx, cs[:n])
		s.late = append(s.late, cs[n:]...)
		rs := make([]store.Result, len(cs))
		for i := range rs {
			rs[i] = store.Result{Outcome: store.InDoubt, Err: errCut}
		}
		return rs, time.Time{}
	}
	rs, now := s.Store.Commit(ctx, cs)
	if s.strikes() {
		panic(crash{}) // the cursors are moved, the file has no name yet
	}
	return rs, now
}

func (s *shaky) Trim(ctx context.Context, p store.Partition, upTo uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.strikes() {
		s.down = true // the file has its name, the stream is as it was
	}
	if s.down {
		return errCut
	}
	return s.Store.Trim(ctx, p, upTo)
}

// emit appends n events to a partition.
func emit(t *testing.T, s store.Store, p store.Partition, n *uint64, count int) {
	t.Helper()
	for range count {
		*n++
		e := charging.Entry{Sort: charging.Ledger, Tenant: "t", Account: fmt.Sprint("a", p), Number: *n, Version: [8]byte{byte(p), 1}}
		k := storetest.Key(p, fmt.Sprint("event", *n))
		rs, _ := s.Commit(t.Context(), []store.Commit{{
			Writes: []store.Write{{Op: store.Put, Key: k, New: storetest.NewVersion()}}, Events: [][]byte{e.Append(nil)},
		}})
		if rs[0].Outcome != store.Done {
			t.Fatal(rs[0])
		}
	}
}

// Followers with crossing shares, in one directory or in several, crash between
// any two of their steps, and their commits are in doubt: in the end each event
// is in exactly one line of a finished file.
func TestEachEventOnce(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { eachEventOnce(t, seed) })
	}
}

func eachEventOnce(t *testing.T, seed uint64) {
	memory := storetest.NewMemory()
	random := rand.New(rand.NewPCG(seed, 1))
	s := &shaky{Store: memory, random: random, rate: 0.1}
	dirs := []string{t.TempDir(), t.TempDir()}
	if seed%2 == 0 {
		dirs[1] = dirs[0]
	}
	place := 0
	fs := make([]*Follower, 2)
	// step starts a follower that is down, or lets it make a pass; a crash leaves
	// it down, with whatever is on its disk.
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
			f, err := NewFollower(Config{Store: s, Dir: dirs[i], Instance: string(rune('A' + i)), Share: func() (int, int) {
				if random.IntN(4) == 0 { // both believe that all is theirs
					return 0, 1
				}
				return (i + place) % 2, 2
			}})
			if err != nil {
				t.Fatal(err)
			}
			fs[i] = f
		}
		fs[i].swept = fs[i].swept.Add(-SweepEvery)
		fs[i].Follow(t.Context())
	}
	var emitted [4]uint64
	for range 60 {
		p := random.IntN(len(emitted))
		emit(t, memory, store.Partition(p), &emitted[p], random.IntN(4))
		if random.IntN(10) == 0 {
			place++ // the shares change hands
		}
		step(random.IntN(2))
	}
	s.rate = 0
	memory.Commit(t.Context(), s.late)
	for range 4 {
		place++
		step(0)
		step(1)
	}
	once(t, dirs, emitted[:])
}

// once demands each event in exactly one line, and no unfinished file.
func once(t *testing.T, dirs []string, emitted []uint64) {
	t.Helper()
	seen := make(map[string]int)
	if dirs[0] == dirs[1] {
		dirs = dirs[:1]
	}
	for _, dir := range dirs {
		if err := Read(dir, func(r *Record) error { seen[fmt.Sprint(r.Partition, "/", r.ID)]++; return nil }); err != nil {
			t.Fatal(err)
		}
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range left {
			if !strings.HasSuffix(e.Name(), ".jsonl") {
				t.Errorf("%s is left", e.Name())
			}
		}
	}
	total := 0
	for p, n := range emitted {
		total += int(n)
		for i := uint64(1); i <= n; i++ {
			id := fmt.Sprintf("%d/t/a%d/%d/%02x01000000000000", p, p, i, p)
			if seen[id] != 1 {
				t.Errorf("event %s is in %d lines", id, seen[id])
			}
		}
	}
	if total != len(seen) {
		t.Errorf("%d events, %d ids", total, len(seen))
	}
}

func TestEventsAreForgottenWhenInFiles(t *testing.T) {
	memory := storetest.NewMemory()
	n := uint64(0)
	emit(t, memory, 5, &n, 3)
	dir := t.TempDir()
	var tail []string
	f, err := NewFollower(Config{Store: memory, Dir: dir, Instance: "A", Tail: func(r *Record) { tail = append(tail, r.ID) }})
	if err != nil {
		t.Fatal(err)
	}
	f.Follow(t.Context())
	events, err := memory.Events(t.Context(), 5, 0, 10)
	if err != nil || len(events) != 0 || len(tail) != 3 || f.Records.Load() != 3 || f.Files.Load() != 1 {
		t.Errorf("%d events left, %v told, %d records in %d files: %v", len(events), tail, f.Records.Load(), f.Files.Load(), err)
	}
}

// A file that cannot be written holds the events back: none is lost.
func TestFullDisk(t *testing.T) {
	memory := storetest.NewMemory()
	n := uint64(0)
	emit(t, memory, 5, &n, 3)
	dir := filepath.Join(t.TempDir(), "records")
	now := time.UnixMilli(1_800_000_000_000)
	f, err := NewFollower(Config{Store: memory, Dir: dir, Instance: "A", Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	begun := now.UnixMilli()
	now = now.Add(time.Minute)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	f.Follow(t.Context())
	if f.Failed.Load() != 1 || f.Records.Load() != 0 || f.Whole.Load() != begun {
		t.Fatalf("%d failed, %d records, whole at %d, begun at %d", f.Failed.Load(), f.Records.Load(), f.Whole.Load(), begun)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f.swept = f.swept.Add(-SweepEvery)
	f.Follow(t.Context())
	files, err := Files(dir)
	if err != nil || len(files) != 1 || f.Records.Load() != 3 || f.Whole.Load() != now.UnixMilli() {
		t.Errorf("%d files, %d records, whole at %d: %v", len(files), f.Records.Load(), f.Whole.Load(), err)
	}
}

// What a bill needs of a session is in its final record.
func TestFinalRecord(t *testing.T) {
	e := charging.Entry{
		Sort: charging.FinalRecord, Tenant: "lab", Account: "alice", Number: 9, Plan: "basic", Record: 1, Messages: 3,
		Session: []byte("gw;1"), Realm: []byte("far"), Host: []byte("gw"), Identity: []byte("imsi:1"), Context: 32251,
		Lines: []charging.Line{{Has: charging.HasGroup, Group: 10, Plan: 2, Charged: 70, Used: charging.Units{Octets: 7, Input: 3, Output: 4, Seconds: 5}}},
		Particulars: charging.Particulars{
			APN: []byte("internet"), ChargingID: []byte{0, 0, 0, 1}, Address: []byte{10, 45, 0, 2}, PLMN: []byte("00101"), RAT: 6,
		},
	}
	var back charging.Entry
	if err := back.Decode(e.Append(nil)); err != nil {
		t.Fatal(err)
	}
	r := FromEntry(&back, 1, 2)
	got := fmt.Sprintln(r.Type, r.Tenant, r.Account, r.Session, r.Host, r.Identity, r.Plan, r.Messages, *r.Lines[0].RatingGroup, r.Lines[0].PlanVersion,
		r.Lines[0].Octets, r.Lines[0].Input, r.Lines[0].Output, r.Lines[0].Seconds, r.Lines[0].Charged, *r.Service)
	want := "final lab alice gw;1 gw imsi:1 basic 3 10 2 7 3 4 5 70 {internet 00000001 10.45.0.2   00101      6 <nil>  0 0 0}\n"
	if got != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

// A file belongs to the instance whose name it carries, and to no other that
// has a part of it.
func TestAFileIsOneInstances(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "x-a", "a-x"} {
		file := filepath.Join(dir, "20260301-120000.000-"+name+"-000001.jsonl"+part)
		if err := os.WriteFile(file, []byte(`{"partition":1,"seq":1}`+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := NewFollower(Config{Store: storetest.NewMemory(), Dir: dir, Instance: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"+part))
	if err != nil || len(left) != 2 {
		t.Errorf("%v are left to their own instances, %v", left, err)
	}
}

// Events of a later version of rtm, and what cannot be read at all, are in the
// file with their octets: nothing is left out.
func TestEventsOfALaterVersionAreCarried(t *testing.T) {
	s := storetest.NewMemory()
	plain := (&charging.Entry{Sort: charging.Ledger, Tenant: "t", Account: "a", Number: 1}).Append(nil)
	events := [][]byte{
		plain,
		(&charging.Entry{Sort: 250, Tenant: "t", Account: "a", Number: 2}).Append(nil),
		append((&charging.Entry{Sort: charging.Message, Tenant: "t", Account: "a", Number: 3}).Append(nil), 0x90, 0x3f, 5), // a field 1010
		{0xff, 0xff, 0xff},
	}
	rs, _ := s.Commit(t.Context(), []store.Commit{{
		Writes: []store.Write{{Op: store.Put, Key: storetest.Key(3, "x"), New: storetest.NewVersion()}}, Events: events,
	}})
	if rs[0].Outcome != store.Done {
		t.Fatal(rs[0])
	}
	f, err := NewFollower(Config{Store: s, Dir: t.TempDir(), Instance: "A"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []Record
	if err := Read(f.Dir, func(r *Record) error { got = append(got, *r); return nil }); err != nil {
		t.Fatal(err)
	}
	want := []struct {
		kind    string
		account string
		carried bool
	}{{"ledger", "a", false}, {"unknown-250", "a", true}, {"message", "a", true}, {Unreadable, "", true}}
	if len(got) != len(want) {
		t.Fatalf("%d of %d events are in the file", len(got), len(want))
	}
	ids := make(map[string]bool)
	for i, r := range got {
		ids[r.ID] = true
		if r.Type != want[i].kind || r.Account != want[i].account || want[i].carried != (string(r.Event) == string(events[i])) || r.Seq == 0 {
			t.Errorf("event %d is %+v", i, r)
		}
	}
	if left, err := s.Events(t.Context(), 3, 0, 10); err != nil || len(left) > 0 || len(ids) != len(want) {
		t.Errorf("%d are left in the store, %d have names, %v", len(left), len(ids), err)
	}
}
