package tenant

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"rtm/rating"
)

// standards are the defaults of a service, by its unit.
var standards = map[rating.Unit]struct{ per, step, size, threshold string }{
	rating.Octets:  {"1 MiB", "1 B", "10 MiB", "20%"},
	rating.Seconds: {"1 min", "1 s", "5 min", "10%"},
	rating.Events:  {"1", "1", "1", ""},
	rating.Money:   {"1.00", "0.000001", "1.00", ""},
}

var finals = map[string]rating.FinalAction{
	"terminate": rating.Terminate, "redirect": rating.Redirect, "restrict-access": rating.RestrictAccess,
}

func unitOf(name string) rating.Unit {
	for _, u := range []rating.Unit{rating.Octets, rating.Seconds, rating.Events, rating.Money} {
		if u.String() == name {
			return u
		}
	}
	return 0
}

// complete writes out what was left to the defaults, so that a stored version
// means the same for ever, and checks that the document makes a plan.
func (p *PlanDoc) complete() error {
	if p.Limits.Sessions == 0 {
		p.Limits.Sessions = 64
	}
	if p.Limits.RatingGroups == 0 {
		p.Limits.RatingGroups = 16
	}
	p.Grace, p.Vanished = otherwise(p.Grace, "30s"), otherwise(p.Vanished, "release")
	for i := range p.Services {
		p.Services[i].complete()
	}
	plan, err := p.Compile(1)
	if err != nil {
		return err
	}
	return p.proveExamples(plan)
}

func (s *ServiceDoc) complete() {
	standard := standards[unitOf(s.Unit)]
	s.Per, s.Step = otherwise(s.Per, standard.per), otherwise(s.Step, standard.step)
	s.Quota.Size, s.Quota.Threshold = otherwise(s.Quota.Size, standard.size), otherwise(s.Quota.Threshold, standard.threshold)
	s.Quota.Validity, s.Final = otherwise(s.Quota.Validity, "1h"), otherwise(s.Final, "terminate")
	if s.Quota.Most != "" {
		s.Quota.Least, s.Quota.Lasts = otherwise(s.Quota.Least, s.Quota.Size), otherwise(s.Quota.Lasts, "5m")
	}
	if s.Final != "terminate" {
		s.Wait = otherwise(s.Wait, "10m")
	}
	for i, apn := range s.APNs {
		s.APNs[i] = strings.ToLower(apn)
	}
}

// Begins is when the plan starts; zero: it always was.
func (p *PlanDoc) Begins() (time.Time, error) {
	if p.From == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, p.From)
	if err != nil {
		return time.Time{}, wrong("from", "%q must be a time with its zone, such as 2027-01-01T00:00:00+01:00", short(p.From))
	}
	return t.UTC(), nil
}

