package api

import (
	"github.com/prometheus/client_golang/prometheus"

	"rtm"
)

// metrics prints what the instances of this process count.
type metrics struct {
	instances func() []*rtm.Instance
	counters  []counter
}

type counter struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(l *rtm.Load) float64
}

// Metrics is the collector of what all instances of a process did.
func Metrics(instances func() []*rtm.Instance) prometheus.Collector {
	m := &metrics{instances: instances}
	add := func(name, help string, kind prometheus.ValueType, read func(l *rtm.Load) float64) {
		m.counters = append(m.counters, counter{prometheus.NewDesc(name, help, []string{"instance"}, nil), kind, read})
	}
	add("rtm_requests_total", "Requests decided and committed.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.Requests.Load()) })
	add("rtm_busy_seconds_total", "Time spent deciding, all shards together.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.Busy.Load()) / 1e9 })
	add("rtm_commits_total", "Commits sent to the store.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.Commits.Load()) })
	add("rtm_commit_conflicts_total", "Commits refused since someone else was first.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.Conflict.Load()) })
	add("rtm_commits_in_doubt_total", "Commits of which the store did not say what became of them.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.InDoubt.Load()) })
	add("rtm_commits_refused_total", "Commits the store did not take.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.Refused.Load()) })
	add("rtm_store_trips_total", "Round trips of commits to the store.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.Trips.Load()) })
	add("rtm_store_trip_seconds_total", "Time that these round trips took.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.Waited.Load()) / 1e9 })
	add("rtm_shed_total", "Requests turned away or given up.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.Shed.Load()) })
	add("rtm_panic_total", "Requests whose decision panicked and was answered 5012. Above zero is a bug.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.Panics.Load()) })
	add("rtm_unsound_total", "Decisions that broke an invariant and were answered 5012. Above zero is a bug.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.Unsound.Load()) })
	add("rtm_ticks_total", "Wake-ups claimed.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.Ticks.Load()) })
	add("rtm_tick_late_seconds", "How late the last wake-up was.", prometheus.GaugeValue, func(l *rtm.Load) float64 { return float64(l.Late.Load()) / 1e9 })
	return m
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.counters {
		ch <- c.desc
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, n := range m.instances() {
		for _, c := range m.counters {
			ch <- prometheus.MustNewConstMetric(c.desc, c.kind, c.read(&n.Load), n.Name)
		}
	}
}
