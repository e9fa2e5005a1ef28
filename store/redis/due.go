package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"rtm/store"
)

// all is every partition.
var all = func() (ps []store.Partition) {
	for p := range store.Partition(store.Partitions) {
		ps = append(ps, p)
	}
	return ps
}()

// A haul is what one node has that is due.
type haul struct {
	from      *node
	asked     []store.Partition
	ripe      []store.Partition // with something due
	due       []store.Due
	next, now time.Time
	err       error
}

// sooner makes ms, if it is a time, the next wake-up when it is earlier.
func (h *haul) sooner(ms int64) {
	if t := time.UnixMilli(ms).UTC(); ms != 0 && (h.next.IsZero() || t.Before(h.next)) {
		h.next = t
	}
}

// Due implements store.Store. It looks at the first entry of each partition,
// which costs little, and claims only where something is due: two round trips to
// each node, however many partitions that is. A claim is a hint, so it waits for
// no replica. now is the earliest of the nodes' answers, but not before what is
// due. What one node gave is returned also if another failed; partitions that are
// on their way to another node are left for the next time.
func (s *Store) Due(ctx context.Context, ps []store.Partition, n int, lease time.Duration) (due []store.Due, next, now time.Time, err error) {
	if s.closed.Load() {
		return nil, next, now, store.ErrClosed
	}
	if ps == nil {
		ps = all
	}
	t := s.topology.Load()
	hauls := make([]haul, len(t.masters))
	each := func(do func(h *haul)) {
		var wait sync.WaitGroup
		for i := range hauls[1:] {
			wait.Go(func() { do(&hauls[i+1]) })
		}
		do(&hauls[0])
		wait.Wait()
	}
	for i, m := range t.masters {
		hauls[i].from = m
		for _, p := range ps {
			if t.of[p] == m {
				hauls[i].asked = append(hauls[i].asked, p)
			}
		}
	}
	each(func(h *haul) { h.peek(ctx, n) })
	ripe := 0
	for i := range hauls {
		ripe += len(hauls[i].ripe)
	}
	each(func(h *haul) {
		if mine := len(h.ripe); mine > 0 {
			h.claim(ctx, max(n*mine/ripe, 1), lease)
		}
	})
	for i := range hauls {
		h := &hauls[i]
		due = append(due, h.due...)
		if h.err != nil {
			s.soon()
			err = errors.Join(err, h.err)
		}
		if !h.next.IsZero() && (next.IsZero() || h.next.Before(next)) {
			next = h.next
		}
		if !h.now.IsZero() && (now.IsZero() || h.now.Before(now)) {
			now = h.now
		}
	}
	for i := range due { // the node that claimed it read its clock after that
		if w := due[i].Wake; w.After(now) {
			now = w
		}
	}
	return due, next, now, err
}

// peek looks at the earliest score of each partition, and which have come.
func (h *haul) peek(ctx context.Context, n int) {
	b := h.from.client.B()
	cmds := make(rueidis.Commands, 0, len(h.asked)+1)
	for _, p := range h.asked {
		cmds = append(cmds, b.Zrange().Key(indexKey(p)).Min("0").Max("0").Withscores().Build())
	}
	cmds = append(cmds, b.Time().Build())
	answers := h.from.client.DoMulti(ctx, cmds...)
	if h.now, h.err = readTime(answers[len(h.asked)]); h.err != nil {
		return
	}
	h.now = h.from.shown(h.now)
	for i, p := range h.asked {
		zs, err := answers[i].AsZScores()
		if err != nil && !elsewhere(err) {
			h.err = fmt.Errorf("look for due wake-ups: %w", err)
			return
		}
		switch {
		case len(zs) == 0:
		case int64(zs[0].Score) > h.now.UnixMilli() || len(h.ripe) >= n:
			h.sooner(int64(zs[0].Score))
		default:
			h.ripe = append(h.ripe, p)
		}
	}
}

// elsewhere reports whether a node says that it does not have that slot, or not
// all of it.
func elsewhere(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	if !ok {
		return false
	}
	_, moved := e.IsMoved()
	_, ask := e.IsAsk()
	return moved || ask || e.IsTryAgain()
}

// claim takes about n entries, as many of each ripe partition.
func (h *haul) claim(ctx context.Context, n int, lease time.Duration) {
	ps, m := h.ripe[:min(len(h.ripe), n)], h.from
	if len(ps) < len(h.ripe) {
		h.sooner(h.now.UnixMilli()) // the others are for the next time, which is now
	}
	args := []string{strconv.Itoa(n / len(ps)), strconv.FormatInt(lease.Milliseconds(), 10),
		strconv.FormatInt((m.ahead.Load()+int64(time.Millisecond)-1)/int64(time.Millisecond), 10)}
	for _, whole := range []bool{false, true} {
		cmds := make(rueidis.Commands, len(ps))
		for i, p := range ps {
			cmds[i] = call(m.client.B(), whole, dueScript, dueSHA, []string{indexKey(p)}, args)
		}
		var again []store.Partition
		for i, r := range m.client.DoMulti(ctx, cmds...) {
			if e, ok := rueidis.IsRedisErr(r.Error()); ok && e.IsNoScript() && !whole {
				again = append(again, ps[i])
				continue
			}
			due, first, err := claimed(ps[i], r)
			h.due = append(h.due, due...)
			if h.sooner(first); err != nil && !elsewhere(err) {
				h.err = fmt.Errorf("claim due wake-ups: %w", err)
			}
		}
		if ps = again; len(ps) == 0 {
			break
		}
	}
}

// claimed reads the answer of dueScript.
func claimed(p store.Partition, r rueidis.RedisResult) (due []store.Due, left int64, err error) {
	m, err := r.ToArray()
	if err != nil {
		return nil, 0, err
	}
	if len(m) != 2 {
		return nil, 0, errors.New("the script's answer is not understood")
	}
	list, err := m[0].AsStrSlice()
	if err != nil {
		return nil, 0, err
	}
	for i := 0; i+1 < len(list); i += 2 {
		if score, err := strconv.ParseFloat(list[i+1], 64); err == nil && list[i] != "" {
			due = append(due, store.Due{
				Key:  store.Key{Partition: p, Kind: list[i][0], Name: list[i][1:]},
				Wake: time.UnixMilli(int64(score)).UTC(),
			})
		}
	}
	if text, err := m[1].ToString(); err == nil && text != "" {
		if score, err := strconv.ParseFloat(text, 64); err == nil {
			left = int64(score)
		}
	}
	return due, left, nil
}
