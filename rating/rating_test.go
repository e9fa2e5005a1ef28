package rating_test

import (
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rtm/rating"
)

// anyPrice draws prices from everyday ones to the very edge of what Check lets
// pass.
func anyPrice(t *rapid.T) *rating.Price {
	p := usable("drawn")
	p.Unit = rapid.SampledFrom([]rating.Unit{rating.Octets, rating.Seconds, rating.Events}).Draw(t, "unit")
	p.Step = rapid.OneOf(rapid.Int64Range(1, 4096), rapid.Int64Range(1, rating.UnitsMax)).Draw(t, "step")
	p.Per = rapid.OneOf(rapid.Int64Range(1, 1<<20), rapid.Int64Range(1, rating.UnitsMax)).Draw(t, "per")
	most := math.MaxInt64 / 2 / p.Step
	p.Micro = rating.Micros(rapid.OneOf(rapid.Int64Range(0, min(most, 1_000_000)), rapid.Int64Range(0, most)).Draw(t, "micro"))
	if err := p.Check(); err != nil {
		t.Fatalf("price %+v: %v", p, err)
	}
	return p
}

func quantity(t *rapid.T, name string) int64 {
	return rapid.OneOf(rapid.Int64Range(0, 10_000), rapid.Int64Range(0, rating.UnitsMax), rapid.Int64Range(0, math.MaxInt64)).Draw(t, name)
}

// reference is the price of a quantity without a bound on any number: begun
// steps count whole, the sum is rounded down.
func reference(p *rating.Price, quantity int64) *big.Int {
	steps := new(big.Int).Add(big.NewInt(quantity), big.NewInt(p.Step-1))
	steps.Quo(steps, big.NewInt(p.Step))
	sum := steps.Mul(steps, big.NewInt(p.Step))
	sum.Mul(sum, big.NewInt(int64(p.Micro)))
	return sum.Quo(sum, big.NewInt(p.Per))
}

func TestTotalEqualsAReferenceWithoutBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, q := anyPrice(t), quantity(t, "quantity")
		want := reference(p, q)
		got, ok := p.Total(q)
		if ok != want.IsInt64() {
			t.Fatalf("Total(%d) is possible: %t, want %t for %s micro-units", q, ok, want.IsInt64(), want)
		}
		if ok && int64(got) != want.Int64() {
			t.Fatalf("Total(%d) = %d, want %s", q, got, want)
		}
	})
}

func TestTotalNeverFalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, a := anyPrice(t), quantity(t, "a")
		b := a + rapid.Int64Range(0, math.MaxInt64-a).Draw(t, "more")
		before, ok1 := p.Total(a)
		after, ok2 := p.Total(b)
		if ok2 && !ok1 {
			t.Fatalf("Total(%d) fits and Total(%d) does not", b, a)
		}
		if ok2 && after < before {
			t.Fatalf("Total(%d) = %d is more than Total(%d) = %d", a, before, b, after)
		}
	})
}

// However a quantity is reported, in one piece or in many, the charges sum up
// to the same.
func TestChargesOfPiecesSumUpToTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPrice(t)
		pieces := rapid.SliceOfN(rapid.Int64Range(0, 1<<40), 1, 30).Draw(t, "pieces")
		var used int64
		var charged rating.Micros
		for _, n := range pieces {
			used += n
			total, ok := p.Total(used)
			if !ok {
				if reference(p, used).IsInt64() {
					t.Fatalf("Total(%d) is not possible", used)
				}
				return
			}
			if total < charged {
				t.Fatalf("piece of %d units costs %d", n, total-charged)
			}
			charged += total - charged
		}
		if whole, ok := p.Total(used); !ok || whole != charged {
			t.Fatalf("pieces cost %d, the whole of %d units %d", charged, used, whole)
		}
	})
}

