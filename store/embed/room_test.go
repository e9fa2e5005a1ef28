package embed

import (
	"errors"
	"testing"
)

func TestFilled(t *testing.T) {
	for _, c := range []struct {
		free, all uint64
		want      int
	}{
		{100 << 30, 500 << 30, 0}, {6 << 30, 500 << 30, 0}, {3 << 30, 500 << 30, 50}, {900 << 20, 500 << 30, 86}, {0, 500 << 30, 100},
		{16 << 20, 64 << 20, 0}, {4 << 20, 64 << 20, 75}, {1 << 20, 64 << 20, 94}, {0, 0, 0},
	} {
		if got := filled(c.free, c.all); got != c.want {
			t.Errorf("%d of %d are free: %d %%, want %d", c.free, c.all, got, c.want)
		}
	}
}

// The disk is looked at once a second; what cannot be told changes nothing.
func TestFullLooksAtTheDisk(t *testing.T) {
	s, err := Open(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, all, err := disk(s.dir); err != nil || all == 0 {
		t.Fatalf("the disk has %d octets, %v", all, err)
	}
	looks, free, failed := 0, uint64(0), error(nil)
	s.disk = func(string) (uint64, uint64, error) { looks++; return free, 1 << 40, failed }
	again := func() int { s.looked.Store(0); return s.Full() }
	if got := again(); got != 100 {
		t.Errorf("a disk without room is %d %% full", got)
	}
	if free = 1 << 39; s.Full() != 100 || looks != 1 {
		t.Errorf("within the second it was looked at %d times", looks)
	}
	failed = errors.New("no disk")
	if got := again(); got != 100 || looks != 2 {
		t.Errorf("a disk that cannot be seen is %d %% full, looked at %d times", got, looks)
	}
	if failed = nil; again() != 0 {
		t.Error("a disk with room is full")
	}
}
