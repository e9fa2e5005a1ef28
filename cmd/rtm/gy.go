package main

import (
	"bytes"
	"cmp"
	"fmt"
	"log/slog"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"rtm"
	"rtm/api"
	"rtm/cdr"
	"rtm/charging"
	"rtm/creditcontrol"
	"rtm/diameter"
	"rtm/diameter/peer"
	"rtm/store"
	"rtm/tenant"
)

// A door is where Diameter comes in: it decides who is a peer, turns CCRs into
// requests and their answers into CCAs.
type door struct {
	self      creditcontrol.Self
	node      *peer.Node
	instance  *rtm.Instance            // nil: it is a front's, which decides nothing
	relay     string                   // a front's own name towards instances
	known     func() *tenant.Catalogue // whom it lets in
	learn     bool                     // let unknown peers in, for all tenants
	api       string                   // for hints in the log
	log       *slog.Logger
	files     *cdr.Follower // nil: no records are written
	strange   strangers
	unwelcome refusals
	owed      debts
	tracer    tracer
	Counts    doorCounts
}

// doorCounts is what a door did, for metrics.
type doorCounts struct {
	Requests  [5]atomic.Int64 // by CC-Request-Type
	Nanos     [5]atomic.Int64 // from reading to answering
	Malformed atomic.Int64
	Silent    atomic.Int64
	Busy      atomic.Int64
	Panics    atomic.Int64
	Spoofed   atomic.Int64
	ClockOff  atomic.Int64 // with an Event-Timestamp that is clockMax away
	Late      [len(rtm.Latencies) + 1]atomic.Int64
}

// client is what a door keeps of a connection.
type client struct {
	door   *door
	caps   peer.Capabilities
	name   []byte // caps.Host, for the messages of others that it passes on
	stands atomic.Pointer[standing]
	relays atomic.Bool // it was learned, and sent a message of another host or realm
}

// standing is what the catalogue of one moment says of a client.
type standing struct {
	catalogue *tenant.Catalogue
	dialect   *creditcontrol.Dialect
	tenants   []string             // nil: all
	realms    map[string][]string  // Destination-Realms that mean one tenant; nil: this peer does not serve it
	self      *creditcontrol.Self  // who answers
	known     *tenant.Peer         // nil: it was learned
	name      string               // of the document, or that there is none; no tenant's
	behind    map[string]*standing // clients that it relays, by host and realm; only the goroutine that reads uses it
	agreed    map[string]bool      // at a front, whether instances take them for no more, likewise
}

// behindMax bounds how many clients behind one relay are remembered.
const behindMax = 4096

// origin is the standing of the client that has sent a message, which may be behind
// the relay that passed it on: its own document, if it has one, says how it speaks and
// which of the relay's tenants it serves.
func (s *standing) origin(d *door, conn *peer.Capabilities, e *creditcontrol.Envelope) *standing {
	if s.known == nil || fold(e.OriginHost, conn.Host) && fold(e.OriginRealm, conn.Realm) {
		return s
	}
	name := string(e.OriginHost) + ";" + string(e.OriginRealm)
	if o, ok := s.behind[name]; ok {
		return o
	}
	o := s
	if p := s.catalogue.Behind(conn.Host, string(e.OriginHost), string(e.OriginRealm)); p != nil {
		o = d.standingOf(s.catalogue, p, slices.DeleteFunc(slices.Clone(p.Tenants), func(t string) bool { return !s.known.Serves(t) }))
	}
	if len(s.behind) < behindMax {
		if s.behind == nil {
			s.behind = make(map[string]*standing)
		}
		s.behind[name] = o
	}
	return o
}

func fold(a []byte, b string) bool { return strings.EqualFold(string(a), b) }

// standing is what the catalogue says of c now: documents that are applied count
// for those who are connected already. nil: it is no peer any more.
func (c *client) standing() *standing {
	s := c.stands.Load()
	if now := c.door.known(); s == nil || s.catalogue != now {
		s = c.door.standing(now, &c.caps)
		if s != nil {
			c.stands.Store(s)
		}
	}
	return s
}

