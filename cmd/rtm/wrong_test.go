package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rtm/store/storetest"
)

var update = flag.Bool("update", false, "write the messages of testdata/wrong.txt again")

// wrongCase is one wrong input of testdata/wrong.txt:
//
//	# what is wrong
//	$ rtm …  or  METHOD /path body
//	what it is answered, with the exit code or the status
type wrongCase struct{ title, input, want string }

func readWrong(t *testing.T) (cases []wrongCase) {
	t.Helper()
	b, err := os.ReadFile("testdata/wrong.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range strings.Split("\n"+strings.TrimSpace(string(b)), "\n# ")[1:] {
		title, rest, _ := strings.Cut(text, "\n")
		input, want, _ := strings.Cut(rest, "\n")
		cases = append(cases, wrongCase{title, input, strings.TrimSpace(want)})
	}
	return cases
}

// wrongFiles are what the inputs name.
var wrongFiles = map[string]string{
	"unknown-key.yaml":  "kind: Plan\ntenant: lab\nname: basic\nservces: []\n",
	"no-tenant.yaml":    "kind: Subscriber\ntenant: lba\nplan: standard\nimsi: \"001010000000099\"\n",
	"octal.yaml":        "kind: Plan\ntenant: lab\nname: basic\nservices:\n  - {name: data, unit: octets, price: \"0.0000001\"}\n",
	"twice.yaml":        "kind: Subscriber\ntenant: lab\nplan: standard\nimsi: \"001010000000099\"\nmsisdn: \"491700000001\"\n",
	"tab.yaml":          "kind: Tenant\n\tname: lab\n",
	"empty.yaml":        "\n",
	"settings.yaml":     "store: embedded:data\ndiametre: [127.0.0.1:3868]\n",
	"settings-2.yaml":   "http: 0.0.0.0:8868\n",
	"lines.jsonl":       "{\"tenant\":\"lab\",\"plan\":\"standard\",\"imsi\":\"42\"}\n",
	"lines-2.jsonl":     "{\"tenant\":\"lab\",\"plan\":\"standard\",\"imsy\":\"001010000000099\"}\n",
	"file-is-no-folder": "",
}

// words cuts a command line at blanks, but for those in single quotes.
func words(line string) (out []string) {
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

// Whatever is wrong in a file, a flag, a line or a request gets a message that
// says what to do about it.
func TestWrongInputs(t *testing.T) {
	cases := readWrong(t)
	if len(cases) < 40 {
		t.Errorf("only %d wrong inputs", len(cases))
	}
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	places := strings.NewReplacer("{api}", l.api, "{taken}", taken.Addr().String())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	putFiles(t, wrongFiles)
	var out strings.Builder
	for _, c := range cases {
		got := l.wrong(t, places.Replace(c.input))
		got = strings.NewReplacer(l.api, "{api}", taken.Addr().String(), "{taken}").Replace(got)
		fmt.Fprintf(&out, "# %s\n%s\n%s\n\n", c.title, c.input, got)
		if !*update && got != c.want {
			t.Errorf("%s: %s\n%s", c.title, c.input, cmp.Diff(strings.Split(c.want, "\n"), strings.Split(got, "\n")))
		}
		if strings.HasSuffix(got, "exit 0") || strings.HasPrefix(got, "2") {
			t.Errorf("%s: it is not refused:\n%s", c.title, got)
		}
	}
	if *update {
		if err := os.WriteFile(here+"/testdata/wrong.txt", []byte(strings.TrimSpace(out.String())+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// wrong carries out one input and returns what it is answered.
func (l *lab) wrong(t *testing.T, input string) string {
	t.Helper()
	if line, ok := strings.CutPrefix(input, "$ rtm"); ok {
		out, code := tell(t, words(line)...)
		return fmt.Sprintf("%s\nexit %d", strings.TrimSpace(out), code)
	}
	f := strings.SplitN(input, " ", 3)
	body := io.Reader(nil)
	if len(f) == 3 {
		body = strings.NewReader(f[2])
	}
	req, err := http.NewRequestWithContext(t.Context(), f[0], l.api+f[1], body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", res.StatusCode, strings.TrimSpace(string(b)))
}
