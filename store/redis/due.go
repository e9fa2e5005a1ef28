package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
// no replica. now is the time of the node whose clock is furthest behind: nothing
// is done too early by it. What one node gave is returned also if another failed;
// partitions that are on their way to another node are left for the next time.
func (s *Store) Due(ctx context.Context, ps []store.Partition, n int, lease time.Duration) (due []store.Due, next, now time.Time, err error) {
	if s.closed.Load() {
		return nil, next, now, store.ErrClosed
	}
	if ps == nil {
		ps = all
	}
	t := s.topology.Load()
	hauls := make([]haul, len(t.masters))
	var wait sync.WaitGroup
	for i, m := range t.masters {
		mine := slices.DeleteFunc(slices.Clone(ps), func(p store.Partition) bool { return t.of[p] != m })
		if len(t.masters) == 1 {
			hauls[i].take(ctx, m, mine, n, lease)
			break
		}
		wait.Go(func() { hauls[i].take(ctx, m, mine, max(n/len(t.masters), 1), lease) })
	}
	wait.Wait()
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
	return due, next, now, err
}

// take claims what is due at one node.
func (h *haul) take(ctx context.Context, m *node, ps []store.Partition, n int, lease time.Duration) {
	if len(ps) == 0 {
		h.now, h.err = m.time(ctx)
		return
	}
	firsts, now, err := m.peek(ctx, ps)
	if h.now, h.err = now, err; err != nil {
		return
	}
	var ripe []store.Partition
	for i, p := range ps {
		if first := firsts[i]; first == 0 || first > now.UnixMilli() || len(ripe) >= n {
			h.sooner(first)
		} else {
			ripe = append(ripe, p)
		}
	}
	if len(ripe) > 0 {
		h.claim(ctx, m, ripe, n/len(ripe), lease)
	}
}

// peek is the earliest score of each partition, zero where there is none.
func (nd *node) peek(ctx context.Context, ps []store.Partition) (firsts []int64, now time.Time, err error) {
	b := nd.client.B()
	cmds := make(rueidis.Commands, 0, len(ps)+1)
	for _, p := range ps {
		cmds = append(cmds, b.Zrange().Key(indexKey(p)).Min("0").Max("0").Withscores().Build())
	}
	cmds = append(cmds, b.Time().Build())
	answers := nd.client.DoMulti(ctx, cmds...)
	firsts = make([]int64, len(ps))
	for i := range ps {
		zs, err := answers[i].AsZScores()
		if elsewhere(err) {
			continue
		}
		if err != nil {
			return nil, now, fmt.Errorf("look for due wake-ups: %w", err)
		}
		if len(zs) > 0 {
			firsts[i] = int64(zs[0].Score)
		}
	}
	if now, err = readTime(answers[len(ps)]); err != nil {
		return nil, now, fmt.Errorf("look for due wake-ups: %w", err)
	}
	return firsts, now, nil
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

// claim takes up to n entries of each partition.
func (h *haul) claim(ctx context.Context, m *node, ps []store.Partition, n int, lease time.Duration) {
	args := []string{strconv.Itoa(n), strconv.FormatInt(lease.Milliseconds(), 10)}
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
