package creditcontrol_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rtm/charging"
	"rtm/creditcontrol"
	"rtm/diameter"
	"rtm/rtmtest"
)

// The answers of all scenarios, and the prompts that come of them, are what an
// independent dissector reads.
func TestTsharkReadsTheAnswersOfAllScenarios(t *testing.T) {
	files, err := filepath.Glob("../testdata/scenarios/*.txt")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	self := &creditcontrol.Self{OriginHost: "ocs1.mvne.example", OriginRealm: "mvne.example"}
	var frames [][]byte
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p := rtmtest.NewPlayer()
		p.Answered = func(r *charging.Request, a *charging.Answer, notices []charging.Due) {
			for _, due := range notices {
				var enc diameter.Encoder
				enc.Reset(nil)
				to := &creditcontrol.Target{Session: due.Session, Host: due.Host, Realm: due.Realm, Sub: due.Sub}
				if due.Kind == charging.Abort {
					creditcontrol.EncodeAbort(&enc, self, to, uint32(len(frames)), 1)
				} else {
					creditcontrol.EncodeReAuth(&enc, self, to, due.Group, due.HasGroup, uint32(len(frames)), 1)
				}
				frames = append(frames, slices.Clone(enc.Bytes()))
			}
			if r.Kind > charging.Event {
				return
			}
			var enc diameter.Encoder
			enc.Reset(nil)
			creditcontrol.Encode(&enc, self, &creditcontrol.Envelope{
				Header:    diameter.Header{Flags: 0xc0, Command: diameter.CreditControl, Application: diameter.ApplicationCreditControl},
				SessionID: r.Session, Type: uint32(r.Kind), Number: r.Number, HasType: true, HasNumber: true,
				Failure: creditcontrol.Failure{Session: 2, Event: 2},
			}, a)
			frames = append(frames, slices.Clone(enc.Bytes()))
		}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimRight(line, "\n")
			if line == "" || line[0] == ' ' || line[0] == '#' {
				continue
			}
			if _, err := p.Play(line, func(name string) ([]byte, error) {
				return os.ReadFile(filepath.Join("..", "testdata", "scenarios", name))
			}); err != nil {
				t.Fatalf("%s: %s: %v", file, line, err)
			}
		}
	}
	rtmtest.Dissect(t, "../diameter/testdata/avps.csv", frames)
	t.Logf("%d messages", len(frames))
}
