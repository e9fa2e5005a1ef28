package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"rtm/diameter"
	"rtm/diameter/peer"
	"rtm/store/redis"
)

// config is what a server can be told: by rtm.yaml, over it by RTM_…
// variables, over those by flags.
type config struct {
	Name        string   `yaml:"name" json:"name"`
	Store       string   `yaml:"store" json:"store"`
	Durability  string   `yaml:"durability" json:"durability"`
	Diameter    []string `yaml:"diameter" json:"diameter"`
	TLS         secured  `yaml:"tls" json:"tls"`
	HTTP        string   `yaml:"http" json:"http"`
	OriginHost  string   `yaml:"originHost" json:"originHost"`
	OriginRealm string   `yaml:"originRealm" json:"originRealm"`
	PeerHost    string   `yaml:"peerHost" json:"peerHost"`
	Realms      []string `yaml:"realms" json:"realms"`
	Identities  []string `yaml:"identities" json:"identities"`
	Records     string   `yaml:"records" json:"records"`

	Audit    int           `yaml:"audit" json:"audit"`
	Settle   time.Duration `yaml:"settle" json:"settle"`
	Watchdog time.Duration `yaml:"watchdog" json:"watchdog"`

	auditEvery time.Duration // from one walk to the next; zero: as rtm has it
	Limits     limits        `yaml:"limits" json:"limits"`
}

// messageLeast is what any CCR with many rating groups has room in.
const messageLeast = 16 << 10

// limits bounds what gateways, and those who would be, can take up (docs/limits.md).
type limits struct {
	Connections int  `yaml:"connections" json:"connections"`
	PerPeer     int  `yaml:"connectionsPerPeer" json:"connectionsPerPeer"`
	New         int  `yaml:"newConnections" json:"newConnections"` // a second, from one address
	InFlight    int  `yaml:"inFlight" json:"inFlight"`             // requests of one connection
	InFlightAll int  `yaml:"inFlightAll" json:"inFlightAll"`
	Message     int  `yaml:"message" json:"message"`   // octets
	Loopback    bool `yaml:"loopback" json:"loopback"` // New holds for this machine's own addresses too
}

func (l *limits) check() error {
	for _, k := range []struct {
		name     string
		is, most int
	}{
		{"connections", l.Connections, 100_000}, {"connectionsPerPeer", l.PerPeer, 1000}, {"newConnections", l.New, 10_000},
		{"inFlight", l.InFlight, 65_536}, {"inFlightAll", l.InFlightAll, 1 << 20},
	} {
		if k.is < 1 || k.is > k.most {
			return fmt.Errorf("limits.%s: must be a number from 1 to %d", k.name, k.most)
		}
	}
	if l.Message < messageLeast || l.Message > peer.MessageMost {
		return fmt.Errorf("limits.message: must be a number of octets from %d to %d", messageLeast, peer.MessageMost)
	}
	return nil
}

// defaults are what a server does that is told nothing.
func defaults() config {
	return config{
		Store: "embedded:rtm-data", Diameter: []string{"127.0.0.1:3868"}, HTTP: "127.0.0.1:8868",
		OriginHost: "ocs.rtm.localdomain", OriginRealm: "rtm.localdomain", Records: "records",
		Audit: 200, Settle: time.Hour, Watchdog: 30 * time.Second,
		Limits: limits{Connections: 10_000, PerPeer: 4, New: 10, InFlight: 1024, InFlightAll: 16_384, Message: diameter.MessageMax},
	}
}

