package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rtm"
	"rtm/api"
	"rtm/cdr"
	"rtm/charging"
	"rtm/rtmtest"
	"rtm/store"
	"rtm/store/storetest"
	"rtm/tenant"
)

// stores are those that lists must be whole on.
var stores = map[string]func(testing.TB) store.Store{"embedded": embedded, "redis": onRedis}

// shelves is what stock puts in.
const (
	shops     = 60 // subscribers of tenant shop, every third with a session
	kiosks    = 15 // … of tenant kiosk, without any
	otherPlan = 10 // of shop's have the plan premium
)

// stock declares two tenants and gives them subscribers and sessions.
func stock(t *testing.T, l *lab) {
	t.Helper()
	putFiles(t, map[string]string{"two.yaml": shopTenant + "---\n" + strings.Replace(shopPlan, `"}`, `", allowances: [start]}`, 1) + "allowances: [{name: start, unit: octets, amount: 1 MiB}]\n---\n" +
		strings.Replace(shopPlan, "basic", "premium", 1) + "---\nkind: Tenant\nname: kiosk\ncurrency: EUR\ndescription: a small one\n---\n" +
		strings.Replace(shopPlan, "shop", "kiosk", 1) + `---
kind: Peer
host: gw.kiosk.example
realm: kiosk.example
sources: [192.0.2.0/24]
relays: [roaming.example]
tenants: [kiosk]
---
kind: Peer
host: gw0.shop.example
sources: [127.0.0.0/8]
tenants: [shop]
`})
	good(t, l, "apply", "-f", "two.yaml")
	n := l.live()[0]
	subs := []rtm.Subscription{}
	for i := range shops + kiosks {
		s := rtm.Subscription{Tenant: "shop", Account: fmt.Sprint("a", i), Profile: charging.Profile{
			Plan: "basic", Identities: []string{fmt.Sprintf("imsi:%015d", i)}, Money: 5_000_000,
		}}
		switch {
		case i >= shops:
			s.Tenant = "kiosk"
		case i < otherPlan:
			s.Profile.Plan = "premium"
		}
		subs = append(subs, s)
	}
	for i, p := range n.ProvisionAll(t.Context(), subs) {
		if p.Err != nil {
			t.Fatal(p.Err)
		}
		if i < shops && i%3 == 0 {
			began(t, n, i)
		}
	}
}

// began opens a session of subscriber shop/a‹i›, from one of two gateways.
func began(t *testing.T, n *rtm.Instance, i int) {
	t.Helper()
	host := fmt.Sprintf("gw%d.shop.example", i%2)
	a, err := n.Do(t.Context(), &rtm.Inbound{Account: tenant.AccountKey("shop", fmt.Sprint("a", i)), Request: charging.Request{
		Kind: charging.Initial, Realm: []byte("shop.example"), Host: []byte(host), Session: fmt.Appendf(nil, "%s;%d", host, i), Context: 32251, Content: 1,
		Identity: fmt.Appendf(nil, "imsi:%015d", i), Asks: []charging.Ask{{Wants: true, Has: charging.HasGroup, Group: 1}},
		Particulars: charging.Particulars{APN: fmt.Appendf(nil, "apn%d", i%4)},
	}})
	if err != nil || a.Result != charging.Success {
		t.Fatal(a, err)
	}
}

// both runs the command line like tell, and keeps what it says beside a result.
func both(t *testing.T, ctx context.Context, args ...string) (out, told string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	root := command()
	root.SetArgs(args)
	root.SetOut(&o)
	root.SetErr(&e)
	err := root.ExecuteContext(ctx)
	if x, _ := errors.AsType[exitError](err); err != nil {
		code = max(x.code, exitFailed)
		e.WriteString("rtm: " + err.Error() + "\n")
	}
	return o.String(), e.String(), code
}

// good runs a command against l, which must go well.
func good(t *testing.T, l *lab, args ...string) string {
	t.Helper()
	out, told, code := both(t, t.Context(), append(args, "--api", l.api)...)
	if code != 0 {
		t.Fatalf("rtm %v: exit %d\n%s%s", args, code, out, told)
	}
	return out
}

