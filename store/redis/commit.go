package redis

import (
	"context"
	"crypto/sha1" // names of scripts, as Redis has them
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"rtm/store"
)

// commitScript carries out one commit: all checks first, then all writes.
//
//	KEYS[1..n]      records             KEYS[n+1]  index       KEYS[n+2]  stream
//	ARGV[1]         n                   ARGV[2]    index: "" leave, LT earlier, XX exact, REM remove
//	ARGV[3]         wake in ms          ARGV[4]    the first record's member of the index
//	ARGV[5]         the mark that a refusal leaves, an octet
//	ARGV[4i+2..]    of record i: version seen · "" check, P put, D delete · value · expiry in ms or 0
//	ARGV[4n+6..]    events
//	returns         {1, seconds, micros, contended} | {0, seconds, micros, value 1, value 2, …}
const commitScript = `
local n, same, now = tonumber(ARGV[1]), true, redis.call('TIME')
for i = 1, n do
  if redis.call('GETRANGE', KEYS[i], 0, 7) ~= ARGV[4*i+2] then same = false end
end
if not same then
  local fresh = {0, now[1], now[2]}
  for i = 1, n do fresh[i+3] = redis.call('GET', KEYS[i]) end
  if fresh[4] and string.byte(fresh[4], 9) < string.byte(ARGV[5]) then redis.call('SETRANGE', KEYS[1], 8, ARGV[5]) end
  return fresh
end
local contended = string.byte(redis.call('GETRANGE', KEYS[1], 8, 8)) or 0
for i = 1, n do
  local op = ARGV[4*i+3]
  if op == 'P' then
    if ARGV[4*i+5] == '0' then redis.call('SET', KEYS[i], ARGV[4*i+4])
    else redis.call('SET', KEYS[i], ARGV[4*i+4], 'PX', ARGV[4*i+5]) end
  elseif op == 'D' then redis.call('DEL', KEYS[i]) end
end
local left = contended > string.byte(ARGV[5]) and contended - 1 or 0
if contended > 0 and ARGV[7] ~= 'D' and (left > 0 or ARGV[7] == '') then redis.call('SETRANGE', KEYS[1], 8, string.char(left)) end
if ARGV[2] == 'LT' then redis.call('ZADD', KEYS[n+1], 'LT', ARGV[3], ARGV[4])
elseif ARGV[2] == 'XX' then redis.call('ZADD', KEYS[n+1], ARGV[3], ARGV[4])
elseif ARGV[2] == 'REM' then redis.call('ZREM', KEYS[n+1], ARGV[4]) end
for i = 4*n+6, #ARGV do redis.call('XADD', KEYS[n+2], '0-*', 'e', ARGV[i]) end
return {1, now[1], now[2], contended}
`

