//go:build rtmnext

package charging

import "google.golang.org/protobuf/encoding/protowire"

// Level 2 stands for whatever comes: a field of the account and a sort of entry.
// Only the test that upgrades builds it.
const Level uint32 = 2

// accountVisits is the field of level 2.
const accountVisits protowire.Number = 5001

// Visited is the sort of entry of level 2: a session was opened.
const Visited Sort = 200

// later is what an account keeps above level 1: how many sessions were opened.
type later struct{ visits uint64 }

func (l *later) decode(f *field) bool {
	if f.number != accountVisits {
		return false
	}
	l.visits = f.value
	return true
}

func (l *later) append(b []byte) []byte { return appendUint(b, accountVisits, l.visits) }

// raise adds what level 2 adds to a decision, if the store has that level.
func (d *decision) raise() {
	if max(d.w.Level, d.a.Level) < 2 {
		return
	}
	d.a.Level = 2
	if d.o.Opened {
		d.a.next.visits++
		e := d.entry(Visited, nil)
		e.Request = uint32(d.a.next.visits)
	}
}

func nextSort(s Sort) (name string) {
	if s == Visited {
		return "visited"
	}
	return ""
}
