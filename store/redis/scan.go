package redis

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"

	"rtm/store"
)

// A walk is the cursor of a Scan: SCAN at one master after the other, until each
// partition was at some master from the beginning of its SCAN to the end. A slot
// that moves meanwhile, and a replica that is promoted, have it scanned again.
type walk struct {
	At     string `json:"at"`     // the node that is being scanned
	Cursor uint64 `json:"cursor"` // in it
	Had    bits   `json:"had"`    // the partitions it has had since its scan began
	Done   bits   `json:"done"`   // those that have been walked
}

// bits is a set of partitions.
type bits [store.Partitions / 8]byte

func (b *bits) has(p store.Partition) bool { return b[p/8]&(1<<(p%8)) != 0 }
func (b *bits) add(p store.Partition)      { b[p/8] |= 1 << (p % 8) }
func (b *bits) drop(p store.Partition)     { b[p/8] &^= 1 << (p % 8) }

// MarshalText implements encoding.TextMarshaler.
func (b bits) MarshalText() ([]byte, error) {
	return []byte(base64.StdEncoding.EncodeToString(b[:])), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *bits) UnmarshalText(text []byte) error {
	raw, err := base64.StdEncoding.DecodeString(string(text))
	if err == nil && len(raw) != len(b) {
		err = store.ErrCursor
	}
	copy(b[:], raw)
	return err
}

// Scan implements store.Store.
func (s *Store) Scan(ctx context.Context, cursor []byte, n int) (ks []store.Key, rs []store.Record, next []byte, err error) {
	if s.closed.Load() {
		return nil, nil, nil, store.ErrClosed
	}
	var w walk
	if cursor != nil && json.Unmarshal(cursor, &w) != nil {
		return nil, nil, nil, store.ErrCursor
	}
	t := s.topology.Load()
	nd := t.master(w.At)
	if nd == nil {
		if nd = w.begin(t); nd == nil {
			return nil, nil, nil, errNobody
		}
	}
	page, err := nd.client.Do(ctx, nd.client.B().Scan().Cursor(w.Cursor).Count(int64(max(n, 1))).Type("string").Build()).AsScanEntry()
	if err != nil {
		s.soon()
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
	w.Cursor = page.Cursor
	if next = nil; w.on(s.topology.Load(), nd) {
		next, err = json.Marshal(&w)
	}
	return ks[:kept], rs[:kept], next, err
}

// begin chooses the node of the first partition that was not walked yet.
func (w *walk) begin(t *topology) *node {
	*w = walk{Done: w.Done}
	for p := range store.Partition(store.Partitions) {
		if nd := t.of[p]; nd != nil && !w.Done.has(p) {
			w.At = nd.addr
			for q := range store.Partition(store.Partitions) {
				if t.of[q] == nd {
					w.Had.add(q)
				}
			}
			return nd
		}
	}
	return nil
}

// on notes what nd still has, and whether the walk goes on.
func (w *walk) on(t *topology, nd *node) bool {
	for p := range store.Partition(store.Partitions) {
		if w.Had.has(p) && t.of[p] != nd {
			w.Had.drop(p)
		}
		if w.Cursor == 0 && w.Had.has(p) {
			w.Done.add(p)
		}
	}
	if w.Cursor != 0 {
		return true
	}
	w.At = ""
	return slices.ContainsFunc(all, func(p store.Partition) bool { return !w.Done.has(p) })
}
