package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"rtm"
	"rtm/api"
	"rtm/backup"
	"rtm/cdr"
	"rtm/creditcontrol"
	"rtm/diameter/peer"
	"rtm/store"
	"rtm/store/embed"
	"rtm/store/redis"
)

// version is set when a release is built.
var version = "0.1-dev"

// originStateID is one constant for the cluster: no session is lost when an
// instance restarts, so it must not rise.
const originStateID = 1

// leaveMax bounds how long an instance waits for its peers when it leaves.
const leaveMax = 5 * time.Second

// disk is where the embedded store's files are; nil: the machine's.
var disk vfs.FS

// openStore opens what --store names.
func openStore(ctx context.Context, c *config, log *slog.Logger) (store.Store, error) {
	if dir, ok := strings.CutPrefix(c.Store, "embedded:"); ok {
		st, err := embed.Open(embed.Config{Dir: dir, FS: disk, Log: log})
		if err != nil {
			return nil, err
		}
		return backup.NewMovable(st), nil
	}
	return redis.Open(ctx, redis.Config{URL: c.Store, Mode: redis.Mode(c.Durability), Log: log})
}

// receive opens the store that where names, to be filled (backup.Fill).
func receive(ctx context.Context, where, id, old string, log *slog.Logger) (store.Portable, error) {
	if err := checkStore(where, ""); err != nil {
		return nil, err
	}
	if dir, ok := strings.CutPrefix(where, "embedded:"); ok {
		return embed.Receive(embed.Config{Dir: dir, Log: log}, id, old)
	}
	return redis.Receive(ctx, redis.Config{URL: where, Log: log}, id, old)
}

// instance is one running instance: loop, Diameter, records.
type instance struct {
	core      *rtm.Instance
	door      *door
	node      *peer.Node
	addrs     []string
	follow    context.CancelFunc
	following context.Context // ends with follow
	followed  sync.WaitGroup
	stopped   bool
}

// startInstance runs an instance of c on an open store.
func startInstance(ctx context.Context, c *config, st store.Store, learn bool, log *slog.Logger) (*instance, error) {
	listeners, certificates, err := listenAll(c, log)
	if err != nil {
		return nil, err
	}
	i := &instance{}
	for _, l := range listeners {
		i.addrs = append(i.addrs, l.Addr().String())
	}
	d := &door{
		self: creditcontrol.Self{
			OriginHost: c.OriginHost, OriginRealm: c.OriginRealm, Realms: c.Realms,
			Hosts: append(slices.Clone(c.Identities), c.PeerHost),
		},
		learn: learn, api: "http://" + c.HTTP, log: log.With("instance", c.Name), strange: strangers{lines: make(chan remark, tellMax)},
	}
	i.door = d
	i.node, err = peer.New(peer.Config{
		OriginHost: c.OriginHost, PeerHost: c.PeerHost, Realm: c.OriginRealm, OriginStateID: originStateID,
		Connections: c.Limits.Connections, PerPeer: c.Limits.PerPeer, CERRate: c.Limits.New, Loopback: c.Limits.Loopback,
		InFlight: c.Limits.InFlight, InFlightAll: c.Limits.InFlightAll, MessageMax: c.Limits.Message, Watchdog: c.Watchdog, Log: log, Unsecured: d.unsecured, Panicked: func() { d.instance.Load.Panics.Add(1) },
	}, d)
	if err != nil {
		return nil, err
	}
	d.node = i.node
	machine, err := os.Hostname()
	if err != nil {
		log.Warn("this machine has no name: an instance that was killed can be started again only after some seconds", "error", err)
	}
	i.core, err = rtm.Start(ctx, rtm.Config{
		Aside: stepAside,
		Name:  c.Name, Store: st, Log: log, Notify: d.notify, Connected: d.connected, Figures: d.figures,
		Presence: rtm.Presence{PeerHost: c.PeerHost, Machine: machine, Diameter: i.addrs, HTTP: c.HTTP},
		Audit:    c.Audit, AuditEvery: c.auditEvery, Settle: c.Settle,
	})
	if err != nil {
		closeAll(listeners)
		return nil, err
	}
	d.instance, d.known = i.core, i.core.Catalogue
	if err := i.record(ctx, c, st, log); err != nil {
		return nil, err
	}
	for n, l := range listeners {
		if n < len(c.Diameter) {
			go i.node.Serve(l)
		} else {
			go i.node.ServeTLS(l, certificates.server())
		}
	}
	i.followed.Go(func() { i.watch(i.following) })
	i.followed.Go(func() { d.tell(i.following) })
	return i, nil
}

