package rtm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"rtm/charging"
	"rtm/rating"
	"rtm/store"
	"rtm/tenant"
)

// Bounds of provisioning.
const (
	claimsMax        = 1000             // identities claimed in one call of the store
	provisionsMax    = 1024             // accounts on their way through the loop at once
	provisionTimeout = 10 * time.Second // of one account
	provisionTries   = 3
)

// A Subscription is an account and what an operator says about it.
type Subscription struct {
	Tenant, Account string
	Profile         charging.Profile
}

// SubscriptionOf is what a document says of an account.
func SubscriptionOf(d *tenant.Subscriber) (s Subscription, err error) {
	s = Subscription{Tenant: d.Tenant, Account: d.Account, Profile: charging.Profile{Plan: d.Plan}}
	if s.Profile.Identities, err = d.AllIdentities(); err != nil {
		return s, err
	}
	if s.Profile.Money, err = d.Money(); err != nil {
		return s, err
	}
	if d.Buckets != nil { // an empty list says: none
		s.Profile.Buckets = []charging.Bucket{}
	}
	for i := range d.Buckets {
		doc := &d.Buckets[i]
		b := charging.Bucket{Priority: doc.Priority}
		if doc.Allowance != "" {
			b.Allowance = rating.AllowanceID(doc.Allowance)
		}
		if b.Credited, b.Unit, b.Until, err = doc.Content(); err != nil {
			return s, err
		}
		s.Profile.Buckets = append(s.Profile.Buckets, b)
	}
	return s, nil
}

// Provisioned is what became of a Subscription.
type Provisioned struct {
	Created bool // there was no such account
	Changed bool // it is another one than before
	Err     error
}

// A provisioning is one call of ProvisionAll.
type provisioning struct {
	n    *Instance
	subs []Subscription
	out  []Provisioned
	mine []claim // identities that were not the account's before
}

// claim is an identity of a subscription.
type claim struct {
	sub      int
	identity string
}

// Provision creates an account or changes its plan and identities.
func (n *Instance) Provision(ctx context.Context, s Subscription) (Provisioned, error) {
	p := n.ProvisionAll(ctx, []Subscription{s})[0]
	return p, p.Err
}

// ProvisionAll creates accounts or changes their plans and identities, each
// independently of the others: first the directory, then the account, whose
// record is the truth. Repeating it completes what was interrupted. Errors:
// ErrTaken, tenant.RangeError, an unknown plan, ErrBusy, the store's.
func (n *Instance) ProvisionAll(ctx context.Context, subs []Subscription) []Provisioned {
	p := &provisioning{n: n, subs: subs, out: make([]Provisioned, len(subs))}
	p.check()
	p.claimAll(ctx)
	p.submit(ctx)
	p.prove(ctx)
	return p.out
}

// check refuses what the catalogue or the other subscriptions do not allow.
func (p *provisioning) check() {
	cat := p.n.Catalogue()
	known := func(s *Subscription) bool { return cat.Plans(s.Tenant, []byte(s.Profile.Plan)) != nil }
	if slices.ContainsFunc(p.subs, func(s Subscription) bool { return !known(&s) }) {
		p.n.reload()
		cat = p.n.Catalogue()
	}
	owners := make(map[string]string)
	for i := range p.subs {
		s := &p.subs[i]
		account := s.Tenant + "/" + s.Account
		switch {
		case cat.Tenant(s.Tenant) == nil:
			p.out[i].Err = fmt.Errorf("there is no tenant %q: declare it with kind: Tenant", s.Tenant)
		case !known(s):
			p.out[i].Err = fmt.Errorf("tenant %s has no plan %q: declare it with kind: Plan", s.Tenant, s.Profile.Plan)
		}
		for _, id := range s.Profile.Identities {
			if err := cat.Admits(s.Tenant, id); err != nil && p.out[i].Err == nil {
				p.out[i].Err = err
			}
			if other, ok := owners[id]; ok && other != account && p.out[i].Err == nil {
				p.out[i].Err = taken(id, other)
			}
			owners[id] = account
		}
	}
}

