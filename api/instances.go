package api

import (
	"context"
	"maps"
	"time"

	"rtm"
)

// Instance is an instance as it is shown. What it counts, it counts since it
// began: two answers and their times of seen give a rate.
type Instance struct {
	Name         string    `json:"name"`
	PeerHost     string    `json:"peerHost"`
	Diameter     []string  `json:"diameter"`
	HTTP         string    `json:"http,omitempty"`
	Machine      string    `json:"machine,omitempty"`
	Since        time.Time `json:"since"`
	Seen         time.Time `json:"seen" doc:"when it said all this, by the store's clock"`
	Offset       string    `json:"clockOffset" doc:"how far the store's clock is ahead of its machine's"`
	Catalogue    string    `json:"catalogue,omitempty" doc:"version of the tenants, plans and peers that it knows"`
	Peers        []string  `json:"peers" doc:"Origin-Hosts that are connected to it, at most 100"`
	MorePeers    bool      `json:"morePeers,omitempty" doc:"there are more than these"`
	Requests     int64     `json:"requests" doc:"decided since it began"`
	Busy         float64   `json:"busy" doc:"share of its life that it spent deciding"`
	BusySeconds  float64   `json:"busySeconds" doc:"time spent deciding, all shards together"`
	Answered     Answered  `json:"answered"`
	Latency      []Latency `json:"latency" doc:"answers by the time from reading the CCR"`
	Refused      int64     `json:"refused" doc:"messages and connections that were not served"`
	InFlight     int64     `json:"inFlight" doc:"CCRs that are worked on"`
	Connections  int       `json:"connections"`
	StoreTrips   int64     `json:"storeTrips" doc:"round trips of commits"`
	StoreSeconds float64   `json:"storeSeconds" doc:"time that these took"`
	Leaving      bool      `json:"leaving"`
	Level        uint32    `json:"level" doc:"the highest store level that it knows"`
	Audit        *Audit    `json:"audit,omitempty" doc:"what it found, if it audits: the oldest instance does"`
}

// Audit is what an instance's walks over all accounts have found since it began.
type Audit struct {
	Accounts   int64            `json:"accounts" doc:"looked at in all"`
	Mismatches map[string]int64 `json:"mismatches" doc:"accounts whose record did not hold, by invariant: I1, I2, I3, timer, record"`
	Walked     *time.Time       `json:"walked,omitempty" doc:"when the last walk came to its end"`
	Whole      int64            `json:"whole" doc:"accounts in it"`
}

// Answered counts CCRs that were answered, by CC-Request-Type.
type Answered struct {
	Initial   int64 `json:"initial"`
	Update    int64 `json:"update"`
	Terminate int64 `json:"terminate"`
	Event     int64 `json:"event"`
}

// Latency is a bucket of a histogram: what took longer than the bucket before.
type Latency struct {
	Seconds float64 `json:"seconds,omitempty" doc:"at most; without it: longer"`
	Count   int64   `json:"count"`
}

// ShowInstance is p as it is shown.
func ShowInstance(p *rtm.Presence) Instance {
	i := Instance{
		Name: p.Name, PeerHost: p.PeerHost, Diameter: p.Diameter, HTTP: p.HTTP, Machine: p.Machine, Since: p.Since, Seen: p.Seen,
		Offset: time.Duration(p.Offset).Round(time.Microsecond).String(), Catalogue: p.Catalogue, Peers: rtm.Hosts(p.Peers), MorePeers: p.More > 0,
		Requests: p.Requests, BusySeconds: time.Duration(p.Busy).Seconds(),
		Answered: Answered{p.Answered[0], p.Answered[1], p.Answered[2], p.Answered[3]}, Latency: []Latency{},
		Refused: p.Refused, InFlight: p.InFlight, Connections: p.Connections,
		StoreTrips: p.Trips, StoreSeconds: time.Duration(p.Waited).Seconds(), Leaving: p.Leaving, Level: max(p.Level, 1),
	}
	if a := &p.Audit; a.Accounts > 0 || len(a.Mismatches) > 0 {
		i.Audit = &Audit{Accounts: a.Accounts, Mismatches: map[string]int64{}, Whole: a.Whole}
		maps.Copy(i.Audit.Mismatches, a.Mismatches)
		if !a.Walked.IsZero() {
			i.Audit.Walked = &a.Walked
		}
	}
	if life := p.Seen.Sub(p.Since); life > 0 {
		i.Busy = float64(p.Busy) / float64(life)
	}
	for k, n := range p.Late {
		l := Latency{Count: n}
		if k < len(rtm.Latencies) {
			l.Seconds = rtm.Latencies[k].Seconds()
		}
		i.Latency = append(i.Latency, l)
	}
	return i
}

type instanceList struct {
	Instances []Instance `json:"instances"`
}

func (s *server) instances(context.Context, *struct{}) (*body[instanceList], error) {
	out := instanceList{Instances: []Instance{}}
	all := s.instance().Instances()
	for i := range all {
		out.Instances = append(out.Instances, ShowInstance(&all[i]))
	}
	return &body[instanceList]{out}, nil
}
