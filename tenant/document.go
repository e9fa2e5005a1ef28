package tenant

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"rtm/rating"
)

// DocumentsMax bounds what Parse reads.
const DocumentsMax = 16 << 20

// Documents is what a file declares.
type Documents struct {
	Tenants     []Tenant
	Plans       []PlanDoc
	Peers       []Peer
	Subscribers []Subscriber
}

// A PlanDoc is a plan as a person writes it.
type PlanDoc struct {
	Tenant      string         `json:"tenant"`
	Name        string         `json:"name"`
	From        string         `json:"from,omitempty"` // RFC 3339; empty: at once
	Services    []ServiceDoc   `json:"services"`
	Allowances  []AllowanceDoc `json:"allowances,omitempty"`
	Limits      LimitsDoc      `json:"limits,omitempty"`
	Grace       string         `json:"grace,omitempty"`    // default 30s
	Vanished    string         `json:"vanished,omitempty"` // release (default) or charge
	Description string         `json:"description,omitempty"`
}

// A ServiceDoc is a service of a plan.
type ServiceDoc struct {
	Name         string   `json:"name"`
	Contexts     []uint32 `json:"contexts,omitempty"`
	RatingGroups []uint32 `json:"ratingGroups,omitempty"`
	Services     []uint32 `json:"services,omitempty"`
	APNs         []string `json:"apns,omitempty"`
	Default      bool     `json:"default,omitempty"`
	Unit         string   `json:"unit"`            // octets, seconds, events
	Price        string   `json:"price,omitempty"` // money for Per; default 0
	Per          string   `json:"per,omitempty"`   // default one MiB, minute, event
	Step         string   `json:"step,omitempty"`  // default one octet, second, event
	Money        *bool    `json:"money,omitempty"` // default true: money pays when allowances are used up
	Allowances   []string `json:"allowances,omitempty"`
	Quota        QuotaDoc `json:"quota,omitempty"`
	Final        string   `json:"final,omitempty"` // terminate (default), redirect, restrict-access
}

// A QuotaDoc is how much is granted at a time.
type QuotaDoc struct {
	Size      string `json:"size,omitempty"`      // default 10 MiB, 5 min, 1
	Threshold string `json:"threshold,omitempty"` // a quantity or a share ("20%"); default none
	Validity  string `json:"validity,omitempty"`  // default 1h
	Holding   string `json:"holding,omitempty"`   // default none
}

// An AllowanceDoc is what a plan gives on top of money.
type AllowanceDoc struct {
	Name     string `json:"name"`
	Unit     string `json:"unit"`
	Amount   string `json:"amount"`
	Priority int32  `json:"priority,omitempty"`
	Validity string `json:"validity,omitempty"` // default for ever
}

// LimitsDoc bounds what one subscriber can open.
type LimitsDoc struct {
	Sessions     int `json:"sessions,omitempty"`     // default 64
	RatingGroups int `json:"ratingGroups,omitempty"` // default 16
}

// A Subscriber is whose money is spent.
type Subscriber struct {
	Tenant     string   `json:"tenant"`
	Account    string   `json:"account,omitempty"` // default: from the first identity
	IMSI       string   `json:"imsi,omitempty"`
	MSISDN     string   `json:"msisdn,omitempty"`
	Identities []string `json:"identities,omitempty"` // more: "sip:…", "nai:…", "private:…", or further "imsi:…"
	Plan       string   `json:"plan"`
	Balance    string   `json:"balance,omitempty"` // money a new account starts with; default 0
}

// Parse reads a file of YAML documents, each with a kind: Tenant, Plan, Peer or
// Subscriber. Unknown keys and wrong values are errors that name the line and
// say what to write instead. name is the file's, for errors.
func Parse(name string, data []byte) (*Documents, error) {
	if len(data) > DocumentsMax {
		return nil, fmt.Errorf("%s: larger than %d MiB; split it", name, DocumentsMax>>20)
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, fmt.Errorf("%s:\n%w", name, err)
	}
	d := &Documents{}
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if err := d.add(doc.Body); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", name, doc.Body.GetToken().Position.Line, err)
		}
	}
	return d, nil
}

func (d *Documents) add(body ast.Node) error {
	var kind struct {
		Kind string `json:"kind"`
	}
	if err := yaml.NodeToValue(body, &kind); err != nil {
		return err
	}
	switch kind.Kind {
	case "Tenant":
		return take(body, &d.Tenants, (*Tenant).check)
	case "Plan":
		return take(body, &d.Plans, func(p *PlanDoc) error {
			_, err := p.Compile(1)
			return err
		})
	case "Peer":
		return take(body, &d.Peers, (*Peer).check)
	case "Subscriber":
		return take(body, &d.Subscribers, (*Subscriber).check)
	case "":
		return errors.New("a document needs a kind: Tenant, Plan, Peer or Subscriber")
	}
	return fmt.Errorf("kind %q is not known; it is Tenant, Plan, Peer or Subscriber", kind.Kind)
}

