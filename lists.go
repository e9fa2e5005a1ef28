package rtm

import (
	"context"
	"strings"

	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// Bounds of a walk over accounts.
const (
	chunkMax = 1000    // records read at a time
	looksMax = 100_000 // records looked at for one page
)

// A Walk says which accounts are wanted, from where on, and how much of them
// makes a page.
type Walk struct {
	Cursor []byte // nil: from the beginning
	Tenant string // empty: of all tenants
	Limit  int
}

// Accounts walks over the accounts of w for one page. take gets each one with
// the heads of its sessions, may keep nothing of it, and says how much that was
// towards the limit. A page ends with a whole chunk of the store's, so that it
// may hold more than the limit and nothing is left out; one that has looked at
// very many records may hold less. next is where the page behind it begins, nil
// after the last.
func (n *Instance) Accounts(ctx context.Context, w Walk, take func(store.Key, *charging.Account) int) (next []byte, err error) {
	found, looked := 0, 0
	a := &charging.Account{}
	for cursor := w.Cursor; ; cursor = next {
		keys, recs, after, err := n.Store.Scan(ctx, cursor, chunk(w.Limit, found, looked))
		if err != nil {
			return nil, err
		}
		next = after
		looked += len(keys)
		for i, k := range keys {
			if k.Kind != tenant.KindAccount || w.Tenant != "" && !ofTenant(k, w.Tenant) || a.Decode(recs[i].Bytes) != nil {
				continue // what cannot be decoded is the auditor's business
			}
			found += take(k, a)
		}
		if next == nil || found >= w.Limit || looked >= looksMax {
			return next, nil
		}
	}
}

// chunk is how many records probably hold what is still wanted, by what was found
// so far.
func chunk(limit, found, looked int) int {
	return min(max((limit-found)*(looked+1)/(found+1), 1), chunkMax)
}

func ofTenant(k store.Key, name string) bool {
	rest, ok := strings.CutPrefix(k.Name, name)
	return ok && strings.HasPrefix(rest, "/")
}
