package rating_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"rtm/rating"
)

// service is a service of the plans below; the name is what tests look for.
func service(name string, change func(*rating.Service)) rating.Service {
	s := rating.Service{Price: *usable(name)}
	if change != nil {
		change(&s)
	}
	return s
}

func plan(services ...rating.Service) *rating.Plan {
	for i := range services {
		services[i].Rule = uint32(i) + 1
	}
	return &rating.Plan{Name: "basic", Version: 1, Currency: 978, Services: services, Sessions: 64, Groups: 16, Grace: 30 * time.Second}
}

// facts says what a message names, in words: "32251 group 10 service 7 apn web".
func facts(t *testing.T, words string) *rating.Facts {
	t.Helper()
	f := &rating.Facts{}
	fields := strings.Fields(words)
	for i := 0; i < len(fields); i += 2 {
		var err error
		switch fields[i] {
		case "context":
			_, err = fmt.Sscan(fields[i+1], &f.Context)
		case "group":
			_, err = fmt.Sscan(fields[i+1], &f.Group)
			f.HasGroup = true
		case "service":
			_, err = fmt.Sscan(fields[i+1], &f.Service)
			f.HasService = true
		case "apn":
			f.APN = []byte(fields[i+1])
		default:
			t.Fatalf("facts %q: what is %q?", words, fields[i])
		}
		if err != nil {
			t.Fatalf("facts %q: %v", words, err)
		}
	}
	return f
}

func TestWhichServiceApplies(t *testing.T) {
	everyday := plan(
		service("zero-rated", func(s *rating.Service) {
			s.Contexts, s.Groups, s.Services = []uint32{32251}, []uint32{10}, []uint32{7001, 7002}
		}),
		service("ims", func(s *rating.Service) { s.Contexts, s.APNs = []uint32{32251}, []string{"ims"} }),
		service("internet", func(s *rating.Service) {
			s.Contexts, s.Groups, s.Default = []uint32{32251}, []uint32{10, 20}, true
		}),
		service("voice", func(s *rating.Service) { s.Contexts = []uint32{32260} }),
		service("message", func(s *rating.Service) { s.Contexts, s.Services = []uint32{32274, 32275}, []uint32{0, 1} }),
	)
	twice := plan(
		service("first", func(s *rating.Service) { s.Groups = []uint32{10} }),
		service("second", func(s *rating.Service) { s.Groups = []uint32{10, 20} }),
	)
	defaults := plan(
		service("named", func(s *rating.Service) { s.Groups, s.Services = []uint32{5}, []uint32{6} }),
		service("fallback", func(s *rating.Service) { s.Groups, s.Services, s.Default = []uint32{1}, []uint32{2}, true }),
	)
	open := plan(
		service("special", func(s *rating.Service) { s.Groups = []uint32{10} }),
		service("all", nil),
	)
	for _, c := range []struct {
		plan  *rating.Plan
		facts string
		want  string // nothing: no tariff, 5031
	}{
		{everyday, "context 32251 group 10", "internet"},
		{everyday, "context 32251 group 20 apn web", "internet"},
		{everyday, "context 32251 group 10 service 7002", "zero-rated"},
		{everyday, "context 32251 group 10 service 7003", "internet"},
		{everyday, "context 32251 group 20 service 7001", "internet"},
		{everyday, "context 32251 group 99", ""},
		{everyday, "context 32251 group 99 apn ims", "ims"},
		{everyday, "context 32251 group 99 apn IMS", "ims"},
		{everyday, "context 32251 group 10 apn ims2", "internet"},
		{everyday, "context 32251 service 7001", ""}, // zero-rated wants the group too
		{everyday, "context 32251", "internet"},      // names neither: the default
		{everyday, "context 32260", "voice"},
		{everyday, "context 32260 group 10 service 1", "voice"},
		{everyday, "context 32274 service 1", "message"},
		{everyday, "context 32275 service 0", "message"},
		{everyday, "context 32274", ""}, // no default there
		{everyday, "context 32296 group 10", ""},
		{everyday, "group 10", ""}, // a context of free text

		{twice, "group 10", "first"}, // the first match wins
		{twice, "group 20", "second"},
		{twice, "", ""},

		{defaults, "", "fallback"},
		{defaults, "group 5 service 6", "named"},
		{defaults, "group 1 service 2", "fallback"},
		{defaults, "group 1", ""},           // its service is missing
		{defaults, "service 2", ""},         // its group is missing
		{defaults, "group 0 service 0", ""}, // naming zero is naming
		{defaults, "group 5 service 2", ""}, // a mix of two
		{defaults, "context 1", "fallback"}, // any context
		{defaults, "apn anything", "fallback"},

		{open, "context 32251 group 10", "special"},
		{open, "context 32251 group 11", "all"},
		{open, "", "all"}, // a service without lists takes everything
		{open, "service 3 apn x", "all"},
	} {
		p, until, ok := c.plan.Price(facts(t, c.facts))
		got := ""
		if ok {
			got = p.Name
		}
		if got != c.want || ok != (p != nil) || !until.IsZero() {
			t.Errorf("%q: service %q until %v, want %q", c.facts, got, until, c.want)
		}
		if ok && c.plan.Rule(p.Rule) != p {
			t.Errorf("%q: Rule(%d) is another service", c.facts, p.Rule)
		}
	}
}

