package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"rtm/store/storetest"
)

// tell runs the command line and returns what it prints, and its exit code.
func tell(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	var b bytes.Buffer
	root := command()
	root.SetArgs(args)
	root.SetOut(&b)
	err := root.ExecuteContext(t.Context())
	if err == nil {
		return b.String(), 0
	}
	code = exitFailed
	var e exitError
	if errors.As(err, &e) {
		code = e.code
	}
	return b.String() + "rtm: " + err.Error() + "\n", code
}

// putFiles makes a directory with these files the current one.
func putFiles(t *testing.T, texts map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, text := range texts {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	shopTenant = "kind: Tenant\nname: shop\ncurrency: EUR\n"
	shopPlan   = `kind: Plan
tenant: shop
name: basic
services:
  - {name: data, unit: octets, price: "0.01"}
`
)

func TestCheckExamples(t *testing.T) {
	t.Chdir("../..")
	out, code := tell(t, "check", "examples/lab.yaml", "examples/rtm.yaml")
	want := `examples/lab.yaml: 1 tenant, 1 plan (6 services), 1 peer, 11 subscribers: ok
examples/rtm.yaml: settings of instance a: ok
`
	if out != want || code != 0 {
		t.Errorf("exit %d:\n%s", code, out)
	}
}

func TestCheckFiles(t *testing.T) {
	const sub = `{"tenant": "shop", "plan": "basic", "imsi": "00101000000000`
	for name, c := range map[string]struct {
		files map[string]string
		args  string
		want  []string
		code  int
	}{
		"documents of several files belong together": {
			map[string]string{"t.yaml": shopTenant, "p.yaml": shopPlan, "s.jsonl": sub + "1\"}\n\n" + sub + "2\"}\n"}, "s.jsonl p.yaml t.yaml",
			[]string{"s.jsonl: 2 subscribers: ok\np.yaml: 1 plan (1 service): ok\nt.yaml: 1 tenant: ok\n"}, 0,
		},
		"a plan that is not there": {
			map[string]string{"s.ndjson": sub + "1\"}\n"}, "s.ndjson",
			[]string{"s.ndjson: 1 subscriber: 1 error\n", `there is no tenant "shop": declare it`, "1 of 1 file wrong; with --server, what a running server has counts too\n"}, 1,
		},
		"a plan that cannot be read is not missed as well": {
			map[string]string{"p.yaml": shopTenant + "---\n" + strings.Replace(shopPlan, "octets", "bytes", 1), "s.jsonl": sub + "1\"}\n"}, "p.yaml s.jsonl",
			[]string{"p.yaml: 1 tenant: 1 error\n  error: p.yaml: [9:24] services[0].unit: \"bytes\" must be octets", "s.jsonl: 1 subscriber: ok\n", "1 of 2 files wrong\n"}, 1,
		},
		"lines that are wrong are counted": {
			map[string]string{"p.yaml": shopTenant + "---\n" + shopPlan, "s.jsonl": strings.Repeat("{\"imsy\": 1}\n", 12) + sub + "1\"}\n"}, "p.yaml s.jsonl",
			[]string{"s.jsonl: 1 subscriber: 12 errors\n", "s.jsonl: line 10: ", "  error: s.jsonl: and 2 errors more\n"}, 1,
		},
		"two subscribers of one identity, in two files": {
			map[string]string{"p.yaml": shopTenant + "---\n" + shopPlan, "a.jsonl": sub + "1\"}\n", "b.jsonl": sub + "1\", \"account\": \"x\"}\n"}, "p.yaml a.jsonl b.jsonl",
			[]string{"a.jsonl: 1 subscriber: ok\nb.jsonl: 1 subscriber: 1 error\n", "imsi:001010000000001 belongs to account imsi-001010000000001 already"}, 1,
		},
		"settings": {
			map[string]string{"rtm.yaml": "http: 0.0.0.0:80\n", "typo.yaml": "store: embedded:x\npeerhost: a.b\n"}, "rtm.yaml typo.yaml",
			[]string{"rtm.yaml: 1 error\n  error: rtm.yaml: http: 0.0.0.0 is not a loopback address", "typo.yaml: 1 error\n", `unknown field "peerhost"`, "2 of 2 files wrong\n"}, 1,
		},
		"a file that is not there": {nil, "nowhere.yaml", []string{"open nowhere.yaml: no such file or directory\n"}, exitUsage},
		"no file":                  {nil, "", []string{"name at least one file"}, exitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			putFiles(t, c.files)
			out, code := tell(t, append([]string{"check"}, strings.Fields(c.args)...)...)
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("%q is missing", want)
				}
			}
			if code != c.code || t.Failed() {
				t.Errorf("exit %d:\n%s", code, out)
			}
		})
	}
}

