package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rtm/charging"
	"rtm/diameter"
	"rtm/rtmtest"
	"rtm/store"
	"rtm/store/storetest"
	"rtm/tenant"
)

// vector is one message of testdata/vectors and the reaction that is wanted.
type vector struct {
	ID, Kind, Direction, Hex string
	Expected                 map[string]any
}

func readVectors(t *testing.T) map[string]*vector {
	t.Helper()
	files, err := filepath.Glob("../../testdata/vectors/*.json")
	if err != nil || len(files) < 60 {
		t.Fatalf("%d vectors, %v", len(files), err)
	}
	out := make(map[string]*vector)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		v := &vector{}
		if err := json.Unmarshal(b, v); err != nil {
			t.Fatal(err)
		}
		out[v.ID] = v
	}
	return out
}

func (v *vector) bytes() []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(v.Hex), ""))
	if err != nil {
		panic(err)
	}
	return b
}

// before are the messages that must have come first.
var before = map[string][]string{
	"ccr-u-open5gs": {"ccr-i-open5gs"}, "ccr-u-open5gs-retransmit": {"ccr-i-open5gs", "ccr-u-open5gs"}, "ccr-t-open5gs": {"ccr-i-open5gs", "ccr-u-open5gs"},
	"ccr-u-pgw-tariff-change": {"ccr-i-pgw-empty-rsu-3rg"}, "ccr-u-pgw-via-dra": {"ccr-i-pgw-empty-rsu-3rg", "ccr-u-pgw-tariff-change"},
	"ccr-u-magma-1of4rg": {"ccr-i-magma-4rg"}, "ccr-t-magma-3rg": {"ccr-i-magma-4rg", "ccr-u-magma-1of4rg"},
	"ccr-t-voice-scur": {"ccr-i-voice-scur"}, "ccr-t-sms-ecur": {"ccr-i-sms-ecur"},
}

// wire is a connection of a test's own, without any code of ours for peers.
type wire struct {
	t testing.TB
	net.Conn
	buf []byte
	got [][]byte // the messages that came
}

// dialPeer connects and exchanges capabilities as that host.
func dialPeer(t testing.TB, addr, host, realm string) *wire {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	w, result := introduce(t, c, host, realm)
	if result != 2001 {
		t.Fatalf("CER of %s was not accepted: %d", host, result)
	}
	return w
}

// introduce sends a CER; result is the CEA's, zero if there is none.
func introduce(t testing.TB, c net.Conn, host, realm string) (w *wire, result int) {
	t.Helper()
	t.Cleanup(func() { c.Close() })
	w = &wire{t: t, Conn: c}
	var e diameter.Encoder
	e.Reset(nil)
	e.Request(diameter.CapabilitiesExchange, 0, 0, 1, 1)
	e.String(diameter.OriginHost, host)
	e.String(diameter.OriginRealm, realm)
	e.Address(diameter.HostIPAddress, netip.MustParseAddr("127.0.0.1")) // a strict server wants one
	e.Uint32(diameter.VendorID, 0)
	e.String(diameter.ProductName, "test")
	e.Uint32(diameter.AuthApplicationID, 4)
	w.Write(e.Bytes())
	m, _ := w.next(5 * time.Second)
	return w, number(m.Body, diameter.ResultCode)
}

// next is the next message, if one comes in time; false: none, or the
// connection is closed.
func (w *wire) next(d time.Duration) (*diameter.Message, bool) {
	w.SetReadDeadline(time.Now().Add(d))
	for {
		if m, rest, err := diameter.Frame(w.buf, diameter.MessageMax); err == nil {
			m.Body = slices.Clone(m.Body)
			w.got = append(w.got, slices.Clone(w.buf[:len(w.buf)-len(rest)]))
			w.buf = rest
			return &m, true
		}
		b := make([]byte, 64<<10)
		n, err := w.Read(b)
		if err != nil {
			return &diameter.Message{}, false
		}
		w.buf = append(w.buf, b[:n]...)
	}
}

// closed reports whether the other end closes within d.
func (w *wire) closed(d time.Duration) bool {
	w.SetReadDeadline(time.Now().Add(d))
	for b := make([]byte, 1<<16); ; {
		if _, err := w.Read(b); err != nil {
			e, timeout := err.(net.Error)
			return !timeout || !e.Timeout()
		}
	}
}

func number(b []byte, attr diameter.Attr) int {
	if a, ok := diameter.Find(b, attr); ok {
		if v, err := a.Uint32(); err == nil {
			return int(v)
		}
	}
	return 0
}

