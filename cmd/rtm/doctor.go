package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"rtm/api"
	"rtm/cdr"
	"rtm/charging"
	"rtm/store/embed"
	"rtm/store/redis"
	"rtm/tenant"
)

// Times and bounds of an examination.
const (
	doctorAsk   = 2 * time.Second // for one question to a server
	clockWarn   = time.Second     // clocks differ by more than that
	clockFail   = 10 * time.Second
	tripWarn    = 20 * time.Millisecond // an answer waits for two of them
	diskWarn    = 1 << 30               // octets that are free
	diskFail    = 100 << 20
	filesBeside = 512 // open files beside those of gateways' connections
	namesMax    = 20  // names in one line
)

func doctorCommand() *cobra.Command {
	c, file := defaults(), ""
	r := &remote{}
	cmd := &cobra.Command{
		Use: "doctor", Short: "see whether an instance can run here, or how the one that runs is", Args: cobra.NoArgs,
		Long: `Look at this machine with the settings and flags of rtm serve, line by line: settings, addresses, store,
clocks, record files, open files, the instances that live, and the peers of the catalogue. It changes
nothing, and works when no server runs and when one does. Without any settings it looks at the one that runs.

Each line is ok, warn or FAIL, and says what to do. Exit code 1: something FAILs.`,
		Example: "  rtm doctor --config rtm.yaml\n  rtm doctor --store redis://127.0.0.1:6379 --peer-host b.ocs.example -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &doctor{}
			if err := c.load(cmd, file); err != nil {
				d.fail("settings", "mend them: rtm config shows what is in effect", "%v", err)
			} else {
				d.config = c
				d.settings(cmd, file)
				d.examine(cmd.Context())
			}
			return d.print(cmd.OutOrStdout(), r)
		},
	}
	c.bind(cmd, &file)
	cmd.Flags().StringVarP(&r.format, "output", "o", "table", "table, json or yaml")
	cmd.AddCommand(doctorRedisCommand())
	for _, k := range clientKinds {
		cmd.AddCommand(doctorClientCommand(k))
	}
	cmd.AddCommand(&cobra.Command{Use: "free5gc", Short: "why it cannot be connected yet", RunE: func(*cobra.Command, []string) error {
		return exitError{errors.New("free5GC's SMF speaks Nchf (5G converged charging), which rtm does not serve yet. What it serves is Gy and Ro: rtm doctor open5gs, rtm doctor freediameter"), exitFailed}
	}})
	return cmd
}

// A level is how bad a finding is.
type level string

// The levels of a finding.
const (
	levelOK   level = "ok"
	levelWarn level = "warn"
	levelFail level = "FAIL"
)

// A finding is one line of a doctor's report.
type finding struct {
	Level level  `json:"level"`
	What  string `json:"what"`
	Text  string `json:"text"`
	Do    string `json:"do,omitempty"`
}

// doctor is what an examination has found so far.
type doctor struct {
	config   config
	findings []finding
	remote   remote
	told     bool          // settings were given
	adopted  bool          // none were, and an instance runs: it is looked at
	running  *api.Instance // the instance of these settings, if it answers
	sight    *sight        // nil: the store cannot be seen
}

func (d *doctor) note(l level, what, do, format string, args ...any) {
	d.findings = append(d.findings, finding{l, what, fmt.Sprintf(format, args...), do})
}

func (d *doctor) ok(what, format string, args ...any) { d.note(levelOK, what, "", format, args...) }
func (d *doctor) warn(what, do, format string, args ...any) {
	d.note(levelWarn, what, do, format, args...)
}
func (d *doctor) fail(what, do, format string, args ...any) {
	d.note(levelFail, what, do, format, args...)
}

// examine looks at everything, in the order in which it is needed.
func (d *doctor) examine(ctx context.Context) {
	d.http(ctx)
	if dir, ok := strings.CutPrefix(d.config.Store, "embedded:"); ok {
		d.embedded(ctx, dir)
	} else {
		d.redis(ctx)
	}
	d.clock()
	for _, addr := range slices.Concat(d.config.Diameter, d.config.TLS.Listen) {
		d.diameter(addr)
	}
	d.tls()
	if !d.adopted {
		d.records()
	}
	d.files()
	if d.sight != nil {
		d.instances()
		d.levels()
		d.audit()
		d.catalogue()
		d.peers()
	}
}

