package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"rtm/store"
)

// Bounds of a walk.
const (
	partMax    = 1000    // records or events in one part
	changesMax = 1 << 20 // names of changed records that wait to be read
	roundsMax  = 1000    // tries to read a partition while nothing new comes into it
	fillMax    = 500     // records written in one call
	clearsMax  = 5       // tries to empty a store into which something still comes

	patience = 10 * time.Second // with a server that does not answer; nobody waits for a decision here
	again    = 200 * time.Millisecond
)

// insist does what may be repeated until it succeeds, or for as long as that
// may take.
func insist(ctx context.Context, do func() error) error {
	for since := time.Now(); ; {
		err := do()
		if err == nil || ctx.Err() != nil || errors.Is(err, store.ErrClosed) || errors.Is(err, store.ErrMark) || errors.Is(err, errOthers) || time.Since(since) > patience {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
}

// Receive connects to a store that is to be filled, and marks it so under that
// id. What an earlier try left is removed, also that of the move old (see
// store.MayEmpty); a store with records is refused.
func Receive(ctx context.Context, c Config, id, old string) (*Store, error) {
	short, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s, r, err := open(short, c)
	if err != nil {
		return nil, err
	}
	if err := s.receive(ctx, id, old); err != nil {
		s.Close()
		return nil, fmt.Errorf("fill redis at %s: %w", r.Where, err)
	}
	return s, nil
}

// Marked connects to a store whatever its mark says, to read or write that.
func Marked(ctx context.Context, c Config) (*Store, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s, _, err := open(ctx, c)
	return s, err
}

// receive marks the store before it removes anything: whoever has begun to fill
// it finds another mark from then on, and changes nothing any more.
func (s *Store) receive(ctx context.Context, id, old string) error {
	t := s.topology.Load()
	found, anew := make([]string, len(t.masters)), true
	for i, m := range t.masters {
		var mark string
		var err error
		if found[i], err = s.markText(ctx, m); err == nil {
			mark, err = markOf(found[i])
		}
		if err != nil {
			return err
		}
		if store.MayEmpty(mark, old) {
			continue
		}
		if err := store.InService(mark); err != nil {
			return err
		}
		anew = false
	}
	if !anew {
		if err := s.isEmpty(ctx); err != nil {
			return err
		}
	}
	if err := s.beginFills(ctx, id, t); err != nil {
		return err
	}
	for i, m := range t.masters {
		if err := s.swap(ctx, m, found[i], store.Filling(id)); err != nil {
			return err
		}
	}
	if err := s.fence(ctx); err != nil {
		return err
	}
	var err error
	if anew {
		err = s.clear(ctx)
	} else if err = s.isEmpty(ctx); err != nil { // somebody wrote into it before it was marked
		for i, m := range t.masters {
			err = errors.Join(err, s.swap(ctx, m, store.Filling(id), found[i]))
		}
	}
	if err != nil {
		return err
	}
	return s.stillFills(ctx)
}

// isEmpty reports an error if the store holds a record.
func (s *Store) isEmpty(ctx context.Context) error {
	for cursor := []byte(nil); ; {
		ks, _, next, err := s.Scan(ctx, cursor, partMax)
		if err == nil && len(ks) > 0 {
			err = fmt.Errorf("%w: name another database, or stop all that use this one and empty it with FLUSHDB", store.ErrNotEmpty)
		}
		if err != nil || next == nil {
			return err
		}
		cursor = next
	}
}

// clear removes all that a filler wrote. What one who was there before had under
// way may still come in: it looks again until nothing does.
func (s *Store) clear(ctx context.Context) error {
	for range clearsMax {
		found := 0
		for cursor := []byte(nil); ; {
			ks, _, next, err := s.Scan(ctx, cursor, partMax)
			if err == nil {
				found += len(ks)
				err = s.remove(ctx, len(ks), func(i int) (store.Partition, string) { return ks[i].Partition, recordKey(ks[i]) })
			}
			if err != nil {
				return err
			}
			if cursor = next; next == nil {
				break
			}
		}
		for _, key := range []func(store.Partition) string{indexKey, streamKey} {
			if err := s.remove(ctx, store.Partitions, func(i int) (store.Partition, string) { return store.Partition(i), key(store.Partition(i)) }); err != nil {
				return err
			}
		}
		if found == 0 {
			return nil
		}
	}
	return errors.New("somebody else still writes into it")
}

// fills is what is remembered while a store is filled: under which id, and who
// held the data at the beginning. What was filled is read again and compared at
// those servers, and nothing waits for their replicas before the last mark; so a
// server that takes over, or starts again, may lack some of it.
type fills struct {
	id        string
	at        *topology
	failovers int64
	runs      []string // of the masters, as Redis names its processes
}

// beginFills remembers who holds the data now.
func (s *Store) beginFills(ctx context.Context, id string, t *topology) (err error) {
	f := &fills{id: id, at: t, failovers: s.Failovers.Load()}
	f.runs, err = t.runs(ctx)
	s.fills = f
	return err
}

// runs names the processes that are masters.
func (t *topology) runs(ctx context.Context) (ids []string, err error) {
	for _, m := range t.masters {
		text, err := m.client.Do(ctx, m.client.B().Info().Section("server").Build()).ToString()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.addr, err)
		}
		ids = append(ids, readInfo(text)["run_id"])
	}
	return ids, nil
}

