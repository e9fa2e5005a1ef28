package cdr

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rtm/store"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// shelf writes files of records, begun at minutes after noon, each with lines
// numbered on from those of the one before.
func shelf(t *testing.T, minutes []int, lines int) (dir string, all []string) {
	t.Helper()
	dir = t.TempDir()
	for i, m := range minutes {
		var b strings.Builder
		for range lines {
			text := fmt.Sprintf(`{"n":%d}`, len(all))
			all = append(all, text)
			b.WriteString(text + "\n")
		}
		name := noon.Add(time.Duration(m)*time.Minute).Format(stamp) + fmt.Sprintf("-a-%06d", i) + finished
		if err := os.WriteFile(filepath.Join(dir, name), []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, all
}

func anyLine(json.RawMessage) bool { return true }

func texts(lines []json.RawMessage) (out []string) {
	for _, l := range lines {
		out = append(out, string(l))
	}
	return out
}

// Page by page, back in time, each line comes once, whatever the limit.
func TestNewestSeesEachLineOnce(t *testing.T) {
	dir, all := shelf(t, []int{0, 1, 2, 3}, 5)
	for limit := range 23 {
		var got []string
		w := Wanted{Limit: limit + 1, Match: anyLine}
		for pages := 0; ; pages++ {
			lines, next, err := Newest(t.Context(), dir, w)
			if err != nil || len(lines) > limit+1 || pages > len(all) {
				t.Fatalf("limit %d: %d lines, page %d, %v", limit+1, len(lines), pages, err)
			}
			got = append(texts(lines), got...)
			if w.Before = next; next == nil {
				break
			}
		}
		if !slices.Equal(got, all) {
			t.Fatalf("limit %d: got %v", limit+1, got)
		}
	}
}

// For one page only the lines are looked at that it needs.
func TestNewestLooksAtNoMoreThanItNeeds(t *testing.T) {
	dir, all := shelf(t, []int{0, 1, 2}, 5)
	looked := 0
	lines, next, err := Newest(t.Context(), dir, Wanted{Limit: 7, Match: func(json.RawMessage) bool { looked++; return true }})
	if err != nil || !slices.Equal(texts(lines), all[8:]) || next == nil || looked != 7 {
		t.Fatalf("%v, %s, %v, %d were looked at", texts(lines), next, err, looked)
	}
}

func TestNewestLeavesOtherTimesOut(t *testing.T) {
	dir, all := shelf(t, []int{0, 30, 60, 240}, 2)
	for _, c := range []struct {
		since, until int // minutes after noon; below zero: none
		want         []string
	}{
		{-1, -1, all}, {36, -1, all[4:]}, {34, -1, all[2:]}, {241, -1, all[6:]}, {300, -1, nil}, // a clock may be 5 minutes off
		{-1, 10, all[:6]}, {-1, 200, all}, {-1, 179, all[:6]}, {36, 100, all[4:6]},
	} {
		w := Wanted{Limit: 100, Match: anyLine}
		if c.since >= 0 {
			w.Since = noon.Add(time.Duration(c.since) * time.Minute)
		}
		if c.until >= 0 {
			w.Until = noon.Add(time.Duration(c.until) * time.Minute)
		}
		lines, next, err := Newest(t.Context(), dir, w)
		if err != nil || next != nil || !slices.Equal(texts(lines), c.want) {
			t.Errorf("%d to %d: %v, %q, %v, want %v", c.since, c.until, texts(lines), next, err, c.want)
		}
	}
}

// A file that a page ended in may be gone when the next one is asked for.
func TestNewestGoesOnWhereAFileIsGone(t *testing.T) {
	dir, all := shelf(t, []int{0, 1}, 4)
	_, next, err := Newest(t.Context(), dir, Wanted{Limit: 2, Match: anyLine})
	if err != nil {
		t.Fatal(err)
	}
	files, _ := Files(dir)
	os.Remove(files[1])
	lines, next, err := Newest(t.Context(), dir, Wanted{Limit: 9, Before: next, Match: anyLine})
	if err != nil || next != nil || !slices.Equal(texts(lines), all[:4]) {
		t.Errorf("%v, %q, %v", texts(lines), next, err)
	}
	for _, stray := range []string{"", "x", "12345678", "12345678../../etc/passwd"} {
		if _, _, err := Newest(t.Context(), dir, Wanted{Limit: 1, Before: []byte(stray), Match: anyLine}); !errors.Is(err, store.ErrCursor) {
			t.Errorf("%q: %v", stray, err)
		}
	}
}