func textOf(b []byte, attr diameter.Attr) string {
	a, _ := diameter.Find(b, attr)
	return string(a.Data)
}

// every lists the AVPs of that sort as they are on the wire.
func every(b []byte, attr diameter.Attr) (raw []string) {
	for len(b) > 0 {
		a, rest, err := diameter.Next(b)
		if err != nil {
			return raw
		}
		if b = rest; a.Attr == attr {
			raw = append(raw, string(a.Raw))
		}
	}
	return raw
}

// trial plays one vector on fresh state.
type trial struct {
	t      *testing.T
	v      *vector
	lab    *lab
	wire   *wire
	sent   diameter.Message
	answer *diameter.Message
	got    bool
	held   map[uint32]int64 // reserved before
	money  int64
	seq    uint64
}

// vectorNames makes a server the one that the vectors speak to.
func vectorNames(c *config) {
	c.OriginHost, c.OriginRealm = "ocs1.mvne.example", "mvne.example"
	c.Realms = []string{"ocs.example"}
	c.Identities = []string{"CGR-DA", "ocs.localdomain"}
}

func TestVectorsOverSockets(t *testing.T) {
	for name, before := range map[string]func(t *testing.T, l *lab){"straight": nil, "through a front": frontBefore} {
		var mu sync.Mutex
		var answers [][]byte // to all of them
		t.Run(name, func(t *testing.T) {
			vectorsOverSockets(t, before, func(frames [][]byte) {
				mu.Lock()
				defer mu.Unlock()
				answers = append(answers, frames...)
			})
		})
		if len(answers) < 150 {
			t.Errorf("%s: %d answers", name, len(answers))
		}
		rtmtest.Dissect(t, avpTable, answers)
	}
}

// frontBefore has gateways connect to a front of the lab.
func frontBefore(t *testing.T, l *lab) {
	t.Helper()
	l.apply(t, "testdata/vectors-front.yaml")
	c := l.config
	c.PeerHost, c.Name = "front."+c.OriginHost, "front"
	s := &frontServer{store: l.store, fixed: slices.Clone(l.targets), log: quiet(t)}
	if err := s.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.open(&c); err != nil {
		t.Fatal(err)
	}
	if err := s.read(t.Context()); err != nil { // whom it is to meet
		t.Fatal(err)
	}
	listener := rtmtest.Listen(t)
	l.targets[0] = listener.Addr().String()
	go s.front.Serve(listener)
	t.Cleanup(func() { s.front.Leave(0) })
	rtmtest.Until(t, "the front is connected", func() bool {
		for _, inHand := range s.front.Links() {
			if inHand >= 0 {
				return true
			}
		}
		return false
	})
}

// avpTable is the table of AVPs.
const avpTable = "../../diameter/testdata/avps.csv"

func vectorsOverSockets(t *testing.T, before func(t *testing.T, l *lab), answered func(frames [][]byte)) {
	all := readVectors(t)
	for id, v := range all {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			l := startLab(t, storetest.NewMemory(), 1, vectorNames)
			l.cluster.instances[0].door.learn = false
			l.apply(t, "../../testdata/vectors.yaml")
			if before != nil {
				before(t, l)
			}
			good := dialPeer(t, l.targets[0], "tas1.ims.example", "ims.example")
			r := &trial{t: t, v: v, lab: l, held: make(map[uint32]int64)}
			r.play(all)
			for key, want := range v.Expected {
				check, known := expectations[key]
				if !known {
					t.Errorf("nobody knows what %q expects", key)
					continue
				}
				check(r, want)
			}
			good.Write(all["dwr"].bytes()) // a good peer is undisturbed
			if m, ok := good.next(2 * time.Second); !ok || m.Command != diameter.DeviceWatchdog || number(m.Body, diameter.ResultCode) != 2001 {
				t.Errorf("the good peer's DWR was answered %v", ok)
			}
			if answered(good.got); r.wire != nil && v.Kind == "well-formed" { // else the AVP that is wrong comes back
				answered(r.wire.got)
			}
		})
	}
}

