package tenant

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"rtm/rating"
)

// A PlanDoc is a plan as a person writes it. What is left out has a default.
type PlanDoc struct {
	Tenant      string         `json:"tenant"`
	Name        string         `json:"name"`
	Description string         `json:"description,omitempty"`
	From        string         `json:"from,omitempty"` // RFC 3339; empty: since ever
	Services    []ServiceDoc   `json:"services"`
	Allowances  []AllowanceDoc `json:"allowances,omitempty"`
	Zones       []ZoneDoc      `json:"zones,omitempty"`
	Times       []TimeDoc      `json:"times,omitempty"`
	TimeZone    string         `json:"timeZone,omitempty"` // by whose clock times are; default UTC
	Holidays    []string       `json:"holidays,omitempty"` // dates, which are no days of the week
	Examples    []ExampleDoc   `json:"examples,omitempty"` // which must come out right, or the plan is refused
	Limits      LimitsDoc      `json:"limits,omitempty"`
	Grace       string         `json:"grace,omitempty"`      // default 30s
	Vanished    string         `json:"vanished,omitempty"`   // release (default) or charge
	Replace     bool           `json:"replace,omitempty"`    // a session ends when its subscriber opens another one for the same APN at the same client
	Refuse      string         `json:"refuse,omitempty"`     // what is refused without credit: service, the default, or session
	Tell        []string       `json:"tell,omitempty"`       // what clients are told of money: cost, of the session so far, and balance, what is left
	LowBalance  string         `json:"lowBalance,omitempty"` // they are told whether it is below that

	origin *origin
}

// A ServiceDoc is a service of a plan. The first one that matches a message
// applies; an empty list matches everything.
type ServiceDoc struct {
	Name         string   `json:"name"`
	Contexts     []uint32 `json:"contexts,omitempty"`     // 32251 of 32251@3gpp.org
	RatingGroups []uint32 `json:"ratingGroups,omitempty"` // Rating-Group
	ServiceIDs   []uint32 `json:"serviceIds,omitempty"`   // Service-Identifier
	APNs         []string `json:"apns,omitempty"`         // Called-Station-Id
	Zones        []string `json:"zones,omitempty"`        // names of the plan's zones: it applies in one of them
	Times        []string `json:"times,omitempty"`        // names of the plan's times: it applies in one of them
	Media        string   `json:"media,omitempty"`        // of a call: audio or video
	Default      bool     `json:"default,omitempty"`      // also for what names neither group nor service
	Unit         string   `json:"unit"`                   // octets, seconds, events, or money: the client says what it costs
	Price        string   `json:"price,omitempty"`        // money for Per
	Per          string   `json:"per,omitempty"`          // default 1 MiB, 1 min, 1
	Step         string   `json:"step,omitempty"`         // default one octet, second, event
	Money        *bool    `json:"money,omitempty"`        // default true: money pays when allowances are used up
	Allowances   []string `json:"allowances,omitempty"`   // names of those that pay before money does
	Control      *bool    `json:"control,omitempty"`      // default true; false: it passes without credit control (4011)
	Quota        QuotaDoc `json:"quota,omitempty"`
	Final        string   `json:"final,omitempty"`    // terminate (default), redirect, restrict-access
	Redirect     string   `json:"redirect,omitempty"` // with final: redirect: where to
	Filter       string   `json:"filter,omitempty"`   // with final: restrict-access: the name of the client's filter
	Filters      []string `json:"filters,omitempty"`  // … or filters themselves: permit out ip from 192.0.2.1 to any
	Wait         string   `json:"wait,omitempty"`     // with these two: how long the user may stay there to top up; default 10m
}

// A QuotaDoc is how much is granted at a time.
type QuotaDoc struct {
	Size      string `json:"size,omitempty"`      // default 10 MiB, 5 min, 1
	Threshold string `json:"threshold,omitempty"` // a quantity or a share of Size; default 20%, 10%, none
	Validity  string `json:"validity,omitempty"`  // default 1h
	Holding   string `json:"holding,omitempty"`   // default none

	Most        string   `json:"most,omitempty"`        // grants follow the speed of use up to that; default: all have Size
	Least       string   `json:"least,omitempty"`       // … and are no smaller when little is left; default Size
	Lasts       string   `json:"lasts,omitempty"`       // … and hold what is used in that time; default 5m
	Consumption string   `json:"consumption,omitempty"` // Quota-Consumption-Time, of seconds; default none
	Triggers    []string `json:"triggers,omitempty"`    // upon which the client reports: rat, location …, or none alone; default the client's own
}

