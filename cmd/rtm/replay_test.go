package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"rtm/ctf"
	"rtm/replay"
	"rtm/store/storetest"
)

// A tapped is what lies between gateways and a server, and writes what goes
// through it to a capture.
type tapped struct {
	t    testing.TB
	addr string
	done sync.WaitGroup

	mu   sync.Mutex // guards all below
	file *os.File
	w    *pcapgo.Writer
}

// wiretap listens for gateways of that server; what they say is in the file that is
// returned, once stop has returned.
func wiretap(t *testing.T, server string) (addr, file string, stop func()) {
	t.Helper()
	p := &tapped{t: t, addr: server}
	f, err := os.Create(filepath.Join(t.TempDir(), "gy.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	p.file, p.w = f, pcapgo.NewWriter(f)
	if err := p.w.WriteFileHeader(65535, layers.LinkTypeRaw); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.done.Go(func() {
		for port := uint16(40000); ; port++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.done.Go(func() { p.carry(c, port) })
		}
	})
	return l.Addr().String(), f.Name(), func() {
		l.Close()
		p.done.Wait()
		f.Close()
	}
}

// carry carries one connection in both directions.
func (p *tapped) carry(gateway net.Conn, port uint16) {
	server, err := net.Dial("tcp", p.addr)
	if err != nil {
		p.t.Error(err)
		return
	}
	var both sync.WaitGroup
	way := func(to, from net.Conn, ports [2]uint16, ends [2]byte) {
		seq, b := uint32(1), make([]byte, 1000)
		for {
			n, err := from.Read(b)
			if n > 0 {
				p.write(b[:n], seq, ports, ends)
				seq += uint32(n)
				to.Write(b[:n])
			}
			if err != nil {
				to.(*net.TCPConn).CloseWrite()
				return
			}
		}
	}
	both.Go(func() { way(server, gateway, [2]uint16{port, 3868}, [2]byte{1, 2}) })
	both.Go(func() { way(gateway, server, [2]uint16{3868, port}, [2]byte{2, 1}) })
	both.Wait()
	gateway.Close()
	server.Close()
}

func (p *tapped) write(b []byte, seq uint32, ports [2]uint16, ends [2]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: net.IP{192, 0, 2, ends[0]}, DstIP: net.IP{192, 0, 2, ends[1]}}
	tcp := &layers.TCP{SrcPort: layers.TCPPort(ports[0]), DstPort: layers.TCPPort(ports[1]), Seq: seq, ACK: true, Window: 1000}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, ip, tcp, gopacket.Payload(b)); err != nil {
		p.t.Error(err)
		return
	}
	n := len(buf.Bytes())
	if err := p.w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Now(), CaptureLength: n, Length: n}, buf.Bytes()); err != nil {
		p.t.Error(err)
	}
}

