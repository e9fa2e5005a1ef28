package backup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"rtm/store"
)

// Bounds of a move.
const (
	PauseMax   = 1500 * time.Millisecond // requests wait no longer than that; else the move is given up
	changesMax = 1 << 20                 // records that wait to be written again
	roundMax   = 4096                    // of them in one call
	roundsMax  = 100                     // rounds of catching up, before it is given up
	fewChanges = 500                     // so many are written while requests wait
	markPause  = 100 * time.Millisecond
)

// markMax is how long the last mark is tried, if the new store does not take it.
var markMax = 10 * time.Second

// A Movable is a store that can be replaced by another one while it is in use.
// All who use it share one Movable. Nothing of the instances knows.
type Movable struct {
	mu    sync.RWMutex // held by each verb while it runs. A move that switches has it alone
	at    atomic.Pointer[store.Portable]
	moves sync.Mutex // held by whoever moves it

	changesMu sync.Mutex // guards changes
	changes   *changes   // nil: nobody moves it
}

// changes is what was written since it was last asked.
type changes struct {
	records map[store.Key]bool
	streams map[store.Partition]bool
	many    bool // more than changesMax
}

func newChanges() *changes {
	return &changes{records: make(map[store.Key]bool), streams: make(map[store.Partition]bool)}
}

// NewMovable returns s as a store that can be moved.
func NewMovable(s store.Portable) *Movable {
	m := &Movable{}
	m.at.Store(&s)
	return m
}

// Now is the store that is used at present. It waits for nothing, so that also
// those may ask who read connections; the store may be replaced right after.
func (m *Movable) Now() store.Portable { return *m.at.Load() }

// Load implements store.Store.
func (m *Movable) Load(ctx context.Context, keys []store.Key) ([]store.Record, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.Now().Load(ctx, keys)
}

// Commit implements store.Store. While the store is moved, it notes what may
// have been written.
func (m *Movable) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	rs, now := m.Now().Commit(ctx, cs)
	m.changesMu.Lock()
	defer m.changesMu.Unlock()
	if m.changes == nil {
		return rs, now
	}
	for i := range cs {
		if rs[i].Outcome == store.Done || rs[i].Outcome == store.InDoubt {
			m.changes.add(&cs[i])
		}
	}
	return rs, now
}

func (c *changes) add(done *store.Commit) {
	if c.many = c.many || len(c.records) > changesMax; c.many {
		return
	}
	p := done.Writes[0].Key.Partition
	if len(done.Events) > 0 {
		c.streams[p] = true
	}
	for i := range done.Writes {
		if w := &done.Writes[i]; w.Op != store.Check || i == 0 && done.Index != store.Leave {
			c.records[w.Key] = true
		}
	}
}

// Due implements store.Store.
func (m *Movable) Due(ctx context.Context, ps []store.Partition, n int, lease time.Duration) (due []store.Due, next, now time.Time, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.Now().Due(ctx, ps, n, lease)
}

// Events implements store.Store.
func (m *Movable) Events(ctx context.Context, p store.Partition, after uint64, n int) ([]store.Event, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.Now().Events(ctx, p, after, n)
}

// Trim implements store.Store.
func (m *Movable) Trim(ctx context.Context, p store.Partition, upTo uint64) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.Now().Trim(ctx, p, upTo)
}

// Scan implements store.Store. A walk that a move interrupts is told that its
// cursor is none.
func (m *Movable) Scan(ctx context.Context, cursor []byte, n int) (ks []store.Key, rs []store.Record, next []byte, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.Now().Scan(ctx, cursor, n)
}

// Facts implements store.Store.
func (m *Movable) Facts(ctx context.Context) (store.Facts, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.Now().Facts(ctx)
}

// Close implements store.Store.
func (m *Movable) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Now().Close()
}

// Result is what a move did.
type Result struct {
	Records int64         `json:"records"` // copied
	Events  int64         `json:"events"`
	Again   int64         `json:"again"` // records that changed meanwhile, and were copied again
	Pause   time.Duration `json:"pause"` // how long requests waited
	To      string        `json:"to"`    // where the data is now
	// Unfinished is why the new store could not be told that it is in service;
	// empty: it was told. Until Finish has, only this process can use it.
	Unfinished string `json:"unfinished,omitempty"`
}

var errMoving = errors.New("it is being moved already")

