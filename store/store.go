// Package store keeps records: opaque bytes under a key and a version, with a
// wake-up time and events, in partitions. It promises atomic commits by
// version, durable answers, a time index and event streams. It does not know
// what an account, a session or a cent is, and it decides nothing.
//
// The promises stand at the verbs of [Store]; storetest.Run holds every
// implementation to them, a subtest per promise.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Partitions is how many partitions a store has, fixed when it is created.
// All that one commit touches lies in one of them.
const Partitions = 1024

// Bounds of one commit. Beyond them it is Refused with ErrTooLarge.
const (
	WritesMax      = 64      // records named by one commit
	CommitBytesMax = 256_000 // record bytes and event bytes of one commit together
)

// A Partition is a number below [Partitions].
type Partition uint16

// A Version names one write of one record for ever: eight octets drawn at
// random by whoever writes. The zero Version means: there is no such record.
type Version [8]byte

// A Key names a record. Kind tells the writer's sorts of records apart; the
// store only keeps them apart.
type Key struct {
	Partition Partition
	Kind      byte
	Name      string
}

// String gives the key as a person reads it: partition, kind, name.
func (k Key) String() string { return fmt.Sprintf("{%d}%c%s", k.Partition, k.Kind, k.Name) }

// A Record is what Load finds: bytes and the version that wrote them. A missing
// record has the zero Version and no bytes.
type Record struct {
	Version Version
	Bytes   []byte
}

// An Op is what a Write does with its record.
type Op uint8

// The three things a Write can do. All of them need Seen to hold.
const (
	Check  Op = iota + 1 // Seen must hold, nothing is written
	Put                  // Bytes become the record, under version New
	Delete               // the record goes
)

// A Write names one record of a commit, the version it was seen with, and what
// becomes of it.
type Write struct {
	Op     Op
	Key    Key
	Seen   Version       // zero: the record must be missing
	New    Version       // Put: never zero, never used before
	Bytes  []byte        // Put; the store keeps no reference after Commit returns
	Expire time.Duration // Put; zero: for ever. Else it may vanish after that long, never before
}

// An Index says what a commit does to the wake-up time of its first record.
type Index uint8

// The time index has at most one entry per record.
const (
	Leave   Index = iota // the entry stays as it is
	Earlier              // set to Wake if there is no entry or a later one
	Exact                // set to Wake; a zero Wake removes the entry
)

// A Commit is carried out whole or not at all. All keys lie in one partition.
type Commit struct {
	Writes []Write // 1 to WritesMax, no key twice
	Index  Index
	Wake   time.Time // rounded down to a millisecond
	Events [][]byte  // appended to the partition's stream, in this order

	// Distance is how long this committer needs to come back if it is refused,
	// in the committers' own measure; zero counts as 1. A refusal leaves it as a
	// mark on the first record, unless a larger one is there; a commit that is
	// Done is told the mark, and takes it off if it comes from as far, else
	// lowers it by one.
	Distance uint8
}

// An Outcome is what became of a commit.
type Outcome uint8

// The four outcomes. What a Conflict shows is not proved: until a commit that has
// seen it is Done, a failover or a loss of power may take it back. So it is good for
// deciding again, and for nothing that anybody is told. After InDoubt nobody knows whether the commit took place:
// load again and look for the version.
const (
	Done     Outcome = iota + 1 // all of it is there, and durable
	Conflict                    // nothing is changed: a record had another version
	InDoubt                     // it may be there, or come to be there later
	Refused                     // nothing is changed: busy, full, not master, malformed
)

// String gives the outcome's name.
func (o Outcome) String() string {
	switch o {
	case Done:
		return "done"
	case Conflict:
		return "conflict"
	case InDoubt:
		return "in doubt"
	case Refused:
		return "refused"
	}
	return fmt.Sprintf("Outcome(%d)", uint8(o))
}

// A Result tells what became of one commit.
type Result struct {
	Outcome   Outcome
	Contended uint8    // Done: the mark that refusals left on the first record; zero: nobody waits
	Fresh     []Record // Conflict: the record of each Write, in their order, as they are now
	Err       error    // InDoubt, Refused: the reason, for the operator
}

// A Due is a record whose wake-up time has come.
type Due struct {
	Key  Key
	Wake time.Time
}

// An Event is an entry of a partition's stream. Seq rises within the partition
// and is never used twice.
type Event struct {
	Seq   uint64
	Bytes []byte
}

