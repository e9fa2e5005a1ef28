package replay

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// schemes are the ways to name a subscriber, by Subscription-Id-Type (RFC 8506
// §8.47).
var schemes = [...]string{"msisdn", "imsi", "sip", "nai", "private"}

// shapes are how the values must look.
var shapes = map[string]*regexp.Regexp{
	"msisdn": regexp.MustCompile(`^\+?[0-9]{3,15}$`), "imsi": regexp.MustCompile(`^[0-9]{6,15}$`),
}

// valueMax bounds an identity.
const valueMax = 255

// A Mapping says as whom the subscribers of a capture are replayed. Identities
// are written as the server's directory has them: imsi:001010000000001. The zero
// value leaves everybody as captured.
type Mapping struct {
	one map[string]string // by identity
	all map[string]string // for everybody, by scheme; nil: there is none
}

// split takes an identity apart.
func split(identity string) (scheme, value string, err error) {
	scheme, value, ok := strings.Cut(strings.TrimSpace(identity), ":")
	if ok {
		ok = false
		for _, s := range schemes {
			ok = ok || s == scheme
		}
	}
	if shape := shapes[scheme]; !ok || value == "" || len(value) > valueMax || shape != nil && !shape.MatchString(value) {
		return "", "", fmt.Errorf("%q is no identity such as imsi:001010000000001 or msisdn:491700000001", identity)
	}
	return scheme, normal(scheme, value), nil
}

// normal is a value as it is compared.
func normal(scheme, value string) string {
	switch scheme {
	case "msisdn":
		return strings.TrimPrefix(value, "+")
	case "sip":
		return strings.TrimPrefix(strings.ToLower(value), "sip:")
	case "nai":
		return strings.ToLower(value)
	}
	return value
}

var errMixed = errors.New("either subscribers are mapped one by one, or all become the same")

// Add replays one captured subscriber as another. Both are of the same scheme.
func (m *Mapping) Add(captured, as string) error {
	from, old, err := split(captured)
	if err != nil {
		return err
	}
	to, value, err := split(as)
	if err != nil {
		return err
	}
	if m.all != nil {
		return errMixed
	}
	if from != to {
		return fmt.Errorf("%s cannot become %s: map an %s to an %s", captured, as, from, from)
	}
	if m.one == nil {
		m.one = make(map[string]string)
	}
	key := from + ":" + old
	if before, ok := m.one[key]; ok && before != value {
		return fmt.Errorf("%s is mapped twice, to %s:%s and to %s:%s", key, to, before, to, value)
	}
	m.one[key] = value
	return nil
}

// Everybody replays all subscribers as this one. It can be called once for each
// scheme: then the subscriber is named in each of these ways where it was
// captured with it, and at least in one of them.
func (m *Mapping) Everybody(as string) error {
	scheme, value, err := split(as)
	if err != nil {
		return err
	}
	if before, ok := m.all[scheme]; ok && before != value {
		return fmt.Errorf("everybody cannot become both %s:%s and %s:%s", scheme, before, scheme, value)
	}
	if m.one != nil {
		return errMixed
	}
	if m.all == nil {
		m.all = make(map[string]string)
	}
	m.all[scheme] = value
	return nil
}

// Read adds what a CSV file says, a line for each subscriber: captured, as. Lines
// that begin with # are comments; a first line without any colon is a heading.
func (m *Mapping) Read(r io.Reader) error {
	c := csv.NewReader(r)
	c.Comment, c.FieldsPerRecord, c.TrimLeadingSpace, c.ReuseRecord = '#', 2, true, true
	for first := true; ; first = false {
		fields, err := c.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if first && !strings.Contains(fields[0]+fields[1], ":") {
			continue
		}
		if err := m.Add(fields[0], fields[1]); err != nil {
			line, _ := c.FieldPos(0)
			return fmt.Errorf("line %d: %w", line, err)
		}
	}
}

// empty reports whether everybody stays as captured.
func (m *Mapping) empty() bool { return len(m.one) == 0 && len(m.all) == 0 }

// digits are the numbers in a Session-Id, and what says that one is an IMSI
// (Magma: host;high;low;IMSI001010000000001).
var digits = regexp.MustCompile(`(IMSI|imsi)?[0-9]{6,}`)

// session is a captured Session-Id with the IMSIs in it mapped. What it becomes
// depends on it alone, so that all messages of a session keep one.
func (m *Mapping) session(id string) string {
	if m.empty() {
		return id
	}
	return digits.ReplaceAllStringFunc(id, func(number string) string {
		value := strings.TrimPrefix(strings.TrimPrefix(number, "IMSI"), "imsi")
		marked := len(value) < len(number)
		if v, ok := m.one["imsi:"+value]; ok {
			return number[:len(number)-len(value)] + v
		}
		if v, ok := m.all["imsi"]; ok && marked {
			return number[:len(number)-len(value)] + v
		}
		return number
	})
}