// items runs a list that prints JSON.
func items[T any](t *testing.T, l *lab, args ...string) (list []T) {
	t.Helper()
	if err := json.Unmarshal([]byte(good(t, l, append(args, "-o", "json")...)), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

var goOn = regexp.MustCompile(`there are more: --cursor ([\w-]+) goes on`)

// paged follows the cursors of a list to its end.
func paged[T any](t *testing.T, l *lab, args ...string) (list []T, pages int) {
	t.Helper()
	args = append(args, "-o", "json", "--api", l.api)
	for cursor := []string{}; ; pages++ {
		out, told, code := both(t, t.Context(), append(args, cursor...)...)
		var page []T
		if err := json.Unmarshal([]byte(out), &page); err != nil || code != 0 {
			t.Fatalf("%v: exit %d, %v\n%s%s", args, code, err, out, told)
		}
		list = append(list, page...)
		m := goOn.FindStringSubmatch(told)
		if m == nil {
			return list, pages + 1
		}
		cursor = []string{"--cursor", m[1]}
	}
}

// Page by page or all at once, a list is everything there is, each once.
func TestListsAreWhole(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			l := startLab(t, open(t), 1)
			stock(t, l)
			name := func(a api.Account) string { return a.Tenant + "/" + a.Account }
			all := items[api.Account](t, l, "subscriber", "list", "--all")
			some, pages := paged[api.Account](t, l, "subscriber", "list", "--limit", "7")
			for what, list := range map[string][]api.Account{"--all": all, "--limit 7": some} {
				names := make(map[string]bool)
				for _, a := range list {
					names[name(a)] = true
				}
				if len(list) != shops+kiosks || len(names) != len(list) {
					t.Errorf("%s: %d subscribers, %d of them different", what, len(list), len(names))
				}
			}
			if pages < 2 {
				t.Errorf("75 subscribers on %d pages of 7", pages)
			}
			sessions, _ := paged[api.Session](t, l, "session", "list", "--limit", "3")
			ids := make(map[string]bool)
			for _, s := range sessions {
				ids[s.Session] = true
			}
			if len(sessions) != shops/3 || len(ids) != len(sessions) {
				t.Errorf("%d sessions, %d of them different", len(sessions), len(ids))
			}
			table := good(t, l, "subscriber", "list", "--all")
			if n := strings.Count(table, "\n"); n != 1+shops+kiosks || strings.Count(table, "SUBSCRIBER") != 1 || strings.Contains(table, "more:") {
				t.Errorf("a table of all has %d lines", n)
			}
			if table := good(t, l, "subscriber", "list", "--limit", "1"); !goOn.MatchString(table) {
				t.Errorf("the last line does not say how to go on:\n%s", table)
			}
		})
	}
}

func TestListFilters(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	stock(t, l)
	for args, want := range map[string]int{
		"--tenant shop": shops, "--tenant kiosk": kiosks, "--tenant nobody": 0, "--plan premium": otherPlan, "--tenant kiosk --plan premium": 0,
		"--open": shops / 3, "--open --plan premium": 4, "--open=false --tenant kiosk": kiosks,
	} {
		if got := items[api.Account](t, l, append(strings.Fields("subscriber list --all"), strings.Fields(args)...)...); len(got) != want {
			t.Errorf("subscriber list %s: %d, want %d", args, len(got), want)
		}
	}
	for args, want := range map[string]int{
		"": 20, "--tenant shop": 20, "--tenant kiosk": 0, "--host gw1.shop.example": 10, "--host GW0.Shop.Example": 10, "--apn apn3": 5,
		"--host gw1.shop.example --apn apn0": 0, "--subscriber 000000000000003": 1, "--subscriber shop/a3 --host gw1.shop.example": 1,
		"--subscriber shop/a4": 0, "--subscriber shop/a3 --tenant kiosk": 0, "--idle 1ns": 20, "--idle 1h": 0,
	} {
		if got := items[api.Session](t, l, append(strings.Fields("session list --all"), strings.Fields(args)...)...); len(got) != want {
			t.Errorf("session list %s: %d, want %d", args, len(got), want)
		}
	}
	s := items[api.Session](t, l, "session", "list", "--subscriber", "shop/a3")[0]
	if s.Session != "gw1.shop.example;3" || s.APN != "apn3" || s.Account != "a3" || s.Messages != 1 {
		t.Errorf("%+v", s)
	}
}

