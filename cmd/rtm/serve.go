package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strconv"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"rtm"
	"rtm/examples"
	"rtm/store"
	"rtm/store/redis"
	"rtm/tenant"
)

func logger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func serveCommand() *cobra.Command {
	c, file := defaults(), ""
	cmd := &cobra.Command{
		Use: "serve", Short: "run one instance", Args: cobra.NoArgs,
		Long: `Run one instance on a store. Instances on one Redis serve the same sessions; give each its own
--peer-host, --diameter and --http. Peers, tenants and plans come from the store: see rtm apply.

--durability says what an answer waits for, and so what can be lost. One redis:// is always single; Sentinel
and Cluster are safe unless told otherwise:
` + durabilities() + `
rtm doctor redis tells which of them a set-up can keep.

SIGTERM leaves in good order: DPR to all peers, what is in hand is answered, exit 0.`,
		Example: `  rtm serve --store redis://127.0.0.1:6379 --peer-host a.ocs.example --diameter 127.0.0.1:3868
  rtm serve --store redis://127.0.0.1:6379 --peer-host b.ocs.example --diameter 127.0.0.1:3869 --http 127.0.0.1:8869`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.load(cmd, file); err != nil {
				return exitError{err, exitUsage}
			}
			return serve(cmd.Context(), &c)
		},
	}
	c.bind(cmd, &file)
	return cmd
}

const (
	processorsFew = 8        // up to so many are easily filled
	heapSpare     = 64 << 20 // octets
)

// prompt prepares the Go runtime and the system for a process in which a message must
// not wait long while others keep it busy: its threads get short time slices. Where processors are few, and the process has all of
// them, more goroutines run at a time than there are processors: then the system
// gives a message that comes its turn at once, while the runtime looks for what comes
// only when nothing else can run, or 10 ms later. And a heap of some 30 MiB is
// collected several times a second under load, each time at the cost of all: with
// heapSpare octets in it, which are never touched, it is collected a third as often,
// and grows by about as much in between. Whoever has set GOMAXPROCS, GOGC or
// GOMEMLIMIT has decided that. What prompt returns must be kept.
func prompt() []byte {
	shortSlices()
	if n := runtime.GOMAXPROCS(0); n <= processorsFew && n == runtime.NumCPU() && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2 * n)
	}
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	return make([]byte, heapSpare)
}

func serve(ctx context.Context, c *config) error {
	defer runtime.KeepAlive(prompt())
	log := logger(os.Stderr)
	st, err := openStore(ctx, c, log)
	if err != nil {
		return err
	}
	defer st.Close()
	i, err := startInstance(ctx, c, st, false, log)
	if err != nil {
		return err
	}
	defer i.leave()
	stop, err := serveHTTP(c, func() []*rtm.Instance { return []*rtm.Instance{i.core} }, func() []*door { return []*door{i.door} })
	if err != nil {
		return err
	}
	defer stop()
	f, err := st.Facts(ctx)
	if err != nil {
		return err
	}
	log.Info("serving", "instance", c.Name, "peerHost", c.PeerHost, "originHost", c.OriginHost, "diameter", i.addrs,
		"http", c.HTTP, "store", f.Node, "mode", f.Mode, "survivesPowerLoss", f.Power)
	if m := redis.Mode(f.Mode); m.Loses() != "" {
		log.Info("durability", "mode", m, "loses", m.Loses())
	}
	<-ctx.Done()
	log.Info("leaving", "instance", c.Name)
	return nil
}

// cluster is several instances in one process, on one store.
type cluster struct {
	config    config
	store     store.Store
	learn     bool
	log       *slog.Logger
	instances []*instance
}

// add starts one more instance, on the next free port.
func (k *cluster) add(ctx context.Context, addr string) (*instance, error) {
	c := k.config
	c.Name = string(rune('A' + len(k.instances)))
	c.PeerHost = fmt.Sprintf("%c.%s", 'a'+len(k.instances), k.config.OriginHost)
	c.Diameter = []string{addr}
	for n := range 26 {
		c.Identities = append(c.Identities, fmt.Sprintf("%c.%s", 'a'+n, k.config.OriginHost))
	}
	i, err := startInstance(ctx, &c, k.store, k.learn, k.log)
	if err == nil {
		k.instances = append(k.instances, i)
	}
	return i, err
}

// live lists the instances that are running, and at least one.
func (k *cluster) live() (cores []*rtm.Instance) {
	for _, i := range k.instances {
		if !i.stopped {
			cores = append(cores, i.core)
		}
	}
	if len(cores) == 0 {
		cores = append(cores, k.instances[0].core)
	}
	return cores
}

func (k *cluster) doors() (ds []*door) {
	for _, i := range k.instances {
		ds = append(ds, i.door)
	}
	return ds
}

func (k *cluster) leave() {
	for _, i := range k.instances {
		i.leave()
	}
}

