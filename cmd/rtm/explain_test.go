package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rtm/api"
	"rtm/cdr"
	"rtm/rating"
	"rtm/rtmtest"
)

// TestExplain plays conversations and compares what `rtm explain` says of them,
// the indented lines: "explain SESSION without=4,5" leaves entries out,
// "explain" alone tells the account.
func TestExplain(t *testing.T) {
	files, err := filepath.Glob("testdata/explain/*.txt")
	if err != nil || len(files) < 12 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := explainAll(t, string(b))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(b), got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// explainAll plays a conversation and returns it with the explanations as they
// came.
func explainAll(t *testing.T, text string) string {
	t.Helper()
	p := rtmtest.NewPlayer()
	var out strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "  ") {
			continue // of an explanation
		}
		out.WriteString(line + "\n")
		if line[0] == '#' {
			continue
		}
		if words := strings.Fields(line); words[0] == "explain" {
			for reply := range strings.Lines(explained(t, p, words[1:])) {
				out.WriteString(strings.TrimRight("  "+reply, " \n") + "\n")
			}
			continue
		}
		if _, err := p.Play(line, planFile); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	return out.String()
}

func planFile(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join("testdata", "explain", name))
	if err != nil {
		b, err = os.ReadFile(filepath.Join("..", "..", "testdata", "scenarios", name))
	}
	return b, err
}

// explained is the table of a session, or of the account.
func explained(t *testing.T, p *rtmtest.Player, words []string) string {
	t.Helper()
	entries, err := p.Entries()
	if err != nil {
		t.Fatal(err)
	}
	var without []string
	session := ""
	for _, w := range words {
		if list, ok := strings.CutPrefix(w, "without="); ok {
			without = strings.Split(list, ",")
		} else {
			session = w
		}
	}
	var records []cdr.Record
	for i := range entries {
		r := cdr.FromEntry(&entries[i], 0, uint64(i+1))
		if !slices.Contains(without, strconv.FormatUint(r.EntryNumber(), 10)) && (session == "" || r.Type != "provisioned") {
			records = append(records, r)
		}
	}
	if !slices.ContainsFunc(records, func(r cdr.Record) bool { return session == "" || r.Session == session }) {
		return api.NoRecords(session) + "\n"
	}
	story := api.Telling{
		Session: session, Currency: "EUR",
		Plan: func(_, _ string, version uint32) *rating.Plan { return p.Plan(version) },
		Bucket: func(n uint32) string {
			if all := p.Plan(1).Allowances; n > 1 && int(n) < len(all)+2 {
				return all[n-2].Name
			}
			return ""
		},
	}.Tell(records)
	var out strings.Builder
	storyTable(&out, &story, time.UTC)
	return out.String()
}
