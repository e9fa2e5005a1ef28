package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rtm/api"
	"rtm/charging"
	"rtm/rtmtest"
	"rtm/store/redis"
	"rtm/tenant"
)

// examined runs rtm doctor with free addresses, unless flags say otherwise, in
// whose place its report has HTTP and DIAMETER.
func examined(t *testing.T, flags ...string) (report string, code int) {
	t.Helper()
	http, diameter := rtmtest.FreeAddr(t), rtmtest.FreeAddr(t)
	args := append([]string{"doctor", "--http", http}, flags...)
	if !slices.Contains(flags, "--diameter") {
		args = append(args, "--diameter", diameter)
	}
	out, code := tell(t, args...)
	return strings.NewReplacer(http, "HTTP", diameter, "DIAMETER").Replace(out), code
}

// wants fails the test for each text that a report has not.
func wants(t *testing.T, report string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(report, text) {
			t.Errorf("%q is missing", text)
		}
	}
	if t.Failed() {
		t.Log(report)
	}
}

func TestDoctorBeforeTheFirstStart(t *testing.T) {
	t.Chdir(t.TempDir())
	report, code := examined(t)
	const want = `ok  settings  instance ocs as ocs.rtm.localdomain, from --diameter, --http
ok  http      HTTP is free
ok  store     rtm-data is not there yet: the first start makes it
ok  diameter  DIAMETER is free
ok  records   records is not there yet: the first start makes it
ok  files     enough may be open for the 10000 connections that an instance takes
`
	if report != want || code != 0 {
		t.Errorf("exit %d:\n%s", code, report)
	}
	if made, err := os.ReadDir("."); err != nil || len(made) > 0 {
		t.Errorf("it made %v, %v", made, err)
	}
}

func TestDoctorFindsWhatHinders(t *testing.T) {
	stranger, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	other := rtmtest.StartRedis(t)
	writeRedis(t, other.Addr, "SET rtm:format something\r\n")
	for name, c := range map[string]struct {
		flags string
		want  []string
	}{
		"a stranger's web server": {"--http " + web.Listener.Addr().String(), []string{
			"FAIL  http      another program listens on " + web.Listener.Addr().String(), "choose another address with --http", "1 of 6 checks failed\n"}},
		"a stranger on the Diameter port": {"--diameter " + stranger.Addr().String(), []string{
			"FAIL  diameter  another program listens on " + stranger.Addr().String(), "choose another address with --diameter"}},
		"an address of another machine": {"--diameter 192.0.2.1:3868", []string{"FAIL  diameter  listen tcp 192.0.2.1:3868: ", "choose another address with --diameter"}},
		"no Redis": {"--store redis://user:secret@127.0.0.1:1", []string{
			"FAIL  store     redis at 127.0.0.1:1: ", "is redis-server running there?", "redis://user:xxxxx@127.0.0.1:1 is in the settings"}},
		"another's Redis": {"--store redis://" + other.Addr, []string{`FAIL  store     redis at ` + other.Addr + `: its rtm:format is "something": this is not rtm's database`}},
		"directories in a file": {"--store embedded:file/data --records file/records", []string{
			"FAIL  store     stat file/data: not a directory", "FAIL  records   stat file/records: not a directory", "choose another directory with --records", "2 of 6 checks failed"}},
		"a file for a directory":  {"--store embedded:file", []string{"FAIL  store     file is no directory"}},
		"a directory of no store": {"--store embedded:.", []string{"ok  store     . holds no store yet: the first start makes one"}},
		"no settings file":        {"--config none.yaml", []string{"FAIL  settings  open none.yaml: no such file or directory\n", "1 of 1 check failed"}},
		"a wrong settings file":   {"--config file", []string{"FAIL  settings  file:\n", `unknown field "stroe"`}},
		"a wrong flag":            {"--peer-host a_b!", []string{`FAIL  settings  peerHost: "a_b!" is no Diameter identity`}},
	} {
		t.Run(name, func(t *testing.T) {
			putFiles(t, map[string]string{"file": "stroe: embedded:x\n"})
			report, code := examined(t, strings.Fields(c.flags)...)
			wants(t, report, c.want...)
			if bad := strings.Contains(report, "FAIL"); (code != 0) != bad || code > 1 {
				t.Errorf("exit %d", code)
			}
		})
	}
}

