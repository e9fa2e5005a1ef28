// Package tenant knows who is who: tenants, their plans and peers (the
// catalogue, kept in the store as versioned documents), and whose identity or
// session something is (the directory). It does not know balances, what is in a
// session, or messages.
package tenant

import (
	"cmp"
	"encoding/hex"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"rtm/rating"
	"rtm/store"
)

// A Tenant is an MVNO, or a lab.
type Tenant struct {
	Name        string   `json:"name"`
	Currency    string   `json:"currency"` // ISO 4217, three letters
	Description string   `json:"description,omitempty"`
	Realms      []string `json:"realms,omitempty"` // Destination-Realms that mean this tenant alone
	Ranges      []string `json:"ranges,omitempty"` // identities that it may have: "imsi:00101*", "msisdn:4917-4918"; none of a sort: any

	// What gateways do when no server answers in time (RFC 8506 §8.14, §8.15); default what they are set to.
	FailureHandling               string `json:"failureHandling,omitempty"`               // terminate, continue, retry-and-terminate
	DirectDebitingFailureHandling string `json:"directDebitingFailureHandling,omitempty"` // terminate-or-buffer, continue

	Limits    TenantLimits `json:"limits,omitzero"`
	Emergency EmergencyDoc `json:"emergency,omitzero"`

	origin  *origin
	numbers []numbers // Ranges
}

// TenantLimits is a tenant's part of the servers that it shares with others.
type TenantLimits struct {
	Share int `json:"share,omitempty"` // its part when others want theirs: 2 is twice that of who has 1; default 1
	Rate  int `json:"rate,omitempty"`  // sessions and events that may begin in a second, at all instances together; default any number
}

// A Peer is who may connect, and for whom.
type Peer struct {
	Host        string   `json:"host"`                  // Origin-Host; "*": any that no other document names
	Realm       string   `json:"realm,omitempty"`       // Origin-Realm; empty: any
	Sources     []string `json:"sources,omitempty"`     // networks that it connects from; may be left out with Certificate
	Certificate string   `json:"certificate,omitempty"` // DNS name in its certificate: it connects with TLS alone; empty: with TLS, Host
	Relays      []string `json:"relays,omitempty"`      // Origin-Realms whose messages it passes on; "*": any
	Tenants     []string `json:"tenants"`
	Dialect     string   `json:"dialect,omitempty"`  // one of Dialects; default generic
	AnswerAs    string   `json:"answerAs,omitempty"` // cluster (default) or instance
	Via         []string `json:"via,omitempty"`      // Origin-Hosts of the relays that it is behind: then it needs no Sources
	Restarts    bool     `json:"restarts,omitempty"` // its Origin-State-Id rises when it has lost its sessions: those of a subscriber who comes back end

	origin *origin
}

// Serves reports whether subscribers of that tenant may be named by the peer.
func (p *Peer) Serves(tenant string) bool { return slices.Contains(p.Tenants, tenant) }

// Sends reports whether a message with that Origin-Host and Origin-Realm may
// come over a connection whose CER named host and realm: it is the peer's own,
// or of a realm that the peer relays.
func (p *Peer) Sends(host, realm, originHost, originRealm string) bool {
	if strings.EqualFold(host, originHost) && strings.EqualFold(realm, originRealm) {
		return true
	}
	return p.Leads(originRealm)
}

// Leads reports whether it is a relay of messages of that realm.
func (p *Peer) Leads(realm string) bool {
	return slices.ContainsFunc(p.Relays, func(r string) bool { return r == "*" || strings.EqualFold(r, realm) })
}

// Name is what no other document of a peer has: its host and realm.
func (p *Peer) Name() string { return p.Host + ";" + p.Realm }

// names reports whether the document is about a peer that calls itself so.
func (p *Peer) names(host, realm string) bool {
	return (p.Host == "*" || strings.EqualFold(p.Host, host)) && (p.Realm == "" || strings.EqualFold(p.Realm, realm))
}

// admits reports whether a connection is this peer's, who calls itself host. Over
// TLS, names are those of its certificate, one of which must be the peer's;
// without TLS the address has to do.
func (p *Peer) admits(host string, source netip.Addr, secure bool, names []string) bool {
	if len(p.Sources) > 0 && !slices.ContainsFunc(p.Sources, func(s string) bool {
		n, err := netip.ParsePrefix(s)
		return err == nil && n.Contains(source.Unmap().WithZone(""))
	}) {
		return false
	}
	if !secure {
		return p.Certificate == "" && len(p.Sources) > 0
	}
	name := p.Certificate
	if name == "" {
		name = host
	}
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}

// Behind finds the client behind a relay: its own document says whom it serves and
// how it speaks. nil: it has none, and that of the relay counts.
func (c *Catalogue) Behind(relay, host, realm string) *Peer {
	i := slices.IndexFunc(c.peers, func(p *Peer) bool {
		return p.names(host, realm) && slices.ContainsFunc(p.Via, func(v string) bool { return strings.EqualFold(v, relay) })
	})
	if i < 0 {
		return nil
	}
	return c.peers[i]
}