// take decodes one document, strictly, and appends it to list.
func take[T any](body ast.Node, list *[]T, check func(*T) error) error {
	var doc struct {
		Kind string `json:"kind"`
		Doc  T      `json:",inline" yaml:",inline"`
	}
	dec := yaml.NewDecoder(strings.NewReader(""), yaml.Strict(), yaml.UseJSONUnmarshaler())
	if err := dec.DecodeFromNode(body, &doc); err != nil {
		return err
	}
	if err := check(&doc.Doc); err != nil {
		return err
	}
	*list = append(*list, doc.Doc)
	return nil
}

var nameRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

func checkName(what, name string) error {
	if !nameRule.MatchString(name) {
		return fmt.Errorf("%s %q must be 1 to 32 lower-case letters, digits and dashes", what, name)
	}
	return nil
}

func (t *Tenant) check() error {
	if _, ok := Currencies[t.Currency]; !ok {
		return fmt.Errorf("tenant %s: currency %q is not an ISO 4217 code that is known here, such as EUR", t.Name, t.Currency)
	}
	return checkName("tenant name", t.Name)
}

func (p *Peer) check() error {
	if p.Host == "" {
		return errors.New(`a peer needs its host, the Origin-Host of its CER, or "*" for any`)
	}
	if len(p.Tenants) == 0 {
		return fmt.Errorf("peer %s: tenants is empty: name the tenants whose subscribers it serves", p.Host)
	}
	for _, s := range p.Sources {
		if _, err := netip.ParsePrefix(s); err != nil {
			return fmt.Errorf("peer %s: source %q is not a network such as 10.0.0.0/8 or 192.0.2.1/32", p.Host, s)
		}
	}
	if p.AnswerAs != "" && p.AnswerAs != "cluster" && p.AnswerAs != "instance" {
		return fmt.Errorf("peer %s: answerAs is cluster or instance, not %q", p.Host, p.AnswerAs)
	}
	return nil
}

func (s *Subscriber) check() error {
	if err := checkName("tenant", s.Tenant); err != nil {
		return err
	}
	ids, err := s.AllIdentities()
	if err != nil {
		return err
	}
	if s.Account == "" {
		s.Account = strings.ReplaceAll(ids[0], ":", "-")
	}
	if strings.ContainsAny(s.Account, "/ \t\n") || len(s.Account) > 128 {
		return fmt.Errorf("account %q must not hold slashes or blanks, nor be longer than 128", s.Account)
	}
	if s.Plan == "" {
		return fmt.Errorf("subscriber %s needs a plan", s.Account)
	}
	_, err = s.Money()
	return err
}

// Money is what a new account starts with.
func (s *Subscriber) Money() (rating.Micros, error) {
	if s.Balance == "" {
		return 0, nil
	}
	m, err := ParseMoney(s.Balance)
	if err != nil {
		return 0, fmt.Errorf("balance of %s: %w", s.Account, err)
	}
	return m, nil
}

// AllIdentities lists the subscriber's identities as the directory knows them,
// the IMSI first.
func (s *Subscriber) AllIdentities() ([]string, error) {
	var ids []string
	if s.IMSI != "" {
		ids = append(ids, "imsi:"+s.IMSI)
	}
	if s.MSISDN != "" {
		ids = append(ids, "msisdn:"+strings.TrimPrefix(s.MSISDN, "+"))
	}
	ids = append(ids, s.Identities...)
	if len(ids) == 0 {
		return nil, errors.New("a subscriber needs an imsi or an msisdn")
	}
	for i, id := range ids {
		if err := CheckIdentity(id); err != nil {
			return nil, err
		}
		if slices.Contains(ids[:i], id) {
			return nil, fmt.Errorf("identity %s is named twice", id)
		}
	}
	return ids, nil
}

var identityRules = map[string]*regexp.Regexp{
	"imsi":    regexp.MustCompile(`^[0-9]{14,15}$`),
	"msisdn":  regexp.MustCompile(`^[0-9]{5,15}$`),
	"sip":     regexp.MustCompile(`^[!-~]{1,200}$`),
	"nai":     regexp.MustCompile(`^[!-~]{1,200}$`),
	"private": regexp.MustCompile(`^[!-~]{1,200}$`),
}