// dueScript claims what is due in one partition.
//
//	KEYS[1]  index      ARGV[1]  how many at most      ARGV[2]  lease in ms
//	returns  {{member, score, …}, the earliest score that is left or ""}
const dueScript = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now), 'WITHSCORES', 'LIMIT', 0, ARGV[1])
for i = 1, #due, 2 do redis.call('ZADD', KEYS[1], string.format('%d', now + ARGV[2]), due[i]) end
return {due, redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or ''}
`

var (
	commitSHA = sha1Of(commitScript)
	dueSHA    = sha1Of(dueScript)
)

// call builds EVALSHA, or EVAL when the server has forgotten its scripts.
func (s *Store) call(whole bool, script, sha string, keys, args []string) rueidis.Completed {
	if whole {
		return s.client.B().Eval().Script(script).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
	}
	return s.client.B().Evalsha().Sha1(sha).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
}

// Commit implements store.Store: a script call for each commit, all in one
// write.
func (s *Store) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	rs := make([]store.Result, len(cs))
	now := time.Time{}
	todo := make([]int, 0, len(cs))
	for i := range cs {
		err := cs[i].Check()
		if s.closed.Load() {
			err = store.ErrClosed
		}
		if err != nil {
			rs[i] = store.Result{Outcome: store.Refused, Err: err}
			continue
		}
		todo = append(todo, i)
	}
	todo = s.send(ctx, false, cs, todo, rs, &now)
	if len(todo) > 0 { // the server has forgotten the script: nothing of these ran
		s.send(ctx, true, cs, todo, rs, &now)
	}
	if now.IsZero() {
		now = s.askTime(ctx)
	}
	return rs, now
}

// send carries out the commits of todo and returns those that must be sent
// again with the whole script.
func (s *Store) send(ctx context.Context, whole bool, cs []store.Commit, todo []int, rs []store.Result, now *time.Time) (again []int) {
	if len(todo) == 0 {
		return nil
	}
	cmds := make(rueidis.Commands, len(todo))
	for j, i := range todo {
		keys, args := arguments(&cs[i])
		cmds[j] = s.call(whole, commitScript, commitSHA, keys, args)
	}
	for j, r := range s.client.DoMulti(ctx, cmds...) {
		i := todo[j]
		if e, ok := rueidis.IsRedisErr(r.Error()); ok && e.IsNoScript() && !whole {
			again = append(again, i)
			continue
		}
		rs[i] = s.result(&cs[i], r, now)
	}
	return again
}

// arguments are KEYS and ARGV of commitScript.
func arguments(c *store.Commit) (keys, args []string) {
	n := len(c.Writes)
	p := c.Writes[0].Key.Partition
	keys = make([]string, 0, n+2)
	args = make([]string, 0, 5+4*n+len(c.Events))
	op, wake := "", "0"
	switch {
	case c.Index == store.Earlier && !c.Wake.IsZero():
		op = "LT"
	case c.Index == store.Exact && c.Wake.IsZero():
		op = "REM"
	case c.Index == store.Exact:
		op = "XX"
	}
	if !c.Wake.IsZero() {
		wake = strconv.FormatInt(c.Wake.UnixMilli(), 10)
	}
	args = append(args, strconv.Itoa(n), op, wake, member(c.Writes[0].Key), string([]byte{max(c.Distance, 1)}))
	for i := range c.Writes {
		w := &c.Writes[i]
		keys = append(keys, recordKey(w.Key))
		args = append(args, seen(w.Seen))
		switch w.Op {
		case store.Check:
			args = append(args, "", "", "0")
		case store.Delete:
			args = append(args, "D", "", "0")
		case store.Put:
			args = append(args, "P", value(w), expiry(w.Expire))
		}
	}
	for _, e := range c.Events {
		args = append(args, string(e))
	}
	return append(keys, indexKey(p), streamKey(p)), args
}

// seen is what GETRANGE says of the version's octets: nothing, if missing.
func seen(v store.Version) string {
	if v == (store.Version{}) {
		return ""
	}
	return string(v[:])
}

func value(w *store.Write) string {
	var b strings.Builder
	b.Grow(header + len(w.Bytes))
	b.Write(w.New[:])
	b.WriteByte(0)
	b.Write(w.Bytes)
	return b.String()
}

func expiry(d time.Duration) string {
	if d <= 0 {
		return "0"
	}
	return strconv.FormatInt(d.Milliseconds()+1, 10)
}

// refusals are errors after which surely nothing was carried out.
var refusals = []string{"OOM", "LOADING", "READONLY", "MASTERDOWN", "BUSY", "NOAUTH", "NOPERM", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "NOREPLICAS"}

// result reads the script's answer.
func (s *Store) result(c *store.Commit, r rueidis.RedisResult, now *time.Time) store.Result {
	if err := r.Error(); err != nil {
		if e, ok := rueidis.IsRedisErr(err); ok {
			for _, p := range refusals {
				if strings.HasPrefix(e.Error(), p) {
					return store.Result{Outcome: store.Refused, Err: err}
				}
			}
		}
		return store.Result{Outcome: store.InDoubt, Err: fmt.Errorf("commit %s: %w", c.Writes[0].Key, err)}
	}
	m, err := r.ToArray()
	if err != nil || len(m) < 4 {
		return store.Result{Outcome: store.InDoubt, Err: errors.Join(err, errors.New("the script's answer is not understood"))}
	}
	status, _ := m[0].AsInt64()
	sec, _ := m[1].ToString()
	micro, _ := m[2].ToString()
	if t := clockOf(sec, micro); t.After(*now) {
		*now = t
	}
	if status == 1 {
		contended, _ := m[3].AsInt64()
		return store.Result{Outcome: store.Done, Contended: uint8(contended)}
	}
	fresh := make([]store.Record, len(c.Writes))
	for i := range min(len(fresh), len(m)-3) {
		if text, err := m[i+3].ToString(); err == nil {
			fresh[i] = record(text)
		}
	}
	return store.Result{Outcome: store.Conflict, Fresh: fresh}
}

// askTime is the store's time when no commit brought it; zero: it is not to be had.
func (s *Store) askTime(ctx context.Context) time.Time {
	if s.closed.Load() {
		return time.Now()
	}
	t, err := s.client.Do(ctx, s.client.B().Time().Build()).AsStrSlice()
	if err != nil || len(t) != 2 {
		return time.Time{}
	}
	return clockOf(t[0], t[1])
}

// all is every partition.
var all = func() (ps []store.Partition) {
	for p := range store.Partition(store.Partitions) {
		ps = append(ps, p)
	}
	return ps
}()

// Due implements store.Store. It looks at the first entry of each partition,
// which costs little, and claims only where something is due: two round trips,
// however many partitions that is.
func (s *Store) Due(ctx context.Context, ps []store.Partition, n int, lease time.Duration) (due []store.Due, next, now time.Time, err error) {
	if s.closed.Load() {
		return nil, next, now, store.ErrClosed
	}
	if ps == nil {
		ps = all
	}
	firsts, now, err := s.peek(ctx, ps)
	if err != nil {
		return nil, next, now, err
	}
	sooner := func(ms int64) {
		if t := time.UnixMilli(ms).UTC(); ms != 0 && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	var ripe []store.Partition
	for i, p := range ps {
		if first := firsts[i]; first == 0 || first > now.UnixMilli() || len(ripe) >= n {
			sooner(first)
		} else {
			ripe = append(ripe, p)
		}
	}
	if len(ripe) == 0 {
		return nil, next, now, nil
	}
	due, left, err := s.claimDue(ctx, ripe, n/len(ripe), lease)
	for _, ms := range left {
		sooner(ms)
	}
	return due, next, now, err
}

// peek is the earliest score of each partition, zero where there is none.
func (s *Store) peek(ctx context.Context, ps []store.Partition) (firsts []int64, now time.Time, err error) {
	cmds := make(rueidis.Commands, 0, len(ps)+1)
	for _, p := range ps {
		cmds = append(cmds, s.client.B().Zrange().Key(indexKey(p)).Min("0").Max("0").Withscores().Build())
	}
	cmds = append(cmds, s.client.B().Time().Build())
	answers := s.client.DoMulti(ctx, cmds...)
	firsts = make([]int64, len(ps))
	for i := range ps {
		zs, err := answers[i].AsZScores()
		if err != nil {
			return nil, now, fmt.Errorf("look for due wake-ups: %w", err)
		}
		if len(zs) > 0 {
			firsts[i] = int64(zs[0].Score)
		}
	}
	t, err := answers[len(ps)].AsStrSlice()
	if err != nil || len(t) != 2 {
		return nil, now, fmt.Errorf("look for due wake-ups: %w", err)
	}
	return firsts, clockOf(t[0], t[1]), nil
}

// claimDue claims up to n entries of each partition. left are their earliest
// scores after that, zero where there is none. What was claimed is returned also
// with an error.
func (s *Store) claimDue(ctx context.Context, ps []store.Partition, n int, lease time.Duration) (due []store.Due, left []int64, err error) {
	args := []string{strconv.Itoa(n), strconv.FormatInt(lease.Milliseconds(), 10)}
	for _, whole := range []bool{false, true} {
		cmds := make(rueidis.Commands, len(ps))
		for i, p := range ps {
			cmds[i] = s.call(whole, dueScript, dueSHA, []string{indexKey(p)}, args)
		}
		var again []store.Partition
		for i, r := range s.client.DoMulti(ctx, cmds...) {
			if e, ok := rueidis.IsRedisErr(r.Error()); ok && e.IsNoScript() && !whole {
				again = append(again, ps[i])
				continue
			}
			got, first, failed := claimed(ps[i], r)
			due, left = append(due, got...), append(left, first)
			if failed != nil {
				err = fmt.Errorf("claim due wake-ups: %w", failed)
			}
		}
		if ps = again; len(ps) == 0 {
			break
		}
	}
	return due, left, err
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

func sha1Of(script string) string {
	sum := sha1.Sum([]byte(script))
	return hex.EncodeToString(sum[:])
}