// Compile turns a complete document, as Parse returns it, into the plan that is
// used, as that version. Its currency is the tenant's: the catalogue sets it.
func (p *PlanDoc) Compile(version uint32) (*rating.Plan, error) {
	plan := &rating.Plan{
		Name: p.Name, Version: version, Sessions: p.Limits.Sessions, Groups: p.Limits.RatingGroups, Vanished: p.Vanished == "charge",
		Replaces: p.Replace, Refuses: p.Refuse == "session",
	}
	_, err := p.Begins()
	if err = first(
		checkName("tenant", p.Tenant), checkName("name", p.Name), err,
		checkTitle("description", p.Description, descriptionMax),
		between("limits.sessions", p.Limits.Sessions, rating.SessionsMax),
		between("limits.ratingGroups", p.Limits.RatingGroups, rating.GroupsMax),
		choose("vanished", p.Vanished, "release", "charge"),
		choose("refuse", otherwise(p.Refuse, "service"), "service", "session"),
		amount("limits.sessionSpend", p.Limits.SessionSpend, &plan.SpendMax), amount("limits.debt", p.Limits.Debt, &plan.DebtMax), p.tell(&plan.Tells),
	); err != nil {
		return nil, err
	}
	if plan.Grace, err = parseSpan(p.Grace); err != nil {
		return nil, wrong("grace", "%v", err)
	}
	if plan.Grace > rating.GraceMax {
		return nil, wrong("grace", "%q must be at most %s", short(p.Grace), "1h")
	}
	if len(p.Services) == 0 {
		return nil, wrong("services", "is missing: a plan needs at least one service, such as {name: internet, unit: octets, price: \"0.01\"}")
	}
	if err := first(p.compileAllowances(plan), p.compilePlaces(plan)); err != nil {
		return nil, err
	}
	for i := range p.Services {
		at := fmt.Sprintf("services[%d]", i)
		s, err := p.Services[i].compile(at, plan)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(plan.Services, func(o rating.Service) bool { return o.Name == s.Name }) {
			return nil, wrong(at+".name", "another service of the plan has the name %q already", s.Name)
		}
		s.Rule = uint32(i) + 1
		plan.Services = append(plan.Services, s)
	}
	if err := plan.Check(); err != nil {
		return nil, wrong("", "%v", err)
	}
	return plan, first(p.allowancesPay(), p.placesUsed())
}

// tell reads what clients are told of money.
func (p *PlanDoc) tell(t *rating.Tells) error {
	for i, word := range p.Tell {
		if err := choose(fmt.Sprintf("tell[%d]", i), word, "cost", "balance"); err != nil {
			return err
		}
	}
	t.Cost, t.Balance, t.Low = slices.Contains(p.Tell, "cost"), slices.Contains(p.Tell, "balance"), p.LowBalance != ""
	return amount("lowBalance", p.LowBalance, &t.Below)
}

// amount reads money above zero; empty: there is none.
func amount(path, text string, to *rating.Micros) (err error) {
	if text == "" {
		return nil
	}
	if *to, err = ParseMoney(text); err == nil && *to <= 0 {
		err = fmt.Errorf("%q must be above zero", short(text))
	}
	if err != nil {
		return wrong(path, "%v", err)
	}
	return nil
}

func between(path string, n, most int) error {
	if n < 1 || n > most {
		return wrong(path, "%d must be 1 to %d", n, most)
	}
	return nil
}

func (p *PlanDoc) compileAllowances(plan *rating.Plan) error {
	for i := range p.Allowances {
		d, at := &p.Allowances[i], fmt.Sprintf("allowances[%d]", i)
		a := rating.Allowance{ID: rating.AllowanceID(d.Name), Name: d.Name, Unit: unitOf(d.Unit), Priority: d.Priority}
		err := first(checkGiven(at+".name", d.Name, "start"), checkTitle(at+".name", d.Name, titleMax),
			choose(at+".unit", d.Unit, "octets", "seconds", "events", "money"), checkGiven(at+".amount", d.Amount, "100 MiB"))
		if err != nil {
			return err
		}
		if a.Amount, err = ParseQuantity(d.Amount, a.Unit); err != nil {
			return wrong(at+".amount", "%v", err)
		}
		if d.Validity != "" {
			if a.Validity, err = parseSpan(d.Validity); err != nil {
				return wrong(at+".validity", "%v", err)
			}
		}
		if slices.ContainsFunc(plan.Allowances, func(o rating.Allowance) bool { return o.ID == a.ID }) {
			return wrong(at+".name", "%q is taken by another allowance of the plan, or too much like it: write another name", d.Name)
		}
		plan.Allowances = append(plan.Allowances, a)
	}
	return nil
}

// allowancesPay finds an allowance that nobody could ever use.
func (p *PlanDoc) allowancesPay() error {
	for i := range p.Allowances {
		name := p.Allowances[i].Name
		if p.Allowances[i].Unit != "money" && !slices.ContainsFunc(p.Services, func(s ServiceDoc) bool { return slices.Contains(s.Allowances, name) }) {
			return wrong(fmt.Sprintf("allowances[%d].name", i), "%q pays for nothing: name it in a service, as allowances: [%s]", name, name)
		}
	}
	return nil
}