// bind adds the flags that serve and dev share.
func (c *config) bind(cmd *cobra.Command, file *string) {
	f := cmd.Flags()
	f.StringVar(file, "config", "", "YAML file with these settings (see rtm config)")
	f.StringVar(&c.Name, "name", c.Name, "this instance's name in records (default: from the peer host)")
	f.StringVar(&c.Store, "store", c.Store, "embedded:DIR, "+redis.Forms)
	f.StringVar(&c.Durability, "durability", c.Durability, "what an answer waits for on several Redis servers: safe (the default), safe-1 or fast; see rtm serve --help")
	f.StringArrayVar(&c.Diameter, "diameter", c.Diameter, "address to listen on for Diameter; repeat it for more")
	f.StringArrayVar(&c.TLS.Listen, "tls-listen", c.TLS.Listen, "address to listen on for Diameter over TLS, such as 192.0.2.1:5868; repeat it for more")
	f.StringVar(&c.TLS.Certificate, "tls-certificate", c.TLS.Certificate, "PEM file with this server's certificate, and those between it and its authority")
	f.StringVar(&c.TLS.Key, "tls-key", c.TLS.Key, "PEM file with its key")
	f.StringVar(&c.TLS.CA, "tls-ca", c.TLS.CA, "PEM file with the certificates of the authorities that sign gateways'")
	f.StringVar(&c.HTTP, "http", c.HTTP, "address of the management interface: loopback only")
	f.StringVar(&c.OriginHost, "origin-host", c.OriginHost, "Origin-Host of answers: one for all instances")
	f.StringVar(&c.OriginRealm, "origin-realm", c.OriginRealm, "Origin-Realm: one for all instances")
	f.StringVar(&c.PeerHost, "peer-host", c.PeerHost, "this instance's own Origin-Host towards its neighbours (default: the origin host)")
	f.StringSliceVar(&c.Realms, "realms", c.Realms, "further realms that are served")
	f.StringSliceVar(&c.Identities, "identities", c.Identities, "further host names that are served; instances know each other's peer hosts by themselves")
	f.IntVar(&c.Limits.Connections, "limit-connections", c.Limits.Connections, "connections of all gateways")
	f.IntVar(&c.Limits.PerPeer, "limit-connections-per-peer", c.Limits.PerPeer, "connections with one Origin-Host")
	f.IntVar(&c.Limits.New, "limit-new-connections", c.Limits.New, "connections that one address may begin in a second")
	f.IntVar(&c.Limits.InFlight, "limit-in-flight", c.Limits.InFlight, "requests of one connection that are worked on; 3004 beyond")
	f.IntVar(&c.Limits.InFlightAll, "limit-in-flight-all", c.Limits.InFlightAll, "requests of all connections that are worked on; 3004 beyond")
	f.IntVar(&c.Limits.Message, "limit-message", c.Limits.Message, "octets of a message; who sends a longer one is disconnected")
	f.BoolVar(&c.Limits.Loopback, "limit-loopback", c.Limits.Loopback, "have --limit-new-connections hold for this machine's own addresses too")
	f.StringVar(&c.Records, "records", c.Records, "directory for record files; empty: none are written")
	f.IntVar(&c.Audit, "audit", c.Audit, "accounts a second that are audited, by one of the instances; 0: none")
	f.DurationVar(&c.Watchdog, "watchdog", c.Watchdog, "silence of a peer before it is asked whether it is there; after as long again its connection is closed")
	f.DurationVar(&c.Settle, "settle", c.Settle, "how long all instances must know a new store level before it rises by itself; 0: only by rtm upgrade finish")
}

// load puts file and environment below the flags that were given.
func (c *config) load(cmd *cobra.Command, file string) error {
	flags := *c
	base := defaults()
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := base.read(file, b); err != nil {
			return err
		}
	}
	*c = base
	for _, k := range c.keys() {
		if v, ok := os.LookupEnv(k.variable()); ok {
			k.set(v)
		}
		if cmd.Flags().Changed(k.flag) {
			k.take(&flags)
		}
	}
	return c.complete()
}

