package replay

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"rtm/diameter"
)

// vector is a message of testdata/vectors.
func vector(t testing.TB, id string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "testdata", "vectors", id+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ Hex string }
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	out, err := hex.DecodeString(strings.Join(strings.Fields(v.Hex), ""))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// request is a CCR of a session, with the Hop-by-Hop identifier hop.
func request(t testing.TB, id string, hop uint32) []byte {
	b := vector(t, id)
	binary.BigEndian.PutUint32(b[12:], hop)
	return b
}

// answer is the CCA to a CCR, with that Result-Code.
func answer(t testing.TB, ccr []byte, result diameter.Result) []byte {
	t.Helper()
	m, _, err := diameter.Frame(ccr, diameter.MessageMax)
	if err != nil {
		t.Fatal(err)
	}
	id, _ := diameter.Find(m.Body, diameter.SessionID)
	var e diameter.Encoder
	e.Reset(nil)
	e.Answer(&m.Header, 0)
	e.Octets(diameter.SessionID, id.Data)
	e.Uint32(diameter.ResultCode, uint32(result))
	return e.Bytes()
}

// start is when every capture of a test begins.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A film is a capture that a test writes.
type film struct {
	t     testing.TB
	link  layers.LinkType
	buf   bytes.Buffer
	write func(gopacket.CaptureInfo, []byte) error
	end   func() error
	at    time.Time
	cut   int // octets of a packet that are kept; zero: all
	frame int
}

func newFilm(t testing.TB, link layers.LinkType, ng bool) *film {
	t.Helper()
	f := &film{t: t, link: link, at: start, end: func() error { return nil }}
	if ng {
		w, err := pcapgo.NewNgWriter(&f.buf, link)
		if err != nil {
			t.Fatal(err)
		}
		f.write, f.end = w.WritePacket, w.Flush
		return f
	}
	w := pcapgo.NewWriter(&f.buf)
	if err := w.WriteFileHeader(65535, link); err != nil {
		t.Fatal(err)
	}
	f.write = w.WritePacket
	return f
}

// bytes is the file.
func (f *film) bytes() []byte {
	if err := f.end(); err != nil {
		f.t.Fatal(err)
	}
	return f.buf.Bytes()
}

// take writes one packet, a millisecond after the last one.
func (f *film) take(packet []byte) {
	f.t.Helper()
	f.at = f.at.Add(time.Millisecond)
	f.frame++
	whole := len(packet)
	if f.cut > 0 && f.cut < whole {
		packet = packet[:f.cut]
	}
	if err := f.write(gopacket.CaptureInfo{Timestamp: f.at, CaptureLength: len(packet), Length: whole}, packet); err != nil {
		f.t.Fatal(err)
	}
}

// wrap puts a link's header before an IP packet.
func (f *film) wrap(ip []byte, v6 bool) []byte {
	kind := []byte{0x08, 0x00}
	if v6 {
		kind = []byte{0x86, 0xDD}
	}
	switch f.link {
	case layers.LinkTypeEthernet:
		return append(append(make([]byte, 12), kind...), ip...)
	case layers.LinkTypeLinuxSLL:
		return append(append([]byte{0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0}, kind...), ip...)
	case layers.LinkTypeLinuxSLL2:
		return append(append(kind[:2:2], 0, 0, 0, 0, 0, 1, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0), ip...)
	case layers.LinkTypeNull:
		family := byte(2)
		if v6 {
			family = 10
		}
		return append([]byte{family, 0, 0, 0}, ip...)
	}
	return ip
}

// A talk is one connection or association of a film.
type talk struct {
	film *film
	ip   [2]net.IP
	port [2]uint16
	seq  [2]uint32
}

func (f *film) talk(from, to string) *talk {
	c := &talk{film: f, seq: [2]uint32{1000, 4_294_967_000}} // one of them wraps
	for i, a := range []string{from, to} {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			f.t.Fatal(err)
		}
		c.ip[i] = net.ParseIP(host)
		fmt.Sscan(port, &c.port[i])
	}
	return c
}

// network is the IP header of what end sends.
func (c *talk) network(end int, of layers.IPProtocol) gopacket.NetworkLayer {
	if src, dst := c.ip[end].To4(), c.ip[1-end].To4(); src != nil {
		return &layers.IPv4{Version: 4, TTL: 64, Protocol: of, SrcIP: src, DstIP: dst}
	}
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: of, SrcIP: c.ip[end], DstIP: c.ip[1-end]}
}

