package tenant

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"rtm/store"
)

// Bounds of what Apply writes. One head, one document and what surrounds them
// fit into one commit.
const (
	applyTries  = 10      // how often it starts again when others change the catalogue
	headMax     = 90_000  // octets of the head: some 3,000 documents
	documentMax = 160_000 // octets of a document's record: some 600 services
)

// A Change is what Apply does, or would do, with one document.
type Change struct {
	Kind    string // Tenant, Plan, Peer
	Name    string // lab, lab/basic, smf.example.net
	What    string // created, changed, unchanged
	Version uint32 // how many versions there are then
}

// What becomes of a document.
const (
	Created   = "created"
	Changed   = "changed"
	Unchanged = "unchanged"
)

// A draft is one document of Apply and the records it needs: none if it is
// unchanged.
type draft struct {
	change  Change
	name    string
	records [][]byte
}

// Apply makes the store's catalogue hold what d declares: tenants, plans and
// peers. Subscribers are not its business. A plan that is written differently
// becomes a new version; versions are never edited. The documents are checked
// whole, Cross included, before the first write; many of them take several
// commits, and repeating Apply completes what was interrupted. Repeating a
// complete one changes nothing. With dry, it only says what it would do.
func Apply(ctx context.Context, s store.Store, d *Documents, dry bool) ([]Change, error) {
	if err := d.complete(); err != nil {
		return nil, err
	}
	var (
		c       *Catalogue
		w       = writer{store: s, done: make(map[int]Change)}
		changes []Change
	)
	for range applyTries {
		var err error
		if c, err = Load(ctx, s, c); err != nil {
			return nil, err
		}
		w.settle(c.version)
		facts, err := s.Facts(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the store's time: %w", err)
		}
		drafts, err := c.drafts(d, facts.Clock)
		if err != nil {
			return nil, err
		}
		changes = changes[:0]
		for i := range drafts {
			if was, ok := w.done[i]; ok {
				drafts[i].change = was
			}
			changes = append(changes, drafts[i].change)
		}
		if dry {
			return changes, nil
		}
		if ok, err := w.write(ctx, c, drafts); ok || err != nil {
			return changes, err
		}
	}
	return nil, errBusy
}

// complete checks documents that did not come from Parse, and those again that
// did.
func (d *Documents) complete() error {
	var errs []error
	for i := range d.Tenants {
		errs = append(errs, d.Tenants[i].origin.explain(nil, d.Tenants[i].complete()))
	}
	for i := range d.Plans {
		errs = append(errs, d.Plans[i].origin.explain(nil, d.Plans[i].complete()))
	}
	for i := range d.Peers {
		errs = append(errs, d.Peers[i].origin.explain(nil, d.Peers[i].complete()))
	}
	return errors.Join(errs...)
}

// drafts says what must be written so that c holds what d declares.
func (c *Catalogue) drafts(d *Documents, now time.Time) (drafts []draft, err error) {
	if err := d.Cross(c); err != nil {
		return nil, err
	}
	for i := range d.Tenants {
		t := &d.Tenants[i]
		was := c.tenants[t.Name]
		if was != nil && was.Currency != t.Currency {
			return nil, t.origin.explain(nil, wrong("currency", "%q is %s, and a tenant's currency cannot change", t.Name, was.Currency))
		}
		drafts = append(drafts, c.draft("Tenant", t.Name, tenantName(t.Name), document{Tenant: was}, document{Tenant: t}))
	}
	plans := maps.Clone(c.plans)
	for i := range d.Plans {
		one, err := draftPlan(plans, &d.Plans[i], now)
		if err != nil {
			return nil, d.Plans[i].origin.explain(nil, err)
		}
		drafts = append(drafts, one)
	}
	for i := range d.Peers {
		p := &d.Peers[i]
		var was *Peer
		if j := slices.IndexFunc(c.peers, func(o *Peer) bool { return peerName(o) == peerName(p) }); j >= 0 {
			was = c.peers[j]
		}
		drafts = append(drafts, c.draft("Peer", p.Host, peerName(p), document{Peer: was}, document{Peer: p}))
	}
	for i := range drafts {
		if slices.ContainsFunc(drafts[i].records, func(r []byte) bool { return len(r) > documentMax }) {
			return nil, fmt.Errorf("%s %s is larger than %d octets and cannot be kept: divide it", drafts[i].change.Kind, drafts[i].change.Name, documentMax)
		}
	}
	return drafts, nil
}

