package replay

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"rtm/diameter"
)

// magma is a conversation of Magma's: CER, CCR-I, CCR-U, CCR-T with their
// answers.
type magma struct {
	cer, cea         []byte
	i, ia, u, ua, tr []byte
	ta               []byte
}

func conversation(t testing.TB) *magma {
	m := &magma{
		cer: vector(t, "cer-magma-feg"), i: request(t, "ccr-i-magma-4rg", 11), u: request(t, "ccr-u-magma-1of4rg", 12), tr: request(t, "ccr-t-magma-3rg", 13),
	}
	m.cea = answer(t, m.cer, diameter.Success)
	m.ia, m.ua, m.ta = answer(t, m.i, diameter.Success), answer(t, m.u, diameter.CreditLimitReached), answer(t, m.tr, diameter.Success)
	return m
}

// wants are the exchanges of the conversation.
func (m *magma) wants() [][]byte { return [][]byte{m.i, m.ia, m.u, m.ua, m.tr, m.ta} }

// speak has a connection carry the conversation.
func (m *magma) speak(c *talk, sizes ...int) {
	for i, b := range [][]byte{m.cer, m.cea, m.i, m.ia, m.u, m.ua, m.tr, m.ta} {
		c.say(i%2, b, sizes...)
	}
}

func TestLinksAndFormats(t *testing.T) {
	for _, link := range []layers.LinkType{
		layers.LinkTypeEthernet, layers.LinkTypeLinuxSLL, layers.LinkTypeLinuxSLL2, layers.LinkTypeNull, layers.LinkTypeRaw, layers.LinkTypeIPv4, layers.LinkTypeIPv6, 12,
	} {
		for _, ng := range []bool{false, true} {
			for _, ends := range [][2]string{{"192.0.2.1:40000", "192.0.2.2:3868"}, {"[2001:db8::1]:40000", "[2001:db8::2]:3868"}} {
				v6 := strings.HasPrefix(ends[0], "[")
				if link == layers.LinkTypeIPv4 && v6 || link == layers.LinkTypeIPv6 && !v6 {
					continue
				}
				t.Run(fmt.Sprintf("%d %v %s", link, ng, ends[0]), func(t *testing.T) {
					f := newFilm(t, link, ng)
					c := f.talk(ends[0], ends[1])
					m := conversation(t)
					c.open()
					m.speak(c)
					c.close()
					got, n := read(t, f.bytes())
					same(t, got, m.wants()...)
					if n.Connections != 1 || n.Messages != 8 || n.Requests != 3 || n.Answers != 3 || n.Others != 2 || n.Midway+n.Resynced+n.Lost > 0 {
						t.Errorf("%+v", n)
					}
					if x := got[1]; x.Frame != 8 || x.AnswerFrame != 9 || !x.At.Equal(start.Add(8*time.Millisecond)) {
						t.Errorf("frames %d, %d at %s", x.Frame, x.AnswerFrame, x.At)
					}
				})
			}
		}
	}
}

