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
	mine []claim // identities that were claimed here
	sent []bool  // to the loop, which said what became of it
	busy []bool  // … or was too busy to say
	mute []bool  // the store did not say, once: then it may have changed something
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
	p := &provisioning{n: n, subs: subs, out: make([]Provisioned, len(subs)), sent: make([]bool, len(subs)), busy: make([]bool, len(subs)), mute: make([]bool, len(subs))}
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
	owners, accounts := make(map[string]string), make(map[string]bool)
	for i := range p.subs {
		s := &p.subs[i]
		account := s.Tenant + "/" + s.Account
		switch {
		case cat.Tenant(s.Tenant) == nil:
			p.out[i].Err = fmt.Errorf("there is no tenant %q: declare it with kind: Tenant", s.Tenant)
		case !known(s):
			p.out[i].Err = fmt.Errorf("tenant %s has no plan %q: declare it with kind: Plan", s.Tenant, s.Profile.Plan)
		case accounts[account]:
			p.out[i].Err = fmt.Errorf("account %s is declared twice: write it once, with all its identities", account)
		default:
			p.out[i].Err = p.allowed(cat, s, owners)
		}
		if p.out[i].Err != nil {
			continue
		}
		accounts[account] = true
		for _, id := range s.Profile.Identities {
			owners[id] = account
		}
	}
}

// allowed reports what an account may not have: identities of others, of a wrong
// range, buckets that are over or that nothing of its plan could use.
func (p *provisioning) allowed(cat *tenant.Catalogue, s *Subscription, owners map[string]string) error {
	for _, id := range s.Profile.Identities {
		if err := cat.Admits(s.Tenant, id); err != nil {
			return err
		}
		if other, ok := owners[id]; ok {
			return taken(id, other)
		}
	}
	plans, now := cat.Plans(s.Tenant, []byte(s.Profile.Plan)), p.n.Now()
	for _, b := range s.Profile.Buckets {
		if !b.Until.IsZero() && !b.Until.After(now) {
			return fmt.Errorf("a bucket ended at %s: leave it out", b.Until.Format(time.RFC3339))
		}
		if b.Allowance != 0 && !plans.Allows(b.Allowance) {
			return fmt.Errorf("plan %s has no such allowance: leave it out of the bucket, which then pays for everything of its unit", s.Profile.Plan)
		}
	}
	return nil
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
		p.mine = append(p.mine, c)
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
		if rs[i].Outcome != store.Done {
			p.takeOver(ctx, c)
		}
	}
}

// takeOver claims an identity of which the directory says that it is another
// account's: a hint, unless that account lists it.
func (p *provisioning) takeOver(ctx context.Context, c claim) {
	s := &p.subs[c.sub]
	if err := p.n.direct(ctx, c.identity, s.Tenant, s.Account, store.Key{}); err != nil && p.out[c.sub].Err == nil {
		p.out[c.sub].Err = err
	}
}

// errElsewhere says that an identity which is to be moved belongs to another account
// than was thought.
type errElsewhere struct{ owner store.Key }

func (e *errElsewhere) Error() string { return "it belongs to " + e.owner.Name }

