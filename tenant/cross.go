package tenant

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Cross checks what the documents say of each other and of what c has already:
// tenants and plans that are named exist, nothing is declared twice, no
// identity has two owners. c may be empty. Its errors are as those of Parse.
func (d *Documents) Cross(c *Catalogue) error {
	x := crossing{
		c: c, tenants: make(map[string]bool), plans: make(map[string]bool), seen: make(map[string]bool), owners: make(map[string]string),
		then: c.with(d.Tenants), peers: slices.Clone(c.peers),
	}
	for i := range d.Peers {
		name := peerName(&d.Peers[i])
		x.peers = append(slices.DeleteFunc(x.peers, func(p *Peer) bool { return peerName(p) == name }), &d.Peers[i])
	}
	for i := range d.Tenants {
		t := &d.Tenants[i]
		x.tenants[t.Name] = true
		x.once(t.origin, "name", "tenant "+t.Name)
		x.apart(t)
	}
	for i := range d.Plans {
		p := &d.Plans[i]
		x.plans[p.Tenant+"/"+p.Name] = true
		x.tenant(p.origin, "tenant", p.Tenant)
		title := "plan " + p.Name + " of tenant " + p.Tenant
		if p.From != "" {
			title += " from " + p.From
		}
		x.once(p.origin, "name", title)
	}
	for i := range d.Peers {
		p := &d.Peers[i]
		for j, t := range p.Tenants {
			x.tenant(p.origin, fmt.Sprintf("tenants[%d]", j), t)
		}
		x.once(p.origin, "host", "peer "+p.Host+" of realm "+otherwise(p.Realm, "(any)"))
	}
	for i := range d.Subscribers {
		if len(x.errs) < errorsMax {
			x.subscriber(&d.Subscribers[i])
		}
	}
	return errors.Join(x.errs...)
}

// with is c with these tenants and nothing but tenants.
func (c *Catalogue) with(tenants []Tenant) *Catalogue {
	n := &Catalogue{tenants: make(map[string]*Tenant)}
	maps.Copy(n.tenants, c.tenants)
	for i := range tenants {
		n.tenants[tenants[i].Name] = &tenants[i]
	}
	n.settleTenants()
	return n
}

// A crossing is what Cross has seen so far.
type crossing struct {
	c              *Catalogue
	tenants, plans map[string]bool
	seen           map[string]bool
	owners         map[string]string // identity → account
	then           *Catalogue        // c with the tenants that are declared
	peers          []*Peer           // of c, and those that are declared
	errs           []error
}

func (x *crossing) wrong(o *origin, path, format string, args ...any) {
	if len(x.errs) < errorsMax {
		x.errs = append(x.errs, o.explain(nil, wrong(path, format, args...)))
	}
}

func (x *crossing) once(o *origin, path, what string) {
	if x.seen[what] {
		x.wrong(o, path, "%s is declared twice", what)
	}
	x.seen[what] = true
}

func (x *crossing) tenant(o *origin, path, name string) {
	if !x.tenants[name] && x.c.Tenant(name) == nil {
		x.wrong(o, path, "there is no tenant %q: declare it with kind: Tenant", name)
	}
}

// apart checks that no other tenant has a realm of t, or identities of its ranges.
func (x *crossing) apart(t *Tenant) {
	for i, r := range t.Realms {
		for _, p := range x.peers {
			if strings.EqualFold(p.Realm, r) && (len(p.Tenants) != 1 || p.Tenants[0] != t.Name) {
				x.wrong(t.origin, fmt.Sprintf("realms[%d]", i), "%s is the realm of peer %s, which serves others too: a tenant's realm means it alone", r, p.Host)
			}
		}
	}
	for _, o := range x.then.Tenants() {
		if o.Name == t.Name {
			continue
		}
		if mine, other := t.overlap(o); mine != "" {
			x.wrong(t.origin, "ranges", "%s and %s of tenant %s have identities in common: an identity belongs to one tenant", mine, other, o.Name)
		}
		for i, r := range t.Realms {
			if slices.Contains(o.Realms, r) {
				x.wrong(t.origin, fmt.Sprintf("realms[%d]", i), "%s is a realm of tenant %s too: a realm means one tenant", r, o.Name)
			}
		}
	}
}

func (x *crossing) subscriber(s *Subscriber) {
	if x.then.Tenant(s.Tenant) == nil {
		x.tenant(s.origin, "tenant", s.Tenant)
		return
	}
	if !x.plans[s.Tenant+"/"+s.Plan] && x.c.Plans(s.Tenant, []byte(s.Plan)) == nil {
		x.wrong(s.origin, "plan", "tenant %s has no plan %q: declare it with kind: Plan", s.Tenant, s.Plan)
		return
	}
	x.once(s.origin, "account", "account "+s.Account+" of tenant "+s.Tenant)
	ids, err := s.AllIdentities()
	if err != nil {
		x.errs = append(x.errs, s.origin.explain(nil, err))
		return
	}
	for _, id := range ids {
		if err := x.then.Admits(s.Tenant, id); err != nil {
			x.wrong(s.origin, s.pathOf(id), "%v", err)
			return
		}
		if other, taken := x.owners[id]; taken {
			x.wrong(s.origin, s.pathOf(id), "%s belongs to account %s already", id, other)
			return
		}
		x.owners[id] = s.Account
	}
}

// pathOf says where an identity is written.
func (s *Subscriber) pathOf(id string) string {
	for i, text := range s.Identities {
		if other, _ := CanonicalIdentity(text); other == id {
			return fmt.Sprintf("identities[%d]", i)
		}
	}
	if s.IMSI != "" && "imsi:"+s.IMSI == id {
		return "imsi"
	}
	return "msisdn"
}
