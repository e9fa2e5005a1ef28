package main

import (
	"os"
	"strings"
	"testing"

	"rtm/store/storetest"
)

// What rtm rate says of a file, before anything is applied, and of a plan in force.
func TestRate(t *testing.T) {
	zones, err := os.ReadFile("../../testdata/scenarios/zones.yaml")
	if err != nil {
		t.Fatal(err)
	}
	times, err := os.ReadFile("../../testdata/scenarios/times.yaml")
	if err != nil {
		t.Fatal(err)
	}
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	const lab = "kind: Tenant\nname: lab\ncurrency: EUR\n---\n"
	putFiles(t, map[string]string{"zones.yaml": lab + string(zones), "times.yaml": lab + string(times), "none.yaml": lab})
	for line, want := range map[string]string{
		"-f zones.yaml --context 32260 --called sip:+4915112@ims.example --quantity 61s": "not help: number sip:+4915112@ims.example (zone german mobiles) is not in emergency; service calls to mobiles; price 0.20 per 60 s, in steps of 60 s; quantity 61 s; cost 0.40, for 2 begun steps",
		"-f zones.yaml --rating-group 10 --network 23001":                                "not calls abroad: context 32251 is not 32260; service data in the Union; price 0.02 per 1 MiB",
		"-f zones.yaml --rating-group 11":                                                "not data in the Union: rating group 11 is not 10; not data elsewhere: rating group 11 is not 10; service none: it is answered 5031",
		"-f times.yaml --rating-group 10 --at 2026-03-01T20:30:00+01:00":                 "at Sun 2026-03-01 20:30:00 CET; not evening data: it is not evening; not night data: it is not night; service data; until Sun 2026-03-01 22:00:00 CET; price 1.00 per 10 MiB",
		"-f times.yaml --rating-group 10 --at 2026-03-29T00:30:00Z":                      "service night data; until Sun 2026-03-29 03:00:00 CEST",
		"-f times.yaml --at 2026-03-01T20:10:00+01:00":                                   "not evening data: it names no rating group, so it is not 10",
		"lab/standard --rating-group 10 --quantity 1GiB":                                 "plan lab/standard version 1; service internet",
		"lab/standard --quantity x":                                                      "error --quantity",
		"lab/standard --at noon":                                                         "error --at",
		"lab/standard --media tv":                                                        "error --media",
		"-f none.yaml":                                                                   "error none.yaml has 0 plans: one is needed",
		"":                                                                               "error name a plan that is in force",
		"lab/nothing":                                                                    `error tenant "lab" has no plan "nothing"`,
	} {
		args := append([]string{"rate", "--api", l.api}, strings.Fields(line)...)
		out, err := told(t, args...)
		if (err != nil) != strings.HasPrefix(want, "error ") {
			t.Errorf("%s: %v\n%s", line, err, out)
			continue
		}
		if err != nil {
			out = "error " + err.Error()
		}
		rest := strings.Join(strings.Fields(out), " ")
		for _, part := range strings.Split(want, "; ") {
			at := strings.Index(rest, part)
			if at < 0 {
				t.Errorf("%s: %q does not come in its turn:\n%s", line, part, out)
				break
			}
			rest = rest[at+len(part):]
		}
	}
}