// Facts is what a store can promise and where it stands.
type Facts struct {
	Kill       bool // what is acknowledged survives kill −9 of any instance
	Power      bool // … and loss of power of the machine that holds it
	Machine    bool // … and loss of that machine
	Partitions int
	Node       string    // who holds the data, for a log line: "embedded DIR", "redis HOST:PORT single"
	Mode       string    // embedded, single, safe, safe-1, fast
	Clock      time.Time // the store's time
}

// ErrTooLarge refuses a commit beyond WritesMax or CommitBytesMax.
var ErrTooLarge = errors.New("commit exceeds 64 records or 256 kB")

// ErrMalformed refuses a commit that names several partitions, a key twice, no
// record at all, or writes the zero Version.
var ErrMalformed = errors.New("commit names several partitions, a key twice, no record or a zero version")

// ErrCursor answers a Scan from a cursor that no Scan of such a store gave.
var ErrCursor = errors.New("no scan of this store gave this cursor")

// ErrClosed answers whoever uses a store after Close.
var ErrClosed = errors.New("store is closed")

// Check reports whether c can be carried out at all: ErrMalformed, ErrTooLarge
// or nil. Every store refuses what fails here, before anything else.
func (c *Commit) Check() error {
	if len(c.Writes) == 0 {
		return ErrMalformed
	}
	if len(c.Writes) > WritesMax {
		return ErrTooLarge
	}
	size := 0
	for i := range c.Writes {
		w := &c.Writes[i]
		size += len(w.Bytes)
		if w.Key.Partition != c.Writes[0].Key.Partition || w.Key.Partition >= Partitions ||
			w.Op < Check || w.Op > Delete || w.Op == Put && w.New == (Version{}) {
			return ErrMalformed
		}
		for j := range i {
			if c.Writes[j].Key == w.Key {
				return ErrMalformed
			}
		}
	}
	for _, e := range c.Events {
		size += len(e)
	}
	if size > CommitBytesMax {
		return ErrTooLarge
	}
	return nil
}

// Left is what a commit that is Done leaves of a mark.
func (c *Commit) Left(mark uint8) uint8 {
	if mark <= max(c.Distance, 1) {
		return 0
	}
	return mark - 1
}

// Placed is a Store on several nodes, of which one may be away while the others
// answer.
type Placed interface {
	// Node is which of how many nodes has that partition at present.
	Node(p Partition) (i, of int)
}

// A Store keeps records. All verbs may be used from several goroutines; a
// context that ends makes a verb return early, with what it then knows.
type Store interface {
	// Load returns the record of each key, in their order, from any
	// partitions; a missing one has the zero Version. What it returns may be
	// committed but not yet durable: whoever answers from it lets a commit of
	// checks prove it.
	Load(ctx context.Context, keys []Key) ([]Record, error)

	// Commit carries out each of cs whole or not at all, independently of its
	// neighbours: if every record it names still has the version seen, all are
	// written, the wake-up time is set and its events are appended. It returns
	// when everything the results speak of, read or written, is as durable as
	// Facts says; now is the store's time.
	Commit(ctx context.Context, cs []Commit) (rs []Result, now time.Time)

	// Due claims at most n records of ps (nil: all partitions) whose wake-up
	// time has come, earliest first within a partition. A claimed entry stays
	// and becomes due again at now + lease, unless a commit sets it otherwise.
	// next is the earliest wake-up time left in ps, zero when there is none.
	Due(ctx context.Context, ps []Partition, n int, lease time.Duration) (due []Due, next, now time.Time, err error)

	// Events returns at most n durable events of p with a Seq above after, in
	// order.
	Events(ctx context.Context, p Partition, after uint64, n int) ([]Event, error)

	// Trim forgets the events of p up to and with upTo. It never makes a Seq
	// return.
	Trim(ctx context.Context, p Partition, upTo uint64) error

	// Scan walks over all records, about n at a time and in any order, from a
	// nil cursor to a nil next. What exists during the whole walk is seen at
	// least once. A cursor that is none is ErrCursor.
	Scan(ctx context.Context, cursor []byte, n int) (ks []Key, rs []Record, next []byte, err error)

	// Facts tells what the store promises, and its time.
	Facts(ctx context.Context) (Facts, error)

	// Close ends the store. Commits that run are Done or InDoubt.
	Close() error
}
