package rtmtest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A Redis is a redis-server of a test's own, or a Sentinel.
type Redis struct {
	Name string // among its likes; empty: it is alone
	Addr string // where others reach it
	t    testing.TB
	own  string // where it listens
	dir  string
	args []string
	env  []string // of a clock that is off
	tls  *secured // nil: it speaks plain TCP
	cmd  *exec.Cmd
	pid  atomic.Int64

	ended <-chan struct{} // when the process is gone
}

// StartRedis runs a redis-server on a free loopback port until the test ends.
// Debian's redis-tools has the same program under another name.
func StartRedis(t testing.TB, args ...string) *Redis {
	t.Helper()
	addr := FreeAddr(t)
	r := &Redis{t: t, Addr: addr, own: addr, dir: t.TempDir()}
	r.args = append([]string{"--port", r.port(), "--bind", "127.0.0.1", "--save", "", "--dir", r.dir, "--loglevel", "warning"}, args...)
	t.Cleanup(r.Kill)
	r.Start()
	return r
}

// ports are this process' own: the first of them is listened on while it runs, so
// that no other process that tests takes any of them.
var ports struct {
	sync.Mutex
	next, end int
	locks     []net.Listener
}

// FreeAddr is a loopback address that nobody listens on, and that it gives only once,
// for a process that is about to be started: a child of this one may hold it for the
// moment between its fork and its exec.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l := Listen(t)
	l.Close()
	return l.Addr().String()
}

// Listen listens on a loopback port that this process uses only once. It is none that
// connections are made from, so that it is still free when a server comes back, and
// none of those from 10,000, 20,000 and 30,000 on that scripts/redis.sh is tried with.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	const first, many, each, gap = 12_000, 160, 100, 20_000
	ports.Lock()
	defer ports.Unlock()
	for range 100 * many {
		if ports.next == ports.end {
			block := first + each*rand.IntN(many)
			if block >= gap {
				block += first - 10_000
			}
			if l, err := net.Listen("tcp", loopback(block)); err == nil {
				ports.locks = append(ports.locks, l)
				ports.next, ports.end = block+1, block+each
			}
			continue
		}
		addr := loopback(ports.next)
		ports.next++
		if l, err := net.Listen("tcp", addr); err == nil {
			return l
		}
	}
	t.Fatal("no loopback port is free")
	return nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (r *Redis) port() string {
	_, port, _ := net.SplitHostPort(r.own)
	return port
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
	r.cmd = exec.Command(path, r.args...)
	r.cmd.Args[0] = "redis-server"
	r.cmd.Stderr, r.cmd.Env = os.Stderr, append(os.Environ(), r.env...)
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.pid.Store(int64(r.cmd.Process.Pid))
	cmd, ended := r.cmd, make(chan struct{})
	r.ended = ended
	go func() {
		cmd.Wait()
		close(ended)
	}()
	Within(r.t, time.Minute, "redis-server answers", func() bool {
		select {
		case <-ended:
			r.t.Fatalf("redis-server %s ended as it started: %s\n%s", r.Name, cmd.ProcessState, r.log())
		default:
		}
		return r.pong()
	})
}

// log is what the server has said, where that goes to a file.
func (r *Redis) log() []byte {
	text, _ := os.ReadFile(filepath.Join(r.dir, "log"))
	return text
}

// aheadC gives a program another time of day. It asks the kernel itself: a shim that
// calls the C library meets redis-server's allocator before that is ready.
const aheadC = `
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *t) {
	int failed = syscall(SYS_clock_gettime, id, t);
	if (!failed && id == CLOCK_REALTIME) t->tv_sec += atol(getenv("AHEAD"));
	return failed;
}
int gettimeofday(struct timeval *t, void *zone) {
	struct timespec s;
	int failed = clock_gettime(CLOCK_REALTIME, &s);
	t->tv_sec = s.tv_sec, t->tv_usec = s.tv_nsec / 1000;
	return failed;
}
time_t time(time_t *t) {
	struct timespec s;
	clock_gettime(CLOCK_REALTIME, &s);
	if (t) *t = s.tv_sec;
	return s.tv_sec;
}
`

