package rtmtest

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"
)

// A line is one connection to a redis-server.
type line struct {
	t testing.TB
	c net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *line {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &line{t, c, bufio.NewReader(c)}
}

// ask sends one command and waits for its reply.
func (l *line) ask(within time.Duration, args ...string) (string, error) {
	l.c.SetDeadline(time.Now().Add(within))
	fmt.Fprintf(l.c, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(l.c, "$%d\r\n%s\r\n", len(a), a)
	}
	reply, err := readReply(l.r, nil)
	if err != nil {
		return "", err
	}
	return reply[0], nil
}

func (l *line) want(want string, args ...string) {
	l.t.Helper()
	if got, err := l.ask(5*time.Second, args...); err != nil || got != want {
		l.t.Errorf("%v: %q, %v; want %q", args, got, err, want)
	}
}

// What the simulation's model and the store assume of a redis-server, from the
// server itself.
func TestWhatRedisPromises(t *testing.T) {
	n := NewNet(t)
	s := StartSentinels(t, n, 2, "min-replicas-to-write 0")
	master, replicas := s.Master(), s.Replicas()
	writer, idle := dial(t, master.own), dial(t, master.own)

	t.Run("a WAIT speaks for the writes of its own connection only", func(t *testing.T) {
		writer.want("OK", "SET", "a", "1")
		writer.want("2", "WAIT", "2", "2000")
		for _, r := range replicas {
			r.Freeze()
		}
		writer.want("OK", "SET", "a", "2")
		idle.want("2", "WAIT", "2", "100") // an old write's replicas, or none was needed
		writer.want("0", "WAIT", "1", "100")
		idle.want("2", "GET", "a") // visible, and at no replica
		idle.want("OK", "SET", "fence", "")
		idle.want("0", "WAIT", "1", "100") // so a write of its own makes a WAIT speak for what it has read
		for _, r := range replicas {
			r.Thaw()
		}
		idle.want("2", "WAIT", "2", "2000")
	})

	t.Run("Sentinels promote the replica that is furthest", func(t *testing.T) {
		s.Whole()
		master, replicas := s.Master(), s.Replicas()
		writer := dial(t, master.own)
		behind, ahead := replicas[0], replicas[1]
		heal := n.Part(Hole, []string{master.Name}, []string{behind.Name})
		writer.want("OK", "SET", "b", "1")
		writer.want("1", "WAIT", "2", "200")
		master.Kill()
		Within(t, 30*time.Second, "there is another master", func() bool { return s.Master() != nil && s.Master() != master })
		heal()
		if s.Master() != ahead {
			t.Errorf("%s was promoted, %s has all that was acknowledged", s.Master().Name, ahead.Name)
		}
		if b := ahead.Must("GET", "b"); b[0] != "1" {
			t.Errorf("b is %q at the new master", b)
		}
	})
}

// What comes through a network with each of its faults, and to whom.
func TestNetFaults(t *testing.T) {
	const quick = 200 * time.Millisecond
	n := NewNet(t)
	n.Join("me", os.Getpid)
	r := newNode(t, n, "server")
	r.configure(nil, "port "+r.port(), "dir "+r.dir)
	r.Start()
	silent := func(t *testing.T, l *line) {
		t.Helper()
		var timeout net.Error
		if got, err := l.ask(quick, "PING"); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%q, %v: want silence", got, err)
		}
	}
	dead := func(t *testing.T, l *line) {
		t.Helper()
		var timeout net.Error
		if got, err := l.ask(5*time.Second, "PING"); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%q, %v: want a reset", got, err)
		}
	}
	me, server := []string{"me"}, []string{"server"}

	t.Run("others are not concerned", func(t *testing.T) {
		defer n.Part(Hole, []string{"somebody"}, server)()
		dial(t, r.Addr).want("PONG", "PING")
	})
	t.Run("hole", func(t *testing.T) {
		l := dial(t, r.Addr)
		l.want("OK", "SET", "n", "1")
		heal := n.Part(Hole, me, server)
		silent(t, l)
		late := dial(t, r.Addr)
		silent(t, late)
		heal()
		Until(t, "what was sent into the hole comes out of it", func() bool {
			l.c.SetDeadline(time.Now().Add(time.Second))
			b := make([]byte, 7)
			_, err := l.c.Read(b)
			return err == nil && string(b) == "+PONG\r\n"
		})
		l.want("1", "GET", "n")
	})
	t.Run("deaf", func(t *testing.T) {
		l := dial(t, r.Addr)
		l.want("0", "EXISTS", "d")
		heal := n.Deafen(server, me)
		l.ask(quick, "SET", "d", "1")
		Until(t, "it was heard", func() bool { return r.Must("EXISTS", "d")[0] == "1" })
		heal()
	})
	t.Run("cut", func(t *testing.T) {
		l := dial(t, r.Addr)
		l.want("PONG", "PING")
		heal := n.Part(Cut, me, server)
		dead(t, l)
		if c, err := net.DialTimeout("tcp", r.Addr, time.Second); err == nil { // else it was reset before that
			dead(t, &line{t, c, bufio.NewReader(c)})
			c.Close()
		}
		heal()
		dial(t, r.Addr).want("PONG", "PING")
	})
	t.Run("lost", func(t *testing.T) {
		l := dial(t, r.Addr)
		l.want("PONG", "PING")
		n.Away(me, server, 300*time.Millisecond, 0)
		l.ask(10*time.Millisecond, "SET", "lost", "1") // it is still on its way
		heal := n.Part(Lost, me, server)
		r.Kill()
		silent(t, l)
		r.Start()
		heal()
		dead(t, l)
		if r.Must("EXISTS", "lost")[0] != "0" {
			t.Error("what was on its way has come")
		}
	})
	t.Run("slow", func(t *testing.T) {
		l := dial(t, r.Addr) // still 300 ms away, each direction
		defer n.Away(me, server, 0, 1000)()
		began := time.Now()
		l.want("PONG", "ECHO", "PONG")
		text := make([]byte, 500)
		l.want(string(text), "ECHO", string(text))
		if took := time.Since(began); took < 1200*time.Millisecond+900*time.Millisecond {
			t.Errorf("two round trips and 1,000 octets took %s", took)
		}
	})
}
