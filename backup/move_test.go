package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rtm/rtmtest"
	"rtm/store"
	"rtm/store/redis"
	"rtm/store/storetest"
)

// Whoever uses a Movable cannot tell it from the store in it.
func TestMovableIsAStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return NewMovable(directory(t).must(t)) })
}

// trimmed is how far a user's events are left.
const trimmed = 5

// A user counts in a record of its own, each time with an event, as a follower
// and a charging loop would: every count that was acknowledged must be there.
type user struct {
	key   store.Key
	seen  store.Version
	acked atomic.Uint64
}

func (u *user) count(ctx context.Context, s store.Store) bool {
	n := u.acked.Load() + 1
	b := binary.BigEndian.AppendUint64(nil, n)
	v := storetest.NewVersion()
	rs, _ := s.Commit(ctx, []store.Commit{{
		Writes: []store.Write{
			{Op: store.Put, Key: u.key, Seen: u.seen, New: v, Bytes: b},
			{Op: store.Put, Key: store.Key{Partition: u.key.Partition, Kind: 'o', Name: fmt.Sprint(u.key.Name, " ", n)}, New: v, Bytes: b, Expire: time.Hour},
		},
		Index: store.Exact, Wake: time.UnixMilli(int64(n)), Events: [][]byte{b},
	}})
	switch rs[0].Outcome {
	case store.Done:
		u.seen = v
		u.acked.Store(n)
		if n%10 == 0 { // as a follower does that has them in a file
			s.Trim(ctx, u.key.Partition, n-trimmed)
		}
		return true
	case store.Conflict:
		panic("somebody else writes")
	case store.InDoubt, store.Refused:
	}
	return false
}

// check reports what of u's counts is not in a store.
func (u *user) check(t *testing.T, s store.Portable, h *holds) {
	t.Helper()
	acked := u.acked.Load()
	c := h.records[u.key]
	n := uint64(0)
	if len(c.Bytes) == 8 {
		n = binary.BigEndian.Uint64(c.Bytes)
	}
	// One more than was acknowledged may have taken place.
	if n < acked || n > acked+1 || n > 0 && c.Wake.UnixMilli() != int64(n) {
		t.Fatalf("%s: %d acknowledged, %d there, wake-up %d", u.key, acked, n, c.Wake.UnixMilli())
	}
	if h.last[u.key.Partition] != n {
		t.Fatalf("%s: %d counts, the stream stands at %d", u.key, n, h.last[u.key.Partition])
	}
	some := false
	for i := uint64(1); i <= n; i++ {
		e, ok := h.events[fmt.Sprint(u.key.Partition, " ", i)]
		if !ok && (some || i+trimmed > n) || ok && e != string(binary.BigEndian.AppendUint64(nil, i)) {
			t.Fatalf("%s: event %d of %d is not there, or another: %x", u.key, i, n, e)
		}
		some = some || ok
		if h.records[store.Key{Partition: u.key.Partition, Kind: 'o', Name: fmt.Sprint(u.key.Name, " ", i)}].Version == (store.Version{}) {
			t.Fatalf("%s: record %d of %d is not there", u.key, i, n)
		}
	}
}

// crowd is users who count until they are stopped.
type crowd struct {
	users []*user
	stop  context.CancelFunc
	all   sync.WaitGroup
	gaps  []time.Duration // the longest that each waited for an answer
}

func begin(s store.Store, l *life, n int) *crowd {
	ctx, stop := context.WithCancel(context.Background())
	c := &crowd{stop: stop, gaps: make([]time.Duration, n)}
	for i := range n {
		u := &user{key: store.Key{Partition: store.Partition(i * 37), Kind: 'a', Name: fmt.Sprint("user ", i)}}
		c.users = append(c.users, u)
		c.all.Go(func() {
			for ctx.Err() == nil {
				<-time.After(countEvery)
				since := time.Now()
				if u.count(context.Background(), s) {
					c.gaps[i] = max(c.gaps[i], time.Since(since))
				} else if l != nil {
					return
				}
			}
		})
	}
	return c
}

func (c *crowd) end() (longest time.Duration) {
	c.stop()
	c.all.Wait()
	for _, g := range c.gaps {
		longest = max(longest, g)
	}
	return longest
}

