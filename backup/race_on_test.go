//go:build race

package backup

import "time"

// With the race detector Pebble checks its invariants, and reads so slowly that a
// move never catches up with users who write as fast as they can.
const (
	countEvery = 5 * time.Millisecond
	fewer      = 10 // things in a store
)