// CheckIdentity reports what is wrong with an identity such as
// "imsi:001010000000001".
func CheckIdentity(id string) error {
	kind, value, _ := strings.Cut(id, ":")
	rule := identityRules[kind]
	switch {
	case rule == nil:
		return fmt.Errorf("identity %q must begin with imsi:, msisdn:, sip:, nai: or private:", id)
	case !rule.MatchString(value) && kind == "imsi":
		return fmt.Errorf("imsi %q must be 14 or 15 digits", value)
	case !rule.MatchString(value) && kind == "msisdn":
		return fmt.Errorf("msisdn %q must be 5 to 15 digits, in international form without zeros or plus in front", value)
	case !rule.MatchString(value):
		return fmt.Errorf("identity %q holds characters that cannot be in it", id)
	}
	return nil
}

// Compile turns the document into the plan that is used, as that version.
func (p *PlanDoc) Compile(version uint32) (*rating.Plan, error) {
	if err := checkName("plan name", p.Name); err != nil {
		return nil, err
	}
	if err := checkName("tenant", p.Tenant); err != nil {
		return nil, fmt.Errorf("plan %s: %w", p.Name, err)
	}
	plan := &rating.Plan{Name: p.Name, Version: version, Sessions: 64, Groups: 16, Grace: 30 * time.Second}
	if p.Limits.Sessions != 0 {
		plan.Sessions = p.Limits.Sessions
	}
	if p.Limits.RatingGroups != 0 {
		plan.Groups = p.Limits.RatingGroups
	}
	switch p.Vanished {
	case "", "release":
	case "charge":
		plan.Vanished = true
	default:
		return nil, fmt.Errorf("plan %s: vanished is release or charge, not %q", p.Name, p.Vanished)
	}
	if _, err := p.Begins(); err != nil {
		return nil, err
	}
	var err error
	if plan.Grace, err = duration(p.Grace, plan.Grace); err != nil {
		return nil, fmt.Errorf("plan %s, grace: %w", p.Name, err)
	}
	for i := range p.Allowances {
		a, err := p.Allowances[i].compile()
		if err != nil {
			return nil, fmt.Errorf("plan %s, allowance %s: %w", p.Name, p.Allowances[i].Name, err)
		}
		plan.Allowances = append(plan.Allowances, a)
	}
	for i := range p.Services {
		s, err := p.Services[i].compile(plan)
		if err != nil {
			return nil, fmt.Errorf("plan %s, service %s: %w", p.Name, p.Services[i].Name, err)
		}
		s.Rule = uint32(i) + 1
		plan.Services = append(plan.Services, s)
	}
	return plan, plan.Check()
}

// Begins is when the plan starts; zero: at once.
func (p *PlanDoc) Begins() (time.Time, error) {
	if p.From == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, p.From)
	if err != nil {
		return t, fmt.Errorf("plan %s: from %q is not a time such as 2027-01-01T00:00:00+01:00", p.Name, p.From)
	}
	return t, nil
}

func (a *AllowanceDoc) compile() (rating.Allowance, error) {
	unit, err := unitOf(a.Unit)
	if err != nil {
		return rating.Allowance{}, err
	}
	amount, err := ParseQuantity(a.Amount, unit)
	if err != nil {
		return rating.Allowance{}, err
	}
	validity, err := duration(a.Validity, 0)
	return rating.Allowance{
		ID: allowanceID(a.Name), Name: a.Name, Unit: unit, Amount: amount, Priority: a.Priority, Validity: validity,
	}, err
}

// allowanceID is the number of an allowance of that name, in every version of
// every plan.
func allowanceID(name string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return max(h.Sum32(), 1)
}

func unitOf(name string) (rating.Unit, error) {
	for _, u := range []rating.Unit{rating.Octets, rating.Seconds, rating.Events, rating.Money} {
		if u.String() == name {
			return u, nil
		}
	}
	return 0, fmt.Errorf("unit is octets, seconds, events or money, not %q", name)
}

var finals = map[string]rating.FinalAction{
	"": rating.Terminate, "terminate": rating.Terminate, "redirect": rating.Redirect, "restrict-access": rating.RestrictAccess,
}

// defaults of a service, by unit: per, step, quota size.
var serviceDefaults = map[rating.Unit][3]string{
	rating.Octets:  {"1 MiB", "1", "10 MiB"},
	rating.Seconds: {"1 min", "1", "5 min"},
	rating.Events:  {"1", "1", "1"},
}

