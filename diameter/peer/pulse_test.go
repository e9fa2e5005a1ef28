package peer

import (
	"testing"
	"testing/synctest"
	"time"
)

// What is read just after the process was stopped may have come all that time;
// what is read later, or in a process that always ran, came when it is read.
func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pulse
		p.start()
		defer p.stop()
		<-time.After(5 * time.Second)
		if now := time.Now(); !p.came().Equal(now) {
			t.Errorf("it never stopped: %s", now.Sub(p.came()))
		}
		p.mu.Lock()
		p.last = time.Now().Add(-8 * time.Second) // as if nothing had run since
		p.mu.Unlock()
		froze := time.Now().Add(-8 * time.Second)
		for _, after := range []time.Duration{0, thawing - time.Millisecond} {
			<-time.After(after)
			if at := p.came(); !at.Equal(froze) {
				t.Errorf("%s after it went on: %s later than it was stopped", after, at.Sub(froze))
			}
		}
		<-time.After(thawing)
		if now := time.Now(); !p.came().Equal(now) {
			t.Errorf("long after it went on: %s", now.Sub(p.came()))
		}
	})
}