// play sends what comes before, then the vector, and takes the answer.
func (r *trial) play(all map[string]*vector) {
	r.t.Helper()
	msg := r.v.bytes()
	m, _, err := diameter.Frame(msg, 1<<20)
	if err == nil {
		r.sent = m
	}
	if r.v.Direction != "client-to-server" || strings.HasPrefix(r.v.ID, "cer-") {
		if strings.HasPrefix(r.v.ID, "cer-") {
			r.cer(msg)
		}
		return
	}
	host, realm := textOf(m.Body, diameter.OriginHost), textOf(m.Body, diameter.OriginRealm)
	switch {
	case r.v.ID == "ccr-u-pgw-via-dra":
		host, realm = "dra1.hub.example", "hub.example"
	case host == "" || r.v.Kind == "malformed":
		host, realm = "smf.localdomain", "localdomain"
	}
	r.wire = dialPeer(r.t, r.lab.targets[0], host, realm)
	for _, id := range before[r.v.ID] {
		first := all[id].bytes()
		w := r.wire
		if fm, _, _ := diameter.Frame(first, 1<<20); textOf(fm.Body, diameter.OriginHost) != host {
			w = dialPeer(r.t, r.lab.targets[0], textOf(fm.Body, diameter.OriginHost), textOf(fm.Body, diameter.OriginRealm))
		}
		w.Write(first)
		if a, ok := w.next(3 * time.Second); !ok || number(a.Body, diameter.ResultCode) != 2001 {
			r.t.Fatalf("%s before it was answered %d", id, number(a.Body, diameter.ResultCode))
		}
	}
	r.remember()
	r.wire.Write(msg)
	wait := 3 * time.Second
	if a, _ := r.v.Expected["answer"].(string); a == "none" || strings.HasPrefix(a, "none or") {
		wait = 300 * time.Millisecond
	}
	r.answer, r.got = r.wire.next(wait)
}

// cer plays a CER on a fresh connection.
func (r *trial) cer(msg []byte) {
	r.t.Helper()
	c, err := net.Dial("tcp", r.lab.targets[0])
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	r.wire = &wire{t: r.t, Conn: c}
	r.wire.Write(msg)
	r.answer, r.got = r.wire.next(3 * time.Second)
}

// account is the subscriber's account, if the message names one that exists.
func (r *trial) account() (store.Key, *charging.Account) {
	for b := r.sent.Body; len(b) > 0; {
		a, rest, aerr := diameter.Next(b)
		if aerr != nil {
			break
		}
		b = rest
		if a.Attr != diameter.SubscriptionID {
			continue
		}
		key, err := r.lab.instances[0].core.Find(r.t.Context(), textOf(a.Data, diameter.SubscriptionIDData))
		if err != nil {
			continue
		}
		if acc, err := r.lab.instances[0].core.Account(r.t.Context(), key); err == nil {
			return key, acc
		}
	}
	return store.Key{}, nil
}

func (r *trial) remember() {
	key, a := r.account()
	if a == nil {
		return
	}
	for i := range a.Buckets {
		r.held[a.Buckets[i].Number] = a.Buckets[i].Reserved
		if a.Buckets[i].Unit == 4 {
			r.money += a.Buckets[i].Credited - a.Buckets[i].Debited
		}
	}
	for _, e := range r.entries(key) {
		r.seq = e.Number
	}
}

// entries are the account's events that are new.
func (r *trial) entries(key store.Key) (out []charging.Entry) {
	es, err := r.lab.store.Events(r.t.Context(), key.Partition, 0, 1000)
	if err != nil {
		r.t.Fatal(err)
	}
	_, name := tenant.AccountOf(key)
	for _, ev := range es {
		var e charging.Entry
		if e.Decode(ev.Bytes) == nil && e.Account == name && e.Number > r.seq {
			out = append(out, e)
		}
	}
	return out
}

// used sums what the new messages report, by rating group.
func (r *trial) used(of func(u *charging.Units) int64) (total int64, byGroup map[string]int64) {
	byGroup = make(map[string]int64)
	key, a := r.account()
	if a == nil {
		r.t.Fatal("there is no account")
	}
	for _, e := range r.entries(key) {
		if e.Sort == charging.FinalRecord {
			continue
		}
		for i := range e.Lines {
			n := of(&e.Lines[i].Used)
			total += n
			byGroup[fmt.Sprint(e.Lines[i].Group)] += n
		}
	}
	return total, byGroup
}

func octets(u *charging.Units) int64 { return u.Octets }

// services are the Multiple-Services-Credit-Controls of the answer.
func (r *trial) services() (list [][]byte) {
	for b := r.answer.Body; len(b) > 0; {
		a, rest, err := diameter.Next(b)
		if err != nil {
			r.t.Fatal(err)
		}
		if b = rest; a.Attr == diameter.MultipleServicesCreditControl {
			list = append(list, a.Data)
		}
	}
	return list
}

