package redis

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
)

// A Mode is what an answer waits for.
type Mode string

// The modes. Each has its loss window in Loses.
const (
	Single Mode = "single" // one server: its reply
	Safe   Mode = "safe"   // every replica that could be promoted
	Safe1  Mode = "safe-1" // one replica
	Fast   Mode = "fast"   // the master's reply
)

// Modes are all modes, as they are written in settings.
var Modes = []Mode{Single, Safe, Safe1, Fast}

// Loses says in one sentence what answers can be lost in this mode.
func (m Mode) Loses() string {
	switch m {
	case Single:
		return "an instance that dies loses nothing; with the server's machine goes what its appendfsync had not written"
	case Safe:
		return "any single fault, also a failover for no reason, loses nothing that was answered"
	case Safe1:
		return "a process or machine that dies loses nothing; a failover while the master only paused may lose about a second of answers"
	case Fast:
		return "each failover loses the answers that no replica had yet, in a partition nearly all that the cut-off side gave"
	}
	return ""
}

// A place is where a store is, as its URL says.
type place struct {
	kind     kind
	addrs    []string // of servers, Sentinels or nodes to begin with
	master   string   // what the Sentinels call it
	db       int
	user     string
	password string
	sentinel struct{ user, password string }
	tls      *tls.Config
	strange  bool // servers off this machine may answer anybody
}

type kind string

const (
	alone      kind = "redis"
	bySentinel kind = "redis+sentinel"
	byCluster  kind = "redis+cluster"
)

// Forms are the URLs that name a store, for help texts and errors.
const Forms = "redis://[USER:PASSWORD@]HOST:PORT[/DB], redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT,HOST:PORT/MASTER or redis+cluster://[USER:PASSWORD@]HOST:PORT,HOST:PORT; rediss… for TLS"

// IsURL reports whether s is meant to name a Redis.
func IsURL(s string) bool { return strings.HasPrefix(s, "redis") && strings.Contains(s, "://") }

// Check reports what is wrong with a store's URL and the mode that it is asked
// for, without connecting; an empty mode is the default. It returns the mode that
// the store would run in.
func Check(text string, asked Mode) (Mode, error) {
	p, mode, err := parse(text)
	if err != nil {
		return "", err
	}
	if asked != "" {
		mode = asked
	}
	if mode != "" && !slices.Contains(Modes, mode) {
		return "", fmt.Errorf("durability %q is not one of %s", mode, modeNames())
	}
	return p.choose(mode)
}

// Shown is a store's URL without its passwords.
func Shown(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "a URL that cannot be read"
	}
	if q := u.Query(); q.Has("sentinel-password") {
		q.Set("sentinel-password", "xxxxx")
		u.RawQuery = q.Encode()
	}
	return u.Redacted()
}