// read puts what a file says over c.
func (c *config) read(file string, b []byte) (err error) {
	defer func() { // there are texts on which the YAML library fails, such as a tag in place of a list
		if failed := recover(); failed != nil {
			err = fmt.Errorf("%s: this YAML cannot be read: write keys, values and lists without tags, anchors and references (%v)", file, failed)
		}
	}()
	if len(b) > 1<<20 {
		return fmt.Errorf("%s: larger than 1 MiB", file)
	}
	if err := yaml.UnmarshalWithOptions(b, c, yaml.Strict()); err != nil {
		return fmt.Errorf("%s:\n%w", file, err)
	}
	return nil
}

// complete derives the names that were not given, and checks all.
func (c *config) complete() error {
	if c.PeerHost == "" {
		c.PeerHost = c.OriginHost
	}
	if c.Name == "" {
		c.Name, _, _ = strings.Cut(c.PeerHost, ".")
	}
	return c.check()
}

// key is one setting in its three forms.
type key struct {
	flag string
	set  func(v string)
	take func(from *config)
}

// variable is the setting's name in the environment.
func (k *key) variable() string {
	return "RTM_" + strings.ToUpper(strings.ReplaceAll(k.flag, "-", "_"))
}

func (c *config) keys() []key {
	text := func(flag string, at func(*config) *string) key {
		return key{flag, func(v string) { *at(c) = v }, func(from *config) { *at(c) = *at(from) }}
	}
	list := func(flag string, at func(*config) *[]string) key {
		return key{flag, func(v string) { *at(c) = strings.FieldsFunc(v, func(r rune) bool { return r == ',' }) }, func(from *config) { *at(c) = *at(from) }}
	}
	count := func(flag string, at func(*config) *int) key {
		return key{flag, func(v string) { *at(c), _ = strconv.Atoi(v) }, func(from *config) { *at(c) = *at(from) }} // zero is refused
	}
	return []key{
		text("name", func(c *config) *string { return &c.Name }), text("store", func(c *config) *string { return &c.Store }),
		text("durability", func(c *config) *string { return &c.Durability }),
		list("diameter", func(c *config) *[]string { return &c.Diameter }), text("http", func(c *config) *string { return &c.HTTP }),
		list("tls-listen", func(c *config) *[]string { return &c.TLS.Listen }),
		text("tls-certificate", func(c *config) *string { return &c.TLS.Certificate }),
		text("tls-key", func(c *config) *string { return &c.TLS.Key }), text("tls-ca", func(c *config) *string { return &c.TLS.CA }),
		text("origin-host", func(c *config) *string { return &c.OriginHost }),
		text("origin-realm", func(c *config) *string { return &c.OriginRealm }),
		text("peer-host", func(c *config) *string { return &c.PeerHost }),
		list("realms", func(c *config) *[]string { return &c.Realms }),
		list("identities", func(c *config) *[]string { return &c.Identities }),
		text("records", func(c *config) *string { return &c.Records }),
		{"audit", func(v string) { c.Audit = numberOf(v, strconv.Atoi) }, func(from *config) { c.Audit = from.Audit }},
		{"settle", func(v string) { c.Settle = numberOf(v, time.ParseDuration) }, func(from *config) { c.Settle = from.Settle }},
		{"watchdog", func(v string) { c.Watchdog = numberOf(v, time.ParseDuration) }, func(from *config) { c.Watchdog = from.Watchdog }},
		count("limit-connections", func(c *config) *int { return &c.Limits.Connections }),
		count("limit-connections-per-peer", func(c *config) *int { return &c.Limits.PerPeer }),
		count("limit-new-connections", func(c *config) *int { return &c.Limits.New }),
		count("limit-in-flight", func(c *config) *int { return &c.Limits.InFlight }),
		count("limit-in-flight-all", func(c *config) *int { return &c.Limits.InFlightAll }),
		count("limit-message", func(c *config) *int { return &c.Limits.Message }),
		{"limit-loopback", func(v string) { c.Limits.Loopback, _ = strconv.ParseBool(v) }, func(from *config) { c.Limits.Loopback = from.Limits.Loopback }},
	}
}

