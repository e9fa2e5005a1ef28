package main

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"rtm/rtmtest"
	"rtm/store/storetest"
)

// An SMF that is refused, then known, whose first subscriber is nobody's: each step is
// told with what to do, until there is a grant.
func TestDoctorFollowsAClient(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 2)
	l.apply(t, "../../examples/lab.yaml")
	for _, i := range l.instances {
		i.door.learn = false
	}
	r := remote{url: l.api}
	apply := func(doc string) {
		t.Helper()
		if err := r.call(t.Context(), "POST", "/v1/apply", http.Header{"Content-Type": {"application/yaml"}}, strings.NewReader(doc), nil); err != nil {
			t.Fatal(err)
		}
	}
	const elsewhere = "kind: Peer\nhost: smf.localdomain\nrealm: localdomain\nsources: [192.0.2.1/32]\ntenants: [lab]\n"
	apply(elsewhere)
	var out lockedBuffer
	root := command()
	root.SetArgs([]string{"doctor", "open5gs", "--api", l.api, "--for", "1m"})
	root.SetOut(&out)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	said := func(words string) {
		t.Helper()
		rtmtest.Within(t, 20*time.Second, words, func() bool { return strings.Contains(out.String(), words) })
	}
	said("waiting for smf.localdomain")
	for _, line := range []string{
		`ConnectPeer = "a.ocs.rtm.localdomain" { ConnectTo = "127.0.0.1"; Port = ` + l.targets[0][strings.LastIndexByte(l.targets[0], ':')+1:] + "; No_TLS; };",
		"dialect: open5gs", "enabled: yes", "2 instances are there",
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("it does not say %s:\n%s", line, out.String())
		}
	}
	c, err := net.Dial("tcp", l.targets[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, result := introduce(t, c, "smf.localdomain", "localdomain"); result != 3010 {
		t.Fatalf("the CER was answered %d", result)
	}
	said("smf.localdomain came from 127.0.0.1 to A, and was refused")
	apply(strings.Replace(elsewhere, "192.0.2.1/32", "127.0.0.0/8", 1) + "dialect: open5gs\n")
	w := dialPeer(t, l.targets[1], "smf.localdomain", "localdomain")
	said("it speaks open5gs, for lab")
	said("attach a phone")
	rtmtest.Until(t, "it is watched", func() bool { return l.instances[1].door.tracer.active.Load() > 0 })
	w.exchange(request("smf.localdomain", "localdomain", "localdomain", "s;1", "001019999999999", 1, 0, 0))
	said("rtm subscriber add --imsi 001019999999999")
	w.exchange(request("smf.localdomain", "localdomain", "localdomain", "s;2", "001010000000001", 1, 0, 0))
	said("rtm session show s;2")
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	var list strings.Builder
	root = command()
	root.SetArgs([]string{"peer", "list", "--api", l.api})
	root.SetOut(&list)
	if err := root.Execute(); err != nil || !strings.Contains(list.String(), "refused: smf.localdomain of localdomain at A") {
		t.Errorf("%v: %s", err, list.String())
	}
}

// Without a client, and without a server.
func TestDoctorOfNoClient(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"doctor", "freediameter", "--api", l.api, "--for", "100ms"}, exitFailed, "dra.example.net has not come"},
		{[]string{"doctor", "freediameter", "--api", l.api, "--print"}, 0, "relays: [REALM-OF-THE-GATEWAYS]"},
		{[]string{"doctor", "free5gc"}, exitFailed, ""},
		{[]string{"doctor", "open5gs", "--api", "http://" + rtmtest.FreeAddr(t)}, exitUnreachable, ""},
	} {
		if out, code := tell(t, c.args...); code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("%v: %d\n%s", c.args, code, out)
		}
	}
}
