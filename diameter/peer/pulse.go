package peer

import (
	"sync"
	"time"
)

const (
	pulseEvery = 100 * time.Millisecond
	frozenMin  = time.Second            // without a beat: the process was stopped, or the whole machine
	thawing    = 500 * time.Millisecond // after that, what had come meanwhile is read
)

// A pulse knows when the process was stopped. What is read when it goes on may
// have come at any moment of that time, and its sender may have given it up.
type pulse struct {
	mu      sync.Mutex // guards all below
	timer   *time.Timer
	last    time.Time // it ran then
	froze   time.Time // the last beat before it was stopped
	thawed  time.Time // and when it went on
	stopped bool
}

// start has it beat until stop.
func (p *pulse) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer == nil && !p.stopped {
		p.last = time.Now()
		p.timer = time.AfterFunc(pulseEvery, p.beat)
	}
}

func (p *pulse) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	if p.timer != nil {
		p.timer.Stop()
	}
}

func (p *pulse) beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note(time.Now())
	if !p.stopped {
		p.timer.Reset(pulseEvery)
	}
}

// note takes down that the process runs now. p.mu is held.
func (p *pulse) note(now time.Time) {
	if now.Sub(p.last) >= frozenMin {
		p.froze, p.thawed = p.last, now
	}
	p.last = now
}

// came is the earliest time at which what is read now may have come.
func (p *pulse) came() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.note(now)
	if now.Sub(p.thawed) < thawing {
		return p.froze
	}
	return now
}
