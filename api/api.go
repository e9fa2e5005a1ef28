// Package api is the management interface: REST with an OpenAPI description,
// metrics, health. It turns HTTP into requests of the one loop and shows what
// is in the store. It does not know Diameter and keeps nothing itself. Until
// there are keys it serves loopback only.
package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"rtm"
	"rtm/charging"
	"rtm/rating"
	"rtm/store"
	"rtm/tenant"
)

// BodyMax bounds a file that is applied or imported, bodyMax what else is sent.
const (
	BodyMax = 16 << 20
	bodyMax = 256 << 10
)

// Config is what the interface needs.
type Config struct {
	Version   string
	Instances func() []*rtm.Instance                                 // of this process, those that live first; never empty
	Records   func(context.Context, RecordQuery) (RecordPage, error) // nil: there are no record files
	Files     []string                                               // directories of record files; sessions are explained from them
	Registry  *prometheus.Registry
	Ready     func() error // nil: this process takes traffic
	// Receive opens a store that is to be filled (backup.Fill); nil: there is none to move to.
	Receive func(ctx context.Context, where, id, old string) (store.Portable, error)
	Shown   func(where string) string // the name of a store without its passwords
	Refused func() []Refusal          // who was not let in of late; nil: nobody keeps that
	// Trace tells begun when it has begun, and then of messages as they go by, until ctx ends
	// or tell fails; nil: there are none.
	Trace func(ctx context.Context, wish TraceWish, begun func(), tell func(TraceLine) error) error
}

// A server answers the operations.
type server struct{ Config }

// New returns the handler of everything that HTTP is asked here.
func New(c Config) (http.Handler, huma.API) {
	s := &server{c}
	mux := http.NewServeMux()
	conf := huma.DefaultConfig("rtm", c.Version)
	conf.DocsPath = ""
	conf.Formats = maps.Clone(conf.Formats)
	for name, format := range conf.Formats {
		format.Unmarshal = modest
		conf.Formats[name] = format
	}
	conf.Info.Description = "Online charging: tenants, plans, subscribers, balances, sessions, records."
	a := humago.New(mux, conf)
	s.operations(a)
	if c.Registry != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(c.Registry, promhttp.HandlerOpts{}))
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", s.ready)
	// A web page that a browser on this machine shows must not reach the
	// interface, which has no keys.
	h := http.NewCrossOriginProtection().Handler(guided(mux))
	if c.Registry != nil {
		answered := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rtm_http_requests_total", Help: "Requests of the management interface that were answered."}, []string{"method", "code"})
		c.Registry.MustRegister(answered)
		h = promhttp.InstrumentHandlerCounter(answered, h)
	}
	return h, a
}

func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	err := error(nil)
	if s.Ready != nil {
		err = s.Ready()
	}
	if err == nil {
		err = s.instance().Fit()
	}
	if err == nil {
		_, err = s.instance().Store.Facts(ctx)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Write([]byte("ready\n"))
}

func (s *server) instance() *rtm.Instance { return s.Instances()[0] }

func (s *server) operations(a huma.API) {
	huma.Get(a, "/v1/info", s.info)
	huma.Post(a, "/v1/apply", s.apply, large)
	huma.Get(a, "/v1/tenants", s.tenants)
	huma.Get(a, "/v1/tenants/{tenant}", s.tenant)
	huma.Get(a, "/v1/plans", s.plans)
	huma.Get(a, "/v1/plans/{tenant}/{plan}", s.plan)
	huma.Get(a, "/v1/peers", s.peers)
	huma.Get(a, "/v1/peers/{host}", s.peer)
	huma.Get(a, "/v1/export", s.export)
	huma.Get(a, "/v1/subscribers", s.subscribers)
	huma.Post(a, "/v1/subscribers", s.addSubscriber, small)
	huma.Post(a, "/v1/import", s.importLines, large)
	huma.Put(a, "/v1/identities/{identity}", s.reassign, small)
	huma.Get(a, "/v1/subscribers/{subscriber}", s.subscriber)
	huma.Post(a, "/v1/subscribers/{subscriber}/topups", s.topUp, small)
	huma.Get(a, "/v1/sessions", s.sessions)
	huma.Get(a, "/v1/sessions/{session}", s.session)
	huma.Post(a, "/v1/sessions/{session}/reauth", s.reauth, small)
	huma.Post(a, "/v1/sessions/{session}/abort", s.abort, small)
	huma.Get(a, "/v1/sessions/{session}/explain", s.explain)
	huma.Get(a, "/v1/subscribers/{subscriber}/explain", s.explainAccount)
	huma.Get(a, "/v1/instances", s.instances)
	huma.Get(a, "/v1/level", s.level)
	huma.Post(a, "/v1/level", s.raise, small)
	huma.Get(a, "/v1/records", s.records)
	huma.Get(a, "/v1/trace", s.trace)
	huma.Get(a, "/v1/backup", s.backup)
	huma.Post(a, "/v1/migrate", s.migrate, small)
}

