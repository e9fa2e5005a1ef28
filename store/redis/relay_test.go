package redis

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
)

// relay stands between a store and its server, and swallows replies when told.
type relay struct {
	addr    string
	swallow atomic.Bool
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	r := &relay{addr: l.Addr().String()}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go r.serve(c, to)
		}
	}()
	return r
}

func (r *relay) serve(c net.Conn, to string) {
	defer c.Close()
	d, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer d.Close()
	go func() {
		io.Copy(d, c)
		d.Close()
	}()
	b := make([]byte, 64<<10)
	for {
		n, err := d.Read(b)
		if err != nil {
			return
		}
		if !r.swallow.Load() {
			c.Write(b[:n])
		}
	}
}
