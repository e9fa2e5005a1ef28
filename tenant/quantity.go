package tenant

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/apd/v3"

	"rtm/rating"
)

// A scale is a unit that quantities are written in.
type scale struct {
	name string
	size int64
}

// scales are the ways to write quantities of a unit, the smallest first.
var scales = map[rating.Unit][]scale{
	rating.Octets: {
		{"B", 1}, {"kB", 1e3}, {"KiB", 1 << 10}, {"MB", 1e6}, {"MiB", 1 << 20}, {"GB", 1e9}, {"GiB", 1 << 30}, {"TB", 1e12}, {"TiB", 1 << 40},
	},
	rating.Seconds: {{"s", 1}, {"min", 60}, {"m", 60}, {"h", 3600}, {"d", 86400}},
	rating.Events:  nil,
}

// ParseQuantity reads a quantity such as "10 MiB", "90 s" or "3": exact, above
// zero, at most rating.UnitsMax. A number alone counts octets, seconds or
// events. Money is read by ParseMoney.
func ParseQuantity(text string, unit rating.Unit) (int64, error) {
	if unit == rating.Money {
		m, err := ParseMoney(text)
		if err == nil && m == 0 {
			err = fmt.Errorf("%q must be above zero", text)
		}
		return int64(m), err
	}
	s := strings.TrimSpace(text)
	cut := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if cut < 0 {
		cut = len(s)
	}
	number, name, size := s[:cut], strings.TrimSpace(s[cut:]), int64(1)
	if i := slices.IndexFunc(scales[unit], func(c scale) bool { return c.name == name }); i >= 0 {
		size = scales[unit][i].size
	} else if name != "" || number == "" {
		return 0, fmt.Errorf("%q is no quantity of %s: write %s", short(text), unit, writeUnits(unit))
	}
	n, err := exact(number, size)
	if err != nil {
		return 0, fmt.Errorf("%q is no whole number of %s: %w", short(text), unit, err)
	}
	if n < 1 || n > rating.UnitsMax {
		return 0, fmt.Errorf("%q must be 1 to %d %s", short(text), int64(rating.UnitsMax), unit)
	}
	return n, nil
}

func writeUnits(unit rating.Unit) string {
	if len(scales[unit]) == 0 {
		return "a number, such as 1"
	}
	var names []string
	for _, c := range scales[unit] {
		names = append(names, c.name)
	}
	return "a number and one of " + strings.Join(names, ", ")
}

// parseSpan reads a duration in whole seconds, such as "90 s", "1h" or "30d".
func parseSpan(text string) (time.Duration, error) {
	n, err := ParseQuantity(text, rating.Seconds)
	switch {
	case err != nil:
		return 0, err
	case n > int64(spanMax/time.Second):
		return 0, fmt.Errorf("%q is longer than %d days", short(text), spanMax/(24*time.Hour))
	}
	return time.Duration(n) * time.Second, nil
}

// spanMax bounds a duration: a hundred years.
const spanMax = 36_525 * 24 * time.Hour

// ParseMoney reads an amount such as "9.99" exactly: not negative, six decimals
// at most, no more than rating.UnitsMax micro-units.
func ParseMoney(text string) (rating.Micros, error) {
	n, err := exact(strings.TrimSpace(text), 1_000_000)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is no amount of money such as 9.99, with at most six decimals: %w", short(text), err)
	case n < 0 || n > rating.UnitsMax:
		return 0, fmt.Errorf("%q must be 0 to %s", short(text), FormatMoney(rating.UnitsMax))
	}
	return rating.Micros(n), nil
}

// short is text as it is shown in an error.
func short(text string) string {
	if len(text) > 40 {
		return text[:37] + "…"
	}
	return text
}

// exact is text × size, if that is a whole number of 64 bits. Only digits with
// a point and a sign are numbers: no exponent, no NaN.
func exact(text string, size int64) (int64, error) {
	if len(text) > 30 || strings.Trim(text, "0123456789.-") != "" {
		return 0, fmt.Errorf("not a plain number")
	}
	d, _, err := apd.NewFromString(text)
	if err != nil {
		return 0, fmt.Errorf("not a plain number")
	}
	var p apd.Decimal
	if _, err := apd.BaseContext.WithPrecision(60).Mul(&p, d, apd.New(size, 0)); err != nil {
		return 0, err
	}
	if p.Reduce(&p); p.Exponent < 0 {
		return 0, fmt.Errorf("too many decimals")
	}
	n, err := p.Int64()
	if err != nil {
		return 0, fmt.Errorf("too large")
	}
	return n, nil
}

// FormatMoney writes money exactly, with two to six decimals: 9.99, 0.010001.
// ParseMoney reads it back.
func FormatMoney(m rating.Micros) string {
	text := apd.New(int64(m), -6).Text('f')
	for strings.HasSuffix(text, "0") && strings.IndexByte(text, '.') < len(text)-3 {
		text = text[:len(text)-1]
	}
	return text
}

// FormatQuantity writes a quantity exactly, octets in the largest power of 1024
// that divides them: "10 MiB", "1500 B", "90 s", "3". ParseQuantity reads it
// back.
func FormatQuantity(n int64, unit rating.Unit) string {
	switch unit {
	case rating.Money:
		return FormatMoney(rating.Micros(n))
	case rating.Octets:
		for _, c := range slices.Backward(scales[unit]) {
			if c.name[1:] == "iB" && n != 0 && n%c.size == 0 {
				return fmt.Sprintf("%d %s", n/c.size, c.name)
			}
		}
		return fmt.Sprintf("%d B", n)
	case rating.Seconds:
		return fmt.Sprintf("%d s", n)
	case rating.Events:
	}
	return fmt.Sprint(n)
}

// FormatOctets writes octets for a person to read at a glance, rounded to one
// decimal: "958.5 KiB", "10 MiB".
func FormatOctets(n int64) string {
	if n < 0 {
		return "-" + FormatOctets(max(-n, -(n+1)))
	}
	names, whole, tenths := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}, n, int64(0)
	i := 0
	for size := int64(1); whole >= 1024 && i < len(names)-1; i++ {
		size <<= 10
		whole, tenths = n/size, (n%size/(size>>10)*10+512)>>10
		if tenths == 10 {
			whole, tenths = whole+1, 0
		}
	}
	if tenths == 0 {
		return fmt.Sprintf("%d %s", whole, names[i])
	}
	return fmt.Sprintf("%d.%d %s", whole, tenths, names[i])
}
