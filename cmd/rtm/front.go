package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"rtm"
	"rtm/creditcontrol"
	"rtm/diameter/peer"
	"rtm/front"
	"rtm/store"
	"rtm/tenant"
)

// How often a front looks at the store, and how long it may be out of reach before the
// front says so.
const (
	frontLooks = 500 * time.Millisecond
	frontStale = 10 * time.Second
)

func frontCommand() *cobra.Command {
	c, file := defaults(), ""
	var fixed []string
	cmd := &cobra.Command{
		Use: "front", Short: "run a relay in front of the instances", Args: cobra.NoArgs,
		Long: `Run a relay for gateways that hold one connection, or a primary and a secondary one. Towards them it is the
cluster: its name is --origin-host. It gives each message to any instance, sends it to another one, with the T
flag, when an instance dies or is silent for 1.5 s, and passes RARs and ASRs back. Instances come and go unseen.
It keeps nothing; run as many as you like.

It lets in the peers that the catalogue names, by their source or certificate, as an instance does. To the
instances it is a relay called --peer-host, by default "front." and the origin host, and they must know it:

  rtm apply -f - <<< '{kind: Peer, host: front.ocs.example, realm: example, sources: [192.0.2.7/32],
                       relays: ["*"], tenants: [YOUR-TENANTS]}'

A gateway's own document holds behind it if it says "via: [front.ocs.example]": see docs/front.md.
Which instances there are the store says; --instances names them where that cannot be.

SIGTERM leaves in good order: DPR to all gateways, what is in hand is answered, exit 0.`,
		Example: `  rtm front --store redis+sentinel://127.0.0.1:26391/rtm --origin-host ocs.example --diameter 192.0.2.7:3868
  rtm front --store redis://127.0.0.1:6379 --diameter 127.0.0.1:3868 --instances 127.0.0.1:3869,127.0.0.1:3870`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.load(cmd, file); err != nil {
				return exitError{err, exitUsage}
			}
			if strings.HasPrefix(c.Store, "embedded:") {
				return exitError{errors.New("a front reads the catalogue and the list of instances from their store, and an embedded one is its process' own: --store redis://…"), exitUsage}
			}
			if c.PeerHost == c.OriginHost {
				c.PeerHost = "front." + c.OriginHost
				if given, _, _ := strings.Cut(c.OriginHost, "."); c.Name == given {
					c.Name = "front"
				}
			}
			return runFront(cmd.Context(), &c, fixed)
		},
	}
	c.bind(cmd, &file)
	f := cmd.Flags()
	for _, name := range []string{"records", "audit", "settle", "realms", "identities"} {
		f.Lookup(name).Hidden = true
	}
	f.Lookup("peer-host").Usage = `its name towards the instances (default: "front." and the origin host)`
	f.Lookup("name").Usage = "its name in metrics (default: from the peer host)"
	f.Lookup("http").Usage = "address for /metrics, /healthz and /readyz: loopback only"
	f.StringSliceVar(&fixed, "instances", nil, "addresses of the instances, in place of those that the store lists")
	return cmd
}

// frontServer is a front and what it knows of its cluster.
type frontServer struct {
	door      *door
	front     *front.Front
	store     store.Store
	fixed     []string
	log       *slog.Logger
	catalogue atomic.Pointer[tenant.Catalogue]
	looked    atomic.Int64 // when the store was last read, unix nanoseconds
	machine   string
}

