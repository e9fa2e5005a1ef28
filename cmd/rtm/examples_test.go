package main

import (
	"bytes"
	"math/rand/v2"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rtm/rtmtest"
)

// What `make redis-sentinel` and `make redis-cluster` start holds safe, as
// `rtm doctor redis` finds, is there again with what it stored when it is
// started a second time, and leaves nothing behind.
func TestExamplesOfRedisHoldSafe(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"sentinel", "cluster"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			port, dir := portsFor(t), t.TempDir()
			for range 2 {
				script := exec.Command("../../scripts/redis.sh", kind, strconv.Itoa(port), dir)
				out := &shared{}
				script.Stdout, script.Stderr = out, out
				if err := script.Start(); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- script.Wait() }()
				t.Cleanup(func() { script.Process.Signal(syscall.SIGTERM) })
				rtmtest.Within(t, time.Minute, "the script says that it is ready", func() bool { return strings.Contains(out.String(), "Ctrl-C") })
				_, url, _ := strings.Cut(out.String(), "ready: ")
				url, _, _ = strings.Cut(url, "\n")
				root := command()
				var told bytes.Buffer
				root.SetOut(&told)
				root.SetArgs([]string{"doctor", "redis", url})
				if err := root.ExecuteContext(t.Context()); err != nil || !strings.Contains(told.String(), "safe") {
					t.Errorf("rtm doctor redis %s: %v\n%s", url, err, told.String())
				}
				script.Process.Signal(syscall.SIGINT)
				if err := <-ended; err != nil {
					t.Fatalf("after Ctrl-C: %v\n%s", err, out.String())
				}
				for n := range 9 {
					if c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port+n)); err == nil {
						c.Close()
						t.Errorf("port %d is still served", port+n)
					}
				}
			}
		})
	}
}

// portsFor is the first of nine ports that nobody listens on, and that FreeAddr gives
// to nobody, as little as those 10,000 and 20,000 above them.
func portsFor(t *testing.T) int {
	t.Helper()
	for range 100 {
		first, free := 10_000+10*rand.IntN(200), true
		for n := 0; free && n < 9; n++ {
			l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(first+n))
			if free = err == nil; free {
				l.Close()
			}
		}
		if free {
			return first
		}
	}
	t.Fatal("no nine ports in a row are free")
	return 0
}

// shared is what a process writes while others read it.
type shared struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *shared) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