// stillFills reports an error if other servers hold the data than at the
// beginning, or somebody else has begun to fill the store.
func (s *Store) stillFills(ctx context.Context) error {
	if !s.topology.Load().same(s.fills.at) || s.Failovers.Load() != s.fills.failovers {
		return errOthers
	}
	mark, err := s.Mark(ctx)
	if err == nil && mark != store.Filling(s.fills.id) {
		err = fmt.Errorf("%w: it is marked %q", store.ErrMark, mark)
	}
	return err
}

// sameFills reports an error if other processes hold the data than at the
// beginning of the filling.
func (s *Store) sameFills(ctx context.Context) error {
	runs, err := s.fills.at.runs(ctx)
	if err == nil && (!slices.Equal(runs, s.fills.runs) || !s.topology.Load().same(s.fills.at) || s.Failovers.Load() != s.fills.failovers) {
		err = errOthers
	}
	return err
}

// remove removes n keys.
func (s *Store) remove(ctx context.Context, n int, key func(i int) (store.Partition, string)) error {
	return s.ask(ctx, n, func(i int) store.Partition { p, _ := key(i); return p },
		func(i int, b rueidis.Builder) rueidis.Completed { _, k := key(i); return b.Del().Key(k).Build() },
		func(_ int, r rueidis.RedisResult) error { return r.Error() })
}

// markText reads what stands in the place of the format at a master; empty:
// nothing.
func (s *Store) markText(ctx context.Context, m *node) (string, error) {
	text, err := m.client.Do(ctx, m.client.B().Get().Key(s.formatKey(m)).Build()).ToString()
	if rueidis.IsRedisNil(err) {
		return "", nil
	}
	return text, err
}

// textOf is how a mark is written. One that keeps the store out of service stands
// in the place of the format, so that older programs refuse the store too; another
// one stands behind it.
func textOf(mark string) string {
	if store.InService(mark) != nil {
		return mark
	}
	return strings.TrimSpace(fmt.Sprintf("%d %d %s", format, store.Partitions, mark))
}

// markOf is the inverse of textOf.
func markOf(text string) (string, error) {
	if text == "" || store.IsMark(text) {
		return text, nil
	}
	if err := checkFormat(text); err != nil {
		return "", err
	}
	if f := strings.SplitN(text, " ", 3); len(f) == 3 {
		return f[2], nil
	}
	return "", nil
}

// Mark implements store.Portable. If masters have several marks, the one that is
// farthest from service counts.
func (s *Store) Mark(ctx context.Context) (mark string, err error) {
	if s.closed.Load() {
		return "", store.ErrClosed
	}
	for _, m := range s.topology.Load().masters {
		text, err := s.markText(ctx, m)
		if err != nil {
			return "", err
		}
		found, err := markOf(text)
		if err != nil {
			return "", err
		}
		if store.InService(mark) == nil && found != "" || store.MayEmpty(found, "") {
			mark = found
		}
	}
	return mark, nil
}