// writeRedis sends commands to a redis-server and waits for their answers.
func writeRedis(t *testing.T, addr, commands string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(commands)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	if n, err := c.Read(b); err != nil || b[0] != '+' {
		t.Fatalf("%s: %q, %v", commands, b[:n], err)
	}
}

// The environment counts, and a name in it that is misspelt is found.
func TestDoctorReadsTheEnvironment(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("RTM_STORE", "embedded:elsewhere")
	t.Setenv("RTM_PEERHOST", "a.b")
	report, code := examined(t)
	wants(t, report, "from RTM_STORE, --diameter, --http\n", "warn  settings  RTM_PEERHOST is no setting", "RTM_PEER_HOST", "elsewhere is not there yet")
	if code != 0 {
		t.Errorf("exit %d", code)
	}
}

// A server on the embedded store: what it alone can see is asked of it, and a
// second one would not start here.
func TestDoctorBesideAServer(t *testing.T) {
	t.Chdir(t.TempDir())
	target, addr := rtmtest.FreeAddr(t), rtmtest.FreeAddr(t)
	p := run(t, "serve", "--diameter", target, "--http", addr, "--audit", "0")
	rtmtest.Until(t, "it is ready", ready("http://"+addr))
	l := &lab{api: "http://" + addr}
	l.apply(t, filepath.Join(repository, "examples/lab.yaml"))
	dialPeer(t, target, "smf.test", "test")
	var report string
	rtmtest.Until(t, "the gateway is known", func() bool {
		var code int
		report, code = examined(t, "--http", addr, "--diameter", target)
		return code == 0 && strings.Contains(report, "smf.test")
	})
	const want = `ok  settings   instance ocs as ocs.rtm.localdomain, from --diameter, --http
ok  http       rtm VERSION answers on HTTP as instance ocs, and is ready
ok  store      embedded rtm-data: what is answered survives kill -9 of instances and loss of power; not loss of its machine
ok  clock      the store's and this machine's differ by less than 1s
ok  diameter   instance ocs listens on DIAMETER
ok  records    directory records can be written
ok  files      enough may be open for the 10000 connections that an instance takes
ok  instances  1 on this store: ocs as ocs.rtm.localdomain
ok  audit      no walk over all accounts has come to its end yet
ok  catalogue  1 tenant, and 1 peer document for them
ok  peers      connected: smf.test to ocs
`
	if got := strings.NewReplacer(addr, "HTTP", target, "DIAMETER", version, "VERSION").Replace(report); got != want {
		t.Errorf("got\n%s", got)
	}
	report, code := examined(t, "--http", addr, "--diameter", target, "--name", "second", "--peer-host", "b.ocs.test")
	wants(t, report, "FAIL  http      an rtm of other settings listens on "+addr+"; its instances are ocs\n",
		"has rtm-data open, and is no rtm of these settings", "FAIL  diameter  another program listens on "+target)
	if code != exitFailed {
		t.Errorf("exit %d", code)
	}
	report, _ = examined(t, "--http", addr)
	wants(t, report, "warn  diameter   DIAMETER is free, for instance ocs listens on "+target)
	p.kill9()
	report, code = examined(t, "--http", addr, "--diameter", target)
	wants(t, report, "ok  instances  ocs ended here a moment ago without a farewell: it can start again\n", "ok  catalogue  1 tenant")
	if code != 0 {
		t.Errorf("exit %d after the kill", code)
	}
	report, code = examined(t)
	wants(t, report, "FAIL  instances  one is called ocs as ocs.rtm.localdomain already", "wait some seconds if that one was killed")
	if code != exitFailed {
		t.Errorf("exit %d after the kill, at another address", code)
	}
}