// standing looks a peer up; nil: it is unknown, and is not to be learned.
func (d *door) standing(cat *tenant.Catalogue, c *peer.Capabilities) *standing {
	p, ok := cat.Peer(c.Host, c.Realm, c.Remote.Addr())
	if c.Secure {
		p, ok = cat.SecurePeer(c.Host, c.Realm, c.Remote.Addr(), c.Names)
	}
	if !ok {
		if !d.learn || c.Secure {
			return nil
		}
		p = nil
	}
	if p == nil {
		return d.standingOf(cat, nil, nil)
	}
	return d.standingOf(cat, p, p.Tenants)
}

// standingOf is what the document of a peer says, who may name subscribers of these
// tenants; nil: there is none, and it was learned.
func (d *door) standingOf(cat *tenant.Catalogue, p *tenant.Peer, tenants []string) *standing {
	s := &standing{catalogue: cat, dialect: creditcontrol.Generic, self: &d.self, name: "learned peers", tenants: tenants, known: p}
	if s.divide(); p == nil {
		return s
	}
	s.name = "peer " + p.Name()
	if dialect := creditcontrol.DialectOf(p.Dialect); dialect != nil {
		s.dialect = dialect
	}
	if p.AnswerAs == "instance" && d.instance != nil {
		own := *s.self
		own.OriginHost = d.instance.Presence.PeerHost
		s.self = &own
	}
	return s
}

// divide notes which realms mean one tenant, and that they are served.
func (s *standing) divide() {
	own := *s.self
	own.Realms = slices.Clone(own.Realms)
	s.realms = make(map[string][]string)
	for _, r := range s.catalogue.Realms() {
		if strings.EqualFold(r, own.OriginRealm) || slices.ContainsFunc(s.self.Realms, func(o string) bool { return strings.EqualFold(o, r) }) {
			continue // what the server itself serves means everybody
		}
		s.realms[r] = nil
		if t := s.catalogue.TenantOfRealm(r); s.tenants == nil || slices.Contains(s.tenants, t) {
			s.realms[r] = []string{t}
			own.Realms = append(own.Realms, r) // those of other tenants are nobody's to this peer
		}
	}
	if len(s.realms) > 0 {
		s.self = &own
	}
}

// among are the tenants whose subscribers a request to that realm may name;
// false: the peer does not serve the tenant that the realm means.
func (s *standing) among(realm []byte) (tenants []string, ok bool) {
	if len(s.realms) == 0 {
		return s.tenants, true
	}
	one, divided := s.realms[strings.ToLower(string(realm))]
	if !divided {
		return s.tenants, true
	}
	return one, one != nil
}

// Silent reports whether a request that is too much gets no answer: the client
// drops a session for a 3004, and sends again when it hears nothing.
func (c *client) Silent(m *diameter.Message) bool {
	kind, ok := diameter.Find(m.Body, diameter.CCRequestType)
	v, err := kind.Uint32()
	if !ok || err != nil || v == uint32(charging.Initial) || !c.stands.Load().dialect.SilentWhenBusy {
		return false
	}
	c.door.tracedUnseen(c.caps.Host, m, "too many requests are in hand, of this connection or of all: nothing was charged"+unheard)
	return true
}

// unheard is said of a request that was turned away without an answer.
const unheard = ". This client must not hear that (its dialect), and sends again what is not answered"

// OriginHost is who answers this client.
func (c *client) OriginHost() string { return c.stands.Load().self.OriginHost }

// Reason is the document that let it in, when it was asked last.
func (c *client) Reason() string { return c.stands.Load().name }

