package rtmtest

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"rtm/diameter"
)

// Dissect has messages read by who has not written them: tshark, to which none may be
// malformed or have an AVP that it does not know, and the table of AVPs in that file
// (code, vendor, name, type, M, …), by which each has the M flag that it must have.
func Dissect(t testing.TB, table string, frames [][]byte) {
	t.Helper()
	dir := t.TempDir()
	var dump bytes.Buffer
	for _, f := range frames {
		for i := 0; i < len(f); i += 16 {
			fmt.Fprintf(&dump, "%06x % x\n", i, f[i:min(i+16, len(f))])
		}
		dump.WriteByte('\n')
	}
	text, capture := filepath.Join(dir, "frames.txt"), filepath.Join(dir, "frames.pcap")
	if err := os.WriteFile(text, dump.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	tool := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			t.Fatalf("%s: %v (make install brings it)", name, err)
		}
		return string(out)
	}
	tool("text2pcap", "-q", "-T", "40000,3868", text, capture)
	read := 0
	for line := range strings.Lines(tool("tshark", "-r", capture, "-o", "tcp.desegment_tcp_streams:FALSE", "-T", "fields",
		"-e", "diameter.cmd.code", "-e", "_ws.malformed", "-e", "diameter.avp.unknown")) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) < 3 || f[0] == "" || f[1] != "" || f[2] != "" {
			t.Errorf("tshark says of message %d: command, malformed, unknown: %q", read+1, f)
		}
		read++
	}
	if read != len(frames) {
		t.Errorf("tshark has read %d messages of %d", read, len(frames))
	}
	marks := readMarks(t, table)
	for _, f := range frames {
		m, _, err := diameter.Frame(f, diameter.MessageMax)
		if err != nil {
			t.Fatal(err)
		}
		marks.check(t, m.Body)
	}
}

// marks is what the table says of each AVP.
type marks map[diameter.Attr]mark

type mark struct {
	name, must string // must: M, -, may
	grouped    bool
}

func readMarks(t testing.TB, table string) marks {
	t.Helper()
	f, err := os.Open(table)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	all := make(marks)
	for _, r := range rows[1:] {
		code, _ := strconv.ParseUint(r[0], 10, 32)
		vendor, _ := strconv.ParseUint(r[1], 10, 32)
		all[diameter.Attr(vendor<<32|code)] = mark{name: r[2], must: r[4], grouped: r[3] == "Grouped"}
	}
	return all
}

func (all marks) check(t testing.TB, b []byte) {
	t.Helper()
	for len(b) > 0 {
		a, rest, err := diameter.Next(b)
		if err != nil {
			t.Fatal(err)
		}
		b = rest
		k, known := all[a.Attr]
		has := a.Flags&diameter.FlagM != 0
		switch {
		case !known:
			t.Errorf("AVP %d of vendor %d is in no table", uint32(a.Attr), a.Attr>>32)
		case k.must == "M" && !has || k.must == "-" && has:
			t.Errorf("%s: M is %t, the table says %q", k.name, has, k.must)
		}
		if k.grouped {
			all.check(t, a.Data)
		}
	}
}
