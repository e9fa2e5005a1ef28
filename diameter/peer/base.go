package peer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"rtm/diameter"
)

// ours marks base requests of this node among those that wait for an answer.
type ours diameter.Command

const vendor3GPP = 10415

// encode writes one message of this layer and queues it. Only the goroutine that
// reads may.
func (c *Conn) encode(write func(e *diameter.Encoder)) {
	c.enc.Reset(c.scratch[:0])
	write(&c.enc)
	c.scratch = c.enc.Bytes()
	c.enqueue(c.scratch, time.Time{})
}

// origin writes who this end is, towards its neighbour.
func (c *Conn) origin(e *diameter.Encoder) {
	e.String(diameter.OriginHost, c.node.config.PeerHost)
	e.String(diameter.OriginRealm, c.node.config.Realm)
}

func (c *Conn) stateID(e *diameter.Encoder) {
	if c.node.config.OriginStateID != 0 {
		e.Uint32(diameter.OriginStateID, c.node.config.OriginStateID)
	}
}

// base deals with a request of base Diameter, or one that is nobody's. False:
// the connection must be closed.
func (c *Conn) base(m *diameter.Message) bool {
	if !c.open.Load() {
		return m.Command == diameter.CapabilitiesExchange && !c.dialled && c.capabilities(m)
	}
	if m.Flags&diameter.FlagError != 0 {
		c.misused()
		c.refuse(m, diameter.InvalidHdrBits)
		return true
	}
	if m.Application != diameter.ApplicationBase && m.Command != diameter.DeviceWatchdog {
		c.misused()
		c.refuse(m, diameter.ApplicationUnsupported)
		return true
	}
	if err := m.Check(diameter.DefaultLimits); err != nil {
		c.node.Counts.Malformed.Add(1)
		c.misused()
		c.failed(m, err)
		return true
	}
	switch m.Command {
	case diameter.DeviceWatchdog:
		c.answer(m, diameter.Success, c.stateID)
	case diameter.DisconnectPeer:
		c.leaving.Store(true)
		c.answer(m, diameter.Success, nil)
		if c.parting {
			c.misused()
			break
		}
		c.parting = true
		time.AfterFunc(c.node.config.SlowMax, c.Close) // who sent the DPR closes; not for ever
	case diameter.CapabilitiesExchange:
		c.misused()
		c.answer(m, diameter.UnableToComply, c.describe)
	case diameter.CreditControl, diameter.ReAuth, diameter.AbortSession:
		c.misused()
		c.refuse(m, diameter.ApplicationUnsupported)
	default:
		c.misused()
		c.refuse(m, diameter.CommandUnsupported)
	}
	return true
}

// answer answers a base request.
func (c *Conn) answer(m *diameter.Message, r diameter.Result, more func(e *diameter.Encoder)) {
	c.encode(func(e *diameter.Encoder) {
		flags := uint8(0)
		if r.Protocol() {
			flags = diameter.FlagError
		}
		e.Answer(&m.Header, flags)
		e.Uint32(diameter.ResultCode, uint32(r))
		c.origin(e)
		if more != nil {
			more(e)
		}
	})
}

// refuse answers with a protocol error.
func (c *Conn) refuse(m *diameter.Message, r diameter.Result) {
	c.encode(func(e *diameter.Encoder) { e.Refusal(m, r, c.answersAs(), c.node.config.Realm) })
}

// answersAs is the name in answers to applications' requests.
func (c *Conn) answersAs() string {
	if p, ok := c.Peer.(interface{ OriginHost() string }); ok {
		return p.OriginHost()
	}
	if c.node.config.OriginHost != "" {
		return c.node.config.OriginHost
	}
	return c.node.config.PeerHost
}

// failed answers a base request with an AVP that cannot be used.
func (c *Conn) failed(m *diameter.Message, err *diameter.AVPError) {
	c.answer(m, err.Result, func(e *diameter.Encoder) {
		if m.Command == diameter.CapabilitiesExchange && !err.Result.Protocol() {
			c.describe(e) // a CEA without these is none
		}
		if err.Failed != nil {
			e.Open(diameter.FailedAVP)
			e.Raw(err.Failed)
			e.Close()
		}
	})
}

