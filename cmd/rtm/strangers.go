package main

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"rtm/api"
)

// What strangers do is told in the log only so often.
const (
	strangersMax = 10_000           // of each sort are remembered; then that begins anew
	tellRate     = 10               // lines a second of each sort
	tellMax      = 64               // lines wait to be written
	tellEvery    = 10 * time.Second // … what was left out is counted
)

// A sort is what a line is about that others cause, and may cause very often.
type sort uint8

const (
	aboutPeer sort = iota
	aboutOrigin
	aboutTLS
	aboutSubscriber
	aboutClosed
	aboutPanic
	aboutClock
	sorts
)

var sortNames = [sorts]string{"peer", "origin", "tls", "subscriber", "closed", "panic", "clock"}

// String is its name in metrics.
func (s sort) String() string { return sortNames[s] }

// strangers remembers whom the log has named already, and bounds how often it
// names another. Lines are written by the goroutine of door.tell: who causes one does
// not wait for it.
type strangers struct {
	lines chan remark
	mu    sync.Mutex // guards about
	about [sorts]struct {
		seen   map[string]bool
		second time.Time // when the second began
		told   int       // … in which so many lines were written
		left   int64     // lines that were left out, ever
		owned  int64     // … of these, those that were told of
	}
}

// A remark is a line.
type remark struct {
	level slog.Level
	text  string
	args  []any
}

// first reports whether a line about who is to be written: it was not written
// before, and not too many were in this second. Nobody is remembered as "".
func (s *strangers) first(about sort, who string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &s.about[about]
	if a.seen[who] {
		return false
	}
	if since := now.Sub(a.second); since >= time.Second || since < 0 {
		a.second, a.told = now, 0
	}
	if a.told >= tellRate {
		a.left++
		return false
	}
	a.told++
	if who == "" {
		return true
	}
	if a.seen == nil || len(a.seen) >= strangersMax {
		a.seen = make(map[string]bool)
	}
	a.seen[who] = true
	return true
}

// tell has a line written; if too many wait for the log, it is left out.
func (s *strangers) tell(about sort, level slog.Level, text string, args ...any) {
	select {
	case s.lines <- remark{level, text, args}:
	default:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.about[about].left++
	}
}

// omitted is how many lines of a sort were left out.
func (s *strangers) omitted(about sort) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.about[about].left
}

// tell writes the lines until ctx ends, and now and then how many were left out.
func (d *door) tell(ctx context.Context) {
	t := time.NewTicker(tellEvery)
	defer t.Stop()
	for {
		select {
		case l := <-d.strange.lines:
			d.log.Log(ctx, l.level, l.text, l.args...)
			continue
		case <-t.C:
		case <-ctx.Done():
		}
		for len(d.strange.lines) > 0 && ctx.Err() != nil {
			l := <-d.strange.lines
			d.log.Log(ctx, l.level, l.text, l.args...)
		}
		d.recount()
		if ctx.Err() != nil {
			return
		}
	}
}

// recount tells how many lines were left out since it did so last.
func (d *door) recount() {
	for about := range sorts {
		d.strange.mu.Lock()
		a := &d.strange.about[about]
		n := a.left - a.owned
		a.owned = a.left
		d.strange.mu.Unlock()
		if n > 0 {
			d.log.Warn("so many lines like these were left out", "about", about, "lines", n)
		}
	}
}

// refusalsMax bounds the connections that were not let in and are remembered.
const refusalsMax = 64

// refusals are who was not let in of late, each once.
type refusals struct {
	mu  sync.Mutex // guards all
	all []api.Refusal
}

func (r *refusals) note(n api.Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = slices.DeleteFunc(r.all, func(o api.Refusal) bool { return o.Host == n.Host && o.Realm == n.Realm && o.Address == n.Address })
	if len(r.all) == refusalsMax {
		r.all = r.all[:refusalsMax-1]
	}
	n.At = time.Now()
	r.all = slices.Insert(r.all, 0, n)
}

// refusedBy lists whom the doors of a process have not let in.
func refusedBy(doors []*door) (all []api.Refusal) {
	for _, d := range doors {
		d.unwelcome.mu.Lock()
		for _, n := range d.unwelcome.all {
			n.Instance = d.instance.Name
			all = append(all, n)
		}
		d.unwelcome.mu.Unlock()
	}
	slices.SortStableFunc(all, func(a, b api.Refusal) int { return b.At.Compare(a.At) })
	return all[:min(len(all), refusalsMax)]
}

// masked is an identity as the log may show it: its last four octets.
func masked(identity string) string {
	scheme, value, ok := strings.Cut(identity, ":")
	if !ok {
		scheme, value = "", identity
	}
	if len(value) <= 4 {
		return scheme + ":…"
	}
	return scheme + ":…" + value[len(value)-4:]
}