func runFront(ctx context.Context, c *config, fixed []string) error {
	defer runtime.KeepAlive(prompt())
	log := logger(os.Stderr)
	st, err := openStore(ctx, c, log)
	if err != nil {
		return err
	}
	defer st.Close()
	s := &frontServer{store: st, fixed: fixed, log: log}
	s.machine, _ = os.Hostname()
	if err := s.read(ctx); err != nil {
		return err
	}
	listeners, certificates, err := listenAll(c, log)
	if err != nil {
		return err
	}
	if err := s.open(c); err != nil {
		closeAll(listeners)
		return err
	}
	stop, err := s.serveHTTP(c)
	if err != nil {
		closeAll(listeners)
		return err
	}
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	looking, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	running.Go(func() { s.look(looking) })
	running.Go(func() { s.door.tell(looking) })
	var addrs []string
	for n, l := range listeners {
		addrs = append(addrs, l.Addr().String())
		if n < len(c.Diameter) {
			go s.front.Serve(l)
		} else {
			go s.front.ServeTLS(l, certificates.server())
		}
	}
	log.Info("relaying", "front", c.Name, "originHost", c.OriginHost, "peerHost", c.PeerHost, "diameter", addrs, "http", c.HTTP)
	<-ctx.Done()
	log.Info("leaving", "front", c.Name)
	s.front.Leave(leaveMax)
	return nil
}

// open makes the door, which knows whom to let in, and the relay behind it.
func (s *frontServer) open(c *config) (err error) {
	d := &door{
		self:  creditcontrol.Self{OriginHost: c.OriginHost, OriginRealm: c.OriginRealm, Realms: c.Realms},
		known: s.catalogue.Load, relay: c.PeerHost, api: "http://" + c.HTTP, log: s.log, strange: strangers{lines: make(chan remark, tellMax)},
	}
	s.door = d
	s.front, err = front.New(front.Config{
		Gates: peer.Config{
			PeerHost: c.OriginHost, Realm: c.OriginRealm, OriginStateID: originStateID,
			Connections: c.Limits.Connections, PerPeer: c.Limits.PerPeer, CERRate: c.Limits.New, Loopback: c.Limits.Loopback,
			InFlight: c.Limits.InFlight, InFlightAll: c.Limits.InFlightAll, Watchdog: c.Watchdog, Log: s.log, Unsecured: d.unsecured,
		},
		Cores: peer.Config{
			PeerHost: c.PeerHost, Realm: c.OriginRealm, OriginStateID: originStateID, Product: "rtm front",
			OwedMax: c.Limits.InFlightAll, InFlight: c.Limits.InFlight, InFlightAll: c.Limits.InFlightAll, WriteMax: 16 << 20,
			Watchdog: 6 * time.Second, Log: s.log,
		},
		Admit: d.Admit, Take: d.pass, Log: s.log,
	})
	if err == nil {
		d.node = s.front.Gates()
	}
	return err
}

// look keeps the catalogue and the list of instances up to date until ctx ends. What
// it knows it goes on with while the store is out of reach.
func (s *frontServer) look(ctx context.Context) {
	t := time.NewTicker(frontLooks)
	defer t.Stop()
	silent := false
	for {
		bound, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := s.read(bound)
		cancel()
		stale := time.Since(time.Unix(0, s.looked.Load())) > frontStale
		if stale != silent && ctx.Err() == nil {
			if silent = stale; stale {
				s.log.Warn("the store cannot be read: the front goes on with the peers and instances that it knows", "error", err)
			} else {
				s.log.Info("the store is read again")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// read takes what the store says of peers and instances.
func (s *frontServer) read(ctx context.Context) error {
	cat, err := tenant.Load(ctx, s.store, s.catalogue.Load())
	if err != nil {
		return err
	}
	s.catalogue.Store(cat)
	var list []front.Instance
	for _, addr := range s.fixed {
		list = append(list, front.Instance{Name: addr, Addr: addr})
	}
	if len(s.fixed) == 0 {
		live, err := rtm.Live(ctx, s.store)
		if err != nil {
			return err
		}
		for _, p := range live {
			if addr := s.reach(&p); addr != "" {
				list = append(list, front.Instance{Name: p.Name, Addr: addr, Leaving: p.Leaving})
			}
		}
	}
	s.looked.Store(time.Now().UnixNano())
	if s.front != nil {
		s.front.Meet(list)
	}
	return nil
}

// reach is where an instance is reached: its first address, and if that is any of its
// machine's, its machine by name. Empty: it listens nowhere.
func (s *frontServer) reach(p *rtm.Presence) string {
	if len(p.Diameter) == 0 {
		return ""
	}
	host, port, err := net.SplitHostPort(p.Diameter[0])
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		if host = p.Machine; p.Machine == s.machine || host == "" {
			host = "127.0.0.1"
		}
		return net.JoinHostPort(host, port)
	}
	return p.Diameter[0]
}

// serveHTTP shows how the front does until the returned function stops it.
func (s *frontServer) serveHTTP(c *config) (stop func(), err error) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &frontMetrics{s, c.Name})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		for _, inHand := range s.front.Links() {
			if inHand >= 0 {
				fmt.Fprintln(w, "ok")
				return
			}
		}
		http.Error(w, "connected to no instance: does the catalogue know this front as a peer that relays, and do the instances run?", http.StatusServiceUnavailable)
	})
	return manage(c, mux)
}