func TestRuleOfAnotherPlanIsNone(t *testing.T) {
	p := plan(service("only", nil))
	for _, n := range []uint32{0, 2, 1 << 31} {
		if r := p.Rule(n); r != nil {
			t.Errorf("Rule(%d) = %s", n, r.Name)
		}
	}
}

func TestWhatAllowancesPayFor(t *testing.T) {
	named, unnamed := usable("named"), usable("unnamed")
	named.Allowances = []uint32{7, 9}
	for _, c := range []struct {
		price     *rating.Price
		allowance uint32
		want      bool
	}{
		{named, 7, true}, {named, 9, true}, {named, 8, false}, {named, 0, true}, {unnamed, 7, false}, {unnamed, 0, true},
	} {
		if got := c.price.Takes(c.allowance); got != c.want {
			t.Errorf("%s takes %d: %t, want %t", c.price.Name, c.allowance, got, c.want)
		}
	}
}

func TestAllowanceIDsStayTheSame(t *testing.T) {
	for name, want := range map[string]uint32{"": 2166136261, "a": 0xe40c292c, "foobar": 0xbf9cf968} {
		if got := rating.AllowanceID(name); got != want {
			t.Errorf("AllowanceID(%q) = %d, want %d", name, got, want)
		}
	}
}

func TestPlanCheckRefuses(t *testing.T) {
	good := func() *rating.Plan {
		p := plan(service("internet", func(s *rating.Service) { s.Allowances = []uint32{7} }), service("all", nil))
		p.Allowances = []rating.Allowance{
			{ID: 7, Name: "start", Unit: rating.Octets, Amount: 1000}, {ID: 8, Name: "gift", Unit: rating.Money, Amount: 1},
		}
		return p
	}
	if err := good().Check(); err != nil {
		t.Fatalf("a usable plan is refused: %v", err)
	}
	for _, c := range []struct {
		spoil func(*rating.Plan)
		want  string
	}{
		{func(p *rating.Plan) { p.Name = "" }, "needs a name"},
		{func(p *rating.Plan) { p.Services = nil }, "has 0 services"},
		{func(p *rating.Plan) { p.Services = make([]rating.Service, rating.ServicesMax+1) }, "1 to 1000"},
		{func(p *rating.Plan) { p.Allowances = make([]rating.Allowance, rating.AllowancesMax+1) }, "has 33 allowances"},
		{func(p *rating.Plan) { p.Sessions = 0 }, "sessions per account"},
		{func(p *rating.Plan) { p.Sessions = 1025 }, "sessions per account"},
		{func(p *rating.Plan) { p.Groups = 0 }, "rating groups per session"},
		{func(p *rating.Plan) { p.Groups = 65 }, "rating groups per session"},
		{func(p *rating.Plan) { p.Grace = 0 }, "grace"},
		{func(p *rating.Plan) { p.Grace = 2 * time.Hour }, "grace"},
		{func(p *rating.Plan) { p.Services[1].Step = 0 }, "service all: step"},
		{func(p *rating.Plan) { p.Services[1].Rule = 3 }, "rule number 3, want 2"},
		{func(p *rating.Plan) { p.Services[0].Allowances = []uint32{9} }, "has the number 9"},
		{func(p *rating.Plan) { p.Services[0].Allowances = []uint32{8} }, "cannot pay for octets"},
		{func(p *rating.Plan) { p.Allowances[0].Name = "" }, "needs a name"},
		{func(p *rating.Plan) { p.Allowances[0].ID = 0 }, "allowance"},
		{func(p *rating.Plan) { p.Allowances[1].ID = 7 }, "the name is taken"},
		{func(p *rating.Plan) { p.Allowances[0].Unit = 0 }, "allowance"},
		{func(p *rating.Plan) { p.Allowances[0].Amount = 0 }, "allowance"},
		{func(p *rating.Plan) { p.Allowances[0].Amount = rating.UnitsMax + 1 }, "allowance"},
		{func(p *rating.Plan) { p.Allowances[0].Validity = -1 }, "allowance"},
	} {
		p := good()
		c.spoil(p)
		if err := p.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one with %q", err, c.want)
		}
	}
}

