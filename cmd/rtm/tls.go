package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"rtm/api"
)

// secured is what Diameter over TLS needs: where to listen, who this server is,
// and who says who gateways are (RFC 6733 §13.1). Empty: TLS is not spoken.
type secured struct {
	Listen      []string `yaml:"listen" json:"listen"`
	Certificate string   `yaml:"certificate" json:"certificate"`
	Key         string   `yaml:"key" json:"key"`
	CA          string   `yaml:"ca" json:"ca"`
}

// check reports what is missing.
func (s *secured) check() error {
	files := []string{s.Certificate, s.Key, s.CA}
	switch {
	case len(s.Listen) == 0 && slices.Equal(files, []string{"", "", ""}):
		return nil
	case len(s.Listen) == 0:
		return errors.New("tls.listen: name an address to listen on, such as 192.0.2.1:5868")
	}
	for i, name := range []string{"certificate", "key", "ca"} {
		if files[i] == "" {
			return fmt.Errorf("tls.%s: name the PEM file: gateways and server show each other certificates", name)
		}
	}
	return nil
}

// load reads the files. Both ends show certificates, TLS is 1.2 or newer. Errors
// say which file, and what to do.
func (s *secured) load() (*tls.Config, error) {
	own, err := tls.LoadX509KeyPair(s.Certificate, s.Key)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return nil, err
	case err != nil && strings.Contains(err.Error(), "private key does not match"):
		return nil, fmt.Errorf("the key in %s is not that of the first certificate in %s: put the server's own certificate first, or name its key", s.Key, s.Certificate)
	case err != nil:
		return nil, fmt.Errorf("%s, %s: %w", s.Certificate, s.Key, err)
	}
	pem, err := os.ReadFile(s.CA)
	if err != nil {
		return nil, err
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM: it must have those of the authorities that signed the gateways'", s.CA)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{own}, ClientCAs: authorities, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS12,
	}, nil
}

// stamp changes when one of the files does.
func (s *secured) stamp() (text string) {
	for _, f := range []string{s.Certificate, s.Key, s.CA} {
		if i, err := os.Stat(f); err == nil {
			text += fmt.Sprint(i.ModTime().UnixNano(), i.Size(), ";")
		}
	}
	return text
}

// stampEvery is how often, at most, the files are looked at: when somebody
// connects.
const stampEvery = time.Second

// A certifier gives new connections the certificates that the files hold now.
// Connections that are open keep theirs.
type certifier struct {
	secured
	log    *slog.Logger
	mu     sync.Mutex // guards all below
	config *tls.Config
	stamp  string
	looked time.Time
}

func newCertifier(s secured, log *slog.Logger) (*certifier, error) {
	c := &certifier{secured: s, log: log, stamp: s.stamp(), looked: time.Now()}
	var err error
	if c.config, err = s.load(); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return c, nil
}

// server is the configuration of a listener.
func (c *certifier) server() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return c.current(time.Now()), nil
	}}
}

// current is what the files hold, or held when they were last right.
func (c *certifier) current(now time.Time) *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.looked) < stampEvery {
		return c.config
	}
	c.looked = now
	stamp := c.secured.stamp()
	if stamp == c.stamp {
		return c.config
	}
	c.stamp = stamp
	fresh, err := c.load()
	if err != nil {
		c.log.Error("new certificates are not used; the old ones are, until the files change again", "error", err)
		return c.config
	}
	c.config = fresh
	c.log.Info("new certificates are in use for new connections", "certificate", c.Certificate, "until", expiry(fresh))
	return c.config
}

// expiry is when the server's own certificate ends.
func expiry(c *tls.Config) time.Time {
	if leaf := c.Certificates[0].Leaf; leaf != nil {
		return leaf.NotAfter
	}
	return time.Time{}
}

// unsecured says once for each address why its handshake failed.
func (d *door) unsecured(from netip.AddrPort, err error) {
	d.unwelcome.note(api.Refusal{Address: from.Addr().String(), Why: "its TLS handshake failed: " + err.Error(), Fix: tlsFix(err)})
	if d.strange.first(aboutTLS, from.Addr().String(), time.Now()) {
		d.strange.tell(aboutTLS, slog.LevelWarn, "a TLS handshake failed", "address", from, "error", err, "fix", tlsFix(err))
	}
}

// tlsFix is what to do about a handshake that failed.
func tlsFix(err error) string {
	var record tls.RecordHeaderError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &record):
		return "it does not speak TLS: it should, or connect to an address of diameter:"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate is not valid now: renew it, or set the clock"
	case errors.As(err, &x509.UnknownAuthorityError{}):
		return "its certificate is signed by nobody in tls.ca: add the authority's certificate to that file"
	case strings.Contains(err.Error(), "didn't provide a certificate"):
		return "give it a certificate: both ends must show one"
	case strings.Contains(err.Error(), "bad certificate"), strings.Contains(err.Error(), "unknown certificate"):
		return "it does not trust this server's certificate: give it the authority's, and look at the name in tls.certificate"
	case strings.Contains(err.Error(), "incompatible key usage"):
		return "its certificate is not for clients: it needs extendedKeyUsage clientAuth, or none"
	}
	return "compare what both ends are set to: TLS 1.2 or 1.3, certificates of each other's authority"
}

// tls looks at the certificates that the settings name.
func (d *doctor) tls() {
	s := &d.config.TLS
	if len(s.Listen) == 0 {
		return
	}
	c, err := s.load()
	if err != nil {
		d.fail("tls", "mend the files, or the settings tls.certificate, tls.key, tls.ca", "%v", err)
		return
	}
	leaf, now := c.Certificates[0].Leaf, time.Now()
	until := leaf.NotAfter.UTC().Format(time.DateOnly)
	switch {
	case now.After(leaf.NotAfter):
		d.fail("tls", "renew it: gateways refuse it", "the certificate in %s has ended on %s", s.Certificate, until)
	case now.Before(leaf.NotBefore):
		d.fail("tls", "look at the clock of this machine", "the certificate in %s begins on %s", s.Certificate, leaf.NotBefore.UTC().Format(time.DateOnly))
	case leaf.NotAfter.Sub(now) < certificateWarn:
		d.warn("tls", "renew it and replace the file: it is used without a restart", "the certificate in %s ends on %s", s.Certificate, until)
	default:
		d.ok("tls", "the certificate in %s is valid until %s", s.Certificate, until)
	}
	if err := leaf.VerifyHostname(d.config.PeerHost); err != nil {
		d.warn("tls", "have it issued for DNS:"+d.config.PeerHost+", the name in its CEA: gateways may compare",
			"the certificate in %s names %s, not %s", s.Certificate, few(leaf.DNSNames), d.config.PeerHost)
	}
	if !usable(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		d.fail("tls", "have it issued with extendedKeyUsage serverAuth, or none", "the certificate in %s is not for servers", s.Certificate)
	}
	if i, err := os.Stat(s.Key); err == nil && i.Mode().Perm()&0o007 != 0 {
		d.warn("tls", "chmod o-rwx "+s.Key, "every user of this machine may read the key in %s", s.Key)
	}
}

// certificateWarn is how long before its end a certificate is spoken of.
const certificateWarn = 30 * 24 * time.Hour

func usable(have []x509.ExtKeyUsage, want x509.ExtKeyUsage) bool {
	return len(have) == 0 || slices.Contains(have, want) || slices.Contains(have, x509.ExtKeyUsageAny)
}