// SetMark implements store.Portable. The mark of a store that is being filled is
// only replaced if the same servers hold it as at the beginning. In a Cluster the
// first master decides between two who set marks at the same time: all begin
// there.
func (s *Store) SetMark(ctx context.Context, was, mark string) error {
	if s.closed.Load() {
		return store.ErrClosed
	}
	t := s.topology.Load()
	if err := s.fence(ctx); err != nil {
		return err
	}
	filled := s.fills != nil && was == store.Filling(s.fills.id)
	if filled {
		if err := s.sameFills(ctx); err != nil {
			return err
		}
	}
	for _, m := range t.masters {
		text, err := s.markText(ctx, m)
		if err != nil {
			return err
		}
		found, err := markOf(text)
		if err == nil && found != was && found != mark {
			err = fmt.Errorf("%w: it is marked %q", store.ErrMark, found)
		}
		if err == nil {
			err = s.swap(ctx, m, text, textOf(mark))
		}
		if err != nil {
			return err
		}
	}
	if err := s.fence(ctx); err != nil {
		return err
	}
	if !s.topology.Load().same(t) {
		return errOthers // the mark was set at one master, and another one's replicas were asked
	}
	if filled {
		return s.sameFills(ctx)
	}
	return nil
}

var errOthers = errors.New("other servers hold the data than at the beginning: run it again when no failover and no move of slots is under way")

// swapScript writes a value in the place of another one.
//
//	KEYS[1]  mark      ARGV[1]  what must be there, empty: nothing      ARGV[2]  what is written, empty: nothing is left
//	returns  1 done | 0 something else is there
const swapScript = `
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2]) end
return 1
`

// swap writes what stands in the place of the format at a master, if that is as
// it was.
func (s *Store) swap(ctx context.Context, m *node, was, text string) error {
	done, err := m.client.Do(ctx, m.client.B().Eval().Script(swapScript).Numkeys(1).Key(s.formatKey(m)).Arg(was, text).Build()).AsInt64()
	if err == nil && done == 0 {
		err = store.ErrMark
	}
	return err
}

// fence returns when all that was written before is as durable as a commit: a
// commit in each partition waits for what was written to its server before it.
func (s *Store) fence(ctx context.Context) error {
	cs := make([]store.Commit, store.Partitions)
	for p := range cs {
		cs[p].Writes = []store.Write{{Op: store.Check, Key: store.Key{Partition: store.Partition(p), Kind: '?', Name: "fence"}}}
	}
	rs, _ := s.Commit(ctx, cs)
	for _, r := range rs {
		if r.Outcome != store.Done {
			return fmt.Errorf("it could not be made durable: %w", r.Err)
		}
	}
	return nil
}

// A feed is the names of records that change, as the servers tell a client that
// asked for them (CLIENT TRACKING, BCAST), and the connections it comes over.
type feed struct {
	clients map[*node]rueidis.Client
	mu      sync.Mutex // guards all below
	changed [store.Partitions]map[store.Key]bool
	at      [store.Partitions]map[store.Key]bool // changed, when the partition's fence was last told
	many    int
	lost    error // why it can no longer be relied on
}

// watchChanges opens a feed.
func (s *Store) watchChanges(ctx context.Context, t *topology) (*feed, error) {
	f := &feed{clients: make(map[*node]rueidis.Client)}
	for _, m := range t.masters {
		opt := s.nodes.opt(m.addr)
		opt.DisableCache, opt.ClientTrackingOptions = false, []string{"BCAST", "PREFIX", "{"}
		opt.OnInvalidations, opt.ConnWriteTimeout = f.take, patience
		c, err := rueidis.NewClient(opt)
		if err == nil {
			f.clients[m] = c
			err = c.Do(ctx, c.B().Ping().Build()).Error()
		}
		if err != nil {
			f.close()
			return nil, fmt.Errorf("ask %s for what changes: %w", m.addr, err)
		}
	}
	return f, nil
}

