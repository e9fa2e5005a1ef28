package tenant

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"rtm/rating"
	"rtm/store"
)

// The catalogue in the store: each version of each document is a record that is
// never changed, "plan/lab/basic/3", and one head record says how many versions
// of each there are. All lie in one partition, so that a head and the versions
// it names are committed together.
const (
	formatNow = 1 // of head and documents, as this program writes and reads them
	loadTries = 5 // how often Load starts again when the head changes meanwhile
	loadMax   = 256
)

var headKey = store.Key{Partition: Partition("catalogue"), Kind: KindCatalogue, Name: "head"}

func documentKey(name string, number uint32) store.Key {
	return store.Key{Partition: headKey.Partition, Kind: KindCatalogue, Name: fmt.Sprintf("%s/%d", name, number)}
}

func tenantName(name string) string       { return "tenant/" + name }
func planName(tenant, plan string) string { return "plan/" + tenant + "/" + plan }
func peerName(p *Peer) string             { return "peer/" + p.Name() }

// head is the record that names all documents.
type head struct {
	Format    int               `json:"format"`
	Documents map[string]uint32 `json:"documents"`
}

// document is the record of one version of one document.
type document struct {
	Format int      `json:"format"`
	Tenant *Tenant  `json:"tenant,omitempty"`
	Plan   *PlanDoc `json:"plan,omitempty"`
	Peer   *Peer    `json:"peer,omitempty"`
}

// Load reads the catalogue. With a previous one it reads only what is new:
// nothing but one record, and it returns previous itself, when nothing changed.
// What it returns is durable. Errors: the store's, a record that a newer program
// wrote, a record that is broken.
func Load(ctx context.Context, s store.Store, previous *Catalogue) (*Catalogue, error) {
	for range loadTries {
		recs, err := s.Load(ctx, []store.Key{headKey})
		if err != nil {
			return nil, fmt.Errorf("read the catalogue: %w", err)
		}
		if previous != nil && previous.version == recs[0].Version {
			return previous, nil
		}
		c, err := read(ctx, s, previous, recs[0])
		if err != nil {
			return nil, fmt.Errorf("read the catalogue: %w", err)
		}
		check := store.Commit{Writes: []store.Write{{Op: store.Check, Key: headKey, Seen: c.version}}}
		rs, _ := s.Commit(ctx, []store.Commit{check})
		switch rs[0].Outcome {
		case store.Done:
			return c, nil
		case store.Conflict:
		case store.InDoubt, store.Refused:
			return nil, fmt.Errorf("read the catalogue: %w", rs[0].Err)
		}
	}
	return nil, errBusy
}

var errBusy = errors.New("the catalogue is being changed all the time: try again")

// read makes the catalogue that the head record names, with what previous has
// of it.
func read(ctx context.Context, s store.Store, previous *Catalogue, r store.Record) (*Catalogue, error) {
	h := head{Format: formatNow}
	if r.Version != (store.Version{}) {
		if err := json.Unmarshal(r.Bytes, &h); err != nil {
			return nil, fmt.Errorf("head: %w", err)
		}
	}
	if err := checkFormat(h.Format); err != nil {
		return nil, err
	}
	c := &Catalogue{version: r.Version, documents: h.Documents, tenants: make(map[string]*Tenant), plans: make(map[string]*Plans)}
	if c.documents == nil {
		c.documents = make(map[string]uint32)
	}
	known := &Catalogue{}
	if previous != nil {
		known = previous
		c.tenants, c.plans, c.peers = maps.Clone(known.tenants), maps.Clone(known.plans), slices.Clone(known.peers)
	}
	for keys := range slices.Chunk(c.missing(known), loadMax) {
		recs, err := s.Load(ctx, keys)
		if err != nil {
			return nil, err
		}
		for i := range recs {
			if err := c.take(recs[i].Bytes); err != nil {
				return nil, fmt.Errorf("%s: %w", keys[i].Name, err)
			}
		}
	}
	c.settle()
	return c, nil
}

func checkFormat(n int) error {
	if n != formatNow {
		return fmt.Errorf("format %d is not known here, %d is: use the program that wrote it, or a newer one", n, formatNow)
	}
	return nil
}

// missing lists the records that c's documents name and known has not: every
// version of a plan, the last one of the others.
func (c *Catalogue) missing(known *Catalogue) (keys []store.Key) {
	for _, name := range slices.Sorted(maps.Keys(c.documents)) {
		n, have := c.documents[name], known.documents[name]
		if !strings.HasPrefix(name, "plan/") && have < n {
			have = n - 1
		}
		for v := have + 1; v <= n; v++ {
			keys = append(keys, documentKey(name, v))
		}
	}
	return keys
}

