package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"rtm/store/storetest"
)

// subscribers are lines of an import.
func subscriberLines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"tenant":"shop","plan":"basic","imsi":"%015d","msisdn":"%d","balance":"5.00"}`+"\n", i, 490000+i)
	}
	return b.String()
}

func TestImport(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 2)
	bad := "\n{\"tenant\":\"shop\",\"plan\":\"basic\",\"imsi\":\"1\"}\nnonsense\n{\"tenant\":\"shop\",\"plan\":\"gone\",\"imsi\":\"888888888888888\"}\n" +
		`{"tenant":"shop","plan":"basic","account":"thief","imsi":"000000000000003"}` + "\n" + strings.Repeat("{}\n", 12)
	putFiles(t, map[string]string{"shop.yaml": shopTenant + "---\n" + shopPlan, "good.jsonl": subscriberLines(4500), "bad.jsonl": subscriberLines(3) + bad})
	if out, code := tell(t, "apply", "-f", "shop.yaml", "--api", l.api); code != 0 {
		t.Fatal(out)
	}
	out, code := tell(t, "import", "good.jsonl", "--api", l.api)
	if code != 0 || !strings.Contains(out, ": 4500 created, 0 changed, 0 unchanged, 0 bad") {
		t.Errorf("exit %d: %s", code, out)
	}
	if out, code = tell(t, "import", "good.jsonl", "--from", "4400", "--api", l.api); code != 0 || !strings.HasPrefix(out, "101 lines") || !strings.Contains(out, "101 unchanged") {
		t.Errorf("again, exit %d: %s", code, out)
	}
	out, code = tell(t, "import", "bad.jsonl", "--bad", "mend.jsonl", "--api", l.api)
	for _, want := range []string{
		"19 lines", " 3 unchanged, 16 bad\n", `line 5: imsi: "1" must be 14 or 15 digits`, "line 6: not one JSON object", `line 7: tenant shop has no plan "gone": declare it`,
		"line 8: imsi:000000000000003: identity belongs to another account (shop/imsi-000000000000003)", "and 6 more", "16 of 19 lines were not taken",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if mend, err := os.ReadFile("mend.jsonl"); code != exitFailed || err != nil || strings.Count(string(mend), "\n") != 16 || !strings.HasPrefix(string(mend), `{"tenant":"shop","plan":"basic","imsi":"1"}`) {
		t.Errorf("exit %d, the lines to mend are %q, %v", code, mend, err)
	}
	if out, code = tell(t, "import", "good.jsonl", "--api", "http://127.0.0.1:1"); code != exitUnreachable {
		t.Errorf("without a server, exit %d: %s", code, out)
	}
}

func TestReassign(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	putFiles(t, map[string]string{"shop.yaml": shopTenant + "---\n" + shopPlan, "two.jsonl": subscriberLines(2)})
	for _, args := range [][]string{{"apply", "-f", "shop.yaml"}, {"import", "two.jsonl"}} {
		if out, code := tell(t, append(args, "--api", l.api)...); code != 0 {
			t.Fatal(out)
		}
	}
	for _, c := range []struct{ identity, to, want string }{
		{"msisdn:490000", "000000000000001", "changed"}, {"msisdn:490000", "490001", "unchanged"}, {"490000", "490001", "must have imsi:, msisdn:"}, {"msisdn:490000", "777777", "subscriber 777777: not found"},
	} {
		if out, _ := tell(t, "subscriber", "reassign", c.identity, "--to", c.to, "--api", l.api); !strings.Contains(out, c.want) {
			t.Errorf("%s to %s: %s", c.identity, c.to, out)
		}
	}
	if out, _ := tell(t, "subscriber", "show", "490000", "--api", l.api); !strings.Contains(out, "imsi:000000000000001 msisdn:490001 msisdn:490000") {
		t.Errorf("shown:\n%s", out)
	}
}
