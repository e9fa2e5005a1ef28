package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"rtm"
	"rtm/store"
	"rtm/store/redis"
)

// redisMetrics prints what a shared store knows of its servers.
type redisMetrics struct{ instances func() []*rtm.Instance }

var (
	modeDesc      = prometheus.NewDesc("rtm_store_mode", "1 for the durability that answers have: single, safe, safe-1 or fast.", []string{"mode"}, nil)
	failoverDesc  = prometheus.NewDesc("rtm_store_failovers_total", "Times that other masters took over.", nil, nil)
	unprovedDesc  = prometheus.NewDesc("rtm_store_unproved_total", "Batches that too few replicas acknowledged in time: their requests were decided again.", nil, nil)
	neededDesc    = prometheus.NewDesc("rtm_store_replicas_needed", "Replicas that must have a write before its answer leaves.", []string{"master"}, nil)
	settingsDesc  = prometheus.NewDesc("rtm_store_settings_wrong", "1 while the servers' settings do not hold what the mode promises; the log says what to set.", nil, nil)
	memoryPerDesc = prometheus.NewDesc("rtm_store_memory_percent", "How full the fullest master is, in percent of its maxmemory; 0 if it has none.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m *redisMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{modeDesc, failoverDesc, unprovedDesc, neededDesc, settingsDesc, memoryPerDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *redisMetrics) Collect(ch chan<- prometheus.Metric) {
	s, ok := store.Inner(m.instances()[0].Store).(*redis.Store)
	if !ok {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	r, wrong := s.Report(), 0.0
	if r.Refuses(r.Mode) != nil {
		wrong = 1
	}
	gauge(modeDesc, 1, string(r.Mode))
	gauge(settingsDesc, wrong)
	gauge(memoryPerDesc, float64(s.Full()))
	for master, need := range s.Masters() {
		gauge(neededDesc, float64(need), master)
	}
	ch <- prometheus.MustNewConstMetric(failoverDesc, prometheus.CounterValue, float64(s.Failovers.Load()))
	ch <- prometheus.MustNewConstMetric(unprovedDesc, prometheus.CounterValue, float64(s.Unproved.Load()))
}