func taken(identity, owner string) error {
	return fmt.Errorf("%s: %w (%s); rtm subscriber reassign %s moves it", identity, ErrTaken, owner, identity)
}

// claimAll makes the directory name each account as the owner of its
// identities.
func (p *provisioning) claimAll(ctx context.Context) {
	var all []claim
	for i := range p.subs {
		for _, id := range p.subs[i].Profile.Identities {
			if p.out[i].Err == nil {
				all = append(all, claim{i, id})
			}
		}
	}
	for part := range slices.Chunk(all, claimsMax) {
		p.claim(ctx, part)
	}
}

func (p *provisioning) claim(ctx context.Context, part []claim) {
	keys := make([]store.Key, len(part))
	for i := range part {
		keys[i] = tenant.IdentityKey(part[i].identity)
	}
	recs, err := p.n.Store.Load(ctx, keys)
	var commits []store.Commit
	var asked []claim
	for i, c := range part {
		s := &p.subs[c.sub]
		if err != nil {
			p.out[c.sub].Err = unavailable(err)
			continue
		}
		commit, err := tenant.Claim(c.identity, s.Tenant, s.Account, recs[i], p.n.version())
		switch {
		case err != nil:
			p.takeOver(ctx, c)
		case commit.Writes[0].Op == store.Put:
			commits, asked = append(commits, commit), append(asked, c)
		}
	}
	if len(commits) == 0 {
		return
	}
	rs, _ := p.n.Store.Commit(ctx, commits)
	for i, c := range asked {
		if p.mine = append(p.mine, c); rs[i].Outcome != store.Done {
			p.takeOver(ctx, c)
		}
	}
}

// takeOver claims an identity of which the directory says that it is another
// account's: a hint, unless that account lists it.
func (p *provisioning) takeOver(ctx context.Context, c claim) {
	s := &p.subs[c.sub]
	p.mine = append(p.mine, c)
	if err := p.n.direct(ctx, c.identity, s.Tenant, s.Account, false); err != nil && p.out[c.sub].Err == nil {
		p.out[c.sub].Err = err
	}
}

// direct makes the directory lead an identity to that account. Unless it is to
// be moved, an account that lists it keeps it: who has overwritten a claim looks
// again afterwards, for the other may have come to list it meanwhile, and gives
// it back then.
func (n *Instance) direct(ctx context.Context, id, tenantName, account string, move bool) error {
	recs, err := n.Store.Load(ctx, []store.Key{tenant.IdentityKey(id)})
	if err != nil {
		return unavailable(err)
	}
	rec := recs[0]
	for range casTries {
		t, a, ok := tenant.DecodeOwner(rec.Bytes)
		other := ok && !move && (t != tenantName || a != account)
		if other {
			if err := n.free(ctx, id, t, a); err != nil {
				return err
			}
		}
		commit := tenant.Reassign(id, tenantName, account, rec, n.version())
		rs, _ := n.Store.Commit(ctx, []store.Commit{commit})
		switch rs[0].Outcome {
		case store.Done:
			if !other {
				return nil
			}
			taken := n.free(ctx, id, t, a)
			if taken != nil {
				mine := store.Record{Version: commit.Writes[0].New, Bytes: commit.Writes[0].Bytes}
				n.Store.Commit(ctx, []store.Commit{tenant.Reassign(id, t, a, mine, n.version())}) // else somebody else has it by now
			}
			return taken
		case store.Conflict:
			rec = rs[0].Fresh[0]
		case store.InDoubt, store.Refused:
			return fmt.Errorf("directory, %s: %w", id, unavailable(rs[0].Err))
		}
	}
	return fmt.Errorf("directory, %s: others change it all the time: %w", id, ErrBusy)
}

// unavailable is ErrBusy with what the store said: the same again may succeed.
func unavailable(err error) error { return fmt.Errorf("%w (%v)", ErrBusy, err) }

