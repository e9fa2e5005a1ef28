package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rtm/rtmtest"
	"rtm/store"
	"rtm/store/embed"
	"rtm/store/redis"
	"rtm/store/storetest"
)

func noProgress(Progress) {}

// A side is a place for a store of one kind.
type side struct {
	name string
	open func() (store.Portable, error) // as a server does
	fill Fill
	mark func() (store.Portable, error) // whatever its mark says
}

func directory(t *testing.T) *side {
	c := embed.Config{Dir: t.TempDir(), Memory: 8 << 20}
	return &side{
		"embedded",
		func() (store.Portable, error) { return portable(embed.Open(c)) },
		func(id, old string) (store.Portable, error) { return portable(embed.Receive(c, id, old)) },
		func() (store.Portable, error) { return portable(embed.Marked(c)) },
	}
}

func server(t *testing.T) *side { return redisAt(t, "redis://"+rtmtest.StartRedis(t).Addr) }

func redisAt(t *testing.T, url string) *side {
	c := redis.Config{URL: url}
	return &side{
		"redis",
		func() (store.Portable, error) { return portable(redis.Open(t.Context(), c)) },
		func(id, old string) (store.Portable, error) { return portable(redis.Receive(t.Context(), c, id, old)) },
		func() (store.Portable, error) { return portable(redis.Marked(t.Context(), c)) },
	}
}