// segment is a packet of TCP.
func (c *talk) segment(end int, seq uint32, flags string, payload []byte) []byte {
	ip := c.network(end, layers.IPProtocolTCP)
	t := &layers.TCP{
		SrcPort: layers.TCPPort(c.port[end]), DstPort: layers.TCPPort(c.port[1-end]), Seq: seq, Ack: c.seq[1-end], Window: 1 << 15,
		SYN: strings.Contains(flags, "S"), FIN: strings.Contains(flags, "F"), RST: strings.Contains(flags, "R"), ACK: strings.Contains(flags, "A"),
	}
	if err := t.SetNetworkLayerForChecksum(ip); err != nil {
		c.film.t.Fatal(err)
	}
	return c.packet(ip, t, payload)
}

func (c *talk) packet(ip gopacket.NetworkLayer, t gopacket.SerializableLayer, payload []byte) []byte {
	b := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, opts, ip.(gopacket.SerializableLayer), t, gopacket.Payload(payload)); err != nil {
		c.film.t.Fatal(err)
	}
	return c.film.wrap(bytes.Clone(b.Bytes()), c.ip[0].To4() == nil)
}

// open is the handshake.
func (c *talk) open() {
	c.film.take(c.segment(0, c.seq[0], "S", nil))
	c.seq[0]++
	c.film.take(c.segment(1, c.seq[1], "SA", nil))
	c.seq[1]++
	c.film.take(c.segment(0, c.seq[0], "A", nil))
}

// cut makes the next segments of end, of these octets each, and does not take
// them.
func (c *talk) cut(end int, data []byte, sizes ...int) (packets [][]byte) {
	for i := 0; len(data) > 0; i++ {
		n := len(data)
		if len(sizes) > 0 {
			n = min(n, sizes[i%len(sizes)])
		}
		packets = append(packets, c.segment(end, c.seq[end], "A", data[:n]))
		c.seq[end] += uint32(n)
		data = data[n:]
	}
	return packets
}

// say takes data of end, in segments of these sizes.
func (c *talk) say(end int, data []byte, sizes ...int) {
	for _, p := range c.cut(end, data, sizes...) {
		c.film.take(p)
	}
}

// close ends both directions.
func (c *talk) close() {
	for end := range 2 {
		c.film.take(c.segment(end, c.seq[end], "FA", nil))
		c.seq[end]++
	}
}

// datagram is a packet of SCTP with these chunks.
func (c *talk) datagram(end int, chunks ...[]byte) []byte {
	head := binary.BigEndian.AppendUint16(nil, c.port[end])
	head = binary.BigEndian.AppendUint16(head, c.port[1-end])
	head = append(head, 0, 0, 0, 1, 0, 0, 0, 0)
	return c.packet(c.network(end, layers.IPProtocolSCTP), gopacket.Payload(head), bytes.Join(chunks, nil))
}

// chunk is a DATA chunk; flags: 3 is a whole message, 2 its beginning, 1 its end.
func (c *talk) chunk(end int, flags byte, as uint32, payload []byte) []byte {
	b := []byte{0, flags, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(16+len(payload)))
	b = binary.BigEndian.AppendUint32(b, c.seq[end])
	c.seq[end]++
	b = append(b, 0, 1, 0, 1)
	b = binary.BigEndian.AppendUint32(b, as)
	b = append(b, payload...)
	return append(b, make([]byte, -len(b)&3)...)
}

// read is all exchanges of a file.
func read(t testing.TB, file []byte, ports ...uint16) ([]*Exchange, *Counts) {
	t.Helper()
	c, err := Open(bytes.NewReader(file), ports...)
	if err != nil {
		t.Fatal(err)
	}
	var out []*Exchange
	for {
		x, err := c.Next()
		if err == io.EOF {
			return out, &c.Counts
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, x)
	}
}

// same fails the test unless the exchanges are these requests, each with its
// answer.
func same(t testing.TB, got []*Exchange, want ...[]byte) {
	t.Helper()
	if len(got) != len(want)/2 {
		t.Fatalf("%d exchanges, want %d", len(got), len(want)/2)
	}
	for i, x := range got {
		if !bytes.Equal(x.Request, want[2*i]) {
			t.Errorf("exchange %d, frame %d: the request is another one", i, x.Frame)
		}
		if !bytes.Equal(x.Answer, want[2*i+1]) {
			t.Errorf("exchange %d, frame %d: the answer has %d octets, want %d", i, x.Frame, len(x.Answer), len(want[2*i+1]))
		}
	}
}
