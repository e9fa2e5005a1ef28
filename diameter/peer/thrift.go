package peer

import (
	"runtime"
	"sync"
	"time"
)

const (
	wasteShare = 10                    // one in so many of the processors' seconds may go into what serves nobody
	wasteSaved = time.Millisecond      // what was not spent counts for so long
	wasteOwn   = 10 * time.Millisecond // … of what one connection may spend
	wasteTurn  = 2 * time.Millisecond  // who took longer for what it had read was not let run
	wasteRest  = time.Second           // nobody is held up for longer at a time
)

// processors is how many there are for this process; more may run later than that.
var processors = time.Duration(runtime.GOMAXPROCS(0))

// A thrift bounds how much time goes into messages that serve nobody: such as cannot
// be used, and such as are turned away. Without it, whoever sends enough of them
// takes all processors, and everybody else's messages wait to be read. What is not
// read stays with its sender, as TCP has it. It counts the time to cut, decode and
// refuse, and holds for some hundred connections: more are not held up for longer.
type thrift struct {
	mu      sync.Mutex // guards all below
	paid    time.Time  // what was spent is made good by then
	resting int        // so many connections are held up
}

// spend notes that so much went into them until now, and returns for how long
// whoever sent them is not to be read: until all is made good, but not for longer
// than if all who are held up had spent as much; own is until when it has spent its
// part of the time. If it is to rest, rested must be called after that.
func (t *thrift) spend(own *time.Time, took time.Duration, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	cost := min(took, wasteTurn) * wasteShare / processors
	owed := func(paid *time.Time, saved, cost time.Duration) time.Duration {
		least, most := now.Add(-saved), now.Add(wasteRest)
		switch {
		case paid.Before(least):
			*paid = least
		case paid.After(most):
			*paid = most
		}
		*paid = paid.Add(cost)
		return paid.Sub(now)
	}
	rest := min(owed(&t.paid, wasteSaved, cost), owed(own, wasteOwn, cost*time.Duration(t.resting+1)), wasteRest)
	if rest > 0 {
		t.resting++
	}
	return rest
}

// rested notes that one of those who were held up is read again.
func (t *thrift) rested() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resting--
}