func TestStreams(t *testing.T) {
	m := conversation(t)
	all := bytes.Join([][]byte{m.cer, m.i, m.u, m.tr}, nil)
	answers := bytes.Join([][]byte{m.cea, m.ia, m.ua, m.ta}, nil)
	lost := [][]byte{m.i, m.ia, m.tr, m.ta} // without the update
	for _, c := range []struct {
		name string
		play func(c *talk)
		want [][]byte
		says func(n *Counts) bool
	}{
		{"a message in many segments", func(c *talk) { c.open(); m.speak(c, 7, 1, 100) }, m.wants(), nil},
		{"many messages in a segment", func(c *talk) { c.open(); c.say(0, all); c.say(1, answers) }, m.wants(), nil},
		{"out of order", func(c *talk) {
			c.open()
			p := c.cut(0, all, 200, 300)
			p[1], p[2], p[4] = p[4], p[1], p[2]
			for _, b := range p {
				c.film.take(b)
			}
			c.say(1, answers, 50)
		}, m.wants(), nil},
		{"retransmitted", func(c *talk) {
			c.open()
			for _, b := range slices.Concat(c.cut(0, all, 300), c.cut(1, answers, 60)) {
				c.film.take(b)
				c.film.take(b)
			}
			c.seq[0] -= uint32(len(m.tr))
			c.say(0, m.tr) // once more, cut otherwise
		}, m.wants(), nil},
		{"without a handshake", func(c *talk) { m.speak(c) }, m.wants(), func(n *Counts) bool { return n.Midway == 2 && n.Skipped == 0 }},
		{"from the middle of a message on", func(c *talk) { c.say(0, all[50:], 99); c.say(1, answers[10:], 99) }, m.wants(),
			func(n *Counts) bool {
				return n.Midway == 2 && n.Skipped == int64(len(m.cer)-50+len(m.cea)-10) && n.Resynced == 0
			}},
		{"a segment is missing", func(c *talk) {
			c.open()
			p := c.cut(0, all, 100)
			for i, b := range p {
				if i != (len(m.cer)+len(m.i))/100+2 {
					c.film.take(b)
				}
			}
			c.say(1, answers)
		}, [][]byte{m.i, m.ia, m.tr, m.ta}, func(n *Counts) bool { return n.Lost == 1 && n.Resynced == 0 && n.Strays == 1 }},
		{"segments over a boundary are missing", func(c *talk) {
			c.open()
			c.say(0, all[:len(m.cer)+len(m.i)-8])
			c.seq[0] += 100
			c.say(0, all[len(m.cer)+len(m.i)+92:], 250)
			c.say(1, answers)
		}, [][]byte{m.tr, m.ta}, func(n *Counts) bool { return n.Lost == 1 && n.Resynced == 1 && n.Strays == 2 && n.Skipped > 0 }},
		{"octets between messages", func(c *talk) {
			c.open()
			c.say(0, slices.Concat(m.cer, m.i, []byte("\x01GET / HTTP/1.1\r\n\r\n\x01\x00\x00\x14"), m.u, m.tr))
			c.say(1, answers)
		}, m.wants(), func(n *Counts) bool { return n.Resynced == 1 && n.Skipped == 23 }},
		{"a message longer than any", func(c *talk) {
			c.open()
			long := append([]byte{1, 2, 0, 0, 0x80, 0, 1, 16, 0, 0, 0, 4}, make([]byte, 1<<17-12)...)
			c.say(0, slices.Concat(m.cer, m.i, long, m.u, m.tr), 1400)
			c.say(1, answers)
		}, m.wants(), func(n *Counts) bool { return n.TooLong == 1 && n.Resynced == 0 }},
		{"from the same port again", func(c *talk) {
			c.open()
			c.say(0, append(bytes.Clone(m.cer), m.i...))
			c.say(1, append(bytes.Clone(m.cea), m.ia...))
			c.film.take(c.segment(0, c.seq[0], "R", nil))
			c.seq = [2]uint32{500, 77}
			c.open()
			c.say(0, slices.Concat(m.cer, m.u, m.tr))
			c.say(1, slices.Concat(m.cea, m.ua, m.ta))
		}, m.wants(), func(n *Counts) bool { return n.Connections == 2 && n.Lost == 0 }},
		{"the end is cut off", func(c *talk) {
			c.open()
			c.say(0, all[:len(all)-10])
			c.say(1, answers[:len(answers)-len(m.ta)])
		}, [][]byte{m.i, m.ia, m.u, m.ua}, func(n *Counts) bool { return n.Lost == 1 }},
		{"an answer that never comes", func(c *talk) {
			c.open()
			c.say(0, all)
			c.say(1, slices.Concat(m.cea, m.ia, m.ta))
		}, [][]byte{m.i, m.ia, m.u, nil, m.tr, m.ta}, nil},
		{"packets of which the end was not captured", func(c *talk) {
			c.open()
			c.say(0, append(bytes.Clone(m.cer), m.i...))
			c.film.cut = 300
			c.say(0, m.u)
			c.film.cut = 0
			c.say(0, m.tr)
			c.say(1, answers)
		}, lost, func(n *Counts) bool { return n.Cut == 1 && n.Lost == 1 && n.Resynced == 0 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFilm(t, layers.LinkTypeEthernet, true)
			c.play(f.talk("192.0.2.1:40000", "192.0.2.2:13868"))
			got, n := read(t, f.bytes())
			same(t, got, c.want...)
			if c.says != nil && !c.says(n) {
				t.Errorf("%+v", n)
			}
		})
	}
}

// Two connections may use the same identifiers, and each has its own answers.
func TestConnectionsApart(t *testing.T) {
	f := newFilm(t, layers.LinkTypeLinuxSLL, false)
	m := conversation(t)
	a, b := f.talk("192.0.2.1:40000", "192.0.2.2:3868"), f.talk("192.0.2.1:40001", "192.0.2.2:3868")
	a.open()
	b.open()
	other := answer(t, m.i, diameter.UserUnknown)
	for i, what := range [][]byte{m.cer, m.cea, m.i} {
		a.say(i%2, what)
		b.say(i%2, what)
	}
	b.say(1, other)
	a.say(1, m.ia)
	got, _ := read(t, f.bytes())
	same(t, got, m.i, m.ia, m.i, other)
}

