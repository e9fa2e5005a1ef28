package rtm

import (
	"testing"

	"rtm/store"
)

// spread is a store whose partitions lie on so many nodes, in turn.
type spread struct {
	store.Store
	of int
}

func (s spread) Node(p store.Partition) (i, of int) { return int(p) % s.of, s.of }

// However many nodes a store has, no lane works on partitions of two of them, as
// long as there are as many lanes; who storms is aside if there are enough of those,
// in no more of them than may be used, or than there are nodes.
func TestLanesHaveOneNode(t *testing.T) {
	for of := 1; of <= Shards; of++ {
		for abreast := 1; abreast <= Asides; abreast++ {
			n := &Instance{Config: Config{Shards: Shards, Store: spread{of: of}}, abreast: abreast}
			lanesOf(t, n, of)
		}
	}
}

func lanesOf(t *testing.T, n *Instance, of int) {
	t.Helper()
	nodes, asides := make(map[int]int), make(map[int]bool)
	for p := range store.Partition(store.Partitions) {
		for _, aside := range []bool{false, true} {
			l := n.lane(p, aside)
			if node, ok := nodes[l]; ok && node != int(p)%of {
				t.Fatalf("of %d nodes, one lane has nodes %d and %d", of, node, int(p)%of)
			}
			nodes[l] = int(p) % of
			for other := range Shards + Asides {
				if node, used := nodes[other]; used && n.has(other, p) != (node == int(p)%of) {
					t.Fatalf("of %d nodes, lane %d, which has node %d, has partition %d: %t", of, other, node, p, n.has(other, p))
				}
			}
		}
		asides[n.lane(p, true)] = true
		if one := n.lane(p, true) == n.lane(p, false); one != (of > Asides) {
			t.Fatalf("of %d nodes, partition %d: who storms has the others' lane: %t", of, p, one)
		}
	}
	if of > Asides {
		return
	}
	if want := max(1, n.abreast/of) * of; len(asides) != want {
		t.Fatalf("of %d nodes, with %d lanes abreast: who storms has %d, not %d", of, n.abreast, len(asides), want)
	}
}