func TestRecordFilters(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	stock(t, l)
	total := shops + kiosks + shops/3
	rtmtest.Until(t, "all records are in files", func() bool { return len(items[cdr.Record](t, l, "cdr", "list", "--all")) == total })
	for args, want := range map[string]int{
		"--type provisioned": shops + kiosks, "--type message": shops / 3, "--type final": 0, "--tenant kiosk": kiosks, "--account a3": 2, "--account shop/a3": 2,
		"--account kiosk/a3": 0, "--session gw1.shop.example;3": 1, "--since 1h": total, "--until 1h": 0, "--since 2030-01-01T00:00:00Z": 0,
		"--until 2030-01-01T00:00:00Z": total,
	} {
		if got := items[cdr.Record](t, l, append(strings.Fields("cdr list --all"), strings.Fields(args)...)...); len(got) != want {
			t.Errorf("cdr list %s: %d, want %d", args, len(got), want)
		}
	}
	all := items[cdr.Record](t, l, "cdr", "list", "--all")
	back, pages := paged[cdr.Record](t, l, "cdr", "list", "--limit", "11")
	slices.Reverse(back) // pages go back in time: newest last within each, so compare as sets
	ids := func(list []cdr.Record) (ids []string) {
		for i := range list {
			ids = append(ids, list[i].ID)
		}
		slices.Sort(ids)
		return ids
	}
	if d := cmp.Diff(ids(all), ids(back)); d != "" || pages != (total+10)/11 {
		t.Errorf("%d pages: %s", pages, d)
	}
	if newest := items[cdr.Record](t, l, "cdr", "list", "--limit", "1"); newest[0].ID != all[len(all)-1].ID {
		t.Errorf("the newest is %s, the last of all is %s", newest[0].ID, all[len(all)-1].ID)
	}
}

// What is shown of a plan can be applied again, and says the same.
func TestPlanShowIsADocument(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	second := "kind: Plan\ntenant: lab\nname: standard\nfrom: 2020-01-01T00:00:00Z\ndescription: \"cheap: #1, 'yes'\"\nservices: [{name: \"0x10\", unit: octets, price: \"0.10\"}]\n" +
		"---\nkind: Plan\ntenant: lab\nname: standard\nfrom: 2099-01-01T00:00:00Z\nservices: [{name: x, unit: octets, price: \"1\"}]\n"
	putFiles(t, map[string]string{"second.yaml": second})
	good(t, l, "apply", "-f", "second.yaml")
	for version := 1; version <= 3; version++ {
		args := []string{"plan", "show", "lab/standard", "--version", fmt.Sprint(version)}
		want, _ := l.live()[0].Catalogue().Plans("lab", []byte("standard")).Document(uint32(version))
		for _, format := range []string{"table", "yaml", "json"} {
			text := good(t, l, append(args, "-o", format)...)
			docs, err := tenant.Parse("shown", []byte(text))
			if err != nil || len(docs.Plans) != 1 {
				t.Fatalf("version %d: %v\n%s", version, err, text)
			}
			w, _ := json.Marshal(want)
			g, _ := json.Marshal(docs.Plans[0])
			if d := cmp.Diff(string(w), string(g)); d != "" {
				t.Errorf("version %d as %s: %s", version, format, d)
			}
		}
	}
	shown := good(t, l, "plan", "show", "lab/standard")
	if !strings.HasPrefix(shown, "# version 2 of 3, in force\nkind: Plan\n") {
		t.Error(shown)
	}
	putFiles(t, map[string]string{"again.yaml": shown})
	if out := good(t, l, "apply", "-f", "again.yaml"); !strings.Contains(out, "unchanged") {
		t.Error(out)
	}
	plans := items[api.Plan](t, l, "plan", "list")
	if len(plans) != 1 || len(plans[0].Versions) != 3 || !plans[0].Versions[1].InForce || plans[0].Versions[2].From != "2099-01-01T00:00:00Z" {
		t.Errorf("%+v", plans)
	}
	if table := good(t, l, "plan", "list", "--tenant", "lab"); !regexp.MustCompile(`lab/standard +2 +2020-01-01T00:00:00Z +yes`).MatchString(table) {
		t.Error(table)
	}
}