// sends reports whether a request of that origin may come over the connection.
func (c *client) sends(s *standing, e *creditcontrol.Envelope) bool {
	if s.known != nil {
		return s.known.Sends(c.caps.Host, c.caps.Realm, string(e.OriginHost), string(e.OriginRealm))
	}
	if !c.relays.Load() && !(strings.EqualFold(c.caps.Host, string(e.OriginHost)) && strings.EqualFold(c.caps.Realm, string(e.OriginRealm))) {
		c.relays.Store(true)
	}
	return true
}

// via is the name of the client if it is a relay that a message came over; nil: it is
// the message's own.
func (c *client) via(e *creditcontrol.Envelope) []byte {
	if fold(e.OriginHost, c.caps.Host) {
		return nil
	}
	return c.name
}

// neighbour is the client as the other instances know it.
func (c *client) neighbour(s *standing) rtm.Neighbour {
	b := rtm.Neighbour{Host: c.caps.Host, Realm: c.caps.Realm}
	if s.known != nil {
		b.Document = s.known.Name()
	} else {
		b.Relays = c.relays.Load()
	}
	return b
}

// reaches reports whether a notice may go over the connection, and its answer
// come.
func (c *client) reaches(n *notice, way rtm.Toward) bool {
	s := c.standing()
	if s == nil {
		return false
	}
	b := c.neighbour(s)
	return b.Reaches(s.known, n.Account, &n.Due, way)
}

// call is one CCR on its way, kept with the memory of its request.
type call struct {
	door    *door
	request *peer.Request
	peer    *standing
	env     creditcontrol.Envelope
	in      rtm.Inbound
	enc     diameter.Encoder
	buf     []byte
	text    []byte
	owed    *debt  // of its session; nil: it was not submitted
	why     string // it was turned away, for who looks on
	decided bool   // what is in in.Answer and in.Entry is so
}

// Admit implements peer.Handler: the catalogue says who may connect.
func (d *door) Admit(c peer.Capabilities) (any, diameter.Result) {
	cl := &client{door: d, caps: c, name: []byte(c.Host)}
	s := cl.standing()
	if (s == nil || s.known == nil) && d.strange.first(aboutPeer, c.Host, time.Now()) {
		level, text := slog.LevelInfo, "learned a peer; rtm serve would need it in the catalogue"
		if s == nil {
			level, text = slog.LevelWarn, "refused an unknown peer"
		}
		d.strange.tell(aboutPeer, level, text, "host", c.Host, "realm", c.Realm, "address", c.Remote, "certificate", c.Names, "fix", peerDocument(c))
	}
	if s == nil {
		d.unwelcome.note(api.Refusal{Host: c.Host, Realm: c.Realm, Address: c.Remote.Addr().String(), Why: "no Peer document names it from there", Fix: peerDocument(c)})
		return nil, diameter.UnknownPeer
	}
	return cl, 0
}

// peerDocument is the command that makes a peer known. The names are a
// stranger's: they are part of it only if no shell sees anything in them.
func peerDocument(c peer.Capabilities) string {
	if !identityShape.MatchString(c.Host) || !identityShape.MatchString(c.Realm) {
		return "none: its name or realm is no Diameter identity"
	}
	how := "sources: [" + prefixOf(c) + "]"
	if c.Secure {
		if len(c.Names) == 0 {
			return "none: its certificate has no DNS name: have it issued with subjectAltName DNS:" + c.Host
		}
		if !identityShape.MatchString(c.Names[0]) {
			return "none: the first DNS name in its certificate is no host name"
		}
		how = "certificate: " + c.Names[0]
	}
	return fmt.Sprintf("rtm apply -f - <<< '{kind: Peer, host: %s, realm: %s, %s, tenants: [YOUR-TENANT]}'", c.Host, c.Realm, how)
}

func prefixOf(c peer.Capabilities) string {
	p, err := c.Remote.Addr().Prefix(c.Remote.Addr().BitLen())
	if err != nil {
		return c.Remote.Addr().String()
	}
	return p.String()
}

