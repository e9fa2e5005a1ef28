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
		t, name, ok := tenant.DecodeOwner(recs[0].Bytes)
		if !ok {
			continue
		}
		key := tenant.AccountKey(t, name)
		a, err := n.Account(ctx, key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return store.Key{}, err
		}
		if err == nil && lists(a, id) { // the directory is a hint
			return key, nil
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

// Reset makes in ready for the next request, keeping its memory.
func (in *Inbound) Reset() {
	*in = Inbound{
		Request: charging.Request{Asks: in.Request.Asks[:0]}, Identities: in.Identities[:0],
		Answer: charging.Answer{Grants: in.Answer.Grants[:0]}, Notices: in.Notices[:0], seen: in.seen[:0], proofs: in.proofs[:0],
	}
}
