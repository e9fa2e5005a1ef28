package cdr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rtm/charging"
	"rtm/store"
	"rtm/store/storetest"
)

var ten = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

// told is entry n of account a, a message of that session.
func told(n uint64, session string, messages uint32) charging.Entry {
	e := charging.Entry{
		Sort: charging.Message, Number: n, Version: [8]byte{byte(n)}, Tenant: "t", Account: "a", At: ten.Add(time.Duration(n) * time.Minute),
		Kind: charging.Update, Session: []byte(session), Messages: messages, Opened: ten,
	}
	e.Lines = append(e.Lines, charging.Line{Group: uint32(n), Has: charging.HasGroup})
	return e
}

// file writes entries into a record file that was begun some minutes after ten.
func file(t *testing.T, dir string, minutes int, entries ...charging.Entry) string {
	t.Helper()
	var text strings.Builder
	for i := range entries {
		r := FromEntry(&entries[i], 3, entries[i].Number)
		b, err := json.Marshal(&r)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(append(b, '\n'))
	}
	name := filepath.Join(dir, ten.Add(time.Duration(minutes)*time.Minute).Format(stamp)+"-A-000001"+finished)
	if err := os.WriteFile(name, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// numbers are the entries of records, those of the session with the group of
// their line.
func numbers(rs []Record) string {
	var out []string
	for i := range rs {
		text := fmt.Sprint(rs[i].EntryNumber())
		for _, l := range rs[i].Lines {
			text += fmt.Sprintf("/%d", *l.RatingGroup)
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

// Records are found in the store and in files of several directories, each once
// and in order; what is older than the session is not even read.
func TestSearch(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for _, name := range []string{file(t, a, -300), file(t, b, -61)} {
		if err := os.WriteFile(name, []byte(`"a" "s1" this is no record`+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	other := told(2, "s2", 1)
	file(t, a, 1, told(1, "before", 1), other)
	file(t, b, 4, told(3, "s1", 1), told(4, "s1", 2))
	file(t, a, 7, told(5, "s2", 2), told(6, "s1", 3))

	memory := storetest.NewMemory()
	last, again := told(7, "s1", 4), told(6, "s1", 3)
	rs, _ := memory.Commit(t.Context(), []store.Commit{{
		Writes: []store.Write{{Op: store.Put, Key: storetest.Key(3, "x"), New: storetest.NewVersion()}},
		Events: [][]byte{again.Append(nil), last.Append(nil)},
	}})
	if rs[0].Outcome != store.Done {
		t.Fatal(rs[0])
	}
	for _, c := range []struct {
		what string
		s    Search
		want string
	}{
		{"a session of which nothing is known", Search{Store: memory, Dirs: []string{a, b}, Session: "s1"}, "3/3 4/4 5 6/6 7/7"},
		{"files alone", Search{Dirs: []string{a, b}, Session: "s1"}, "3/3 4/4 5 6/6"},
		{"with its account", Search{Store: memory, Dirs: []string{a, b}, Session: "s1", Tenant: "t", Account: "a", Partition: 3}, "3/3 4/4 5 6/6 7/7"},
		{"in the store alone", Search{Store: memory, Session: "s1"}, "6/6 7/7"},
		{"the last entries of an account", Search{Store: memory, Dirs: []string{a, b}, Tenant: "t", Account: "a", Partition: 3, Last: 4}, "4/4 5/5 6/6 7/7"},
		{"of an account of another tenant", Search{Store: memory, Dirs: []string{a}, Tenant: "u", Account: "a", Partition: 3, Opened: ten}, ""},
	} {
		found, err := c.s.Run(t.Context())
		if got := numbers(found); err != nil || got != c.want {
			t.Errorf("%s: %s, %v, want %s", c.what, got, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := Search{Dirs: []string{a, b}, Session: "s1"}
	if _, err := s.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}
