package creditcontrol

import (
	"time"

	"rtm/charging"
)

// A Dialect is what one sort of client does or needs differently. This table
// is the only place where a client is known by name.
type Dialect struct {
	Name             string
	SubscriberAlways bool          // every message names the subscriber: no session index is needed
	SilentWhenBusy   bool          // a U or T that cannot be served gets no answer instead of 3004
	IgnoresReAuth    bool          // answers a RAR and then does nothing
	IgnoresTariffs   bool          // does not tell usage before and after a Tariff-Time-Change apart
	Uninformed       bool          // is told nothing of money: it shows nobody, and would drop an answer that it cannot read
	Least            int64         // octets: it is not granted less
	Validity         time.Duration // of a grant at most; zero: as the plan says
	Patience         time.Duration // a request is worked on no longer
	Late             time.Duration // no CCA-I or CCA-U leaves later than that after its request was read
}

var dialects = [...]Dialect{
	{Name: "generic", Patience: 2500 * time.Millisecond, Late: 7 * time.Second},
	// Open5GS drops the session on 3004, aborts on a CCA-U after 7.7 s, and sends no CCR-U after a RAR: a top-up takes
	// effect with the next report, so that one comes soon. A grant that is used up within a millisecond makes it abort,
	// too: 128 KiB take that long at 1 Gbit/s.
	{Name: "open5gs", SubscriberAlways: true, SilentWhenBusy: true, IgnoresReAuth: true, IgnoresTariffs: true, Uninformed: true,
		Least: 128 << 10, Validity: 5 * time.Minute, Patience: 5 * time.Second, Late: 7 * time.Second},
	// Magma's session proxy gives a request up after 3 s and does not resend.
	{Name: "magma", SubscriberAlways: true, IgnoresTariffs: true, Patience: 2 * time.Second, Late: 7 * time.Second},
}

// Speak has e and r be those of a client with that dialect.
func Speak(d *Dialect, e *Envelope, r *charging.Request) {
	e.Dialect, r.Indexed, r.Client = d, !d.SubscriberAlways, d.client()
}

// client is what decisions depend on.
func (d *Dialect) client() charging.Client {
	return charging.Client{Least: d.Least, Validity: d.Validity, Deaf: d.IgnoresReAuth, Splits: !d.IgnoresTariffs, Informed: !d.Uninformed}
}

// Generic is the dialect of a client that nothing is known about.
var Generic = &dialects[0]

// DialectOf finds a dialect by name; the empty name is generic. nil: there is
// no such dialect.
func DialectOf(name string) *Dialect {
	if name == "" {
		return Generic
	}
	for i := range dialects {
		if dialects[i].Name == name {
			return &dialects[i]
		}
	}
	return nil
}

// Dialects lists the names.
func Dialects() (names []string) {
	for i := range dialects {
		names = append(names, dialects[i].Name)
	}
	return names
}
