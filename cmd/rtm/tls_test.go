package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rtm/diameter"
	"rtm/diameter/peer"
	"rtm/rtmtest"
	"rtm/store/storetest"
)

// authority signs certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	last int64
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	return a
}

// sign signs a certificate with a new key; nil: with that key itself.
func (a *authority) sign(c *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	a.last++
	c.SerialNumber, c.Subject = big.NewInt(a.last), pkix.Name{CommonName: "test"}
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(90 * 24 * time.Hour)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// issue makes a certificate for those names.
func (a *authority) issue(names ...string) tls.Certificate {
	c, key := a.sign(&x509.Certificate{DNSNames: names}, a)
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}

// write puts certificate and key into files, and says which.
func (a *authority) write(dir string, c tls.Certificate) secured {
	a.t.Helper()
	s := secured{Certificate: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), CA: filepath.Join(dir, "ca.pem")}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, b := range map[string]*pem.Block{
		s.Certificate: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, s.Key: {Type: "PRIVATE KEY", Bytes: key},
		s.CA: {Type: "CERTIFICATE", Bytes: a.cert.Raw},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(b), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return s
}

// client is what a gateway with that certificate is set to.
func (a *authority) client(cs ...tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	return &tls.Config{RootCAs: roots, ServerName: "a.ocs.rtm.localdomain", Certificates: cs}
}

// securedLab is a lab that speaks TLS beside plain TCP, and lets nobody in whom it
// does not know.
func securedLab(t testing.TB, a *authority) (l *lab, addr string, files secured, log *lockedBuffer) {
	t.Helper()
	files = a.write(t.TempDir(), a.issue("a.ocs.rtm.localdomain"))
	files.Listen = []string{"127.0.0.1:0"}
	l = startLab(t, storetest.NewMemory(), 1, func(c *config) { c.TLS = files })
	log = &lockedBuffer{}
	d := l.instances[0].door
	d.learn, d.log = false, slog.New(slog.NewTextHandler(log, nil))
	l.apply(t, "../../examples/lab.yaml")
	return l, l.instances[0].addrs[1], files, log
}

// lockedBuffer is a log that a test reads.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// declare applies documents, and waits until all instances have them.
func (l *lab) declare(t testing.TB, doc string) {
	t.Helper()
	r := remote{url: l.api}
	if err := r.call(t.Context(), "POST", "/v1/apply", http.Header{"Content-Type": {"application/yaml"}}, strings.NewReader(doc), nil); err != nil {
		t.Fatal(err)
	}
	if !l.live()[0].Await(t.Context()) {
		t.Fatal("not all instances have the documents")
	}
}

// A gateway with TLS is who its certificate says.
func TestCertificatesNameTheirPeer(t *testing.T) {
	a := newAuthority(t)
	l, addr, _, log := securedLab(t, a)
	l.declare(t, `{kind: Peer, host: pgw.epc, realm: epc, sources: [127.0.0.0/8], tenants: [lab]}
---
{kind: Peer, host: smf.epc, realm: epc, certificate: smf.site.example, tenants: [lab]}
---
{kind: Peer, host: far.epc, realm: epc, sources: [192.0.2.0/24], tenants: [lab]}`)
	core := l.instances[0].core
	rtmtest.Until(t, "the peers are known", func() bool { return len(core.Catalogue().Peers()) >= 3 })
	own, other := a.issue("pgw.epc"), a.issue("smf.site.example")
	for _, c := range []struct {
		why    string
		host   string
		cert   *tls.Certificate
		result int
	}{
		{"its certificate has its name", "pgw.epc", &own, 2001},
		{"its certificate has another name", "pgw.epc", &other, 3010},
		{"its certificate has the name in its document", "smf.epc", &other, 2001},
		{"its certificate is another peer's", "smf.epc", &own, 3010},
		{"its certificate has its name, but its address is another's", "far.epc", &own, 3010},
		{"its address is right, without TLS", "pgw.epc", nil, 2001},
		{"its document wants a certificate, and it has no TLS", "smf.epc", nil, 3010},
	} {
		conn, err := net.Dial("tcp", l.targets[0])
		if c.cert != nil {
			conn, err = tls.Dial("tcp", addr, a.client(*c.cert))
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, got := introduce(t, conn, c.host, "epc"); got != c.result {
			t.Errorf("%s: %d, want %d", c.why, got, c.result)
		}
	}
	rtmtest.Until(t, "the log says what would let a peer in", func() bool {
		return strings.Contains(log.String(), "host: smf.epc, realm: epc, certificate: pgw.epc")
	})
	// Over the connection that is its own it speaks for nobody else.
	conn, err := tls.Dial("tcp", addr, a.client(own))
	if err != nil {
		t.Fatal(err)
	}
	w, _ := introduce(t, conn, "pgw.epc", "epc")
	if got := number(w.exchange(ccr("smf.epc", "epc", "s;1", 1, 0, 0)).Body, diameter.ResultCode); got != 5004 {
		t.Errorf("in the name of another: %d", got)
	}
	if got := number(w.exchange(ccr("pgw.epc", "epc", "s;1", 1, 0, 0)).Body, diameter.ResultCode); got != 2001 {
		t.Errorf("in its own name: %d", got)
	}
	if got := l.instances[0].door.Counts.Spoofed.Load(); got != 1 {
		t.Errorf("%d were counted", got)
	}
}

// Without a certificate of the authority, or with an old TLS, nobody gets as far
// as a CER, and the log says what to do.
func TestHandshakesThatFail(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	l, addr, _, log := securedLab(t, a)
	l.declare(t, `{kind: Peer, host: pgw.epc, realm: epc, sources: [127.0.0.0/8], tenants: [lab]}`)
	node := l.instances[0].node
	own := a.issue("pgw.epc")
	old := a.client(own)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	for n, c := range []struct {
		why  string
		conf *tls.Config
	}{
		{"no certificate", a.client()}, {"a stranger's certificate", a.client(stranger.issue("pgw.epc"))}, {"TLS 1.1", old},
	} {
		conn, err := tls.Dial("tcp", addr, c.conf)
		if err == nil {
			if _, got := introduce(t, conn, "pgw.epc", "epc"); got != 0 {
				t.Errorf("%s: %d", c.why, got)
			}
		}
		rtmtest.Until(t, c.why+" is counted", func() bool { return node.Counts.Limits[peer.LimitTLS].Load() == int64(n+1) })
	}
	rtmtest.Until(t, "the log says what to do", func() bool { return strings.Contains(log.String(), "both ends must show one") })
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		conf := a.client(own)
		conf.MinVersion, conf.MaxVersion = version, version
		conn, err := tls.Dial("tcp", addr, conf)
		if err != nil {
			t.Fatal(err)
		}
		rtmtest.Until(t, "the peer is known", func() bool { return len(l.instances[0].core.Catalogue().Peers()) > 0 })
		if _, got := introduce(t, conn, "pgw.epc", "epc"); got != 2001 {
			t.Errorf("%s: %d", tls.VersionName(version), got)
		}
	}
}

// New files are used for new connections, while open ones go on; files that are
// wrong change nothing.
func TestCertificatesAreReplaced(t *testing.T) {
	a := newAuthority(t)
	l, addr, files, _ := securedLab(t, a)
	l.declare(t, `{kind: Peer, host: pgw.epc, realm: epc, sources: [127.0.0.0/8], tenants: [lab]}`)
	rtmtest.Until(t, "the peer is known", func() bool { return len(l.instances[0].core.Catalogue().Peers()) > 0 })
	own := a.issue("pgw.epc")
	serial := func() int64 {
		conn, err := tls.Dial("tcp", addr, a.client(own))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	first := serial()
	conn, err := tls.Dial("tcp", addr, a.client(own))
	if err != nil {
		t.Fatal(err)
	}
	w, _ := introduce(t, conn, "pgw.epc", "epc")
	next := a.issue("a.ocs.rtm.localdomain")
	a.write(filepath.Dir(files.Certificate), next)
	rtmtest.Until(t, "the new certificate is used", func() bool { return serial() == next.Leaf.SerialNumber.Int64() })
	if got := number(w.exchange(ccr("pgw.epc", "epc", "s;1", 1, 0, 0)).Body, diameter.ResultCode); got != 2001 {
		t.Errorf("the open connection: %d", got)
	}
	if err := os.WriteFile(files.Key, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newCertifier(files, quiet(t)); err == nil {
		t.Error("a server starts without its key")
	}
	a.write(filepath.Dir(files.Certificate), next)
	var log lockedBuffer
	c, err := newCertifier(files, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.Certificate, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(2 * stampEvery)
	if got := c.current(soon).Certificates[0].Leaf.SerialNumber; got.Cmp(next.Leaf.SerialNumber) != 0 || !strings.Contains(log.String(), "not used") {
		t.Errorf("certificate %s is used; log: %s", got, &log)
	}
	renewed := a.issue("a.ocs.rtm.localdomain")
	a.write(filepath.Dir(files.Certificate), renewed)
	if got := c.current(soon.Add(2 * stampEvery)).Certificates[0].Leaf.SerialNumber; got.Cmp(renewed.Leaf.SerialNumber) != 0 || first == got.Int64() {
		t.Errorf("certificate %s is used after the files are right again", got)
	}
}

func TestDoctorLooksAtCertificates(t *testing.T) {
	t.Chdir(t.TempDir())
	a := newAuthority(t)
	dir, addr := t.TempDir(), rtmtest.FreeAddr(t)
	flags := func(s secured) []string {
		return []string{"--tls-listen", addr, "--tls-certificate", s.Certificate, "--tls-key", s.Key, "--tls-ca", s.CA}
	}
	report, code := examined(t, flags(a.write(dir, a.issue("ocs.rtm.localdomain")))...)
	if wants(t, report, "ok  tls", "is valid until"); code != 0 {
		t.Errorf("exit %d", code)
	}
	report, _ = examined(t, flags(a.write(dir, a.issue("other.example")))...)
	wants(t, report, "warn  tls", "names other.example, not ocs.rtm.localdomain", "have it issued for DNS:ocs.rtm.localdomain")
	past, key := a.sign(&x509.Certificate{DNSNames: []string{"ocs.rtm.localdomain"}, NotAfter: time.Now().Add(-time.Hour)}, a)
	s := a.write(dir, tls.Certificate{Certificate: [][]byte{past.Raw}, PrivateKey: key})
	report, code = examined(t, flags(s)...)
	if wants(t, report, "FAIL  tls", "has ended on"); code != exitFailed {
		t.Errorf("exit %d", code)
	}
	if err := os.WriteFile(s.CA, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	report, _ = examined(t, flags(s)...)
	wants(t, report, "FAIL  tls", "holds no certificate in PEM")
	good := a.issue("ocs.rtm.localdomain")
	a.write(dir, good)
	strange, err := x509.MarshalPKCS8PrivateKey(a.issue("x").PrivateKey)
	if err = errors.Join(err, os.WriteFile(s.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: strange}), 0o600)); err != nil {
		t.Fatal(err)
	}
	report, _ = examined(t, flags(s)...)
	wants(t, report, "FAIL  tls", "is not that of the first certificate")
}
