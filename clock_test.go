package rtm

import (
	"fmt"
	"testing"

	"rtm/store"
)

// Numbers that follow each other are remembered as well as any, and no more than
// may be.
func TestHintsUseAllTheirRoom(t *testing.T) {
	var h hints
	h.init()
	const some = 16 * hintsMax * 7 / 8
	id := func(i int) string { return fmt.Sprintf("imsi:00101%010d", i) }
	for i := range some {
		h.put(id(i), store.Key{Name: id(i)})
	}
	for i := range some {
		if k, ok := h.get(id(i)); !ok || k.Name != id(i) {
			t.Fatalf("%s is forgotten, while seven eighths of what may be are remembered", id(i))
		}
	}
	for i := range 10 * some {
		h.put(id(some+i), store.Key{})
	}
	for i := range h.stripes {
		if n := len(h.stripes[i].of); n > hintsMax {
			t.Errorf("%d in one stripe", n)
		}
	}
}