func (s *ServiceDoc) compile(plan *rating.Plan) (r rating.Service, err error) {
	if s.Name == "" {
		return r, errors.New("a service needs a name")
	}
	unit, err := unitOf(s.Unit)
	if err != nil || unit == rating.Money {
		return r, fmt.Errorf("unit is octets, seconds or events, not %q", s.Unit)
	}
	standard := serviceDefaults[unit]
	quantity := func(what, text, otherwise string) int64 {
		if text == "" {
			text = otherwise
		}
		n, e := ParseQuantity(text, unit)
		if e != nil && err == nil {
			err = fmt.Errorf("%s: %w", what, e)
		}
		return n
	}
	span := func(what, text string, otherwise time.Duration) time.Duration {
		d, e := duration(text, otherwise)
		if e != nil && err == nil {
			err = fmt.Errorf("%s: %w", what, e)
		}
		return d
	}
	r = rating.Service{
		Contexts: s.Contexts, Groups: s.RatingGroups, Services: s.Services, APNs: lower(s.APNs), Default: s.Default,
		Price: rating.Price{
			Name: s.Name, Unit: unit, NoMoney: s.Money != nil && !*s.Money, Final: finals[s.Final],
			Per: quantity("per", s.Per, standard[0]), Step: quantity("step", s.Step, standard[1]),
			Quota: rating.Quota{
				Size:     quantity("quota size", s.Quota.Size, standard[2]),
				Validity: span("quota validity", s.Quota.Validity, time.Hour), Holding: span("quota holding", s.Quota.Holding, 0),
			},
		},
	}
	if err != nil {
		return r, err
	}
	if r.Quota.Threshold, err = share(s.Quota.Threshold, r.Quota.Size, unit); err != nil {
		return r, fmt.Errorf("quota threshold: %w", err)
	}
	if s.Price != "" {
		if r.Micro, err = ParseMoney(s.Price); err != nil {
			return r, fmt.Errorf("price: %w", err)
		}
	}
	if r.Final == 0 {
		return r, fmt.Errorf("final is terminate, redirect or restrict-access, not %q", s.Final)
	}
	return r, s.allow(&r, plan)
}

// allow resolves the names of the allowances that pay for s.
func (s *ServiceDoc) allow(r *rating.Service, plan *rating.Plan) error {
	for _, name := range s.Allowances {
		i := slices.IndexFunc(plan.Allowances, func(a rating.Allowance) bool { return a.Name == name })
		if i < 0 {
			return fmt.Errorf("allowance %q is not one of the plan's", name)
		}
		if plan.Allowances[i].Unit != r.Unit {
			return fmt.Errorf("allowance %q is in %s, the service in %s", name, plan.Allowances[i].Unit, r.Unit)
		}
		r.Price.Allowances = append(r.Price.Allowances, plan.Allowances[i].ID)
	}
	return nil
}

func lower(list []string) []string {
	out := slices.Clone(list)
	for i := range out {
		out[i] = strings.ToLower(out[i])
	}
	return out
}

func duration(text string, otherwise time.Duration) (time.Duration, error) {
	if text == "" {
		return otherwise, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		if _, err := fmt.Sscanf(days, "%d", &n); err == nil && n >= 0 && n <= 3650 && fmt.Sprint(n) == days {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d%time.Second != 0 {
		return 0, fmt.Errorf("%q is not a duration in whole seconds such as 30s, 10m, 1h or 30d", text)
	}
	return d, nil
}

// share is a quantity, or a percentage of size.
func share(text string, size int64, unit rating.Unit) (int64, error) {
	percent, ok := strings.CutSuffix(text, "%")
	if text == "" || !ok {
		if text == "" {
			return 0, nil
		}
		return ParseQuantity(text, unit)
	}
	n, err := ParseQuantity(percent, rating.Events)
	if err != nil || n > 99 {
		return 0, fmt.Errorf("%q is not a share from 1%% to 99%%", text)
	}
	return size/100*n + size%100*n/100, nil
}

// Cross checks what the documents say of each other and of what c has already.
func (d *Documents) Cross(c *Catalogue) error {
	tenant := func(name string) bool {
		return c.Tenant(name) != nil || slices.ContainsFunc(d.Tenants, func(t Tenant) bool { return t.Name == name })
	}
	for i := range d.Plans {
		if p := &d.Plans[i]; !tenant(p.Tenant) {
			return fmt.Errorf("plan %s: there is no tenant %q; declare it with kind: Tenant", p.Name, p.Tenant)
		}
	}
	for i := range d.Peers {
		for _, t := range d.Peers[i].Tenants {
			if !tenant(t) {
				return fmt.Errorf("peer %s: there is no tenant %q; declare it with kind: Tenant", d.Peers[i].Host, t)
			}
		}
	}
	owners := make(map[string]string)
	for i := range d.Subscribers {
		s := &d.Subscribers[i]
		known := c.Plans(s.Tenant, []byte(s.Plan)) != nil ||
			slices.ContainsFunc(d.Plans, func(p PlanDoc) bool { return p.Tenant == s.Tenant && p.Name == s.Plan })
		if !known {
			return fmt.Errorf("subscriber %s: tenant %s has no plan %q", s.Account, s.Tenant, s.Plan)
		}
		ids, err := s.AllIdentities()
		if err != nil {
			return err
		}
		for _, id := range ids {
			if other, ok := owners[id]; ok {
				return fmt.Errorf("identity %s belongs to %s and to %s", id, other, s.Account)
			}
			owners[id] = s.Account
		}
	}
	return nil
}
