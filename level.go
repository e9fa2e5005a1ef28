package rtm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"rtm/store"
	"rtm/tenant"
)

// The store has a level, from 1 on. What a later version of rtm adds to records
// and entries belongs to a level; nothing above the store's is written, so
// instances of two versions serve the same sessions until all of them know the
// next. A record that has something of a level names it (charging.Account.Level),
// and whoever does not know that level does not decide on the record.

// levelKey lies beside the list of instances, so that one commit sees both.
var levelKey = store.Key{Partition: presenceKey.Partition, Kind: tenant.KindLevel, Name: "level"}

// levelRecord is the store's level; without a record it is 1.
type levelRecord struct {
	Level uint32    `json:"level"`
	Since time.Time `json:"since"`
	By    string    `json:"by"`
}

// level is what an instance knows of the store's.
type level struct {
	store atomic.Uint32 // the store's
	above chan struct{} // closed when it, or an account, was found to be above what is known here
	once  sync.Once
	told  atomic.Pointer[error]
	ready time.Time // since when all instances know the next; zero: they do not. Only used by attend
}

// Level is the level of the store, as far as is known here: nothing above it is
// written.
func (n *Instance) Level() uint32 { return n.level.store.Load() }

// Outgrown is closed when the instance has found that the store, or an account,
// is above the level that it knows. It then answers 3002 to what is about such
// accounts, fires no timers, and is to take no peers; Fit says why.
func (n *Instance) Outgrown() <-chan struct{} { return n.level.above }

// Fit is nil while this instance may take traffic.
func (n *Instance) Fit() error {
	if err := n.level.told.Load(); err != nil {
		return *err
	}
	return nil
}

// ErrLevel says that a store is of a higher level than an instance knows.
var ErrLevel = errors.New("install the version of rtm that the other instances run (rtm upgrade --help)")

// readLevel learns the store's level. Errors: ErrLevel, the store's.
func (n *Instance) readLevel(ctx context.Context) error {
	at, _, err := loadLevel(ctx, n.Store)
	if err != nil {
		return err
	}
	if at.Level > n.Knows {
		return fmt.Errorf("the store is at level %d, and this version of rtm knows level %d: %w", at.Level, n.Knows, ErrLevel)
	}
	for was := n.Level(); was < at.Level && !n.level.store.CompareAndSwap(was, at.Level); was = n.Level() {
	} // it never falls
	return nil
}

// loadLevel reads the store's level, and the list of instances, as they were at
// one moment, or a little apart.
func loadLevel(ctx context.Context, s store.Store) (at levelRecord, recs []store.Record, err error) {
	if recs, err = s.Load(ctx, []store.Key{levelKey, presenceKey}); err != nil {
		return at, nil, err
	}
	at.Level = 1
	if len(recs[0].Bytes) > 0 {
		if err := json.Unmarshal(recs[0].Bytes, &at); err != nil {
			return at, nil, fmt.Errorf("%s: %w", levelKey, err)
		}
	}
	return at, recs, nil
}

// StoreLevel reads the level of a store, for one who is no instance.
func StoreLevel(ctx context.Context, s store.Store) (uint32, error) {
	at, _, err := loadLevel(ctx, s)
	return at.Level, err
}

// outgrown makes the instance one that takes no traffic, and says why, once.
func (n *Instance) outgrown(err error) {
	n.level.once.Do(func() {
		n.level.told.Store(&err)
		close(n.level.above)
		n.Leaving()
		n.Log.Error("this instance answers 3002 and takes no peers any more", "instance", n.Name, "reason", err)
	})
}

// Levels is how far an upgrade has come.
type Levels struct {
	Level uint32    // the store's
	Since time.Time // when it rose to that; zero: it was made so
	Next  uint32    // what it can rise to now: all live instances know it; Level: nothing
	Old   []string  // live instances that know no more than Level
	Knows map[string]uint32
}

// levels judges a level and a list of instances, as they are at that moment.
func levels(at levelRecord, list []byte, now time.Time) (Levels, error) {
	l := Levels{Level: at.Level, Since: at.Since, Next: at.Level, Knows: make(map[string]uint32)}
	var all []Presence
	if len(list) > 0 {
		if err := json.Unmarshal(list, &all); err != nil {
			return l, fmt.Errorf("%s: %w", presenceKey, err)
		}
	}
	least := uint32(0)
	for i := range all {
		p := &all[i]
		if now.Sub(p.Seen) > presenceStale {
			continue
		}
		knows := max(p.Level, 1)
		l.Knows[p.Name] = knows
		if knows <= at.Level {
			l.Old = append(l.Old, p.Name)
		}
		if least == 0 || knows < least {
			least = knows
		}
	}
	l.Next = max(at.Level, least)
	return l, nil
}

// Levels reads how far an upgrade has come.
func (n *Instance) Levels(ctx context.Context) (Levels, error) {
	at, recs, err := loadLevel(ctx, n.Store)
	if err != nil {
		return Levels{}, err
	}
	return levels(at, recs[1].Bytes, n.Now())
}

// ErrOld says that the store's level cannot rise.
var ErrOld = errors.New("the store's level stays as it is")

// Raise makes the store's level the highest that all live instances know, in one
// commit that proves that the list of instances is still the one that was looked
// at: one that starts meanwhile finds the new level, or is found. It never falls.
// Errors: ErrOld, if some instance knows no more; ErrBusy; the store's.
func (n *Instance) Raise(ctx context.Context) (Levels, error) {
	for range casTries {
		at, recs, err := loadLevel(ctx, n.Store)
		if err != nil {
			return Levels{}, err
		}
		l, err := levels(at, recs[1].Bytes, n.Now())
		if err != nil {
			return l, err
		}
		if l.Next <= l.Level {
			return l, fmt.Errorf("%w, %d: %s know no higher one", ErrOld, l.Level, strings.Join(l.Old, ", "))
		}
		body, err := json.Marshal(levelRecord{Level: l.Next, Since: n.Now(), By: n.Name})
		if err != nil {
			return l, err
		}
		rs, _ := n.Store.Commit(ctx, []store.Commit{{Writes: []store.Write{
			{Op: store.Put, Key: levelKey, Seen: recs[0].Version, New: n.version(), Bytes: body},
			{Op: store.Check, Key: presenceKey, Seen: recs[1].Version},
		}}})
		switch rs[0].Outcome {
		case store.Done:
			l.Level, l.Old = l.Next, nil
			n.Log.Info("the store's level has risen: versions of rtm that do not know it start no more", "level", l.Level)
			return l, n.readLevel(ctx)
		case store.Conflict:
		case store.InDoubt, store.Refused:
			return l, rs[0].Err
		}
	}
	return Levels{}, ErrBusy
}

// settle raises the store's level, if this is the eldest instance and all have
// known a higher one for long enough.
func (n *Instance) settle(ctx context.Context) {
	knows := n.Knows
	for _, p := range n.Instances() {
		knows = min(knows, max(p.Level, 1))
	}
	if knows <= n.Level() || !n.eldest() || n.Settle == 0 || n.Fit() != nil {
		n.level.ready = time.Time{}
		return
	}
	now := n.Now()
	if n.level.ready.IsZero() {
		n.level.ready = now
	}
	if now.Sub(n.level.ready) < n.Settle {
		return
	}
	if _, err := n.Raise(ctx); err != nil && !errors.Is(err, ErrOld) {
		n.Log.Debug("the store's level could not be raised", "error", err)
	}
}