func devCommand() *cobra.Command {
	c, file, instances, learn := defaults(), "", 1, true
	c.Store, c.Records = "embedded:rtm-dev/data", "rtm-dev/records"
	cmd := &cobra.Command{
		Use: "dev", Short: "run a lab: everything in one process, peers let in as they come", Args: cobra.NoArgs,
		Long: `Run one or more instances in one process on the embedded store, with the lab's tenant, plan and
subscribers (examples/lab.yaml) if the store is empty, and let any peer in.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			given := cmd.Flags().Changed("diameter")
			records, where := cmd.Flags().Changed("records"), cmd.Flags().Changed("store")
			if err := c.load(cmd, file); err != nil {
				return exitError{err, exitUsage}
			}
			if !records && file == "" {
				c.Records = "rtm-dev/records"
			}
			if !where && file == "" {
				c.Store = "embedded:rtm-dev/data"
			}
			if !given && file == "" {
				c.Diameter = []string{net.JoinHostPort(devAddress(), "3868")}
			}
			if instances < 1 || instances > 16 {
				return exitError{fmt.Errorf("--instances must be 1 to 16, not %d", instances), exitUsage}
			}
			return dev(cmd.Context(), &c, instances, learn, cmd.OutOrStdout())
		},
	}
	c.bind(cmd, &file)
	cmd.Flags().Lookup("diameter").DefValue = "127.0.0.20:3868, or 127.0.0.1:3868; further instances take the next ports"
	cmd.Flags().Lookup("name").Usage, cmd.Flags().Lookup("peer-host").Usage = "not used: instances are A, B …", "not used: a., b. … before the origin host"
	cmd.Flags().IntVar(&instances, "instances", instances, "how many instances, on ports one after the other")
	cmd.Flags().BoolVar(&learn, "learn", learn, "let unknown peers in")
	return cmd
}

func dev(ctx context.Context, c *config, instances int, learn bool, out io.Writer) error {
	defer runtime.KeepAlive(prompt())
	log := logger(os.Stderr)
	st, err := openStore(ctx, c, log)
	if err != nil {
		return err
	}
	defer st.Close()
	k := &cluster{config: *c, store: st, learn: learn, log: log}
	for n := range instances {
		addr, err := nextPort(c.Diameter[0], n)
		if err != nil {
			return err
		}
		if _, err := k.add(ctx, addr); err != nil {
			return err
		}
	}
	defer k.leave()
	if err := seed(ctx, k.instances[0].core); err != nil {
		return err
	}
	stop, err := serveHTTP(c, k.live, k.doors)
	if err != nil {
		return err
	}
	defer stop()
	hint(out, k, c)
	<-ctx.Done()
	return nil
}

// nextPort is addr with its port n higher.
func nextPort(addr string, n int) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	p, err := strconv.Atoi(port)
	if err != nil {
		return "", fmt.Errorf("port %q is not a number", port)
	}
	if p != 0 {
		p += n
	}
	return net.JoinHostPort(host, strconv.Itoa(p)), nil
}

// seed fills an empty catalogue with the lab.
func seed(ctx context.Context, n *rtm.Instance) error {
	if len(n.Catalogue().Tenants()) > 0 {
		return nil
	}
	docs, err := tenant.Parse("lab.yaml", examples.Lab)
	if err != nil {
		return err
	}
	if _, err := tenant.Apply(ctx, n.Store, docs, false); err != nil {
		return err
	}
	var subs []rtm.Subscription
	for i := range docs.Subscribers {
		sub, err := rtm.SubscriptionOf(&docs.Subscribers[i])
		if err != nil {
			return err
		}
		subs = append(subs, sub)
	}
	for _, p := range n.ProvisionAll(ctx, subs) {
		if p.Err != nil {
			return p.Err
		}
	}
	return nil
}

// hint says what to do next.
func hint(out io.Writer, k *cluster, c *config) {
	fmt.Fprintf(out, "rtm %s is running on %s\n\n", version, redis.Shown(c.Store))
	for _, i := range k.instances {
		fmt.Fprintf(out, "  instance %s   %-22s as %s\n", i.core.Name, i.addrs[0], i.core.Presence.PeerHost)
	}
	fmt.Fprintf(out, `
  Diameter realm %s, management http://%s, records in %s
  subscribers: IMSI 001010000000001 to …010 and 999700000000001, which begin with 10 EUR

Next, in another terminal:
  rtm sim --target %s --sessions 100       play gateways against it
  rtm sim --target %s --sessions 1 --imsi 001010000000001 --rating-group 10 --hold 10s    one that you can watch
  rtm subscriber show 001010000000001
  rtm session list
Open5GS: point the SMF's ConnectPeer at %s (docs/open5gs.md).
`, c.OriginRealm, c.HTTP, c.Records, k.instances[0].addrs[0], k.instances[0].addrs[0], k.instances[0].addrs[0])
}

func configCommand() *cobra.Command {
	c, file := defaults(), ""
	cmd := &cobra.Command{
		Use: "config", Short: "print the settings in effect, from file, environment and flags", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.load(cmd, file); err != nil {
				return exitError{err, exitUsage}
			}
			b, err := yaml.Marshal(c)
			if err == nil {
				_, err = cmd.OutOrStdout().Write(b)
			}
			return err
		},
	}
	c.bind(cmd, &file)
	return cmd
}