func TestAffordableIsTheLargestQuantity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, before := anyPrice(t), quantity(t, "before")
		have := rating.Micros(quantity(t, "have"))
		q := p.Affordable(before, have)
		spent, ok := p.Total(before)
		if !ok {
			if q != 0 {
				t.Fatalf("Affordable = %d after a quantity that cannot be counted", q)
			}
			return
		}
		if q < 0 {
			t.Fatalf("Affordable(%d, %d) = %d", before, have, q)
		}
		within := func(q int64) bool {
			total, ok := p.Total(before + q)
			return ok && total-spent <= have
		}
		if q == rating.Unlimited {
			if p.Micro != 0 && !within(math.MaxInt64-before) {
				t.Fatalf("Affordable(%d, %d) is Unlimited, but not all can be had", before, have)
			}
			return
		}
		if !within(q) {
			t.Fatalf("Affordable(%d, %d) = %d costs more than that", before, have, q)
		}
		if q < math.MaxInt64-before && within(q+1) {
			t.Fatalf("Affordable(%d, %d) = %d, but %d can be had", before, have, q, q+1)
		}
	})
}

// usable is a price that passes Check.
func usable(name string) *rating.Price {
	return &rating.Price{
		Rule: 1, Name: name, Unit: rating.Octets, Step: 1, Per: 1 << 20, Micro: 10_000, Final: rating.Terminate,
		Quota: rating.Quota{Size: 10 << 20, Threshold: 1 << 20, Validity: time.Hour},
	}
}

func TestPricesOfEverydayPlans(t *testing.T) {
	for _, c := range []struct {
		name             string
		step, per, micro int64
		quantity, want   int64
	}{
		{"nothing used costs nothing", 1024, 1 << 20, 10_000, 0, 0},
		{"a cent per MiB, one MiB", 1, 1 << 20, 10_000, 1 << 20, 10_000},
		{"a cent per MiB, one octet, rounded down", 1, 1 << 20, 10_000, 1, 0},
		{"a cent per MiB, 105 octets are the first micro-unit", 1, 1 << 20, 10_000, 105, 1},
		{"a cent per MiB in steps of 100 KiB, one octet is a step", 102_400, 1 << 20, 10_000, 1, 976},
		{"a cent per MiB in steps of 100 KiB, a step and an octet are two", 102_400, 1 << 20, 10_000, 102_401, 1953},
		{"9 cents a minute by the second", 1, 60, 90_000, 47, 70_500},
		{"9 cents a minute by the minute", 60, 60, 90_000, 61, 180_000},
		{"9 cents an event, three events", 1, 1, 90_000, 3, 270_000},
		{"free", 1, 1, 0, math.MaxInt64, 0},
	} {
		p := usable(c.name)
		p.Step, p.Per, p.Micro = c.step, c.per, rating.Micros(c.micro)
		if got, ok := p.Total(c.quantity); !ok || int64(got) != c.want {
			t.Errorf("%s: Total(%d) = %d, %t, want %d", c.name, c.quantity, got, ok, c.want)
		}
	}
}

func TestWhatCannotBeCountedIsReported(t *testing.T) {
	p := usable("dear")
	p.Per, p.Micro = 1, 1<<40
	if got, ok := p.Total(1<<23 - 1); !ok || got != (1<<23-1)<<40 {
		t.Errorf("the last quantity that fits: %d, %t", got, ok)
	}
	for _, q := range []int64{1 << 23, rating.UnitsMax, math.MaxInt64, -1, math.MinInt64} {
		if got, ok := p.Total(q); ok {
			t.Errorf("Total(%d) = %d, want a report that it cannot be counted", q, got)
		}
	}
	for _, c := range []struct{ before, have, want int64 }{
		{0, 0, 0},
		{0, 1<<40 - 1, 0},
		{0, 1 << 40, 1},
		{5, 1 << 41, 2},
		{0, math.MaxInt64, 1<<23 - 1},
		{1<<23 - 2, math.MaxInt64, 1}, // no further than what can be counted
		{1<<23 - 1, math.MaxInt64, 0},
		{1 << 23, math.MaxInt64, 0},
		{0, -1, 0},
		{-1, 1 << 40, 0},
	} {
		if got := p.Affordable(c.before, rating.Micros(c.have)); got != c.want {
			t.Errorf("Affordable(%d, %d) = %d, want %d", c.before, c.have, got, c.want)
		}
	}
}