// An AllowanceDoc is what a plan gives on top of money.
type AllowanceDoc struct {
	Name     string `json:"name"`
	Unit     string `json:"unit"` // octets, seconds, events, money
	Amount   string `json:"amount"`
	Priority int32  `json:"priority,omitempty"` // lower pays first
	Validity string `json:"validity,omitempty"` // from the day it is given; default for ever
}

// LimitsDoc bounds what one subscriber can open.
type LimitsDoc struct {
	Sessions     int `json:"sessions,omitempty"`     // default 64
	RatingGroups int `json:"ratingGroups,omitempty"` // of one session; default 16

	SessionSpend string `json:"sessionSpend,omitempty"` // money: a session that has cost that much is aborted; default none
	Debt         string `json:"debt,omitempty"`         // money: whose balance is further below nothing has all sessions aborted; default none
}

// A Subscriber is whose money is spent.
type Subscriber struct {
	Tenant     string   `json:"tenant"`
	Account    string   `json:"account,omitempty"` // default: imsi-… or msisdn-…
	IMSI       string   `json:"imsi,omitempty"`
	MSISDN     string   `json:"msisdn,omitempty"`
	Identities []string `json:"identities,omitempty"` // more: "sip:…", "nai:…", "private:…", or further "imsi:…"
	Plan       string   `json:"plan"`
	Balance    string   `json:"balance,omitempty"` // money a new account starts with; default 0

	Buckets []BucketDoc `json:"buckets,omitempty"` // what a new account has beside it; default the plan's allowances

	origin *origin
}

// A BucketDoc is what an account has beside its balance.
type BucketDoc struct {
	Unit      string `json:"unit"` // octets, seconds, events, money
	Amount    string `json:"amount"`
	Allowance string `json:"allowance,omitempty"` // of the plan; empty: it pays for everything of its unit
	Priority  int32  `json:"priority,omitempty"`  // lower pays first
	Until     string `json:"until,omitempty"`     // RFC 3339; empty: for ever
}

// Content is what the bucket holds, of which unit, and until when; the zero time
// is for ever.
func (b *BucketDoc) Content() (amount int64, unit rating.Unit, until time.Time, err error) {
	unit = unitOf(b.Unit)
	if err = choose("unit", b.Unit, "octets", "seconds", "events", "money"); err != nil {
		return 0, 0, until, err
	}
	if amount, err = ParseQuantity(b.Amount, unit); err != nil {
		return 0, 0, until, wrong("amount", "%v", err)
	}
	if b.Until != "" {
		if until, err = time.Parse(time.RFC3339, b.Until); err != nil {
			return 0, 0, until, wrong("until", "%q must be a time with its zone, such as 2027-01-01T00:00:00+01:00", short(b.Until))
		}
	}
	return amount, unit, until.UTC(), nil
}

// Bounds of what documents hold.
const (
	nameMax        = 32  // letters of a tenant's or plan's name
	titleMax       = 64  // letters of a service's or allowance's name
	accountMax     = 64  // letters of an account's name
	descriptionMax = 200 // letters of a description
	listMax        = 256 // entries of a list
	bucketsMax     = 63  // of a new account, beside its balance
	shareMax       = 100
	rateMax        = 10_000_000
)

// Dialects are the sorts of clients that a peer can be (the table is that of
// creditcontrol).
var Dialects = []string{"generic", "open5gs", "magma"}

