package main

import (
	"net/http"
	"strings"
	"testing"

	"rtm/api"
	"rtm/diameter"
	"rtm/rtmtest"
	"rtm/store/storetest"
)

// twoTenants share one gateway and one rating group at different prices; a
// third one is not the gateway's.
const twoTenants = `kind: Tenant
name: alpha
currency: EUR
realms: [alpha.example]
ranges: ["imsi:00101*"]
---
kind: Tenant
name: beta
currency: USD
realms: [beta.example]
ranges: ["imsi:00102*"]
---
kind: Tenant
name: gamma
currency: EUR
realms: [gamma.example]
---
{kind: Plan, tenant: alpha, name: basic, services: [{name: data, unit: octets, price: "0.01", per: 1 MiB}]}
---
{kind: Plan, tenant: beta, name: basic, services: [{name: data, unit: octets, price: "0.05", per: 1 MiB}]}
---
{kind: Plan, tenant: gamma, name: basic, services: [{name: data, unit: octets, price: "1.00", per: 1 MiB}]}
---
{kind: Peer, host: pgw.hub.example, realm: hub.example, sources: [127.0.0.0/8], tenants: [alpha, beta]}
---
{kind: Peer, host: pgw.beta.example, realm: beta.example, sources: [127.0.0.0/8], tenants: [beta]}
---
{kind: Subscriber, tenant: alpha, plan: basic, imsi: "001010000000001", balance: "1"}
---
{kind: Subscriber, tenant: beta, plan: basic, imsi: "001020000000001", balance: "1"}
---
{kind: Subscriber, tenant: gamma, plan: basic, imsi: "001030000000001", balance: "1"}
`

// One gateway serves several tenants; whose subscriber it is decides, and must be
// among them. A tenant's realm narrows that down to the tenant.
func TestTenantsOfOneGateway(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	for _, i := range l.instances {
		i.door.learn = false
	}
	r := remote{url: l.api}
	if err := r.call(t.Context(), "POST", "/v1/apply", http.Header{"Content-Type": {"application/yaml"}}, strings.NewReader(twoTenants), nil); err != nil {
		t.Fatal(err)
	}
	hub := dialPeer(t, l.targets[0], "pgw.hub.example", "hub.example")
	own := dialPeer(t, l.targets[0], "pgw.beta.example", "beta.example")
	const alpha, beta, gamma = "001010000000001", "001020000000001", "001030000000001"
	for n, c := range []struct {
		w        *wire
		to, imsi string
		want     int
		why      string
	}{
		{hub, "hub.example", alpha, 2001, "its own realm means any of its tenants"},
		{hub, "rtm.localdomain", beta, 2001, "ours means any of its tenants"},
		{hub, "alpha.example", alpha, 2001, "the realm of the subscriber's tenant"},
		{hub, "ALPHA.example", alpha, 2001, "realms are compared without case"},
		{hub, "alpha.example", beta, 5030, "another tenant's subscriber, as if unknown"},
		{hub, "beta.example", alpha, 5030, "another tenant's subscriber, as if unknown"},
		{hub, "hub.example", gamma, 5030, "a tenant that is not the gateway's, as if unknown"},
		{hub, "gamma.example", gamma, 3003, "the realm of a tenant that is not the gateway's"},
		{hub, "elsewhere.example", alpha, 3003, "nobody's realm"},
		{own, "beta.example", beta, 2001, "its realm is its tenant's"},
		{own, "beta.example", alpha, 5030, "not its tenant"},
		{own, "rtm.localdomain", alpha, 5030, "not its tenant"},
	} {
		host, realm := "pgw.hub.example", "hub.example"
		if c.w == own {
			host, realm = "pgw.beta.example", "beta.example"
		}
		m := c.w.exchange(request(host, realm, c.to, "s;"+string(rune('a'+n)), c.imsi, 1, 0, 0))
		if got := number(m.Body, diameter.ResultCode); got != c.want {
			t.Errorf("%s for %s to %s: %d, want %d: %s", host, c.imsi, c.to, got, c.want, c.why)
		}
	}
	// A session of alpha is not another gateway's to end, whatever it calls itself.
	if m := own.exchange(request("pgw.beta.example", "beta.example", "beta.example", "s;a", alpha, 3, 1, 1)); number(m.Body, diameter.ResultCode) != 5002 {
		t.Errorf("beta's gateway ended alpha's session: %d", number(m.Body, diameter.ResultCode))
	}
	if m := hub.exchange(request("pgw.hub.example", "hub.example", "hub.example", "s;a", alpha, 3, 1, 10<<20)); number(m.Body, diameter.ResultCode) != 2001 {
		t.Errorf("the end of the session: %d", number(m.Body, diameter.ResultCode))
	}
	if m := hub.exchange(request("pgw.hub.example", "hub.example", "hub.example", "s;b", beta, 3, 1, 10<<20)); number(m.Body, diameter.ResultCode) != 2001 {
		t.Errorf("the end of the session: %d", number(m.Body, diameter.ResultCode))
	}
	for imsi, want := range map[string]int64{alpha: 100_000, beta: 500_000, gamma: 0} {
		var sub api.Subscriber
		if err := r.call(t.Context(), "GET", "/v1/subscribers/"+imsi, nil, nil, &sub); err != nil || sub.Buckets[0].Debited != want {
			t.Errorf("%s was debited %+v, want %d (%v)", imsi, sub.Buckets, want, err)
		}
	}
}