// Receive implements peer.Handler.
func (d *door) Receive(batch []*peer.Request) {
	for _, r := range batch {
		d.receive(d.call(r))
	}
}

// call is what the memory of a request is kept with.
func (d *door) call(r *peer.Request) *call {
	c, ok := r.Value.(*call)
	if !ok {
		c = &call{}
		r.Value = c
	}
	c.door, c.request, c.owed, c.why, c.decided = d, r, nil, "", false
	return c
}

// pass looks at a request that a front passes on; false: it was answered.
func (d *door) pass(r *peer.Request) bool {
	c := d.call(r)
	defer c.caught()
	cl := r.Conn.Peer.(*client)
	if c.inspect(cl) == nil {
		return false
	}
	if s := cl.stands.Load(); !d.agrees(s, &c.env) {
		if d.strange.first(aboutOrigin, string(c.env.OriginHost)+" by "+cl.caps.Host, time.Now()) {
			d.strange.tell(aboutOrigin, slog.LevelWarn, "refused a request that instances would take for another peer's, with other tenants", "connection", cl.caps.Host,
				"document", s.name, "originHost", string(c.env.OriginHost), "fix", "write via: ["+d.relay+"] in the sender's Peer document")
		}
		c.result(diameter.UnknownPeer)
		return false
	}
	return true
}

// agrees reports whether instances, which know whoever is behind this front by name
// alone, take the sender of a message for no more than it is here.
func (d *door) agrees(s *standing, e *creditcontrol.Envelope) bool {
	if s.known == nil {
		return true
	}
	name := string(e.OriginHost) + ";" + string(e.OriginRealm)
	if yes, ok := s.agreed[name]; ok {
		return yes
	}
	p := s.catalogue.Behind(d.relay, string(e.OriginHost), string(e.OriginRealm))
	if p == nil { // it is served as the front is
		p = s.catalogue.Of(d.relay, d.self.OriginRealm)
	}
	yes := p == nil || !slices.ContainsFunc(p.Tenants, func(t string) bool { return !s.known.Serves(t) })
	if len(s.agreed) < behindMax {
		if s.agreed == nil {
			s.agreed = make(map[string]bool)
		}
		s.agreed[name] = yes
	}
	return yes
}

// caught answers 5012 to a request on which the program has failed: a mistake of
// ours in one message must not end the connections of all.
func (c *call) caught() {
	failed := recover()
	if failed == nil {
		return
	}
	c.door.Counts.Panics.Add(1)
	if c.door.instance != nil {
		c.door.instance.Load.Panics.Add(1)
	}
	if c.door.strange.first(aboutPanic, "", time.Now()) {
		c.door.strange.tell(aboutPanic, slog.LevelError, "a request could not be worked on: please report it", "panic", failed,
			"session", rtm.Veil(string(c.env.SessionID)), "number", c.env.Number, "stack", string(debug.Stack()))
	}
	if c.request.Conn != nil {
		c.result(diameter.UnableToComply)
	}
}

// receive decodes one CCR and sends it on, or answers it at once.
func (d *door) receive(c *call) {
	defer c.caught()
	cl := c.request.Conn.Peer.(*client)
	now := c.inspect(cl)
	if now == nil {
		return
	}
	if r := c.env.Destined(now.self); r != 0 && !(r == diameter.UnableToDeliver && d.instance.Known(c.env.DestinationHost)) {
		c.result(r)
		return
	}
	tenants, ok := now.among(c.env.DestinationRealm)
	if !ok {
		c.result(diameter.RealmNotServed)
		return
	}
	in := &c.in
	in.Request.Via = cl.via(&c.env)
	in.Watched = d.tracer.active.Load() > 0
	in.Arrived = d.instance.Now()
	in.Deadline = in.Arrived.Add(c.peer.dialect.Patience)
	in.Tenants, in.Reply, in.Token, in.Peer = tenants, replied, c, now.name
	for _, id := range c.env.Identities {
		c.text = id.Append(c.text[:0])
		in.Identities = append(in.Identities, string(c.text))
	}
	if now.known != nil && now.known.Restarts {
		in.Request.Client.State = cmp.Or(c.env.OriginState, cl.stateOf(&c.env))
	}
	if off := c.env.Timestamp.Sub(in.Arrived).Abs(); off > clockMax && !c.env.Timestamp.IsZero() {
		d.clockOff(string(c.env.OriginHost), c.env.Timestamp, in.Arrived)
	}
	if in.Request.Kind == charging.Event && in.Request.Action <= charging.RefundAccount {
		in.OnceDoor, in.OnceName = "gy", onceName(&c.env, in.Request.Sub)
	}
	c.owed = d.owed.take(in.Request.Session)
	d.instance.Submit(in)
}