func (f *feed) close() {
	for _, c := range f.clients {
		c.Close()
	}
}

// take notes what has changed; nothing at all means that the connection was lost,
// or all was removed.
func (f *feed) take(names []rueidis.RedisMessage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if names == nil {
		f.lost = errors.New("the connection over which changes are told was lost: run it again")
	}
	var fences []store.Partition
	for i := range names {
		name, err := names[i].ToString()
		if p, ok := fenceOf(name); ok {
			fences = append(fences, p)
		}
		k, ok := parseKey(name)
		if err != nil || !ok || f.changed[k.Partition][k] {
			continue
		}
		if f.many++; f.many > changesMax {
			f.lost = errors.New("records change faster than they can be read: run it again at a quieter time")
			return
		}
		if f.changed[k.Partition] == nil {
			f.changed[k.Partition] = make(map[store.Key]bool)
		}
		f.changed[k.Partition][k] = true
	}
	for _, p := range fences { // what is told together changed at nearly the same time, in any order
		f.at[p] = make(map[store.Key]bool, len(f.changed[p]))
		for k := range f.changed[p] {
			f.at[p][k] = true
		}
	}
}

// fenceOf is the inverse of fenceKey.
func fenceOf(name string) (store.Partition, bool) {
	n, ok := strings.CutSuffix(name, "}!f")
	p, err := strconv.ParseUint(strings.TrimPrefix(n, "{"), 10, 16)
	return store.Partition(p), ok && err == nil && p < store.Partitions
}

// of takes the changed records of a partition, at most n.
func (f *feed) of(p store.Partition, n int) (keys []store.Key, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k := range f.changed[p] {
		if len(keys) == n {
			break
		}
		keys = append(keys, k)
		delete(f.changed[p], k)
		f.many--
	}
	return keys, f.lost
}

// quiet returns when all that changed before has been told.
func (f *feed) quiet(ctx context.Context, m *node) error {
	c := f.clients[m]
	return c.Do(ctx, c.B().Ping().Build()).Error()
}

// Walk implements store.Portable. It reads all records, and those again that
// change meanwhile. At the end it reads each partition's last changes and events
// in one script, which also writes the partition's fence. What is told of before
// the fence, or with it, may have changed before the script ran; if no record is
// among that which the script has not read, it has read the partition as it was
// at that moment. It is the only thing that a walk writes.
func (s *Store) Walk(ctx context.Context, each func(*store.Part) error) (at time.Time, whole bool, err error) {
	if s.closed.Load() {
		return at, false, store.ErrClosed
	}
	t := s.topology.Load()
	f, err := s.watchChanges(ctx, t)
	if err != nil {
		return at, false, err
	}
	defer f.close()
	for cursor := []byte(nil); ; {
		var ks []store.Key
		var next []byte
		err := insist(ctx, func() (err error) { ks, _, next, err = s.Scan(ctx, cursor, partMax); return err })
		if err == nil {
			err = s.walkOn(ctx, f, ks, each)
		}
		if err != nil {
			return at, false, err
		}
		if cursor = next; next == nil {
			break
		}
	}
	for p := range store.Partition(store.Partitions) {
		if at, err = s.cut(ctx, f, t.of[p], p, each); err != nil {
			return at, false, err
		}
	}
	if !s.topology.Load().same(t) {
		return at, false, errOthers
	}
	return at, false, nil
}

// walkOn hands on a page of a Scan, and what has changed.
func (s *Store) walkOn(ctx context.Context, f *feed, ks []store.Key, each func(*store.Part) error) error {
	seen := make(map[store.Key]bool, len(ks))
	for _, k := range ks {
		seen[k] = true
	}
	for p := range store.Partition(store.Partitions) {
		changed, err := f.of(p, partMax)
		if err != nil {
			return err
		}
		for _, k := range changed {
			seen[k] = true
		}
	}
	keys := make([]store.Key, 0, len(seen))
	for k := range seen {
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil
	}
	var cs []store.Copy
	if err := insist(ctx, func() (err error) { cs, err = s.Copies(ctx, keys); return err }); err != nil {
		return err
	}
	return each(&store.Part{Copies: cs})
}