// Bounds of a JSON body, beyond its octets.
const (
	depthMax = 16
	arrayMax = 256
)

// modest reads JSON that is no deeper and in no longer lists than anybody needs.
func modest(b []byte, v any) error {
	var many [depthMax + 1]int // values at each depth
	depth := 0
	for dec := json.NewDecoder(bytes.NewReader(b)); ; {
		token, err := dec.Token()
		switch {
		case errors.Is(err, io.EOF):
			return json.Unmarshal(b, v)
		case err != nil:
			var whole json.RawMessage
			return cmp.Or(json.Unmarshal(b, &whole), err) // of the two the one that tells more
		}
		if token == json.Delim(']') || token == json.Delim('}') {
			depth--
			continue
		}
		if many[depth]++; many[depth] > arrayMax {
			return fmt.Errorf("a list or an object has more than %d elements", arrayMax)
		}
		if token == json.Delim('[') || token == json.Delim('{') {
			if depth++; depth > depthMax {
				return fmt.Errorf("it is nested more than %d deep", depthMax)
			}
			many[depth] = 0
		}
	}
}

func small(o *huma.Operation) { o.MaxBodyBytes = bodyMax }
func large(o *huma.Operation) { o.MaxBodyBytes = BodyMax }

// later is a problem that may be gone after a second.
func later(problem error) error {
	return huma.ErrorWithHeaders(problem, http.Header{"Retry-After": {"1"}})
}

// problem is err as HTTP tells it.
func problem(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rtm.ErrNotFound) && strings.HasPrefix(err.Error(), "session "):
		return huma.Error404NotFound(err.Error() + ": it is not open; rtm explain and rtm cdr list --session tell of one that has ended")
	case errors.Is(err, rtm.ErrNotFound):
		return huma.Error404NotFound(err.Error() + ": rtm subscriber list and rtm session list show what there is")
	case errors.Is(err, charging.ErrLevel), errors.Is(err, rtm.ErrOld):
		return huma.Error409Conflict(err.Error())
	case errors.Is(err, rtm.ErrTaken):
		return huma.Error409Conflict(err.Error())
	case errors.Is(err, rtm.ErrBusy):
		return later(huma.Error429TooManyRequests(err.Error()))
	case errors.Is(err, rtm.ErrDoubt), errors.Is(err, context.DeadlineExceeded):
		return later(huma.Error503ServiceUnavailable(err.Error()))
	}
	return huma.Error422UnprocessableEntity(err.Error())
}

// Info is what the server says of itself.
type Info struct {
	Version string    `json:"version"`
	Store   string    `json:"store" doc:"who holds the data"`
	Mode    string    `json:"mode" doc:"embedded, single, safe, safe-1 or fast"`
	Power   bool      `json:"survivesPowerLoss"`
	Clock   time.Time `json:"clock" doc:"the store's time"`
	Offset  string    `json:"clockOffset" doc:"how far the store's clock is ahead of this machine's"`
}

type body[T any] struct{ Body T }

func (s *server) info(ctx context.Context, _ *struct{}) (*body[Info], error) {
	f, err := s.instance().Store.Facts(ctx)
	if err != nil {
		return nil, huma.Error503ServiceUnavailable(err.Error())
	}
	return &body[Info]{Info{
		Version: s.Version, Store: f.Node, Mode: f.Mode, Power: f.Power, Clock: f.Clock,
		Offset: s.instance().Offset().Round(time.Microsecond).String(),
	}}, nil
}

// A Change says what was done with a document.
type Change struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	What string `json:"what" enum:"created,changed,unchanged"`
}

type applyInput struct {
	DryRun  bool   `query:"dryRun" doc:"only say what would change"`
	File    string `query:"file" doc:"name of the file, for errors"`
	RawBody []byte `contentType:"application/yaml"`
}

