package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Copy is a record on its way into another store, with all that a store keeps
// of it.
type Copy struct {
	Key     Key
	Version Version // zero: there is no such record, or no longer
	Bytes   []byte
	Expire  time.Duration // what is left of it; zero: it stays for ever
	Wake    time.Time     // its wake-up time; zero: none
}

// A Stream is some events of a partition, and where its numbers stand.
type Stream struct {
	Partition Partition
	Events    []Event
	Last      uint64 // the highest Seq that was ever given out; zero: none, or it is not told here
}

// A Part is a piece of what a store holds, with no record twice. Whoever gets it
// must not keep it.
type Part struct {
	Copies  []Copy
	Streams []Stream
}

// Inner is the store that is used at present, if s is one that can be replaced by
// another. Whoever looks for more than the verbs of a Store looks there.
func Inner(s Store) Store {
	if m, ok := s.(interface{ Now() Portable }); ok {
		return m.Now()
	}
	return s
}

// A Portable is a store whose contents can be taken into another one. Both
// backends are; what only decides and tests need not be.
type Portable interface {
	Store

	// Walk calls each with everything the store holds, while it is in use. What
	// comes of one partition is together what that partition was at one moment:
	// its records, their wake-up times, the events that are not trimmed, the
	// numbers of its stream. A record may come again, and its last copy counts.
	// With whole, all partitions are of the same moment, which is at, and no
	// record comes again; else each has its own, not later than at, which is
	// when the walk ended. at is the store's time.
	Walk(ctx context.Context, each func(*Part) error) (at time.Time, whole bool, err error)

	// Copies reads these records, in their order, with what Load leaves out.
	Copies(ctx context.Context, keys []Key) ([]Copy, error)

	// Stream reads at most n events of p after a Seq, and always tells Last.
	Stream(ctx context.Context, p Partition, after uint64, n int) (Stream, error)

	// Fill writes a part over what is there, whatever versions that has. A copy
	// of the zero version deletes. Events must come in order, and a stream's
	// numbers go on behind Last. It is durable with the next SetMark. It is not
	// for a store that somebody else uses.
	Fill(ctx context.Context, p *Part) error

	// Mark reads what SetMark wrote last; empty: nothing was.
	Mark(ctx context.Context) (string, error)

	// SetMark puts a mark in the place of another one, durably, with all that was
	// filled before; a mark says who may open the store (see InService). It may be
	// repeated. ErrMark, if there is neither of the two: nothing was done then.
	// After other errors it may have been.
	SetMark(ctx context.Context, was, mark string) error
}

// ErrMark says that a store has another mark than expected.
var ErrMark = errors.New("its mark has changed: somebody else has begun to fill it, or took it into service")

// Marks. The id names one run of a restore or of a move, and is the same on both
// sides. The first three keep a store out of service.
const (
	filling = "filling" // id: it is being filled
	ready   = "ready"   // id: it holds a verified copy; whether that counts is for the other side's mark to say
	moved   = "moved"   // id, where: what it held is somewhere else
	moving  = "moving"  // id: a store that is ready under that id is a copy of it, and does not count yet
	arrived = "arrived" // id: what it holds came with that move
)

// Filling marks a store that is being filled.
func Filling(id string) string { return filling + " " + id }

// Ready marks a store that holds a verified copy of another one.
func Ready(id string) string { return ready + " " + id }

// Moved marks a store whose contents have gone elsewhere.
func Moved(id, where string) string { return moved + " " + id + " " + where }

// Moving marks a store in service whose copy is about to be ready.
func Moving(id string) string { return moving + " " + id }

// Arrived marks a store in service that another one has moved into.
func Arrived(id string) string { return arrived + " " + id }

// MovedTo is where the contents of a store with that mark went; empty: nowhere.
func MovedTo(mark string) (id, where string) {
	if word, rest, _ := strings.Cut(mark, " "); word == moved {
		id, where, _ = strings.Cut(rest, " ")
	}
	return id, where
}

// MovingAs is the id of a move that was given up, or is under way, in a store
// with that mark; empty: there is none.
func MovingAs(mark string) string {
	if word, id, _ := strings.Cut(mark, " "); word == moving {
		return id
	}
	return ""
}

// IsMark reports whether something is a mark that this program knows.
func IsMark(s string) bool {
	switch word, _, _ := strings.Cut(s, " "); word {
	case filling, ready, moved, moving, arrived:
		return true
	}
	return false
}

// MayEmpty reports whether a store with that mark may be emptied: one that is
// half filled, or ready under that id of a move which the old store says does not
// count (see MovingAs; empty: there is none). Any other copy that is ready may be
// the only truth.
func MayEmpty(mark, old string) bool {
	word, _, _ := strings.Cut(mark, " ")
	return word == filling || old != "" && mark == Ready(old)
}

// ErrNotEmpty refuses to fill a store that holds records.
var ErrNotEmpty = errors.New("it is not empty, and only an empty store can be filled")

// InService says why a server must not use a store with that mark; nil: it may.
func InService(mark string) error {
	word, _, _ := strings.Cut(mark, " ")
	switch word {
	case "", moving, arrived:
		return nil
	case filling:
		return errors.New("it is half filled: a restore or a move into it did not end. Run that again, which begins anew; until then nobody can use this store")
	case ready:
		return errors.New("it holds a whole copy, perhaps the only one, that was not taken into service: the move into it did not end. " +
			"Run rtm migrate --finish DIRECTORY with the old directory: it takes this store into service if the data has moved here, and says so if not")
	case moved:
		_, where := MovedTo(mark)
		return fmt.Errorf("what it held has moved to %s: use --store %s. This directory is out of date, and is kept for you to delete", where, where)
	}
	return fmt.Errorf("it is marked %q, which this program does not know: use the newer program", mark)
}