// settings says where the settings come from, and which variables are none.
func (d *doctor) settings(cmd *cobra.Command, file string) {
	var from, known []string
	if file != "" {
		from = append(from, file)
	}
	for _, k := range d.config.keys() {
		name := k.variable()
		known = append(known, name)
		if _, ok := os.LookupEnv(name); ok {
			from = append(from, name)
		}
	}
	for _, k := range d.config.keys() {
		if cmd.Flags().Changed(k.flag) {
			from = append(from, "--"+k.flag)
		}
	}
	source := "the defaults"
	if d.told = len(from) > 0; d.told {
		source = strings.Join(from, ", ")
	}
	d.ok("settings", "instance %s as %s, from %s", d.config.Name, d.config.PeerHost, source)
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "RTM_") && name != "RTM_API" && !slices.Contains(known, name) {
			d.warn("settings", "there are "+strings.Join(known, ", "), "%s is no setting and changes nothing", name)
		}
	}
}

// http finds out who listens on the management address.
func (d *doctor) http(ctx context.Context) {
	addr := d.config.HTTP
	d.remote.url = "http://" + addr
	err := bindable(addr)
	if err == nil {
		d.ok("http", "%s is free", addr)
		return
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		d.fail("http", "choose another address with --http", "%v", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, doctorAsk)
	defer cancel()
	var info api.Info
	var out struct{ Instances []api.Instance }
	if d.remote.call(ctx, "GET", "/v1/info", nil, nil, &info) != nil || d.remote.call(ctx, "GET", "/v1/instances", nil, nil, &out) != nil || info.Version == "" {
		d.fail("http", "end it, or choose another address with --http", "another program listens on %s, or an rtm that does not answer", addr)
		return
	}
	var names []string
	for i := range out.Instances {
		if n := &out.Instances[i]; n.Name == d.config.Name && strings.EqualFold(n.PeerHost, d.config.PeerHost) {
			d.running = n
		}
		names = append(names, out.Instances[i].Name)
	}
	if d.running == nil && !d.told && len(out.Instances) > 0 {
		d.adopt(&info, &out.Instances[0])
	}
	if d.running == nil {
		d.fail("http", "end it, or choose another address with --http; to look at that one, give its --name, --peer-host and --store",
			"an rtm of other settings listens on %s; its instances are %s", addr, few(names))
		return
	}
	if err := d.remote.call(ctx, "GET", "/readyz", nil, nil, nil); err != nil {
		if no, ok := errors.AsType[refusal](err); ok {
			d.fail("http", "look into its log; it takes no traffic until its store answers", "rtm %s answers on %s, but is not ready: %s", info.Version, addr, no)
			return
		}
	}
	d.ok("http", "rtm %s answers on %s as instance %s, and is ready", info.Version, addr, d.running.Name)
}

// adopt looks at the instance that runs, when nobody said at which to look.
func (d *doctor) adopt(info *api.Info, n *api.Instance) {
	c := &d.config
	c.Name, c.PeerHost, c.Diameter, c.Records = n.Name, n.PeerHost, n.Diameter, ""
	kind, where, _ := strings.Cut(info.Store, " ")
	where, _, _ = strings.Cut(where, " ")
	if c.Store = kind + ":" + where; redis.IsURL(kind + "://") {
		c.Store, c.Durability = kind+"://"+where, info.Mode
	}
	d.running, d.adopted = n, true
	d.ok("settings", "no settings are given: this is about the instance %s that runs here; its record files are left out", n.Name)
}

// bindable reports whether an address can be listened on.
func bindable(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err == nil {
		err = l.Close()
	}
	return err
}

// embedded looks at the directory of the embedded store.
func (d *doctor) embedded(ctx context.Context, dir string) {
	if dir == "" {
		d.fail("store", "write a directory, such as embedded:rtm-data", "embedded: names no directory")
		return
	}
	exists, err := canWrite(dir)
	if err != nil {
		d.fail("store", "choose another directory with --store, or give this one to the user who runs rtm", "%v", err)
		return
	}
	d.disk("store", dir)
	pid, err := embed.Holder(dir)
	s := &sight{}
	ctx, cancel := context.WithTimeout(ctx, doctorAsk)
	defer cancel()
	switch {
	case err != nil:
		d.fail("store", "choose another directory with --store", "%v", err)
		return
	case pid != 0 && d.running == nil:
		d.fail("store", "end it, or give its --name, --peer-host and --http to look at it", "process %d has %s open, and is no rtm of these settings", pid, dir)
		return
	case pid == 0 && d.running != nil:
		d.fail("store", "start it again with these settings", "instance %s runs, but on another store than %s", d.running.Name, dir)
		return
	case pid != 0:
		err = s.ask(ctx, &d.remote)
	case !exists:
		d.ok("store", "%s is not there yet: the first start makes it", dir)
		return
	default:
		err = s.look(ctx, dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		d.ok("store", "%s holds no store yet: the first start makes one", dir)
		return
	}
	if err != nil {
		d.fail("store", "look into the log of rtm serve", "%v", err)
		return
	}
	d.seen(s, "")
}

// look opens the directory of an embedded store for a moment.
func (s *sight) look(ctx context.Context, dir string) error {
	st, err := embed.Look(embed.Config{Dir: dir})
	if err != nil {
		return err
	}
	defer st.Close()
	return s.read(ctx, st)
}

// redis looks at the server of a shared store.
func (d *doctor) redis(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, doctorAsk)
	defer cancel()
	st, r, err := redis.Look(ctx, redis.Config{URL: d.config.Store, Mode: redis.Mode(d.config.Durability)})
	if err != nil {
		d.fail("store", "start it, or choose another with --store; "+redis.Shown(d.config.Store)+" is in the settings", "%v", err)
		return
	}
	defer st.Close()
	s := &sight{}
	if err := s.read(ctx, st); err != nil {
		d.fail("store", "", "%v", err)
		return
	}
	d.seen(s, r.Nodes[0].Version)
	for i := range r.Nodes {
		if n := &r.Nodes[i]; n.Role == "master" {
			d.memory(n, len(r.Nodes) > 1)
		}
	}
	for _, doubt := range r.Doubts() {
		d.warn("store", doubt.Mend, "%s %s", doubt.Who, doubt.Text)
	}
}

// memory notes how full a master is.
func (d *doctor) memory(n *redis.Server, several bool) {
	who := "it"
	if several {
		who = n.Addr
	}
	if n.MemoryMax > 0 {
		d.ok("store", "%s uses %d MiB of the %d MiB that it may", who, n.Memory>>20, n.MemoryMax>>20)
	} else {
		d.ok("store", "%s uses %d MiB, and sets itself no limit", who, n.Memory>>20)
	}
}

// seen notes what a store promises.
func (d *doctor) seen(s *sight, version string) {
	d.sight = s
	lives, dies := []string{}, []string{}
	for _, c := range []struct {
		yes  bool
		what string
	}{{s.facts.Kill, "kill -9 of instances"}, {s.facts.Power, "loss of power"}, {s.facts.Machine, "loss of its machine"}} {
		if c.yes {
			lives = append(lives, c.what)
		} else {
			dies = append(dies, c.what)
		}
	}
	name := s.facts.Node
	if version != "" {
		name += ", version " + version
	}
	text := name + ": what is answered survives " + strings.Join(lives, " and ")
	if len(dies) > 0 {
		text += "; not " + strings.Join(dies, " or ")
	}
	d.ok("store", "%s", text)
	if s.trip > tripWarn {
		d.warn("store", "bring it nearer: each answer waits for it twice", "it answers after %s", s.trip.Round(time.Millisecond))
	}
}

// clock compares the store's clock with this machine's.
func (d *doctor) clock() {
	if d.sight == nil {
		return
	}
	by := d.sight.ahead.Abs().Round(100 * time.Millisecond)
	l := clockLevel(by)
	if l == levelOK {
		d.ok("clock", "the store's and this machine's differ by less than %s", clockWarn)
		return
	}
	way := "ahead of"
	if d.sight.ahead < 0 {
		way = "behind"
	}
	d.note(l, "clock", "set the one that is wrong, by NTP: sessions go by the store's clock", "the store's is %s %s this machine's", by, way)
}

func clockLevel(by time.Duration) level {
	switch {
	case by > clockFail:
		return levelFail
	case by > clockWarn:
		return levelWarn
	}
	return levelOK
}

// diameter finds out who listens on an address for gateways.
func (d *doctor) diameter(addr string) {
	mine := func(n *api.Instance) bool {
		return slices.ContainsFunc(n.Diameter, func(a string) bool { return sameAddress(a, addr) })
	}
	err := bindable(addr)
	switch {
	case err == nil && d.running != nil && !strings.HasSuffix(addr, ":0"):
		d.warn("diameter", "start it again with these settings", "%s is free, for instance %s listens on %s", addr, d.running.Name, few(d.running.Diameter))
	case err == nil:
		d.ok("diameter", "%s is free", addr)
	case !errors.Is(err, syscall.EADDRINUSE):
		d.fail("diameter", "choose another address with --diameter", "%v", err)
	case d.running != nil && mine(d.running):
		d.ok("diameter", "instance %s listens on %s", d.running.Name, addr)
	default:
		who := "another program"
		if d.sight != nil {
			host, _ := os.Hostname()
			for i := range d.sight.instances {
				if n := &d.sight.instances[i]; n.Machine == host && mine(n) {
					who = "instance " + n.Name
				}
			}
		}
		d.fail("diameter", "choose another address with --diameter", "%s listens on %s", who, addr)
	}
}

// sameAddress reports whether two addresses to listen on are in each other's way.
func sameAddress(a, b string) bool {
	x, err := net.ResolveTCPAddr("tcp", a)
	if err != nil {
		return false
	}
	y, err := net.ResolveTCPAddr("tcp", b)
	if err != nil || x.Port != y.Port {
		return false
	}
	return len(x.IP) == 0 || len(y.IP) == 0 || x.IP.IsUnspecified() || y.IP.IsUnspecified() || x.IP.Equal(y.IP)
}

// records looks at the directory of record files.
func (d *doctor) records() {
	dir := d.config.Records
	if dir == "" {
		d.ok("records", "none are written: events wait in the store until an instance has --records")
		return
	}
	exists, err := canWrite(dir)
	if err != nil {
		d.fail("records", "choose another directory with --records, or give this one to the user who runs rtm", "%v", err)
		return
	}
	d.disk("records", dir)
	waiting, err := cdr.Unfinished(dir)
	switch {
	case err != nil:
		d.fail("records", "let the user who runs rtm read it", "%v", err)
		return
	case !exists:
		d.ok("records", "%s is not there yet: the first start makes it", dir)
	default:
		d.ok("records", "directory %s can be written", dir)
	}
	if d.sight == nil {
		return
	}
	for _, name := range sorted(waiting) {
		if !slices.ContainsFunc(d.sight.instances, func(n api.Instance) bool { return n.Name == name }) {
			d.warn("records", "start an instance with --name "+name+" and this directory: it finishes them",
				"instance %s does not run and left unfinished: %s", name, few(waiting[name]))
		}
	}
}

func sorted[V any](m map[string]V) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// canWrite reports whether a directory is there, or can be made, and written.
func canWrite(dir string) (exists bool, err error) {
	const writeAndSearch = 2 | 1
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at):
			continue
		case err != nil:
			return false, err
		case !info.IsDir():
			return false, fmt.Errorf("%s is no directory", at)
		}
		if err := syscall.Access(at, writeAndSearch); err != nil {
			return false, fmt.Errorf("%s cannot be written: %w", at, err)
		}
		return at == filepath.Clean(dir), nil
	}
}