// cutScript reads records of one partition and its events at one moment.
//
//	KEYS[1]  index      KEYS[2]  stream     KEYS[3]    fence, or the index again: none is written     KEYS[4..]  records
//	ARGV[1]  events after this one          ARGV[2]    how many at most     ARGV[4..]  the records' members of the index
//	returns  {seconds, micros, last number of the stream, events, 1 if the fence is written, {value, ms left, wake}, …}
const cutScript = `
local now, last, events = redis.call('TIME'), '0-0', {}
if redis.call('EXISTS', KEYS[2]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[2])
  for i = 1, #info, 2 do if info[i] == 'last-generated-id' then last = info[i+1] end end
  events = redis.call('XRANGE', KEYS[2], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
end
local all = {now[1], now[2], last, events, 0}
if KEYS[3] ~= KEYS[1] and not redis.pcall('SET', KEYS[3], '').err then all[5] = 1 end
for i = 4, #KEYS do
  all[i+2] = {redis.call('GET', KEYS[i]) or '', redis.call('PTTL', KEYS[i]), redis.call('ZSCORE', KEYS[1], ARGV[i]) or ''}
end
return all
`

// cut reads what is left of a partition, and returns when.
func (s *Store) cut(ctx context.Context, f *feed, m *node, p store.Partition, each func(*store.Part) error) (at time.Time, err error) {
	if f.clients[m] == nil {
		return at, fmt.Errorf("no server has partition %d", p)
	}
	after := uint64(0)
	for range roundsMax {
		if err := f.quiet(ctx, m); err != nil {
			return at, err
		}
		keys, err := f.of(p, partMax)
		if err != nil {
			return at, err
		}
		part := store.Part{Streams: []store.Stream{{Partition: p}}}
		st := &part.Streams[0]
		f.forget(p)
		var fenced bool
		if at, fenced, err = readAtOnce(ctx, f.clients[m], keys, after, &part, true); err != nil {
			return at, fmt.Errorf("read partition %d: %w", p, err)
		}
		at = m.shown(at)
		if n := len(st.Events); n > 0 {
			after = st.Events[n-1].Seq
		}
		if err := f.quiet(ctx, m); err != nil {
			return at, err
		}
		whole := len(st.Events) < partMax && f.nothingBut(p, keys, fenced)
		if !whole {
			st.Last = 0
		}
		if len(part.Copies) > 0 || len(st.Events) > 0 || st.Last > 0 {
			if err := each(&part); err != nil {
				return at, err
			}
		}
		if whole {
			return at, nil
		}
	}
	return at, fmt.Errorf("partition %d does not come to rest: run it again at a quieter time", p)
}

// forget forgets a fence that was told.
func (f *feed) forget(p store.Partition) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at[p] = nil
}

// nothingBut reports whether no other records of p have changed than these, until
// the fence was told; without one, until now.
func (f *feed) nothingBut(p store.Partition, keys []store.Key, fenced bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := make(map[store.Key]bool, len(keys))
	for _, k := range keys {
		known[k] = true
	}
	changed := f.changed[p]
	if fenced {
		changed = f.at[p]
	}
	for k := range changed {
		if !known[k] {
			return false
		}
	}
	return f.lost == nil
}