// What a gateway addresses to one instance any other answers, also when that one
// is gone.
func TestAnyNameOfTheCluster(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 2)
	l.apply(t, "../../examples/lab.yaml")
	a := l.instances[0]
	a.door.self.Hosts = []string{a.core.Presence.PeerHost} // nobody has told it of the other
	w := dialPeer(t, l.targets[0], "pgw.epc", "epc")
	to := func(host string, n uint32) int {
		b := destined(ccr("pgw.epc", "epc", "s", 1, n, 0), host)
		return number(w.exchange(b).Body, diameter.ResultCode)
	}
	rtmtest.Until(t, "A has heard of B", func() bool { return a.core.Known([]byte("B.ocs.rtm.localdomain")) })
	if got := to("b.ocs.rtm.localdomain", 0); got != 2001 {
		t.Errorf("addressed to the other instance: %d", got)
	}
	l.instances[1].leave()
	rtmtest.Until(t, "B is gone", func() bool { return len(a.core.Instances()) == 1 })
	if got := to("b.ocs.rtm.localdomain", 0); got != 2001 {
		t.Errorf("addressed to the instance that has left: %d", got)
	}
	if got := to("z.ocs.rtm.localdomain", 0); got != 3002 {
		t.Errorf("addressed to a stranger: %d", got)
	}
}

// A request that has been here before, by any name of ours, is refused by the instance
// itself, with nothing charged; where it has been elsewhere does not matter
// (RFC 6733 §6.1.3).
func TestARequestThatWasHereBefore(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1, func(c *config) { c.Identities = []string{"old.ocs.example"} })
	l.apply(t, "../../examples/lab.yaml")
	w := dialPeer(t, l.targets[0], "pgw.epc", "epc")
	through := func(hosts ...string) []byte {
		return longer(ccr("pgw.epc", "epc", "s", 1, 0, 0), func(e *diameter.Encoder) {
			for _, host := range hosts {
				e.String(diameter.RouteRecord, host)
			}
		})
	}
	for _, own := range []string{"ocs.rtm.localdomain", "a.ocs.rtm.localdomain", "A.OCS.rtm.localdomain", "old.ocs.example"} {
		m := w.exchange(through("dra.hub", own, "pgw.epc"))
		if r := number(m.Body, diameter.ResultCode); r != 3005 || m.Flags&diameter.FlagError == 0 {
			t.Errorf("by way of %s: answered %d, E %t", own, r, m.Flags&diameter.FlagError != 0)
		}
	}
	if n := len(l.first(t).Sessions); n != 0 {
		t.Errorf("%d sessions are open", n)
	}
	if r := number(w.exchange(through("dra.hub", "ocs.example")).Body, diameter.ResultCode); r != 2001 {
		t.Errorf("by way of others: answered %d", r)
	}
	if n := len(l.first(t).Sessions); n != 1 {
		t.Errorf("%d sessions are open", n)
	}
}
