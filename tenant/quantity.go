package tenant

import (
	"fmt"
	"strings"

	"github.com/cockroachdb/apd/v3"

	"rtm/rating"
)

// Currencies are the ISO 4217 numbers of the currencies a tenant can have.
var Currencies = map[string]uint32{
	"AED": 784, "ARS": 32, "AUD": 36, "BDT": 50, "BGN": 975, "BRL": 986, "CAD": 124, "CHF": 756, "CLP": 152, "CNY": 156,
	"COP": 170, "CZK": 203, "DKK": 208, "EGP": 818, "EUR": 978, "GBP": 826, "GHS": 936, "HKD": 344, "HUF": 348, "IDR": 360,
	"ILS": 376, "INR": 356, "ISK": 352, "JPY": 392, "KES": 404, "KRW": 410, "KWD": 414, "LKR": 144, "MAD": 504, "MXN": 484,
	"MYR": 458, "NGN": 566, "NOK": 578, "NPR": 524, "NZD": 554, "PEN": 604, "PHP": 608, "PKR": 586, "PLN": 985, "RON": 946,
	"RSD": 941, "RUB": 643, "SAR": 682, "SEK": 752, "SGD": 702, "THB": 764, "TND": 788, "TRY": 949, "TWD": 901, "TZS": 834,
	"UAH": 980, "UGX": 800, "USD": 840, "UYU": 858, "VND": 704, "ZAR": 710, "ZMW": 967,
}

// scales are what a quantity's unit multiplies it by.
var scales = map[rating.Unit]map[string]int64{
	rating.Octets: {
		"": 1, "b": 1, "octets": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
		"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
	},
	rating.Seconds: {"": 1, "s": 1, "seconds": 1, "min": 60, "m": 60, "h": 3600},
	rating.Events:  {"": 1, "events": 1},
}

// ParseQuantity reads a quantity such as "10 MiB", "90 s" or "3": whole, above
// zero, exact. Money is read by ParseMoney.
func ParseQuantity(text string, unit rating.Unit) (int64, error) {
	if unit == rating.Money {
		m, err := ParseMoney(text)
		return int64(m), err
	}
	s := strings.TrimSpace(text)
	cut := strings.LastIndexAny(s, "0123456789.") + 1
	scale, ok := scales[unit][strings.ToLower(strings.TrimSpace(s[cut:]))]
	if !ok || cut == 0 {
		return 0, fmt.Errorf("%q is not a quantity of %s such as %s", text, unit, map[rating.Unit]string{
			rating.Octets: "10 MiB", rating.Seconds: "5 min", rating.Events: "1",
		}[unit])
	}
	n, err := exact(s[:cut], scale)
	if err != nil || n < 1 || n > rating.UnitsMax {
		return 0, fmt.Errorf("%q must be a whole number of %s above zero", text, unit)
	}
	return n, nil
}

// ParseMoney reads an amount such as "9.99" exactly: not negative, six decimals
// at most.
func ParseMoney(text string) (rating.Micros, error) {
	n, err := exact(strings.TrimSpace(text), 1_000_000)
	if err != nil || n < 0 || n > rating.UnitsMax {
		return 0, fmt.Errorf("%q is not an amount of money such as 9.99, with at most six decimals", text)
	}
	return rating.Micros(n), nil
}

// exact is text × scale, if that is a whole number.
func exact(text string, scale int64) (int64, error) {
	d, _, err := apd.NewFromString(text)
	if err != nil || d.Form != apd.Finite || len(text) > 30 {
		return 0, fmt.Errorf("%q is not a number", text)
	}
	var p apd.Decimal
	if _, err := apd.BaseContext.WithPrecision(60).Mul(&p, d, apd.New(scale, 0)); err != nil {
		return 0, err
	}
	p.Reduce(&p)
	return p.Int64()
}

// FormatMoney writes money with two to six decimals: 9.99, 0.010001.
func FormatMoney(m rating.Micros) string {
	d := apd.New(int64(m), -6)
	text := d.Text('f')
	for strings.HasSuffix(text, "0") && strings.IndexByte(text, '.') < len(text)-3 {
		text = text[:len(text)-1]
	}
	return text
}

// FormatQuantity writes a quantity in the largest unit that divides it.
func FormatQuantity(n int64, unit rating.Unit) string {
	switch unit {
	case rating.Money:
		return FormatMoney(rating.Micros(n))
	case rating.Octets:
		for _, s := range []struct {
			size int64
			name string
		}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
			if n != 0 && n%s.size == 0 {
				return fmt.Sprintf("%d %s", n/s.size, s.name)
			}
		}
		return fmt.Sprintf("%d B", n)
	case rating.Seconds:
		return fmt.Sprintf("%d s", n)
	case rating.Events:
	}
	return fmt.Sprint(n)
}