func portable[S store.Portable](s S, err error) (store.Portable, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

var sides = []func(*testing.T) *side{directory, server}

func (s *side) must(t *testing.T) store.Portable {
	t.Helper()
	st, err := s.open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func done(t *testing.T, s store.Store, c store.Commit) {
	t.Helper()
	rs, _ := s.Commit(t.Context(), []store.Commit{c})
	if rs[0].Outcome != store.Done {
		t.Fatalf("%s: %v", rs[0].Outcome, rs[0].Err)
	}
}

// things puts some of everything into a store, in partitions that no user of
// move_test.go counts in.
func things(t *testing.T, s store.Portable, n int) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	var cs []store.Commit
	for i := range n {
		p := store.Partition(300 + r.IntN(store.Partitions-300))
		c := store.Commit{Writes: []store.Write{{
			Op: store.Put, Key: store.Key{Partition: p, Kind: "acdk"[i%4], Name: fmt.Sprint("name ", i)}, New: storetest.NewVersion(),
			Bytes: bytes.Repeat([]byte{byte(i)}, r.IntN(600)),
		}}}
		switch i % 3 {
		case 0:
			c.Index, c.Wake = store.Exact, time.Now().Add(time.Duration(r.IntN(7200)-3600)*time.Second)
		case 1:
			c.Writes[0].Expire = 2*time.Hour + time.Duration(r.IntN(3600))*time.Second
		}
		for range i % 4 {
			c.Events = append(c.Events, bytes.Repeat([]byte{byte(i)}, 1+r.IntN(300)))
		}
		cs = append(cs, c)
	}
	rs, _ := s.Commit(t.Context(), cs)
	for i := range rs {
		if rs[i].Outcome != store.Done {
			t.Fatalf("%s: %v", rs[i].Outcome, rs[i].Err)
		}
	}
	for p := store.Partition(300); p < 320; p++ {
		if err := s.Trim(t.Context(), p, 1); err != nil {
			t.Fatal(err)
		}
	}
}

// holds is what a walk hands on of a store.
type holds struct {
	records map[store.Key]store.Copy
	events  map[string]string
	last    [store.Partitions]uint64
}

func read(t *testing.T, s store.Portable) *holds {
	t.Helper()
	h := &holds{records: make(map[store.Key]store.Copy), events: make(map[string]string)}
	_, _, err := s.Walk(context.Background(), func(part *store.Part) error {
		for _, c := range part.Copies {
			c.Bytes = slices.Clone(c.Bytes)
			h.records[c.Key] = c
		}
		for _, st := range part.Streams {
			for _, e := range st.Events {
				h.events[fmt.Sprint(st.Partition, " ", e.Seq)] = string(e.Bytes)
			}
			if st.Last > 0 {
				h.last[st.Partition] = st.Last
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// same compares two stores; leap is how far the numbers of streams were moved on.
func same(t *testing.T, want, got *holds, leap uint64) {
	t.Helper()
	if len(want.records) != len(got.records) || len(want.events) != len(got.events) {
		t.Errorf("%d records and %d events, want %d and %d", len(got.records), len(got.events), len(want.records), len(want.events))
	}
	for k, w := range want.records {
		g := got.records[k]
		if g.Version != w.Version || !bytes.Equal(g.Bytes, w.Bytes) || !g.Wake.Equal(w.Wake) {
			t.Fatalf("%s: version %x, %d octets, wake %s; want %x, %d, %s", k, g.Version, len(g.Bytes), g.Wake, w.Version, len(w.Bytes), w.Wake)
		}
		if d := w.Expire - g.Expire; (w.Expire == 0) != (g.Expire == 0) || d < -2*time.Second || d > time.Minute {
			t.Fatalf("%s: %s left, want %s", k, g.Expire, w.Expire)
		}
	}
	for k, w := range want.events {
		if got.events[k] != w {
			t.Fatalf("event %s differs", k)
		}
	}
	for p := range want.last {
		if got.last[p] != want.last[p]+leap {
			t.Fatalf("the stream of partition %d stands at %d, want %d", p, got.last[p], want.last[p]+leap)
		}
	}
}

func save(t *testing.T, s store.Portable) ([]byte, Summary) {
	t.Helper()
	var out bytes.Buffer
	said, err := Write(t.Context(), s, &out, "test", noProgress)
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), said
}

func again(file []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(file)), nil }
}

// Everything of either kind of store comes into either kind of store.
func TestRestoreIsWhatWasBackedUp(t *testing.T) {
	for _, from := range sides {
		for _, to := range sides {
			a, b := from(t), to(t)
			t.Run(a.name+" to "+b.name, func(t *testing.T) {
				old := a.must(t)
				things(t, old, 3000)
				file, said := save(t, old)
				if said.Total() != 3000 || said.Whole != (a.name == "embedded") {
					t.Errorf("the backup says %+v", said)
				}
				if _, err := Restore(t.Context(), Restoring{Open: again(file), Fill: b.fill, Told: noProgress}); err != nil {
					t.Fatal(err)
				}
				same(t, read(t, old), read(t, b.must(t)), gap)
			})
		}
	}
}

// A file that is cut off, changed or something else is refused before anything
// is opened to be written.
func TestDamagedFilesAreRefused(t *testing.T) {
	s := directory(t).must(t)
	things(t, s, 300)
	file, _ := save(t, s)
	refused := func(what string, bad []byte) {
		t.Helper()
		_, err := Restore(t.Context(), Restoring{Open: again(bad), Told: noProgress, Fill: func(string, string) (store.Portable, error) {
			t.Fatalf("%s: the store is opened", what)
			return nil, nil
		}})
		if !errors.Is(err, ErrDamaged) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	r := rand.New(rand.NewPCG(3, 4))
	ends := func(n int) bool { return n < 400 || n > len(file)-400 }
	for n := range len(file) {
		if ends(n) || r.IntN(len(file)) < 300 {
			refused(fmt.Sprintf("cut at %d of %d", n, len(file)), file[:n])
			bad := slices.Clone(file)
			bad[n] ^= 1 << r.IntN(8)
			refused(fmt.Sprintf("octet %d of %d changed", n, len(file)), bad)
		}
	}
	refused("something behind it", append(slices.Clone(file), 0))
	refused("two files", append(slices.Clone(file), file...))
	refused("nothing", nil)
	refused("another file", bytes.Repeat([]byte("subscribers.jsonl\n"), 1000))
	refused("zeros", make([]byte, 1<<20))
	refused("a newer format", bytes.Replace(file, []byte("rtm backup 1 "), []byte("rtm backup 2 "), 1))
	// A block that says it is far longer than the file, or than any may be.
	head := bytes.IndexByte(file, '\n') + 1
	for _, size := range [][]byte{{0x03, 0xff, 0xff, 0xff}, {0xff, 0xff, 0xff, 0xff}} {
		bad := slices.Clone(file)
		copy(bad[head+1:], size)
		refused("a long block", bad)
	}
}

func FuzzRead(f *testing.F) {
	var out bytes.Buffer
	w, err := newWriter(&out, &About{Partitions: store.Partitions})
	if err != nil {
		f.Fatal(err)
	}
	w.part(&store.Part{
		Copies:  []store.Copy{{Key: store.Key{Partition: 3, Kind: 'a', Name: "x/y"}, Version: store.Version{1}, Bytes: []byte("b"), Expire: time.Hour, Wake: time.UnixMilli(5)}},
		Streams: []store.Stream{{Partition: 3, Last: 9, Events: []store.Event{{Seq: 8, Bytes: []byte("e")}}}},
	})
	w.end(time.UnixMilli(1), true)
	f.Add(out.Bytes())
	f.Add([]byte(magic + "{\"partitions\":1024}\nR\x00\x00\x00\x05"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := Read(bytes.NewReader(b), nil); err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("%v", err)
		}
	})
}

// errDead is what everything answers once a process is dead.
var errDead = errors.New("the process is dead")

// A life of a process ends with the n-th call of one verb, or of any: with it, or
// just behind it, so that its effect is there and nobody has heard of it.
type life struct {
	verb   string // "" is any; else such as "from.Fill"
	n      int
	behind bool

	mu    sync.Mutex // guards all below
	calls int
	dead  bool
}

// call reports whether something takes place, and whether its answer comes.
func (l *life) call(verb string) (takesPlace, answers bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return false, false
	}
	if l.verb == "" || l.verb == verb {
		l.calls++
		l.dead = l.calls == l.n
	}
	return !l.dead || l.behind, !l.dead
}

// mortal is a store as a process sees it that may die.
type mortal struct {
	store.Portable
	life *life
	name string
}

func (m mortal) do(verb string, f func() error) error {
	takes, answers := m.life.call(m.name + verb)
	err := errDead
	if takes {
		err = f()
	}
	if !answers {
		return errDead
	}
	return err
}

func (m mortal) Commit(ctx context.Context, cs []store.Commit) (rs []store.Result, now time.Time) {
	err := m.do("Commit", func() error { rs, now = m.Portable.Commit(ctx, cs); return nil })
	if err != nil {
		rs = make([]store.Result, len(cs))
		for i := range rs {
			rs[i] = store.Result{Outcome: store.InDoubt, Err: err}
		}
	}
	return rs, now
}

func (m mortal) Walk(ctx context.Context, each func(*store.Part) error) (at time.Time, whole bool, err error) {
	return m.Portable.Walk(ctx, func(p *store.Part) error { return m.do("Walk", func() error { return each(p) }) })
}

func (m mortal) Copies(ctx context.Context, keys []store.Key) (cs []store.Copy, err error) {
	err = m.do("Copies", func() (err error) { cs, err = m.Portable.Copies(ctx, keys); return err })
	return cs, err
}

func (m mortal) Stream(ctx context.Context, p store.Partition, after uint64, n int) (st store.Stream, err error) {
	err = m.do("Stream", func() (err error) { st, err = m.Portable.Stream(ctx, p, after, n); return err })
	return st, err
}

func (m mortal) Fill(ctx context.Context, p *store.Part) error {
	return m.do("Fill", func() error { return m.Portable.Fill(ctx, p) })
}

func (m mortal) Mark(ctx context.Context) (mark string, err error) {
	err = m.do("Mark", func() (err error) { mark, err = m.Portable.Mark(ctx); return err })
	return mark, err
}

func (m mortal) SetMark(ctx context.Context, was, mark string) error {
	return m.do("SetMark", func() error { return m.Portable.SetMark(ctx, was, mark) })
}

// some are steps of a run of n: the first and the last ones, and some between.
func some(n int) (steps []int) {
	r := rand.New(rand.NewPCG(5, 6))
	for i := range n {
		if i < 5 || i >= n-5 || r.IntN(n) < 4 {
			steps = append(steps, i)
		}
	}
	return steps
}

// A restore is interrupted at its steps: until the last one the store is
// refused, and running it again makes it whole.
func TestInterruptedRestore(t *testing.T) {
	old := directory(t).must(t)
	things(t, old, 400)
	file, _ := save(t, old)
	want := read(t, old)
	for _, to := range sides {
		restore := func(b *side, l *life) error {
			_, err := Restore(t.Context(), Restoring{Open: again(file), Told: noProgress, Fill: func(id, old string) (store.Portable, error) {
				s, err := b.fill(id, old)
				return mortal{s, l, ""}, err
			}})
			return err
		}
		l := &life{}
		b := to(t)
		if err := restore(b, l); err != nil {
			t.Fatal(err)
		}
		b = to(t)
		n := l.calls
		var lives []*life
		for _, step := range some(max(n-10, 1)) { // they differ a little from run to run
			lives = append(lives, &life{n: step + 1}, &life{n: step + 1, behind: true})
		}
		lives = append(lives, &life{verb: "SetMark", n: 1}, &life{verb: "SetMark", n: 1, behind: true})
		for _, l := range lives {
			if err := restore(b, l); !errors.Is(err, errDead) {
				t.Fatalf("%s, step %d %s of %d: %v", b.name, l.n, l.verb, n, err)
			}
			s, refused := b.open()
			if last := l.behind && l.verb == "SetMark"; last != (refused == nil) {
				t.Fatalf("%s, step %d %s of %d: a server is told %v", b.name, l.n, l.verb, n, refused)
			}
			if refused == nil { // only the answer to the last step was lost
				same(t, want, read(t, s), gap)
				s.Close()
			} else if !strings.Contains(refused.Error(), "half filled") {
				t.Fatalf("%s, step %d of %d: a server is told %v", b.name, l.n, n, refused)
			}
		}
		t.Logf("%s: %d steps", b.name, n)
		b = to(t)
		restore(b, &life{n: max(n/2, 1)})
		if err := restore(b, &life{}); err != nil {
			t.Fatal(err)
		}
		same(t, want, read(t, b.must(t)), gap)
	}
}

// A store that somebody else writes to while it is filled is not taken into
// service.
func TestRestoreBesideAWriter(t *testing.T) {
	old := directory(t).must(t)
	things(t, old, 400)
	file, _ := save(t, old)
	for _, to := range sides {
		b := to(t)
		_, err := Restore(t.Context(), Restoring{Open: again(file), Told: noProgress, Fill: func(id, old string) (store.Portable, error) {
			s, err := b.fill(id, old)
			if err == nil {
				done(t, s, store.Commit{Writes: []store.Write{{Op: store.Put, Key: storetest.Key(1, "another's"), New: storetest.NewVersion()}}})
			}
			return s, err
		}})
		if !errors.Is(err, ErrDiffers) {
			t.Errorf("%s: %v", b.name, err)
		}
		if _, err := b.open(); err == nil {
			t.Errorf("%s: it opens", b.name)
		}
	}
}