// frontMetrics prints what a front counts.
type frontMetrics struct {
	server *frontServer
	name   string
}

var (
	frontPassedDesc  = prometheus.NewDesc("rtm_front_requests_total", "CCRs, by what became of them: passed to an instance, refused here, dropped since no instance answered.", []string{"front", "outcome"}, nil)
	frontResentDesc  = prometheus.NewDesc("rtm_front_resent_total", "CCRs given to a further instance, since one had died, was silent or did nothing.", []string{"front"}, nil)
	frontLateDesc    = prometheus.NewDesc("rtm_front_late_answers_total", "Answers of instances that came when another one had answered.", []string{"front"}, nil)
	frontPromptsDesc = prometheus.NewDesc("rtm_front_prompts_total", "RARs and ASRs, by what became of them: passed, or stray, since their gateway is not connected here.", []string{"front", "outcome"}, nil)
	frontHandDesc    = prometheus.NewDesc("rtm_front_in_hand", "CCRs that an instance has not answered yet; -1: there is no connection to it.", []string{"front", "instance"}, nil)
	frontGatesDesc   = prometheus.NewDesc("rtm_front_gateways", "Open connections of gateways.", []string{"front"}, nil)
	frontLookedDesc  = prometheus.NewDesc("rtm_front_store_timestamp_seconds", "When the store was last read.", []string{"front"}, nil)
)

// Describe implements prometheus.Collector.
func (m *frontMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{frontPassedDesc, frontResentDesc, frontLateDesc, frontPromptsDesc, frontHandDesc, frontGatesDesc, frontLookedDesc, boundDesc, omittedDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *frontMetrics) Collect(ch chan<- prometheus.Metric) {
	c, gates := &m.server.front.Counts, m.server.front.Gates()
	count := func(desc *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(v), append([]string{m.name}, labels...)...)
	}
	count(frontPassedDesc, c.Passed.Load(), "passed")
	count(frontPassedDesc, c.Refused.Load(), "refused")
	count(frontPassedDesc, c.Dropped.Load(), "dropped")
	count(frontResentDesc, c.Resent.Load())
	count(frontLateDesc, c.Late.Load())
	count(frontPromptsDesc, c.Prompts.Load(), "passed")
	count(frontPromptsDesc, c.Strays.Load(), "stray")
	for name, inHand := range m.server.front.Links() {
		ch <- prometheus.MustNewConstMetric(frontHandDesc, prometheus.GaugeValue, float64(inHand), m.name, name)
	}
	ch <- prometheus.MustNewConstMetric(frontGatesDesc, prometheus.GaugeValue, float64(len(gates.Conns())), m.name)
	ch <- prometheus.MustNewConstMetric(frontLookedDesc, prometheus.GaugeValue, float64(m.server.looked.Load())/1e9, m.name)
	for l := range peer.Limits {
		count(boundDesc, gates.Counts.Limits[l].Load(), l.String())
	}
	for about := range sorts {
		count(omittedDesc, m.server.door.strange.omitted(about), about.String())
	}
}