// parse reads a store's URL. mode may also stand in it, as ?durability=MODE, and
// is then the second result.
//
// Options of all kinds: durability, and auth=none for a server off this machine
// that asks nobody who it is. Of Sentinel: sentinel-user,
// sentinel-password, db. With TLS: ca, cert and key, which are files, and
// server-name.
func parse(text string) (p place, mode Mode, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return p, "", fmt.Errorf("a store's URL is one of %s: %w", Forms, hidden(err))
	}
	scheme, secure := u.Scheme, false
	if rest, ok := strings.CutPrefix(scheme, "rediss"); ok {
		scheme, secure = "redis"+rest, true
	}
	p.kind = kind(scheme)
	if !slices.Contains([]kind{alone, bySentinel, byCluster}, p.kind) {
		return p, "", fmt.Errorf("%s:// names no store; it is one of %s", u.Scheme, Forms)
	}
	if u.User != nil {
		p.user = u.User.Username()
		p.password, _ = u.User.Password()
	}
	for _, a := range strings.Split(u.Host, ",") {
		if a, err = withPort(a, p.kind); err != nil {
			return p, "", err
		}
		p.addrs = append(p.addrs, a)
	}
	if p.kind == alone && len(p.addrs) != 1 {
		return p, "", errors.New("redis:// names one server; several are redis+sentinel:// or redis+cluster://")
	}
	path, q := strings.Trim(u.Path, "/"), u.Query()
	db := q.Get("db")
	switch p.kind {
	case alone:
		if path != "" {
			db = path
		}
	case bySentinel:
		if p.master = path; path == "" {
			return p, "", errors.New("redis+sentinel:// needs the master's name at its end: redis+sentinel://HOST:PORT,HOST:PORT,HOST:PORT/mymaster")
		}
		p.sentinel.user, p.sentinel.password = q.Get("sentinel-user"), q.Get("sentinel-password")
	case byCluster:
		if path != "" || db != "" {
			return p, "", errors.New("a cluster has one database: leave out what follows the addresses")
		}
	}
	if db != "" {
		if p.db, err = strconv.Atoi(db); err != nil || p.db < 0 {
			return p, "", fmt.Errorf("%q is not the number of a database", db)
		}
	}
	known := []string{"durability", "db", "sentinel-user", "sentinel-password", "ca", "cert", "key", "server-name", "auth"}
	for k := range q {
		if !slices.Contains(known, k) {
			return p, "", fmt.Errorf("?%s= is no option of a store; there are %s", k, strings.Join(known, ", "))
		}
	}
	if mode = Mode(q.Get("durability")); mode != "" && !slices.Contains(Modes, mode) {
		return p, "", fmt.Errorf("durability %q is not one of %s", mode, modeNames())
	}
	if p.strange = q.Get("auth") == "none"; q.Has("auth") && !p.strange {
		return p, "", errors.New("?auth=none is for a server that asks nobody who it is; any other has USER:PASSWORD@ in front of its address")
	}
	if secure {
		p.tls, err = secured(q)
	} else if q.Get("ca")+q.Get("cert")+q.Get("key")+q.Get("server-name") != "" {
		err = errors.New("ca, cert, key and server-name need rediss://, rediss+sentinel:// or rediss+cluster://")
	}
	return p, mode, err
}

func modeNames() string {
	names := make([]string, len(Modes))
	for i, m := range Modes {
		names[i] = string(m)
	}
	return strings.Join(names, ", ")
}

// hidden is err without the URL, which may hold a password.
func hidden(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

func withPort(addr string, k kind) (string, error) {
	if addr == "" {
		return "", fmt.Errorf("%s:// names no HOST:PORT", k)
	}
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return addr, nil
	}
	port := "6379"
	if k == bySentinel {
		port = "26379"
	}
	addr = net.JoinHostPort(strings.Trim(addr, "[]"), port)
	_, _, err := net.SplitHostPort(addr)
	return addr, err
}

// secured is the TLS of a client: 1.2 or newer, the machine's authorities unless
// ca names others, and a certificate of its own if one is given.
func secured(q url.Values) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: q.Get("server-name")}
	if ca := q.Get("ca"); ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s holds no certificate in PEM", ca)
		}
	}
	cert, key := q.Get("cert"), q.Get("key")
	if (cert == "") != (key == "") {
		return nil, errors.New("cert and key go together")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("cert, key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// choose is the mode that a store at p runs in, if asked for that one; none: the
// default.
func (p *place) choose(asked Mode) (Mode, error) {
	switch {
	case asked == "" && p.kind == alone:
		return Single, nil
	case asked == "":
		return Safe, nil
	case p.kind == alone && asked != Single:
		return "", fmt.Errorf("durability %s needs replicas that are promoted when the master fails, so redis+sentinel:// or redis+cluster://; redis:// is one server, and its mode is single", asked)
	case p.kind != alone && asked == Single:
		return "", fmt.Errorf("durability single is for redis://, one server without replicas; here it is %s, %s or %s", Safe, Safe1, Fast)
	}
	return asked, nil
}
