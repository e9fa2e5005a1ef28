package main

import (
	"net"
	"testing"

	"rtm/store/storetest"
)

// namesakes are two tenants whose gateways may call themselves anything, each in a
// realm of their own.
const namesakes = `{kind: Tenant, name: beta, currency: EUR}
---
{kind: Peer, host: "*", realm: alpha.example, sources: [127.0.0.0/8], tenants: [lab]}
---
{kind: Peer, host: "*", realm: beta.example, sources: [127.0.0.0/8], tenants: [beta]}
`

// The gateways of another tenant that call themselves like this one's, or that
// come from the same place, take none of its connections; where its document has
// the name, they do not get in.
func TestConnectionsOfNamesakes(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.instances[0].door.learn = false
	l.apply(t, "../../examples/lab.yaml")
	l.declare(t, namesakes)
	cea := func(realm string) int {
		c, err := net.Dial("tcp", l.targets[0])
		if err != nil {
			t.Fatal(err)
		}
		_, r := introduce(t, c, "pgw1.alpha.example", realm)
		return r
	}
	for range 4 {
		if r := cea("beta.example"); r != 2001 {
			t.Fatalf("beta's gateway gets CEA %d", r)
		}
	}
	if r := cea("beta.example"); r != 5012 {
		t.Errorf("beta's fifth connection gets CEA %d", r)
	}
	if r := cea("alpha.example"); r != 2001 {
		t.Errorf("alpha's own gateway gets CEA %d", r)
	}
	l.declare(t, `{kind: Peer, host: pgw1.alpha.example, realm: alpha.example, sources: [127.0.0.0/8], tenants: [lab]}`)
	if r := cea("beta.example"); r != 3010 {
		t.Errorf("who calls himself as alpha's document does gets CEA %d", r)
	}
	if r := cea("alpha.example"); r != 2001 {
		t.Errorf("alpha's own gateway, which a document names, gets CEA %d", r)
	}
}