// readAtOnce runs cutScript. A store that takes no writes has no fence.
func readAtOnce(ctx context.Context, c rueidis.Client, keys []store.Key, after uint64, part *store.Part, fence bool) (at time.Time, fenced bool, err error) {
	st := &part.Streams[0]
	ks := []string{indexKey(st.Partition), streamKey(st.Partition), indexKey(st.Partition)}
	if fence {
		ks[2] = fenceKey(st.Partition)
	}
	args := []string{"0-" + strconv.FormatUint(after, 10), strconv.Itoa(partMax), ""}
	for _, k := range keys {
		ks, args = append(ks, recordKey(k)), append(args, member(k))
	}
	m, err := c.Do(ctx, c.B().Eval().Script(cutScript).Numkeys(int64(len(ks))).Key(ks...).Arg(args...).Build()).ToArray()
	if err != nil {
		return at, false, err
	}
	if len(m) != 5+len(keys) {
		return at, false, errors.New("the script's answer is not understood")
	}
	sec, _ := m[0].ToString()
	micro, _ := m[1].ToString()
	at = clockOf(sec, micro)
	last, err := m[2].ToString()
	if err != nil {
		return at, false, err
	}
	if st.Last, err = strconv.ParseUint(strings.TrimPrefix(last, "0-"), 10, 64); err != nil {
		return at, false, fmt.Errorf("event %s was not written by rtm", last)
	}
	entries, err := m[3].AsXRange()
	if err != nil && !rueidis.IsRedisNil(err) {
		return at, false, err
	}
	for _, e := range entries {
		seq, err := strconv.ParseUint(strings.TrimPrefix(e.ID, "0-"), 10, 64)
		if err != nil {
			return at, false, fmt.Errorf("event %s was not written by rtm", e.ID)
		}
		st.Events = append(st.Events, store.Event{Seq: seq, Bytes: []byte(e.FieldValues["e"])})
	}
	for i, k := range keys {
		three, err := m[5+i].ToArray()
		if err != nil || len(three) != 3 {
			return at, false, errors.New("the script's answer is not understood")
		}
		text, _ := three[0].ToString()
		left, _ := three[1].AsInt64()
		score, _ := three[2].ToString()
		wake, _ := strconv.ParseFloat(score, 64)
		part.Copies = append(part.Copies, copyOf(k, text, left, wake))
	}
	written, err := m[4].AsInt64()
	return at, written == 1, err
}

// copyOf is a record from its value, the milliseconds that are left of it (below
// zero: for ever) and its score in the index (zero: none).
func copyOf(k store.Key, text string, left int64, wake float64) store.Copy {
	r := record(text)
	c := store.Copy{Key: k, Version: r.Version, Bytes: r.Bytes}
	if c.Version == (store.Version{}) {
		return c
	}
	if left >= 0 {
		c.Expire = time.Duration(max(left, 1)) * time.Millisecond
	}
	if wake > 0 {
		c.Wake = time.UnixMilli(int64(wake)).UTC()
	}
	return c
}