// What is no Diameter is left alone, and what cannot be read is counted.
func TestOtherTraffic(t *testing.T) {
	m := conversation(t)
	f := newFilm(t, layers.LinkTypeEthernet, true)
	web, secret, c := f.talk("192.0.2.1:50000", "192.0.2.9:80"), f.talk("192.0.2.1:50001", "192.0.2.9:5868"), f.talk("192.0.2.1:40000", "192.0.2.2:3868")
	web.open()
	web.say(0, []byte("GET / HTTP/1.1\r\n\r\n"))
	web.say(1, bytes.Repeat(m.i, 3)) // in which Diameter would be found
	web.say(0, m.i)
	secret.open()
	secret.say(0, []byte{22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3})
	c.open()
	m.speak(c)
	c.say(1, vector(t, "rar-rating-group"))
	c.say(1, vector(t, "asr"))
	gx := request(t, "ccr-i-magma-4rg", 99)
	binary.BigEndian.PutUint32(gx[8:], uint32(policy))
	c.say(0, gx)
	f.take([]byte{1, 2, 3})
	got, n := read(t, f.bytes())
	if n.Connections != 2 { // the web server's answer begins like Diameter
		t.Errorf("%d connections", n.Connections)
	}
	if n.ReAuths != 1 || n.Aborts != 1 || n.Policy != 1 || n.Encrypted != 1 {
		t.Errorf("%+v", n)
	}
	same(t, slices.DeleteFunc(got, func(x *Exchange) bool { return x.Answer == nil }), m.wants()...)
	if got, n := read(t, f.bytes(), 80); len(got) != 4 || n.Connections != 1 {
		t.Errorf("port 80 alone: %d exchanges, %+v", len(got), n)
	}
	if got, _ := read(t, f.bytes(), 9); len(got) != 0 {
		t.Errorf("port 9 alone: %d exchanges", len(got))
	}
}

func TestSCTP(t *testing.T) {
	m := conversation(t)
	f := newFilm(t, layers.LinkTypeEthernet, true)
	c := f.talk("192.0.2.1:3906", "192.0.2.2:3868")
	sack := []byte{3, 0, 0, 16, 0, 0, 0, 1, 0, 0, 4, 0, 0, 0, 0, 0}
	both := c.datagram(0, sack, c.chunk(0, 3, 46, m.cer), c.chunk(0, 3, 0, m.i)) // two messages in a packet
	f.take(both)
	f.take(both)                                                      // once more
	f.take(c.datagram(1, c.chunk(1, 3, 46, m.cea), sack))             //
	f.take(c.datagram(1, c.chunk(1, 3, 18, []byte("another thing")))) // of another protocol
	f.take(c.datagram(1, c.chunk(1, 3, 46, m.ia)))
	f.take(c.datagram(0, c.chunk(0, 2, 46, m.u[:100]))) // in three parts
	f.take(c.datagram(0, c.chunk(0, 0, 46, m.u[100:201]), sack))
	f.take(c.datagram(0, c.chunk(0, 1, 46, m.u[201:])))
	f.take(c.datagram(1, c.chunk(1, 3, 46, m.ua)))
	f.take(c.datagram(0, c.chunk(0, 2, 46, m.tr[:100])))
	c.seq[0]++ // a part is missing
	f.take(c.datagram(0, c.chunk(0, 1, 46, m.tr[100:])))
	f.take(c.datagram(1, c.chunk(1, 3, 46, m.ta)))
	f.take(c.datagram(0, c.chunk(0, 3, 46, []byte("no message"))))
	f.take(c.datagram(0, c.chunk(0, 3, 47, []byte("DTLS"))))
	packet := c.datagram(0, c.chunk(0, 3, 46, m.tr))
	f.cut = 200
	f.take(packet)
	f.cut = 0
	got, n := read(t, f.bytes())
	same(t, got, m.i, m.ia, m.u, m.ua)
	if n.Associations != 1 || n.Lost != 1 || n.Strays != 1 || n.Malformed != 1 || n.Encrypted != 1 || n.Cut != 1 || got[1].Frame != 6 {
		t.Errorf("%+v", n)
	}
}