func checkGiven(path, text, example string) error {
	if text == "" {
		return wrong(path, "is missing: write one, such as %s: %s", path[strings.LastIndexByte(path, '.')+1:], example)
	}
	return nil
}

// compile turns a complete service into a price and what it applies to. at is
// its path.
func (s *ServiceDoc) compile(at string, plan *rating.Plan) (r rating.Service, err error) {
	r.Contexts, r.Groups, r.Services, r.APNs, r.Default = s.Contexts, s.RatingGroups, s.ServiceIDs, s.APNs, s.Default
	r.Name, r.Unit, r.NoMoney = s.Name, unitOf(s.Unit), s.Money != nil && !*s.Money
	r.Final, r.Redirect, r.Address, r.Filter, r.Filters = finals[s.Final], s.Redirect, addressType(s.Redirect), s.Filter, s.Filters
	r.Media, r.Free = media[s.Media], s.Control != nil && !*s.Control
	err = first(checkGiven(at+".name", s.Name, "internet"), checkTitle(at+".name", s.Name, titleMax),
		choose(at+".unit", s.Unit, "octets", "seconds", "events", "money"), s.compileLists(at), s.compilePrice(at, &r.Price), s.compileQuota(at, &r.Price),
		choose(at+".final", s.Final, "terminate", "redirect", "restrict-access"), s.compileFinal(at, &r.Price), s.allow(at, &r, plan), s.place(at, &r, plan))
	if err == nil {
		if e := r.Check(); e != nil {
			err = wrong(at, "%v", e)
		}
	}
	return r, err
}

func (s *ServiceDoc) compileLists(at string) error {
	if max(len(s.Contexts), len(s.RatingGroups), len(s.ServiceIDs), len(s.APNs), len(s.Allowances), len(s.Zones), len(s.Times)) > listMax {
		return wrong(at, "its lists are longer than %d", listMax)
	}
	if s.Media != "" && media[s.Media] == 0 {
		return choose(at+".media", s.Media, "audio", "video")
	}
	for i, apn := range s.APNs {
		if !domainRule.MatchString(apn) {
			return wrong(fmt.Sprintf("%s.apns[%d]", at, i), "%q must be an access point name such as internet or web.example", short(apn))
		}
	}
	return nil
}

func (s *ServiceDoc) compilePrice(at string, p *rating.Price) (err error) {
	switch {
	case p.NoMoney && s.Price != "":
		return wrong(at+".price", "money: false says that only allowances pay: leave the price out")
	case p.NoMoney && len(s.Allowances) == 0:
		return wrong(at+".money", "money: false says that only allowances pay: name them, as allowances: [start]")
	case !p.NoMoney && s.Price == "":
		return wrong(at+".price", `is missing: write price: "0.01", or "0" if it costs nothing`)
	}
	if p.Free && s.Price != "0" {
		return wrong(at+".price", `control: false says that it passes without credit control: write price: "0"`)
	}
	if p.Micro, err = ParseMoney(otherwise(s.Price, "0")); err != nil {
		return wrong(at+".price", "%v", err)
	}
	if p.Per, err = ParseQuantity(s.Per, p.Unit); err != nil {
		return wrong(at+".per", "%v", err)
	}
	if p.Step, err = ParseQuantity(s.Step, p.Unit); err != nil {
		return wrong(at+".step", "%v", err)
	}
	return nil
}