// direct makes the directory lead an identity to that account: from an account that was
// made to give it up, if it is to be moved (else *errElsewhere). With the zero Key an
// account that lists it keeps it: who has overwritten a claim looks again afterwards,
// for the other may have come to list it meanwhile, and gives it back then.
func (n *Instance) direct(ctx context.Context, id, tenantName, account string, from store.Key) error {
	recs, err := n.Store.Load(ctx, []store.Key{tenant.IdentityKey(id)})
	if err != nil {
		return unavailable(err)
	}
	rec, move := recs[0], from != store.Key{}
	for range casTries {
		t, a, ok := tenant.DecodeOwner(rec.Bytes)
		other := ok && (t != tenantName || a != account)
		if has := tenant.AccountKey(t, a); other && move && has != from {
			return &errElsewhere{has}
		}
		other = other && !move
		if other {
			if err := n.free(ctx, id, t, a); err != nil {
				return err
			}
		}
		commit := tenant.Reassign(id, tenantName, account, rec, n.version(), n.Now())
		rs, _ := n.Store.Commit(ctx, []store.Commit{commit})
		switch rs[0].Outcome {
		case store.Done:
			if !other {
				return nil
			}
			held := n.free(ctx, id, t, a)
			if held == nil {
				return nil
			}
			mine := store.Record{Version: commit.Writes[0].New, Bytes: commit.Writes[0].Bytes}
			rs, _ := n.Store.Commit(ctx, []store.Commit{tenant.Reassign(id, t, a, mine, n.version(), n.Now())})
			switch rs[0].Outcome {
			case store.Done:
				return held
			case store.Conflict: // the next try finds who has it by now
				return fmt.Errorf("directory, %s: others change it: %w", id, ErrBusy)
			case store.InDoubt, store.Refused:
			}
			return unavailable(rs[0].Err) // the next try finds that the other lists it
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

// free reports why an identity cannot be taken over from an account: it lists it,
// and its record is the truth, the directory a hint. The sessions of an account
// that had the identity are entered in the session index, so that they are found
// when it leads elsewhere.
func (n *Instance) free(ctx context.Context, id, tenantName, account string) error {
	key := tenant.AccountKey(tenantName, account)
	a, err := n.Account(ctx, key)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return unavailable(err)
	case lists(a, id):
		return taken(id, key.Name)
	}
	return n.enterAll(ctx, key, a)
}

func lists(a *charging.Account, id string) bool {
	return slices.ContainsFunc(a.Identities, func(have []byte) bool { return string(have) == id })
}

// submit sends the accounts through the loop, and those again that found it
// busy.
func (p *provisioning) submit(ctx context.Context) {
	for range provisionTries {
		var todo []int
		for i := range p.subs {
			if p.busy[i] || p.out[i].Err == nil && !p.sent[i] {
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
			in := where[l.sub]
			p.mute[l.sub] = p.mute[l.sub] || in.doubt
			again = p.answered(l.sub, l.out, &in.Answer) || again
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
	p.sent[sub], p.busy[sub] = true, o != Answered
	switch {
	case o == Silent:
		out.Err = ErrDoubt
		return true
	case o == Above:
		out.Err = charging.ErrLevel
		return false
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

// prove looks whether the directory still says of each identity whose it is, if
// its account came to list it just now, or may have: two who claim one at the same time each
// find that the other's account does not list it yet.
func (p *provisioning) prove(ctx context.Context) {
	mine := slices.DeleteFunc(p.mine, func(c claim) bool { return !p.out[c.sub].Changed && !p.mute[c.sub] })
	for part := range slices.Chunk(mine, claimsMax) {
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
	t, _ := tenant.AccountOf(to)
	if err := n.Catalogue().Admits(t, identity); err != nil {
		return false, err
	}
	target, err := n.Account(ctx, to)
	if err != nil {
		return false, err
	}
	if len(target.Identities) >= charging.IdentitiesMax && !lists(target, identity) {
		return false, fmt.Errorf("account %s has %d identities, as many as it may", to.Name, charging.IdentitiesMax)
	}
	recs, err := n.Store.Load(ctx, []store.Key{tenant.IdentityKey(identity)})
	if err != nil {
		return false, err
	}
	if len(tenant.Formers(recs[0].Bytes, n.Now())) >= tenant.FormersMax {
		return false, fmt.Errorf("%s has had %d owners within %d days, and what they did may still be repeated: it can move again when that is over",
			identity, tenant.FormersMax+1, tenant.FormerFor/(24*time.Hour))
	}
	from := to
	if t, a, ok := tenant.DecodeOwner(recs[0].Bytes); ok {
		from = tenant.AccountKey(t, a)
	}
	for range casTries {
		err = n.handOver(ctx, identity, from, to)
		if other, is := errors.AsType[*errElsewhere](err); is { // what was read of it was old
			from = other.owner
			continue
		}
		break
	}
	if err != nil {
		return false, err
	}
	if changed, err = n.identify(ctx, to, identity, ""); err != nil {
		return false, err
	}
	if key, err := n.Find(ctx, identity); err != nil || key != to {
		return changed, fmt.Errorf("%s: somebody else claims it at the same time: %w", identity, ErrBusy)
	}
	return changed, nil
}

// handOver makes the directory lead an identity from one account, which gives it up, to
// another one.
func (n *Instance) handOver(ctx context.Context, identity string, from, to store.Key) error {
	t, account := tenant.AccountOf(to)
	for range 2 { // somebody may give it to the old account again before the directory leads elsewhere
		if from != to {
			if err := n.dismiss(ctx, identity, from); err != nil {
				return err
			}
		}
		if err := n.direct(ctx, identity, t, account, from); err != nil {
			return err
		}
	}
	return nil
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
		if err := n.enterAll(ctx, from, a); err != nil {
			return err
		}
		if _, err := n.identify(ctx, from, "", identity); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}

// enterAll puts the open sessions of an account into the session index.
func (n *Instance) enterAll(ctx context.Context, key store.Key, a *charging.Account) error {
	for i := range a.Sessions {
		if err := n.enter(ctx, key, &a.Sessions[i]); err != nil {
			return err
		}
	}
	return nil
}

// enter puts an open session into the session index.
func (n *Instance) enter(ctx context.Context, account store.Key, s *charging.Session) error {
	key := tenant.SessionKey(string(s.Realm), string(s.ID), s.Sub)
	recs, err := n.Store.Load(ctx, []store.Key{key})
	if err != nil {
		return err
	}
	rec := recs[0]
	entry := tenant.Entry{Account: account, Host: string(s.Host), Opened: s.Opened, Until: s.Moved()}
	for range casTries {
		rs, _ := n.Store.Commit(ctx, []store.Commit{tenant.Enter(key, rec, entry, n.version(), n.Now())})
		switch rs[0].Outcome {
		case store.Done:
			return nil
		case store.Conflict:
			rec = rs[0].Fresh[0]
		case store.InDoubt, store.Refused:
			return fmt.Errorf("session index, %s: %w", s.ID, unavailable(rs[0].Err))
		}
	}
	return fmt.Errorf("session index, %s: others change it all the time: %w", s.ID, ErrBusy)
}