func (c *crowd) check(t *testing.T, s store.Portable) {
	t.Helper()
	h := read(t, s)
	for _, u := range c.users {
		u.check(t, s, h)
	}
}

// A store moves while it is used: all that was acknowledged is in the new one,
// users notice nothing but a pause, and the old one says where the data went.
func TestMoveInUse(t *testing.T) {
	for _, to := range sides {
		a, b := directory(t), to(t)
		t.Run("to "+b.name, func(t *testing.T) {
			m := NewMovable(a.must(t))
			things(t, m.Now(), 5000/fewer)
			c := begin(m, nil, 8)
			switched := false
			var into store.Portable
			res, err := m.Move(t.Context(), func(id, old string) (store.Portable, error) {
				s, err := b.fill(id, old)
				into = s
				return s, err
			}, "redis://there", func() {
				switched = true
				c.check(t, into) // nobody has written to it, nor taken events away
			}, noProgress)
			if err != nil || !switched {
				t.Fatal(err, switched)
			}
			before := c.users[0].acked.Load()
			counts(t, c, before)
			longest := c.end()
			t.Logf("%d records, %d again, the pause %s, the longest wait %s, %d counts of the first user", res.Records, res.Again, res.Pause, longest, c.users[0].acked.Load())
			if res.Pause > PauseMax || res.Again == 0 || res.Unfinished != "" {
				t.Errorf("%+v", res)
			}
			m.Close()
			if _, err := a.open(); err == nil || !strings.Contains(err.Error(), "redis://there") {
				t.Errorf("the old store opens: %v", err)
			}
			now := b.must(t)
			c.check(t, now)
			if n := read(t, now); len(n.records) < 5000/fewer {
				t.Errorf("%d records", len(n.records))
			}
			if _, err := m.Move(t.Context(), b.fill, "elsewhere", func() {}, noProgress); err == nil {
				t.Error("what is closed moves")
			}
		})
	}
}

// counts waits until the first user has counted further.
func counts(t *testing.T, c *crowd, before uint64) {
	t.Helper()
	u := c.users[0]
	for deadline := time.Now().Add(10 * time.Second); ; {
		if u.acked.Load() > before+20 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody counts after the move")
		}
		<-time.After(10 * time.Millisecond)
	}
}

// A process dies at each of the steps of a move, under load: one of the two stores
// is the truth, no server opens the other, and all that was acknowledged is in
// it. The move, or its last step, is then done again.
func TestProcessDiesWhileItMoves(t *testing.T) {
	verbs := []struct {
		verb string
		n    int
		must bool // the move cannot end without it
		both bool // with a directory and with a server
	}{
		{"from.Mark", 1, true, false}, {"from.Walk", 1, true, false}, {"from.Walk", 2, true, false}, {"to.Fill", 1, true, true},
		{"to.Fill", 2, true, false}, {"to.Walk", 1, true, false}, {"to.Walk", 3, false, false}, {"from.Copies", 1, true, true},
		{"to.Fill", 5, true, false}, {"to.Copies", 1, true, false}, {"from.Stream", 1, true, false}, {"to.Stream", 1, true, true},
		{"from.Copies", 2, false, true}, {"to.Copies", 2, false, true}, {"from.Commit", 200, false, false},
		{"from.SetMark", 1, true, true}, {"to.SetMark", 1, true, true}, {"from.SetMark", 2, true, true}, {"to.SetMark", 2, true, true},
	}
	markMax = time.Second
	for name, to := range map[string]func(*testing.T) *side{"directory": directory, "server": server} {
		for _, v := range verbs {
			if name == "server" && !v.both {
				continue
			}
			for _, behind := range []bool{false, true} {
				l := &life{verb: v.verb, n: v.n, behind: behind}
				t.Run(fmt.Sprint(name, " ", v.verb, " ", v.n, " ", behind), func(t *testing.T) {
					t.Parallel()
					dies(t, directory(t), to(t), l)
					if v.must && !l.dead {
						t.Error("it did not come to that")
					}
				})
			}
		}
	}
}