func (s *ServiceDoc) compileQuota(at string, p *rating.Price) (err error) {
	q := &p.Quota
	if q.Size, err = ParseQuantity(s.Quota.Size, p.Unit); err != nil {
		return wrong(at+".quota.size", "%v", err)
	}
	if q.Threshold, err = share(s.Quota.Threshold, q.Size, p.Unit); err != nil {
		return wrong(at+".quota.threshold", "%v", err)
	}
	if q.Threshold >= q.Size {
		return wrong(at+".quota.threshold", "%q must be below the size, %q", s.Quota.Threshold, s.Quota.Size)
	}
	if q.Validity, err = span(at+".quota.validity", s.Quota.Validity); err != nil {
		return err
	}
	if q.Holding, err = span(at+".quota.holding", s.Quota.Holding); err != nil {
		return err
	}
	if q.Consumption, err = span(at+".quota.consumption", s.Quota.Consumption); err != nil {
		return err
	}
	if q.Triggers, err = triggers(at+".quota.triggers", s.Quota.Triggers); err != nil {
		return err
	}
	return s.compileSizes(at, p)
}

// compileSizes reads how a quota follows the speed of use.
func (s *ServiceDoc) compileSizes(at string, p *rating.Price) (err error) {
	q, d := &p.Quota, &s.Quota
	if d.Most == "" {
		if d.Least != "" || d.Lasts != "" {
			return wrong(at+".quota.most", "is missing: least and lasts are for a quota that follows the speed of use: write the largest size, such as most: 1 GiB")
		}
		return nil
	}
	if q.Most, err = ParseQuantity(d.Most, p.Unit); err != nil {
		return wrong(at+".quota.most", "%v", err)
	}
	if q.Least, err = ParseQuantity(otherwise(d.Least, d.Size), p.Unit); err != nil {
		return wrong(at+".quota.least", "%v", err)
	}
	if q.Least < 1 || q.Least > q.Size || q.Size > q.Most {
		return wrong(at+".quota", "its sizes must rise: least %q, size %q, most %q", otherwise(d.Least, d.Size), d.Size, d.Most)
	}
	q.Lasts, err = span(at+".quota.lasts", otherwise(d.Lasts, "5m"))
	return err
}

// span reads one of the times of a quota; empty: none.
func span(path, text string) (d time.Duration, err error) {
	if text == "" {
		return 0, nil
	}
	if d, err = parseSpan(text); err == nil && d > rating.QuotaTimeMax {
		err = fmt.Errorf("%q is longer than 30d", text)
	}
	if err != nil {
		return 0, wrong(path, "%v", err)
	}
	return d, nil
}

// triggerTypes are the names of Trigger-Types (TS 32.299 §7.2.237).
var triggerTypes = map[string]uint32{
	"sgsn": 1, "qos": 2, "location": 3, "rat": 4, "time-zone": 5,
	"mcc": 30, "mnc": 31, "rac": 32, "lac": 33, "cell": 34, "tac": 35, "ecgi": 36,
	"media": 40, "serving-node": 61,
}

// triggers reads names or numbers of Trigger-Types. None alone switches off those
// that the client has by itself.
func triggers(path string, names []string) (types []uint32, err error) {
	if len(names) == 0 {
		return nil, nil
	}
	if len(names) == 1 && names[0] == "none" {
		return []uint32{}, nil
	}
	if len(names) > len(triggerTypes) {
		return nil, wrong(path, "are %d; %d are possible", len(names), len(triggerTypes))
	}
	for i, name := range names {
		t, ok := triggerTypes[name]
		if n, err := strconv.ParseUint(name, 10, 8); err == nil {
			t, ok = uint32(n), n > 0
		}
		if !ok {
			return nil, wrong(fmt.Sprintf("%s[%d]", path, i), "%q must be one of %s, a number of TS 32.299, or none alone", short(name),
				strings.Join(slices.Sorted(maps.Keys(triggerTypes)), ", "))
		}
		types = append(types, t)
	}
	return types, nil
}

// media are what a call carries.
var media = map[string]uint8{"audio": rating.Audio, "video": rating.Video}