var (
	nameRule    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	accountRule = regexp.MustCompile(`^[A-Za-z0-9._@+-]{1,64}$`)
	domainRule  = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?$`)
)

// fieldError says what is wrong with one field of a document, and what to write
// instead. Its path leads there: services[0].quota.size.
type fieldError struct{ path, reason string }

func (e *fieldError) Error() string {
	if e.path == "" {
		return e.reason
	}
	return e.path + ": " + e.reason
}

func wrong(path, format string, args ...any) error {
	return &fieldError{path, fmt.Sprintf(format, args...)}
}

// first is the first error that is not nil.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkName(path, name string) error {
	switch {
	case name == "":
		return wrong(path, "is missing: write %s: and up to %d lower-case letters, digits and dashes", path, nameMax)
	case !nameRule.MatchString(name):
		return wrong(path, "%q must be 1 to %d lower-case letters, digits and dashes", short(name), nameMax)
	}
	return nil
}

// checkTitle checks a name that only people read.
func checkTitle(path, name string, most int) error {
	if strings.TrimSpace(name) != name || len([]rune(name)) > most || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return wrong(path, "%q must be one line of at most %d characters", short(name), most)
	}
	return nil
}

// choose checks a word that must be one of a few.
func choose(path, word string, of ...string) error {
	words := strings.Join(of[:len(of)-1], ", ") + " or " + of[len(of)-1]
	switch {
	case slices.Contains(of, word):
		return nil
	case word == "":
		return wrong(path, "is missing: write %s", words)
	}
	return wrong(path, "%q must be %s", short(word), words)
}

func (t *Tenant) complete() error {
	err := first(checkName("name", t.Name), checkTitle("description", t.Description, descriptionMax))
	if err != nil {
		return err
	}
	if t.Currency == "" {
		return wrong("currency", "is missing: write the three letters of ISO 4217, such as currency: EUR")
	}
	if _, ok := CurrencyOf(t.Currency); !ok {
		return wrong("currency", "%q is no currency of ISO 4217: write three capital letters, such as EUR", short(t.Currency))
	}
	if t.Limits.Share < 0 || t.Limits.Share > shareMax {
		return wrong("limits.share", "must be 1 to %d, not %d", shareMax, t.Limits.Share)
	}
	if t.Limits.Rate < 0 || t.Limits.Rate > rateMax {
		return wrong("limits.rate", "must be 1 to %d a second, not %d; leave it out for any number", rateMax, t.Limits.Rate)
	}
	if len(t.Realms) > listMax || len(t.Ranges) > listMax {
		return wrong("", "its lists are longer than %d", listMax)
	}
	for i, r := range t.Realms {
		if t.Realms[i] = strings.ToLower(r); !domainRule.MatchString(t.Realms[i]) {
			return wrong(fmt.Sprintf("realms[%d]", i), "%q must be a realm such as example.net", short(r))
		}
	}
	return first(t.completeRanges(), t.completeFailure(), t.Emergency.complete())
}

// completeFailure checks what gateways do when no server answers.
func (t *Tenant) completeFailure() error {
	if t.FailureHandling != "" {
		if err := choose("failureHandling", t.FailureHandling, FailureHandlings...); err != nil {
			return err
		}
	}
	if t.DirectDebitingFailureHandling != "" {
		return choose("directDebitingFailureHandling", t.DirectDebitingFailureHandling, DirectDebitingFailureHandlings...)
	}
	return nil
}

// What a gateway may do when no server answers, as documents say it, in the order of
// the values of Credit-Control-Failure-Handling and Direct-Debiting-Failure-Handling.
var (
	FailureHandlings               = []string{"terminate", "continue", "retry-and-terminate"}
	DirectDebitingFailureHandlings = []string{"terminate-or-buffer", "continue"}
)

func (p *Peer) complete() error {
	p.Host, p.Realm, p.Certificate = strings.ToLower(p.Host), strings.ToLower(p.Realm), strings.ToLower(p.Certificate)
	p.Dialect, p.AnswerAs = otherwise(p.Dialect, "generic"), otherwise(p.AnswerAs, "cluster")
	switch {
	case p.Host == "":
		return wrong("host", `is missing: write the Origin-Host of its CER, or "*" for any`)
	case p.Host != "*" && !domainRule.MatchString(p.Host):
		return wrong("host", `%q must be a host name such as smf.example.net, or "*" for any`, short(p.Host))
	case p.Realm != "" && !domainRule.MatchString(p.Realm):
		return wrong("realm", "%q must be a realm such as example.net; leave it out for any", short(p.Realm))
	case len(p.Tenants) == 0:
		return wrong("tenants", "is missing: list the tenants whose subscribers it serves, such as tenants: [lab]")
	case p.Certificate != "" && !domainRule.MatchString(p.Certificate):
		return wrong("certificate", "%q must be the DNS name in its certificate, such as smf.example.net", short(p.Certificate))
	case len(p.Sources) == 0 && p.Certificate == "" && len(p.Via) == 0:
		return wrong("sources", "is missing: list the addresses it connects from, such as sources: [192.0.2.10, 10.1.0.0/16]; "+
			"with TLS alone, write certificate: and the DNS name in its certificate; behind a relay, write via: and the Origin-Host of that")
	case len(p.Tenants) > listMax || len(p.Sources) > listMax || len(p.Relays) > listMax || len(p.Via) > listMax:
		return wrong("", "its lists are longer than %d", listMax)
	}
	for i, s := range p.Sources {
		n, err := parseNetwork(s)
		if err != nil {
			return wrong(fmt.Sprintf("sources[%d]", i), "%q must be an address such as 192.0.2.10 or a network such as 10.1.0.0/16", short(s))
		}
		p.Sources[i] = n.String()
	}
	for i, r := range p.Relays {
		if p.Relays[i] = strings.ToLower(r); r != "*" && !domainRule.MatchString(p.Relays[i]) {
			return wrong(fmt.Sprintf("relays[%d]", i), `%q must be a realm such as example.net, or "*" for any`, short(r))
		}
	}
	for i, v := range p.Via {
		if p.Via[i] = strings.ToLower(v); !domainRule.MatchString(p.Via[i]) {
			return wrong(fmt.Sprintf("via[%d]", i), "%q must be the Origin-Host of a relay, such as dra.example.net", short(v))
		}
	}
	for i, t := range p.Tenants {
		if err := checkName(fmt.Sprintf("tenants[%d]", i), t); err != nil {
			return err
		}
	}
	return first(choose("dialect", p.Dialect, Dialects...), choose("answerAs", p.AnswerAs, "cluster", "instance"))
}

// parseNetwork reads a network, or an address as the network of it alone.
func parseNetwork(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	n, err := netip.ParsePrefix(text)
	return n.Masked(), err
}

func otherwise(text, standard string) string {
	if text == "" {
		return standard
	}
	return text
}

// complete fills in what is left out and checks the rest.
func (s *Subscriber) complete() error {
	ids, err := s.AllIdentities()
	if err != nil {
		return err
	}
	if s.Account == "" && (s.IMSI != "" || s.MSISDN != "") {
		s.Account = strings.Replace(ids[0], ":", "-", 1)
	}
	switch {
	case s.Account == "":
		return wrong("account", "is missing: without imsi and msisdn the account needs a name of its own")
	case !accountRule.MatchString(s.Account):
		return wrong("account", "%q must be 1 to %d letters, digits and . _ @ + -", short(s.Account), accountMax)
	}
	if len(s.Buckets) > bucketsMax {
		return wrong("buckets", "are %d; %d are possible", len(s.Buckets), bucketsMax)
	}
	for i := range s.Buckets {
		var field *fieldError
		if _, _, _, err := s.Buckets[i].Content(); errors.As(err, &field) {
			return wrong(fmt.Sprintf("buckets[%d].%s", i, field.path), "%s", field.reason)
		}
	}
	_, err = s.Money()
	return first(checkName("tenant", s.Tenant), checkName("plan", s.Plan), err)
}

// Money is what a new account starts with.
func (s *Subscriber) Money() (rating.Micros, error) {
	m, err := ParseMoney(otherwise(s.Balance, "0"))
	if err != nil {
		return 0, wrong("balance", "%v", err)
	}
	return m, nil
}

// AllIdentities lists the subscriber's identities as the directory knows them,
// the IMSI first.
func (s *Subscriber) AllIdentities() (ids []string, err error) {
	add := func(path, text string) {
		id, e := CanonicalIdentity(text)
		if e == nil && slices.Contains(ids, id) {
			e = fmt.Errorf("%s is named twice", id)
		}
		if e != nil && err == nil {
			err = wrong(path, "%s", strings.TrimPrefix(e.Error(), path+" "))
		}
		ids = append(ids, id)
	}
	if s.IMSI != "" {
		add("imsi", "imsi:"+s.IMSI)
	}
	if s.MSISDN != "" {
		add("msisdn", "msisdn:"+s.MSISDN)
	}
	for i, id := range s.Identities {
		add(fmt.Sprintf("identities[%d]", i), id)
	}
	switch {
	case err != nil:
		return nil, err
	case len(ids) == 0:
		return nil, wrong("", `a subscriber needs an imsi or a msisdn, such as imsi: "001010000000001"`)
	case len(ids) > IdentitiesMax:
		return nil, wrong("identities", "are %d in all; %d are possible", len(ids), IdentitiesMax)
	}
	return ids, nil
}