func TestTenantsAndPeers(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 2)
	stock(t, l)
	if out := good(t, l, "tenant", "list"); !regexp.MustCompile(`kiosk +EUR +a small one\nshop +EUR`).MatchString(out) {
		t.Error(out)
	}
	if out := good(t, l, "tenant", "show", "shop"); !strings.Contains(out, "basic premium\n") || !strings.Contains(out, "gw0.shop.example\n") {
		t.Error(out)
	}
	dialPeer(t, l.targets[0], "gw0.shop.example", "shop.example")
	dialPeer(t, l.targets[1], "GW0.shop.example", "shop.example")
	dialPeer(t, l.targets[1], "stranger.example", "example")
	var peers []api.Peer
	rtmtest.Until(t, "all are listed", func() bool {
		peers = items[api.Peer](t, l, "peer", "list")
		return len(peers) == 3 && len(peers[1].Instances) == 2
	})
	if p := peers[1]; p.Host != "gw0.shop.example" || !p.Declared || strings.Join(p.Instances, "") != "AB" || p.Dialect != "generic" {
		t.Errorf("%+v", p)
	}
	if p := peers[0]; p.Host != "gw.kiosk.example" || p.Realm != "kiosk.example" || !p.Declared || p.Instances == nil || len(p.Instances) > 0 {
		t.Errorf("%+v", p)
	}
	if p := peers[2]; p.Host != "stranger.example" || p.Declared || strings.Join(p.Instances, "") != "B" {
		t.Errorf("%+v", p)
	}
	if out := good(t, l, "peer", "show", "gw.kiosk.example"); !strings.Contains(out, "roaming.example") || !strings.Contains(out, "nobody") || !strings.Contains(out, "192.0.2.0/24") {
		t.Error(out)
	}
	if out := good(t, l, "peer", "list"); !strings.Contains(out, "(not declared)") {
		t.Error(out)
	}
	if out := good(t, l, "instance", "list"); !regexp.MustCompile(`(?m)^B +b\.ocs\S* .* GW0.shop.example stranger.example$`).MatchString(out) {
		t.Error(out)
	}
}

