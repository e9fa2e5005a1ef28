package redis

import "testing"

// Who is believed to be master, when a was in epoch 3.
func TestBelieve(t *testing.T) {
	says := func(master string, epoch int64) sighting { return sighting{master: master, epoch: epoch} }
	for name, c := range map[string]struct {
		whole  bool
		known  string
		seen   []sighting
		want   string // empty: nobody
		agreed bool   // it counts from there
	}{
		"at first the newest":                {false, "", []sighting{says("a", 2), says("b", 4), says("a", 3)}, "b", false},
		"a newer epoch":                      {false, "a", []sighting{says("b", 4)}, "b", false},
		"an older one is not":                {false, "a", []sighting{says("b", 2)}, "", false},
		"nor by all that answer":             {false, "a", []sighting{says("b", 2), says("b", 2)}, "", false},
		"by all that there are":              {true, "a", []sighting{says("b", 0), says("b", 0), says("b", 0)}, "b", true},
		"not when one of them says no":       {true, "a", []sighting{says("b", 2), says("c", 1), says("b", 2)}, "", false},
		"the same master in whatever epoch":  {false, "a", []sighting{says("a", 1)}, "a", false},
		"of several in one epoch, the known": {true, "a", []sighting{says("b", 3), says("a", 3), says("b", 3)}, "a", false},
		"the same, by Sentinels set up anew": {true, "a", []sighting{says("a", 0), says("a", 0), says("a", 0)}, "a", true},
		"another in the same epoch":          {false, "a", []sighting{says("b", 3), says("b", 3)}, "", false},
	} {
		got := ""
		v, agreed, err := believe(c.seen, c.whole, c.known, 3)
		if err == nil {
			got = v.master
		}
		if got != c.want || agreed != c.agreed {
			t.Errorf("%s: %q, agreed %v, want %q", name, got, agreed, c.want)
		}
	}
}
