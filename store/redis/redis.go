// Package redis is the store on a redis-server that several instances share.
// One script carries out a commit; all keys of a partition share a hash tag.
// It does not know what the records mean, and no number of theirs is touched
// by Lua.
package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"rtm/store"
)

// Times of the client.
const (
	dialTimeout  = 500 * time.Millisecond // a machine that is busy needs more than a network
	writeTimeout = time.Second            // of a connection without answers
	openTimeout  = 5 * time.Second
	puzzledMax   = 4 // looks to open with: after them a follower that is not known is waited for beside the replicas
)

// format is the number of the layout of keys and values below.
//
//	{p}kind name    string  version(8) contended(1) bytes
//	{p}!z           zset    kind name → wake in ms
//	{p}!s           stream  0-seq → e: bytes
//	{p}!f           string  empty: written so that a WAIT behind it speaks for what was read before
//	rtm:format      string  format partitions; in a cluster {p}!rtm:format, one at each master
const format = 1

const (
	header    = 9
	formatKey = "rtm:format"
)

// Config says where the store is and what an answer waits for.
type Config struct {
	URL  string // see Forms
	Mode Mode   // empty: what the URL says, or else Single for one server and Safe for several
	Log  *slog.Logger
}

// A Store is the connections to the servers that hold it.
type Store struct {
	place     place
	mode      Mode
	nodes     nodes
	sentinels nodes
	topology  atomic.Pointer[topology]
	report    atomic.Pointer[Report]
	closed    atomic.Bool
	log       *slog.Logger
	full      atomic.Int64            // percent of maxmemory
	blind     atomic.Bool             // nobody says who is master
	epoch     int64                   // of Sentinels: the newest that was believed; only the watch uses it
	epochs    [store.Partitions]int64 // of a Cluster, likewise: in which each partition's owner was believed
	tearing   []int                   // slots that were torn at the last look, likewise
	tearTold  bool                    // … and that was logged
	aliases   map[string]string       // ids of a Cluster's replicas, by what their masters call them if that is not their address, likewise
	guests    map[string]int64        // who may be such a replica, and how far each was at the last look, likewise
	puzzled   bool                    // some follower was none that is known at the last look, likewise
	base      time.Time               // when it was opened: clocks are compared by the monotonic time since
	hurry     chan struct{}           // the watch is to look at once
	end       context.CancelFunc      // of the watch
	fills     *fills                  // it is being filled; only whoever does that uses it
	done      sync.WaitGroup

	Failovers atomic.Int64 // times that other masters took over
	Unproved  atomic.Int64 // batches that too few replicas acknowledged in time
}