// What is exported can be imported elsewhere, and is exported there alike.
func TestExportIsAnImport(t *testing.T) {
	l := startLab(t, embedded(t), 1)
	stock(t, l)
	good(t, l, "balance", "topup", "shop/a20", "7 MiB", "--unit", "octets", "--until", "2099-01-01T00:00:00Z")
	good(t, l, "balance", "topup", "shop/a20", "1.25")
	empty := `{"tenant":"shop","account":"empty","plan":"basic","identities":["imsi:777777777777777"],"balance":"0.00","buckets":[]}` + "\n"
	if err := os.WriteFile("empty.jsonl", []byte(empty), 0o644); err != nil { // its allowance is used up: an import gives it no other
		t.Fatal(err)
	}
	good(t, l, "import", "empty.jsonl")
	good(t, l, "export", "-f", "all.jsonl")
	all, err := os.ReadFile("all.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	line := `{"tenant":"shop","account":"a20","plan":"basic","identities":["imsi:000000000000020"],"balance":"6.25","buckets":[` +
		`{"unit":"octets","amount":"7 MiB","until":"2099-01-01T00:00:00Z"},{"unit":"octets","amount":"1 MiB","allowance":"start"}]}` + "\n"
	if n := bytes.Count(all, []byte("\n")); n != shops+kiosks+1 || !bytes.Contains(all, []byte(line)) || !bytes.Contains(all, []byte(empty)) {
		t.Errorf("%d lines, or not\n%s\nin\n%s", n, line, all)
	}
	if out := good(t, l, "export", "--tenant", "kiosk"); strings.Count(out, "\n") != kiosks || strings.Contains(out, "shop") || !strings.Contains(out, `"buckets":[]`) {
		t.Error(out)
	}
	if left, _ := filepath.Glob("*.part"); left != nil {
		t.Errorf("left: %v", left)
	}
	other := startLab(t, storetest.NewMemory(), 1)
	good(t, other, "apply", "-f", "two.yaml")
	if out := good(t, other, "import", "all.jsonl"); !strings.Contains(out, "76 created") {
		t.Error(out)
	}
	sorted := func(text string) []string { return slices.Sorted(strings.Lines(text)) }
	if d := cmp.Diff(sorted(string(all)), sorted(good(t, other, "export"))); d != "" {
		t.Error(d)
	}
}

// An export that breaks off leaves the file that was there.
func TestExportIsWholeOrNothing(t *testing.T) {
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("cursor") != "" {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, `{"cursor":"x","subscribers":[{"subscriber":{"tenant":"t","account":"a"},"doubts":["its balance is -1.00, and 0 was written"]}]}`)
	}))
	defer broken.Close()
	putFiles(t, map[string]string{"all.jsonl": "old\n"})
	_, told, code := both(t, t.Context(), "export", "-f", "all.jsonl", "--api", broken.URL)
	if code != exitFailed || !strings.Contains(told, "t/a: its balance is -1.00") || !strings.Contains(told, "all.jsonl was not written") {
		t.Errorf("exit %d\n%s", code, told)
	}
	files, _ := filepath.Glob("*")
	if b, _ := os.ReadFile("all.jsonl"); string(b) != "old\n" || len(files) != 1 {
		t.Errorf("%v: %s", files, b)
	}
}

// Each way to a session works from the command line, and the slow one says so.
func TestSessionShowFindsIt(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	stock(t, l)
	id := "gw1.shop.example;3"
	for args, slow := range map[string]bool{"": true, "--subscriber shop/a3": false, "--subscriber 000000000000003": false} {
		for _, verb := range []string{"show", "reauth"} {
			out, told, code := both(t, t.Context(), append([]string{"session", verb, id, "--api", l.api}, strings.Fields(args)...)...)
			if code != 0 || strings.Contains(told, "--subscriber SUBSCRIBER is faster") != slow || verb == "show" && !strings.Contains(out, "imsi:000000000000003") {
				t.Errorf("%s %s: exit %d\n%s%s", verb, args, code, out, told)
			}
		}
	}
	for _, args := range [][]string{{"session", "show", id, "--subscriber", "shop/a4"}, {"session", "abort", "gw;9"}, {"session", "show", "gw;9"}} {
		if out, told, code := both(t, t.Context(), append(args, "--api", l.api)...); code != exitFailed || !strings.Contains(told, "not found") {
			t.Errorf("%v: exit %d\n%s%s", args, code, out, told)
		}
	}
}

// until is an output that ends what writes to it after a number of looks.
type until struct {
	bytes.Buffer
	mark  string
	times int
	end   func()
}

func (u *until) Write(b []byte) (int, error) {
	n, err := u.Buffer.Write(b)
	if strings.Count(u.String(), u.mark) >= u.times {
		u.end()
	}
	return n, err
}

