package store

import "time"

// A Clock knows the store's time from readings of a monotonic clock, so that
// nobody who sets the machine's date moves it: the offset of the quickest answer
// of the last minute counts, since it says most. It is plain state: elapsed and
// the store's time are told since one common moment.
type Clock struct {
	offset time.Duration
	trip   time.Duration // of the answer that gave offset; zero: none yet
	taken  time.Duration
}

// Now is the store's time when the monotonic clock shows elapsed.
func (c *Clock) Now(elapsed time.Duration) time.Duration { return elapsed + c.offset }

// clockWindow is how long the best measurement counts.
const clockWindow = time.Minute

// clockSlack is how far two clocks of machines that keep time may drift apart
// within clockWindow, generously.
const clockSlack = 100 * time.Millisecond

// Learn takes the store's time from an operation between before and after. What
// cannot be the same clock is that of another node, after a failover: it counts
// at once.
func (c *Clock) Learn(before, after, store time.Duration) {
	trip := after - before
	offset := store - before - trip/2
	same := (offset - c.offset).Abs() <= (trip+c.trip)/2+clockSlack
	if c.trip != 0 && trip > c.trip && after-c.taken < clockWindow && same {
		return
	}
	c.offset, c.trip, c.taken = offset, trip, after
}

// Forget has the next answer count, whatever it says.
func (c *Clock) Forget() { c.trip = 0 }

// Known reports whether anything was learnt.
func (c *Clock) Known() bool { return c.trip != 0 }
