package rtmtest

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
)

// How fast an auditor walks here, and how often.
const (
	auditRate  = 20
	auditEvery = 10 * time.Second
)

// audit lets an rtm.Auditor walk, in the eldest instance, in some worlds: it finds
// nothing.
func (n *instance) audit() {
	if !n.m.audited || n != n.m.instances[0] {
		return
	}
	n.keepAuditing(&rtm.Auditor{Rate: auditRate, Every: auditEvery})
}

func (n *instance) keepAuditing(a *rtm.Auditor) {
	if n.m.quiet {
		return
	}
	n.routine(func(ctx context.Context) { n.walk(ctx, a) }, func() {
		n.later(max(a.Next().Sub(n.now()), time.Millisecond), func() { n.keepAuditing(a) })
	})
}

// walk does one part of an audit, as rtm.Instance does.
func (n *instance) walk(ctx context.Context, a *rtm.Auditor) {
	w := &waiting{n: n}
	if cursor, most, ok := a.Part(n.now()); ok {
		keys, recs, next, err := w.Scan(ctx, cursor, most)
		if err != nil {
			return
		}
		ins, found := a.Scanned(keys, recs, next, n.now(), n.timers.Calm())
		n.judge(ctx, a, ins, found)
	}
	for {
		p, most, ok := a.Stream(n.now())
		if !ok {
			break
		}
		if !slices.ContainsFunc(n.m.accounts, func(s *simAccount) bool { return s.key.Partition == p }) {
			a.Read(nil) // nobody's
			continue
		}
		events, err := w.Events(ctx, p, 0, most)
		if err != nil {
			return
		}
		if keys := a.Read(events); len(keys) > 0 {
			recs, err := w.Load(ctx, keys)
			if err != nil {
				return
			}
			n.judge(ctx, a, a.Linked(recs, n.now()), nil)
		}
		break
	}
	if keys := a.Again(n.now()); len(keys) > 0 {
		recs, err := w.Load(ctx, keys)
		if err != nil {
			return
		}
		ins, found := a.Loaded(recs, n.now(), n.timers.Calm())
		n.judge(ctx, a, ins, found)
	}
	a.Ended(n.now())
}

// judge lets the loop look at accounts.
func (n *instance) judge(ctx context.Context, a *rtm.Auditor, ins []*rtm.Inbound, found []rtm.Finding) {
	outcomes := make([]rtm.Outcome, len(ins))
	if len(ins) > 0 {
		waitFor(ctx, func(resume func()) {
			left := len(ins)
			for i, in := range ins {
				in.Reply = func(_ *rtm.Inbound, o rtm.Outcome) {
					outcomes[i] = o
					if left--; left == 0 {
						resume()
					}
				}
				n.enter(in)
			}
		})
	}
	for _, f := range append(found, a.Judged(ins, outcomes)...) {
		if f.Faults == charging.FaultTimer && n.m.disturbed() {
			continue // a tick that could not be decided was put off for as long as the auditor waits
		}
		n.m.failf("audit: %s finds that %s breaks %s", n.name, f.Account, f.Faults)
	}
}

// Scan implements store.Store.
func (w *waiting) Scan(ctx context.Context, cursor []byte, most int) (keys []store.Key, recs []store.Record, next []byte, err error) {
	waitFor(ctx, func(resume func()) {
		w.n.store.scan(cursor, most, func(ks []store.Key, rs []store.Record, at []byte, ok bool) {
			if keys, recs, next = ks, rs, at; !ok {
				err = errStore
			}
			resume()
		})
	})
	return keys, recs, next, err
}

// scan reads records in the order of their names.
func (k *client) scan(cursor []byte, most int, done func(keys []store.Key, recs []store.Record, next []byte, ok bool)) {
	failed := func() { done(nil, nil, nil, false) }
	k.ask(0, failed, func(d *node, answer func(func())) {
		if d.state == nil || d.joining {
			answer(func() { k.lookAgain(); failed() })
			return
		}
		keys, now := []store.Key(nil), d.time()
		for key := range maps.Keys(d.state.records) {
			if bytes.Compare(ordinal(key), cursor) > 0 && d.state.at(key, now) != nil {
				keys = append(keys, key)
			}
		}
		slices.SortFunc(keys, func(a, b store.Key) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
		var next []byte
		if len(keys) > most {
			keys = keys[:most]
			next = ordinal(keys[most-1])
		}
		recs := d.load(keys)
		answer(func() { done(keys, recs, next, true) })
	})
}

// ordinal is where a key lies in a walk.
func ordinal(k store.Key) []byte { return append([]byte{k.Kind}, k.Name...) }