// repository is where the module is, from where tests begin.
var repository = func() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
}()

// Two instances on Redis, seen by a third that has not started.
func TestDoctorOnRedis(t *testing.T) {
	server := rtmtest.StartRedis(t)
	st, err := openStore(t.Context(), &config{Store: "redis://" + server.Addr}, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	l := startLab(t, st, 2)
	l.apply(t, "../../examples/lab.yaml")
	l.peer(t, "pgw.test", "")
	records := t.TempDir()
	for _, name := range []string{"20261125-120000.000-A-000001.jsonl.part", "20261125-120000.000-gone-by-000001.jsonl.part"} {
		if err := os.WriteFile(filepath.Join(records, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dialPeer(t, l.targets[0], "smf.test", "test")
	third := []string{"--store", "redis://" + server.Addr, "--name", "C", "--peer-host", "c.ocs.rtm.localdomain", "--records", records}
	var report string
	var code int
	rtmtest.Until(t, "the gateway is known", func() bool {
		report, code = examined(t, third...)
		return strings.Contains(report, "smf.test")
	})
	wants(t, report, "ok    store      redis "+server.Addr+", version ", "survives kill -9 of instances; not loss of power or loss of its machine\n",
		"warn  store      this redis keeps no append-only file", "→ CONFIG SET appendonly yes",
		"ok    instances  2 on this store: A as a.ocs.rtm.localdomain, B as b.ocs.rtm.localdomain\n",
		"warn  records    instance gone-by does not run and left unfinished: 20261125-120000.000-gone-by-000001.jsonl.part\n",
		"ok    peers      connected: smf.test to A\n", "warn  peers      declared, but not connected: pgw.test\n")
	if code != 0 || strings.Contains(report, "instance A does not run") {
		t.Errorf("exit %d", code)
	}
	report, code = examined(t, append(third, "--name", "B", "--diameter", l.targets[1])...)
	wants(t, report, "FAIL  instances  one is called B as b.ocs.rtm.localdomain already", "FAIL  diameter   instance B listens on "+l.targets[1])
	if code != exitFailed {
		t.Errorf("exit %d", code)
	}
	out, _ := tell(t, append([]string{"doctor", "-o", "json"}, third...)...)
	var findings []finding
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&findings); err != nil || !slices.ContainsFunc(findings, func(f finding) bool { return f.Level == levelWarn && f.What == "records" && f.Do != "" }) {
		t.Errorf("%v in\n%s", err, out)
	}
	looked, r, err := redis.Look(t.Context(), redis.Config{URL: "redis://" + server.Addr + "/5"})
	if err != nil || r.Format != "" {
		t.Fatalf("database 5 is in use: %v", err)
	}
	looked.Close()
	if report, code = examined(t, "--store", "redis://"+server.Addr+"/5"); code != 0 {
		t.Errorf("an empty database: exit %d\n%s", code, report)
	}
	wants(t, report, "ok    instances  none runs on this store\n", "warn  catalogue  it has no tenant")
	looked, r, err = redis.Look(t.Context(), redis.Config{URL: "redis://" + server.Addr + "/5"})
	if err != nil || r.Format != "" {
		t.Errorf("the look made a database of it: %q, %v", r.Format, err)
	}
	looked.Close()
}

// What a doctor thinks of what it sees.
func TestDoctorJudges(t *testing.T) {
	two := func(change func(a, b *api.Instance)) *sight {
		a, b := api.Instance{Name: "a", PeerHost: "a.ocs", Offset: "0s"}, api.Instance{Name: "b", PeerHost: "b.ocs", Offset: "0s"}
		change(&a, &b)
		return &sight{instances: []api.Instance{a, b}}
	}
	for name, c := range map[string]struct {
		look func(d *doctor)
		want string
	}{
		"little room":          {func(d *doctor) { d.room("store", "x", 500<<20) }, "warn store: only 500 MiB are free at x"},
		"hardly any room":      {func(d *doctor) { d.room("store", "x", 50<<20) }, "FAIL store: only 50 MiB are free at x"},
		"few files":            {func(d *doctor) { d.limit(1024) }, "warn files: 1024 files may be open: enough for 512 connections, not for the 10000 that an instance takes"},
		"a clock that is fine": {func(d *doctor) { d.sight = &sight{ahead: 900 * time.Millisecond}; d.clock() }, "ok clock: the store's and this machine's differ by less than 1s"},
		"a clock behind":       {func(d *doctor) { d.sight = &sight{ahead: 3 * time.Second}; d.clock() }, "warn clock: the store's is 3s ahead of this machine's"},
		"a clock ahead":        {func(d *doctor) { d.sight = &sight{ahead: -time.Hour}; d.clock() }, "FAIL clock: the store's is 1h0m0s behind this machine's"},
		"clocks of machines": {func(d *doctor) {
			d.sight = two(func(a, b *api.Instance) { a.Offset, b.Offset = "2s", "-1s" })
			d.machines()
		}, "warn instances: the clock of a is 3s behind that of b"},
		"one name for two": {func(d *doctor) {
			d.sight = two(func(a, b *api.Instance) { b.PeerHost = "A.ocs" })
			d.namesakes()
		}, "FAIL instances: a and b both are A.ocs: gateways connect to one of them only"},
		"two catalogues": {func(d *doctor) {
			d.config.Identities = []string{"a.ocs", "b.ocs"}
			d.sight = two(func(a, b *api.Instance) { a.Catalogue = "1" })
			d.instances()
		}, "warn instances: they do not have the same catalogue"},
		"running elsewhere": {func(d *doctor) {
			d.config.Identities = []string{"a.ocs", "b.ocs"}
			d.running = &api.Instance{Name: "c"}
			d.sight = two(func(a, b *api.Instance) {})
			d.instances()
		}, "FAIL instances: instance c runs here, but on another store"},
		"an upgrade that waits": {func(d *doctor) {
			d.sight = two(func(a, b *api.Instance) { a.Level, b.Level = 1, 2 })
			d.sight.level = 1
			d.levels()
		}, "ok upgrade: the store is at level 1; it can rise to 2 when a are upgraded"},
		"an upgrade that can be finished": {func(d *doctor) {
			d.sight = two(func(a, b *api.Instance) { a.Level, b.Level = 2, 2 })
			d.sight.level = 1
			d.levels()
		}, "ok upgrade: the store is at level 1, and all instances know 2: rtm upgrade status"},
		"one that an upgrade left behind": {func(d *doctor) {
			d.sight = two(func(a, b *api.Instance) { a.Level, b.Level = 2, 1 })
			d.sight.level = 2
			d.levels()
		}, "FAIL upgrade: the store is at level 2, which b do not know"},
		"a store of a later version": {func(d *doctor) { d.sight = &sight{level: 99}; d.levels() },
			fmt.Sprintf("FAIL upgrade: the store is at level 99, and this version of rtm knows level %d: it would not start", charging.Level)},
		"an audit that found something": {func(d *doctor) {
			d.sight = two(func(a, b *api.Instance) {
				a.Audit = &api.Audit{Mismatches: map[string]int64{"I3": 1, "timer": 2}, Walked: &time.Time{}}
				b.Audit = &api.Audit{Mismatches: map[string]int64{"I3": 1, "I1": 0}}
			})
			d.audit()
		}, "FAIL audit: accounts did not hold since these instances began: I3 2 times, timer 2 times"},
		"an audit that found nothing": {func(d *doctor) {
			at := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
			d.sight = two(func(a, b *api.Instance) { b.Audit = &api.Audit{Walked: &at, Whole: 1} })
			d.audit()
		}, "ok audit: 1 account held, when the last walk ended at 2026-03-01T10:00:00Z"},
		"nobody is let in": {func(d *doctor) { d.sight = &sight{tenants: []*tenant.Tenant{{Name: "shop"}}}; d.catalogue() }, "warn catalogue: it has no peer: every gateway is refused (3010)"},
		"a tenant of no peer": {func(d *doctor) {
			d.sight = &sight{tenants: []*tenant.Tenant{{Name: "shop"}, {Name: "lab"}}, peers: []*tenant.Peer{{Host: "*", Tenants: []string{"lab"}}}}
			d.catalogue()
		}, "warn catalogue: no peer serves the subscribers of shop"},
		"learned": {func(d *doctor) {
			d.sight = two(func(a, b *api.Instance) { a.Peers, b.Peers = []string{"gw"}, []string{"gw"} })
			d.peers()
		}, "warn peers: connected, but not declared: gw"},
		"more than are listed": {func(d *doctor) {
			d.sight = two(func(a, b *api.Instance) { a.MorePeers = true })
			d.sight.peers = []*tenant.Peer{{Host: "gw"}}
			d.peers()
		}, "ok peers: more are connected to an instance than its list shows; rtm_diameter_connections counts them"},
	} {
		d := &doctor{}
		c.look(d)
		last := finding{}
		if n := len(d.findings); n > 0 {
			last = d.findings[n-1]
		}
		if got := string(last.Level) + " " + last.What + ": " + last.Text; got != c.want {
			t.Errorf("%s: got %q", name, got)
		}
		if last.Level != levelOK && last.Do == "" {
			t.Errorf("%s: it does not say what to do", name)
		}
	}
	if text := few(slices.Repeat([]string{"x"}, 23)); !strings.HasSuffix(text, "x, x and 3 more") {
		t.Error(text)
	}
	for _, pair := range []string{":3868 127.0.0.1:3868", "[::]:3868 127.0.0.1:3868", "localhost:3868 127.0.0.1:3868"} {
		if a, b, _ := strings.Cut(pair, " "); !sameAddress(a, b) {
			t.Errorf("%s are two", pair)
		}
	}
	if sameAddress("127.0.0.1:3868", "127.0.0.2:3868") || sameAddress(":1", ":2") {
		t.Error("two addresses are one")
	}
}

// What a set-up can promise is told mode by mode, also where it is refused.
func TestDoctorRedis(t *testing.T) {
	one := rtmtest.StartRedis(t)
	out, code := tell(t, "doctor", "redis", "redis://"+one.Addr)
	wants(t, out, "ok    redis   "+one.Addr+" is a master, version ", "keeps no append-only file, memory policy noeviction\n",
		"warn  redis   this redis keeps no append-only file", "ok    single  is what rtm would run in: an instance that dies loses nothing")
	if code != 0 {
		t.Errorf("exit %d\n%s", code, out)
	}
	servers := rtmtest.StartSentinels(t, rtmtest.NewNet(t), 1)
	out, code = tell(t, "doctor", "redis", servers.URL())
	wants(t, out, "is a replica, version ", "replica of "+servers.Master().Addr, "knows 2 others, calls a node down after 1.3s, and needs 2 to agree\n",
		"FAIL  safe      cannot be promised: durability safe needs two replicas, and "+servers.Master().Addr+" has 1: start another one with replicaof",
		"ok    safe-1    would be possible: ", "ok    fast      would be possible: each failover loses")
	if code != exitFailed {
		t.Errorf("exit %d\n%s", code, out)
	}
	servers.Sentinels[0].Must("SENTINEL", "SET", "rtm", "down-after-milliseconds", "1000")
	out, code = tell(t, "doctor", "redis", servers.URL(), "--durability", "fast")
	if wants(t, out, "warn  redis     "+servers.Sentinels[0].Addr+" calls a server down after 1000 ms"); code != 0 {
		t.Errorf("fast: exit %d\n%s", code, out)
	}
	out, code = tell(t, "doctor", "redis", "redis+sentinel://"+servers.Sentinels[0].Addr+"/other")
	if wants(t, out, "No such master with that name"); code != exitFailed {
		t.Errorf("exit %d\n%s", code, out)
	}
}