// disk warns when little is free where a directory is or will be.
func (d *doctor) disk(what, dir string) {
	at := filepath.Clean(dir)
	for {
		if _, err := os.Stat(at); err == nil || at == filepath.Dir(at) {
			break
		}
		at = filepath.Dir(at)
	}
	var f syscall.Statfs_t
	if err := syscall.Statfs(at, &f); err != nil {
		d.warn(what, "", "how much is free at %s cannot be told: %v", at, err)
		return
	}
	d.room(what, at, uint64(f.Bavail)*uint64(f.Bsize))
}

func (d *doctor) room(what, at string, free uint64) {
	switch do := "make room there, or choose another directory"; {
	case free < diskFail:
		d.fail(what, do, "only %d MiB are free at %s", free>>20, at)
	case free < diskWarn:
		d.warn(what, do, "only %d MiB are free at %s", free>>20, at)
	}
}

// files compares how many files may be open with how many gateways may connect.
func (d *doctor) files() {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		d.warn("files", "", "how many files may be open cannot be told: %v", err)
		return
	}
	d.limit(uint64(l.Cur))
}

func (d *doctor) limit(files uint64) {
	most := cmp.Or(d.config.Limits.Connections, defaults().Limits.Connections)
	if files < uint64(most+filesBeside) {
		d.warn("files", fmt.Sprintf("ulimit -Hn %d, or LimitNOFILE=%[1]d in its systemd unit", most+filesBeside),
			"%d files may be open: enough for %d connections, not for the %d that an instance takes",
			files, max(int64(files)-filesBeside, 0), most)
		return
	}
	d.ok("files", "enough may be open for the %d connections that an instance takes", most)
}