func dies(t *testing.T, a, b *side, l *life) {
	old, err := a.open()
	if err != nil {
		t.Fatal(err)
	}
	things(t, old, 100)
	m := NewMovable(mortal{old, l, "from."})
	c := begin(m, l, 4)
	counts(t, c, 0)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun := false
	_, err = m.Move(ctx, func(id, old string) (store.Portable, error) {
		begun = true
		s, err := b.fill(id, old)
		return mortal{s, l, "to."}, err
	}, "the other", func() {}, noProgress)
	c.end()
	m.Close()
	old.Close()
	if err != nil && !errors.Is(err, errDead) {
		t.Fatal(err)
	}
	first, refused := a.open()
	if refused == nil {
		defer first.Close()
		c.check(t, first)
		if s, err := b.open(); err == nil {
			s.Close()
			if begun {
				t.Fatal("both stores open")
			}
			return
		}
		repeat := NewMovable(first)
		res, err := repeat.Move(t.Context(), b.fill, "the other", func() {}, noProgress)
		repeat.Close()
		if err != nil || res.Unfinished != "" {
			t.Fatalf("the move is not done again: %v", err)
		}
		c.check(t, b.must(t))
		return
	}
	if !strings.Contains(refused.Error(), "the other") {
		t.Fatalf("the old store is refused with %v", refused)
	}
	if s, err := b.open(); err == nil {
		defer s.Close()
		c.check(t, s)
		return
	}
	from, err := a.mark()
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	into, err := b.mark()
	if err == nil {
		err = Finish(t.Context(), from, into)
		into.Close()
	}
	if err != nil {
		t.Fatalf("the move is not finished: %v", err)
	}
	c.check(t, b.must(t))
}

// forgetful is a store whose last mark cannot be written.
type forgetful struct{ store.Portable }

var errAway = errors.New("it does not answer")

func (s forgetful) SetMark(ctx context.Context, was, mark string) error {
	if store.InService(mark) == nil {
		return errAway
	}
	return s.Portable.SetMark(ctx, was, mark)
}

// A store that a move could not take into service is the only truth: no restore
// and no move empties it. It is in service when the old directory has said so.
func TestTheOnlyTruthIsNotEmptied(t *testing.T) {
	old := markMax
	markMax = 100 * time.Millisecond
	defer func() { markMax = old }()
	for _, to := range sides {
		a, b := directory(t), to(t)
		m := NewMovable(a.must(t))
		things(t, m.Now(), 300)
		want := read(t, m.Now())
		res, err := m.Move(t.Context(), func(id, old string) (store.Portable, error) {
			s, err := b.fill(id, old)
			return forgetful{s}, err
		}, "there", func() {}, noProgress)
		if err != nil || res.Unfinished == "" {
			t.Fatal(err, res)
		}
		if b.name == "embedded" {
			m.Close() // it is locked while it is used
		}
		for _, old := range []string{"", "another"} {
			if _, err := b.fill("1", old); err == nil || !strings.Contains(err.Error(), "--finish") {
				t.Errorf("%s: whoever wants to fill it is told %v", b.name, err)
			}
		}
		from, err := a.mark()
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		into, err := b.mark()
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // it may be repeated
			if err := Finish(t.Context(), from, into); err != nil {
				t.Errorf("%s: %v", b.name, err)
			}
		}
		into.Close()
		same(t, want, read(t, b.must(t)), 0)
		m.Close()
	}
}

// A copy that was ready when its process died is removed by the next move from
// there, and by nothing else.
func TestACopyThatDoesNotCountIsFilledAgain(t *testing.T) {
	for _, to := range sides {
		a, b := directory(t), to(t)
		old := a.must(t)
		things(t, old, 300)
		_, err := NewMovable(mortal{old, &life{verb: "from.SetMark", n: 2}, "from."}).Move(t.Context(), b.fill, "there", func() {}, noProgress)
		if !errors.Is(err, errDead) {
			t.Fatal(err)
		}
		if _, err := b.fill("1", ""); err == nil || !strings.Contains(err.Error(), "--finish") {
			t.Errorf("%s: a restore is told %v", b.name, err)
		}
		into, err := b.mark()
		if err != nil {
			t.Fatal(err)
		}
		if err := Finish(t.Context(), old, into); !errors.Is(err, ErrUndecided) || !strings.Contains(err.Error(), "can move again") {
			t.Errorf("%s: it is finished: %v", b.name, err)
		}
		into.Close()
		want := read(t, old)
		m := NewMovable(old)
		if res, err := m.Move(t.Context(), b.fill, "there", func() {}, noProgress); err != nil || res.Unfinished != "" {
			t.Fatalf("%s: %v %v", b.name, err, res)
		}
		m.Close()
		same(t, want, read(t, b.must(t)), 0)
	}
}