// A capture on a host that sends tunnelled copies has the packets inside.
func TestTunnel(t *testing.T) {
	m := conversation(t)
	inner := newFilm(t, layers.LinkTypeEthernet, false)
	c := inner.talk("10.0.0.1:40000", "10.0.0.2:3868")
	f := newFilm(t, layers.LinkTypeEthernet, false)
	outer := f.talk("192.0.2.1:4789", "192.0.2.2:4789")
	for i, b := range [][]byte{m.cer, m.cea, m.i, m.ia} {
		for _, p := range c.cut(i%2, b) {
			ip := outer.network(0, layers.IPProtocolUDP)
			udp := &layers.UDP{SrcPort: 4789, DstPort: 4789}
			udp.SetNetworkLayerForChecksum(ip)
			f.take(outer.packet(ip, udp, append([]byte{8, 0, 0, 0, 0, 0, 5, 0}, p...)))
		}
	}
	got, _ := read(t, f.bytes())
	same(t, got, m.i, m.ia)
}

// A part of an IP packet is named, since what it carries is missing.
func TestFragments(t *testing.T) {
	f := newFilm(t, layers.LinkTypeRaw, false)
	c := f.talk("192.0.2.1:40000", "192.0.2.2:3868")
	ip := c.network(0, layers.IPProtocolTCP).(*layers.IPv4)
	ip.Flags = layers.IPv4MoreFragments
	f.take(c.packet(ip, gopacket.Payload(make([]byte, 32)), nil))
	if _, n := read(t, f.bytes()); n.Fragments != 1 {
		t.Errorf("%+v", n)
	}
}

func TestFiles(t *testing.T) {
	m := conversation(t)
	whole := func(ng bool) []byte {
		f := newFilm(t, layers.LinkTypeEthernet, ng)
		c := f.talk("192.0.2.1:40000", "192.0.2.2:3868")
		c.open()
		m.speak(c)
		return f.bytes()
	}
	zip := func(b []byte) []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		z.Write(b)
		z.Close()
		return out.Bytes()
	}
	head := func(order binary.ByteOrder, kind, length uint32) []byte {
		b := make([]byte, 8)
		order.PutUint32(b, kind)
		order.PutUint32(b[4:], length)
		return b
	}
	le := binary.LittleEndian
	ng := whole(true)
	section := le.Uint32(ng[4:])
	for _, c := range []struct {
		name   string
		file   []byte
		none   bool   // no capture
		count  int    // of exchanges
		damage string // what the reader says
	}{
		{"pcap in gzip", zip(whole(false)), false, 3, ""},
		{"pcapng in gzip", zip(ng), false, 3, ""},
		{"empty", nil, true, 0, ""},
		{"a text", []byte("kind: Tenant\nname: lab\n"), true, 0, ""},
		{"gzip of a text", zip([]byte("kind: Tenant\nname: lab\n")), true, 0, ""},
		{"only gzip's magic", []byte{0x1f, 0x8b, 0, 0}, true, 0, ""},
		{"pcap of another version", append([]byte{0xd4, 0xc3, 0xb2, 0xa1, 9}, make([]byte, 19)...), true, 0, ""},
		{"pcap, cut off in a packet", whole(false)[:len(whole(false))-30], false, 3, "unexpected EOF"},
		{"pcapng, cut off in a packet", ng[:len(ng)-30], false, 3, "the file ends in a block"},
		{"pcap with a packet of 4 GB", append(whole(false), 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), false, 3, "exceeds snap length"},
		{"pcapng with a block of 4 octets", slices.Concat(ng, head(le, 6, 4), ng), false, 3, "says that it is 4 octets long"},
		{"pcapng with a packet of 4 GB", append(bytes.Clone(ng), head(le, 6, 0xfffffffc)...), false, 3, "the file ends in a block"},
		{"pcapng with an interface of 1 GB", append(bytes.Clone(ng), head(le, 1, 1<<30)...), false, 3, "the file ends in a block"},
		{"pcapng with secrets and notes", slices.Concat(ng[:section], head(le, 10, 5000), make([]byte, 4992), ng[section:]), false, 3, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Open(bytes.NewReader(c.file))
			if c.none {
				if !errors.Is(err, ErrNoCapture) {
					t.Fatalf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			count := 0
			for {
				if _, err := r.Next(); err != nil {
					break
				}
				count++
			}
			if count != c.count || !strings.Contains(r.Counts.Damage, c.damage) || c.damage == "" && r.Counts.Damage != "" {
				t.Errorf("%d exchanges, %q", count, r.Counts.Damage)
			}
		})
	}
}

