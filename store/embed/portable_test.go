package embed

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"rtm/store"
	"rtm/store/storetest"
)

func TestPortable(t *testing.T) {
	storetest.RunPortable(t, func(t *testing.T) store.Portable { return open(t, t.TempDir()) })
}

// A directory that is being filled, or whose data has moved, is refused with a
// sentence that says what to do, and a store in use is never filled.
func TestWhoMayOpen(t *testing.T) {
	dir := t.TempDir()
	s, err := Receive(Config{Dir: dir}, "1", "")
	if err != nil {
		t.Fatal(err)
	}
	fill := store.Part{
		Copies:  []store.Copy{{Key: storetest.Key(1, "a"), Version: storetest.NewVersion()}},
		Streams: []store.Stream{{Partition: 2, Last: 9}},
	}
	if err := s.Fill(t.Context(), &fill); err != nil {
		t.Fatal(err)
	}
	s.Close()
	refused := func(want string) {
		t.Helper()
		for _, open := range []func(Config) (*Store, error){Open, Look} {
			if s, err := open(Config{Dir: dir}); err == nil {
				s.Close()
				t.Errorf("it opens, want %q", want)
			} else if !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		}
	}
	refused("half filled")
	again, err := Receive(Config{Dir: dir}, "2", "")
	if err != nil {
		t.Fatal(err)
	}
	if ks, _, _, err := again.Scan(t.Context(), nil, 10); err != nil || len(ks) != 0 {
		t.Errorf("begun anew it holds %v, %v", ks, err)
	}
	if st, err := again.Stream(t.Context(), 2, 0, 1); err != nil || st.Last != 0 {
		t.Errorf("begun anew its streams stand at %v, %v", st, err)
	}
	if err := again.Fill(t.Context(), &fill); err != nil {
		t.Fatal(err)
	}
	was := store.Filling("2")
	for _, m := range []struct{ mark, want string }{
		{store.Ready("2"), "was not taken into service"}, {store.Moved("2", "redis://there"), "redis://there"}, {"elsewise", "newer program"},
	} {
		if err := again.SetMark(t.Context(), was, m.mark); err != nil {
			t.Fatal(err)
		}
		again.Close()
		was = m.mark
		refused(m.want)
		if _, err := Receive(Config{Dir: dir}, "3", "1"); err == nil {
			t.Errorf("marked %q it is filled", m.mark)
		}
		if again, err = Marked(Config{Dir: dir}); err != nil {
			t.Fatal(err)
		}
	}
	again.SetMark(t.Context(), was, "")
	again.Close()
	used := open(t, dir)
	if st, err := used.Stream(t.Context(), 2, 0, 1); err != nil || st.Last != 9 {
		t.Errorf("opened again its streams stand at %v, %v", st, err)
	}
	used.Close()
	if _, err := Receive(Config{Dir: dir}, "3", ""); !errors.Is(err, store.ErrNotEmpty) {
		t.Errorf("a store with records: %v", err)
	}
	if _, err := Marked(Config{Dir: filepath.Join(dir, "none")}); err == nil {
		t.Error("a directory without a store opens")
	}
}

// A store is closed while a walk is under way: the walk ends with an error.
func TestClosedWhileWalking(t *testing.T) {
	s := open(t, t.TempDir())
	var part store.Part
	for i := range 2 * partMax {
		part.Copies = append(part.Copies, store.Copy{Key: storetest.Key(store.Partition(i%1024), string(rune('a'+i%26))+strings.Repeat("x", i/1024)), Version: storetest.NewVersion(), Bytes: []byte("v")})
	}
	if err := s.Fill(t.Context(), &part); err != nil {
		t.Fatal(err)
	}
	_, _, err := s.Walk(t.Context(), func(*store.Part) error { return s.Close() })
	if !errors.Is(err, store.ErrClosed) {
		t.Errorf("the walk ends with %v", err)
	}
}
