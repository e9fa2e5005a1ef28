package embed

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"rtm/store"
)

// contents is every file below a directory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Who only looks reads what is there, and leaves no trace.
func TestLook(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	key := store.Key{Partition: 7, Kind: 'a', Name: "alice"}
	c := store.Commit{Writes: []store.Write{{Op: store.Put, Key: key, New: store.Version{1}, Bytes: []byte("here")}}, Events: [][]byte{[]byte("came")}}
	if rs, _ := s.Commit(t.Context(), []store.Commit{c}); rs[0].Outcome != store.Done {
		t.Fatal(rs[0].Err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	was := contents(t, dir)
	if s, err = Look(Config{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	if recs, err := s.Load(t.Context(), []store.Key{key}); err != nil || string(recs[0].Bytes) != "here" {
		t.Errorf("%+v, %v", recs, err)
	}
	if events, err := s.Events(t.Context(), 7, 0, 10); err != nil || len(events) != 1 {
		t.Errorf("%+v, %v", events, err)
	}
	if rs, _ := s.Commit(t.Context(), []store.Commit{c}); rs[0].Outcome != store.Refused {
		t.Errorf("a commit is %s", rs[0].Outcome)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if !maps.Equal(contents(t, dir), was) {
		t.Error("a file was changed")
	}
	if s, err = Look(Config{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	open(t, dir) // a server that starts meanwhile finds no lock
	other := filepath.Join(t.TempDir(), "none")
	if _, err := Look(Config{Dir: other}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("where nothing is: %v", err)
	}
	if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it made the directory: %v", err)
	}
}
