// Package redis is the store on a redis-server that several instances share.
// One script carries out a commit; all keys of a partition share a hash tag.
// It does not know what the records mean, and no number of theirs is touched
// by Lua.
package redis

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"rtm/store"
)

// Times of the client.
const (
	dialTimeout  = 200 * time.Millisecond
	writeTimeout = time.Second // of a connection without answers
	openTimeout  = 5 * time.Second
)

// format is the number of the layout of keys and values below.
//
//	{p}kind name    string  version(8) contended(1) bytes
//	{p}!z           zset    kind name → wake in ms
//	{p}!s           stream  0-seq → e: bytes
//	rtm:format      string  format partitions
const format = 1

const (
	header    = 9
	formatKey = "rtm:format"
)

// Config says where the server is.
type Config struct {
	URL string // redis://[user:password@]host:port[/db]
	Log *slog.Logger
}

// A Store is a connection to a server.
type Store struct {
	client rueidis.Client
	facts  store.Facts
	closed atomic.Bool
	log    *slog.Logger
}

// Open connects, and checks what the server promises: version, memory policy,
// role, format. What it refuses, it says how to mend.
func Open(ctx context.Context, c Config) (*Store, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s, r, err := open(ctx, c)
	if err != nil {
		return nil, err
	}
	for _, d := range r.Doubts() {
		s.log.Warn("this redis "+d.Text, "redis", r.Addr, "mend", d.Mend)
	}
	if err := s.claim(ctx); err != nil {
		s.client.Close()
		return nil, fmt.Errorf("redis at %s: %w", r.Addr, err)
	}
	return s, nil
}

// open connects and examines; it writes nothing.
func open(ctx context.Context, c Config) (*Store, *Report, error) {
	opt, err := rueidis.ParseURL(c.URL)
	if err != nil {
		return nil, nil, fmt.Errorf("%s is not redis://HOST:PORT[/DB]: %w", c.URL, err)
	}
	opt.DisableCache, opt.DisableRetry = true, true
	opt.PipelineMultiplex = -1 // one connection: a batch and what follows stay in order
	opt.ConnWriteTimeout, opt.Dialer.Timeout = writeTimeout, dialTimeout
	opt.ForceSingleClient, opt.AlwaysPipelining = true, true
	client, err := rueidis.NewClient(opt)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w (is redis-server running there?)", opt.InitAddress[0], err)
	}
	s := &Store{client: client, log: c.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	r, err := s.examine(ctx, opt.InitAddress[0])
	if err == nil {
		err = r.refuse()
	}
	if err != nil {
		client.Close()
		return nil, r, fmt.Errorf("redis at %s: %w", opt.InitAddress[0], err)
	}
	s.facts = store.Facts{
		Kill: true, Power: r.AOF && r.Fsync == "always", Partitions: store.Partitions, Node: "redis " + r.Addr, Mode: "single",
	}
	return s, r, nil
}

// claim records the format in an empty store and checks it in an old one.
func (s *Store) claim(ctx context.Context) error {
	mine := fmt.Sprintf("%d %d", format, store.Partitions)
	err := s.client.Do(ctx, s.client.B().Set().Key(formatKey).Value(mine).Nx().Build()).Error()
	if err != nil && !rueidis.IsRedisNil(err) {
		return err
	}
	found, err := s.client.Do(ctx, s.client.B().Get().Key(formatKey).Build()).ToString()
	if err != nil {
		return err
	}
	return checkFormat(found)
}

func checkFormat(found string) error {
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
	if s.closed.Load() {
		return nil, store.ErrClosed
	}
	cmds := make(rueidis.Commands, len(keys))
	for i := range keys {
		cmds[i] = s.client.B().Get().Key(recordKey(keys[i])).Build()
	}
	recs := make([]store.Record, len(keys))
	for i, r := range s.client.DoMulti(ctx, cmds...) {
		text, err := r.ToString()
		if rueidis.IsRedisNil(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("load %s: %w", keys[i], err)
		}
		recs[i] = record(text)
	}
	return recs, nil
}

func record(text string) store.Record {
	if len(text) < header {
		return store.Record{}
	}
	return store.Record{Version: store.Version([]byte(text[:8])), Bytes: []byte(text[header:])}
}

// Events implements store.Store.
func (s *Store) Events(ctx context.Context, p store.Partition, after uint64, n int) ([]store.Event, error) {
	if s.closed.Load() {
		return nil, store.ErrClosed
	}
	entries, err := s.client.Do(ctx, s.client.B().Xrange().Key(streamKey(p)).
		Start("(0-"+strconv.FormatUint(after, 10)).End("+").Count(int64(n)).Build()).AsXRange()
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

// Trim implements store.Store. The stream itself stays, and with it its last
// number.
func (s *Store) Trim(ctx context.Context, p store.Partition, upTo uint64) error {
	if s.closed.Load() {
		return store.ErrClosed
	}
	return s.client.Do(ctx, s.client.B().Xtrim().Key(streamKey(p)).Minid().
		Threshold("0-"+strconv.FormatUint(upTo+1, 10)).Build()).Error()
}

// Scan implements store.Store; the cursor is that of SCAN.
func (s *Store) Scan(ctx context.Context, cursor []byte, n int) (ks []store.Key, rs []store.Record, next []byte, err error) {
	if s.closed.Load() {
		return nil, nil, nil, store.ErrClosed
	}
	at := uint64(0)
	if cursor != nil {
		if at, err = strconv.ParseUint(string(cursor), 10, 64); err != nil {
			return nil, nil, nil, store.ErrCursor
		}
	}
	page, err := s.client.Do(ctx, s.client.B().Scan().Cursor(at).Count(int64(max(n, 1))).Type("string").Build()).AsScanEntry()
	if err != nil {
		return nil, nil, nil, err
	}
	for _, e := range page.Elements {
		if k, ok := parseKey(e); ok {
			ks = append(ks, k)
		}
	}
	if rs, err = s.Load(ctx, ks); err != nil {
		return nil, nil, nil, err
	}
	kept := 0
	for i := range ks {
		if rs[i].Version != (store.Version{}) {
			ks[kept], rs[kept] = ks[i], rs[i]
			kept++
		}
	}
	if page.Cursor != 0 {
		next = strconv.AppendUint(nil, page.Cursor, 10)
	}
	return ks[:kept], rs[:kept], next, nil
}

// Facts implements store.Store.
func (s *Store) Facts(ctx context.Context) (store.Facts, error) {
	f := s.facts
	t, err := s.client.Do(ctx, s.client.B().Time().Build()).AsStrSlice()
	if err != nil || len(t) != 2 {
		return f, fmt.Errorf("ask %s for its time: %w", f.Node, err)
	}
	f.Clock = clockOf(t[0], t[1])
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
		s.client.Close()
	}
	return nil
}

var _ store.Store = (*Store)(nil)
