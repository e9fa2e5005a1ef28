package diameter

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A vector is one message of testdata/vectors: its bytes, and what a walker
// that shares no code with this package read from them.
type vector struct {
	ID     string
	Kind   string
	Hex    string
	Header struct {
		Application uint32
		Command     uint32
		EndToEnd    string `json:"end_to_end"`
		HopByHop    string `json:"hop_by_hop"`
		Flags       string
		Length      uint32
		Version     uint8
	}
	AVPs     []vectorAVP `json:"avps"`
	Expected map[string]any
}

type vectorAVP struct {
	Code, Vendor uint32
	Flags        string
	Length       int
	Name, Type   string
	Value        any
	ValueHex     string      `json:"value_hex"`
	AVPs         []vectorAVP `json:"avps"`
}

func vectors(t testing.TB) []vector {
	t.Helper()
	files, err := filepath.Glob("../testdata/vectors/*.json")
	if err != nil || len(files) < 60 {
		t.Fatalf("found %d vectors: %v", len(files), err)
	}
	var vs []vector
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var v vector
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		vs = append(vs, v)
	}
	return vs
}

func (v *vector) bytes(t testing.TB) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(v.Hex), ""))
	if err != nil {
		t.Fatalf("%s: %v", v.ID, err)
	}
	return b
}

func TestVectorsAreReadAsTheWalkerReadThem(t *testing.T) {
	for _, v := range vectors(t) {
		if v.Kind != "well-formed" {
			continue
		}
		t.Run(v.ID, func(t *testing.T) {
			m, rest, err := Frame(v.bytes(t), MessageMax)
			if err != nil || len(rest) != 0 {
				t.Fatalf("Frame: %v, %d octets left", err, len(rest))
			}
			if uint32(m.Command) != v.Header.Command || uint32(m.Application) != v.Header.Application ||
				m.Length != v.Header.Length || fmt.Sprintf("0x%02x", m.Flags) != v.Header.Flags ||
				fmt.Sprintf("0x%08x", m.HopByHop) != v.Header.HopByHop || fmt.Sprintf("0x%08x", m.EndToEnd) != v.Header.EndToEnd {
				t.Errorf("header is %+v, want %+v", m.Header, v.Header)
			}
			if err := m.Check(DefaultLimits); err != nil {
				t.Errorf("Check: %v", err)
			}
			sameAVPs(t, m.Body, v.AVPs)
		})
	}
}

func sameAVPs(t *testing.T, b []byte, want []vectorAVP) {
	t.Helper()
	for _, w := range want {
		a, rest, err := Next(b)
		if err != nil {
			t.Fatalf("before %s: %v", w.Name, err)
		}
		b = rest
		if a.Attr.Code() != w.Code || a.Attr.Vendor() != w.Vendor || len(a.Raw) != w.Length || flags(a.Flags) != w.Flags {
			t.Errorf("%s: got %d/%d %s length %d, want %d/%d %s length %d", w.Name,
				a.Attr.Vendor(), a.Attr.Code(), flags(a.Flags), len(a.Raw), w.Vendor, w.Code, w.Flags, w.Length)
		}
		if a.Attr.Type() == Grouped {
			sameAVPs(t, a.Data, w.AVPs)
			continue
		}
		if got, want := valueOf(t, &a, w.Type), w.text(); got != want {
			t.Errorf("%s: got %s, want %s", w.Name, got, want)
		}
	}
	if len(b) != 0 {
		t.Errorf("%d octets left over", len(b))
	}
}

func flags(f uint8) string {
	s := ""
	if f&FlagV != 0 {
		s += "V"
	}
	if f&FlagM != 0 {
		s += "M"
	}
	if s == "" {
		return "-"
	}
	return s
}

func (w *vectorAVP) text() string {
	switch v := w.Value.(type) {
	case nil:
		return w.ValueHex
	case float64:
		return strconv.FormatInt(int64(v), 10)
	case string:
		return v
	}
	return fmt.Sprint(w.Value)
}