// Whoever begins to fill a store ends the filling of another one: of two, at most
// one says that it has filled it, and then all is there.
func TestTwoFillers(t *testing.T) {
	for _, at := range []string{Copying, Comparing, CatchingUp, Switching} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			a, b := directory(t), server(t)
			m := NewMovable(a.must(t))
			things(t, m.Now(), 20000/fewer)
			want := read(t, m.Now())
			var other sync.WaitGroup
			var begun sync.Once
			var refused error
			began := make(chan struct{})
			_, err := m.Move(t.Context(), b.fill, "there", func() {}, func(p Progress) {
				if p.Stage != at {
					return
				}
				begun.Do(func() {
					other.Go(func() {
						s, err := b.fill("the other", "")
						if refused = err; err == nil {
							s.Close()
						}
						close(began)
					})
				})
				if at != Switching { // there they race
					<-began
				}
			})
			other.Wait()
			switch {
			case err == nil && refused == nil:
				t.Errorf("the store was emptied, and the move says that all is in it: %d records", len(read(t, m.Now()).records))
			case err == nil:
				same(t, want, read(t, m.Now()), 0)
			case refused == nil:
				if now, _ := m.Now().Mark(t.Context()); store.InService(now) != nil {
					t.Errorf("the move ends with %v, and the old store is marked %q", err, now)
				}
				same(t, want, read(t, m.Now()), 0)
			default:
				t.Errorf("neither fills it: %v, %v", err, refused)
			}
			m.Close()
		})
	}
}

// other is servers that can hold a store, and that lose their master.
type other struct {
	*side
	early func()                                  // while it still is
	lose  func(t *testing.T, into store.Portable) // returns when the store knows another one
	whole func()
}

func restarted(t *testing.T) *other {
	r := rtmtest.StartRedis(t)
	return &other{redisAt(t, "redis://"+r.Addr), func() { r.Must("SAVE") }, func(*testing.T, store.Portable) {
		r.Kill()
		r.Start()
	}, func() {}}
}

func failedOver(t *testing.T) *other {
	servers := rtmtest.StartSentinels(t, rtmtest.NewNet(t), 2)
	var was *rtmtest.Redis
	return &other{redisAt(t, servers.URL()), func() {}, func(t *testing.T, into store.Portable) {
		was = servers.Master()
		was.Kill()
		rtmtest.Within(t, time.Minute, "another master", func() bool {
			for at := range into.(*redis.Store).Masters() {
				return at != was.Addr
			}
			return false
		})
	}, func() {
		was.Start()
		servers.Whole()
	}}
}

// The new store loses its master while what has changed is copied, and with it
// what no replica had, or what was on no disk: the move is given up, the old
// store goes on, and can move when the servers are whole again.
func TestServersFailWhileItMoves(t *testing.T) {
	for _, try := range []struct {
		name, at string
		start    func(*testing.T) *other
	}{{"restarted", CatchingUp, restarted}, {"restarted", Switching, restarted}, {"another master", CatchingUp, failedOver}} {
		t.Run(try.name+", "+try.at, func(t *testing.T) {
			a, b := directory(t), try.start(t)
			m := NewMovable(a.must(t))
			things(t, m.Now(), 1000)
			c := begin(m, nil, 4)
			var into store.Portable
			var early, lost sync.Once
			_, err := m.Move(t.Context(), func(id, old string) (s store.Portable, err error) {
				s, err = b.fill(id, old)
				into = s
				return s, err
			}, "there", func() {}, func(p Progress) {
				if p.Stage == CatchingUp {
					early.Do(b.early)
				}
				if p.Stage == try.at {
					lost.Do(func() { b.lose(t, into) })
				}
			})
			if err == nil {
				t.Error("it moves")
			}
			counts(t, c, c.users[0].acked.Load())
			if mark, err := m.Now().Mark(t.Context()); store.InService(mark) != nil || err != nil {
				t.Errorf("the old store is marked %q, %v", mark, err)
			}
			c.end()
			b.whole()
			if res, err := m.Move(t.Context(), b.fill, "there", func() {}, noProgress); err != nil || res.Unfinished != "" {
				t.Errorf("it does not move again: %v", err)
			}
			c.check(t, m.Now())
			m.Close()
		})
	}
}