// What a plan with zones and times leaves to nobody is told; what its parts make up
// together is not.
func TestCheckWarnsOfGaps(t *testing.T) {
	plan := func(services string) string {
		return shopTenant + `---
kind: Plan
tenant: shop
name: odd
times: [{name: day, from: "06:00", to: "22:00"}, {name: night, from: "22:00", to: "06:00"}]
zones: [{name: eu, networks: ["262"]}]
services:
  - {name: by day, ratingGroups: [10], default: true, times: [day], unit: octets, price: "1"}
` + services
	}
	const outside = "has zones or times, and outside of them nothing takes what it takes there"
	for services, want := range map[string]string{
		"  - {name: by night, ratingGroups: [10], default: true, times: [night], unit: octets, price: \"1\"}\n  - {name: home, zones: [eu], unit: octets, price: \"1\"}\n": `[13:12] services[2].name: "home" ` + outside,
		"  - {name: home, ratingGroups: [10], default: true, zones: [eu], unit: octets, price: \"1\"}\n  - {name: late, times: [night], unit: octets, price: \"1\"}\n":     `[13:12] services[2].name: "late" ` + outside, // of what is not group 10
		"  - {name: rest, zones: [], unit: octets, price: \"2\"}\n  - {name: home, zones: [eu], times: [night], unit: octets, price: \"1\"}\n":                             `[13:12] services[2].name: "home" never applies, since "rest" before it`,
	} {
		putFiles(t, map[string]string{"w.yaml": plan(services)})
		out, code := tell(t, "check", "w.yaml")
		if code != 0 || !strings.Contains(out, "  warning: w.yaml: "+want) || strings.Contains(out, `"by day" `+outside) { // night and day are all there is
			t.Errorf("exit %d, want %q:\n%s", code, want, out)
		}
	}
}

func TestCheckWarns(t *testing.T) {
	putFiles(t, map[string]string{"w.yaml": shopTenant + `---
kind: Plan
tenant: shop
name: odd
services:
  - {name: data, contexts: [32251], ratingGroups: [10, 20], unit: octets, price: "1", quota: {validity: 30 s}}
  - {name: video, contexts: [32251], ratingGroups: [20], unit: octets, price: "2"}
  - {name: calls, contexts: [32260], ratingGroups: [20], unit: seconds, price: "2"}
grace: 5 s
---
kind: Peer
host: "*"
sources: [0.0.0.0/0]
tenants: [shop]
`})
	out, code := tell(t, "check", "w.yaml")
	if code != 0 || !strings.HasPrefix(out, "w.yaml: 1 tenant, 1 plan (3 services), 1 peer: ok, 5 warnings\n") {
		t.Errorf("exit %d", code)
	}
	for _, want := range []string{
		"[9:105] services[0].quota.validity: each open session asks again every 30s",
		`[10:12] services[1].name: "video" never applies, since "data" before it takes all that it could`,
		"[9:3] services: no service takes what names neither rating group nor service",
		"[12:8] grace: 5s is less than the 10s",
		"[16:11] sources[0]: any host from any address is let in",
	} {
		if !strings.Contains(out, "  warning: w.yaml: "+want) {
			t.Errorf("%q is missing", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

func TestCheckAsData(t *testing.T) {
	putFiles(t, map[string]string{"t.yaml": shopTenant, "p.yaml": "kind: Plan\n"})
	out, code := tell(t, "check", "-o", "json", "t.yaml", "p.yaml")
	var got struct{ Files []fileReport }
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&got); err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	if code != 1 || len(got.Files) != 2 || !got.Files[0].OK || got.Files[1].OK || len(got.Files[1].Errors) != 1 {
		t.Errorf("exit %d, %+v", code, got)
	}
}

// What a running server has counts, and it says what it would change.
func TestCheckWithServer(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	lab, err := os.ReadFile("../../examples/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	putFiles(t, map[string]string{
		"s.jsonl": `{"tenant": "lab", "plan": "standard", "imsi": "001010000000099"}`, "lab.yaml": string(lab), "shop.yaml": shopTenant + "---\n" + shopPlan,
		"dear.yaml": strings.Replace(string(lab), `price: "0.01"`, `price: "0.03"`, 1), "usd.yaml": "kind: Tenant\nname: lab\ncurrency: USD\n",
	})
	for args, want := range map[string]string{
		"s.jsonl":            "s.jsonl: 1 subscriber: ok\n",
		"lab.yaml shop.yaml": "server: Tenant lab: unchanged\nserver: Tenant shop: created\nserver: Plan lab/standard: unchanged\nserver: Plan shop/basic: created\n",
		"dear.yaml":          "server: Plan lab/standard: changed\n",
		"usd.yaml":           "error: usd.yaml: [3:11] currency: \"lab\" is EUR, and a tenant's currency cannot change",
	} {
		out, code := tell(t, append([]string{"check", "--server", "--api", l.api}, strings.Fields(args)...)...)
		if !strings.Contains(out, want) || (code != 0) != strings.Contains(want, "error") {
			t.Errorf("%s: exit %d:\n%s", args, code, out)
		}
	}
	if out, code := tell(t, "check", "--server", "--api", "http://127.0.0.1:1", "s.jsonl"); code != exitUnreachable {
		t.Errorf("without a server: exit %d:\n%s", code, out)
	}
	if _, code := tell(t, "check", "s.jsonl"); code != exitFailed {
		t.Errorf("without --server the plan is there: exit %d", code)
	}
}