// numberOf is v as a number; one that is none becomes -1, which check refuses.
func numberOf[N int | time.Duration](v string, parse func(string) (N, error)) N {
	n, err := parse(v)
	if err != nil {
		return -1
	}
	return n
}

// nameShape is what an instance may be called: the name is part of those of its
// record files.
var nameShape = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// identityShape is a DiameterIdentity (RFC 6733, section 4.3.1).
var identityShape = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?$`)

func (c *config) check() error {
	for _, k := range []struct {
		name   string
		values []string
	}{
		{"originHost", []string{c.OriginHost}}, {"originRealm", []string{c.OriginRealm}}, {"peerHost", []string{c.PeerHost}},
		{"realms", c.Realms}, {"identities", c.Identities},
	} {
		for _, v := range k.values {
			if !identityShape.MatchString(v) {
				return fmt.Errorf("%s: %q is no Diameter identity, such as ocs.example.net", k.name, v)
			}
		}
	}
	if !nameShape.MatchString(c.Name) {
		return fmt.Errorf("name: %q is not up to 64 letters, digits, dots, dashes and underscores", c.Name)
	}
	host, _, err := net.SplitHostPort(c.HTTP)
	if err != nil {
		return fmt.Errorf("http: %q is not HOST:PORT", c.HTTP)
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return fmt.Errorf("http: %s is not a loopback address; the management interface has no keys yet, so it serves this machine only", host)
	}
	for _, d := range c.Diameter {
		if _, _, err := net.SplitHostPort(d); err != nil {
			return fmt.Errorf("diameter: %q is not HOST:PORT", d)
		}
	}
	if c.Audit < 0 {
		return errors.New("audit: must be a number of accounts a second, such as 200, or 0")
	}
	if c.Settle < 0 {
		return errors.New("settle: must be a time such as 1h, or 0")
	}
	if c.Watchdog < time.Second || c.Watchdog > time.Hour {
		return errors.New("watchdog: must be a time from 1s to 1h, such as 30s; RFC 3539 advises 6s at least")
	}
	for _, d := range c.TLS.Listen {
		if _, _, err := net.SplitHostPort(d); err != nil {
			return fmt.Errorf("tls.listen: %q is not HOST:PORT", d)
		}
	}
	if err := errors.Join(c.TLS.check(), c.Limits.check()); err != nil {
		return err
	}
	if len(c.Diameter)+len(c.TLS.Listen) == 0 {
		return errors.New("diameter: name at least one address to listen on, there or under tls.listen")
	}
	return checkStore(c.Store, c.Durability)
}

// checkStore finds what names no store, or one that has no such mode.
func checkStore(where, durability string) error {
	switch {
	case where == "embedded:":
		return errors.New("store: embedded: needs a directory, such as embedded:rtm-data")
	case strings.HasPrefix(where, "embedded:"):
		if durability != "" {
			return errors.New("durability: the embedded store has one mode, an answer leaves when it is on disk; leave it out")
		}
	case redis.IsURL(where):
		if _, err := redis.Check(where, redis.Mode(durability)); err != nil {
			return fmt.Errorf("store: %w", err)
		}
	default:
		return fmt.Errorf("store: %q is neither embedded:DIR nor one of %s", where, redis.Forms)
	}
	return nil
}

// durabilities lists the modes of a shared store, each with what it may lose.
func durabilities() string {
	var all []string
	for _, m := range redis.Modes {
		all = append(all, fmt.Sprintf("  %-7s %s", m, m.Loses()))
	}
	return strings.Join(all, "\n")
}

// devAddress is where rtm dev listens: Open5GS' daemons hold 127.0.0.2 to .9.
func devAddress() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	l, err := net.Listen("tcp", "127.0.0.20:0")
	if err != nil {
		return "127.0.0.1"
	}
	l.Close()
	return "127.0.0.20"
}