// Copies implements store.Portable. A record and what is told of it are read one
// after the other: who needs them together looks for changes.
func (s *Store) Copies(ctx context.Context, keys []store.Key) ([]store.Copy, error) {
	texts, left, wakes := make([]string, len(keys)), make([]int64, len(keys)), make([]float64, len(keys))
	err := s.ask(ctx, 3*len(keys), func(i int) store.Partition { return keys[i/3].Partition },
		func(i int, b rueidis.Builder) rueidis.Completed {
			k := keys[i/3]
			switch i % 3 {
			case 0:
				return b.Pttl().Key(recordKey(k)).Build()
			case 1:
				return b.Zscore().Key(indexKey(k.Partition)).Member(member(k)).Build()
			}
			return b.Get().Key(recordKey(k)).Build()
		},
		func(i int, r rueidis.RedisResult) (err error) {
			switch i % 3 {
			case 0:
				left[i/3], err = r.AsInt64()
			case 1:
				wakes[i/3], err = r.AsFloat64()
			default:
				texts[i/3], err = r.ToString()
			}
			if rueidis.IsRedisNil(err) {
				return nil
			}
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	cs := make([]store.Copy, len(keys))
	for i, k := range keys {
		cs[i] = copyOf(k, texts[i], left[i], wakes[i])
	}
	return cs, nil
}

// Stream implements store.Portable.
func (s *Store) Stream(ctx context.Context, p store.Partition, after uint64, n int) (store.Stream, error) {
	part := store.Part{Streams: []store.Stream{{Partition: p}}}
	m := s.topology.Load().of[p]
	if m == nil {
		return part.Streams[0], fmt.Errorf("no server has partition %d", p)
	}
	_, _, err := readAtOnce(ctx, m.client, nil, after, &part, false)
	st := part.Streams[0]
	st.Events = st.Events[:min(len(st.Events), n)]
	return st, err
}

// Fill implements store.Portable.
func (s *Store) Fill(ctx context.Context, part *store.Part) error {
	if s.fills != nil {
		if err := insist(ctx, func() error { return s.stillFills(ctx) }); err != nil {
			return err
		}
	}
	for from := 0; from < len(part.Copies); from += fillMax {
		cs := part.Copies[from:min(from+fillMax, len(part.Copies))]
		err := insist(ctx, func() error {
			return s.ask(ctx, 2*len(cs), func(i int) store.Partition { return cs[i/2].Key.Partition },
				func(i int, b rueidis.Builder) rueidis.Completed { return fillRecord(b, &cs[i/2], i%2 == 1) },
				func(_ int, r rueidis.RedisResult) error { return r.Error() })
		})
		if err != nil {
			return fmt.Errorf("write records: %w", err)
		}
	}
	for i := range part.Streams {
		st := part.Streams[i]
		tries := 0
		err := insist(ctx, func() error {
			if tries++; tries > 1 { // some of them may be there
				have, err := s.Stream(ctx, st.Partition, 0, 1)
				if err != nil {
					return err
				}
				for len(st.Events) > 0 && st.Events[0].Seq <= have.Last {
					st.Events = st.Events[1:]
				}
			}
			return s.fillStream(ctx, &st)
		})
		if err != nil {
			return fmt.Errorf("write events of partition %d: %w", part.Streams[i].Partition, err)
		}
	}
	return nil
}

// fillRecord builds what writes a record, or its entry in the index.
func fillRecord(b rueidis.Builder, c *store.Copy, index bool) rueidis.Completed {
	gone := c.Version == (store.Version{})
	switch {
	case index && (gone || c.Wake.IsZero()):
		return b.Zrem().Key(indexKey(c.Key.Partition)).Member(member(c.Key)).Build()
	case index:
		return b.Zadd().Key(indexKey(c.Key.Partition)).ScoreMember().ScoreMember(float64(c.Wake.UnixMilli()), member(c.Key)).Build()
	case gone:
		return b.Del().Key(recordKey(c.Key)).Build()
	}
	v := value(&store.Write{New: c.Version, Bytes: c.Bytes})
	if c.Expire > 0 {
		return b.Set().Key(recordKey(c.Key)).Value(v).PxMilliseconds(c.Expire.Milliseconds() + 1).Build()
	}
	return b.Set().Key(recordKey(c.Key)).Value(v).Build()
}

// fillStream appends events under their own numbers. A last number that no event
// has stays when one that had it is gone again.
func (s *Store) fillStream(ctx context.Context, st *store.Stream) error {
	key, at := streamKey(st.Partition), func(int) store.Partition { return st.Partition }
	last := uint64(0)
	for from := 0; from < len(st.Events); from += fillMax {
		es := st.Events[from:min(from+fillMax, len(st.Events))]
		err := s.ask(ctx, len(es), at, func(i int, b rueidis.Builder) rueidis.Completed {
			return b.Xadd().Key(key).Id("0-"+strconv.FormatUint(es[i].Seq, 10)).FieldValue().FieldValue("e", string(es[i].Bytes)).Build()
		}, func(_ int, r rueidis.RedisResult) error { return r.Error() })
		if err != nil {
			return err
		}
		last = es[len(es)-1].Seq
	}
	if st.Last <= last {
		return nil
	}
	have, err := s.Stream(ctx, st.Partition, st.Last, 1)
	if err != nil || have.Last >= st.Last {
		return err
	}
	return s.ask(ctx, 1, at, func(_ int, b rueidis.Builder) rueidis.Completed {
		return b.Eval().Script(lastScript).Numkeys(1).Key(key).Arg("0-" + strconv.FormatUint(st.Last, 10)).Build()
	}, func(_ int, r rueidis.RedisResult) error { return r.Error() })
}

// lastScript has a stream go on behind a number.
//
//	KEYS[1]  stream      ARGV[1]  the last id
const lastScript = `
redis.call('XADD', KEYS[1], ARGV[1], 'e', '')
return redis.call('XDEL', KEYS[1], ARGV[1])
`

var _ store.Portable = (*Store)(nil)