// instances looks at who lives on the store.
func (d *doctor) instances() {
	all := d.sight.instances
	if len(all) == 0 {
		d.ok("instances", "none runs on this store")
		return
	}
	var names []string
	for i := range all {
		name := all[i].Name + " as " + all[i].PeerHost
		if all[i].Leaving {
			name += " (leaving)"
		}
		names = append(names, name)
	}
	d.ok("instances", "%d on this store: %s", len(all), few(names))
	if d.running != nil && !slices.ContainsFunc(all, func(n api.Instance) bool { return n.Name == d.running.Name }) {
		d.fail("instances", "start it again with these settings", "instance %s runs here, but on another store", d.running.Name)
	}
	d.namesakes()
	d.machines()
	if slices.ContainsFunc(all, func(n api.Instance) bool { return n.Catalogue != all[0].Catalogue }) {
		d.warn("instances", "look again in a few seconds; if it stays so, one of them does not reach the store", "they do not have the same catalogue")
	}
}

// levels tells which instances hold up an upgrade, and which it has left behind.
func (d *doctor) levels() {
	at, most := d.sight.level, uint32(0)
	var old, behind []string
	for i := range d.sight.instances {
		n := &d.sight.instances[i]
		most = max(most, n.Level)
		if n.Level <= at {
			old = append(old, n.Name)
		}
		if n.Level < at {
			behind = append(behind, n.Name)
		}
	}
	switch {
	case len(behind) > 0:
		d.fail("upgrade", "stop them, and start the version of rtm that the others run", "the store is at level %d, which %s do not know", at, few(behind))
	case d.running == nil && at > charging.Level:
		d.fail("upgrade", "install a later one", "the store is at level %d, and this version of rtm knows level %d: it would not start", at, charging.Level)
	case most > at && len(old) > 0:
		d.ok("upgrade", "the store is at level %d; it can rise to %d when %s are upgraded", at, most, few(old))
	case most > at:
		d.ok("upgrade", "the store is at level %d, and all instances know %d: rtm upgrade status", at, most)
	}
}

