package api

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"rtm"
	"rtm/charging"
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
	add("rtm_panic_total", "Requests whose decision panicked and was answered 5012. Above zero is a bug.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.Panics.Load()) })
	add("rtm_unsound_total", "Decisions that broke an invariant and were answered 5012. Above zero is a bug.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.Unsound.Load()) })
	add("rtm_ticks_idle_total", "Decisions on wake-ups that found nothing to do: a message had moved the deadline, or another instance was first. Wake-ups: rtm_tick_late_seconds_count.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.Idle.Load()) })
	add("rtm_above_level_total", "Accounts met that only a later version of rtm may decide on. Above zero: upgrade this instance.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.Above.Load()) })
	add("rtm_notices_dropped_total", "RARs and ASRs that found no room on their way to another instance. The timers of their sessions send them again.", prometheus.CounterValue, func(l *rtm.Load) float64 { return float64(l.Lost.Load()) })
	return m
}

var (
	answersDesc  = prometheus.NewDesc("rtm_answers_total", "Requests of all kinds that were answered, by Result-Code.", []string{"instance", "result"}, nil)
	grantsDesc   = prometheus.NewDesc("rtm_grants_total", "Rating groups in answers, by Result-Code: 2001, 4010 (there are too many in the session), 4012, 5031.", []string{"instance", "result"}, nil)
	mismatchDesc = prometheus.NewDesc("rtm_audit_mismatch_total", "Accounts that an audit found not to hold, by invariant. Above zero: look into the log; a lost timer is set again, money is not repaired.", []string{"instance", "invariant"}, nil)
	auditedDesc  = prometheus.NewDesc("rtm_audit_accounts_total", "Accounts audited.", []string{"instance"}, nil)
	walksDesc    = prometheus.NewDesc("rtm_audit_walks_total", "Audits of all accounts that came to their end.", []string{"instance"}, nil)
	walkedDesc   = prometheus.NewDesc("rtm_audit_walk_timestamp_seconds", "When the last of them did; 0: none has, here.", []string{"instance"}, nil)
	latenessDesc = prometheus.NewDesc("rtm_tick_late_seconds", "How late wake-ups were claimed: their number is that of all. Above 5 s but after an outage: the store or the instances are overloaded.", []string{"instance"}, nil)
	levelDesc    = prometheus.NewDesc("rtm_store_level", "The store's level, which versions of rtm it can be used by.", []string{"instance"}, nil)
)

// What is known of who may come into the loop. A tenant's label is empty for those
// of whom it is not known.
var (
	shedDesc     = prometheus.NewDesc("rtm_shed_total", "Requests turned away, in front of the loop or at their deadline.", []string{"instance", "reason"}, nil)
	limitDesc    = prometheus.NewDesc("rtm_admission_limit", "Requests that may be in the loop at once.", []string{"instance"}, nil)
	admittedDesc = prometheus.NewDesc("rtm_tenant_requests_total", "CCRs that came into the loop.", []string{"instance", "tenant"}, nil)
	turnedDesc   = prometheus.NewDesc("rtm_tenant_shed_total", "CCRs turned away in front of the loop.", []string{"instance", "tenant"}, nil)
	inDesc       = prometheus.NewDesc("rtm_tenant_in_loop", "CCRs that are in the loop.", []string{"instance", "tenant"}, nil)
	waitingDesc  = prometheus.NewDesc("rtm_tenant_waiting", "CCRs that wait for the loop.", []string{"instance", "tenant"}, nil)
)

// tenantLoad is what an instance did for one tenant.
type tenantLoad struct {
	admitted, shed int64
	in, waiting    int
}

// admission prints who came into the loop of n, and who did not.
func admission(ch chan<- prometheus.Metric, n *rtm.Instance) {
	var shed [rtm.Sheds]int64
	limit, tenants := 0, make(map[string]tenantLoad)
	n.Admission(func(a *rtm.Admission) {
		shed, limit = a.Shed, a.Limit()
		a.Classes(func(c *rtm.Class) {
			t := tenants[c.Tenant]
			in, waiting := c.Load()
			tenants[c.Tenant] = tenantLoad{t.admitted + c.Admitted, t.shed + c.Shed, t.in + in, t.waiting + waiting}
		})
	})
	for why := rtm.ShedNot + 1; why < rtm.Sheds; why++ {
		ch <- prometheus.MustNewConstMetric(shedDesc, prometheus.CounterValue, float64(shed[why]), n.Name, why.String())
	}
	ch <- prometheus.MustNewConstMetric(limitDesc, prometheus.GaugeValue, float64(limit), n.Name)
	for name, t := range tenants {
		ch <- prometheus.MustNewConstMetric(admittedDesc, prometheus.CounterValue, float64(t.admitted), n.Name, name)
		ch <- prometheus.MustNewConstMetric(turnedDesc, prometheus.CounterValue, float64(t.shed), n.Name, name)
		ch <- prometheus.MustNewConstMetric(inDesc, prometheus.GaugeValue, float64(t.in), n.Name, name)
		ch <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(t.waiting), n.Name, name)
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{shedDesc, limitDesc, admittedDesc, turnedDesc, inDesc, waitingDesc} {
		ch <- d
	}
	for _, c := range m.counters {
		ch <- c.desc
	}
	for _, d := range []*prometheus.Desc{answersDesc, grantsDesc, mismatchDesc, auditedDesc, walksDesc, walkedDesc, levelDesc, latenessDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, n := range m.instances() {
		admission(ch, n)
		for _, c := range m.counters {
			ch <- prometheus.MustNewConstMetric(c.desc, c.kind, c.read(&n.Load), n.Name)
		}
		answered(ch, n)
		audited(ch, n)
		lateness(ch, n)
	}
}

// lateness prints how late wake-ups were.
func lateness(ch chan<- prometheus.Metric, n *rtm.Instance) {
	buckets, all := make(map[float64]uint64), uint64(0)
	for i := range n.Load.Lates {
		all += uint64(n.Load.Lates[i].Load())
		if i < len(rtm.TickLateness) {
			buckets[rtm.TickLateness[i].Seconds()] = all
		}
	}
	ch <- prometheus.MustNewConstHistogram(latenessDesc, all, float64(n.Load.Late.Load())/1e9, buckets, n.Name)
}

// answered prints how requests were answered.
func answered(ch chan<- prometheus.Metric, n *rtm.Instance) {
	results, grants := n.Load.Tallies()
	for r, many := range results {
		ch <- prometheus.MustNewConstMetric(answersDesc, prometheus.CounterValue, float64(many), n.Name, fmt.Sprint(uint32(r)))
	}
	for r, many := range grants {
		ch <- prometheus.MustNewConstMetric(grantsDesc, prometheus.CounterValue, float64(many), n.Name, fmt.Sprint(uint32(r)))
	}
}

// audited prints what the audits of n found, also of what they never found.
func audited(ch chan<- prometheus.Metric, n *rtm.Instance) {
	a := n.Audited()
	for _, name := range charging.FaultNames() {
		ch <- prometheus.MustNewConstMetric(mismatchDesc, prometheus.CounterValue, float64(a.Mismatches[name]), n.Name, name)
	}
	ch <- prometheus.MustNewConstMetric(auditedDesc, prometheus.CounterValue, float64(a.Accounts), n.Name)
	ch <- prometheus.MustNewConstMetric(walksDesc, prometheus.CounterValue, float64(a.Walks), n.Name)
	walked := 0.0
	if !a.Walked.IsZero() {
		walked = float64(a.Walked.UnixMilli()) / 1000
	}
	ch <- prometheus.MustNewConstMetric(walkedDesc, prometheus.GaugeValue, walked, n.Name)
	ch <- prometheus.MustNewConstMetric(levelDesc, prometheus.GaugeValue, float64(n.Level()), n.Name)
}
