// Package cdr turns the events of accounts into record files: JSON lines, each
// event once. It follows the streams of the store's partitions; how far it has
// come is a record beside each stream, moved by compare-and-set, that names the
// file. It does not know prices, and charging never waits for it.
package cdr

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"

	"rtm/charging"
	"rtm/store"
)

// A Record is a line of a record file. Money is in micro-units, sizes in
// octets, times in RFC 3339 with milliseconds.
type Record struct {
	ID        string    `json:"id"` // account, number and version: never twice
	Type      string    `json:"type"`
	Tenant    string    `json:"tenant"`
	Account   string    `json:"account"`
	At        time.Time `json:"at"`
	Instance  string    `json:"instance,omitempty"`
	TookMicro int64     `json:"tookMicros,omitempty"` // microseconds from arrival to decision
	Request   string    `json:"request,omitempty"`
	Number    uint32    `json:"number"` // CC-Request-Number
	Session   string    `json:"session,omitempty"`
	Sub       uint64    `json:"subSession,omitempty"`
	Realm     string    `json:"originRealm,omitempty"`
	Host      string    `json:"originHost,omitempty"`
	Identity  string    `json:"identity,omitempty"`
	Context   uint32    `json:"serviceContext,omitempty"`
	Result    uint32    `json:"result,omitempty"`
	Cause     string    `json:"cause,omitempty"`
	Text      string    `json:"text,omitempty"`
	Sequence  uint32    `json:"sequence,omitempty"` // number of the charging record within its session
	Messages  uint32    `json:"messages,omitempty"`
	Plan      string    `json:"plan,omitempty"`
	Opened    string    `json:"opened,omitempty"`
	Ended     string    `json:"ended,omitempty"`
	Lines     []Line    `json:"lines,omitempty"`
	Movements []Move    `json:"movements,omitempty"`
	Service   *Service  `json:"service,omitempty"`
	Event     []byte    `json:"event,omitempty"` // as it is stored, in base64: a later version wrote it, and reads more in it than this

	Partition store.Partition `json:"partition"`
	Seq       uint64          `json:"seq"`
}

// A Line is one rating group of a Record.
type Line struct {
	RatingGroup *uint32 `json:"ratingGroup,omitempty"`
	ServiceID   *uint32 `json:"serviceIdentifier,omitempty"`
	Result      uint32  `json:"result,omitempty"`
	Unit        string  `json:"unit,omitempty"`
	Plan        string  `json:"plan,omitempty"` // if it is another than the record's
	PlanVersion uint32  `json:"planVersion,omitempty"`
	Rule        uint32  `json:"rule,omitempty"`
	Octets      int64   `json:"octets,omitempty"`
	Input       int64   `json:"inputOctets,omitempty"`
	Output      int64   `json:"outputOctets,omitempty"`
	Seconds     int64   `json:"seconds,omitempty"`
	Events      int64   `json:"events,omitempty"`
	Money       int64   `json:"money,omitempty"`          // that the client reported, in micro-units
	Allowed     int64   `json:"fromAllowances,omitempty"` // units that allowances paid for
	Paid        int64   `json:"paidInAll,omitempty"`      // units that money paid for under the rule, with this message
	Charged     int64   `json:"charged"`
	Overrun     int64   `json:"overrun,omitempty"`
	Wanted      *int64  `json:"wanted,omitempty"` // units asked for; 0: the amount is the server's to choose; missing: it asked for nothing
	Granted     int64   `json:"granted,omitempty"`
	Final       string  `json:"final,omitempty"`
	Reason      *uint8  `json:"reportingReason,omitempty"`
	After       bool    `json:"afterTariffChange,omitempty"` // a second line of its rating group, for what was used after its price changed
}

// A Move is a change of one bucket.
type Move struct {
	Bucket    uint32 `json:"bucket"`
	Unit      string `json:"unit"`
	Credit    int64  `json:"credit,omitempty"`
	Debit     int64  `json:"debit,omitempty"`
	Overrun   int64  `json:"overrun,omitempty"`
	Reserve   int64  `json:"reserve,omitempty"`  // change of what is reserved
	Held      int64  `json:"held,omitempty"`     // newly reserved
	Released  int64  `json:"released,omitempty"` // given back unused
	Available int64  `json:"available"`
}

// Service is what the session's messages said of it.
type Service struct {
	APN        string `json:"apn,omitempty"`
	ChargingID string `json:"chargingId,omitempty"` // hex
	Address    string `json:"address,omitempty"`
	SGSN       string `json:"sgsn,omitempty"`
	GGSN       string `json:"ggsn,omitempty"`
	PLMN       string `json:"plmn,omitempty"`
	Location   string `json:"location,omitempty"` // hex
	Equipment  string `json:"equipment,omitempty"`
	Calling    string `json:"calling,omitempty"`
	Called     string `json:"called,omitempty"`
	Zone       string `json:"timeZone,omitempty"` // hex
	RAT        uint8  `json:"rat,omitempty"`
	Role       *uint8 `json:"role,omitempty"`       // Role-Of-Node of a call, SM-Message-Type of a message
	Media      string `json:"media,omitempty"`      // of a call: audio, video
	Recipients uint32 `json:"recipients,omitempty"` // of a message
	Segments   uint32 `json:"segments,omitempty"`   // … that it was cut into
	Size       uint32 `json:"size,omitempty"`       // … octets
}

