package peer

import (
	"net"
	"testing"

	"rtm/diameter"
)

// Whatever comes over a connection, before or after its CER, is cut into messages
// and answered, or ends it; nothing of it is a mistake of ours.
func FuzzConn(f *testing.F) {
	f.Add(cer("gw", 4), false)
	f.Add(append(cer("gw", 4), ccr(1)...), false)
	f.Add(append(cer("gw", 0xFFFFFFFF), plain(diameter.DisconnectPeer)...), false)
	for _, c := range []diameter.Command{diameter.CapabilitiesExchange, diameter.DeviceWatchdog, diameter.DisconnectPeer, diameter.ReAuth, 999} {
		f.Add(plain(c), true)
		b := plain(c)
		b[4] &^= diameter.FlagRequest
		f.Add(b, true)
	}
	f.Add(message(diameter.CapabilitiesExchange, 0, 1, func(e *diameter.Encoder) {
		for range 64 {
			e.String(diameter.OriginHost, "gw")
		}
	}), false)
	n, err := New(ours3, &host{receive: success})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, open bool) {
		near, other := net.Pipe()
		defer near.Close()
		defer other.Close()
		c := n.conn(near, false)
		if c.open.Store(open); open {
			c.waiting[77] = owed{token: ours(diameter.DeviceWatchdog)}
			c.waiting[78] = owed{token: ours(diameter.DisconnectPeer)}
		}
		was := n.Counts.Panics.Load()
		rest, batch, ok := c.cut(b, nil)
		for _, r := range batch {
			success(r)
		}
		if n.Counts.Panics.Load() != was {
			t.Fatal("a mistake of ours")
		}
		if ok && len(rest) > c.most() {
			t.Fatalf("%d octets wait for the rest of their message", len(rest))
		}
		for out := c.pending; len(out) > 0; {
			m, after, err := diameter.Frame(out, diameter.MessageMax)
			if err != nil {
				t.Fatalf("an answer cannot be read: %v", err)
			}
			out = after
			for body := m.Body; len(body) > 0; { // inside, a Failed-AVP is as it came
				var wrong *diameter.AVPError
				if _, body, wrong = diameter.Next(body); wrong != nil {
					t.Fatalf("an answer cannot be walked over: %v", wrong)
				}
			}
		}
		c.Close()
		c.gone()
	})
}
