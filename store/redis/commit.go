package redis

import (
	"context"
	"crypto/sha1" // names of scripts, as Redis has them
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
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
//	                    ARGV[3]  how far its clock is ahead of the store's, in ms
//	returns  {{member, score, …}, the earliest score that is left or ""}
const dueScript = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000) - ARGV[3]
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now), 'WITHSCORES', 'LIMIT', 0, ARGV[1])
for i = 1, #due, 2 do redis.call('ZADD', KEYS[1], string.format('%d', now + ARGV[2]), due[i]) end
return {due, redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or ''}
`

var (
	commitSHA = sha1Of(commitScript)
	dueSHA    = sha1Of(dueScript)
)

// call builds EVALSHA, or EVAL when the server has forgotten its scripts.
func call(b rueidis.Builder, whole bool, script, sha string, keys, args []string) rueidis.Completed {
	if whole {
		return b.Eval().Script(script).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
	}
	return b.Evalsha().Sha1(sha).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
}

// Bounds of one batch.
const (
	waitBatch    = 64  // commits that one WAIT speaks for
	waitMillis   = 400 // a WAIT gives up after that
	redirectsMax = 5   // times that a commit is sent to where its slot is said to be
)

// A route is where a commit goes, and how.
type route struct {
	to     *node
	asking bool // its slot is on its way there
	whole  bool // with the script itself
}

// Commit implements store.Store: a script call for each commit, all of a node's
// in one write on one connection, with a WAIT behind them if the mode wants one.
func (s *Store) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	rs, routes := make([]store.Result, len(cs)), make([]route, len(cs))
	todo := make([]int, 0, len(cs))
	t := s.topology.Load()
	for i := range cs {
		err := cs[i].Check()
		if s.closed.Load() {
			err = store.ErrClosed
		}
		if err == nil {
			if routes[i].to = t.of[cs[i].Writes[0].Key.Partition]; routes[i].to == nil {
				err = errNobody
			}
		}
		if err != nil {
			rs[i] = store.Result{Outcome: store.Refused, Err: err}
			continue
		}
		todo = append(todo, i)
	}
	var now time.Time
	for tries := 0; len(todo) > 0 && tries <= redirectsMax; tries++ {
		todo = s.send(ctx, cs, todo, routes, rs, &now)
	}
	if now.IsZero() {
		now = s.askTime(ctx)
	}
	return rs, now
}

// errNobody refuses what lies on no node at present.
var errNobody = errors.New("no node of the cluster has this partition at present, or it is not known which of its records have moved")

// send carries out the commits of todo, at all their nodes at once, and returns
// those that have to go elsewhere or need the whole script; until they have, they
// are refused. now becomes the earliest of the nodes' times.
func (s *Store) send(ctx context.Context, cs []store.Commit, todo []int, routes []route, rs []store.Result, now *time.Time) (again []int) {
	groups := byNode(todo, func(i int) *node { return routes[i].to })
	times, agains := make([]time.Time, len(groups)), make([][]int, len(groups))
	if len(groups) == 1 {
		agains[0] = s.sendTo(ctx, cs, groups[0], routes, rs, &times[0])
	} else {
		var all sync.WaitGroup
		for g := range groups {
			all.Go(func() { agains[g] = s.sendTo(ctx, cs, groups[g], routes, rs, &times[g]) })
		}
		all.Wait()
	}
	for g := range groups {
		again = append(again, agains[g]...)
		if t := times[g]; !t.IsZero() && (now.IsZero() || t.Before(*now)) {
			*now = t
		}
	}
	return again
}

// byNode sorts what is to be done by where.
func byNode(todo []int, at func(i int) *node) (groups [][]int) {
	first := at(todo[0])
	if !slices.ContainsFunc(todo, func(i int) bool { return at(i) != first }) {
		return [][]int{todo}
	}
	place := make(map[*node]int)
	for _, i := range todo {
		g, ok := place[at(i)]
		if !ok {
			g = len(groups)
			place[at(i)], groups = g, append(groups, nil)
		}
		groups[g] = append(groups[g], i)
	}
	return groups
}

// sendTo carries out commits at one node.
func (s *Store) sendTo(ctx context.Context, cs []store.Commit, todo []int, routes []route, rs []store.Result, now *time.Time) (again []int) {
	nd := routes[todo[0]].to
	b, need := nd.client.B(), s.need(nd)
	if need >= needUnknown {
		s.soon()
		for _, i := range todo {
			rs[i] = store.Result{Outcome: store.Refused, Err: fmt.Errorf("it is not known yet which replicas %s has", nd.addr)}
		}
		return nil
	}
	cmds := make(rueidis.Commands, 0, len(todo)+3)
	of := make([]int, 0, len(todo)+3) // the commit of each command
	const plain, wait, role = -1, -2, -3
	bare := false // there is a commit that only checks, and no fence stands behind it
	seal := func() {
		if need == 0 {
			return
		}
		if bare {
			cmds, of = append(cmds, b.Set().Key(fenceKey(store.Partition(nd.fence.Load()))).Value("").Build()), append(of, plain)
			bare = false
		}
		cmds, of = append(cmds, b.Arbitrary("WAIT", strconv.Itoa(need), strconv.Itoa(waitMillis)).Blocking(), b.Arbitrary("ROLE").Build()), append(of, wait, role)
	}
	for j, i := range todo {
		if routes[i].asking {
			cmds, of = append(cmds, b.Arbitrary("ASKING").Build()), append(of, plain)
		}
		keys, args := arguments(&cs[i])
		cmds, of = append(cmds, call(b, routes[i].whole, commitScript, commitSHA, keys, args)), append(of, i)
		bare = bare || checksOnly(&cs[i])
		if (j+1)%waitBatch == 0 || j == len(todo)-1 {
			seal()
		}
	}
	sealed, fenced := 0, true // commits before this one are behind a WAIT
	replies := nd.client.DoMulti(ctx, cmds...)
	for j, r := range replies {
		switch i := of[j]; {
		case i == role:
		case i == plain:
			fenced = fenced && r.Error() == nil
		case i == wait:
			s.settle(cs, of[sealed:j], rs, s.waited(nd, need, r, replies[j+1]), fenced)
			sealed, fenced = j+1, true
		default:
			if s.redirected(&routes[i], cs[i].Writes[0].Key.Partition, r.Error()) {
				rs[i] = store.Result{Outcome: store.Refused, Err: r.Error()}
				again = append(again, i)
				continue
			}
			rs[i] = s.result(&cs[i], r, nd, now)
		}
	}
	return again
}

// need is how many replicas a write at nd must have before it is told.
func (s *Store) need(nd *node) int {
	switch s.mode {
	case Single, Fast:
		return 0
	case Safe1:
		return 1
	case Safe:
	}
	return int(nd.need.Load())
}

func checksOnly(c *store.Commit) bool {
	return !slices.ContainsFunc(c.Writes, func(w store.Write) bool { return w.Op != store.Check }) && len(c.Events) == 0
}

// waited reads a WAIT for so many replicas, and the ROLE behind it; nil: all that
// count have what was written before.
func (s *Store) waited(nd *node, need int, wait, role rueidis.RedisResult) error {
	names := nd.names.Load() // before what is needed by now
	need = max(need, s.need(nd))
	have, err := wait.AsInt64()
	if err != nil {
		return err
	}
	if have < int64(need) {
		s.Unproved.Add(1)
		return fmt.Errorf("%d replicas have it, %d must", have, need)
	}
	if s.mode != Safe {
		return nil
	}
	all, err := replicasOf(role)
	if err == nil && (names == nil || !Proves(int(have), need, *names, all)) {
		s.Unproved.Add(1)
		err = errNewcomer
	}
	return err
}

// errNewcomer says that as many replicas have a write as must, and that one of them
// may be one that was not known of, or two of them one: until it is known, which takes
// one look, or its old connection has fallen behind, nothing is told.
var errNewcomer = errors.New("one of the replicas that have it has only just come, or is there under the address of another")

// replicasOf reads what ROLE says of a master's replicas:
//
//	"master", its offset, [[address, port, offset that was acknowledged], …]
func replicasOf(role rueidis.RedisResult) ([]Acked, error) {
	m, err := role.ToArray()
	if err != nil {
		return nil, err
	}
	if len(m) < 3 {
		return nil, errors.New("what ROLE says is not understood")
	}
	if kind, _ := m[0].ToString(); kind != "master" {
		return nil, fmt.Errorf("it is a %s by now", kind)
	}
	list, err := m[2].ToArray()
	if err != nil {
		return nil, err
	}
	all := make([]Acked, 0, len(list))
	for _, r := range list {
		f, err := r.AsStrSlice()
		if err != nil || len(f) < 3 {
			return nil, errors.Join(err, errors.New("what ROLE says is not understood"))
		}
		offset, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil {
			return nil, err
		}
		all = append(all, Acked{net.JoinHostPort(f[0], f[1]), offset})
	}
	return all, nil
}

// settle puts commits in doubt that are done at the master, and not known to be at
// all replicas that count: doubt says why. Without its fence a WAIT says nothing
// about those that only check.
func (s *Store) settle(cs []store.Commit, of []int, rs []store.Result, doubt error, fenced bool) {
	proved := doubt == nil
	if proved && fenced {
		return
	}
	if proved {
		doubt = errors.New("it only checks, and the fence behind it was refused")
	}
	s.soon()
	for _, i := range of {
		if i >= 0 && rs[i].Outcome == store.Done && !(proved && !checksOnly(&cs[i])) {
			rs[i] = store.Result{Outcome: store.InDoubt, Err: doubt}
		}
	}
}

// redirected reports whether a command on p was surely not carried out and goes on
// another way, which is then in w.
func (s *Store) redirected(w *route, p store.Partition, err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	if !ok {
		return false
	}
	if e.IsNoScript() && !w.whole {
		w.whole = true
		return true
	}
	addr, moved := e.IsMoved()
	asked := false
	if !moved {
		addr, asked = e.IsAsk()
	}
	if !moved && !asked {
		return false
	}
	if moved {
		s.soon()
	}
	t := s.topology.Load()
	to := t.master(addr)
	if to == nil || t.of[p] == nil || to == w.to && !asked {
		return false
	}
	w.to, w.asking = to, asked
	return true
}

// master is the master at addr; nil: none that is known.
func (t *topology) master(addr string) *node {
	for _, m := range t.masters {
		if m.addr == addr {
			return m
		}
	}
	return nil
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
var refusals = []string{
	"OOM", "LOADING", "READONLY", "MASTERDOWN", "BUSY", "NOAUTH", "NOPERM", "WRONGPASS", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "NOREPLICAS",
	"MOVED", "ASK", "NOSCRIPT", "CROSSSLOT",
}

// certainly reports whether err tells that nothing was carried out: the server
// said so, or there was no connection to send it on.
func certainly(err error) bool {
	if e, ok := rueidis.IsRedisErr(err); ok {
		return slices.ContainsFunc(refusals, func(p string) bool { return strings.HasPrefix(e.Error(), p) })
	}
	e, ok := errors.AsType[*net.OpError](err)
	return ok && e.Op == "dial"
}

// result reads the script's answer.
func (s *Store) result(c *store.Commit, r rueidis.RedisResult, nd *node, now *time.Time) store.Result {
	if err := r.Error(); err != nil {
		s.soon()
		if certainly(err) {
			return store.Result{Outcome: store.Refused, Err: err}
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
	if t := nd.shown(clockOf(sec, micro)); t.After(*now) {
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
func (s *Store) askTime(ctx context.Context) (now time.Time) {
	if s.closed.Load() {
		return time.Now()
	}
	for _, m := range s.topology.Load().masters {
		if t, err := m.time(ctx); err == nil && (now.IsZero() || t.Before(now)) {
			now = t
		}
	}
	return now
}

// time is the store's time, as nd tells it.
func (nd *node) time(ctx context.Context) (time.Time, error) {
	t, err := readTime(nd.client.Do(ctx, nd.client.B().Time().Build()))
	if err != nil {
		return time.Time{}, err
	}
	return nd.shown(t), nil
}

// readTime reads the answer of TIME: seconds and microseconds.
func readTime(r rueidis.RedisResult) (time.Time, error) {
	t, err := r.AsStrSlice()
	if err == nil && len(t) != 2 {
		err = errors.New("the answer of TIME is not understood")
	}
	if err != nil {
		return time.Time{}, err
	}
	return clockOf(t[0], t[1]), nil
}

func sha1Of(script string) string {
	sum := sha1.Sum([]byte(script))
	return hex.EncodeToString(sum[:])
}