// free reports why an identity cannot be taken over from an account: it lists it.
func (n *Instance) free(ctx context.Context, id, tenantName, account string) error {
	held, err := n.lists(ctx, tenant.AccountKey(tenantName, account), id)
	if err == nil && held {
		err = taken(id, tenantName+"/"+account)
	}
	return err
}

// lists reports whether the account's record holds the identity: the record is
// the truth, the directory a hint.
func (n *Instance) lists(ctx context.Context, key store.Key, id string) (bool, error) {
	a, err := n.Account(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, unavailable(err)
	}
	return slices.ContainsFunc(a.Identities, func(have []byte) bool { return string(have) == id }), nil
}

// submit sends the accounts through the loop, and those again that found it
// busy.
func (p *provisioning) submit(ctx context.Context) {
	for range provisionTries {
		var todo []int
		for i := range p.subs {
			if o := &p.out[i]; o.Err == nil && !o.Changed || errors.Is(o.Err, ErrBusy) || errors.Is(o.Err, ErrDoubt) {
				todo = append(todo, i)
			}
		}
		again := false
		for part := range slices.Chunk(todo, provisionsMax) {
			again = p.send(ctx, part) || again
		}
		if !again || ctx.Err() != nil {
			return
		}
	}
}

// send carries out the provisioning of part and waits for it. again: some must
// be sent once more.
func (p *provisioning) send(ctx context.Context, part []int) (again bool) {
	type left struct {
		sub int
		out Outcome
	}
	done := make(chan left, len(part))
	ins := make([]*Inbound, len(part))
	for i, sub := range part {
		s, now := &p.subs[sub], p.n.Now()
		ins[i] = &Inbound{
			Request: charging.Request{Kind: charging.Provision, Profile: &s.Profile}, Account: tenant.AccountKey(s.Tenant, s.Account),
			Arrived: now, Deadline: now.Add(provisionTimeout), Reply: func(_ *Inbound, o Outcome) { done <- left{sub, o} },
		}
	}
	p.n.Submit(ins...)
	where := make(map[int]*Inbound, len(part))
	for i, sub := range part {
		where[sub] = ins[i]
	}
	for range part {
		select {
		case l := <-done:
			again = p.answered(l.sub, l.out, &where[l.sub].Answer) || again
		case <-ctx.Done():
			for sub := range where {
				p.out[sub].Err = ctx.Err()
			}
			return false
		}
	}
	return again
}

// answered notes what the loop said of a subscription. again: it must be sent
// once more.
func (p *provisioning) answered(sub int, o Outcome, a *charging.Answer) (again bool) {
	out := &p.out[sub]
	switch {
	case o == Silent:
		out.Err = ErrDoubt
		return true
	case o != Answered:
		out.Err = ErrBusy
		return true
	case a.Result != charging.Success:
		out.Err = fmt.Errorf("account %s/%s: refused with %d", p.subs[sub].Tenant, p.subs[sub].Account, a.Result)
	default:
		out.Err = nil
		out.Created, out.Changed = out.Created || a.Created, out.Changed || a.Changed
	}
	return false
}

// prove looks whether the directory still says of each identity that was
// claimed here whose it is: two who claim one at the same time each find that
// the other's account does not list it yet.
func (p *provisioning) prove(ctx context.Context) {
	for part := range slices.Chunk(p.mine, claimsMax) {
		keys := make([]store.Key, len(part))
		for i := range part {
			keys[i] = tenant.IdentityKey(part[i].identity)
		}
		recs, err := p.n.Store.Load(ctx, keys)
		for i, c := range part {
			s, out := &p.subs[c.sub], &p.out[c.sub]
			if out.Err == nil && err != nil {
				out.Err = unavailable(err)
			}
			if out.Err != nil {
				continue
			}
			if t, a, _ := tenant.DecodeOwner(recs[i].Bytes); t != s.Tenant || a != s.Account {
				_, err := p.n.identify(ctx, tenant.AccountKey(s.Tenant, s.Account), "", c.identity)
				out.Err = errors.Join(taken(c.identity, t+"/"+a), err)
			}
		}
	}
}