// watch sends the peers away when the instance is not to take any more: it goes on
// answering what is in hand, and its management interface says why.
func (i *instance) watch(ctx context.Context) {
	select {
	case <-i.core.Outgrown():
		i.node.Leave(leaveMax)
	case <-ctx.Done():
	}
}

// record follows the events into files, if it is wanted.
func (i *instance) record(ctx context.Context, c *config, st store.Store, log *slog.Logger) error {
	follow, cancel := context.WithCancel(context.WithoutCancel(ctx))
	i.follow, i.following = cancel, follow
	if c.Records == "" {
		return nil
	}
	f, err := cdr.NewFollower(cdr.Config{
		Store: st, Dir: c.Records, Instance: c.Name, Log: log, Share: i.core.Rank, Dirty: i.core.TakeDirty,
	})
	if err != nil {
		return err
	}
	i.door.files = f
	i.followed.Go(func() { f.Run(follow) })
	return nil
}

// listenAll opens the addresses of c, those of TLS last, and reads the certificates
// that these need.
func listenAll(c *config, log *slog.Logger) (ls []net.Listener, certificates *certifier, err error) {
	if ls, err = listen(slices.Concat(c.Diameter, c.TLS.Listen)); err != nil || len(c.TLS.Listen) == 0 {
		return ls, nil, err
	}
	if certificates, err = newCertifier(c.TLS, log); err != nil {
		closeAll(ls)
	}
	return ls, certificates, err
}

// listen opens all addresses, or says which flag would help.
func listen(addrs []string) ([]net.Listener, error) {
	var ls []net.Listener
	for _, a := range addrs {
		l, err := net.Listen("tcp", a)
		if err != nil {
			closeAll(ls)
			return nil, fmt.Errorf("listen for Diameter on %s: %w; choose another address with --diameter", a, err)
		}
		ls = append(ls, l)
	}
	return ls, nil
}

func closeAll(ls []net.Listener) {
	for _, l := range ls {
		l.Close()
	}
}

// leave ends an instance in good order: no new peers, DPR, what is in hand is
// answered, running commits end.
func (i *instance) leave() {
	if i.stopped {
		return
	}
	i.stopped = true
	i.core.Leaving()
	i.node.Leave(leaveMax)
	i.core.Stop()
	i.follow()
	i.followed.Wait()
}

// kill ends an instance as a crash would, as far as that can be done within a
// process: its connections are cut, nothing in hand is answered.
func (i *instance) kill() {
	if i.stopped {
		return
	}
	i.stopped = true
	i.node.Close()
	i.core.Stop()
	i.follow()
	i.followed.Wait()
}

// serveHTTP runs the management interface until the returned function stops it.
func serveHTTP(c *config, instances func() []*rtm.Instance, doors func() []*door) (stop func(), err error) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		api.Metrics(instances), &doorMetrics{doors}, &redisMetrics{instances})
	conf := api.Config{Version: version, Instances: instances, Registry: reg}
	conf.Shown, conf.Trace = redis.Shown, traces(doors)
	conf.Refused = func() []api.Refusal { return refusedBy(doors()) }
	conf.Receive = func(ctx context.Context, where, id, old string) (store.Portable, error) {
		return receive(ctx, where, id, old, logger(os.Stderr))
	}
	if c.Records != "" {
		conf.Files = []string{c.Records}
		conf.Records = func(ctx context.Context, q api.RecordQuery) (page api.RecordPage, err error) {
			page.Lines, page.Next, err = cdr.Newest(ctx, c.Records, cdr.Wanted(q))
			return page, err
		}
	}
	handler, _ := api.New(conf)
	return manage(c, handler)
}

// manage answers HTTP on the management address until the returned function stops it.
func manage(c *config, handler http.Handler) (stop func(), err error) {
	l, err := net.Listen("tcp", c.HTTP)
	if err != nil {
		return nil, fmt.Errorf("listen for HTTP on %s: %w; choose another address with --http", c.HTTP, err)
	}
	c.HTTP = l.Addr().String()
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	go srv.Serve(l)
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		srv.Shutdown(ctx)
	}, nil
}