// Unreadable is the type of a record of an event that could not be read at all:
// nothing but Event, Partition and Seq is known of it.
const Unreadable = "unreadable"

// Of is the record of an event, as the stream's partition holds it. e is only used
// on the way. Whatever the event is, it becomes a record: one of a later version
// carries the octets of the event.
func Of(e *charging.Entry, event []byte, p store.Partition, seq uint64) Record {
	if err := e.Decode(event); err != nil {
		return Record{ID: fmt.Sprintf("%s/%d/%d", Unreadable, p, seq), Type: Unreadable, Event: event, Partition: p, Seq: seq}
	}
	r := FromEntry(e, p, seq)
	if e.Strange {
		r.Event = event
	}
	return r
}

// FromEntry is the record of an event, as the stream's partition holds it.
func FromEntry(e *charging.Entry, p store.Partition, seq uint64) Record {
	r := Record{
		ID:   fmt.Sprintf("%s/%s/%d/%s", e.Tenant, e.Account, e.Number, hex.EncodeToString(e.Version[:])),
		Type: e.Sort.String(), Tenant: e.Tenant, Account: e.Account, At: e.At, Instance: string(e.Instance),
		TookMicro: e.Took.Microseconds(), Number: e.Request, Session: string(e.Session), Sub: e.Sub,
		Realm: string(e.Realm), Host: string(e.Host), Identity: string(e.Identity), Context: e.Context,
		Result: uint32(e.Result), Text: e.Text, Sequence: e.Record, Messages: e.Messages, Plan: e.Plan,
		Opened: clock(e.Opened), Ended: clock(e.Ended), Partition: p, Seq: seq,
	}
	if e.Kind != 0 {
		r.Request = e.Kind.String()
	}
	if e.Cause != 0 {
		r.Cause = e.Cause.String()
	}
	for i := range e.Lines {
		r.Lines = append(r.Lines, lineOf(&e.Lines[i]))
	}
	for _, m := range e.Movements {
		r.Movements = append(r.Movements, Move{
			Bucket: m.Bucket, Unit: m.Unit.String(), Credit: m.Credit, Debit: m.Debit, Overrun: m.Overrun,
			Reserve: m.Reserve, Held: m.Held, Released: m.Released, Available: m.Available,
		})
	}
	if e.Sort == charging.FinalRecord || e.Sort == charging.Supplementary || e.Sort == charging.OneTime {
		r.Service = serviceOf(&e.Particulars)
	}
	return r
}

func lineOf(l *charging.Line) Line {
	out := Line{
		Result: uint32(l.Result), Plan: string(l.PlanName), PlanVersion: l.Plan, Rule: l.Rule, Octets: l.Used.Octets, Input: l.Used.Input,
		Output: l.Used.Output, Seconds: l.Used.Seconds, Events: l.Used.Events, Money: int64(l.Used.Money), Allowed: l.Allowed, Paid: l.Paid,
		Charged: int64(l.Charged), Overrun: l.Overrun, Granted: l.Granted, After: l.After,
	}
	if l.Has&charging.HasGroup != 0 {
		v := l.Group // the entry's lines are used again
		out.RatingGroup = &v
	}
	if l.Has&charging.HasService != 0 {
		v := l.Service
		out.ServiceID = &v
	}
	if l.Unit != 0 {
		out.Unit = l.Unit.String()
	}
	if l.Wanted != 0 {
		v := l.Wanted - 1
		out.Wanted = &v
	}
	if l.Final != 0 {
		out.Final = l.Final.String()
	}
	if l.Reason != 0 {
		v := l.Reason - 1
		out.Reason = &v
	}
	return out
}

func serviceOf(p *charging.Particulars) *Service {
	s := &Service{
		APN: string(p.APN), ChargingID: hex.EncodeToString(p.ChargingID), Address: address(p.Address), SGSN: address(p.SGSN),
		GGSN: address(p.GGSN), PLMN: string(p.PLMN), Location: hex.EncodeToString(p.Location), Equipment: text(p.Equipment),
		Calling: string(p.Calling), Called: string(p.Called), Zone: hex.EncodeToString(p.Zone), RAT: p.RAT,
		Media: p.Carries(), Recipients: p.Recipients, Segments: p.Segments, Size: p.Size,
	}
	if p.Role != 0 {
		v := p.Role - 1
		s.Role = &v
	}
	return s
}

func address(b []byte) string {
	if ip, ok := netip.AddrFromSlice(b); ok {
		return ip.String()
	}
	return hex.EncodeToString(b)
}

// text is b as it stands if that can be read, else in hex.
func text(b []byte) string {
	for _, c := range b {
		if c < ' ' || c > '~' {
			return hex.EncodeToString(b)
		}
	}
	return string(b)
}

func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format("2006-01-02T15:04:05.000Z07:00")
}