// draft compares a tenant or peer with what is there.
func (c *Catalogue) draft(kind, title, name string, was, is document) draft {
	d := draft{change: Change{Kind: kind, Name: title, What: Created, Version: c.documents[name]}, name: name}
	if d.change.Version > 0 {
		if d.change.What = Changed; same(was, is) {
			d.change.What = Unchanged
			return d
		}
	}
	d.change.Version++
	d.records = [][]byte{encode(is)}
	return d
}

// draftPlan adds the versions that p needs to plans.
func draftPlan(plans map[string]*Plans, p *PlanDoc, now time.Time) (draft, error) {
	title := p.Tenant + "/" + p.Name
	d := draft{change: Change{Kind: "Plan", Name: title, What: Created}, name: planName(p.Tenant, p.Name)}
	versions := plans[title]
	if versions != nil {
		d.change.What = Changed
	}
	add, err := versions.schedule(p, now)
	if err != nil {
		return d, err
	}
	for _, doc := range add {
		if versions, err = versions.with(doc); err != nil {
			return d, err
		}
		d.records = append(d.records, encode(document{Plan: doc}))
	}
	if len(add) == 0 {
		d.change.What = Unchanged
	}
	plans[title] = versions
	d.change.Version = uint32(len(versions.versions))
	return d, nil
}

// A writer carries drafts out. It remembers what it has done already, for
// another's write may make it begin again.
type writer struct {
	store   store.Store
	done    map[int]Change
	doubt   store.Version // of a head whose commit is in doubt
	doubted map[int]Change
}

// settle notes what a commit in doubt had written, if version shows that it
// took place.
func (w *writer) settle(version store.Version) {
	if w.doubt != (store.Version{}) && version == w.doubt {
		maps.Copy(w.done, w.doubted)
	}
	w.doubt, w.doubted = store.Version{}, nil
}

// write commits drafts, as many at a time as one commit holds; false: the
// catalogue is not c any more, or that is not known.
func (w *writer) write(ctx context.Context, c *Catalogue, drafts []draft) (bool, error) {
	seen, documents := c.version, maps.Clone(c.documents)
	for next := 0; next < len(drafts); {
		commit := store.Commit{Writes: []store.Write{{Op: store.Put, Key: headKey, Seen: seen, New: newVersion()}}}
		batch, size := make(map[int]Change), 0
		for ; next < len(drafts); next++ {
			d := &drafts[next]
			for _, r := range d.records {
				size += len(r)
			}
			if len(batch) > 0 && (len(commit.Writes)+len(d.records) > store.WritesMax || size > store.CommitBytesMax-headMax) {
				break
			}
			for _, r := range d.records {
				documents[d.name]++
				commit.Writes = append(commit.Writes, store.Write{Op: store.Put, Key: documentKey(d.name, documents[d.name]), New: newVersion(), Bytes: r})
			}
			if len(d.records) > 0 {
				batch[next] = d.change
			}
		}
		if len(batch) == 0 {
			return true, nil
		}
		body, _ := json.Marshal(head{Format: formatNow, Documents: documents}) // it cannot fail
		if len(body) > headMax {
			return false, fmt.Errorf("the catalogue would hold %d documents, more than fit", len(documents))
		}
		commit.Writes[0].Bytes = body
		if ok, err := w.commit(ctx, commit, batch); !ok || err != nil {
			return false, err
		}
		seen = commit.Writes[0].New
	}
	return true, nil
}

func (w *writer) commit(ctx context.Context, commit store.Commit, batch map[int]Change) (bool, error) {
	rs, _ := w.store.Commit(ctx, []store.Commit{commit})
	switch rs[0].Outcome {
	case store.Done:
		maps.Copy(w.done, batch)
		return true, nil
	case store.Refused:
		return false, fmt.Errorf("write the catalogue: %w", rs[0].Err)
	case store.InDoubt:
		w.doubt, w.doubted = commit.Writes[0].New, batch
	case store.Conflict:
	}
	return false, nil
}

func newVersion() (v store.Version) {
	for v == (store.Version{}) {
		rand.Read(v[:])
	}
	return v
}