// clockMax is how far from the time here a client's may be before somebody is told.
const clockMax = 24 * time.Hour

// clockOff counts a message with a time of another day. It is served by the time here:
// who has used something did so, whatever the clock there says.
func (d *door) clockOff(host string, at, now time.Time) {
	d.Counts.ClockOff.Add(1)
	if d.strange.first(aboutClock, host, time.Now()) {
		d.strange.tell(aboutClock, slog.LevelWarn, "a gateway's Event-Timestamp is more than a day off; the time here counts", "host", host,
			"says", at.UTC().Format(time.RFC3339), "here", now.UTC().Format(time.RFC3339), "fix", "set the gateway's clock by NTP; if it replays a capture, nothing is wrong")
	}
}

// inspect decodes a CCR and says whose it is. One that cannot be used, or is not its
// sender's to send, it answers: then it is nobody's.
func (c *call) inspect(cl *client) *standing {
	d := c.door
	c.in.Reset()
	now := cl.standing()
	if c.peer = now; now == nil {
		c.peer = cl.stands.Load()
	}
	if err := creditcontrol.Decode(&c.request.Message, c.peer.dialect, &c.env, &c.in.Request); err != nil {
		d.Counts.Malformed.Add(1)
		c.request.Bad()
		c.enc.Reset(c.buf[:0])
		creditcontrol.EncodeError(&c.enc, c.peer.self, &c.env, err)
		c.answer()
		return nil
	}
	if now == nil { // since it connected, its document was changed
		c.result(diameter.UnknownPeer)
		return nil
	}
	if !cl.sends(now, &c.env) {
		c.spoofed(cl)
		return nil
	}
	if now = now.origin(d, &cl.caps, &c.env); now != c.peer {
		c.peer = now
		creditcontrol.Speak(now.dialect, &c.env, &c.in.Request)
	}
	if k := c.in.Request.Kind; k == charging.Initial || k == charging.Update {
		c.request.Late = c.request.At.Add(c.peer.dialect.Late)
	}
	return now
}

// stateOf is the Origin-State-Id of the connection's CER, if the message is its own.
func (c *client) stateOf(e *creditcontrol.Envelope) uint32 {
	if fold(e.OriginHost, c.caps.Host) {
		return c.caps.OriginState
	}
	return 0
}

// onceName is the name of a one-time request: no two have the same, whatever is in
// their realms and Session-Ids.
func onceName(e *creditcontrol.Envelope, sub uint64) string {
	return fmt.Sprintf("%d;%d;%d;%s;%s", e.Number, sub, len(e.OriginRealm), e.OriginRealm, e.SessionID)
}

// spoofed refuses a request in the name of somebody who does not send over this
// connection.
func (c *call) spoofed(cl *client) {
	d := c.door
	d.Counts.Spoofed.Add(1)
	c.request.Bad()
	if d.strange.first(aboutOrigin, string(c.env.OriginHost)+" over "+cl.caps.Host, time.Now()) {
		d.strange.tell(aboutOrigin, slog.LevelWarn, "refused a request with somebody else's Origin-Host", "connection", cl.caps.Host, "originHost", string(c.env.OriginHost),
			"originRealm", string(c.env.OriginRealm), "fix", "if it is a relay, list the realm under relays: of its Peer document")
	}
	origin, _ := diameter.Find(c.request.Message.Body, diameter.OriginHost)
	c.enc.Reset(c.buf[:0])
	creditcontrol.EncodeError(&c.enc, c.peer.self, &c.env, origin.Fail(diameter.InvalidAVPValue))
	c.answer()
}

