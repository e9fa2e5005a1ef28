package rating_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"rtm/rating"
)

func clock(t testing.TB, name string) *time.Location {
	t.Helper()
	l, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

const (
	weekdays = rating.Days(0b0111110)
	weekend  = rating.Days(0b1000001)
	holidays = rating.Days(1 << rating.Holiday)
)

// date is the days since 1970 of a date.
func date(year int, month time.Month, day int) int64 {
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Unix() / 86400
}

// timed is a plan whose first service is that of some times, and whose second one is
// that of the rest.
func timed(zone *time.Location, bands ...rating.Band) *rating.Plan {
	all := service("then", nil)
	for i := range bands {
		all.Bands |= 1 << i
	}
	p := plan(all, service("else", nil))
	p.Zone, p.Bands, p.Holidays = zone, bands, []int64{date(2026, 12, 25), date(2026, 12, 26)}
	return p
}

// What is on when, and until when nothing changes, also on the nights on which the clock
// is changed.
func TestBands(t *testing.T) {
	berlin := clock(t, "Europe/Berlin")
	office := rating.Band{Name: "office", Days: weekdays, From: 8 * 60, To: 18 * 60}
	night := rating.Band{Name: "night", Days: 0x7F, From: 22 * 60, To: 6 * 60}
	free := rating.Band{Name: "free", Days: weekend | holidays, From: 0, To: 24 * 60}
	early := rating.Band{Name: "early", Days: 0xFF, From: 2*60 + 30, To: 4 * 60}
	friday := rating.Band{Name: "friday night", Days: 1 << time.Friday, From: 20 * 60, To: 5 * 60}
	for _, c := range []struct {
		bands []rating.Band
		zone  *time.Location
		at    string
		want  string
	}{
		{[]rating.Band{office}, berlin, "2026-11-27T07:59:59+01:00", "else until 08:00:00"},
		{[]rating.Band{office}, berlin, "2026-11-27T08:00:00+01:00", "then until 18:00:00"},
		{[]rating.Band{office}, berlin, "2026-11-27T17:59:59.5+01:00", "then until 18:00:00"},
		{[]rating.Band{office}, berlin, "2026-11-27T18:00:00+01:00", "else until 00:00:00"},
		{[]rating.Band{office}, berlin, "2026-11-28T12:00:00+01:00", "else until 18:00:00"}, // Saturday
		{[]rating.Band{office}, berlin, "2026-12-25T12:00:00+01:00", "else until 18:00:00"}, // a Friday, and a holiday
		{[]rating.Band{office, free}, berlin, "2026-12-25T12:00:00+01:00", "then until 18:00:00"},
		{[]rating.Band{office}, nil, "2026-11-27T08:30:00+01:00", "else until 09:00:00"}, // 07:30 in UTC
		{[]rating.Band{night}, berlin, "2026-11-27T23:00:00+01:00", "then until 00:00:00"},
		{[]rating.Band{night}, berlin, "2026-11-28T05:59:00+01:00", "then until 06:00:00"},
		{[]rating.Band{night}, berlin, "2026-11-28T06:00:00+01:00", "else until 22:00:00"},
		{[]rating.Band{night}, berlin, "2026-12-26T01:00:00+01:00", "else until 06:00:00"}, // the night began on a holiday
		{[]rating.Band{night}, berlin, "2026-12-25T01:00:00+01:00", "then until 06:00:00"}, // … on the evening before it
		{[]rating.Band{friday}, berlin, "2026-11-28T04:00:00+01:00", "then until 05:00:00"},
		{[]rating.Band{friday}, berlin, "2026-11-27T04:00:00+01:00", "else until 05:00:00"},
		// 29 March 2026: from 02:00 the clock goes to 03:00. 25 October: from 03:00 back to 02:00.
		{[]rating.Band{early}, berlin, "2026-03-29T01:30:00+01:00", "else until 03:00:00"},
		{[]rating.Band{early}, berlin, "2026-03-29T03:00:00+02:00", "then until 04:00:00"},
		{[]rating.Band{early}, berlin, "2026-10-25T02:00:00+02:00", "else until 02:30:00"},
		{[]rating.Band{early}, berlin, "2026-10-25T02:30:00+02:00", "then until 02:00:00"},
		{[]rating.Band{early}, berlin, "2026-10-25T02:00:00+01:00", "else until 02:30:00"},
		{[]rating.Band{early}, berlin, "2026-10-25T02:30:00+01:00", "then until 04:00:00"},
	} {
		at, err := time.Parse(time.RFC3339, c.at)
		if err != nil {
			t.Fatal(err)
		}
		p := timed(c.zone, c.bands...)
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		price, until, ok := p.Price(&rating.Facts{At: at})
		if !ok {
			t.Fatalf("%s: no tariff", c.at)
		}
		if got := price.Name + " until " + until.In(berlin).Format(time.TimeOnly); got != c.want || !until.After(at) {
			t.Errorf("%s with %s: %s, want %s", c.at, c.bands[0].Name, got, c.want)
		}
	}
}

// Up to until the same service applies, whatever the bands, the calendar and the clock:
// an oracle asks the time package what the clock shows, minute by minute.
func TestNothingChangesBeforeUntil(t *testing.T) {
	zones := []*time.Location{nil, clock(t, "Europe/Berlin"), clock(t, "America/New_York"), clock(t, "Australia/Lord_Howe"), clock(t, "Asia/Kathmandu"), clock(t, "America/Santiago"), clock(t, "Africa/Cairo")}
	on := func(p *rating.Plan, at time.Time) bool {
		zone := p.Zone
		if zone == nil {
			zone = time.UTC
		}
		local := at.In(zone)
		sort := func(d time.Time) int {
			for _, h := range p.Holidays {
				if h == date(d.Year(), d.Month(), d.Day()) {
					return rating.Holiday
				}
			}
			return int(d.Weekday())
		}
		day, before := sort(local), sort(time.Date(local.Year(), local.Month(), local.Day()-1, 12, 0, 0, 0, zone))
		minute := local.Hour()*60 + local.Minute()
		for _, b := range p.Bands {
			if b.From < b.To && b.Days.Has(day) && b.From <= minute && minute < b.To ||
				b.From >= b.To && (b.Days.Has(day) && b.From <= minute || b.Days.Has(before) && minute < b.To) {
				return true
			}
		}
		return false
	}
	nights := []time.Time{ // around changes of the clock, and around holidays
		time.Date(2026, 3, 28, 18, 0, 0, 0, time.UTC), time.Date(2026, 10, 24, 18, 0, 0, 0, time.UTC), time.Date(2026, 3, 8, 2, 0, 0, 0, time.UTC),
		time.Date(2026, 11, 1, 1, 0, 0, 0, time.UTC), time.Date(2026, 4, 4, 10, 0, 0, 0, time.UTC), time.Date(2026, 10, 3, 10, 0, 0, 0, time.UTC),
		time.Date(2026, 12, 24, 12, 0, 0, 0, time.UTC), time.Date(2026, 9, 5, 20, 0, 0, 0, time.UTC), time.Date(2026, 4, 23, 12, 0, 0, 0, time.UTC), time.Date(2026, 10, 29, 12, 0, 0, 0, time.UTC),
	}
	r := rand.New(rand.NewPCG(1, 2))
	changes := 0
	for range 2000 {
		var bands []rating.Band
		for i := range 1 + r.IntN(3) {
			bands = append(bands, rating.Band{Name: fmt.Sprint(i), Days: rating.Days(1 + r.IntN(255)), From: r.IntN(24 * 60), To: 1 + r.IntN(24*60)})
		}
		p := timed(zones[r.IntN(len(zones))], bands...)
		at := nights[r.IntN(len(nights))].Add(time.Duration(r.IntN(24*3600)) * time.Second)
		for range 20 {
			price, until, _ := p.Price(&rating.Facts{At: at})
			is := price.Name == "then"
			for x := at; x.Before(until); x = x.Add(time.Minute) {
				if on(p, x) != is {
					t.Fatalf("%v in %v: at %s it is %q until %s, but at %s it is another one", bands, p.Zone, at, price.Name, until, x)
				}
			}
			if last := until.Add(-time.Second); !last.Before(at) && on(p, last) != is {
				t.Fatalf("%v in %v: at %s it is %q until %s, but not a second before", bands, p.Zone, at, price.Name, until)
			}
			if !until.After(at) || until.Sub(at) > 25*time.Hour {
				t.Fatalf("%v in %v: at %s until %s", bands, p.Zone, at, until)
			}
			if on(p, until) != is {
				changes++
			}
			at = until
		}
	}
	if changes < 1000 {
		t.Errorf("only %d changes were looked at", changes)
	}
}

// Some bands are always on if no minute of any two days is without one.
func TestBandsThatAreAlwaysOn(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	always := 0
	for range 3000 {
		p := timed(nil)
		cut := r.IntN(24*60-1) + 1
		p.Bands = []rating.Band{
			{Name: "a", Days: 0xFF, From: cut, To: 1 + r.IntN(24*60)}, {Name: "b", Days: rating.Days(r.IntN(3)) - 2, From: 0, To: cut}, {Name: "c", Days: rating.Days(r.IntN(256)), From: r.IntN(24 * 60), To: 24 * 60},
		}
		bands, want := uint64(r.IntN(8)), true
		for day := range 8 {
			for before := range 8 {
				for minute := range 24 * 60 {
					if day != rating.Holiday && before != rating.Holiday && day != (before+1)%7 {
						continue
					}
					on := false
					for i, b := range p.Bands {
						is := b.Days.Has(day) && b.From <= minute && minute < b.To
						if b.From >= b.To {
							is = b.Days.Has(day) && b.From <= minute || b.Days.Has(before) && minute < b.To
						}
						on = on || bands>>i&1 != 0 && is
					}
					want = want && on
				}
			}
		}
		if got := p.Always(bands); got != want {
			t.Fatalf("%v of %v: %v", bands, p.Bands, got)
		}
		if want {
			always++
		}
	}
	if always == 0 {
		t.Error("none of them were always on")
	}
}

// The longest prefix counts; networks count by country or by network.
func TestZones(t *testing.T) {
	prefix := func(digits string) rating.Prefix {
		p, ok := rating.PrefixOf(digits)
		if !ok {
			t.Fatalf("%q is no prefix", digits)
		}
		return p
	}
	abroad := service("in the Union", func(s *rating.Service) { s.Zones = []uint16{0} })
	mobile := service("to mobiles", func(s *rating.Service) { s.Zones = []uint16{2, 3} })
	fixed := service("to Germany", func(s *rating.Service) { s.Zones = []uint16{1} })
	p := plan(abroad, mobile, fixed, service("rest", nil))
	p.Zones = []rating.Zone{
		{Name: "eu", Networks: []rating.Network{{From: 208, To: 208}, {From: 262, To: 262, Code: "01"}, {From: 310, To: 316}, {From: 334, To: 334, Code: "020"}}},
		{Name: "germany", Calls: true},
		{Name: "german mobiles", Calls: true},
		{Name: "mobiles from home", Calls: true, Networks: []rating.Network{{From: 1, To: 1}}},
	}
	for digits, zone := range map[string]uint16{"49": 1, "4915": 2, "49160": 2, "4917": 3, "0": 1} {
		p.Prefixes.Put(prefix(digits), zone)
	}
	if zone, taken := p.Prefixes.Put(prefix("49"), 2); !taken || zone != 1 || p.Prefixes.Len() != 5 {
		t.Errorf("a prefix of zone %d is given to another one: %v", zone, taken)
	}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	for facts, want := range map[string]string{
		"network 20801": "in the Union", "network 20899": "in the Union", "network 26201": "in the Union", "network 26202": "rest", "network 262010": "rest",
		"network 310410": "in the Union", "network 317410": "rest", "network 334020": "in the Union", "network 33402": "rest", "network 2x801": "rest", "network 208": "rest", "": "rest",
		"called tel:+491511234567": "to mobiles", "called 004915": "to mobiles", "called 4915": "to mobiles", "called +49-(15)1": "to mobiles", "called sip:+4916012@ims.example;user=phone": "to mobiles",
		"called SIPS:+4916112@ims": "to Germany", "called tel:+4930;phone-context=x": "to Germany", "called 030": "to Germany", "called +4": "rest", "called tel:": "rest",
		"called sip:alice@49": "rest", "called +44": "rest", "called 491712": "rest", "called 491712 network 00101": "to mobiles", "called 4930 network 20801": "in the Union",
		"called +49151000000000000000000000": "to mobiles",
	} {
		f := &rating.Facts{}
		for words := strings.Fields(facts); len(words) > 1; words = words[2:] {
			switch words[0] {
			case "network":
				f.PLMN = []byte(words[1])
			case "called":
				f.Called = []byte(words[1])
			}
		}
		price, until, ok := p.Price(f)
		if !ok || price.Name != want || !until.IsZero() {
			t.Errorf("%s: %s until %v, want %s", facts, price.Name, until, want)
		}
	}
	for _, digits := range []string{"", "+49", "1234567890123456", "12a"} {
		if _, ok := rating.PrefixOf(digits); ok {
			t.Errorf("%q is a prefix", digits)
		}
	}
	if prefix("10") == prefix("1") || prefix("01") == prefix("1") || prefix("0") == prefix("00") {
		t.Error("two prefixes are one")
	}
}

// The first service without a reason not to apply is the one whose price counts.
func TestWhyIsWhatPriceGoesBy(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	some := func(n int) (list []uint32) {
		for range r.IntN(3) {
			list = append(list, uint32(r.IntN(n)))
		}
		return list
	}
	none, reasons := 0, make(map[string]bool)
	for range 20_000 {
		var services []rating.Service
		for i := range 4 {
			services = append(services, service(fmt.Sprint("s", i), func(s *rating.Service) {
				s.Contexts, s.Groups, s.Services, s.Default, s.Media, s.Bands = some(2), some(3), some(3), r.IntN(3) == 0, uint8(r.IntN(3)), uint64(r.IntN(4))
				for _, z := range some(2) {
					s.Zones = append(s.Zones, uint16(z))
				}
				if r.IntN(3) == 0 {
					s.APNs = []string{"web"}
				}
			}))
		}
		p := plan(services...)
		p.Zones = []rating.Zone{{Name: "near", Networks: []rating.Network{{From: 262, To: 262}}}, {Name: "calls", Calls: true}}
		prefix, _ := rating.PrefixOf("49")
		p.Prefixes.Put(prefix, 1)
		p.Bands = []rating.Band{{Name: "day", Days: 0x7F, From: 360, To: 1080}, {Name: "holidays", Days: holidays, To: 1440}}
		p.Holidays = []int64{date(2026, 12, 25)}
		f := &rating.Facts{
			Context: uint32(r.IntN(2)), Group: uint32(r.IntN(3)), Service: uint32(r.IntN(3)), HasGroup: r.IntN(4) > 0, HasService: r.IntN(2) == 0, Media: uint8(r.IntN(4)),
			APN: []byte([]string{"", "web", "ims"}[r.IntN(3)]), PLMN: []byte([]string{"", "26201", "20801"}[r.IntN(3)]), Called: []byte([]string{"", "tel:+49", "44"}[r.IntN(3)]),
			At: time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC).Add(time.Duration(r.IntN(48)) * time.Hour),
		}
		want := ""
		for i := range p.Services {
			why := p.Why(i, f)
			if why == "" {
				want = p.Services[i].Name
				break
			}
			reasons[strings.Fields(why)[0]] = true
		}
		if r.IntN(2) == 0 { // with and without what Check prepares
			if err := p.Check(); err != nil {
				t.Fatal(err)
			}
		}
		price, _, ok := p.Price(f)
		if ok != (want != "") || ok && price.Name != want {
			t.Fatalf("%+v: by Why it is %q, by Price %+v", f, want, price)
		}
		if !ok {
			none++
		}
	}
	if none < 100 || none > 19_000 || len(reasons) < 7 {
		t.Errorf("%d times nothing applied, for reasons that begin with %v", none, reasons)
	}
}