// apply makes the catalogue and the subscribers what a file says. The file is
// checked whole before anything is written.
func (s *server) apply(ctx context.Context, in *applyInput) (*body[[]Change], error) {
	file := in.File
	if file == "" {
		file = "body"
	}
	n := s.instance()
	docs, err := tenant.Parse(file, in.RawBody)
	if err == nil {
		err = docs.Cross(n.Catalogue())
	}
	if err != nil {
		return nil, huma.Error422UnprocessableEntity(err.Error())
	}
	done, err := tenant.Apply(ctx, n.Store, docs, in.DryRun)
	if err != nil {
		return nil, problem(err)
	}
	var changes []Change
	for _, c := range done {
		changes = append(changes, Change{Kind: c.Kind, Name: c.Name, What: string(c.What)})
	}
	if in.DryRun {
		return &body[[]Change]{changes}, nil
	}
	for _, n := range s.Instances() {
		n.Refresh()
	}
	known, cancel := context.WithTimeout(ctx, applyWait)
	n.Await(known) // what is applied counts everywhere when the answer comes; one that is slow has it a little later
	cancel()
	subs, err := s.provision(ctx, docs.Subscribers)
	return &body[[]Change]{append(changes, subs...)}, problem(err)
}

// applyWait bounds how long an apply waits for instances that are slow.
const applyWait = 3 * time.Second

// provision makes accounts what documents say. If some cannot be, the others of
// the same part are all the same, and the error is that of the first.
func (s *server) provision(ctx context.Context, docs []tenant.Subscriber) (changes []Change, err error) {
	for part := range slices.Chunk(docs, provisionMax) {
		subs := make([]rtm.Subscription, len(part))
		for i := range part {
			if subs[i], err = rtm.SubscriptionOf(&part[i]); err != nil {
				return nil, err
			}
		}
		for i, p := range s.instance().ProvisionAll(ctx, subs) {
			if p.Err != nil {
				return nil, p.Err
			}
			changes = append(changes, Change{Kind: "Subscriber", Name: part[i].Tenant + "/" + part[i].Account, What: whatOf(p)})
		}
	}
	return changes, nil
}

// provisionMax bounds how many subscribers are worked on at once.
const provisionMax = 5000

func whatOf(p rtm.Provisioned) string {
	switch {
	case p.Created:
		return tenant.Created
	case p.Changed:
		return tenant.Changed
	}
	return tenant.Unchanged
}

// NewSubscriber is what POST /v1/subscribers takes.
type NewSubscriber struct {
	Tenant     string   `json:"tenant"`
	Account    string   `json:"account,omitempty" doc:"default: from the first identity"`
	IMSI       string   `json:"imsi,omitempty"`
	MSISDN     string   `json:"msisdn,omitempty"`
	Identities []string `json:"identities,omitempty" doc:"more, such as sip:alice@example.org"`
	Plan       string   `json:"plan"`
	Balance    string   `json:"balance,omitempty" doc:"money a new account starts with"`
}

func (s *server) addSubscriber(ctx context.Context, in *body[NewSubscriber]) (*body[Change], error) {
	doc := struct {
		Kind string `json:"kind"`
		NewSubscriber
	}{"Subscriber", in.Body}
	text, err := json.Marshal(doc) // JSON is YAML: one way in, one set of checks
	if err != nil {
		return nil, huma.Error422UnprocessableEntity(err.Error())
	}
	docs, err := tenant.Parse("subscriber", text)
	if err == nil {
		err = docs.Cross(s.instance().Catalogue())
	}
	if err != nil {
		return nil, huma.Error422UnprocessableEntity(err.Error())
	}
	changes, err := s.provision(ctx, docs.Subscribers)
	if err != nil {
		return nil, problem(err)
	}
	return &body[Change]{changes[0]}, nil
}

// Bucket is a bucket as it is shown.
type Bucket struct {
	Number    uint32 `json:"number"`
	Unit      string `json:"unit"`
	Allowance string `json:"allowance,omitempty"`
	Priority  int32  `json:"priority"`
	Until     string `json:"until,omitempty"`
	Credited  int64  `json:"credited" doc:"units, or micro-units of money"`
	Debited   int64  `json:"debited"`
	Reserved  int64  `json:"reserved"`
	Available int64  `json:"available"`
	Overrun   int64  `json:"overrun,omitempty" doc:"used beyond what was there"`
	Text      string `json:"text" doc:"available, for people"`
}

// Subscriber is an account as it is shown.
type Subscriber struct {
	Tenant     string    `json:"tenant"`
	Account    string    `json:"account"`
	Plan       string    `json:"plan"`
	Identities []string  `json:"identities"`
	Buckets    []Bucket  `json:"buckets"`
	Sessions   []Session `json:"sessions"`
}

type subscriberInput struct {
	Subscriber string `path:"subscriber" doc:"IMSI, MSISDN, identity or tenant/account"`
}