// replied is told what became of a request, on a shard's goroutine.
func replied(in *rtm.Inbound, o rtm.Outcome) {
	c := in.Token.(*call)
	defer c.caught()
	d := c.door
	switch o {
	case rtm.Answered:
		c.decided = true
		if in.Answer.Result == charging.UserUnknown {
			d.unknown(in)
		} else {
			c.env.Failure = c.peer.failure(in.Account)
		}
		c.enc.Reset(c.buf[:0])
		creditcontrol.Encode(&c.enc, c.peer.self, &c.env, &in.Answer)
		c.answer()
	case rtm.Busy:
		d.Counts.Busy.Add(1)
		c.request.TurnedAway()
		if c.why = "too busy: nothing was charged"; in.Watched && !d.instance.Now().Before(in.Deadline) {
			c.why = fmt.Sprintf("it could not be decided and written within %s: nothing was charged", c.peer.dialect.Patience)
		}
		if c.peer.dialect.SilentWhenBusy && in.Request.Kind != charging.Initial {
			c.drop(c.why + unheard)
			return
		}
		c.result(diameter.TooBusy)
	case rtm.Above:
		c.result(diameter.UnableToDeliver)
	case rtm.Silent, rtm.Forward, rtm.Onward, rtm.NeedPlan:
		d.Counts.Silent.Add(1)
		c.drop("it may have taken effect, which nobody can tell in time: when it is sent again, that is answered")
	}
}

// drop leaves the request without an answer, for that reason.
func (c *call) drop(why string) {
	c.traced(why)
	owed, d := c.owed, c.door
	c.request.Drop()
	d.settled(owed)
}

// failure is what a gateway is told to do when no server answers, as the tenant of
// that account wants it.
func (s *standing) failure(account store.Key) (f creditcontrol.Failure) {
	owner, _ := tenant.AccountOf(account)
	t := s.catalogue.Tenant(owner)
	if t == nil {
		return f
	}
	f.Session = uint8(1 + slices.Index(tenant.FailureHandlings, t.FailureHandling))
	f.Event = uint8(1 + slices.Index(tenant.DirectDebitingFailureHandlings, t.DirectDebitingFailureHandling))
	return f
}

// unknown says once what would make a subscriber known. Whose number it is the log
// of rtm serve does not say: the gateway does, by the session.
func (d *door) unknown(in *rtm.Inbound) {
	if len(in.Identities) == 0 || !d.strange.first(aboutSubscriber, in.Identities[0], time.Now()) {
		return
	}
	id, shown, session, fix := in.Identities[0], in.Identities[0], string(in.Request.Session), "none: no shell should see this identity"
	t := d.instance.Catalogue().TenantOf(id)
	if t == "" {
		t = "TENANT"
	}
	if !d.learn {
		shown, session = masked(id), rtm.Veil(session)
	}
	if subscriberShape.MatchString(id) {
		scheme, _, _ := strings.Cut(id, ":")
		if d.learn {
			fix = "rtm subscriber add " + id
		} else {
			fix = "ask the gateway for the number of this session: rtm subscriber add " + scheme + ":NUMBER"
		}
		fix += " --tenant " + t + " --plan PLAN --api " + d.api
	}
	d.strange.tell(aboutSubscriber, slog.LevelWarn, "unknown subscriber answered 5030", "identity", shown, "session", session,
		"peer", string(in.Request.Host), "fix", fix)
}