// Of finds the document of a peer that calls itself so, wherever it connects from; nil:
// there is none.
func (c *Catalogue) Of(host, realm string) *Peer {
	i := slices.IndexFunc(c.peers, func(p *Peer) bool { return p.names(host, realm) })
	if i < 0 {
		return nil
	}
	return c.peers[i]
}

// A Catalogue is all tenants, plans and peers of one moment. It is never
// changed; a new one takes its place.
type Catalogue struct {
	version   store.Version     // of the head record
	documents map[string]uint32 // by name: how many versions there are
	tenants   map[string]*Tenant
	plans     map[string]*Plans // by tenant/name
	peers     []*Peer           // named hosts before "*", named realms before any
	ranged    []*Tenant         // those with ranges
	realms    map[string]string // Destination-Realm → tenant
}

// Plans is every version of one plan. Versions are numbered from 1; the one in
// force is the highest whose time has come, so that no decision is made by an
// older version than the one before it.
type Plans struct {
	versions []*rating.Plan
	docs     []PlanDoc
	from     []time.Time
}

// Current is the version in force at that moment; nil: none yet.
func (p *Plans) Current(at time.Time) *rating.Plan {
	for i, from := range slices.Backward(p.from) {
		if !at.Before(from) {
			return p.versions[i]
		}
	}
	return nil
}

// Next is when another version comes into force than the one at that moment; zero:
// none does.
func (p *Plans) Next(at time.Time) (next time.Time) {
	for _, from := range slices.Backward(p.from) {
		if !at.Before(from) {
			break
		}
		if next.IsZero() || from.Before(next) {
			next = from
		}
	}
	return next
}

// Version is that version; nil: it is not here.
func (p *Plans) Version(n uint32) *rating.Plan {
	if n == 0 || n > uint32(len(p.versions)) {
		return nil
	}
	return p.versions[n-1]
}

// Allows reports whether a version has the allowance with that ID.
func (p *Plans) Allows(allowance uint32) bool {
	return slices.ContainsFunc(p.versions, func(v *rating.Plan) bool {
		return slices.ContainsFunc(v.Allowances, func(a rating.Allowance) bool { return a.ID == allowance })
	})
}

// Latest is the newest version, in force or not.
func (p *Plans) Latest() *rating.Plan { return p.versions[len(p.versions)-1] }

// Document is what a version was made of, with its defaults written out; false:
// it is not here.
func (p *Plans) Document(n uint32) (PlanDoc, bool) {
	if n == 0 || n > uint32(len(p.docs)) {
		return PlanDoc{}, false
	}
	return p.docs[n-1], true
}

// Version names what the catalogue holds: two that have the same hold the same.
func (c *Catalogue) Version() string { return hex.EncodeToString(c.version[:]) }

// Plans finds a plan of a tenant; nil: there is none of that name.
func (c *Catalogue) Plans(tenant string, plan []byte) *Plans {
	var buf [2*nameMax + 1]byte
	if len(tenant)+len(plan) >= len(buf) {
		return nil
	}
	return c.plans[string(append(append(append(buf[:0], tenant...), '/'), plan...))]
}

// Tenant finds a tenant; nil: there is none of that name.
func (c *Catalogue) Tenant(name string) *Tenant { return c.tenants[name] }

// Tenants lists all tenants by name.
func (c *Catalogue) Tenants() []*Tenant {
	all := slices.Collect(maps.Values(c.tenants))
	slices.SortFunc(all, func(a, b *Tenant) int { return cmp.Compare(a.Name, b.Name) })
	return all
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

// Peers lists all peers, in the order in which they are tried.
func (c *Catalogue) Peers() []*Peer { return c.peers }

// PeerNamed finds a peer by its Name; nil: there is none, or no catalogue.
func (c *Catalogue) PeerNamed(name string) *Peer {
	if c == nil {
		return nil
	}
	if i := slices.IndexFunc(c.peers, func(p *Peer) bool { return p.Name() == name }); i >= 0 {
		return c.peers[i]
	}
	return nil
}

// Peer finds who a connection without TLS belongs to: the one place where host,
// realm and source are checked, so that Serves can tell whose subscribers it may
// name.
func (c *Catalogue) Peer(host, realm string, source netip.Addr) (*Peer, bool) {
	return c.find(host, realm, source, false, nil)
}

// SecurePeer is Peer for a connection with TLS. names are the DNS names of the
// certificate that it showed.
func (c *Catalogue) SecurePeer(host, realm string, source netip.Addr, names []string) (*Peer, bool) {
	return c.find(host, realm, source, true, names)
}

func (c *Catalogue) find(host, realm string, source netip.Addr, secure bool, names []string) (*Peer, bool) {
	owner := c.realms[strings.ToLower(realm)] // a tenant's realm is nobody else's to call itself by
	named := false                            // … nor is a host that a document names, whatever the realm
	for _, p := range c.peers {
		switch named = named || strings.EqualFold(p.Host, host) && p.Host != "*"; {
		case owner != "" && !p.Serves(owner), !p.names(host, realm), named && p.Host == "*":
		case p.admits(host, source, secure, names):
			return p, true
		}
	}
	return nil, false
}