// twenty is a plan of 20 rules and a message that only the last one applies to.
func twenty() (*rating.Plan, *rating.Facts) {
	var services []rating.Service
	for i := range 20 {
		services = append(services, service(fmt.Sprint("rule ", i+1), func(s *rating.Service) {
			s.Contexts, s.Groups, s.APNs = []uint32{32251, 32260}, []uint32{uint32(i) * 10, uint32(i)*10 + 1}, []string{"ims", "web.mvno.example"}
		}))
	}
	f := &rating.Facts{Context: 32251, Group: 191, HasGroup: true, APN: []byte("Web.MVNO.example"), PLMN: []byte("00101"), RAT: 6, At: time.Unix(1_780_000_000, 0)}
	return plan(services...), f
}

func TestNothingIsAllocated(t *testing.T) {
	p, f := twenty()
	price, _, ok := p.Price(f)
	if !ok || price.Rule != 20 {
		t.Fatalf("rule %v, want 20", price)
	}
	for name, run := range map[string]func(){
		"Price":      func() { p.Price(f) },
		"Total":      func() { price.Total(1 << 40) },
		"Affordable": func() { price.Affordable(1<<30, 10_000_000) },
	} {
		if n := testing.AllocsPerRun(100, run); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
	if !slices.Equal(f.APN, []byte("Web.MVNO.example")) {
		t.Errorf("the access point name has become %q", f.APN)
	}
}

func BenchmarkTotal(b *testing.B) {
	p := usable("total")
	b.ReportAllocs()
	for b.Loop() {
		p.Total(1 << 40)
	}
}

func BenchmarkAffordable(b *testing.B) {
	p := usable("affordable")
	b.ReportAllocs()
	for b.Loop() {
		p.Affordable(1<<30, 10_000_000)
	}
}

func BenchmarkPrice20Rules(b *testing.B) {
	p, f := twenty()
	b.ReportAllocs()
	for b.Loop() {
		p.Price(f)
	}
}

// A service that covers another applies wherever that one does; and where it
// does not cover it, the difference can be shown.
func TestCovers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	some := func(of ...uint32) (list []uint32) {
		for _, n := range of {
			if rng.IntN(2) == 0 {
				list = append(list, n)
			}
		}
		return list
	}
	drawn := func() (s rating.Service) {
		s.Contexts, s.Groups, s.Services, s.Default = some(32251, 32260), some(10, 20), some(1, 2), rng.IntN(2) == 0
		for _, n := range some(0, 1) {
			s.APNs = append(s.APNs, []string{"web", "ims"}[n])
		}
		return s
	}
	var all []rating.Facts // each value that is in a list, and one that is in none
	for i := range 3 * 3 * 4 * 4 {
		f := rating.Facts{Context: []uint32{32251, 32260, 32274}[i%3], APN: []byte([]string{"web", "ims", "x"}[i/3%3])}
		if g := i / 9 % 4; g > 0 {
			f.HasGroup, f.Group = true, []uint32{10, 20, 30}[g-1]
		}
		if g := i / 36 % 4; g > 0 {
			f.HasService, f.Service = true, []uint32{1, 2, 3}[g-1]
		}
		all = append(all, f)
	}
	applies := func(s rating.Service, f *rating.Facts) bool {
		_, _, ok := plan(s).Price(f)
		return ok
	}
	covers := 0
	for range 20_000 {
		a, b := drawn(), drawn()
		want := true
		for i := range all {
			want = want && (applies(a, &all[i]) || !applies(b, &all[i]))
		}
		if got := a.Covers(&b); got != want {
			t.Fatalf("%+v covers %+v: %t", a, b, got)
		}
		if want {
			covers++
		}
	}
	if covers < 100 {
		t.Errorf("only %d pairs cover each other", covers)
	}
}