// A packet whose length is not that of its block is passed over, and the frames
// behind it keep their numbers.
func TestPacketsThatLie(t *testing.T) {
	m := conversation(t)
	f := newFilm(t, layers.LinkTypeEthernet, true)
	c := f.talk("192.0.2.1:40000", "192.0.2.2:3868")
	c.open()
	c.say(0, m.cer)
	c.say(1, m.cea)
	file := bytes.Clone(f.bytes())
	lie := make([]byte, 40)
	binary.LittleEndian.PutUint32(lie, blockEnhanced)
	binary.LittleEndian.PutUint32(lie[4:], 40)
	binary.LittleEndian.PutUint32(lie[20:], 1<<31)
	binary.LittleEndian.PutUint32(lie[24:], 1<<31)
	binary.LittleEndian.PutUint32(lie[36:], 40)
	long := make([]byte, 2<<20)
	copy(long, lie)
	binary.LittleEndian.PutUint32(long[4:], 2<<20)
	before := len(file)
	c.say(0, m.i)
	c.say(1, m.ia)
	file = slices.Concat(file, lie, long, f.bytes()[before:])
	got, n := read(t, file)
	same(t, got, m.i, m.ia)
	if n.Cut != 2 || got[0].Frame != 8 || n.Damage != "" {
		t.Errorf("%+v, frame %d", n, got[0].Frame)
	}
}

// An endless is a capture that goes on for as long as it is read: each packet
// begins a message on another connection, and ends none.
type endless struct {
	film    *film
	message []byte
	packets int
	rest    []byte
}

func (e *endless) Read(b []byte) (int, error) {
	for len(e.rest) == 0 {
		if e.packets == 0 {
			return 0, io.EOF
		}
		e.packets--
		c := e.film.talk(fmt.Sprintf("%s:%d", net.IPv4(10, byte(e.packets>>24), byte(e.packets>>16), byte(e.packets>>8)), 1024+e.packets&0xff), "192.0.2.2:3868")
		c.say(0, e.message)
		e.rest = bytes.Clone(e.film.buf.Bytes())
		e.film.buf.Reset()
	}
	n := copy(b, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// However much a capture begins and does not end, it takes up little memory.
func TestMemoryIsBounded(t *testing.T) {
	f := newFilm(t, layers.LinkTypeEthernet, false)
	message := append([]byte{1, 0, 0xff, 0xfc}, request(t, "ccr-i-magma-4rg", 1)[4:]...)
	message = append(message, make([]byte, 30_000)...)
	c, err := Open(&endless{film: f, message: message, packets: 20_000}) // 600 MB
	if err != nil {
		t.Fatal(err)
	}
	most := uint64(0)
	for n := 0; !c.ended; n++ {
		c.read()
		if n%1000 == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
		}
	}
	t.Logf("%d MiB at most, %+v", most>>20, c.Counts)
	if most > 300<<20 || c.Counts.Packets != 20_000 {
		t.Errorf("%d MiB", most>>20)
	}
}

// Any file ends in exchanges or in a word about it.
func FuzzRead(f *testing.F) {
	m := conversation(f)
	for _, ng := range []bool{false, true} {
		for _, link := range []layers.LinkType{layers.LinkTypeEthernet, layers.LinkTypeLinuxSLL2} {
			g := newFilm(f, link, ng)
			c := g.talk("192.0.2.1:40000", "[2001:db8::2]:3868")
			c.ip[0] = net.ParseIP("2001:db8::1")
			c.open()
			m.speak(c, 100, 400)
			s := g.talk("192.0.2.1:3906", "192.0.2.2:3868")
			g.take(s.datagram(0, s.chunk(0, 3, 46, m.i)))
			whole := bytes.Clone(g.bytes())
			f.Add(whole)
			f.Add(whole[:len(whole)-33])
			whole[len(whole)/2] ^= 0xff
			f.Add(whole)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Open(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrNoCapture) {
				t.Fatal(err)
			}
			return
		}
		for {
			x, err := c.Next()
			if err == io.EOF {
				break
			}
			if err != nil || x.Frame < 1 || x.Frame > c.Counts.Packets {
				t.Fatal(x.Frame, err)
			}
			message(x)
			w := Rewriter{Run: "1", Now: true}
			w.Mapping.Everybody("imsi:001010000000001")
			if out, err := w.to("h", "r").Request(x.Request, start); err == nil {
				if _, _, err := diameter.Frame(out, 1<<24); err != nil {
					t.Fatal(err)
				}
			}
		}
		if c.held != 0 {
			t.Fatalf("%d octets are held still", c.held)
		}
	})
}
