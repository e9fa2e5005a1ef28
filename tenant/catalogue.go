package tenant

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"rtm/rating"
	"rtm/store"
)

// applyTries bounds how often Apply starts again when someone else changes the
// catalogue at the same time.
const applyTries = 10

// headKey is where the list of all documents lies; each version of a plan has
// a record beside it, in the same partition.
var headKey = store.Key{Partition: Partition("catalogue"), Kind: KindCatalogue, Name: "head"}

func planKey(name string, version uint32) store.Key {
	return store.Key{Partition: headKey.Partition, Kind: KindCatalogue, Name: fmt.Sprintf("plan/%s/%d", name, version)}
}

// Load reads the catalogue. With a previous one it reads only what is new:
// nothing but one record, when nothing changed.
func Load(ctx context.Context, s store.Store, previous *Catalogue) (*Catalogue, error) {
	recs, err := s.Load(ctx, []store.Key{headKey})
	if err != nil {
		return nil, fmt.Errorf("read the catalogue: %w", err)
	}
	if previous != nil && previous.version == recs[0].Version {
		return previous, nil
	}
	c := &Catalogue{version: recs[0].Version, tenants: make(map[string]*Tenant), plans: make(map[string]*Plans)}
	if recs[0].Version == (store.Version{}) {
		return c, nil
	}
	if err := json.Unmarshal(recs[0].Bytes, &c.head); err != nil {
		return nil, fmt.Errorf("read the catalogue: %w", err)
	}
	if c.head.Format > headFormat {
		return nil, fmt.Errorf("the catalogue has format %d, this program knows %d: use a newer one", c.head.Format, headFormat)
	}
	for name, t := range c.head.Tenants {
		c.tenants[name] = &t
	}
	for i := range c.head.Peers {
		c.peers = append(c.peers, &c.head.Peers[i])
	}
	slices.SortStableFunc(c.peers, func(a, b *Peer) int { return cmp.Compare(wild(a), wild(b)) })
	return c, c.loadPlans(ctx, s, previous)
}

func wild(p *Peer) int {
	if p.Host == "*" {
		return 1
	}
	return 0
}

// loadPlans reads the versions of plans that previous does not have.
func (c *Catalogue) loadPlans(ctx context.Context, s store.Store, previous *Catalogue) error {
	var keys []store.Key
	var names []string
	for _, name := range slices.Sorted(maps.Keys(c.head.Plans)) {
		p := &Plans{}
		if previous != nil && previous.plans[name] != nil {
			*p = *previous.plans[name]
		}
		for v := uint32(len(p.versions)) + 1; v <= c.head.Plans[name].Versions; v++ {
			keys, names = append(keys, planKey(name, v)), append(names, name)
		}
		c.plans[name] = p
	}
	if len(keys) == 0 {
		return nil
	}
	recs, err := s.Load(ctx, keys)
	if err != nil {
		return fmt.Errorf("read plans: %w", err)
	}
	for i, r := range recs {
		var doc PlanDoc
		if err := json.Unmarshal(r.Bytes, &doc); err != nil {
			return fmt.Errorf("read plan %s: %w", names[i], err)
		}
		p := c.plans[names[i]]
		plan, err := doc.Compile(uint32(len(p.versions)) + 1)
		if err != nil {
			return fmt.Errorf("plan %s in the store: %w", names[i], err)
		}
		if t := c.tenants[doc.Tenant]; t != nil {
			plan.Currency = Currencies[t.Currency]
		}
		from, _ := doc.Begins()
		*p = Plans{
			versions: append(slices.Clip(slices.Clone(p.versions)), plan), from: append(slices.Clip(slices.Clone(p.from)), from),
		}
	}
	return nil
}

// A Change is what Apply does, or would do, with one document.
type Change struct {
	Kind string // Tenant, Plan, Peer, Subscriber
	Name string
	What string // created, changed, unchanged
}

// What becomes of a document.
const (
	Created   = "created"
	Changed   = "changed"
	Unchanged = "unchanged"
)

