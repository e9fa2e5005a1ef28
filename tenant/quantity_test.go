package tenant_test

import (
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"rtm/rating"
	"rtm/tenant"
)

func TestQuantitiesAreReadExactly(t *testing.T) {
	for _, c := range []struct {
		text string
		unit rating.Unit
		want int64 // zero: refused
	}{
		{"10 MiB", rating.Octets, 10 << 20},
		{"10MiB", rating.Octets, 10 << 20},
		{" 10  MiB ", rating.Octets, 10 << 20},
		{"1.5 KiB", rating.Octets, 1536},
		{"0.001 kB", rating.Octets, 1},
		{"2 GB", rating.Octets, 2_000_000_000},
		{"1 TiB", rating.Octets, 1 << 40},
		{"1500 B", rating.Octets, 1500},
		{"1500", rating.Octets, 1500},
		{"8192 TiB", rating.Octets, rating.UnitsMax},
		{"8192.000000000001 TiB", rating.Octets, 0},
		{"8193 TiB", rating.Octets, 0},
		{"1.0001 KiB", rating.Octets, 0},
		{"0.5", rating.Octets, 0},
		{"0 MiB", rating.Octets, 0},
		{"-1 MiB", rating.Octets, 0},
		{"+1 MiB", rating.Octets, 0},
		{"MiB", rating.Octets, 0},
		{"", rating.Octets, 0},
		{"1 mib", rating.Octets, 0},
		{"1 Mib", rating.Octets, 0},
		{"1 MiB/s", rating.Octets, 0},
		{"1,5 MiB", rating.Octets, 0},
		{"1.5.5 MiB", rating.Octets, 0},
		{". MiB", rating.Octets, 0},
		{"NaN", rating.Octets, 0},
		{"Infinity", rating.Octets, 0},
		{"1e3 B", rating.Octets, 0},
		{"0x10", rating.Octets, 0},
		{"٣ MiB", rating.Octets, 0},
		{strings.Repeat("9", 400), rating.Octets, 0},
		{"90 s", rating.Seconds, 90},
		{"5min", rating.Seconds, 300},
		{"5m", rating.Seconds, 300},
		{"1.5 h", rating.Seconds, 5400},
		{"30d", rating.Seconds, 2_592_000},
		{"60", rating.Seconds, 60},
		{"1h30m", rating.Seconds, 0},
		{"1 B", rating.Seconds, 0},
		{"3", rating.Events, 3},
		{"3 events", rating.Events, 0},
		{"5.00", rating.Money, 5_000_000},
		{"0", rating.Money, 0},
		{"1", rating.Unit(0), 1},
	} {
		got, err := tenant.ParseQuantity(c.text, c.unit)
		if c.want == 0 && err == nil || c.want != 0 && (err != nil || got != c.want) {
			t.Errorf("%.40q in %s: %d, %v, want %d", c.text, c.unit, got, err, c.want)
		}
	}
}

func TestMoneyIsReadExactly(t *testing.T) {
	for text, want := range map[string]rating.Micros{
		"0": 0, "0.00": 0, "9.99": 9_990_000, "0.000001": 1, "9007199254.740992": rating.UnitsMax, "007": 7_000_000, ".5": 500_000, "5.": 5_000_000, " 1 ": 1_000_000,
	} {
		if got, err := tenant.ParseMoney(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "-1", "--1", "1-1", "-", ".", "1e2", "NaN", "inf", "1,00", "1 000", "1_000", "0.0000001", "9007199254.740993", "10 EUR", "€1", strings.Repeat("1", 31),
	} {
		if got, err := tenant.ParseMoney(text); err == nil {
			t.Errorf("%q was taken for %d", text, got)
		}
	}
}

func TestWhatIsWrittenCanBeReadAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		unit := rapid.SampledFrom([]rating.Unit{rating.Octets, rating.Seconds, rating.Events, rating.Money}).Draw(t, "unit")
		n := rapid.OneOf(rapid.Int64Range(1, rating.UnitsMax), rapid.Map(rapid.Int64Range(1, 1<<23), func(n int64) int64 { return n << 30 })).Draw(t, "quantity")
		text := tenant.FormatQuantity(n, unit)
		if back, err := tenant.ParseQuantity(text, unit); err != nil || back != n {
			t.Fatalf("%d %s is written %q and read as %d, %v", n, unit, text, back, err)
		}
	})
}