func (r *trial) granted() bool {
	for _, s := range append(r.services(), r.answer.Body) {
		if _, ok := diameter.Find(s, diameter.GrantedServiceUnit); ok {
			return true
		}
	}
	return false
}

// contains reports whether an AVP of that name is anywhere in b.
func contains(b []byte, name string) bool {
	for len(b) > 0 {
		a, rest, err := diameter.Next(b)
		if err != nil {
			return false
		}
		b = rest
		if a.Attr.String() == name || a.Attr.Type() == diameter.Grouped && contains(a.Data, name) {
			return true
		}
	}
	return false
}

// prose is an expectation in words that another key, or another test, checks.
func prose(*trial, any) {}

// expectations are the keys of `expected`: an unknown one fails.
var expectations map[string]func(r *trial, want any)

func init() {
	expectations = map[string]func(r *trial, want any){
		"note": prose, "use": prose, "danger": prose, "server": prose, "peer_answers": prose, "service_context": prose,
		"origin_host_rule": prose, // TestTheCEACarriesThePeerHost
		"repeat":           func(r *trial, _ any) { r.again() },
		"rule": func(r *trial, _ any) {
			if strings.HasSuffix(r.v.ID, "retransmit") && (r.answer.HopByHop != r.sent.HopByHop || !r.granted()) {
				r.t.Errorf("Hop-by-Hop %x, granted %t", r.answer.HopByHop, r.granted())
			}
		},
		"answer": wantAnswer, "result_code": wantResult, "alternative": prose, "e_bit": func(r *trial, want any) {
			if r.got && (r.answer.Flags&diameter.FlagError != 0) != want.(bool) {
				r.t.Errorf("E is %t", !want.(bool))
			}
		},
		"failed_avp": wantFailed, "then": wantThen, "must_contain": wantContents, "echo": wantEcho,
		"mscc_count": func(r *trial, want any) {
			if n := len(r.services()); n != int(want.(float64)) {
				r.t.Errorf("%d MSCC, want %v", n, want)
			}
		},
		"mscc_each": func(r *trial, _ any) {
			for _, s := range r.services() {
				if number(s, diameter.ResultCode) != 2001 || number(s, diameter.RatingGroup) == 0 {
					r.t.Errorf("rating group %d: %d", number(s, diameter.RatingGroup), number(s, diameter.ResultCode))
				}
			}
		},
		"mscc": func(r *trial, _ any) {
			for _, s := range r.services() {
				if _, named := diameter.Find(s, diameter.RatingGroup); named || number(s, diameter.ResultCode) != 2001 || !contains(s, "CC-Total-Octets") {
					r.t.Errorf("MSCC is not as in the request")
				}
			}
		},
		"grant": wantGrant,
		"new_grant": func(r *trial, _ any) {
			if !r.granted() {
				r.t.Error("nothing is granted")
			}
		},
		"no_grant": func(r *trial, _ any) {
			if r.granted() {
				r.t.Error("something is granted")
			}
		},
		"debit": wantUnits(octets), "debit_octets": wantOctets, "reserve": func(r *trial, _ any) { r.reserved(0) },
		"debit_units":         wantUnits(func(u *charging.Units) int64 { return u.Events }),
		"debit_seconds":       wantUnits(func(u *charging.Units) int64 { return u.Seconds }),
		"release_seconds":     func(r *trial, _ any) { r.reserved(0) },
		"release_reservation": func(r *trial, _ any) { r.reserved(0) },
		"no_state":            func(r *trial, _ any) { r.reserved(0); r.sessions(0) },
		"state":               func(r *trial, _ any) { r.sessions(0) },
		"other_rating_groups": func(r *trial, _ any) {
			if _, a := r.account(); a == nil || len(a.Sessions) != 1 || len(a.Sessions[0].Groups) != 4 {
				r.t.Error("the other rating groups are gone")
			} else {
				for i := range a.Sessions[0].Groups {
					if len(a.Sessions[0].Groups[i].Holds) == 0 {
						r.t.Errorf("rating group %d holds nothing", a.Sessions[0].Groups[i].Group)
					}
				}
			}
		},
		"rating_group_200": func(r *trial, _ any) {
			for _, s := range r.services() {
				if number(s, diameter.RatingGroup) == 200 && (number(s, diameter.ResultCode) != 2001 || contains(s, "Granted-Service-Unit")) {
					r.t.Error("rating group 200 is not answered with a result alone")
				}
			}
			_, a := r.account()
			for i := range a.Sessions[0].Groups {
				if g := &a.Sessions[0].Groups[i]; g.Group == 200 && len(g.Holds) > 0 {
					r.t.Error("rating group 200 still holds something")
				}
			}
		},
		"credit_minor_units": func(r *trial, want any) {
			_, a := r.account()
			now := a.Buckets[0].Credited - a.Buckets[0].Debited
			if got := (now - r.money) / 10_000; got != int64(want.(float64)) {
				r.t.Errorf("credited %d, want %v", got, want)
			}
		},
		"currency": func(r *trial, want any) {
			if a, ok := diameter.Find(r.answer.Body, diameter.CostInformation); !ok || number(a.Data, diameter.CurrencyCode) != int(want.(float64)) {
				r.t.Errorf("currency is not %v", want)
			}
		},
	}
}