// Only the store that the data has moved to is taken into service.
func TestFinishIsForTheStoreItMovedTo(t *testing.T) {
	for name, marks := range map[string][2]string{
		"never moved": {"", store.Ready("1")}, "another move": {store.Moved("1", "x"), store.Ready("2")}, "half filled": {store.Moved("1", "x"), store.Filling("1")},
		"about to move": {store.Moving("1"), store.Ready("1")}, "in service, and always was": {store.Moved("1", "x"), ""},
		"in service after another move": {store.Moved("1", "x"), store.Arrived("2")},
	} {
		from, to := directory(t).must(t), directory(t).must(t)
		from.SetMark(t.Context(), "", marks[0])
		to.SetMark(t.Context(), "", marks[1])
		if err := Finish(t.Context(), from, to); !errors.Is(err, ErrUndecided) {
			t.Errorf("%s: %v", name, err)
		}
		if mark, _ := to.Mark(t.Context()); mark != marks[1] {
			t.Errorf("%s: the mark is %q", name, mark)
		}
	}
}

// Who asks which store is used, as those do who read connections, does not wait
// for the moment in which verbs wait.
func TestWhatIsUsedIsToldInThePause(t *testing.T) {
	a, b := directory(t), directory(t)
	m := NewMovable(a.must(t))
	var into store.Portable
	_, err := m.Move(t.Context(), func(id, old string) (s store.Portable, err error) {
		into, err = b.fill(id, old)
		return into, err
	}, "there", func() {
		now := make(chan store.Store, 1)
		go func() { now <- store.Inner(m) }()
		select {
		case s := <-now:
			if s != store.Store(into) {
				t.Error("the old store is used")
			}
		case <-time.After(5 * time.Second):
			t.Error("it is not told while verbs wait")
		}
	}, noProgress)
	if err != nil {
		t.Error(err)
	}
	m.Close()
}

// slow is a store whose writes take their time once requests wait for them.
type slow struct {
	store.Portable
	waits func() bool
}

func (s slow) Copies(ctx context.Context, keys []store.Key) ([]store.Copy, error) {
	if s.waits() {
		<-ctx.Done()
	}
	return s.Portable.Copies(ctx, keys)
}

// If the rest cannot be copied in the time for which requests may wait, the move
// is given up, and the old store goes on.
func TestPauseIsBounded(t *testing.T) {
	a, b := directory(t), directory(t)
	m := NewMovable(a.must(t))
	c := begin(m, nil, 4)
	var switching atomic.Bool
	_, err := m.Move(t.Context(), func(id, old string) (store.Portable, error) {
		s, err := b.fill(id, old)
		return slow{s, switching.Load}, err
	}, "there", func() {}, func(p Progress) {
		if p.Stage == Switching {
			counts(t, c, c.users[0].acked.Load()) // there is something left to copy
			switching.Store(true)
		}
	})
	if err == nil || !strings.Contains(err.Error(), "requests wait") {
		t.Errorf("the move ends with %v", err)
	}
	counts(t, c, c.users[0].acked.Load())
	if longest := c.end(); longest > PauseMax+time.Second {
		t.Errorf("somebody waited %s", longest)
	}
	c.check(t, m.Now())
	if _, err := b.open(); err == nil {
		t.Error("the copy opens")
	}
	if mark, err := m.Now().Mark(t.Context()); store.InService(mark) != nil || err != nil {
		t.Errorf("the old store is marked %q, %v", mark, err)
	}
}