func TestHowMoneyIsWritten(t *testing.T) {
	for m, want := range map[rating.Micros]string{
		0: "0.00", 1: "0.000001", 10_000: "0.01", 9_990_000: "9.99", 12_345_678: "12.345678", 1_500_000: "1.50", 123_400: "0.1234",
		-1_500_000: "-1.50", -1: "-0.000001", math.MaxInt64: "9223372036854.775807", math.MinInt64: "-9223372036854.775808",
	} {
		if got := tenant.FormatMoney(m); got != want {
			t.Errorf("%d: %s, want %s", m, got, want)
		}
	}
}

func TestHowQuantitiesAreWritten(t *testing.T) {
	for _, c := range []struct {
		n           int64
		unit        rating.Unit
		exact, seen string
	}{
		{0, rating.Octets, "0 B", "0 B"},
		{1, rating.Octets, "1 B", "1 B"},
		{1023, rating.Octets, "1023 B", "1023 B"},
		{1024, rating.Octets, "1 KiB", "1 KiB"},
		{1500, rating.Octets, "1500 B", "1.5 KiB"},
		{981_504, rating.Octets, "981504 B", "958.5 KiB"},
		{1<<20 - 1, rating.Octets, "1048575 B", "1 MiB"},
		{10 << 20, rating.Octets, "10 MiB", "10 MiB"},
		{1000 << 20, rating.Octets, "1000 MiB", "1000 MiB"},
		{3_000_000_000, rating.Octets, "3000000000 B", "2.8 GiB"},
		{5 << 40, rating.Octets, "5 TiB", "5 TiB"},
		{rating.UnitsMax, rating.Octets, "8192 TiB", "8 PiB"},
		{math.MaxInt64, rating.Octets, "9223372036854775807 B", "8 EiB"},
		{-1536, rating.Octets, "-1536 B", "-1.5 KiB"},
		{math.MinInt64, rating.Octets, "-8388608 TiB", "-8 EiB"},
		{90, rating.Seconds, "90 s", ""},
		{3, rating.Events, "3", ""},
		{1_250_000, rating.Money, "1.25", ""},
	} {
		if got := tenant.FormatQuantity(c.n, c.unit); got != c.exact {
			t.Errorf("%d %s: %q, want %q", c.n, c.unit, got, c.exact)
		}
		if got := tenant.FormatOctets(c.n); c.seen != "" && got != c.seen {
			t.Errorf("%d octets at a glance: %q, want %q", c.n, got, c.seen)
		}
	}
}

func TestCurrencies(t *testing.T) {
	for _, want := range []tenant.Currency{
		{Code: "EUR", Number: 978, Decimals: 2}, {Code: "USD", Number: 840, Decimals: 2}, {Code: "JPY", Number: 392}, {Code: "ALL", Number: 8, Decimals: 2},
		{Code: "KWD", Number: 414, Decimals: 3}, {Code: "AED", Number: 784, Decimals: 2}, {Code: "ZWG", Number: 924, Decimals: 2},
	} {
		if got, ok := tenant.CurrencyOf(want.Code); !ok || got != want {
			t.Errorf("%+v, %t, want %+v", got, ok, want)
		}
	}
	for _, code := range []string{"", "eur", "EU", "EURO", "XXX", "978", "DEM"} {
		if c, ok := tenant.CurrencyOf(code); ok {
			t.Errorf("%q is %+v", code, c)
		}
	}
	codes, numbers := 0, make(map[uint32]string)
	for i := range 26 * 26 * 26 {
		code := string([]byte{byte('A' + i/676), byte('A' + i/26%26), byte('A' + i%26)})
		c, ok := tenant.CurrencyOf(code)
		if !ok {
			continue
		}
		codes++
		if other := numbers[c.Number]; c.Number == 0 || c.Number > 999 || c.Decimals < 0 || c.Decimals > 3 || other != "" {
			t.Errorf("%+v; the number is that of %q", c, other)
		}
		numbers[c.Number] = code
	}
	if codes != 155 {
		t.Errorf("%d currencies, want 155", codes)
	}
}