func wantAnswer(r *trial, want any) {
	text := want.(string)
	command := map[string]diameter.Command{"CCA": diameter.CreditControl, "CEA": diameter.CapabilitiesExchange, "DWA": diameter.DeviceWatchdog, "DPA": diameter.DisconnectPeer}
	switch {
	case text == "none":
		if r.got {
			r.t.Errorf("it was answered %d", number(r.answer.Body, diameter.ResultCode))
		}
	case strings.Contains(text, "none or"), strings.Contains(text, "or close"):
	case text == "answer with E bit":
		if !r.got || r.answer.Request() {
			r.t.Error("no answer")
		}
	default:
		word, rest, _ := strings.Cut(text, " ")
		if !r.got || r.answer.Request() || r.answer.Command != command[word] {
			r.t.Errorf("the answer is %v %s", r.got, r.answer.Command)
		}
		if _, ok := diameter.Find(r.answer.Body, diameter.SessionID); rest == "without Session-Id" && ok {
			r.t.Error("there is a Session-Id")
		}
	}
	if r.got && (r.answer.EndToEnd != r.sent.EndToEnd || r.answer.HopByHop != r.sent.HopByHop) && r.sent.Length != 0 {
		r.t.Error("the identifiers are not those of the request")
	}
}

func wantResult(r *trial, want any) {
	got := number(r.answer.Body, diameter.ResultCode)
	text, _ := r.v.Expected["answer"].(string)
	alternative := fmt.Sprint(r.v.Expected["alternative"])
	switch {
	case !r.got && (strings.Contains(text, "close") || strings.Contains(text, "none") || strings.Contains(alternative, "close")):
	case got == int(want.(float64)), r.got && strings.Contains(alternative, fmt.Sprint(got)):
	default:
		r.t.Errorf("Result-Code is %d, want %v (or %s)", got, want, alternative)
	}
}

func wantFailed(r *trial, want any) {
	f, ok := diameter.Find(r.answer.Body, diameter.FailedAVP)
	if !ok || len(f.Data) < 8 {
		r.t.Errorf("no Failed-AVP; want %v", want)
		return
	}
	a, _, err := diameter.Next(f.Data)
	if err != nil {
		r.t.Errorf("the Failed-AVP cannot be read: %v", err)
		return
	}
	for _, name := range []string{"CC-Request-Number", "CC-Request-Type", "Service-Context-Id", "Session-Id"} {
		if strings.HasPrefix(strings.TrimPrefix(want.(string), "the second "), name) && a.Attr.String() != name {
			r.t.Errorf("Failed-AVP holds %s, want %s", a.Attr, name)
		}
	}
	if strings.Contains(want.(string), "64999") && a.Attr != 64999 {
		r.t.Errorf("Failed-AVP holds %s", a.Attr)
	}
}

func wantThen(r *trial, want any) {
	text := want.(string)
	switch {
	case strings.Contains(text, "wait for the peer to close"):
		if r.wire.closed(300 * time.Millisecond) {
			r.t.Error("it was closed by us")
		}
	case strings.Contains(text, "close"):
		if !r.wire.closed(13 * time.Second) {
			r.t.Error("it was not closed")
		}
	}
}