// subscriberShape is an identity that can be part of a command.
var subscriberShape = regexp.MustCompile(`^[a-z]+:[A-Za-z0-9+@._-]+$`)

// result answers with nothing but a result.
func (c *call) result(r diameter.Result) {
	c.enc.Reset(c.buf[:0])
	creditcontrol.EncodeResult(&c.enc, c.peer.self, &c.env, r)
	c.answer()
}

// answer sends what was encoded. The memory is another request's after it.
func (c *call) answer() {
	c.buf = c.enc.Bytes()
	took := time.Since(c.request.At)
	n := &c.door.Counts
	if t := c.env.Type; t < uint32(len(n.Requests)) {
		n.Requests[t].Add(1)
		n.Nanos[t].Add(int64(took))
	}
	i, _ := slices.BinarySearch(rtm.Latencies[:], took)
	n.Late[i].Add(1)
	c.traced("")
	owed, d := c.owed, c.door
	c.request.Answer(c.buf)
	d.settled(owed)
}

// debts are the sessions whose answers are owed, by a hash of their name: several
// share one, which costs them a pause.
type debts [1024]debt

// A debt is how many answers are owed, and which notices wait for them: a client that
// is asked to report while it waits for an answer would report too little.
type debt struct {
	answers atomic.Int32
	since   atomic.Int64 // nanoseconds of Unix time: the first of notices waits since then; zero: there is none
	mu      sync.Mutex   // guards notices
	notices []*notice
}

// Bounds of the notices that wait behind one debt. Beyond them they are sent: where many
// sessions share a debt, it may never be settled.
const (
	heldMax = 16
	heldFor = time.Second
)

func (d *debts) of(session []byte) *debt {
	h := uint32(2166136261)
	for _, c := range session {
		h = (h ^ uint32(c)) * 16777619
	}
	return &d[h%uint32(len(d))]
}

// take notes that an answer is owed.
func (d *debts) take(session []byte) *debt {
	owed := d.of(session)
	owed.answers.Add(1)
	return owed
}

// hold keeps n until no answer is owed; false: none is.
func (o *debt) hold(n *notice) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.answers.Load() == 0 || len(o.notices) >= heldMax {
		return false
	}
	if o.notices = append(o.notices, n); len(o.notices) == 1 {
		o.since.Store(time.Now().UnixNano())
	}
	return true
}

// waits reports whether what is held for o must wait on.
func (o *debt) waits() bool {
	since := o.since.Load()
	return since == 0 || time.Now().UnixNano()-since < int64(heldFor)
}

// settled notes that an answer has left, and sends what waited for it.
func (d *door) settled(o *debt) {
	if o == nil || o.answers.Add(-1) > 0 && o.waits() {
		return
	}
	o.mu.Lock()
	ready := o.notices
	o.notices = nil
	o.since.Store(0)
	o.mu.Unlock()
	for _, n := range ready {
		d.deliver(n)
	}
}

// Answered implements peer.Handler: a client answered a RAR or ASR. That it does
// not know the session ends it, so nobody but the client itself can say so: not
// another one in its place, nor a relay in front of it that has lost the way.
func (d *door) Answered(conn *peer.Conn, token any, m *diameter.Message) {
	n, ok := token.(*notice)
	if !ok {
		return
	}
	d.tracedFrame(conn.Host, n, false, m)
	a := creditcontrol.DecodeReply(m)
	if a.Result == diameter.UnableToDeliver && n.way > rtm.Direct {
		for ; n.way <= rtm.Again; n.way++ { // another relay may lead there, also one of the same name
			if d.deliver(n) {
				return
			}
		}
		d.instance.PassOn(n.Parcel)
		return
	}
	if a.Result == diameter.UnknownSessionID {
		own := bytes.EqualFold(a.Host, n.Due.Host) && bytes.EqualFold(a.Realm, n.Due.Realm)
		if c := conn.Peer.(*client); !own || !slices.ContainsFunc([]rtm.Toward{rtm.Direct, rtm.Relayed, rtm.Again}, func(way rtm.Toward) bool { return c.reaches(n, way) }) {
			return // the timer sends it again
		}
	}
	now := d.instance.Now()
	d.instance.Submit(&rtm.Inbound{
		Account: n.Account, Arrived: now, Deadline: now.Add(5 * time.Second),
		Request: charging.Request{
			Kind: charging.Notified, Realm: n.Due.Realm, Session: n.Due.Session, Sub: n.Due.Sub,
			Notice: n.Due.Number, Result: charging.Result(a.Result),
		},
	})
}