// unframed answers, if it can, a message after which the stream cannot be cut
// any more; the connection is closed behind it.
func (c *Conn) unframed(err error) {
	var f *diameter.FrameError
	if !errors.As(err, &f) || f.Header.Flags&diameter.FlagRequest == 0 || f.Result != diameter.UnsupportedVersion || !c.open.Load() {
		return
	}
	c.answer(&diameter.Message{Header: f.Header}, f.Result, nil)
}

// capabilities answers a CER. False: it was refused, and the connection must
// be closed.
func (c *Conn) capabilities(m *diameter.Message) bool {
	refuse := func(r diameter.Result) bool {
		if r.Protocol() {
			c.answer(m, r, nil)
		} else {
			c.answer(m, r, c.describe)
		}
		c.node.Counts.Refused.Add(1)
		return false
	}
	if err := m.Check(diameter.DefaultLimits); err != nil {
		c.failed(m, err)
		return false
	}
	if twice, ok := again(m.Body, diameter.OriginHost, diameter.OriginRealm); ok {
		c.failed(m, twice.Fail(diameter.AVPOccursTooManyTimes))
		return false
	}
	common := c.identify(m)
	if c.Host == "" || c.Realm == "" {
		missing := diameter.OriginHost
		if c.Host != "" {
			missing = diameter.OriginRealm
		}
		c.failed(m, diameter.Missing(missing))
		return false
	}
	peer, refused := c.node.handler.Admit(c.Capabilities)
	switch {
	case refused != 0:
		return refuse(refused)
	case !common:
		return refuse(diameter.NoCommonApplication)
	case !c.node.admit(c, peer):
		return refuse(diameter.UnableToComply)
	}
	c.Peer = peer
	c.answer(m, diameter.Success, c.describe)
	c.opened()
	return true
}

// again is the second AVP of one of these names; false: each is there at most once.
func again(body []byte, names ...diameter.Attr) (twice diameter.AVP, ok bool) {
	for _, name := range names {
		met := false
		for b := body; len(b) > 0; {
			a, rest, err := diameter.Next(b)
			if err != nil {
				return a, false
			}
			if b = rest; a.Attr != name {
				continue
			}
			if met {
				return a, true
			}
			met = true
		}
	}
	return diameter.AVP{}, false
}

// identify reads who the other end is, and whether credit control or a relay
// is among its applications, in any of the ways clients name it.
func (c *Conn) identify(m *diameter.Message) (common bool) {
	application := func(a *diameter.AVP) bool {
		v, err := a.Uint32()
		return err == nil && (diameter.Application(v) == diameter.ApplicationCreditControl || diameter.Application(v) == diameter.ApplicationRelay)
	}
	for b := m.Body; len(b) > 0; {
		a, rest, err := diameter.Next(b)
		if err != nil {
			return common
		}
		b = rest
		switch a.Attr {
		case diameter.OriginHost:
			c.Host = string(a.Data)
		case diameter.OriginRealm:
			c.Realm = string(a.Data)
		case diameter.ProductName:
			c.Product = string(a.Data)
		case diameter.OriginStateID:
			c.OriginState, _ = a.Uint32()
		case diameter.AuthApplicationID, diameter.AcctApplicationID:
			common = common || application(&a)
		case diameter.VendorSpecificApplicationID:
			for _, id := range []diameter.Attr{diameter.AuthApplicationID, diameter.AcctApplicationID} {
				if v, ok := diameter.Find(a.Data, id); ok {
					common = common || application(&v)
				}
			}
		}
	}
	return common
}

// describe writes what CER and CEA say of this end, behind its origin.
func (c *Conn) describe(e *diameter.Encoder) {
	ip := netip.IPv4Unspecified()
	if ap, err := netip.ParseAddrPort(c.net.LocalAddr().String()); err == nil {
		ip = ap.Addr().Unmap()
	}
	e.Address(diameter.HostIPAddress, ip)
	e.Uint32(diameter.VendorID, 0)
	e.String(diameter.ProductName, c.node.config.Product)
	c.stateID(e)
	e.Uint32(diameter.SupportedVendorID, vendor3GPP)
	e.Uint32(diameter.AuthApplicationID, uint32(diameter.ApplicationCreditControl))
	e.Open(diameter.VendorSpecificApplicationID)
	e.Uint32(diameter.VendorID, vendor3GPP)
	e.Uint32(diameter.AuthApplicationID, uint32(diameter.ApplicationCreditControl))
	e.Close()
}