// Ahead starts the server again with a clock that is some seconds ahead of the
// machine's.
func (r *Redis) Ahead(seconds int) {
	r.t.Helper()
	source, shim := filepath.Join(r.dir, "ahead.c"), filepath.Join(r.dir, "ahead.so")
	if err := os.WriteFile(source, []byte(aheadC), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-o", shim, source).CombinedOutput(); err != nil {
		r.t.Fatalf("%v %s: run make install", err, out)
	}
	r.env = []string{"LD_PRELOAD=" + shim, fmt.Sprintf("AHEAD=%d", seconds)}
	r.Kill()
	r.Start()
}

// dial connects to it past every relay.
func (r *Redis) dial() (net.Conn, error) {
	if r.tls == nil {
		return net.DialTimeout("tcp", r.own, time.Second)
	}
	return tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", r.own, r.tls.client)
}

func (r *Redis) pong() bool {
	c, err := r.dial()
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
	n, err := strconv.ParseInt(r.Info("memory")["used_memory"], 10, 64)
	if err != nil {
		r.t.Fatal("redis-server does not say what it uses")
	}
	return n
}

// Info is a section of its INFO; empty: it does not answer.
func (r *Redis) Info(section string) map[string]string {
	info := make(map[string]string)
	text, _ := r.Ask("INFO", section)
	for line := range strings.Lines(strings.Join(text, "")) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[k] = v
		}
	}
	return info
}

// Ask sends one command past every relay, and gives the strings of its reply.
// (RESP2)
func (r *Redis) Ask(args ...string) ([]string, error) {
	c, err := r.dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	if len(args) > 0 && strings.EqualFold(args[0], "WAIT") {
		c.SetDeadline(time.Now().Add(10 * time.Second))
	}
	fmt.Fprintf(c, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(c, "$%d\r\n%s\r\n", len(a), a)
	}
	return readReply(bufio.NewReader(c), nil)
}

// Must is Ask, where anything but an answer fails the test.
func (r *Redis) Must(args ...string) []string {
	r.t.Helper()
	reply, err := r.Ask(args...)
	if err != nil {
		r.t.Fatalf("%s %v: %v", r.Name, args, err)
	}
	return reply
}

// readReply appends the strings of one reply, whatever is nested in what.
func readReply(b *bufio.Reader, to []string) ([]string, error) {
	line, err := b.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return nil, errors.New("an empty reply")
	}
	n, _ := strconv.Atoi(line[1:])
	switch line[0] {
	case '-':
		return nil, errors.New(line[1:])
	case '$':
		if n < 0 {
			return append(to, ""), nil
		}
		text := make([]byte, n+2)
		if _, err := io.ReadFull(b, text); err != nil {
			return nil, err
		}
		return append(to, string(text[:n])), nil
	case '*':
		for range n {
			if to, err = readReply(b, to); err != nil {
				return nil, err
			}
		}
		return to, nil
	}
	return append(to, line[1:]), nil
}

// PID is the server's process, the last one if it was killed.
func (r *Redis) PID() int { return int(r.pid.Load()) }

// Kill ends the server with SIGKILL.
func (r *Redis) Kill() {
	if r.ended == nil {
		return
	}
	r.cmd.Process.Kill()
	<-r.ended
}

// Freeze stops the process where it is (SIGSTOP), until Thaw.
func (r *Redis) Freeze() {
	r.t.Helper()
	Freeze(r.t, r.cmd.Process)
}

// Freeze stops a process where it is (SIGSTOP), and sees it stand.
func Freeze(t testing.TB, p *os.Process) {
	t.Helper()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatalf("process %d is not stopped: %v", p.Pid, err)
	}
	Until(t, "the process stands still", func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
		_, state, ok := strings.Cut(string(text), ") ")
		return err == nil && ok && strings.HasPrefix(state, "T")
	})
}

// Thaw lets it go on (SIGCONT).
func (r *Redis) Thaw() { r.cmd.Process.Signal(syscall.SIGCONT) }

// Until waits, half a minute at most, for something to come true.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	Within(t, 30*time.Second, what, ok)
}

// Within waits, d at most, for something to come true.
func Within(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s", d, what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