func wantContents(r *trial, want any) {
	for _, w := range want.([]any) {
		text := w.(string)
		name := text[:len(text)-len(strings.TrimLeft(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-"))]
		if !contains(r.answer.Body, name) {
			r.t.Errorf("no %s", name)
		}
	}
}

func wantEcho(r *trial, want any) {
	first, _, err := diameter.Next(r.answer.Body)
	if err != nil || first.Attr != diameter.SessionID {
		r.t.Error("Session-Id is not first")
	}
	if list, ok := want.([]any); ok {
		for _, w := range list {
			if name, value, ok := strings.Cut(w.(string), "="); ok && name == "CC-Request-Type" && fmt.Sprint(number(r.answer.Body, diameter.CCRequestType)) != value {
				r.t.Errorf("not %s", w)
			}
		}
		return
	}
	if got := every(r.answer.Body, diameter.ProxyInfo); len(got) != 2 || !slices.Equal(got, every(r.sent.Body, diameter.ProxyInfo)) {
		r.t.Errorf("%d Proxy-Info came back", len(got))
	}
	if contains(r.answer.Body, "Route-Record") {
		r.t.Error("Route-Record came back")
	}
}

func wantGrant(r *trial, want any) {
	text := want.(string)
	for _, s := range append(r.services(), r.answer.Body) {
		unit, ok := diameter.Find(s, diameter.GrantedServiceUnit)
		if !ok {
			continue
		}
		switch {
		case strings.Contains(text, "CC-Service-Specific-Units=1"):
			if a, _ := diameter.Find(unit.Data, diameter.CCServiceSpecificUnits); len(a.Data) != 8 || a.Data[7] != 1 {
				r.t.Error("not one unit")
			}
		case strings.Contains(text, "CC-Time"):
			if n := number(unit.Data, diameter.CCTime); n == 0 || n > 300 {
				r.t.Errorf("%d seconds", n)
			}
		case !contains(unit.Data, "CC-Total-Octets"):
			r.t.Error("no CC-Total-Octets")
		}
		return
	}
	r.t.Error("nothing is granted")
}

func wantUnits(of func(u *charging.Units) int64) func(r *trial, want any) {
	return func(r *trial, want any) {
		if got, _ := r.used(of); got != int64(want.(float64)) {
			r.t.Errorf("debited %d, want %v", got, want)
		}
	}
}

func wantOctets(r *trial, want any) {
	groups, ok := want.(map[string]any)
	if !ok {
		wantUnits(octets)(r, want)
		return
	}
	_, got := r.used(octets)
	for g, w := range groups {
		n := 0.0
		switch w := w.(type) {
		case float64:
			n = w
		case map[string]any:
			for _, part := range w {
				n += part.(float64)
			}
		}
		if got[g] != int64(n) {
			r.t.Errorf("rating group %s: debited %d, want %v", g, got[g], n)
		}
	}
}

func (r *trial) reserved(want int64) {
	_, a := r.account()
	if a == nil {
		return
	}
	for i := range a.Buckets {
		if a.Buckets[i].Reserved != want {
			r.t.Errorf("%d reserved, want %d", a.Buckets[i].Reserved, want)
		}
	}
}

func (r *trial) sessions(want int) {
	if _, a := r.account(); a != nil && len(a.Sessions) != want {
		r.t.Errorf("%d sessions, want %d", len(a.Sessions), want)
	}
}

// again sends the message a second time: one effect.
func (r *trial) again() {
	_, a := r.account()
	r.wire.Write(r.v.bytes())
	m, ok := r.wire.next(3 * time.Second)
	_, b := r.account()
	if !ok || number(m.Body, diameter.ResultCode) != 2001 || b.Buckets[0].Credited != a.Buckets[0].Credited {
		r.t.Errorf("a repeat changed the balance, or was answered %d", number(m.Body, diameter.ResultCode))
	}
}

func TestTheCEACarriesThePeerHost(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 2)
	all := readVectors(t)
	for i, target := range l.targets {
		c, err := net.Dial("tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		w := &wire{t: t, Conn: c}
		// A request immediately behind the CER is answered after the CEA.
		w.Write(append(all["cer-open5gs-smf"].bytes(), all["ccr-i-open5gs"].bytes()...))
		m, ok := w.next(2 * time.Second)
		if got, want := textOf(m.Body, diameter.OriginHost), fmt.Sprintf("%c.ocs.rtm.localdomain", 'a'+i); !ok || got != want {
			t.Errorf("CEA of %s says %q, want %q", target, got, want)
		}
		m, ok = w.next(2 * time.Second)
		if got := textOf(m.Body, diameter.OriginHost); !ok || m.Command != diameter.CreditControl || got != "ocs.rtm.localdomain" {
			t.Errorf("CCA of %s says %q", target, got)
		}
	}
}