// share is a quantity, or a percentage of size, rounded down.
func share(text string, size int64, unit rating.Unit) (int64, error) {
	percent, ok := strings.CutSuffix(text, "%")
	switch {
	case text == "":
		return 0, nil
	case !ok:
		return ParseQuantity(text, unit)
	}
	n, err := ParseQuantity(percent, rating.Events)
	if err != nil || n > 99 {
		return 0, fmt.Errorf("%q must be 1%% to 99%%", short(text))
	}
	return size/100*n + size%100*n/100, nil
}

// addressType says what a redirect address is; zero: none that can be used.
func addressType(text string) rating.AddressType {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		if a.Is4() {
			return rating.IPv4Address
		}
		return rating.IPv6Address
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
	case u.Scheme == "sip" || u.Scheme == "sips":
		if u.Opaque != "" {
			return rating.SIPAddress
		}
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		return rating.URLAddress
	}
	return 0
}

// filterRule is what an IPFilterRule looks like (RFC 6733 §4.3.1).
var filterRule = regexp.MustCompile(`^(permit|deny) (in|out) [a-z0-9]+ from [!-~]+( [0-9,-]+)? to [!-~]+( [ -~]+)?$`)

func (s *ServiceDoc) compileFinal(at string, p *rating.Price) (err error) {
	switch {
	case s.Redirect == "" && s.Final == "redirect":
		return wrong(at+".redirect", "is missing: write where to, such as redirect: https://top-up.example/")
	case s.Redirect != "" && s.Final != "redirect":
		return wrong(at+".redirect", "needs final: redirect")
	case s.Redirect != "" && (p.Address == 0 || len(s.Redirect) > 255):
		return wrong(at+".redirect", "%q must be an address such as https://top-up.example/, 192.0.2.80, 2001:db8::80 or sip:top-up@example", short(s.Redirect))
	case s.Filter == "" && len(s.Filters) == 0 && s.Final == "restrict-access":
		return wrong(at+".filter", "is missing: write the name of a filter that the gateway knows, such as filter: walled-garden, or filters: with the rules themselves")
	case s.Filter != "" && s.Final != "restrict-access":
		return wrong(at+".filter", "needs final: restrict-access")
	case len(s.Filters) > 0 && s.Final != "restrict-access":
		return wrong(at+".filters", "need final: restrict-access")
	case len(s.Filters) > rating.FiltersMax:
		return wrong(at+".filters", "are %d; %d are possible", len(s.Filters), rating.FiltersMax)
	case s.Wait != "" && s.Final == "terminate":
		return wrong(at+".wait", "needs final: redirect or restrict-access")
	}
	for i, f := range s.Filters {
		if !filterRule.MatchString(f) || len(f) > 255 {
			return wrong(fmt.Sprintf("%s.filters[%d]", at, i), "%q must be an IPFilterRule of RFC 6733, such as permit out ip from 192.0.2.1 to any", short(f))
		}
	}
	if s.Final == "redirect" || s.Final == "restrict-access" {
		if p.Wait, err = span(at+".wait", otherwise(s.Wait, "10m")); err != nil {
			return err
		}
	}
	return checkTitle(at+".filter", s.Filter, titleMax)
}

// allow resolves the names of the allowances that pay for s.
func (s *ServiceDoc) allow(at string, r *rating.Service, plan *rating.Plan) error {
	for i, name := range s.Allowances {
		path := fmt.Sprintf("%s.allowances[%d]", at, i)
		j := slices.IndexFunc(plan.Allowances, func(a rating.Allowance) bool { return a.Name == name })
		if j < 0 {
			return wrong(path, "%q is not among the plan's allowances: add it there", short(name))
		}
		if plan.Allowances[j].Unit != r.Unit {
			return wrong(path, "%q is in %s and cannot pay for %s", name, plan.Allowances[j].Unit, r.Unit)
		}
		r.Allowances = append(r.Allowances, plan.Allowances[j].ID)
	}
	return nil
}
