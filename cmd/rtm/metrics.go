package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rtm"
	"rtm/charging"
	"rtm/diameter/peer"
)

// doorMetrics prints what the doors of a process count.
type doorMetrics struct{ doors func() []*door }

var (
	requestsDesc = prometheus.NewDesc("rtm_diameter_requests_total", "CCRs answered.", []string{"instance", "type"}, nil)
	secondsDesc  = prometheus.NewDesc("rtm_diameter_instance_seconds_total", "Time between reading a CCR and answering it: how long the instance was busy with sessions.", []string{"instance", "type"}, nil)
	latencyDesc  = prometheus.NewDesc("rtm_request_seconds", "From reading a CCR to answering it.", []string{"instance"}, nil)
	peersDesc    = prometheus.NewDesc("rtm_diameter_connections", "Open Diameter connections.", []string{"instance"}, nil)
	flightDesc   = prometheus.NewDesc("rtm_diameter_in_flight", "CCRs that are worked on.", []string{"instance"}, nil)
	recordsDesc  = prometheus.NewDesc("rtm_records_total", "Lines written to record files.", []string{"instance"}, nil)
	behindDesc   = prometheus.NewDesc("rtm_records_behind_seconds", "Since when the store holds events that are in no record file yet, as far as this instance writes them.", []string{"instance"}, nil)
	waitDesc     = prometheus.NewDesc("rtm_record_failures_total", "Passes that could not write a record file: records wait in the store.", []string{"instance"}, nil)
	closedDesc   = prometheus.NewDesc("rtm_sessions_closed_total", "Sessions whose final record this instance wrote to a file.", []string{"instance"}, nil)
	openDesc     = prometheus.NewDesc("rtm_session_open_seconds_total", "How long those sessions were open; compare rtm_diameter_instance_seconds_total.", []string{"instance"}, nil)
	boundDesc    = prometheus.NewDesc("rtm_diameter_limit_total", "How often a peer, or somebody who would be one, met a bound.", []string{"instance", "limit"}, nil)
	omittedDesc  = prometheus.NewDesc("rtm_log_omitted_total", "Lines about strangers that were not written to the log: there were too many.", []string{"instance", "about"}, nil)
	clockDesc    = prometheus.NewDesc("rtm_diameter_clock_off_total", "CCRs with an Event-Timestamp that is more than a day off: they are served, by the time here.", []string{"instance"}, nil)
	offsetDesc   = prometheus.NewDesc("rtm_store_clock_offset_seconds", "How far the store's clock, by which all deadlines are, is ahead of this machine's.", []string{"instance"}, nil)
	refusedDesc  = prometheus.NewDesc("rtm_diameter_refused_total", "Messages and connections that were not served.", []string{"instance", "reason"}, nil)
)

// Describe implements prometheus.Collector.
func (m *doorMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{requestsDesc, secondsDesc, latencyDesc, peersDesc, flightDesc, refusedDesc, boundDesc, omittedDesc, clockDesc, offsetDesc, recordsDesc, behindDesc, waitDesc, closedDesc, openDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *doorMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, d := range m.doors() {
		d.collect(ch)
	}
}

func (d *door) collect(ch chan<- prometheus.Metric) {
	name := d.instance.Name
	c, n := &d.Counts, &d.node.Counts
	count := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, v, append([]string{name}, labels...)...)
	}
	sum := 0.0
	for k := charging.Initial; k <= charging.Event; k++ {
		seconds := float64(c.Nanos[k].Load()) / 1e9
		count(requestsDesc, float64(c.Requests[k].Load()), k.String())
		count(secondsDesc, seconds, k.String())
		sum += seconds
	}
	if f := d.files; f != nil {
		count(recordsDesc, float64(f.Records.Load()))
		count(waitDesc, float64(f.Failed.Load()))
		behind := max(time.Since(time.UnixMilli(f.Whole.Load())), 0)
		ch <- prometheus.MustNewConstMetric(behindDesc, prometheus.GaugeValue, behind.Seconds(), name)
		count(closedDesc, float64(f.Sessions.Load()))
		count(openDesc, float64(f.Open.Load())/1000)
	}
	buckets, all := make(map[float64]uint64), uint64(0)
	for i := range c.Late {
		all += uint64(c.Late[i].Load())
		if i < len(rtm.Latencies) {
			buckets[rtm.Latencies[i].Seconds()] = all
		}
	}
	ch <- prometheus.MustNewConstHistogram(latencyDesc, all, sum, buckets, name)
	ch <- prometheus.MustNewConstMetric(peersDesc, prometheus.GaugeValue, float64(len(d.node.Conns())), name)
	ch <- prometheus.MustNewConstMetric(flightDesc, prometheus.GaugeValue, float64(n.InFlight.Load()), name)
	for l := peer.Limit(0); l < peer.Limits; l++ {
		count(boundDesc, float64(n.Limits[l].Load()), l.String())
	}
	for about := range sorts {
		count(omittedDesc, float64(d.strange.omitted(about)), about.String())
	}
	count(clockDesc, float64(c.ClockOff.Load()))
	ch <- prometheus.MustNewConstMetric(offsetDesc, prometheus.GaugeValue, d.instance.Offset().Seconds(), name)
	for reason, v := range d.refused() {
		count(refusedDesc, float64(v), reason)
	}
}

// refused counts what was not served, by reason.
func (d *door) refused() map[string]int64 {
	c, n := &d.Counts, &d.node.Counts
	return map[string]int64{
		"malformed": c.Malformed.Load() + n.Malformed.Load(), "busy": c.Busy.Load() + n.Busy.Load(),
		"silent": c.Silent.Load() + n.Silent.Load(), "panic": c.Panics.Load() + n.Panics.Load(), "late": n.Late.Load(), "connection": n.Refused.Load(),
		"spoofed": c.Spoofed.Load(),
	}
}

// figures is what the other instances are told of this door.
func (d *door) figures() (f rtm.Figures) {
	for k := charging.Initial; k <= charging.Event; k++ {
		f.Answered[k-charging.Initial] = d.Counts.Requests[k].Load()
	}
	for i := range d.Counts.Late {
		f.Late = append(f.Late, d.Counts.Late[i].Load())
	}
	for _, v := range d.refused() {
		f.Refused += v
	}
	f.InFlight, f.Connections = d.node.Counts.InFlight.Load(), len(d.node.Conns())
	return f
}