// Move takes everything into another store while this one is in use, and then
// puts that in its place. fill opens the store to be filled, and where is how
// others name it.
//
// It copies a snapshot, reads the copy again and compares it, and copies what
// has changed meanwhile, until that is little. Then verbs wait: the rest is
// copied and compared, the new store is marked as ready, the old one as moved,
// and the verbs go on, on the new one. If anything fails before the old one is
// marked, it stays in use, and the copy stays marked as half filled or ready,
// which no server opens. That last mark is the switch: after it Move does not
// fail, and the old store is never opened again. switched is called then, before
// the first verb goes on.
//
// Before the copy becomes ready the old store says that it does not count: so
// when the process dies, the next move from here may empty it, and nobody else.
func (m *Movable) Move(ctx context.Context, fill Fill, where string, switched func(), told func(Progress)) (*Result, error) {
	if !m.moves.TryLock() {
		return nil, errMoving
	}
	defer m.moves.Unlock()
	mark, err := m.Now().Mark(ctx)
	if err == nil {
		err = store.InService(mark)
	}
	if err != nil {
		return nil, err
	}
	id := NewID()
	to, err := fill(id, store.MovingAs(mark))
	if err != nil {
		return nil, err
	}
	v := &moving{m: m, from: m.Now(), mark: mark, to: to, id: id, where: where, told: told, out: &Result{To: where}}
	err = v.copy(ctx)
	if err == nil {
		err = v.catchUp(ctx)
	}
	if err == nil {
		err = v.change(ctx, switched)
	}
	m.note(nil)
	if err != nil {
		v.giveUp(context.WithoutCancel(ctx))
		to.Close()
		return nil, err
	}
	v.from.Close()
	if err := v.inService(context.WithoutCancel(ctx)); err != nil {
		v.out.Unfinished = err.Error()
	}
	return v.out, nil
}

// inService has the new store say that it is in service, and tries for a while.
func (v *moving) inService(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, markMax)
	defer cancel()
	for {
		err := v.to.SetMark(ctx, store.Ready(v.id), store.Arrived(v.id))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(markPause):
		}
	}
}

// giveUp has the new store say that its copy is of no use, if it was ready. If
// it does not hear that, the next move from the old one knows.
func (v *moving) giveUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, markMax)
	defer cancel()
	if mark, err := v.from.Mark(ctx); err == nil && mark == store.Moving(v.id) {
		_ = v.to.SetMark(ctx, store.Ready(v.id), store.Filling(v.id))
	}
}

// note begins or ends the noting of changes.
func (m *Movable) note(c *changes) {
	m.changesMu.Lock()
	defer m.changesMu.Unlock()
	m.changes = c
}

// take is what was written since it was last called.
func (m *Movable) take() (*changes, error) {
	m.changesMu.Lock()
	defer m.changesMu.Unlock()
	c := m.changes
	m.changes = newChanges()
	if c.many {
		return nil, errors.New("records change faster than they can be copied: try again at a quieter time")
	}
	return c, nil
}

// moving is one move.
type moving struct {
	m        *Movable
	from, to store.Portable
	mark     string // of the old store
	id       string
	where    string
	told     func(Progress)
	out      *Result
	lasts    [store.Partitions]uint64 // events up to here are copied
}

// copy takes a snapshot over, and compares.
func (v *moving) copy(ctx context.Context) error {
	v.m.mu.Lock() // a verb that runs has ended: what it wrote is in the snapshot, or it is noted
	v.m.note(newChanges())
	v.m.mu.Unlock()
	f := filler{to: v.to, sums: newTally()}
	p, told := Progress{Stage: Copying}, Gently(ctx, v.told)
	_, whole, err := v.from.Walk(ctx, func(part *store.Part) error {
		for i := range part.Streams {
			st := &part.Streams[i]
			if n := len(st.Events); n > 0 {
				v.lasts[st.Partition] = st.Events[n-1].Seq
			}
			v.lasts[st.Partition] = max(v.lasts[st.Partition], st.Last)
		}
		if err := f.part(ctx, part); err != nil {
			return err
		}
		p.Records += int64(len(part.Copies))
		told(p)
		return ctx.Err()
	})
	if err == nil && !whole {
		err = errors.New("only an embedded store can be moved while it is in use")
	}
	if err != nil {
		return err
	}
	v.out.Records, v.out.Events = f.sums.total(), f.sums.events
	return compare(ctx, v.to, f.sums, told)
}

// compare reads a store that was filled, and says in what it differs. A store
// whose walk may name a record twice is read again if it seems to hold too many.
func compare(ctx context.Context, s store.Portable, want *tally, told func(Progress)) (err error) {
	for range 3 {
		var found *tally
		if found, err = count(ctx, s, Progress{Stage: Comparing, Of: want.total()}, told); err != nil {
			return err
		}
		if err = want.compare(found); err == nil || found.total() <= want.total() {
			return err
		}
	}
	return err
}

// catchUp copies what has changed, until that is little.
func (v *moving) catchUp(ctx context.Context) error {
	for range roundsMax {
		c, err := v.m.take()
		if err != nil {
			return err
		}
		if err := v.again(ctx, c); err != nil {
			return err
		}
		v.told(Progress{Stage: CatchingUp, Records: v.out.Again})
		if len(c.records) < fewChanges {
			return nil
		}
	}
	return errors.New("records change as fast as they can be copied: try again at a quieter time")
}

