package api

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rtm"
	"rtm/tenant"
)

type tenantList struct {
	Tenants []*tenant.Tenant `json:"tenants"`
}

func (s *server) tenants(context.Context, *struct{}) (*body[tenantList], error) {
	return &body[tenantList]{tenantList{s.instance().Catalogue().Tenants()}}, nil
}

// TenantDetails is a tenant with what belongs to it.
type TenantDetails struct {
	Tenant *tenant.Tenant `json:"tenant"`
	Plans  []string       `json:"plans"`
	Peers  []string       `json:"peers" doc:"hosts of the peers that may name its subscribers"`
}

type tenantInput struct {
	Tenant string `path:"tenant"`
}

func (s *server) tenant(_ context.Context, in *tenantInput) (*body[TenantDetails], error) {
	c := s.instance().Catalogue()
	out := TenantDetails{Tenant: c.Tenant(in.Tenant), Plans: []string{}, Peers: []string{}}
	if out.Tenant == nil {
		return nil, huma.Error404NotFound(fmt.Sprintf("there is no tenant %q: rtm tenant list shows all", in.Tenant))
	}
	for _, name := range slices.Sorted(maps.Keys(c.PlanNames())) {
		if of, plan, _ := strings.Cut(name, "/"); of == in.Tenant {
			out.Plans = append(out.Plans, plan)
		}
	}
	for _, p := range c.Peers() {
		if p.Serves(in.Tenant) {
			out.Peers = append(out.Peers, p.Host)
		}
	}
	return &body[TenantDetails]{out}, nil
}

// Version is one version of a plan.
type Version struct {
	Version uint32 `json:"version"`
	From    string `json:"from,omitempty" doc:"without it: since ever"`
	InForce bool   `json:"inForce" doc:"what is granted now is granted under this one"`
}

// Plan is a plan with its versions, the oldest first.
type Plan struct {
	Tenant      string    `json:"tenant"`
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Versions    []Version `json:"versions"`
}

type planList struct {
	Plans []Plan `json:"plans"`
}

func (s *server) plans(context.Context, *struct{}) (*body[planList], error) {
	c, now := s.instance().Catalogue(), s.instance().Now()
	out := planList{Plans: []Plan{}}
	for _, name := range slices.Sorted(maps.Keys(c.PlanNames())) {
		of, plan, _ := strings.Cut(name, "/")
		out.Plans = append(out.Plans, versions(of, plan, c.Plans(of, []byte(plan)), now))
	}
	return &body[planList]{out}, nil
}

func versions(of, name string, p *tenant.Plans, now time.Time) Plan {
	out := Plan{Tenant: of, Name: name}
	current := p.Current(now)
	for n := range p.Latest().Version {
		d, _ := p.Document(n + 1)
		out.Versions = append(out.Versions, Version{n + 1, d.From, current != nil && current.Version == n+1})
		out.Description = d.Description
	}
	return out
}

// PlanDetails is one version of a plan.
type PlanDetails struct {
	Plan     Plan            `json:"plan"`
	Version  uint32          `json:"version"`
	Document *tenant.PlanDoc `json:"document" doc:"what was applied, with its defaults; kind: Plan above it makes it a document again"`
}

type planInput struct {
	Tenant  string `path:"tenant"`
	Plan    string `path:"plan"`
	Version uint32 `query:"version" doc:"default: the one in force, or else the last"`
}

func (s *server) plan(_ context.Context, in *planInput) (*body[PlanDetails], error) {
	p, now := s.instance().Catalogue().Plans(in.Tenant, []byte(in.Plan)), s.instance().Now()
	if p == nil {
		return nil, huma.Error404NotFound(fmt.Sprintf("tenant %q has no plan %q: rtm plan list shows all", in.Tenant, in.Plan))
	}
	out := PlanDetails{Plan: versions(in.Tenant, in.Plan, p, now), Version: in.Version}
	if out.Version == 0 {
		out.Version = cmp.Or(p.Current(now), p.Latest()).Version
	}
	d, ok := p.Document(out.Version)
	if !ok {
		return nil, huma.Error404NotFound(fmt.Sprintf("plan %s/%s has no version %d: its last is %d", in.Tenant, in.Plan, in.Version, p.Latest().Version))
	}
	out.Document = &d
	return &body[PlanDetails]{out}, nil
}

