package rtm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// ErrTaken says that an identity belongs to another account.
var ErrTaken = errors.New("identity belongs to another account")

// ErrNotFound says that nobody has that identity, account or session.
var ErrNotFound = errors.New("not found")

// Provision creates an account or changes its plan and identities: first the
// directory, then the account, whose record is the truth. Repeating it
// completes what was interrupted.
func (n *Instance) Provision(ctx context.Context, tenantName, account string, p charging.Profile) (changed bool, err error) {
	if n.Catalogue().Plans(tenantName, []byte(p.Plan)) == nil {
		n.reload()
		if n.Catalogue().Plans(tenantName, []byte(p.Plan)) == nil {
			return false, fmt.Errorf("tenant %s has no plan %q", tenantName, p.Plan)
		}
	}
	for _, id := range p.Identities {
		wrote, err := n.own(ctx, id, tenantName, account)
		if err != nil {
			return false, err
		}
		changed = changed || wrote
	}
	key := tenant.AccountKey(tenantName, account)
	before, err := n.Account(ctx, key)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return false, err
	}
	a, err := n.Do(ctx, &Inbound{Request: charging.Request{Kind: charging.Provision, Profile: &p}, Account: key})
	switch {
	case err != nil:
		return false, err
	case a.Result != charging.Success:
		return false, fmt.Errorf("account %s: refused with %d", account, a.Result)
	}
	if before == nil {
		return true, nil
	}
	return changed || string(before.Plan) != p.Plan || len(before.Identities) != len(p.Identities), nil
}

// own makes the directory name that account as the owner of an identity.
func (n *Instance) own(ctx context.Context, id, tenantName, account string) (wrote bool, err error) {
	key := tenant.IdentityKey(id)
	recs, err := n.Store.Load(ctx, []store.Key{key})
	if err != nil {
		return false, err
	}
	rec := recs[0]
	for range casTries {
		if t, a, ok := tenant.DecodeOwner(rec.Bytes); ok {
			if t == tenantName && a == account {
				return wrote, nil
			}
			if held, err := n.lists(ctx, tenant.AccountKey(t, a), id); err != nil || held {
				return false, errors.Join(fmt.Errorf("%s: %w (%s/%s)", id, ErrTaken, t, a), err)
			}
		}
		rs, _ := n.Store.Commit(ctx, []store.Commit{{Writes: []store.Write{{
			Op: store.Put, Key: key, Seen: rec.Version, New: n.version(), Bytes: tenant.EncodeOwner(nil, tenantName, account),
		}}}})
		switch rs[0].Outcome {
		case store.Done:
			return true, nil
		case store.Conflict:
			rec = rs[0].Fresh[0]
		case store.InDoubt, store.Refused:
			return false, fmt.Errorf("directory, %s: %w", id, rs[0].Err)
		}
	}
	return false, fmt.Errorf("directory, %s: others change it all the time", id)
}

