package tenant

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"rtm/rating"
)

// standards are the defaults of a service, by its unit.
var standards = map[rating.Unit]struct{ per, step, size, threshold string }{
	rating.Octets:  {"1 MiB", "1 B", "10 MiB", "20%"},
	rating.Seconds: {"1 min", "1 s", "5 min", "10%"},
	rating.Events:  {"1", "1", "1", ""},
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
	_, err := p.Compile(1)
	return err
}

func (s *ServiceDoc) complete() {
	standard := standards[unitOf(s.Unit)]
	s.Per, s.Step = otherwise(s.Per, standard.per), otherwise(s.Step, standard.step)
	s.Quota.Size, s.Quota.Threshold = otherwise(s.Quota.Size, standard.size), otherwise(s.Quota.Threshold, standard.threshold)
	s.Quota.Validity, s.Final = otherwise(s.Quota.Validity, "1h"), otherwise(s.Final, "terminate")
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
	}
	_, err := p.Begins()
	if err = first(
		checkName("tenant", p.Tenant), checkName("name", p.Name), err,
		checkTitle("description", p.Description, descriptionMax),
		between("limits.sessions", p.Limits.Sessions, rating.SessionsMax),
		between("limits.ratingGroups", p.Limits.RatingGroups, rating.GroupsMax),
		choose("vanished", p.Vanished, "release", "charge"),
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
	if err := p.compileAllowances(plan); err != nil {
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
	return plan, p.allowancesPay()
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
	r.Final, r.Redirect, r.Filter = finals[s.Final], s.Redirect, s.Filter
	err = first(checkGiven(at+".name", s.Name, "internet"), checkTitle(at+".name", s.Name, titleMax),
		choose(at+".unit", s.Unit, "octets", "seconds", "events"), s.compileLists(at), s.compilePrice(at, &r.Price), s.compileQuota(at, &r.Price),
		choose(at+".final", s.Final, "terminate", "redirect", "restrict-access"), s.compileFinal(at), s.allow(at, &r, plan))
	if err == nil {
		if e := r.Check(); e != nil {
			err = wrong(at, "%v", e)
		}
	}
	return r, err
}

func (s *ServiceDoc) compileLists(at string) error {
	if max(len(s.Contexts), len(s.RatingGroups), len(s.ServiceIDs), len(s.APNs), len(s.Allowances)) > listMax {
		return wrong(at, "its lists are longer than %d", listMax)
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
	if q.Validity, err = parseSpan(s.Quota.Validity); err == nil && q.Validity > rating.QuotaTimeMax {
		err = fmt.Errorf("%q is longer than 30d", s.Quota.Validity)
	}
	if err != nil {
		return wrong(at+".quota.validity", "%v", err)
	}
	if s.Quota.Holding == "" {
		return nil
	}
	if q.Holding, err = parseSpan(s.Quota.Holding); err == nil && q.Holding > rating.QuotaTimeMax {
		err = fmt.Errorf("%q is longer than 30d", s.Quota.Holding)
	}
	if err != nil {
		return wrong(at+".quota.holding", "%v", err)
	}
	return nil
}

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

func (s *ServiceDoc) compileFinal(at string) error {
	u, err := url.Parse(s.Redirect)
	switch {
	case s.Redirect == "" && s.Final == "redirect":
		return wrong(at+".redirect", "is missing: write where to, such as redirect: https://top-up.example/")
	case s.Redirect != "" && s.Final != "redirect":
		return wrong(at+".redirect", "needs final: redirect")
	case s.Redirect != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || len(s.Redirect) > 255):
		return wrong(at+".redirect", "%q must be an address such as https://top-up.example/", short(s.Redirect))
	case s.Filter == "" && s.Final == "restrict-access":
		return wrong(at+".filter", "is missing: write the name of a filter that the gateway knows, such as filter: walled-garden")
	case s.Filter != "" && s.Final != "restrict-access":
		return wrong(at+".filter", "needs final: restrict-access")
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
