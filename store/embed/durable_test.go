package embed

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"rtm/store"
	"rtm/store/storetest"
)

// TestMain lets this binary be the child that writes until it is killed, or
// until its disk fails.
func TestMain(m *testing.M) {
	if dir := os.Getenv("EMBED_CHILD"); dir != "" {
		child(dir, os.Getenv("EMBED_FAULT") != "")
	}
	os.Exit(m.Run())
}

const childWriters = 8

// child writes from several goroutines for ever, and says on stdout what was
// acknowledged, with how much of which log was synced by then.
func child(dir string, fault bool) {
	disk := &countingFS{FS: vfs.Default}
	s, err := Open(Config{Dir: dir, FS: disk})
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
				log, synced := disk.synced()
				os.Stdout.WriteString(fmt.Sprintf("ack %d %d %s %d\n", w, n, log, synced))
				if fault && n == 200 {
					disk.fail.Store(true)
				}
			}
		}()
	}
	select {}
}

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

// countingFS knows how much of the newest log is synced, and can fail.
type countingFS struct {
	vfs.FS
	fail atomic.Bool
	mu   sync.Mutex // guards all below
	log  string
	done int64
}

func (c *countingFS) synced() (string, int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log, c.done
}

func (c *countingFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.Create(name, category)
	return c.wrap(f, name), err
}

func (c *countingFS) ReuseForWrite(old, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.ReuseForWrite(old, name, category)
	return c.wrap(f, name), err
}

func (c *countingFS) wrap(f vfs.File, name string) vfs.File {
	if f == nil || filepath.Ext(name) != ".log" {
		return f
	}
	return &countingFile{File: f, fs: c, name: filepath.Base(name)}
}

type countingFile struct {
	vfs.File
	fs      *countingFS
	name    string
	written atomic.Int64
}

func (f *countingFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	f.written.Add(int64(n))
	return n, err
}

func (f *countingFile) Sync() error     { return f.sync(f.File.Sync) }
func (f *countingFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *countingFile) sync(do func() error) error {
	if f.fs.fail.Load() {
		os.Stdout.WriteString("failed\n")
		return syscall.EIO
	}
	n := f.written.Load()
	if err := do(); err != nil {
		return err
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.fs.log, f.fs.done = f.name, n
	return nil
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

// A child is killed while it writes. Its log is cut at the last synced octet and
// at 50 places of the last 64 KiB: what was acknowledged before that place was
// synced is there, and each commit is there whole or not at all.
func TestKilledWhileWriting(t *testing.T) {
	dir := t.TempDir()
	cmd, lines := start(t, dir)
	var acks []ack
	for lines.Scan() {
		var a ack
		if _, err := fmt.Sscanf(lines.Text(), "ack %d %d %s %d", &a.writer, &a.n, &a.log, &a.synced); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		acks = append(acks, a)
		if len(acks) >= 4000 && a.synced > 128<<10 {
			cmd.Process.Signal(syscall.SIGKILL)
		}
	}
	if err := cmd.Wait(); cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended by itself: %v", err)
	}
	last := ack{}
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
	whole := verify(t, dir, last.log, last.synced, acks)
	if whole < len(acks) {
		t.Fatalf("%d commits acknowledged, %d there", len(acks), whole)
	}
	least := whole
	for i := range 50 {
		least = min(least, verify(t, dir, last.log, last.synced-int64(i+1)*(64<<10)/50, acks))
	}
	if least >= whole {
		t.Errorf("cutting the log took nothing away: %d commits before, %d after: the cut is not where the data is", whole, least)
	}
}

// verify opens a copy of the store whose log ends at cut, and says how many
// commits it holds.
func verify(t *testing.T, dir, log string, cut int64, acks []ack) int {
	t.Helper()
	at := t.TempDir()
	if err := os.CopyFS(at, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(at, log), cut); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{Dir: at})
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
	os.RemoveAll(at)
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

// The disk refuses a sync: nothing more is acknowledged, and the process ends
// with 1.
func TestFailedSync(t *testing.T) {
	cmd, lines := start(t, t.TempDir(), "EMBED_FAULT=1")
	acks, failed := 0, false
	for lines.Scan() {
		switch {
		case lines.Text() == "failed":
			failed = true
		case failed && strings.HasPrefix(lines.Text(), "ack"):
			// A goroutine may have been about to write the line of an
			// acknowledgement that was there before; one each, no more.
			acks++
		}
	}
	cmd.Wait()
	if !failed || acks > childWriters {
		t.Errorf("failed %v, %d acknowledged after it", failed, acks)
	}
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d", code)
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
