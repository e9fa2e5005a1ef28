//go:build !rtmnext

package charging

// Level is the highest store level that this version of rtm knows. What a level
// adds to records and entries is written only by instances on a store of that
// level, and an instance decides on no record above its own. next.go is what the
// level after this one could look like, for the test that upgrades.
const Level uint32 = 1

// later is what an account keeps above level 1: nothing.
type later struct{}

func (*later) decode(*field) bool     { return false }
func (*later) append(b []byte) []byte { return b }
func (*decision) raise()              {}
func nextSort(Sort) (name string)     { return "" }
