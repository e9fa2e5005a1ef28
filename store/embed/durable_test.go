package embed

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"rtm/rtmtest"
	"rtm/store"
	"rtm/store/storetest"
)

// TestMain lets this binary be the child that writes until it is killed, or
// until its disk fails.
func TestMain(m *testing.M) {
	if dir := os.Getenv("EMBED_CHILD"); dir != "" {
		child(dir, os.Getenv("EMBED_FAULT"))
	}
	os.Exit(m.Run())
}

const childWriters = 8

// child writes from several goroutines for ever, and says on stdout what was
// acknowledged, with how much of which log was synced by then. A fault comes
// when one of them has written 200 times: "sync", and the disk fails, or "full",
// and no file grows beyond fullAt.
func child(dir, fault string) {
	disk, err := rtmtest.NewDisk("")
	if err != nil {
		fmt.Println("disk", err)
		os.Exit(3)
	}
	failed := func() { os.Stdout.WriteString("failed\n") }
	disk.OnEIO = failed
	c := Config{Dir: dir, FS: disk}
	if fault == "full" {
		signal.Ignore(syscall.SIGXFSZ)
		c.Exit = func(code int) { failed(); os.Exit(code) }
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: fullAt, Max: fullAt}); err != nil {
			fmt.Println("limit", err)
			os.Exit(3)
		}
	}
	s, err := Open(c)
	if err != nil {
		fmt.Println("open", err)
		os.Exit(3)
	}
	for w := range childWriters {
		go func() {
			seen := store.Version{}
			for n := 1; ; n++ {
				c := childCommit(w, n, seen)
				rs, _ := s.Commit(context.Background(), []store.Commit{c})
				if rs[0].Outcome != store.Done {
					continue
				}
				seen = c.Writes[0].New
				log, synced := disk.Synced()
				os.Stdout.WriteString(fmt.Sprintf("ack %d %d %s %d\n", w, n, log, synced))
				if fault == "sync" && n == 200 {
					disk.Fail.Store(true)
				}
			}
		}()
	}
	select {}
}

// fullAt is where a file ends on the disk of the child that is full.
const fullAt = 2 << 20

// childCommit is commit n of writer w: a counter, a record of its own, a wake-up
// time and an event, so that a part of it would be seen.
func childCommit(w, n int, seen store.Version) store.Commit {
	p := store.Partition(w)
	counter := store.Key{Partition: p, Kind: 'a', Name: "counter"}
	own := store.Key{Partition: p, Kind: 'b', Name: fmt.Sprint(n)}
	text := []byte(fmt.Sprintf("%d %s", n, strings.Repeat("x", n%300)))
	return store.Commit{
		Writes: []store.Write{
			{Op: store.Put, Key: counter, Seen: seen, New: childVersion(w, n), Bytes: text},
			{Op: store.Put, Key: own, New: childVersion(w, n), Bytes: text},
		},
		Index: store.Exact, Wake: time.UnixMilli(int64(n)), Events: [][]byte{text},
	}
}

func childVersion(w, n int) (v store.Version) {
	binary.BigEndian.PutUint32(v[:], uint32(w+1))
	binary.BigEndian.PutUint32(v[4:], uint32(n))
	return v
}

// ack is a line of the child: writer's commit n was acknowledged, when that much
// of that log was synced.
type ack struct {
	writer, n int
	log       string
	synced    int64
}

// start runs the child, and gives its lines as they come.
func start(t *testing.T, dir string, env ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, "EMBED_CHILD="+dir)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return cmd, bufio.NewScanner(out)
}

// killed runs the child until it has acknowledged least commits and synced as
// many octets, ends it with SIGKILL, and returns what it acknowledged and where
// the last sync ended.
func killed(t *testing.T, dir string, least int, octets int64) (acks []ack, last ack) {
	t.Helper()
	cmd, lines := start(t, dir)
	for lines.Scan() {
		a := parse(t, lines.Text())
		acks = append(acks, a)
		if len(acks) >= least && (a.synced > octets || len(acks) > least+20_000) {
			cmd.Process.Signal(syscall.SIGKILL)
		}
	}
	if err := cmd.Wait(); cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended by itself: %v", err)
	}
	for _, a := range acks {
		if a.log > last.log || a.log == last.log && a.synced > last.synced {
			last = a
		}
	}
	for i := range acks { // what is in earlier logs is not cut
		if acks[i].log < last.log {
			acks[i].synced = 0
		}
	}
	return acks, last
}