// Open connects, and checks what the servers promise: version, roles, replicas,
// memory policy, the settings that the mode needs, format. What it refuses, it
// says how to mend.
func Open(ctx context.Context, c Config) (*Store, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s, r, err := open(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := r.unguarded(); err != nil && !s.place.strange {
		s.Close()
		return nil, fmt.Errorf("redis at %s: %w", r.Where, err)
	}
	for _, d := range r.Doubts() {
		s.log.Warn(d.Who+" "+d.Text, "redis", r.Where, "mend", d.Mend)
	}
	if err := s.claim(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("redis at %s: %w", r.Where, err)
	}
	return s, nil
}

// open connects, examines and refuses; it writes nothing.
func open(ctx context.Context, c Config) (*Store, *Report, error) {
	s, r, err := connect(ctx, c)
	if err == nil {
		err = r.Refuses(s.mode)
	}
	if err != nil {
		if s != nil {
			s.shut()
			err = fmt.Errorf("redis at %s: %w", s.place.where(), err)
		}
		return nil, r, err
	}
	s.report.Store(r)
	ctx, s.end = context.WithCancel(context.WithoutCancel(ctx))
	s.done.Add(1)
	go s.watch(ctx)
	return s, r, nil
}

// connect finds the masters and looks at all servers.
func connect(ctx context.Context, c Config) (*Store, *Report, error) {
	p, mode, err := parse(c.URL)
	if err != nil {
		return nil, nil, err
	}
	if c.Mode != "" {
		mode = c.Mode
	}
	if mode, err = p.choose(mode); err != nil {
		return nil, nil, err
	}
	s := &Store{place: p, mode: mode, log: c.Log, hurry: make(chan struct{}, 1), aliases: make(map[string]string), base: time.Now()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.nodes = nodes{of: make(map[string]*node), opt: func(a string) rueidis.ClientOption { return p.options(a, p.user, p.password, p.db) }}
	s.sentinels = nodes{of: make(map[string]*node), opt: func(a string) rueidis.ClientOption {
		return p.options(a, p.sentinel.user, p.sentinel.password, 0)
	}}
	first := &s.nodes
	if p.kind == bySentinel {
		first = &s.sentinels
	}
	for _, a := range p.addrs {
		if first.at(a) == nil {
			return nil, nil, fmt.Errorf("no connection to %s can be made with these settings", a)
		}
	}
	r, err := s.ready(ctx)
	return s, r, err
}

// where is the place without secrets.
func (p *place) where() string {
	at := strings.Join(p.addrs, ",")
	if p.kind == bySentinel {
		return at + "/" + p.master
	}
	return at
}

// ready looks until each master and its replicas are known, and then at their
// settings.
func (s *Store) ready(ctx context.Context) (*Report, error) {
	for looks := 1; ; looks++ {
		err := s.look(ctx)
		t := s.topology.Load()
		if err == nil && t != nil && (!s.puzzled || looks > puzzledMax) && !slices.ContainsFunc(t.masters, func(m *node) bool { return s.need(m) >= needUnknown }) {
			if err = s.unproved(ctx, t); err == nil {
				break
			}
		}
		if err != nil && hopeless(err) {
			return nil, err
		}
		if s.place.kind == alone {
			break
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("within %s not all masters and their replicas were found: %w", openTimeout, cmp.Or(err, errNobody))
		case <-time.After(watchEvery / 4):
		}
	}
	r, err := s.examine(ctx)
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return r, fmt.Errorf("%w (is redis-server running there?)", e)
	}
	return r, err
}

// unproved is why nothing could be proved at one of the masters, if that is not
// only for the moment: a replica that acknowledges is not known of yet, or the user
// may not do what that takes.
func (s *Store) unproved(ctx context.Context, t *topology) error {
	if s.mode != Safe {
		return nil
	}
	for _, m := range t.masters {
		err := s.prove(ctx, m)
		if errors.Is(err, errNewcomer) || err != nil && strings.HasPrefix(err.Error(), "NOPERM") {
			return err
		}
	}
	return nil
}

// hopeless reports whether asking again will not help.
func hopeless(err error) bool {
	text := err.Error()
	return strings.Contains(text, "No such master") || strings.Contains(text, "cluster support disabled") ||
		strings.Contains(text, "NOAUTH") || strings.Contains(text, "WRONGPASS") || strings.Contains(text, "NOPERM")
}

// claim records the format in an empty store and checks it in an old one.
func (s *Store) claim(ctx context.Context) error {
	mine := fmt.Sprintf("%d %d", format, store.Partitions)
	for _, m := range s.topology.Load().masters {
		key := s.formatKey(m)
		err := m.client.Do(ctx, m.client.B().Set().Key(key).Value(mine).Nx().Build()).Error()
		if err != nil && !rueidis.IsRedisNil(err) {
			return err
		}
		found, err := m.client.Do(ctx, m.client.B().Get().Key(key).Build()).ToString()
		if err != nil {
			return err
		}
		if err := checkFormat(found); err != nil {
			return err
		}
	}
	return nil
}

// formatKey is where the format stands at m. In a cluster each node has it, in
// the slot of one of its own partitions.
func (s *Store) formatKey(m *node) string {
	if s.place.kind != byCluster {
		return formatKey
	}
	t := s.topology.Load()
	for p := range store.Partition(store.Partitions) {
		if t.of[p] == m {
			return "{" + strconv.Itoa(int(p)) + "}!" + formatKey
		}
	}
	return formatKey
}

func checkFormat(found string) error {
	if store.IsMark(found) {
		return store.InService(found)
	}
	var n, partitions int
	if _, err := fmt.Sscanf(found, "%d %d", &n, &partitions); err != nil {
		return fmt.Errorf("its %s is %q: this is not rtm's database", formatKey, found)
	}
	if n > format {
		return fmt.Errorf("it has format %d, this program knows %d: use the newer program", n, format)
	}
	if partitions != store.Partitions {
		return fmt.Errorf("it has %d partitions, this program %d", partitions, store.Partitions)
	}
	return nil
}

// Keys are built here and nowhere else.

func recordKey(k store.Key) string {
	b := make([]byte, 0, 8+len(k.Name))
	b = append(strconv.AppendUint(append(b, '{'), uint64(k.Partition), 10), '}', k.Kind)
	return string(append(b, k.Name...))
}

func indexKey(p store.Partition) string  { return "{" + strconv.Itoa(int(p)) + "}!z" }
func streamKey(p store.Partition) string { return "{" + strconv.Itoa(int(p)) + "}!s" }
func fenceKey(p store.Partition) string  { return "{" + strconv.Itoa(int(p)) + "}!f" }

// member is a record in its partition's index.
func member(k store.Key) string { return string(k.Kind) + k.Name }

// parseKey is the inverse of recordKey; false: it is no record's.
func parseKey(s string) (k store.Key, ok bool) {
	end := strings.IndexByte(s, '}')
	if end < 2 || s[0] != '{' || len(s) < end+2 || s[end+1] == '!' {
		return k, false
	}
	p, err := strconv.ParseUint(s[1:end], 10, 16)
	if err != nil || p >= store.Partitions {
		return k, false
	}
	return store.Key{Partition: store.Partition(p), Kind: s[end+1], Name: s[end+2:]}, true
}

// Load implements store.Store.
func (s *Store) Load(ctx context.Context, keys []store.Key) ([]store.Record, error) {
	recs := make([]store.Record, len(keys))
	err := s.ask(ctx, len(keys), func(i int) store.Partition { return keys[i].Partition },
		func(i int, b rueidis.Builder) rueidis.Completed { return b.Get().Key(recordKey(keys[i])).Build() },
		func(i int, r rueidis.RedisResult) error {
			text, err := r.ToString()
			if err == nil {
				recs[i] = record(text)
			} else if !rueidis.IsRedisNil(err) {
				return fmt.Errorf("load %s: %w", keys[i], err)
			}
			return nil
		})
	if err != nil {
		return nil, err
	}
	return recs, nil
}

// ask sends n commands that may be repeated to the masters of their partitions,
// all of a node's at once, follows those whose slot has moved, and gives each
// answer to told. The first error ends it.
func (s *Store) ask(ctx context.Context, n int, at func(i int) store.Partition,
	build func(i int, b rueidis.Builder) rueidis.Completed, told func(i int, r rueidis.RedisResult) error) error {
	if s.closed.Load() {
		return store.ErrClosed
	}
	t := s.topology.Load()
	routes, todo := make([]route, n), make([]int, n)
	for i := range n {
		if routes[i].to, todo[i] = t.of[at(i)], i; routes[i].to == nil {
			return errNobody
		}
	}
	var failed error
	var mu sync.Mutex // guards failed and again
	for tries := 0; len(todo) > 0; tries++ {
		var again []int
		carry := func(group []int) {
			nd := routes[group[0]].to
			b := nd.client.B()
			cmds := make(rueidis.Commands, 0, len(group))
			for _, i := range group {
				if routes[i].asking {
					cmds = append(cmds, b.Arbitrary("ASKING").Build())
				}
				cmds = append(cmds, build(i, b))
			}
			answers := nd.client.DoMulti(ctx, cmds...)
			for _, i := range group {
				if routes[i].asking {
					answers = answers[1:]
				}
				r := answers[0]
				answers = answers[1:]
				if tries < redirectsMax && s.redirected(&routes[i], at(i), r.Error()) {
					mu.Lock()
					again = append(again, i)
					mu.Unlock()
					continue
				}
				if err := told(i, r); err != nil {
					s.soon()
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
			}
		}
		groups := byNode(todo, func(i int) *node { return routes[i].to })
		if len(groups) == 1 {
			carry(groups[0])
		} else {
			var wait sync.WaitGroup
			for _, g := range groups {
				wait.Go(func() { carry(g) })
			}
			wait.Wait()
		}
		if failed != nil {
			return failed
		}
		todo = again
	}
	return nil
}

// Node implements store.Placed. What no node has is on one more, which never answers.
func (s *Store) Node(p store.Partition) (i, of int) {
	t := s.topology.Load()
	if of = len(t.masters); t.orphans {
		of++
	}
	if i = slices.Index(t.masters, t.of[p]); i < 0 {
		i = of - 1
	}
	return i, of
}

func record(text string) store.Record {
	if len(text) < header {
		return store.Record{}
	}
	return store.Record{Version: store.Version([]byte(text[:8])), Bytes: []byte(text[header:])}
}

// Events implements store.Store. Where answers wait for replicas, what is read
// is told only when they have it too: an event that a failover takes back must
// not be in a record file.
func (s *Store) Events(ctx context.Context, p store.Partition, after uint64, n int) (events []store.Event, err error) {
	if s.closed.Load() {
		return nil, store.ErrClosed
	}
	nd := s.topology.Load().of[p]
	if nd == nil {
		return nil, errNobody
	}
	events, err = readEvents(p, nd.client.Do(ctx,
		nd.client.B().Xrange().Key(streamKey(p)).Start("(0-"+strconv.FormatUint(after, 10)).End("+").Count(int64(n)).Build()))
	if err != nil { // of a stream that has gone elsewhere too: what one reads, another cannot prove
		s.soon()
		return nil, err
	}
	if len(events) == 0 {
		return events, nil
	}
	if err := s.prove(ctx, nd); err != nil {
		return nil, err
	}
	if s.topology.Load().of[p] != nd {
		return nil, fmt.Errorf("partition %d has another master since its events were read", p)
	}
	return events, nil
}

func readEvents(p store.Partition, r rueidis.RedisResult) ([]store.Event, error) {
	entries, err := r.AsXRange()
	if err != nil {
		return nil, fmt.Errorf("read events of partition %d: %w", p, err)
	}
	events := make([]store.Event, 0, len(entries))
	for _, e := range entries {
		seq, err := strconv.ParseUint(strings.TrimPrefix(e.ID, "0-"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("event %s of partition %d was not written by rtm", e.ID, p)
		}
		events = append(events, store.Event{Seq: seq, Bytes: []byte(e.FieldValues["e"])})
	}
	return events, nil
}

// prove returns when all that was written to nd before is as durable as the mode
// says.
func (s *Store) prove(ctx context.Context, nd *node) error {
	need := s.need(nd)
	if need == 0 {
		return nil
	}
	if need >= needUnknown {
		s.soon()
		return fmt.Errorf("it is not known yet which replicas %s has", nd.addr)
	}
	b := nd.client.B()
	rs := nd.client.DoMulti(ctx, b.Set().Key(fenceKey(store.Partition(nd.fence.Load()))).Value("").Build(),
		b.Arbitrary("WAIT", strconv.Itoa(need), strconv.Itoa(waitMillis)).Blocking(), b.Arbitrary("ROLE").Build())
	if err := rs[0].Error(); err != nil {
		return err
	}
	return s.waited(nd, need, rs[1], rs[2])
}

// Trim implements store.Store. The stream itself stays, and with it its last
// number.
func (s *Store) Trim(ctx context.Context, p store.Partition, upTo uint64) error {
	return s.ask(ctx, 1, func(int) store.Partition { return p },
		func(_ int, b rueidis.Builder) rueidis.Completed {
			return b.Xtrim().Key(streamKey(p)).Minid().Threshold("0-" + strconv.FormatUint(upTo+1, 10)).Build()
		},
		func(_ int, r rueidis.RedisResult) error { return r.Error() })
}

// Masters tells, by address, how many replicas of each master must have a write
// before it is told.
func (s *Store) Masters() map[string]int {
	of := make(map[string]int)
	for _, m := range s.topology.Load().masters {
		of[m.addr] = s.need(m)
	}
	return of
}

// Facts implements store.Store.
func (s *Store) Facts(ctx context.Context) (store.Facts, error) {
	r := s.report.Load()
	replicated := s.mode == Safe || s.mode == Safe1
	f := store.Facts{
		Kill: true, Power: replicated || s.mode == Single && r.Nodes[0].AOF && r.Nodes[0].Fsync == "always", Machine: replicated,
		Partitions: store.Partitions, Node: string(s.place.kind) + " " + s.place.where(), Mode: string(s.mode),
	}
	if s.closed.Load() {
		return f, store.ErrClosed
	}
	var err error
	for _, m := range s.topology.Load().masters {
		t, failed := m.time(ctx)
		if failed != nil {
			err = fmt.Errorf("ask %s for its time: %w", m.addr, failed)
		} else if f.Clock.IsZero() || t.Before(f.Clock) {
			f.Clock = t
		}
	}
	if err != nil {
		s.soon()
	}
	if f.Clock.IsZero() {
		return f, errors.Join(err, errNobody)
	}
	return f, nil
}

// clockOf is the answer of TIME: seconds and microseconds.
func clockOf(sec, micro string) time.Time {
	a, _ := strconv.ParseInt(sec, 10, 64)
	b, _ := strconv.ParseInt(micro, 10, 64)
	return time.Unix(a, b*1000).UTC()
}

// Close implements store.Store.
func (s *Store) Close() error {
	if !s.closed.Swap(true) {
		s.end()
		s.done.Wait()
		s.shut()
	}
	return nil
}

// shut closes all connections.
func (s *Store) shut() {
	s.nodes.keep(nil)
	s.sentinels.keep(nil)
	s.nodes.done.Wait()
	s.sentinels.done.Wait()
}

var _ interface {
	store.Store
	store.Placed
} = (*Store)(nil)