// again copies these records and events as they are now, and compares them.
func (v *moving) again(ctx context.Context, c *changes) error {
	keys := make([]store.Key, 0, len(c.records))
	for k := range c.records {
		keys = append(keys, k)
	}
	for from := 0; from < len(keys); from += roundMax {
		if err := v.records(ctx, keys[from:min(from+roundMax, len(keys))]); err != nil {
			return err
		}
	}
	for p := range c.streams {
		if err := v.stream(ctx, p); err != nil {
			return err
		}
	}
	v.out.Again += int64(len(keys))
	return nil
}

func (v *moving) records(ctx context.Context, keys []store.Key) error {
	cs, err := v.from.Copies(ctx, keys)
	if err != nil {
		return err
	}
	for i := range cs {
		if cs[i].Expire > 0 {
			cs[i].Expire = max(cs[i].Expire, expireMin)
		}
	}
	if err := v.to.Fill(ctx, &store.Part{Copies: cs}); err != nil {
		return err
	}
	found, err := v.to.Copies(ctx, keys)
	if err != nil {
		return err
	}
	for i := range cs {
		if cs[i].Version != found[i].Version || cs[i].Version != (store.Version{}) && hashOf(&cs[i]) != hashOf(&found[i]) {
			return fmt.Errorf("%w: record %s", ErrDiffers, cs[i].Key)
		}
	}
	return nil
}

func (v *moving) stream(ctx context.Context, p store.Partition) error {
	for {
		st, err := v.from.Stream(ctx, p, v.lasts[p], roundMax)
		if err != nil {
			return err
		}
		n, next := len(st.Events), st.Last+1
		if n > 0 {
			next = st.Events[0].Seq
		}
		if next > v.lasts[p]+1 { // what is between is in record files by now, and what is before it
			if err := v.to.Trim(ctx, p, next-1); err != nil {
				return err
			}
		}
		if n < roundMax {
			v.lasts[p] = max(v.lasts[p], st.Last)
		} else {
			st.Last = 0
		}
		if n > 0 {
			v.lasts[p] = max(v.lasts[p], st.Events[n-1].Seq)
		}
		if err := v.to.Fill(ctx, &store.Part{Streams: []store.Stream{st}}); err != nil {
			return err
		}
		v.out.Events += int64(n)
		if n == roundMax {
			continue
		}
		found, err := v.to.Stream(ctx, p, v.lasts[p], 1)
		if err == nil && found.Last != v.lasts[p] {
			err = fmt.Errorf("%w: events of partition %d", ErrDiffers, p)
		}
		return err
	}
}

// change is the pause: it copies the rest, and switches.
func (v *moving) change(ctx context.Context, switched func()) error {
	m := v.m
	v.told(Progress{Stage: Switching})
	if err := v.from.SetMark(ctx, v.mark, store.Moving(v.id)); err != nil {
		return fmt.Errorf("the old store: %w", err)
	}
	began := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	ctx, cancel := context.WithDeadline(ctx, began.Add(PauseMax))
	defer cancel()
	// What nobody waits for any more is on disk when this is: groups are in order.
	rs, _ := v.from.Commit(ctx, []store.Commit{{Writes: []store.Write{{Op: store.Check, Key: store.Key{Kind: '?', Name: "fence"}}}}})
	if rs[0].Outcome != store.Done {
		return fmt.Errorf("the old store: %w", rs[0].Err)
	}
	c, err := m.take()
	if err == nil {
		err = v.again(ctx, c)
	}
	if err == nil {
		err = v.to.SetMark(ctx, store.Filling(v.id), store.Ready(v.id))
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = v.from.SetMark(context.WithoutCancel(ctx), store.Moving(v.id), store.Moved(v.id, v.where))
	}
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("it was not done within %s, in which requests wait: %w", PauseMax, err)
		}
		return err
	}
	m.at.Store(&v.to)
	v.out.Pause = time.Since(began)
	switched()
	return nil
}

// ErrUndecided says that a store is not the one that the old one moved to.
var ErrUndecided = errors.New("the data of this directory has not moved to that store")

// Finish takes a store into service into which another one has moved: the last
// step of a move, if it was interrupted there. It may be repeated.
func Finish(ctx context.Context, from, to store.Portable) error {
	old, err := from.Mark(ctx)
	if err != nil {
		return err
	}
	mark, err := to.Mark(ctx)
	if err != nil {
		return err
	}
	id, where := store.MovedTo(old)
	switch {
	case id == "" && store.InService(old) == nil:
		return fmt.Errorf("%w: it is in service itself; a server that starts on it can move again", ErrUndecided)
	case id == "":
		return ErrUndecided
	case mark == store.Arrived(id):
		return nil
	case mark != store.Ready(id):
		return fmt.Errorf("%w: it has moved to %s", ErrUndecided, where)
	}
	return to.SetMark(ctx, mark, store.Arrived(id))
}

var _ store.Store = (*Movable)(nil)