// opened begins the watchdog: capabilities are exchanged.
func (c *Conn) opened() {
	c.open.Store(true)
	c.node.heard(c)
	c.net.SetReadDeadline(time.Time{})
	c.out.Lock()
	defer c.out.Unlock()
	c.watch = time.AfterFunc(c.jittered(), c.watchdog)
}

// jittered is Tw with up to two seconds more or less (RFC 3539 §3.4.1).
func (c *Conn) jittered() time.Duration {
	tw := c.node.config.Watchdog
	j := min(2*time.Second, tw/5)
	return tw - j + rand.N(2*j+1)
}

// watchdog sends a DWR when nothing was heard for Tw; when nothing is heard
// after that either, the connection is closed.
func (c *Conn) watchdog() {
	quiet := time.Since(time.Unix(0, c.heard.Load()))
	switch {
	case quiet < c.node.config.Watchdog*4/5:
	case c.suspect.Load():
		c.Close()
		return
	default:
		c.suspect.Store(true)
		c.Send(ours(diameter.DeviceWatchdog), func(hop, end uint32) []byte {
			return c.baseRequest(diameter.DeviceWatchdog, hop, end, c.stateID)
		})
	}
	c.out.Lock()
	c.forgive()
	forgotten := c.takeForgotten()
	if !c.closed {
		c.watch.Reset(c.jittered())
	}
	c.out.Unlock()
	if h, ok := c.node.handler.(Forgetter); ok && len(forgotten) > 0 {
		h.Forgotten(c, forgotten)
	}
}

func (c *Conn) baseRequest(command diameter.Command, hop, end uint32, more func(e *diameter.Encoder)) []byte {
	var e diameter.Encoder
	e.Reset(nil)
	e.Request(command, diameter.ApplicationBase, 0, hop, end)
	c.origin(&e)
	more(&e)
	return e.Bytes()
}

// disconnect begins to leave: DPR REBOOTING, or a plain close before
// capabilities were exchanged.
func (c *Conn) disconnect() {
	if !c.open.Load() {
		c.Close()
		return
	}
	if c.leaving.Swap(true) {
		c.parted.Store(true)
		c.left()
		return
	}
	c.Send(ours(diameter.DisconnectPeer), func(hop, end uint32) []byte {
		return c.baseRequest(diameter.DisconnectPeer, hop, end, func(e *diameter.Encoder) {
			e.Uint32(diameter.DisconnectCause, 0) // REBOOTING
		})
	})
}

// left closes when the DPA is there and nothing is in hand any more.
func (c *Conn) left() {
	if c.parted.Load() && c.inFlight.Load() == 0 {
		c.finish()
	}
}

// basic takes the answer to a request of this layer.
func (c *Conn) basic(w ours, m *diameter.Message) {
	switch diameter.Command(w) {
	case diameter.DisconnectPeer:
		c.parted.Store(true)
		time.AfterFunc(c.node.config.LeaveMax, c.Close)
		c.left()
	case diameter.CapabilitiesExchange:
		c.ready <- c.accepted(m)
	case diameter.DeviceWatchdog, diameter.CreditControl, diameter.ReAuth, diameter.AbortSession:
	}
}

// accepted reads a CEA.
func (c *Conn) accepted(m *diameter.Message) error {
	r := diameter.Result(0)
	if a, ok := diameter.Find(m.Body, diameter.ResultCode); ok {
		v, _ := a.Uint32()
		r = diameter.Result(v)
	}
	if r != diameter.Success {
		return fmt.Errorf("the peer answered the CER with %s", r)
	}
	if !c.identify(m) {
		return errors.New("the peer does not speak credit control")
	}
	c.opened()
	return nil
}

// Dial connects to a server and exchanges capabilities.
func (n *Node) Dial(ctx context.Context, addr string) (*Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := n.conn(nc, true)
	c.ready = make(chan error, 2)
	n.mu.Lock()
	if n.leaving {
		n.mu.Unlock()
		nc.Close()
		return nil, net.ErrClosed
	}
	n.begin(c)
	n.mu.Unlock()
	c.Send(ours(diameter.CapabilitiesExchange), func(hop, end uint32) []byte {
		return c.baseRequest(diameter.CapabilitiesExchange, hop, end, c.describe)
	})
	select {
	case err = <-c.ready:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return c, nil
}