// lists reports whether the account's record holds the identity: the record is
// the truth, the directory a hint.
func (n *Instance) lists(ctx context.Context, key store.Key, id string) (bool, error) {
	a, err := n.Account(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, have := range a.Identities {
		if string(have) == id {
			return true, nil
		}
	}
	return false, nil
}

// Account reads and decodes an account with all its sessions.
func (n *Instance) Account(ctx context.Context, key store.Key) (*charging.Account, error) {
	recs, err := n.Store.Load(ctx, []store.Key{key})
	if err != nil {
		return nil, err
	}
	if recs[0].Version == (store.Version{}) {
		return nil, fmt.Errorf("account %s: %w", key.Name, ErrNotFound)
	}
	a := &charging.Account{}
	if err := a.Decode(recs[0].Bytes); err != nil {
		return nil, fmt.Errorf("account %s: %w", key.Name, err)
	}
	return a, a.DecodeAll()
}

// Find is the account of a subscriber, by an identity as the directory knows it
// ("imsi:…"), by bare digits, or by tenant/account.
func (n *Instance) Find(ctx context.Context, subscriber string) (store.Key, error) {
	if t, a, ok := strings.Cut(subscriber, "/"); ok {
		return tenant.AccountKey(t, a), nil
	}
	tries := []string{subscriber}
	if !strings.Contains(subscriber, ":") {
		digits := strings.TrimPrefix(subscriber, "+")
		tries = []string{"imsi:" + digits, "msisdn:" + digits}
	}
	for _, id := range tries {
		recs, err := n.Store.Load(ctx, []store.Key{tenant.IdentityKey(id)})
		if err != nil {
			return store.Key{}, err
		}
		if t, a, ok := tenant.DecodeOwner(recs[0].Bytes); ok {
			return tenant.AccountKey(t, a), nil
		}
	}
	return store.Key{}, fmt.Errorf("subscriber %s: %w", subscriber, ErrNotFound)
}

// TopUp credits an account once per name.
func (n *Instance) TopUp(ctx context.Context, key store.Key, name string, amount int64, b charging.Bucket, cause string) (charging.Answer, error) {
	return n.Do(ctx, &Inbound{
		Request: charging.Request{Kind: charging.TopUp, Amount: amount, Bucket: b, Cause: cause, Content: topUpContent(amount, b)},
		Account: key, OnceDoor: "api", OnceName: name,
	})
}

// topUpContent tells one top-up from another under the same name.
func topUpContent(amount int64, b charging.Bucket) uint64 {
	h := uint64(14695981039346656037)
	for _, v := range []uint64{uint64(amount), uint64(b.Unit), uint64(b.Allowance), uint64(b.Priority), unix(b.From), unix(b.Until)} {
		h = (h ^ v) * 1099511628211
	}
	return h | 1
}

func unix(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixMilli())
}

// An Open is an open session and whose it is.
type Open struct {
	Account store.Key
	Session charging.Session
}

// Sessions walks over the open sessions, until yield returns false.
func (n *Instance) Sessions(ctx context.Context, yield func(Open) bool) error {
	var cursor []byte
	for {
		keys, recs, next, err := n.Store.Scan(ctx, cursor, 256)
		if err != nil {
			return err
		}
		for i, k := range keys {
			if k.Kind != tenant.KindAccount {
				continue
			}
			a := &charging.Account{}
			if a.Decode(recs[i].Bytes) != nil || a.DecodeAll() != nil {
				continue // the auditor's business
			}
			for j := range a.Sessions {
				if !yield(Open{Account: k, Session: a.Sessions[j]}) {
					return nil
				}
			}
		}
		if next == nil {
			return nil
		}
		cursor = next
	}
}

// Session finds an open session by its Session-Id, by walking over all.
func (n *Instance) Session(ctx context.Context, id string) (open Open, err error) {
	found := false
	err = n.Sessions(ctx, func(o Open) bool {
		if found = string(o.Session.ID) == id; found {
			open = o
		}
		return !found
	})
	if err == nil && !found {
		err = fmt.Errorf("session %s: %w", id, ErrNotFound)
	}
	return open, err
}

// Prompt asks the client of a session for a report (charging.Reauthorise), or
// to end it (charging.Abort).
func (n *Instance) Prompt(ctx context.Context, o Open, kind charging.Kind) error {
	a, err := n.Do(ctx, &Inbound{Account: o.Account, Request: charging.Request{
		Kind: kind, Realm: o.Session.Realm, Session: o.Session.ID, Sub: o.Session.Sub,
	}})
	if err == nil && a.Result != charging.Success {
		err = fmt.Errorf("session %s: %w", o.Session.ID, ErrNotFound)
	}
	return err
}

// Reset makes in ready for the next request, keeping its memory.
func (in *Inbound) Reset() {
	*in = Inbound{
		Request: charging.Request{Asks: in.Request.Asks[:0]}, Identities: in.Identities[:0],
		Answer: charging.Answer{Grants: in.Answer.Grants[:0]}, Notices: in.Notices[:0], seen: in.seen[:0],
	}
}