// audit tells what the walks over all accounts have found.
func (d *doctor) audit() {
	if len(d.sight.instances) == 0 {
		return
	}
	var walked *time.Time
	whole, wrong := int64(0), make(map[string]int64)
	for i := range d.sight.instances {
		a := d.sight.instances[i].Audit
		if a == nil {
			continue
		}
		for name, n := range a.Mismatches {
			wrong[name] += n
		}
		if a.Walked != nil && (walked == nil || a.Walked.After(*walked)) {
			walked, whole = a.Walked, a.Whole
		}
	}
	var found []string
	for _, name := range sorted(wrong) {
		if wrong[name] > 0 {
			found = append(found, fmt.Sprintf("%s %d times", name, wrong[name]))
		}
	}
	switch {
	case len(found) > 0:
		d.fail("audit", "the log and the records of type audited (rtm cdr list --type audited) name the accounts; nothing was repaired but timers",
			"accounts did not hold since these instances began: %s", few(found))
	case walked == nil:
		d.ok("audit", "no walk over all accounts has come to its end yet")
	default:
		d.ok("audit", "%s held, when the last walk ended at %s", plural(int(whole), "account"), walked.Format(time.RFC3339))
	}
}

// namesakes finds instances that gateways or records would take for one.
func (d *doctor) namesakes() {
	all := d.sight.instances
	for i := range all {
		a := &all[i]
		for j := range i {
			if b := &all[j]; strings.EqualFold(a.PeerHost, b.PeerHost) {
				d.fail("instances", "give each its own --peer-host", "%s and %s both are %s: gateways connect to one of them only", b.Name, a.Name, a.PeerHost)
			}
		}
		other := d.running == nil && (a.Name == d.config.Name || strings.EqualFold(a.PeerHost, d.config.PeerHost))
		switch {
		case other && d.succeeds(a):
			d.ok("instances", "%s ended here a moment ago without a farewell: it can start again", a.Name)
		case other:
			d.fail("instances", "give this one its own --name and --peer-host, or wait some seconds if that one was killed",
				"one is called %s as %s already, on machine %s: this one would not start", a.Name, a.PeerHost, cmp.Or(a.Machine, "unknown"))
		}
	}
}

// succeeds reports whether this instance would take the place of that one, which
// cannot be alive: its machine and addresses are those of this one, and free.
func (d *doctor) succeeds(n *api.Instance) bool {
	host, err := os.Hostname()
	return err == nil && n.Machine == host && slices.EqualFunc(n.Diameter, d.config.Diameter, sameAddress) &&
		!slices.ContainsFunc(d.config.Diameter, func(addr string) bool { return bindable(addr) != nil })
}