// identify gives the account an identity, or takes one from it.
func (n *Instance) identify(ctx context.Context, key store.Key, adds, drops string) (changed bool, err error) {
	a, err := n.Do(ctx, &Inbound{Account: key, Request: charging.Request{Kind: charging.Identify, Adds: adds, Drops: drops}})
	switch {
	case err != nil:
		return false, err
	case a.Result == charging.UserUnknown:
		return false, fmt.Errorf("account %s: %w", key.Name, ErrNotFound)
	case a.Result == charging.ResourcesExceeded:
		return false, fmt.Errorf("account %s has %d identities, as many as it may", key.Name, charging.IdentitiesMax)
	case a.Result != charging.Success:
		return false, fmt.Errorf("account %s: refused with %d", key.Name, a.Result)
	}
	return a.Changed, nil
}

// Reassign gives an identity to another account: out of the one's record, the
// directory to the other, into the other's record. Sessions that were opened
// under it stay with the account that opened them; they are entered in the
// session index, since their messages now name another one's identity. Each step
// can be repeated: doing it again completes what was interrupted. Errors:
// ErrNotFound, tenant.RangeError, ErrBusy, the store's.
func (n *Instance) Reassign(ctx context.Context, identity string, to store.Key) (changed bool, err error) {
	t, account := tenant.AccountOf(to)
	if err := n.Catalogue().Admits(t, identity); err != nil {
		return false, err
	}
	target, err := n.Account(ctx, to)
	if err != nil {
		return false, err
	}
	if len(target.Identities) >= charging.IdentitiesMax {
		return false, fmt.Errorf("account %s has %d identities, as many as it may", to.Name, charging.IdentitiesMax)
	}
	recs, err := n.Store.Load(ctx, []store.Key{tenant.IdentityKey(identity)})
	if err != nil {
		return false, err
	}
	if t, a, ok := tenant.DecodeOwner(recs[0].Bytes); ok && tenant.AccountKey(t, a) != to {
		if err := n.dismiss(ctx, identity, tenant.AccountKey(t, a)); err != nil {
			return false, err
		}
	}
	if err := n.direct(ctx, identity, t, account, true); err != nil {
		return false, err
	}
	return n.identify(ctx, to, identity, "")
}

// dismiss takes an identity out of the account that has it, and keeps that
// account's sessions to be found.
func (n *Instance) dismiss(ctx context.Context, identity string, from store.Key) error {
	for range 2 { // a session may open between the first look and the end of the identity
		a, err := n.Account(ctx, from)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		for i := range a.Sessions {
			if err := n.enter(ctx, from, &a.Sessions[i]); err != nil {
				return err
			}
		}
		if _, err := n.identify(ctx, from, "", identity); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}

// enter puts an open session into the session index.
func (n *Instance) enter(ctx context.Context, account store.Key, s *charging.Session) error {
	t, name := tenant.AccountOf(account)
	key := tenant.SessionKey(string(s.Realm), string(s.ID))
	recs, err := n.Store.Load(ctx, []store.Key{key})
	if err != nil {
		return err
	}
	value := tenant.EncodeOwner(nil, t, name)
	if string(recs[0].Bytes) == string(value) {
		return nil
	}
	rs, _ := n.Store.Commit(ctx, []store.Commit{{Writes: []store.Write{{
		Op: store.Put, Key: key, Seen: recs[0].Version, New: n.version(), Bytes: value,
		Expire: max(s.Close.Sub(n.Now()), 0) + reassignedFor,
	}}}})
	if rs[0].Outcome == store.Done || rs[0].Outcome == store.Conflict { // then the session's own message was faster
		return nil
	}
	return fmt.Errorf("session index, %s: %w", s.ID, rs[0].Err)
}

// reassignedFor is how long a session is found by its Session-Id beyond the time
// it would be closed at, if nothing more is heard: it may go on for long.
const reassignedFor = 30 * 24 * time.Hour