// valueOf writes a's value as the walker does, in the format it names.
func valueOf(t *testing.T, a *AVP, kind string) string {
	t.Helper()
	switch kind {
	case "Unsigned32":
		v, err := a.Uint32()
		if err != nil {
			t.Error(err)
		}
		return strconv.FormatUint(uint64(v), 10)
	case "Enumerated", "Integer32":
		v, err := a.Uint32()
		if err != nil {
			t.Error(err)
		}
		return strconv.FormatInt(int64(int32(v)), 10)
	case "Unsigned64", "Integer64":
		v, err := a.Uint64()
		if err != nil {
			t.Error(err)
		}
		return strconv.FormatUint(v, 10)
	case "Time":
		v, err := a.Time()
		if err != nil {
			t.Error(err)
		}
		return v.Format(time.RFC3339)
	case "Address":
		v, err := a.Address()
		if err != nil {
			return "e164:" + string(a.Data[2:])
		}
		return v.String()
	case "OctetString":
		return hex.EncodeToString(a.Data)
	}
	return string(a.Data)
}

func TestVectorsAreEncodedAgainToTheSameBytes(t *testing.T) {
	same := 0
	for _, v := range vectors(t) {
		if v.Kind != "well-formed" {
			continue
		}
		want := v.bytes(t)
		m, _, _ := Frame(want, MessageMax)
		var e Encoder
		e.Reset(nil)
		e.begin(m.Header)
		encodeAgain(t, &e, m.Body)
		got := e.Bytes()
		for i := range got { // clients differ in which AVPs carry M
			if i < len(want) && got[i] != want[i] && got[i]^want[i] == FlagM {
				got[i] = want[i]
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s:\n got %x\nwant %x", v.ID, got, want)
		}
		same++
	}
	if same < 30 {
		t.Errorf("only %d vectors are well-formed", same)
	}
}

func encodeAgain(t *testing.T, e *Encoder, b []byte) {
	t.Helper()
	for len(b) > 0 {
		a, rest, err := Next(b)
		if err != nil {
			t.Fatal(err)
		}
		b = rest
		switch a.Attr.Type() {
		case Grouped:
			e.Open(a.Attr)
			encodeAgain(t, e, a.Data)
			e.Close()
		case Unsigned32, Integer32, Enumerated:
			e.Uint32(a.Attr, binary.BigEndian.Uint32(a.Data))
		case Unsigned64, Integer64:
			e.Uint64(a.Attr, binary.BigEndian.Uint64(a.Data))
		case Time:
			v, _ := a.Time()
			e.Time(a.Attr, v)
		case Address:
			if ip, err := a.Address(); err == nil {
				e.Address(a.Attr, ip)
				continue
			}
			e.Octets(a.Attr, a.Data)
		case UTF8String, DiameterIdentity, DiameterURI, IPFilterRule:
			e.String(a.Attr, string(a.Data))
		default:
			e.Octets(a.Attr, a.Data)
		}
	}
}

// What this layer must say of the malformed vectors.
func TestMalformedVectors(t *testing.T) {
	want := map[string]Result{
		"bad-avp-length-below-header": InvalidAVPLength, "bad-avp-length-past-end": InvalidAVPLength,
		"bad-avp-length-zero": InvalidAVPLength, "bad-empty-session-id": InvalidAVPValue,
		"bad-empty-unsigned32": InvalidAVPLength, "bad-garbage-http": UnsupportedVersion,
		"bad-length-16mib": InvalidMessageLength, "bad-length-not-multiple-of-4": InvalidMessageLength,
		"bad-missing-padding": InvalidAVPLength, "bad-missing-padding-odd-length": InvalidMessageLength,
		"bad-nested-length-past-parent": InvalidAVPLength, "bad-nesting-64": AVPOccursTooManyTimes,
		"bad-unknown-avp-m-bit": AVPUnsupported, "bad-unknown-vendor-avp-m-bit-nested": AVPUnsupported,
		"bad-version": UnsupportedVersion, "bad-wrong-size-unsigned32": InvalidAVPLength,
		"bad-truncated-stream": 0, "bad-avp-flag-v-vendor-zero": 0, "bad-duplicate-cc-request-number": 0,
		"bad-enum-cc-request-type-9": 0, "bad-missing-cc-request-type": 0, "bad-missing-service-context-id": 0,
		"bad-missing-session-id": 0, "bad-request-with-e-bit": 0, "bad-unknown-application": 0,
		"bad-unknown-command": 0, "bad-wrong-realm": 0, "ok-nonzero-padding": 0, "ok-reserved-flag-bits": 0,
		"ok-unknown-avp-no-m-bit": 0,
	}
	for _, v := range vectors(t) {
		if v.Kind == "well-formed" {
			continue
		}
		w, ok := want[v.ID]
		if !ok {
			t.Errorf("%s: nobody says what is expected", v.ID)
			continue
		}
		if got := resultOf(v.bytes(t)); got != w {
			t.Errorf("%s: got %v, want %v", v.ID, got, w)
		}
	}
}

// resultOf is what Frame or Check say of b; zero: nothing is wrong here.
func resultOf(b []byte) Result {
	m, _, err := Frame(b, MessageMax)
	if f, ok := err.(*FrameError); ok {
		return f.Result
	}
	if err != nil {
		return 0
	}
	if e := m.Check(DefaultLimits); e != nil {
		return e.Result
	}
	return 0
}

func TestRFC6733_7_1_5_MissingAVPHasAnExample(t *testing.T) {
	for attr, want := range map[Attr]string{
		CCRequestType:    "000001a0" + "40" + "00000c" + "00000000",
		ServiceContextID: "000001cd" + "40" + "000008",
	} {
		if got := hex.EncodeToString(Missing(attr).Failed); got != want {
			t.Errorf("%s: got %s, want %s", attr, got, want)
		}
	}
}

func TestTimesWrapIn2036(t *testing.T) {
	for _, s := range []string{"1970-01-01T00:00:00Z", "2026-11-24T00:00:00Z", "2036-02-07T06:28:15Z", "2036-02-07T06:28:16Z", "2050-01-01T00:00:00Z"} {
		want, _ := time.Parse(time.RFC3339, s)
		var e Encoder
		e.Reset(nil)
		e.Time(EventTimestamp, want)
		a, _, _ := Next(e.buf)
		if got, err := a.Time(); err != nil || !got.Equal(want) {
			t.Errorf("got %v, want %v (%v)", got, want, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, s := range []string{"192.0.2.1", "2001:db8::1"} {
		var e Encoder
		e.Reset(nil)
		e.Address(HostIPAddress, netip.MustParseAddr(s))
		a, _, _ := Next(e.buf)
		if got, err := a.Address(); err != nil || got.String() != s {
			t.Errorf("got %v %v, want %s", got, err, s)
		}
	}
}

func TestDecodingAllocatesNothing(t *testing.T) {
	for _, v := range vectors(t) {
		if v.Kind != "well-formed" {
			continue
		}
		b := v.bytes(t)
		if n := testing.AllocsPerRun(100, func() {
			m, _, _ := Frame(b, MessageMax)
			if m.Check(DefaultLimits) != nil {
				t.Fatal("refused")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", v.ID, n)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	for _, v := range vectors(b) {
		if v.ID != "ccr-i-magma-4rg" && v.ID != "ccr-i-open5gs" && v.ID != "ccr-u-pgw-tariff-change" {
			continue
		}
		b.Run(v.ID, func(b *testing.B) {
			msg := v.bytes(b)
			b.SetBytes(int64(len(msg)))
			b.ReportAllocs()
			for b.Loop() {
				m, _, _ := Frame(msg, MessageMax)
				m.Check(DefaultLimits)
			}
		})
	}
}