// Closed implements peer.Handler.
func (d *door) Closed(c *peer.Conn, _ []any) {
	if d.strange.first(aboutClosed, "", time.Now()) {
		d.strange.tell(aboutClosed, slog.LevelInfo, "a peer's connection is closed", "host", c.Host, "address", c.Remote)
	}
}

// notice is a RAR or ASR on its way.
type notice struct {
	rtm.Parcel
	way   rtm.Toward
	tried []*peer.Conn // connections that it was given to
}

// notify sends a RAR or ASR over a connection of its client, or of a relay towards
// it. No other gateway of the realm gets it: that
// would answer, truly, that it does not know the session. Nor does anybody who
// does not serve the account's tenant.
func (d *door) notify(p rtm.Parcel, way rtm.Toward) bool {
	n := &notice{Parcel: p, way: way}
	if !d.leads(n) {
		return false
	}
	return d.owed.of(p.Due.Session).hold(n) || d.deliver(n)
}

// leads reports whether a connection here may carry n.
func (d *door) leads(n *notice) bool {
	return slices.ContainsFunc(d.node.Conns(), func(c *peer.Conn) bool { return c.Peer.(*client).reaches(n, n.way) })
}

// deliver sends n over a connection that it was not sent over yet; over one that owes an
// answer to a watchdog only if there is no other (RFC 3539 §3.4).
func (d *door) deliver(n *notice) bool {
	conns := d.node.Conns()
	slices.SortStableFunc(conns, func(a, b *peer.Conn) int {
		switch {
		case a.Suspect() == b.Suspect():
			return 0
		case a.Suspect():
			return 1
		}
		return -1
	})
	for _, conn := range conns {
		if slices.Contains(n.tried, conn) || !conn.Peer.(*client).reaches(n, n.way) {
			continue
		}
		if n.tried = append(n.tried, conn); d.send(conn, n) {
			return true
		}
	}
	return false
}

// send sends a notice over a connection; false: it cannot be sent there now.
func (d *door) send(conn *peer.Conn, n *notice) bool {
	due := &n.Due
	target := &creditcontrol.Target{Session: due.Session, Sub: due.Sub, Host: due.Host, Realm: due.Realm}
	self := conn.Peer.(*client).stands.Load().self
	return conn.Send(n, func(hop, end uint32) []byte {
		var enc diameter.Encoder
		enc.Reset(nil)
		if due.Kind == charging.Abort {
			creditcontrol.EncodeAbort(&enc, self, target, hop, end)
		} else {
			creditcontrol.EncodeReAuth(&enc, self, target, due.Group, due.HasGroup, hop, end)
		}
		if m, _, err := diameter.Frame(enc.Bytes(), enc.Len()); err == nil {
			d.tracedFrame(conn.Host, n, true, &m)
		}
		return enc.Bytes()
	})
}

// connected lists who is connected here, for the other instances.
func (d *door) connected() (all []rtm.Neighbour) {
	for _, conn := range d.node.Conns() {
		c := conn.Peer.(*client)
		if s := c.standing(); s != nil {
			all = append(all, c.neighbour(s))
		}
	}
	slices.SortFunc(all, func(a, b rtm.Neighbour) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Realm, b.Realm), cmp.Compare(a.Document, b.Document))
	})
	return slices.Compact(all)
}

var _ peer.Handler = (*door)(nil)
