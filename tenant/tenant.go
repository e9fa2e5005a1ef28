// Package tenant knows who is who: tenants, their plans and peers (the
// catalogue, kept in the store as versioned documents), and whose identity or
// session something is (the directory). It does not know balances, what is in a
// session, or messages.
package tenant

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"rtm/rating"
)

// A Tenant is an MVNO, or a lab.
type Tenant struct {
	Name        string `json:"name"`
	Currency    string `json:"currency"` // ISO 4217, three letters
	Description string `json:"description,omitempty"`
}

// A Peer is who may connect, and for whom.
type Peer struct {
	Host     string   `json:"host"` // Origin-Host; "*": any
	Realm    string   `json:"realm,omitempty"`
	Sources  []string `json:"sources,omitempty"` // CIDR; empty: any
	Tenants  []string `json:"tenants"`
	Dialect  string   `json:"dialect,omitempty"`
	AnswerAs string   `json:"answerAs,omitempty"` // cluster (default) or instance
}

// Serves reports whether subscribers of that tenant may be named by the peer.
func (p *Peer) Serves(tenant string) bool { return slices.Contains(p.Tenants, tenant) }

// accepts reports whether a connection with that identity from that address is
// this peer's.
func (p *Peer) accepts(host, realm string, source netip.Addr) bool {
	if p.Host != "*" && !strings.EqualFold(p.Host, host) || p.Realm != "" && !strings.EqualFold(p.Realm, realm) {
		return false
	}
	if len(p.Sources) == 0 {
		return true
	}
	for _, s := range p.Sources {
		if n, err := netip.ParsePrefix(s); err == nil && n.Contains(source.Unmap()) {
			return true
		}
	}
	return false
}

// A Catalogue is all tenants, plans and peers of one moment. It is never
// changed; a new one takes its place.
type Catalogue struct {
	head    Head
	version [8]byte
	tenants map[string]*Tenant
	plans   map[string]*Plans // by tenant/name
	peers   []*Peer
}

// Plans is every version of one plan.
type Plans struct {
	versions []*rating.Plan // by version, rising
	from     []time.Time
}

// Current is the version in force at that moment; nil: none yet.
func (p *Plans) Current(at time.Time) *rating.Plan {
	for i := len(p.versions) - 1; i >= 0; i-- {
		if !at.Before(p.from[i]) {
			return p.versions[i]
		}
	}
	return nil
}

// Version is that version; nil: it is not here.
func (p *Plans) Version(n uint32) *rating.Plan {
	i, ok := slices.BinarySearchFunc(p.versions, n, func(v *rating.Plan, n uint32) int { return cmp.Compare(v.Version, n) })
	if !ok {
		return nil
	}
	return p.versions[i]
}

// Plans finds a plan of a tenant; nil: there is none of that name.
func (c *Catalogue) Plans(tenant string, plan []byte) *Plans {
	var buf [128]byte
	key := append(append(append(buf[:0], tenant...), '/'), plan...)
	return c.plans[string(key)]
}

// Tenant finds a tenant; nil: there is none of that name.
func (c *Catalogue) Tenant(name string) *Tenant { return c.tenants[name] }

// Tenants lists all tenants by name.
func (c *Catalogue) Tenants() []*Tenant {
	all := make([]*Tenant, 0, len(c.tenants))
	for _, t := range c.tenants {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *Tenant) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Peers lists all peers, in the order in which they are tried.
func (c *Catalogue) Peers() []*Peer { return c.peers }

// Peer finds who a connection belongs to: the one place where host, realm and
// source are checked. Named hosts are tried before "*".
func (c *Catalogue) Peer(host, realm string, source netip.Addr) (*Peer, bool) {
	for _, p := range c.peers {
		if p.accepts(host, realm, source) {
			return p, true
		}
	}
	return nil, false
}

// A Head lists the documents of the catalogue. It is one record, so that a
// change of several documents is seen as one.
type Head struct {
	Format  int                 `json:"format"`
	Tenants map[string]Tenant   `json:"tenants,omitempty"`
	Peers   []Peer              `json:"peers,omitempty"`
	Plans   map[string]PlanHead `json:"plans,omitempty"` // by tenant/name
}

// PlanHead says how many versions of a plan there are. They are numbered from 1.
type PlanHead struct {
	Versions uint32 `json:"versions"`
	Digest   string `json:"digest"` // of the last version's document
}

// headFormat is the format of Head that this program reads and writes.
const headFormat = 1

func planName(tenant, plan string) string { return fmt.Sprintf("%s/%s", tenant, plan) }