func parse(t *testing.T, line string) (a ack) {
	t.Helper()
	if _, err := fmt.Sscanf(line, "ack %d %d %s %d", &a.writer, &a.n, &a.log, &a.synced); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return a
}

// A child is killed while it writes. Its log is cut at the last synced octet, at
// places of the 4 KiB before it and of all that follows (in the long form, at
// every octet), and at 20 of the last 64 KiB: what was acknowledged before that
// place was synced is there, and each commit is there whole or not at all.
func TestPowerLossWhileWriting(t *testing.T) {
	step := int64(389)
	if os.Getenv("RTM_FAULTS") == "long" {
		step = 1
	}
	dir := t.TempDir()
	acks, last := killed(t, dir, 1500, 128<<10)
	s := read(t, dir)
	whole := s.verify(t, last.log, last.synced, acks)
	if whole < len(acks) {
		t.Fatalf("%d commits acknowledged, %d there", len(acks), whole)
	}
	least, opened := whole, 0
	for cut := last.synced - 4<<10; cut <= int64(len(s[last.log])); cut += step {
		least = min(least, s.verify(t, last.log, cut, acks))
		opened++
	}
	for i := range 20 {
		least = min(least, s.verify(t, last.log, last.synced-int64(i+1)*(64<<10)/20, acks))
	}
	if least >= whole {
		t.Errorf("cutting the log took nothing away: %d commits before, %d after: the cut is not where the data is", whole, least)
	}
	t.Logf("%d acknowledged; %d octets synced, %d behind them; opened after %d cuts", len(acks), last.synced, int64(len(s[last.log]))-last.synced, opened+20)
}

// Each round ends with a kill, every second one with a loss of power: what was not
// synced is gone, or a part of it. All that was acknowledged is there.
func TestKilledAgainAndAgain(t *testing.T) {
	rounds := 6
	if os.Getenv("RTM_FAULTS") == "long" {
		rounds = 100
	}
	acknowledged, dropped := 0, int64(0)
	for n := range rounds {
		dir := t.TempDir()
		acks, last := killed(t, dir, 100+37*n, 0)
		acknowledged += len(acks)
		s := read(t, dir)
		cut := int64(len(s[last.log]))
		if n%2 == 1 {
			cut = last.synced + rand.Int64N(max(cut-last.synced, 0)+1)*int64(n/2%2)
			dropped += int64(len(s[last.log])) - cut
		}
		if whole := s.verify(t, last.log, cut, acks); whole < len(acks) {
			t.Fatalf("round %d: %d commits acknowledged, %d there", n, len(acks), whole)
		}
	}
	t.Logf("%d kills, %d of them with a loss of power: %d commits acknowledged, 0 lost, %d octets that were not synced dropped",
		rounds, rounds/2, acknowledged, dropped)
}

// A stored is the files of a directory.
type stored map[string][]byte

