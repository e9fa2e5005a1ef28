package rtmtest

import (
	"context"
	"errors"
	"slices"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// A simIdentity is an identity of a subscriber, and the accounts that had it.
type simIdentity struct {
	name   string
	owners []*simAccount // the last one has it, or is getting it
	moving bool
	moved  time.Duration // when it last came to rest
}

func (i *simIdentity) owner() *simAccount { return i.owners[len(i.owners)-1] }

// had reports whether it ever was that account's.
func (i *simIdentity) had(account store.Key) bool {
	return slices.ContainsFunc(i.owners, func(a *simAccount) bool { return a.key == account })
}

// unrest reports whether it was on its way from one account to another since then.
func (i *simIdentity) unrest(since time.Duration) bool { return i.moving || i.moved > since }

// strange reports whether no account that ever had it is of a tenant which g serves.
func (g *gateway) strange(i *simIdentity) bool { return !slices.ContainsFunc(i.owners, g.serves) }

// all reports whether all of them are.
func (g *gateway) servesAll(i *simIdentity) bool {
	return !slices.ContainsFunc(i.owners, func(a *simAccount) bool { return !g.serves(a) })
}

// movesMax is how often an identity moves: as often as its directory record can
// tell.
const movesMax = tenant.FormersMax - 1

// move gives an identity to another account, whoever has sessions under it: one at
// a time, and again until it is done.
func (o *operator) move() {
	m := o.m
	who := m.identities[m.rng.IntN(len(m.identities))]
	if n := len(m.sessions); n > 0 && m.restless {
		who = m.sessions[n-1].who // something of it is under way
	}
	to := m.accounts[m.rng.IntN(len(m.accounts))]
	if n := len(who.owners); n > 1 && m.oneIn(2) { // back
		to = who.owners[n-2]
	}
	if o.moving || to == who.owner() || len(who.owners) > movesMax {
		return
	}
	o.moving, who.moving = true, true
	who.owners = append(who.owners, to)
	m.tracef("an operator moves %s to %s", who.name, to.key)
	o.reassign(who, to)
}

// reassign lets an instance move the identity. If that fails, or the instance dies,
// another does it again.
func (o *operator) reassign(who *simIdentity, to *simAccount) {
	m := o.m
	n, over := m.instances[m.rng.IntN(len(m.instances))], false
	again := func() {
		if !over {
			over = true
			o.reassign(who, to)
		}
	}
	m.after(moveMax, again)
	if !n.ready || n.frozen {
		return
	}
	var err error
	n.routine(func(ctx context.Context) { err = n.reassign(ctx, who.name, to.key) }, func() {
		switch {
		case over:
		case err != nil:
			m.tracef("%s could not be moved: %s", who.name, err)
			m.after(m.upTo(time.Second), again)
		default:
			over, o.moving = true, false
			who.moving, who.moved = false, m.now
			m.tracef("%s has moved", who.name)
		}
	})
}

// moveMax is how long an operator waits for an instance to move an identity: longer
// than all of its steps can take.
const moveMax = 2 * time.Minute

// reassign is what rtm.Instance's Reassign does, step by step.
func (n *instance) reassign(ctx context.Context, identity string, to store.Key) error {
	w := &waiting{n: n}
	recs, err := w.Load(ctx, []store.Key{tenant.IdentityKey(identity)})
	if err != nil {
		return err
	}
	from := to
	if t, a, ok := tenant.DecodeOwner(recs[0].Bytes); ok {
		from = tenant.AccountKey(t, a)
	}
	for range 2 {
		if from != to {
			if err := n.dismiss(ctx, w, identity, from); err != nil {
				return err
			}
		}
		if err := n.direct(ctx, w, identity, from, to); err != nil {
			return err // what was read of it was old: the operator tries again
		}
	}
	if err := n.identify(ctx, to, identity, ""); err != nil {
		return err
	}
	recs, err = w.Load(ctx, []store.Key{tenant.IdentityKey(identity)})
	if t, a, _ := tenant.DecodeOwner(append([]store.Record{{}}, recs...)[len(recs)].Bytes); err == nil && tenant.AccountKey(t, a) != to {
		err = errors.New("somebody else claims it")
	}
	return err
}

// dismiss takes an identity out of the account that has it, and enters the sessions
// of that account in the session index.
func (n *instance) dismiss(ctx context.Context, w *waiting, identity string, from store.Key) error {
	for range 2 {
		recs, err := w.Load(ctx, []store.Key{from})
		if err != nil {
			return err
		}
		var a charging.Account
		if err := errors.Join(a.Decode(recs[0].Bytes), a.DecodeAll()); err != nil {
			return err
		}
		for i := range a.Sessions {
			if err := n.index(ctx, w, from, &a.Sessions[i]); err != nil {
				return err
			}
		}
		if err := n.identify(ctx, from, "", identity); err != nil {
			return err
		}
	}
	return nil
}

// index enters a session in the session index.
func (n *instance) index(ctx context.Context, w *waiting, account store.Key, s *charging.Session) error {
	key := tenant.SessionKey(string(s.Realm), string(s.ID), s.Sub)
	recs, err := w.Load(ctx, []store.Key{key})
	if err != nil {
		return err
	}
	entry := tenant.Entry{Account: account, Host: string(s.Host), Opened: s.Opened, Until: s.Moved()}
	for rec := recs[0]; ; {
		rs, _ := w.Commit(ctx, []store.Commit{tenant.Enter(key, rec, entry, n.m.version(), n.now())})
		switch rs[0].Outcome {
		case store.Done:
			return nil
		case store.Conflict:
			rec = rs[0].Fresh[0]
		case store.InDoubt, store.Refused:
			return errStore
		}
	}
}

// direct makes the directory lead an identity to an account.
func (n *instance) direct(ctx context.Context, w *waiting, identity string, from, to store.Key) error {
	recs, err := w.Load(ctx, []store.Key{tenant.IdentityKey(identity)})
	if err != nil {
		return err
	}
	if t, a, ok := tenant.DecodeOwner(recs[0].Bytes); ok && tenant.AccountKey(t, a) != from && tenant.AccountKey(t, a) != to {
		return errStore
	}
	t, account := tenant.AccountOf(to)
	rs, _ := w.Commit(ctx, []store.Commit{tenant.Reassign(identity, t, account, recs[0], n.m.version(), n.now())})
	if rs[0].Outcome != store.Done {
		return errStore
	}
	return nil
}

// identify gives an account an identity, or takes one from it.
func (n *instance) identify(ctx context.Context, account store.Key, adds, drops string) (err error) {
	waitFor(ctx, func(resume func()) {
		now := n.now()
		n.enter(&rtm.Inbound{
			Account: account, Request: charging.Request{Kind: charging.Identify, Adds: adds, Drops: drops},
			Arrived: now, Deadline: now.Add(5 * time.Second),
			Reply: func(in *rtm.Inbound, o rtm.Outcome) {
				if o != rtm.Answered || in.Answer.Result != charging.Success {
					err = errStore
				}
				resume()
			},
		})
	})
	return err
}

// checkDirectory: the directory leads an identity only where its operator wants it,
// a session's entry to an account that has such a session, and nobody takes that of
// another tenant's open session away (I11).
func (m *Sim) checkDirectory(d *node, w *store.Write, was *entry) {
	switch {
	case d != d.cluster.master(): // what it takes will be gone
		return
	case w.Op == store.Check, w.Key.Kind != tenant.KindIdentity && w.Key.Kind != tenant.KindSession:
		return
	case w.Key.Kind == tenant.KindIdentity:
		t, a, ok := tenant.DecodeOwner(w.Bytes)
		i := slices.IndexFunc(m.identities, func(i *simIdentity) bool { return i.name == w.Key.Name })
		if i < 0 || !ok || m.identities[i].owner().key != tenant.AccountKey(t, a) {
			m.failf("I11: %s leads to %s/%s", w.Key, t, a)
		}
		return
	}
	entries := tenant.Entries(w.Bytes)
	sub := uint64(0)
	name := ""
	for _, e := range entries {
		known := false
		for _, s := range m.sessions {
			if s.key == w.Key {
				name, sub, known = s.name, s.sub, known || s.who.had(e.Account)
			}
		}
		if !known {
			m.failf("I11: %s leads to %s, where nobody opened it", w.Key, e.Account)
		}
	}
	if was == nil || len(entries) == 0 {
		return
	}
	old := tenant.Entries(was.Bytes)
	writer := ""
	for _, e := range entries {
		if !slices.Contains(old, e) {
			writer, _ = tenant.AccountOf(e.Account)
		}
	}
	for _, o := range old {
		t, _ := tenant.AccountOf(o.Account)
		if t == writer || slices.ContainsFunc(entries, func(e tenant.Entry) bool { return e.Account == o.Account }) {
			continue
		}
		if d.cluster != m.clusterOf(o.Account.Partition) {
			d = m.clusterOf(o.Account.Partition).master()
		}
		if r := d.record(o.Account); r != nil && r.books != nil && r.books.sessionOf([]byte(name), sub) != nil {
			m.failf("I11: %s no longer leads to %s, where it is open", w.Key, o.Account)
		}
	}
}