// Apply makes the store's catalogue hold what d declares: tenants, peers and
// plans, in one commit. Subscribers are not its business. A plan that is
// written differently becomes a new version. Repeating it changes nothing. With
// dry, it only says what it would do.
func Apply(ctx context.Context, s store.Store, d *Documents, dry bool) ([]Change, error) {
	for range applyTries {
		recs, err := s.Load(ctx, []store.Key{headKey})
		if err != nil {
			return nil, fmt.Errorf("read the catalogue: %w", err)
		}
		head := Head{Format: headFormat}
		if recs[0].Version != (store.Version{}) {
			if err := json.Unmarshal(recs[0].Bytes, &head); err != nil {
				return nil, fmt.Errorf("read the catalogue: %w", err)
			}
		}
		changes, writes := head.merge(d)
		if dry || !slices.ContainsFunc(changes, func(c Change) bool { return c.What != Unchanged }) {
			return changes, nil
		}
		if len(writes) >= store.WritesMax {
			return nil, fmt.Errorf("%d plans change at once; %d are possible: split the file", len(writes), store.WritesMax-1)
		}
		body, err := json.Marshal(head)
		if err != nil {
			return nil, err
		}
		writes = append([]store.Write{{Op: store.Put, Key: headKey, Seen: recs[0].Version, New: newVersion(), Bytes: body}}, writes...)
		rs, _ := s.Commit(ctx, []store.Commit{{Writes: writes}})
		switch rs[0].Outcome {
		case store.Done:
			return changes, nil
		case store.Refused:
			return nil, fmt.Errorf("write the catalogue: %w", rs[0].Err)
		case store.Conflict, store.InDoubt:
		}
	}
	return nil, errors.New("the catalogue is being changed by others all the time: try again")
}

func newVersion() (v store.Version) {
	for v == (store.Version{}) {
		rand.Read(v[:])
	}
	return v
}

// merge puts d into h and says what changes; writes are new versions of plans.
func (h *Head) merge(d *Documents) (changes []Change, writes []store.Write) {
	if h.Tenants == nil {
		h.Tenants = make(map[string]Tenant)
	}
	if h.Plans == nil {
		h.Plans = make(map[string]PlanHead)
	}
	for _, t := range d.Tenants {
		was, ok := h.Tenants[t.Name]
		changes = append(changes, Change{"Tenant", t.Name, what(ok, was == t)})
		h.Tenants[t.Name] = t
	}
	for _, p := range d.Peers {
		i := slices.IndexFunc(h.Peers, func(q Peer) bool { return q.Host == p.Host && q.Realm == p.Realm })
		changes = append(changes, Change{"Peer", p.Host, what(i >= 0, i >= 0 && digest(h.Peers[i]) == digest(p))})
		if i < 0 {
			h.Peers = append(h.Peers, p)
			continue
		}
		h.Peers[i] = p
	}
	for _, p := range d.Plans {
		name := planName(p.Tenant, p.Name)
		was, sum := h.Plans[name], digest(p)
		c := Change{"Plan", name, what(was.Versions > 0, was.Digest == sum)}
		if changes = append(changes, c); c.What == Unchanged {
			continue
		}
		body, _ := json.Marshal(p) // strings, numbers and lists only: it cannot fail
		was = PlanHead{Versions: was.Versions + 1, Digest: sum}
		h.Plans[name] = was
		writes = append(writes, store.Write{Op: store.Put, Key: planKey(name, was.Versions), New: newVersion(), Bytes: body})
	}
	return changes, writes
}

func what(there, same bool) string {
	switch {
	case !there:
		return Created
	case !same:
		return Changed
	}
	return Unchanged
}

func digest(doc any) string {
	b, _ := json.Marshal(doc) // strings, numbers and lists only: it cannot fail
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// PlanNames lists the plans of all tenants as tenant/name, with how many
// versions each has.
func (c *Catalogue) PlanNames() map[string]uint32 {
	names := make(map[string]uint32)
	for name, p := range c.plans {
		names[name] = uint32(len(p.versions))
	}
	return names
}

// Latest is the newest version of a plan, in force or not; nil: there is none.
func (p *Plans) Latest() *rating.Plan {
	if len(p.versions) == 0 {
		return nil
	}
	return p.versions[len(p.versions)-1]
}