func read(t *testing.T, dir string) stored {
	t.Helper()
	s := make(stored)
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if s[f.Name()], err = os.ReadFile(filepath.Join(dir, f.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// verify opens a copy of the store, in memory, whose log ends at cut, and says
// how many commits it holds.
func (f stored) verify(t *testing.T, log string, cut int64, acks []ack) int {
	t.Helper()
	disk := vfs.NewMem()
	if err := disk.MkdirAll("copy", 0o700); err != nil {
		t.Fatal(err)
	}
	for name, b := range f {
		if name == log {
			b = b[:cut]
		}
		w, err := disk.Create(disk.PathJoin("copy", name), vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(slices.Clone(b)); err != nil { // with -race the disk spoils what it was given
			t.Fatal(err)
		}
		w.Close()
	}
	s, err := Open(Config{Dir: "copy", FS: disk, Memory: 8 << 20})
	if err != nil {
		t.Fatalf("the log cut at %d: %v", cut, err)
	}
	defer s.Close()
	total := 0
	var upTo [childWriters]int
	for w := range childWriters {
		upTo[w] = last(t, s, w)
		total += upTo[w]
	}
	for _, a := range acks {
		if a.synced <= cut && a.n > upTo[a.writer] {
			t.Fatalf("the log cut at %d: commit %d of writer %d is lost, and was acknowledged when %d were synced", cut, a.n, a.writer, a.synced)
		}
	}
	return total
}

// last is the last commit of a writer that is there; every one up to it must be
// there whole.
func last(t *testing.T, s *Store, w int) int {
	t.Helper()
	p := store.Partition(w)
	rs, err := s.Load(context.Background(), []store.Key{{Partition: p, Kind: 'a', Name: "counter"}})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	fmt.Sscan(string(rs[0].Bytes), &n)
	events, err := s.Events(context.Background(), p, 0, n+10)
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != n {
		t.Fatalf("writer %d: %d commits, %d events", w, n, len(events))
	}
	for i := range n {
		c := childCommit(w, i+1, store.Version{})
		rs, err := s.Load(context.Background(), []store.Key{c.Writes[1].Key})
		if err != nil || string(rs[0].Bytes) != string(c.Writes[1].Bytes) || string(events[i].Bytes) != string(c.Events[0]) {
			t.Fatalf("writer %d: commit %d is not there whole: %v", w, i+1, err)
		}
	}
	if due, _, _, err := s.Due(context.Background(), []store.Partition{p}, 2, time.Second); err != nil || n > 0 && (len(due) != 1 || due[0].Wake.UnixMilli() != int64(n)) {
		t.Fatalf("writer %d after %d commits: due %v, %v", w, n, due, err)
	}
	return n
}

// The disk refuses a sync, or is full: nothing more is acknowledged, the process
// ends with 1, and what was acknowledged is there.
func TestFailingDisk(t *testing.T) {
	for _, fault := range []string{"sync", "full"} {
		t.Run(fault, func(t *testing.T) {
			dir := t.TempDir()
			cmd, lines := start(t, dir, "EMBED_FAULT="+fault)
			var acks []ack
			late, failed := 0, false
			for lines.Scan() {
				if lines.Text() == "failed" {
					failed = true
					continue
				}
				acks = append(acks, parse(t, lines.Text()))
				if failed {
					// A goroutine may have been about to write the line of an
					// acknowledgement that was there before; one each, no more.
					late++
				}
			}
			cmd.Wait()
			if !failed || late > childWriters {
				t.Errorf("failed %v, %d acknowledged after it", failed, late)
			}
			if code := cmd.ProcessState.ExitCode(); code != 1 {
				t.Errorf("exit code %d", code)
			}
			s := read(t, dir)
			log := slices.Max(slices.DeleteFunc(slices.Collect(maps.Keys(s)), func(n string) bool { return filepath.Ext(n) != ".log" }))
			for i := range acks {
				acks[i].synced = 0
			}
			if whole := s.verify(t, log, int64(len(s[log])), acks); whole < len(acks) || len(acks) < 1000 {
				t.Errorf("%d acknowledged, %d there", len(acks), whole)
			}
		})
	}
}

func TestReopened(t *testing.T) {
	dir, ctx := t.TempDir(), context.Background()
	first, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	k := storetest.Key(3, "a")
	v := storetest.NewVersion()
	wake := time.Now().Add(-time.Second).Truncate(time.Millisecond)
	rs, _ := first.Commit(ctx, []store.Commit{{
		Writes: []store.Write{
			{Op: store.Put, Key: k, New: v, Bytes: []byte("here")},
			{Op: store.Put, Key: storetest.Key(3, "once"), New: v, Bytes: []byte("once"), Expire: time.Hour},
		},
		Index: store.Exact, Wake: wake, Events: [][]byte{[]byte("e1"), []byte("e2")},
	}})
	if rs[0].Outcome != store.Done {
		t.Fatal(rs[0])
	}
	if err := first.Trim(ctx, 3, 2); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "lock held") {
		t.Errorf("a second opener: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	s := open(t, dir)
	recs, err := s.Load(ctx, []store.Key{k, storetest.Key(3, "once")})
	if err != nil || recs[0].Version != v || string(recs[0].Bytes) != "here" || string(recs[1].Bytes) != "once" {
		t.Errorf("records %v, %v", recs, err)
	}
	if due, _, _, err := s.Due(ctx, nil, 10, time.Second); err != nil || len(due) != 1 || !due[0].Wake.Equal(wake) {
		t.Errorf("due %v, %v", due, err)
	}
	rs, _ = s.Commit(ctx, []store.Commit{{
		Writes: []store.Write{{Op: store.Check, Key: k, Seen: v}}, Events: [][]byte{[]byte("e3")},
	}})
	events, err := s.Events(ctx, 3, 0, 10)
	if err != nil || rs[0].Outcome != store.Done || len(events) != 1 || events[0].Seq != 3 {
		t.Errorf("events %v, %v: a number came again", events, err)
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	b := s.db.NewBatch()
	s.setMeta(b, "format", format+1)
	if err := b.Commit(pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Open(Config{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "use the newer program") {
		t.Errorf("opened with %v", err)
	}
}
