package front

import (
	"slices"
	"strings"
	"time"

	"rtm/diameter"
	"rtm/diameter/peer"
)

func fold(a []byte, b string) bool { return strings.EqualFold(string(a), b) }

// gates is the side of the gateways.
type gates struct{ *Front }

// Admit implements peer.Handler.
func (f gates) Admit(c peer.Capabilities) (any, diameter.Result) { return f.config.Admit(c) }

// Receive implements peer.Handler.
func (f gates) Receive(batch []*peer.Request) {
	for _, r := range batch {
		switch {
		case !f.config.Take(r):
			f.Counts.Refused.Add(1)
		case f.looped(&r.Message):
			f.Counts.Refused.Add(1)
			r.Answer(f.refusal(&r.Message, diameter.LoopDetected))
		default:
			if why := unfit(&r.Message, r.Conn.Host); why != 0 {
				f.Counts.Refused.Add(1)
				r.Bad()
				r.Answer(f.refusal(&r.Message, why))
				continue
			}
			f.take(r)
		}
	}
}

// take begins the trip of a request.
func (f gates) take(r *peer.Request) {
	t := &trip{request: r}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.learn(r)
	t.limit = time.AfterFunc(f.config.GiveUp, func() { f.expire(t) })
	f.send(t)
}

// learn notes over which connection the sender of a request is reached. f.mu is held.
func (f gates) learn(r *peer.Request) {
	name := route(&r.Message, diameter.OriginHost, diameter.OriginRealm)
	if name == "" || f.routes[name] == r.Conn {
		return
	}
	if len(f.routes) >= routesMax {
		clear(f.routes)
	}
	f.routes[name] = r.Conn
}

// route is the name of a client; empty: the message names none.
func route(m *diameter.Message, host, realm diameter.Attr) string {
	h, ok := diameter.Find(m.Body, host)
	r, also := diameter.Find(m.Body, realm)
	if !ok || !also {
		return ""
	}
	return strings.ToLower(string(h.Data) + ";" + string(r.Data))
}

// Answered implements peer.Handler: a gateway has answered a RAR or ASR.
func (f gates) Answered(_ *peer.Conn, token any, m *diameter.Message) {
	r := token.(*peer.Request)
	r.Answer(returned(m, r.Message.HopByHop))
}

// Closed implements peer.Handler: what the gateway has not answered the instance sends
// again, when its time has come. Who was reached over c is reached over another
// connection of the same gateway or relay, if it has one.
func (f gates) Closed(c *peer.Conn, unanswered []any) {
	other := f.twin(c)
	f.mu.Lock()
	for name, conn := range f.routes {
		switch {
		case conn != c:
		case other != nil:
			f.routes[name] = other
		default:
			delete(f.routes, name)
		}
	}
	f.mu.Unlock()
	f.Forgotten(c, unanswered)
}

// Forgotten implements peer.Forgetter.
func (f gates) Forgotten(_ *peer.Conn, tokens []any) {
	for _, token := range tokens {
		token.(*peer.Request).Drop()
	}
}

// twin is another connection of who is connected over c, rather one that answers
// watchdogs; nil: there is none.
func (f *Front) twin(c *peer.Conn) (found *peer.Conn) {
	for _, o := range f.gates.Conns() {
		if o == c || !strings.EqualFold(o.Host, c.Host) || !strings.EqualFold(o.Realm, c.Realm) {
			continue
		}
		if found = o; !o.Suspect() {
			return o
		}
	}
	return found
}

// cores is the side of the instances.
type cores struct{ *Front }

// Admit implements peer.Handler: nobody connects from there.
func (f cores) Admit(peer.Capabilities) (any, diameter.Result) { return nil, diameter.UnknownPeer }

// Receive implements peer.Handler: RARs and ASRs.
func (f cores) Receive(batch []*peer.Request) {
	for _, r := range batch {
		switch conn := f.towards(&r.Message); {
		case f.looped(&r.Message):
			r.Answer(f.refusal(&r.Message, diameter.LoopDetected))
		case conn != nil && conn.Send(r, func(hop, _ uint32) []byte { return forwarded(&r.Message, 0, hop, r.Conn.Host) }):
			f.Counts.Prompts.Add(1) // r is no longer ours
		default:
			f.Counts.Strays.Add(1)
			r.Answer(f.refusal(&r.Message, diameter.UnableToDeliver))
		}
	}
}

// towards is the connection over which the client is reached that a request is meant
// for; nil: there is none here.
func (f cores) towards(m *diameter.Message) *peer.Conn {
	name := route(m, diameter.DestinationHost, diameter.DestinationRealm)
	f.mu.Lock()
	conn := f.routes[name]
	f.mu.Unlock()
	all := f.gates.Conns()
	if !slices.Contains(all, conn) {
		conn = nil
	}
	for _, c := range all {
		if conn == nil && strings.EqualFold(c.Host+";"+c.Realm, name) {
			conn = c
		}
	}
	if conn != nil && conn.Suspect() {
		if other := f.twin(conn); other != nil {
			return other
		}
	}
	return conn
}

// Answered implements peer.Handler: the first answer goes to the gateway. One that says
// that nothing was done is kept while another instance may do it.
func (f cores) Answered(_ *peer.Conn, token any, m *diameter.Message) {
	g := token.(*leg)
	f.mu.Lock()
	defer f.mu.Unlock()
	t := g.trip
	f.release(g)
	if t.done {
		f.Counts.Late.Add(1)
		return
	}
	answer := returned(m, t.request.Message.HopByHop)
	if r := result(m); r != diameter.TooBusy && r != diameter.UnableToDeliver {
		f.finish(t, answer)
		return
	}
	t.busy = answer
	if slices.ContainsFunc(f.links, func(l *link) bool { return l.conn != nil && !l.conn.Leaving() && !t.was(l) }) {
		f.send(t)
	}
	if t.legs == 0 {
		f.refuse(t, answer)
	}
}

// Forgotten implements peer.Forgetter: the gateway has long been told, or has sent
// again.
func (f cores) Forgotten(_ *peer.Conn, tokens []any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, token := range tokens {
		if g, ok := token.(*leg); ok {
			f.release(g)
		}
	}
}

// Closed implements peer.Handler: what an instance has not answered another one gets.
func (f cores) Closed(c *peer.Conn, unanswered []any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.links {
		if l.conn == c {
			l.conn = nil
			f.config.Log.Info("the connection to an instance is closed", "instance", l.Name, "address", l.Addr, "inHand", len(unanswered))
		}
	}
	for _, token := range unanswered {
		if g, ok := token.(*leg); ok {
			f.release(g)
		}
	}
	for _, token := range unanswered {
		if g, ok := token.(*leg); ok && !g.trip.done {
			f.send(g.trip)
		}
	}
}