func (s *server) subscriber(ctx context.Context, in *subscriberInput) (*body[Subscriber], error) {
	n := s.instance()
	key, err := n.Find(ctx, in.Subscriber)
	if err != nil {
		return nil, problem(err)
	}
	a, err := n.Account(ctx, key)
	if err != nil {
		return nil, problem(err)
	}
	return &body[Subscriber]{show(n, key, a)}, nil
}

func show(n *rtm.Instance, key store.Key, a *charging.Account) Subscriber {
	out := Subscriber{Plan: string(a.Plan), Identities: identities(a), Buckets: []Bucket{}, Sessions: []Session{}}
	out.Tenant, out.Account = tenant.AccountOf(key)
	for i := range a.Buckets {
		b := &a.Buckets[i]
		out.Buckets = append(out.Buckets, Bucket{
			Number: b.Number, Unit: b.Unit.String(), Allowance: allowance(n, out.Tenant, a.Plan, b.Allowance), Priority: b.Priority,
			Until: text(b.Until), Credited: b.Credited, Debited: b.Debited, Reserved: b.Reserved, Available: b.Available(),
			Overrun: b.Overrun, Text: tenant.FormatQuantity(b.Available(), b.Unit),
		})
	}
	for i := range a.Sessions {
		out.Sessions = append(out.Sessions, showSession(key, &a.Sessions[i]))
	}
	return out
}

// allowance is the name of an allowance of that plan, or of an earlier version of
// it; empty: it has none of that number.
func allowance(n *rtm.Instance, t string, plan []byte, id uint32) string {
	p := n.Catalogue().Plans(t, plan)
	if id == 0 || p == nil {
		return ""
	}
	for v := p.Latest().Version; v > 0; v-- {
		for _, a := range p.Version(v).Allowances {
			if a.ID == id {
				return a.Name
			}
		}
	}
	return ""
}

func text(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339)
}

type topUpInput struct {
	Subscriber string `path:"subscriber" doc:"IMSI, MSISDN, identity or tenant/account"`
	Key        string `header:"Idempotency-Key" required:"true" minLength:"1" maxLength:"128" doc:"the same key is carried out once"`
	Body       struct {
		Amount   string `json:"amount" doc:"money such as 9.99, or a quantity of the unit such as 1 GiB"`
		Unit     string `json:"unit,omitempty" enum:"money,octets,seconds,events" default:"money"`
		Priority int32  `json:"priority,omitempty" doc:"lower pays first"`
		Until    string `json:"until,omitempty" format:"date-time"`
		Cause    string `json:"cause,omitempty" maxLength:"200"`
	}
}

// TopUp is what a top-up did.
type TopUp struct {
	Subscriber string `json:"subscriber"`
	Bucket     uint32 `json:"bucket"`
	Amount     int64  `json:"amount" doc:"units, or micro-units of money"`
	Unit       string `json:"unit"`
}

var units = map[string]rating.Unit{"": rating.Money, "money": rating.Money, "octets": rating.Octets, "seconds": rating.Seconds, "events": rating.Events}

func (s *server) topUp(ctx context.Context, in *topUpInput) (*body[TopUp], error) {
	n := s.instance()
	key, err := n.Find(ctx, in.Subscriber)
	if err != nil {
		return nil, problem(err)
	}
	b := charging.Bucket{Unit: units[in.Body.Unit], Priority: in.Body.Priority}
	amount, err := tenant.ParseQuantity(in.Body.Amount, b.Unit)
	if err != nil {
		return nil, problem(err)
	}
	if in.Body.Until != "" {
		if b.Until, err = time.Parse(time.RFC3339, in.Body.Until); err != nil {
			return nil, problem(err)
		}
	}
	cause := in.Body.Cause
	if cause = "top-up: " + cause; in.Body.Cause == "" {
		cause = "top-up"
	}
	a, err := n.TopUp(ctx, key, in.Key, amount, b, cause)
	switch {
	case err != nil:
		return nil, problem(err)
	case a.Result == charging.UnableToComply:
		return nil, huma.Error422UnprocessableEntity("this Idempotency-Key was used for another top-up")
	case a.Result == charging.ResourcesExceeded:
		return nil, huma.Error422UnprocessableEntity(fmt.Sprintf("the account has %d buckets that are not over, as many as it may", charging.BucketsMax))
	case a.Result != charging.Success:
		return nil, huma.Error422UnprocessableEntity("the amount must be above zero, and until in the future")
	}
	return &body[TopUp]{TopUp{Subscriber: key.Name, Bucket: a.Bucket, Amount: amount, Unit: b.Unit.String()}}, nil
}
