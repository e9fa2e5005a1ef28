package diameter

import "testing"

func seed(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.bytes(f))
	}
}

// Any bytes end in messages or in an error, the rest always gets shorter, and
// what Check accepts can be walked over without one.
func FuzzFrame(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			m, rest, err := Frame(b, MessageMax)
			if err != nil {
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("the rest did not get shorter")
			}
			if m.Check(DefaultLimits) == nil {
				walk(t, m.Body, 0)
			}
			b = rest
		}
	})
}

func walk(t *testing.T, b []byte, depth int) {
	if depth > DefaultLimits.Depth {
		t.Fatal("deeper than the limit")
	}
	for len(b) > 0 {
		a, rest, err := Next(b)
		if err != nil {
			t.Fatalf("Check let %v pass", err)
		}
		if a.Attr.Type() == Grouped {
			walk(t, a.Data, depth+1)
		}
		b = rest
	}
}

// Any bytes are an AVP or an error whose Failed-AVP can itself be read.
func FuzzAVP(f *testing.F) {
	for _, v := range vectors(f) {
		if b := v.bytes(f); len(b) > HeaderLength {
			f.Add(b[HeaderLength:])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			a, rest, err := Next(b)
			if err != nil {
				if _, _, again := Next(err.Failed); again != nil {
					t.Fatalf("the Failed-AVP of %v cannot be read: %v", err, again)
				}
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("the rest did not get shorter")
			}
			a.Uint32()
			a.Uint64()
			a.Time()
			a.Address()
			a.Identity()
			_ = a.Attr.String()
			b = rest
		}
	})
}
