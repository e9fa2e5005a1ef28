package rtmtest

import (
	"context"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
)

// How often an instance empties its letterbox, and hears who is connected where.
const (
	attendEvery = time.Second
	heardEvery  = 3 * time.Second
)

// connected reports whether the gateway has a connection to that instance.
func (g *gateway) connected(n *instance) bool {
	return n.ready && !n.frozen && g.links>>(n.place-firstInstance)&1 != 0
}

// notify is rtm.Config.Notify: over a connection of the gateway itself, for there
// are no relays here.
func (n *instance) notify(p rtm.Parcel, way rtm.Toward) bool {
	account, due := p.Account, p.Due
	for _, g := range n.m.gateways {
		if g.host == string(due.Host) && g.connected(n) && way == rtm.Direct {
			n.m.tracef("%s tells %s of %s %s", n.name, g.host, due.Kind, due.Session)
			n.m.send(func() { g.notice(account, due) })
			return true
		}
	}
	return false
}

// attend brings notices on their way, and hears of the others now and then.
func (n *instance) attend() {
	n.notices = &rtm.Notices{Name: n.name, Store: &waiting{n: n}, Version: n.m.version, Notify: n.notify}
	n.hear()
	n.collect()
}

// hear takes what the others have told of themselves by now.
func (n *instance) hear() {
	n.others = n.others[:0]
	for _, o := range n.m.instances {
		p := rtm.Presence{Name: o.name}
		for _, g := range n.m.gateways {
			if g.connected(o) {
				p.Peers = append(p.Peers, rtm.Neighbour{Host: g.host, Realm: "sim"})
			}
		}
		n.others = append(n.others, p)
	}
	if !n.m.quiet {
		n.later(heardEvery, n.hear)
	}
}

// dispatch sends a notice, or has it routed.
func (n *instance) dispatch(account store.Key, due charging.Due) {
	n.m.sends(&due)
	if n.notices.Dispatch(account, due) {
		return
	}
	n.later(0, func() {
		n.routine(func(ctx context.Context) {
			if err := n.notices.Route(ctx, n.others); err != nil {
				n.m.tracef("%s: %s", n.name, err)
			}
		}, func() {})
	})
}

// collect empties the instance's letterbox, while there is traffic.
func (n *instance) collect() {
	if n.m.quiet || len(n.m.instances) == 1 {
		return
	}
	n.later(attendEvery, func() {
		n.routine(n.notices.Collect, n.collect)
	})
}