// A watch repeats until it is told to end, which is no failure.
func TestWatch(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	stock(t, l)
	for format, mark := range map[string]string{"table": "TENANT", "json": "]\n", "yaml": "- name: shop"} {
		ctx, cancel := context.WithCancel(t.Context())
		out := &until{mark: mark, times: 3, end: cancel}
		root := command()
		root.SetArgs([]string{"tenant", "list", "--watch=100ms", "-o", format, "--api", l.api})
		root.SetOut(out)
		if err := root.ExecuteContext(ctx); err != nil {
			t.Error(err)
		}
		if got := strings.Count(out.String(), mark); got != 3 || strings.Contains(out.String(), "\x1b") {
			t.Errorf("%s: %d looks\n%q", format, got, out.String())
		}
		if format == "json" {
			d := json.NewDecoder(&out.Buffer)
			for d.More() {
				var list []tenant.Tenant
				if err := d.Decode(&list); err != nil || len(list) != 2 {
					t.Error(list, err)
				}
			}
		}
		if format == "yaml" && strings.Count(out.String(), "---\n") != 2 {
			t.Errorf("%q", out.String())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if out, told, code := both(t, ctx, "tenant", "list", "--watch", "--api", l.api); code != 0 || out+told != "" {
		t.Errorf("ended before it began: exit %d\n%s%s", code, out, told)
	}
	for args, want := range map[string]int{"tenant list --watch=0s": exitUsage, "tenant list --watch=often": exitUsage, "session show gw;9 --watch": exitFailed} {
		if _, told, code := both(t, t.Context(), append(strings.Fields(args), "--api", l.api)...); code != want {
			t.Errorf("%s: exit %d\n%s", args, code, told)
		}
	}
	if _, _, code := both(t, t.Context(), "tenant", "list", "--watch", "--api", "http://127.0.0.1:1"); code != exitUnreachable {
		t.Errorf("without a server: exit %d", code)
	}
}

// The shell is offered what the server knows, and nothing if that takes long.
func TestCompletion(t *testing.T) {
	completeMax = 10 * time.Second
	defer func() { completeMax = 250 * time.Millisecond }()
	l := startLab(t, storetest.NewMemory(), 1)
	stock(t, l)
	for _, c := range []struct{ args, want string }{
		{"tenant show |", "kiosk shop"}, {"tenant show s|", "shop"}, {"tenant show shop |", ""},
		{"plan show |", "kiosk/basic shop/basic shop/premium"}, {"plan show shop/p|", "shop/premium"},
		{"peer show |", "gw.kiosk.example gw0.shop.example"},
		{"session show gw1.shop.example;3|", "gw1.shop.example;3 gw1.shop.example;33 gw1.shop.example;39"},
		{"session abort --subscriber shop/a3 |", "gw1.shop.example;3"}, {"session show --subscriber shop/a5|", "shop/a5 shop/a50 shop/a51 shop/a52 shop/a53 shop/a54 shop/a55 shop/a56 shop/a57 shop/a58 shop/a59"},
		{"subscriber show 00000000000001|", "000000000000010 000000000000011 000000000000012 000000000000013 000000000000014 000000000000015 000000000000016 000000000000017 000000000000018 000000000000019"},
		{"balance topup imsi:000000000000007|", "imsi:000000000000007"}, {"balance topup shop/a7 1 --unit o|", "octets"},
		{"subscriber list --tenant k|", "kiosk"}, {"subscriber list --tenant kiosk --plan |", "basic"}, {"subscriber add --plan p|", "premium"},
		{"session list --host gw0|", "gw0.shop.example"}, {"cdr list --type un|", "unattributed undelivered unreadable"}, {"cdr list --session gw1.shop.example;9|", "gw1.shop.example;9"},
		{"cdr list --account kiosk/a60|", "kiosk/a60"}, {"export --tenant |", "kiosk shop"}, {"tenant list -o |", "table json yaml"},
	} {
		words := strings.Split(strings.TrimSuffix(c.args, "|"), " ")
		last := len(words) - 1
		args := append(append([]string{"__complete"}, words[:last]...), "--api", l.api, words[last])
		if last > 0 && strings.HasPrefix(words[last-1], "-") {
			args = append(append([]string{"__complete"}, words[:last-1]...), "--api", l.api, words[last-1], words[last])
		}
		out, _, code := both(t, t.Context(), args...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		got := lines[:len(lines)-1] // the last says what the shell should do
		if !strings.HasPrefix(words[last], "table") && !strings.HasPrefix(words[last-1], "-o") {
			slices.Sort(got)
		}
		if strings.Join(got, " ") != c.want || code != 0 {
			t.Errorf("%s\ngot  %v\nwant %s", c.args, got, c.want)
		}
	}
	completeMax = 250 * time.Millisecond
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer slow.Close()
	for _, url := range []string{slow.URL, "http://127.0.0.1:1"} {
		before := time.Now()
		out, _, code := both(t, t.Context(), "__complete", "session", "show", "--api", url, "")
		if took := time.Since(before); code != 0 || strings.TrimSpace(out) != ":4" || took > 5*time.Second {
			t.Errorf("%s: exit %d after %s: %q", url, code, took, out)
		}
	}
}

// ended runs the built program and returns its exit code.
func ended(t *testing.T, args ...string) (out, told string, code int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "RTM_TEST_MAIN=1")
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if x, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || x.ExitCode() < 0) {
		t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// Exit codes tell apart what went wrong, and each sentence what to do.
func TestExitCodes(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	stock(t, l)
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"version", 0, ""},
		{"subscriber", 0, ""},
		{"tenant list", 0, ""},
		{"completion bash", 0, ""},
		{"subscriber shwo", exitUsage, `unknown command "shwo" for "rtm subscriber": did you mean show?` + "\nsee rtm subscriber --help"},
		{"subscribr list", exitUsage, `did you mean subscriber?`},
		{"completion fsh", exitUsage, `fish`},
		{"nonsense", exitUsage, "see rtm --help"},
		{"tenant show", exitUsage, "write rtm tenant show NAME"},
		{"tenant show a b", exitUsage, "write rtm tenant show NAME"},
		{"tenant list x", exitUsage, "write rtm tenant list"},
		{"tenant list --colour", exitUsage, "see rtm tenant list --help"},
		{"tenant list -o xml", exitUsage, "table, json or yaml"},
		{"tenant list --api nowhere", exitUsage, "such as http://127.0.0.1:8868"},
		{"subscriber add 1", exitUsage, `"plan", "tenant" not set: write rtm subscriber add`},
		{"subscriber list --limit 0", exitUsage, "1 or more"},
		{"subscriber list --limit many", exitUsage, "see rtm subscriber list --help"},
		{"subscriber list --cursor x", exitUsage, "leave it out to begin anew"},
		{"session list --idle soon", exitUsage, "--help"},
		{"session list --idle -5m", exitUsage, "such as 90s"},
		{"plan show standard", exitUsage, "such as lab/standard"},
		{"plan show shop/basic --version -1", exitUsage, "--help"},
		{"cdr list --type nothing", exitUsage, "it is one of message"},
		{"cdr list --since yesterday", exitUsage, "nor how long ago, such as 90m"},
		{"balance topup shop/a1 lots", exitUsage, "such as 9.99"},
		{"balance topup shop/a1 1 --unit gold", exitUsage, "money, octets, seconds or events"},
		{"balance topup shop/a1 1 --until soon", exitUsage, "such as 2027"},
		{"export -f no/such/dir", exitUsage, "name another file"},
		{"tenant show nobody", exitFailed, "rtm tenant list shows all"},
		{"plan show shop/gold", exitFailed, "rtm plan list shows all"},
		{"plan show shop/basic --version 9", exitFailed, "its last is 1"},
		{"peer show gw", exitFailed, "rtm peer list shows all"},
		{"subscriber show 999", exitFailed, "not found"},
		{"session show gw;1", exitFailed, "not found"},
		{"tenant list --api http://127.0.0.1:1", exitUnreachable, "is rtm running, and is --api right?"},
		{"export --api http://127.0.0.1:1", exitUnreachable, "is rtm running"},
	} {
		args := strings.Fields(c.args)
		if !strings.Contains(c.args, "--api") && !slices.Contains([]string{"version", "completion", "nonsense", "subscribr"}, args[0]) && len(args) > 1 && args[1] != "shwo" {
			args = append(args, "--api", l.api)
		}
		out, told, code := ended(t, args...)
		if code != c.code || !strings.Contains(told, c.says) || code == 0 && out == "" {
			t.Errorf("rtm %s: exit %d, want %d with %q\n%s%s", c.args, code, c.code, c.says, out, told)
		}
	}
}