// Peer is who may connect, or is connected.
type Peer struct {
	Host        string   `json:"host" doc:"Origin-Host; *: any"`
	Realm       string   `json:"realm,omitempty" doc:"Origin-Realm; without it: any, or not known"`
	Declared    bool     `json:"declared" doc:"a document names this host; else it was learned, or let in by one for any host"`
	Dialect     string   `json:"dialect,omitempty"`
	AnswerAs    string   `json:"answerAs,omitempty"`
	Tenants     []string `json:"tenants"`
	Sources     []string `json:"sources"`
	Certificate string   `json:"certificate,omitempty" doc:"the name in its certificate: it connects with TLS alone"`
	Relays      []string `json:"relays,omitempty"`
	Instances   []string `json:"instances" doc:"those that it is connected to now"`
}

// A Refusal is a connection that was not let in.
type Refusal struct {
	At       time.Time `json:"at" doc:"when it was the last time, by the machine's clock"`
	Instance string    `json:"instance"`
	Host     string    `json:"host" doc:"Origin-Host of its CER; empty: none came"`
	Realm    string    `json:"realm,omitempty" doc:"Origin-Realm"`
	Address  string    `json:"address" doc:"where it came from"`
	Why      string    `json:"why"`
	Fix      string    `json:"fix" doc:"what would have it let in"`
}

type peerList struct {
	Peers   []Peer    `json:"peers"`
	Refused []Refusal `json:"refused,omitempty" doc:"those that the asked server has not let in of late, the last one first; at most 64"`
}

func (s *server) peers(ctx context.Context, _ *struct{}) (*body[peerList], error) {
	list := peerList{Peers: s.known(ctx)}
	if s.Refused != nil {
		list.Refused = s.Refused()
	}
	return &body[peerList]{list}, nil
}

// known lists the peers of the catalogue, then those that are connected and that
// it does not name.
func (s *server) known(ctx context.Context) []Peer {
	n, out := s.instance(), []Peer{}
	connected := connections(ctx, n)
	for _, p := range n.Catalogue().Peers() {
		host := strings.ToLower(p.Host)
		out = append(out, Peer{
			Host: p.Host, Realm: p.Realm, Declared: true, Dialect: p.Dialect, AnswerAs: p.AnswerAs, Tenants: p.Tenants, Sources: append([]string{}, p.Sources...),
			Certificate: p.Certificate, Relays: p.Relays, Instances: append([]string{}, connected[host]...),
		})
	}
	for _, p := range out {
		delete(connected, strings.ToLower(p.Host))
	}
	for _, host := range slices.Sorted(maps.Keys(connected)) {
		out = append(out, Peer{Host: host, Tenants: []string{}, Sources: []string{}, Instances: connected[host]})
	}
	return out
}

// connections says which instances each host is connected to.
func connections(ctx context.Context, n *rtm.Instance) map[string][]string {
	to := make(map[string][]string)
	all := n.Instances()
	for i := range all {
		for _, host := range n.PeersOf(ctx, &all[i]) {
			host = strings.ToLower(host)
			to[host] = append(to[host], all[i].Name)
		}
	}
	return to
}

type peerInput struct {
	Host string `path:"host" doc:"Origin-Host"`
}

// peer lists what is known of a host: one entry for each realm it is declared
// with.
func (s *server) peer(ctx context.Context, in *peerInput) (*body[peerList], error) {
	all := slices.DeleteFunc(s.known(ctx), func(p Peer) bool { return !strings.EqualFold(p.Host, in.Host) })
	if len(all) == 0 {
		return nil, huma.Error404NotFound(fmt.Sprintf("peer %q is neither declared nor connected: rtm peer list shows all", in.Host))
	}
	return &body[peerList]{peerList{Peers: all}}, nil
}
