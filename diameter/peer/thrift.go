package peer

import (
	"runtime"
	"sync"
	"time"
)

const (
	wasteShare = 10                   // one in so many of the processors' seconds may go into what serves nobody
	wasteSaved = time.Millisecond     // what was not spent counts for so long
	wasteTurn  = 2 * time.Millisecond // who took longer for what it had read was not let run
	wasteRest  = time.Second          // nobody is held up for longer at a time
)

// processors is how many there are for this process; more may run later than that.
var processors = time.Duration(runtime.GOMAXPROCS(0))

// A thrift bounds how much time goes into messages that serve nobody: such as cannot
// be used, and such as are turned away. Without it, whoever sends enough of them
// takes all processors, and everybody else's messages wait to be read. What is not
// read stays with its sender, as TCP has it.
type thrift struct {
	mu      sync.Mutex // guards all below
	paid    time.Time  // what was spent is made good by then
	resting int        // so many connections are held up
}

// spend notes that so much went into them until now, and returns for how long
// whoever sent them is not to be read: until all is made good, but not for longer
// than if the others who are held up had spent as much. If it is to rest, rested
// must be called after that.
func (t *thrift) spend(took time.Duration, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	cost := min(took, wasteTurn) * wasteShare / processors
	if saved := now.Add(-wasteSaved); t.paid.Before(saved) {
		t.paid = saved
	}
	if most := now.Add(wasteRest); t.paid.After(most) {
		t.paid = most
	}
	t.paid = t.paid.Add(cost)
	rest := min(t.paid.Sub(now), cost*time.Duration(t.resting+1), wasteRest)
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
