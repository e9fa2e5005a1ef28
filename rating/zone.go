package rating

import "bytes"

// Bounds of a plan's zones.
const (
	ZonesMax    = 1000
	PrefixMax   = 15 // digits of a prefix, as of a number (E.164)
	PrefixesMax = 1_000_000
)

// A Zone is where a subscriber is, whom the user calls, or both. What it does not name
// does not matter to it.
type Zone struct {
	Name     string
	Networks []Network // serving networks
	Calls    bool      // numbers called: those for which Prefixes has it
}

// A Network is one serving network, or all of some countries.
type Network struct {
	From, To uint16 // mobile country codes
	Code     string // mobile network code, two or three digits; empty: all
}

// has reports whether a PLMN, of 5 or 6 digits, is of it.
func (n *Network) has(plmn []byte) bool {
	if len(plmn) < 5 || len(plmn) > 6 {
		return false
	}
	country := uint16(0)
	for _, c := range plmn[:3] {
		if c < '0' || c > '9' {
			return false
		}
		country = country*10 + uint16(c-'0')
	}
	return n.From <= country && country <= n.To && (n.Code == "" || n.Code == string(plmn[3:]))
}

// Prefixes say which zone a called number is in: that of the longest prefix.
type Prefixes struct {
	zones   map[Prefix]uint16
	lengths uint32 // bit n: some have n digits
}

// Put has a prefix lead to a zone. Where it leads to one already, it stays so: that is
// taken.
func (t *Prefixes) Put(p Prefix, zone uint16) (taken uint16, was bool) {
	if taken, was = t.zones[p]; was {
		return taken, true
	}
	if t.zones == nil {
		t.zones = make(map[Prefix]uint16)
	}
	t.zones[p] = zone
	n := 0
	for ; p > 0; p = (p - 1) / 11 {
		n++
	}
	t.lengths |= 1 << n
	return 0, false
}

// Len is how many there are.
func (t *Prefixes) Len() int { return len(t.zones) }

// A Prefix is the first digits of an international number, without a plus: as
// PrefixOf makes it.
type Prefix uint64

// PrefixOf is that of some digits; false: they are none, or more than PrefixMax.
func PrefixOf(digits string) (p Prefix, ok bool) {
	if digits == "" || len(digits) > PrefixMax {
		return 0, false
	}
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return 0, false
		}
		p = p.add(digits[i])
	}
	return p, true
}

// add appends a digit: an empty prefix is 0, and no digit counts as 0.
func (p Prefix) add(digit byte) Prefix { return p*11 + Prefix(digit-'0') + 1 }

// Zone is the index of the zone that a called party is in: a number in international
// form with or without plus, or its tel: or sip: URI. False: it is in none.
func (t *Prefixes) Zone(called []byte) (zone uint16, ok bool) {
	if len(t.zones) == 0 {
		return 0, false
	}
	p, digits := Prefix(0), 0
	for _, c := range number(called) {
		switch {
		case c >= '0' && c <= '9' && digits < PrefixMax:
			p, digits = p.add(c), digits+1
			if t.lengths>>digits&1 != 0 {
				if z, there := t.zones[p]; there {
					zone, ok = z, true
				}
			}
		case c == '-' || c == '.' || c == '(' || c == ')': // they only make it easier to read (RFC 3966 §5.1.1)
		default:
			return zone, ok
		}
	}
	return zone, ok
}

// number is what stands in a called party from its first digit on: without scheme, and
// without the plus or the two zeros of an international number, which none begins with
// by itself.
func number(party []byte) []byte {
	if scheme, rest, ok := bytes.Cut(party, []byte(":")); ok && (fold("tel", scheme) || fold("sip", scheme) || fold("sips", scheme)) {
		party = rest
	}
	if rest, ok := bytes.CutPrefix(party, []byte("+")); ok {
		return rest
	}
	return bytes.TrimPrefix(party, []byte("00"))
}

// in reports whether one of s's zones is that of f. called is the zone of the number
// called, or below zero.
func (s *Service) in(p *Plan, f *Facts, called int) bool {
	for _, i := range s.Zones {
		z := &p.Zones[i]
		if (!z.Calls || called == int(i)) && (len(z.Networks) == 0 || z.serves(f.PLMN)) {
			return true
		}
	}
	return false
}

func (z *Zone) serves(plmn []byte) bool {
	for i := range z.Networks {
		if z.Networks[i].has(plmn) {
			return true
		}
	}
	return false
}