func TestFreeUnitsHaveNoLimit(t *testing.T) {
	p := usable("free")
	p.Micro = 0
	if got := p.Affordable(1000, 0); got != rating.Unlimited {
		t.Errorf("Affordable of free units = %d, want Unlimited", got)
	}
	if got := p.Affordable(0, -1); got != 0 {
		t.Errorf("Affordable of free units with less than nothing = %d, want 0", got)
	}
}

func TestPriceCheckRefuses(t *testing.T) {
	if err := usable("good").Check(); err != nil {
		t.Fatalf("a usable price is refused: %v", err)
	}
	for _, c := range []struct {
		spoil func(*rating.Price)
		want  string
	}{
		{func(p *rating.Price) { p.Unit = 0 }, "unit must be octets"},
		{func(p *rating.Price) { p.Unit = rating.Money + 1 }, "unit must be octets"},
		{func(p *rating.Price) { p.Unit = rating.Money }, "has no threshold"},
		{func(p *rating.Price) { p.Unit, p.Quota.Threshold, p.NoMoney = rating.Money, 0, true }, "paid with money"},
		{func(p *rating.Price) { p.Unit, p.Quota.Threshold, p.Allowances = rating.Money, 0, []uint32{1} }, "paid with money"},
		{func(p *rating.Price) { p.Free = true }, "must cost nothing"},
		{func(p *rating.Price) { p.Step = 0 }, "step must be"},
		{func(p *rating.Price) { p.Step = rating.UnitsMax + 1 }, "step must be"},
		{func(p *rating.Price) { p.Per = 0 }, "per must be"},
		{func(p *rating.Price) { p.Per = rating.UnitsMax + 1 }, "per must be"},
		{func(p *rating.Price) { p.Micro = -1 }, "must not be negative"},
		{func(p *rating.Price) { p.Step, p.Micro = rating.UnitsMax, 1024 }, "costs too much"},
		{func(p *rating.Price) { p.Quota.Size = 0 }, "quota size"},
		{func(p *rating.Price) { p.Quota.Threshold = p.Quota.Size }, "quota threshold"},
		{func(p *rating.Price) { p.Quota.Threshold = -1 }, "quota threshold"},
		{func(p *rating.Price) { p.Quota.Validity = 0 }, "quota validity"},
		{func(p *rating.Price) { p.Quota.Validity = 1500 * time.Millisecond }, "whole seconds"},
		{func(p *rating.Price) { p.Quota.Validity = rating.QuotaTimeMax + time.Second }, "quota validity"},
		{func(p *rating.Price) { p.Quota.Holding = -time.Second }, "holding time"},
		{func(p *rating.Price) { p.Quota.Holding = time.Millisecond }, "holding time"},
		{func(p *rating.Price) { p.Final = 0 }, "final action"},
		{func(p *rating.Price) { p.Final = rating.Redirect }, "redirect address"},
		{func(p *rating.Price) { p.Redirect = "http://top-up.example" }, "redirect address"},
		{func(p *rating.Price) { p.Final = rating.RestrictAccess }, "filter"},
		{func(p *rating.Price) { p.Filter = "walled-garden" }, "filter"},
	} {
		p := usable("spoilt")
		c.spoil(p)
		if err := p.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want one with %q", p, err, c.want)
		}
	}
}

func TestUnitsAndActionsAreSpelledAsInTheStandard(t *testing.T) {
	for want, got := range map[string]interface{ String() string }{
		"octets": rating.Octets, "seconds": rating.Seconds, "events": rating.Events, "money": rating.Money, "Unit(9)": rating.Unit(9),
		"TERMINATE": rating.Terminate, "REDIRECT": rating.Redirect, "RESTRICT_ACCESS": rating.RestrictAccess, "FinalAction(9)": rating.FinalAction(9),
	} {
		if got.String() != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
