package rtmtest

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A Redis is a redis-server of a test's own.
type Redis struct {
	Addr string
	t    testing.TB
	dir  string
	args []string
	cmd  *exec.Cmd
}

// StartRedis runs a redis-server on a free loopback port until the test ends.
// Debian's redis-tools has the same program under another name.
func StartRedis(t testing.TB, args ...string) *Redis {
	t.Helper()
	r := &Redis{t: t, Addr: FreeAddr(t), dir: t.TempDir(), args: args}
	r.Start()
	t.Cleanup(r.Kill)
	return r
}

// FreeAddr is a loopback address that nobody listens on.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Start runs the server, also again after Kill, on the same files.
func (r *Redis) Start() {
	r.t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		if path, err = exec.LookPath("redis-check-rdb"); err != nil {
			r.t.Fatal("there is no redis-server: run make install")
		}
	}
	_, port, _ := net.SplitHostPort(r.Addr)
	r.cmd = exec.Command(path, append([]string{
		"--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", r.dir, "--loglevel", "warning",
	}, r.args...)...)
	r.cmd.Args[0] = "redis-server"
	r.cmd.Stderr = os.Stderr
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	Until(r.t, "redis-server answers", r.pong)
}

func (r *Redis) pong() bool {
	c, err := net.DialTimeout("tcp", r.Addr, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	c.Write([]byte("PING\r\n"))
	b := make([]byte, 7)
	n, _ := c.Read(b)
	return n >= 5 && string(b[:5]) == "+PONG"
}

// UsedMemory is what the server's data takes, as its INFO says (used_memory).
func (r *Redis) UsedMemory() (n int64) {
	r.t.Helper()
	c, err := net.DialTimeout("tcp", r.Addr, time.Second)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	c.Write([]byte("INFO memory\r\n"))
	for lines := bufio.NewScanner(c); lines.Scan(); {
		if k, v, _ := strings.Cut(lines.Text(), ":"); k == "used_memory" {
			n, _ = strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	r.t.Fatal("redis-server does not say what it uses")
	return 0
}

// PID is the server's process.
func (r *Redis) PID() int { return r.cmd.Process.Pid }

// Kill ends the server with SIGKILL.
func (r *Redis) Kill() {
	r.cmd.Process.Kill()
	r.cmd.Wait()
}

// Until waits, ten seconds at most, for something to come true.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within 10 s: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