// A price in a large plan costs nothing but time: no memory is taken.
func TestPriceAllocatesNothing(t *testing.T) {
	p := large()
	f := &rating.Facts{At: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC), PLMN: []byte("26201"), Called: []byte("tel:+4915112345678")}
	if n := testing.AllocsPerRun(100, func() { p.Price(f) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// large is a plan with 200 services in as many zones, 100,000 prefixes and 20 times, of
// which the last service applies.
func large() *rating.Plan {
	services := make([]rating.Service, 200)
	zones := make([]rating.Zone, 200)
	var prefixes rating.Prefixes
	for i := range services {
		services[i] = service(fmt.Sprint("zone ", i), func(s *rating.Service) { s.Zones, s.Bands = []uint16{uint16(i)}, 1<<(i%20) })
		zones[i] = rating.Zone{Name: fmt.Sprint("zone ", i), Calls: true}
	}
	for n := 100_000; n < 200_000; n++ {
		p, _ := rating.PrefixOf(fmt.Sprint(n))
		prefixes.Put(p, uint16(n%200))
	}
	services[199].Zones, services[199].Bands = nil, 0
	p := plan(services...)
	p.Zones, p.Prefixes = zones, prefixes
	for i := range 20 {
		p.Bands = append(p.Bands, rating.Band{Name: fmt.Sprint(i), Days: 0xFF, From: i * 60, To: i*60 + 30})
	}
	return p
}

// BenchmarkPriceOfALargePlan finds the price among 200 services with zones of 100,000
// prefixes and 20 times; BenchmarkPriceOfASimplePlan that of the only service.
func BenchmarkPriceOfALargePlan(b *testing.B) {
	p := large()
	f := &rating.Facts{At: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC), PLMN: []byte("26201"), Called: []byte("tel:+1999991234")}
	for b.Loop() {
		p.Price(f)
	}
}

func BenchmarkPriceOfASimplePlan(b *testing.B) {
	p := plan(service("all", nil))
	f := &rating.Facts{At: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC), PLMN: []byte("26201"), Called: []byte("tel:+1999991234")}
	for b.Loop() {
		p.Price(f)
	}
}