// machines compares the clocks of the instances' machines, by how far the
// store's is ahead of each.
func (d *doctor) machines() {
	var least, most time.Duration
	var first, last string
	for i, n := range d.sight.instances {
		ahead, err := time.ParseDuration(n.Offset)
		if err != nil {
			continue
		}
		if i == 0 || ahead < least {
			least, last = ahead, n.Name
		}
		if i == 0 || ahead > most {
			most, first = ahead, n.Name
		}
	}
	by := (most - least).Round(100 * time.Millisecond)
	if l := clockLevel(by); l != levelOK {
		d.note(l, "instances", "set their machines' clocks by NTP: sessions go by the store's clock, but logs do not",
			"the clock of %s is %s behind that of %s", first, by, last)
	}
}

// catalogue finds what is missing in it.
func (d *doctor) catalogue() {
	if len(d.sight.tenants) == 0 {
		d.warn("catalogue", "rtm apply -f FILE; examples/lab.yaml shows how", "it has no tenant: there is nobody to charge")
		return
	}
	if len(d.sight.peers) == 0 {
		d.warn("catalogue", "rtm apply a document of kind: Peer for each", "it has no peer: every gateway is refused (3010)")
		return
	}
	var unserved []string
	for _, t := range d.sight.tenants {
		if !slices.ContainsFunc(d.sight.peers, func(p *tenant.Peer) bool { return p.Serves(t.Name) }) {
			unserved = append(unserved, t.Name)
		}
	}
	if len(unserved) > 0 {
		d.warn("catalogue", "add them to tenants: of a Peer", "no peer serves the subscribers of %s", few(unserved))
		return
	}
	d.ok("catalogue", "%s, and %s for them", plural(len(d.sight.tenants), "tenant"), plural(len(d.sight.peers), "peer document"))
}

// peers compares who is connected with who is declared.
func (d *doctor) peers() {
	if len(d.sight.instances) == 0 {
		return
	}
	connected := connectedTo(d.sight.instances)
	declared := func(host string) bool {
		return slices.ContainsFunc(d.sight.peers, func(p *tenant.Peer) bool { return p.Host == "*" || strings.EqualFold(p.Host, host) })
	}
	var here, learned, absent []string
	for _, p := range connected {
		if declared(p.Host) {
			here = append(here, p.Host+" to "+strings.Join(p.Instances, " and "))
		} else {
			learned = append(learned, p.Host)
		}
	}
	more := slices.ContainsFunc(d.sight.instances, func(n api.Instance) bool { return n.MorePeers })
	for _, p := range d.sight.peers {
		is := slices.ContainsFunc(connected, func(c topPeer) bool { return strings.EqualFold(c.Host, p.Host) })
		if p.Host != "*" && !is && !more && !slices.Contains(absent, p.Host) {
			absent = append(absent, p.Host)
		}
	}
	switch {
	case more:
		d.ok("peers", "more are connected to an instance than its list shows; rtm_diameter_connections counts them")
	case len(here) > 0:
		d.ok("peers", "connected: %s", few(here))
	case len(absent)+len(learned) == 0:
		d.ok("peers", "none is connected")
	}
	if len(absent) > 0 {
		d.warn("peers", "if they should be: do they reach the Diameter address, and do realm: and sources: of their documents fit? The log names who was refused",
			"declared, but not connected: %s", few(absent))
	}
	if len(learned) > 0 {
		d.warn("peers", "rtm apply a document of kind: Peer for each; rtm dev lets any in, rtm serve does not", "connected, but not declared: %s", few(learned))
	}
}

// few is a list of names, or the first of them.
func few(names []string) string {
	if n := len(names) - namesMax; n > 0 {
		return strings.Join(names[:namesMax], ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(names, ", ")
}

func (d *doctor) print(w io.Writer, r *remote) error {
	failed := 0
	for _, f := range d.findings {
		if f.Level == levelFail {
			failed++
		}
	}
	err := r.print(w, d.findings, func(w io.Writer) {
		for _, f := range d.findings {
			fmt.Fprintf(w, "%s\t%s\t%s\n", f.Level, f.What, strings.ReplaceAll(f.Text, "\n", "\n\t\t"))
			if f.Do != "" {
				fmt.Fprintf(w, "\t\t→ %s\n", f.Do)
			}
		}
	})
	if err == nil && failed > 0 {
		err = exitError{fmt.Errorf("%d of %s failed", failed, plural(len(d.findings), "check")), exitFailed}
	}
	return err
}
