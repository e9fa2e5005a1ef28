package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"rtm/store/embed"
)

// A stage is where the demo runs its instances A, B, C …
type stage interface {
	add(ctx context.Context, addr string) error // one more instance, which listens for Diameter on addr
	kill(n int) string                          // end instance n without any farewell, and say how
	api() string                                // a management interface that outlives the kill
	records() string
	memory() string
	close()
}

// freeAddrs are loopback addresses that nobody listens on.
func freeAddrs(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// inProcess is a stage of instances in this process on one embedded store.
type inProcess struct {
	cluster
	dir  string
	stop func()
}

// demoMemory is little, so that the buffers of the store are full early and the
// figure shows what grows.
const demoMemory = 8 << 20

func newInProcess(dir string) (*inProcess, error) {
	c := defaults()
	c.HTTP, c.Records = "127.0.0.1:0", dir+"/records"
	log := slog.New(slog.DiscardHandler)
	st, err := embed.Open(embed.Config{Dir: dir + "/data", Log: log, Memory: demoMemory})
	if err != nil {
		return nil, err
	}
	return &inProcess{cluster: cluster{config: c, store: st, learn: true, log: log}, dir: dir}, nil
}

func (s *inProcess) add(ctx context.Context, addr string) error {
	_, err := s.cluster.add(ctx, addr)
	if err == nil && s.stop == nil {
		s.stop, err = serveHTTP(&s.config, s.live, s.doors)
	}
	return err
}

func (s *inProcess) kill(n int) string {
	i := s.instances[n]
	for since := time.Now(); i.node.Counts.InFlight.Load() == 0 && time.Since(since) < time.Second; {
		<-time.After(50 * time.Microsecond) // a moment at which something is in hand that must be resent
	}
	i.kill()
	return "torn down: its connections are cut, nothing is handed over"
}

func (s *inProcess) api() string     { return "http://" + s.config.HTTP }
func (s *inProcess) records() string { return s.config.Records }

func (s *inProcess) memory() string {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return fmt.Sprintf("memory %d MiB, gateways and store included", m.HeapAlloc>>20)
}

func (s *inProcess) close() {
	s.leave()
	if s.stop != nil {
		s.stop()
	}
	s.store.Close()
}

// processes is a stage of one redis-server and a process per instance.
type processes struct {
	dir   string
	redis string
	cmds  []*exec.Cmd // the redis-server, then the instances
	http  []string
}

// redisProgram is a redis-server, or the same program under the name it has in
// Debian's redis-tools.
func redisProgram() (string, error) {
	for _, name := range []string{"redis-server", "redis-check-rdb"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("there is no redis-server: run make install")
}

func newProcesses(ctx context.Context, dir string) (*processes, error) {
	path, err := redisProgram()
	if err != nil {
		return nil, err
	}
	addrs, err := freeAddrs(1)
	if err != nil {
		return nil, err
	}
	s := &processes{dir: dir, redis: addrs[0]}
	_, port, _ := net.SplitHostPort(s.redis)
	cmd := exec.Command(path, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--dir", dir, "--loglevel", "warning")
	cmd.Args[0] = "redis-server"
	if err := s.start(cmd, "redis"); err != nil {
		return nil, err
	}
	return s, s.ready(ctx, "redis-server", func() bool {
		c, err := net.DialTimeout("tcp", s.redis, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// start runs a program whose words go to a file of the stage.
func (s *processes) start(cmd *exec.Cmd, name string) error {
	log, err := os.Create(filepath.Join(s.dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmds = append(s.cmds, cmd)
	return nil
}

// ready waits until something answers.
func (s *processes) ready(ctx context.Context, what string, ok func() bool) error {
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s did not answer within 10 s; its log is in %s", what, s.dir)
		}
	}
	return nil
}

func (s *processes) add(ctx context.Context, addr string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	free, err := freeAddrs(1)
	if err != nil {
		return err
	}
	name := string(rune('A' + len(s.http)))
	host := strings.ToLower(name) + ".ocs.rtm.localdomain"
	cmd := exec.Command(self, "serve", "--store", "redis://"+s.redis, "--name", name, "--peer-host", host,
		"--diameter", addr, "--http", free[0], "--records", s.records())
	s.http = append(s.http, "http://"+free[0])
	if err := s.start(cmd, name); err != nil {
		return err
	}
	return s.ready(ctx, "instance "+name, func() bool {
		res, err := http.Get("http://" + free[0] + "/readyz")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

func (s *processes) kill(n int) string {
	cmd := s.cmds[n+1]
	cmd.Process.Kill()
	cmd.Wait()
	return fmt.Sprintf("killed with -9 (process %d: %s)", cmd.Process.Pid, cmd.ProcessState.Sys().(syscall.WaitStatus).Signal())
}

func (s *processes) api() string     { return s.http[len(s.http)-1] }
func (s *processes) records() string { return filepath.Join(s.dir, "records") }

// memory is what the running instances keep resident.
func (s *processes) memory() string {
	var sizes []string
	for _, cmd := range s.cmds[1:] {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", cmd.Process.Pid))
		pages, resident := 0, 0
		if err != nil || cmd.ProcessState != nil {
			continue
		}
		fmt.Sscan(string(b), &pages, &resident)
		sizes = append(sizes, fmt.Sprint(resident*os.Getpagesize()>>20))
	}
	return "memory of each instance " + strings.Join(sizes, ", ") + " MiB"
}

func (s *processes) close() {
	for i := len(s.cmds) - 1; i >= 0; i-- {
		if s.cmds[i].ProcessState == nil {
			s.cmds[i].Process.Kill()
			s.cmds[i].Wait()
		}
	}
}
