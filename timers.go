package rtm

import (
	"slices"
	"time"

	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// Times of the timers. Lateness is at most the lease and one poll.
const (
	TickLease    = 2 * time.Second        // a claimed wake-up comes back after that, unless a commit moved it
	TickPoll     = 500 * time.Millisecond // others may set earlier wake-ups at any time
	TickDeadline = 10 * time.Second
	TicksMax     = 256 // claimed at once
	tickShare    = 4   // of the time that a backlog is worked off, what ticks may have beside traffic: one in so many
	tickRestMax  = time.Second
)

// Timers turn wake-up times that have come into Tick requests. It is stepped
// like a Shard: Claimed takes what store.Due said, and Poll tells when to ask
// again.
type Timers struct {
	poll time.Time
	calm time.Time // since when no poll left anything due; zero: the last one did

	Fired uint64                        // ticks begun
	Late  time.Duration                 // how late they were, all together
	Lates [len(TickLateness) + 1]uint64 // how many were up to each of TickLateness late, and how many later
}

// TickLateness are the bounds by which ticks are told apart.
var TickLateness = [...]time.Duration{
	10 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second,
	10 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute,
}

// Poll is when Due must be asked again.
func (t *Timers) Poll() time.Time { return t.poll }

// Calm is since when no poll left anything that is due; zero: the last one did.
func (t *Timers) Calm() time.Time { return t.calm }

// Failed notes that nobody knows what is due.
func (t *Timers) Failed() { t.calm = time.Time{} }

// Full reports whether a claim was as large as it may be: there may be a backlog.
func Full(due []store.Due) bool { return len(due) >= TicksMax }

// Done notes that the ticks of a full claim have left the loop, after that long.
// While gateways have requests in the loop, the next claim waits three times as
// long: after an outage, when everything is due, traffic goes first.
func (t *Timers) Done(took time.Duration, traffic bool, elapsed time.Time) {
	if traffic {
		t.poll = elapsed.Add(min((tickShare-1)*took, tickRestMax))
	}
}

// Claimed makes a Tick of each due record. next is the earliest wake-up left,
// now the store's time; elapsed is now by the driver's clock, in which Poll and
// deadlines are given.
func (t *Timers) Claimed(due []store.Due, next, now, elapsed time.Time) []*Inbound {
	ticks := make([]*Inbound, 0, len(due))
	for _, d := range due {
		if d.Key.Kind != tenant.KindAccount {
			continue
		}
		t.Fired++
		late := max(now.Sub(d.Wake), 0)
		i, _ := slices.BinarySearch(TickLateness[:], late)
		t.Late += late
		t.Lates[i]++
		ticks = append(ticks, &Inbound{
			Request: charging.Request{Kind: charging.Tick}, Account: d.Key,
			Arrived: elapsed, Deadline: elapsed.Add(TickDeadline),
		})
	}
	wait := TickPoll
	switch behind := Full(due) || !next.IsZero() && !next.After(now); {
	case behind:
		t.calm = time.Time{}
	case t.calm.IsZero():
		t.calm = elapsed
	}
	switch {
	case Full(due):
		wait = 0
	case !next.IsZero():
		wait = min(wait, max(next.Sub(now), time.Millisecond))
	}
	t.poll = elapsed.Add(wait)
	return ticks
}
