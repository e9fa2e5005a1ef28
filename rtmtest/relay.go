package rtmtest

import (
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// A Relay stands between a client and a server, on loopback: it can be far away,
// and it can swallow what the server says.
type Relay struct {
	Addr    string
	Swallow atomic.Bool // nothing of the server comes through
	delay   time.Duration
}

// StartRelay forwards connections to a server until the test ends; each
// direction takes delay longer.
func StartRelay(t testing.TB, to string, delay time.Duration) *Relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	r := &Relay{Addr: l.Addr().String(), delay: delay}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			go r.carry(c, s, nil)
			go r.carry(s, c, &r.Swallow)
		}
	}()
	return r
}

// parcel is what was read at once, and when it may go on.
type parcel struct {
	b  []byte
	at time.Time
}

// carry takes what from says to to, each octet as late as the relay is far.
func (r *Relay) carry(from, to net.Conn, swallow *atomic.Bool) {
	way := make(chan parcel, 1024)
	go func() {
		defer to.Close()
		for p := range way {
			if d := time.Until(p.at); d > 0 {
				<-time.After(d)
			}
			to.Write(p.b)
		}
	}()
	defer close(way)
	defer from.Close()
	for {
		b := make([]byte, 16<<10)
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if swallow == nil || !swallow.Load() {
			way <- parcel{b[:n], time.Now().Add(r.delay)}
		}
	}
}