// filmed is a capture of sessions of one of the lab's subscribers with l.
func filmed(t *testing.T, l *lab, imsi string) string {
	t.Helper()
	addr, file, stop := wiretap(t, l.targets[0])
	sim, err := ctf.New(ctf.Config{
		Targets: []string{addr}, Host: "pgw.lab.example", Realm: "lab.example", IMSIs: []string{imsi},
		Sessions: 6, Updates: 3, Groups: 2, Group: 10, Parallel: 2, Seed: 7,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	if sim.Counts.Failed.Load() != 0 {
		t.Fatal(sim.FirstFailure())
	}
	return file
}

// replayed runs rtm replay, and reads what it prints.
func replayed(t *testing.T, want int, args ...string) (r replay.Report, told string) {
	t.Helper()
	out, told, code := both(t, t.Context(), append([]string{"replay", "-o", "json"}, args...)...)
	if code != want {
		t.Fatalf("rtm replay %v: exit %d, want %d\n%s%s", args, code, want, out, told)
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return r, told
}

// What was captured is answered again as it was: to another subscriber, in
// sessions of its own, as often as one likes.
func TestReplay(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	file := filmed(t, l, "001010000000001")
	target := []string{file, "--target", l.targets[0]}
	with := func(args ...string) []string { return append(target[:len(target):len(target)], args...) }

	for _, args := range [][]string{
		with("--subscriber", "imsi:001010000000002"),
		with("--map", "imsi:001010000000001=imsi:001010000000003", "--now"),
		with("--subscriber", "imsi:001010000000002", "--host", "another.lab.example", "--parallel", "1", "--speed", "1000"),
	} {
		r, _ := replayed(t, 0, append(args, "--grants")...)
		if r.Messages != 30 || r.Sessions != 6 || r.Equal != 30 || len(r.Differences) != 0 || r.Codes["2001 SUCCESS"]["2001 SUCCESS"] != 30 {
			t.Errorf("%v: %+v", args, r)
		}
	}
	if s := good(t, l, "session", "list"); strings.Contains(s, "pgw") {
		t.Errorf("sessions are left:\n%s", s)
	}
	// As captured, it repeats what the server has: nothing is granted any more, and nothing charged again.
	before := good(t, l, "subscriber", "show", "001010000000001")
	if r, _ := replayed(t, 0, with("--keep-session-ids")...); r.Equal != 6 || r.Grants != 24 {
		t.Errorf("%+v", r)
	}
	if after := good(t, l, "subscriber", "show", "001010000000001"); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}

	// Nobody knows the subscriber.
	r, told := replayed(t, exitFailed, with("--subscriber", "imsi:999999999999999")...)
	if r.Results != 30 || r.Codes["2001 SUCCESS"]["5030 USER_UNKNOWN"] != 6 || !strings.Contains(told, "30 messages answered with other Result-Codes") {
		t.Errorf("%+v\n%s", r, told)
	}

	// The plan has become another one: half the quota, and no rating group 11.
	b, err := os.ReadFile("../../examples/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	plan := strings.Replace(string(b), "quota: {size: 10 MiB, threshold: \"20%\", validity: 10 min}", "quota: {size: 5 MiB, threshold: \"20%\", validity: 10 min}", 1)
	other := filepath.Join(t.TempDir(), "plan.yaml")
	if err := os.WriteFile(other, []byte(plan), 0o600); err != nil {
		t.Fatal(err)
	}
	l.apply(t, other)
	r, _ = replayed(t, 0, with("--subscriber", "imsi:001010000000002")...)
	if r.Grants != 24 || r.Results != 0 || len(r.Differences) != 1 || r.Differences[0].Captured != "10485760" || r.Differences[0].Replayed != "5242880" {
		t.Errorf("%+v", r)
	}
	if _, told := replayed(t, exitFailed, with("--subscriber", "imsi:001010000000002", "--grants")...); !strings.Contains(told, "24 with other grants") {
		t.Error(told)
	}

	// For people, and with each message, in each format.
	out, _, code := both(t, t.Context(), append([]string{"replay", "--all"}, with("--subscriber", "imsi:001010000000002")...)...)
	for _, want := range []string{"CCR-I 0  pgw.lab.example;7;1  2001 SUCCESS", "rating group 10: CC-Total-Octets 10485760 → 5242880", "30 messages of 6 sessions", "other grants        24"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("exit %d, without %q:\n%s", code, want, out)
		}
	}
	for _, format := range formats[1:] {
		out, _, _ := both(t, t.Context(), append([]string{"replay", "--all", "-o", format}, with("--subscriber", "imsi:001010000000002")...)...)
		var all struct {
			replay.Report
			Each []replay.Message `json:"each"`
		}
		b, err := yaml.YAMLToJSON([]byte(out)) // JSON is YAML too
		if err == nil {
			err = json.Unmarshal(b, &all)
		}
		if err != nil || len(all.Each) != 30 || all.Messages != 30 || all.Grants != 24 {
			t.Errorf("%s: %v, %d messages\n%s", format, err, len(all.Each), tail(out))
		}
	}
}

// What is in a capture is told without a server, and what cannot be done says why.
func TestReplayErrors(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	file := filmed(t, l, "001010000000001")
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	packets := func(name string, payloads ...string) string {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		p := &tapped{t: t, w: pcapgo.NewWriter(f)}
		p.w.WriteFileHeader(65535, layers.LinkTypeRaw)
		for i, s := range payloads {
			p.write([]byte(s), 1, [2]uint16{uint16(40000 + i), 5868}, [2]byte{1, 2})
		}
		return f.Name()
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cer := string(readVectors(t)["cer-magma-feg"].bytes())
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{file + " --dry-run", 0, ""},
		{"", exitUsage, "write rtm replay FILE"},
		{"no/such/file", exitUsage, "no such file"},
		{"../../examples/lab.yaml", exitUsage, "this is no capture"},
		{file + " -o xml", exitUsage, "table, json or yaml"},
		{file + " --map imsi:1", exitUsage, "write OLD=NEW"},
		{file + " --map imsi:001010000000001=msisdn:491700000001", exitUsage, "map an imsi to an imsi"},
		{file + " --subscriber 001010000000001", exitUsage, "no identity such as"},
		{file + " --subscriber imsi:001010000000001 --map imsi:001010000000001=imsi:001010000000002", exitUsage, "either subscribers are mapped"},
		{file + " --map-file " + write("map.csv", []byte("imsi:1,2\n")), exitUsage, "map.csv: line 1"},
		{file + " --target nowhere", exitUsage, "such as 127.0.0.20:3868"},
		{file + " --speed -1", exitUsage, "--speed"},
		{file + " --parallel 0", exitUsage, "1 to 1024"},
		{file + " --tx 0s", exitUsage, "such as 10s"},
		{file + " --port 70000", exitUsage, "there is no port"},
		{file + " --host not/a/name", exitUsage, "no Diameter identity"},
		{file + " --port 9 --dry-run", exitFailed, "leave out --port"},
		{file + " --target " + gone.Addr().String(), exitUnreachable, "is --target right?"},
		{packets("tls.pcap", "\x16\x03\x01\x00\xc8\x01"), exitFailed, "what is encrypted cannot be replayed"},
		{packets("web.pcap", "GET / HTTP/1.1\r\n"), exitFailed, "there is no Diameter in it, in 1 packet"},
		{packets("empty.pcap"), exitFailed, "there is no packet in it"},
		{packets("base.pcap", cer), exitFailed, "no CCR of credit control in it, but 1 message of another command"},
	} {
		out, told, code := ended(t, append([]string{"replay"}, strings.Fields(c.args)...)...)
		if code != c.code || !strings.Contains(told, c.says) {
			t.Errorf("rtm replay %s: exit %d, want %d with %q\n%s%s", c.args, code, c.code, c.says, out, told)
		}
	}
	if out, _, _ := both(t, t.Context(), "replay", file, "--dry-run", "--all"); !strings.Contains(out, "CCR-T 4  pgw.lab.example;7;6  2001 SUCCESS\n") || strings.Contains(out, "→") {
		t.Error(out)
	}
	r, _ := replayed(t, 0, write("cut.pcap", whole[:len(whole)-20]), "--dry-run")
	if r.Messages != 30 || r.Capture.Damage == "" || fmt.Sprint(r.Subscribers) != "[imsi:001010000000001]" {
		t.Errorf("%+v", r)
	}
}

// Where the server does not know a gateway it says so, and what to do; what it
// does not serve is a difference.
func TestReplayAsAStranger(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	file := filmed(t, l, "001010000000001")
	r, _ := replayed(t, exitFailed, file, "--target", l.targets[0], "--destination-realm", "nowhere.example")
	if r.Codes["2001 SUCCESS"]["3003 REALM_NOT_SERVED"] != 30 {
		t.Errorf("%v", r.Codes)
	}
	l = startLab(t, storetest.NewMemory(), 1)
	for _, d := range l.doors() {
		d.learn = false
	}
	_, told, code := both(t, t.Context(), "replay", file, "--target", l.targets[0])
	if code != exitFailed || !strings.Contains(told, "3010 UNKNOWN_PEER") || !strings.Contains(told, "Peer document with host: pgw.lab.example") {
		t.Errorf("exit %d\n%s", code, told)
	}
}