// take adds one version of one document to c.
func (c *Catalogue) take(b []byte) error {
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		return err
	}
	if err := checkFormat(d.Format); err != nil {
		return err
	}
	switch {
	case d.Tenant != nil:
		c.tenants[d.Tenant.Name] = d.Tenant
		return d.Tenant.completeRanges()
	case d.Peer != nil:
		name := peerName(d.Peer)
		c.peers = append(slices.DeleteFunc(c.peers, func(p *Peer) bool { return peerName(p) == name }), d.Peer)
	case d.Plan != nil:
		return c.takePlan(d.Plan)
	default:
		return errors.New("neither a tenant nor a plan nor a peer")
	}
	return nil
}

func (c *Catalogue) takePlan(d *PlanDoc) error {
	name := d.Tenant + "/" + d.Name
	p, err := c.plans[name].with(d)
	if err == nil {
		c.plans[name] = p
	}
	return err
}

// with is p and one more version; p stays as it is.
func (p *Plans) with(d *PlanDoc) (*Plans, error) {
	if p == nil {
		p = &Plans{}
	}
	plan, err := d.Compile(uint32(len(p.versions)) + 1)
	if err != nil {
		return nil, err
	}
	from, err := d.Begins()
	return &Plans{
		versions: append(slices.Clip(p.versions), plan),
		docs:     append(slices.Clip(p.docs), *d),
		from:     append(slices.Clip(p.from), from),
	}, err
}

// settle gives new plans their tenant's currency, which never changes, and puts
// peers in the order in which they are tried.
func (c *Catalogue) settle() {
	for name, p := range c.plans {
		tenant, _, _ := strings.Cut(name, "/")
		for _, plan := range slices.Backward(p.versions) {
			if plan.Currency != 0 || c.tenants[tenant] == nil {
				break
			}
			currency, _ := CurrencyOf(c.tenants[tenant].Currency)
			plan.Currency = currency.Number
		}
	}
	slices.SortFunc(c.peers, func(a, b *Peer) int {
		return cmp.Or(cmp.Compare(vague(a), vague(b)), cmp.Compare(peerName(a), peerName(b)))
	})
	c.settleTenants()
}

// settleTenants notes which tenant a realm or a range means.
func (c *Catalogue) settleTenants() {
	c.ranged, c.realms = nil, make(map[string]string)
	for _, t := range c.Tenants() {
		if len(t.numbers) > 0 {
			c.ranged = append(c.ranged, t)
		}
		for _, r := range t.Realms {
			c.realms[r] = t.Name
		}
	}
}

func vague(p *Peer) (n int) {
	if p.Host == "*" {
		n += 2
	}
	if p.Realm == "" {
		n++
	}
	return n
}

// stairs are the versions that have or will have their time: those that no
// later version with an earlier or the same start has replaced, oldest first.
func (p *Plans) stairs() (versions []int) {
	if p == nil {
		return nil
	}
	for i, from := range slices.Backward(p.from) {
		if len(versions) == 0 || from.Before(p.from[versions[0]]) {
			versions = slices.Insert(versions, 0, i)
		}
	}
	return versions
}

// schedule says which versions to add so that d is in force from its start on,
// until the next version that was announced already, which is added again
// behind it. None: d is there.
func (p *Plans) schedule(d *PlanDoc, now time.Time) (add []*PlanDoc, err error) {
	from, err := d.Begins()
	if err != nil {
		return nil, err
	}
	add, newer := []*PlanDoc{d}, -1
	for _, i := range p.stairs() {
		switch {
		case p.from[i].Equal(from) && same(document{Plan: &p.docs[i]}, document{Plan: d}):
			return nil, nil
		case !p.from[i].After(from):
		case p.from[i].After(now):
			add = append(add, &p.docs[i])
		default:
			newer = i
		}
	}
	if newer >= 0 {
		return nil, wrong("from", "version %d is in force since %s, so this would never be: write from: and a later time",
			newer+1, p.from[newer].Format(time.RFC3339))
	}
	return add, nil
}

// encode gives the record of a document.
func encode(d document) []byte {
	d.Format = formatNow
	b, _ := json.Marshal(d) // texts, numbers and lists: it cannot fail
	return b
}

func same(a, b document) bool { return bytes.Equal(encode(a), encode(b)) }

var _ interface {
	Current(at time.Time) *rating.Plan
	Version(n uint32) *rating.Plan
} = (*Plans)(nil)
