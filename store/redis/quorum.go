package redis

import (
	"cmp"
	"maps"
	"slices"
)

// A Replica is what one watcher says of a replica: a Sentinel, or a node of a
// Cluster. Down is s_down at a Sentinel, FAIL in a Cluster.
type Replica struct {
	Addr string
	Down bool
}

// A Quorum knows how many replicas of one master must have a write before it is
// safe: with fewer, a failover could promote one that does not have it. It is
// plain state: whoever watches tells it, whoever writes asks it.
//
// What counts is every replica that could be promoted, and every one that
// acknowledges, also if it is configured never to be promoted, since WAIT tells how
// many have a write and not which.
type Quorum struct {
	counted map[string]bool // nil: nothing was heard yet
	need    int
}

// Hear takes what was heard of a master's replicas at one time: a list from each
// of the watchers that answered, and the replicas that the master itself says
// are in step with it. watchers is how many there are, those that do not answer
// included.
//
// At first all count that not a majority calls down. From then on one is added
// as soon as it is in step, which is before it could be preferred to those that
// are; it is taken off only if a majority of all watchers calls it down or does
// not know it, and the master has lost it too. So a watcher that is cut off, or
// a master that is, never lowers what is needed.
func (q *Quorum) Hear(watchers int, heard [][]Replica, attached []string) {
	down, named := make(map[string]int), make(map[string]bool)
	for _, list := range heard {
		up := make(map[string]bool, len(list))
		for _, r := range list {
			named[r.Addr] = true
			up[r.Addr] = !r.Down
		}
		for addr := range q.counted {
			if !up[addr] {
				down[addr]++
			}
		}
		if q.counted == nil {
			for _, r := range list {
				if r.Down {
					down[r.Addr]++
				}
			}
		}
	}
	counts := make(map[string]bool, len(q.counted))
	before := q.counted
	if before == nil {
		before = named
	}
	for addr := range before {
		if 2*down[addr] <= watchers {
			counts[addr] = true
		}
	}
	for _, addr := range attached {
		counts[addr] = true
	}
	q.counted, q.need = counts, max(len(counts), 1)
}

// Meet takes the replicas that the master says are in step with it, while nobody
// else is heard.
func (q *Quorum) Meet(attached []string) {
	if q.counted != nil {
		q.Hear(0, nil, attached)
	}
}

// Need is how many replicas must have a write: never less than one. Before
// anything was heard it is more than any master has.
func (q *Quorum) Need() int {
	if q.counted == nil {
		return needUnknown
	}
	return q.need
}

// Names are the replicas that count, in a map of the caller's; empty: nothing was
// heard yet.
func (q *Quorum) Names() map[string]bool {
	names := make(map[string]bool, len(q.counted))
	maps.Copy(names, q.counted)
	return names
}

// An Acked is how far a replica that a master has got has acknowledged.
type Acked struct {
	Addr   string
	Offset int64
}

// Proves reports whether a WAIT that found so many replicas to have a write speaks
// for all of names, of which need must: it does not say which they are, and one may
// have come since names were heard. all is what the master, asked behind it, has
// got: those that have the write are at least as far as the one in that place, so
// whoever is that far and has no name may stand for one that has. So may who is there
// twice: of a replica that came back the master may still have the old connection,
// and WAIT counts both.
func Proves(have, need int, names map[string]bool, all []Acked) bool {
	if have < max(need, 1) || have > len(all) {
		return false
	}
	slices.SortFunc(all, func(a, b Acked) int { return cmp.Compare(b.Offset, a.Offset) })
	for i, a := range all {
		again := slices.ContainsFunc(all[:i], func(b Acked) bool { return b.Addr == a.Addr })
		if a.Offset >= all[have-1].Offset && (again || !names[a.Addr]) {
			need++
		}
	}
	return have >= need
}

// needUnknown is more replicas than WAIT will ever count.
const needUnknown = 1 << 20

// Inherit is the quorum of the replica at addr of this one's master, once it is
// promoted: the others that count go on counting, and the old master does from
// when it is in step.
func (q *Quorum) Inherit(addr string) *Quorum {
	if q == nil || q.counted == nil {
		return &Quorum{}
	}
	heir := &Quorum{counted: make(map[string]bool, len(q.counted))}
	for a := range q.counted {
		if a != addr {
			heir.counted[a] = true
		}
	}
	heir.need = max(len(heir.counted), 1)
	return heir
}
