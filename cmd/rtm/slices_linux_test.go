package main

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rtm"
	"rtm/rtmtest"
)

// All threads of rtm serve have short time slices, those that it started later as
// well, where the system knows of such; and the lanes aside, but nobody else, have threads
// that others go before.
func TestServeHasShortSlices(t *testing.T) {
	api := rtmtest.FreeAddr(t)
	server := run(t, "serve", "--store", "embedded:"+t.TempDir(), "--diameter", rtmtest.FreeAddr(t), "--http", api, "--records", "")
	rtmtest.Until(t, "the server is ready", ready("http://"+api))
	sliceOf := func(thread int) time.Duration {
		a, err := unix.SchedGetAttr(thread, 0)
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(a.Runtime)
	}
	want := slice
	if sliceOf(0) == 0 { // before Linux 6.12
		want = 0
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", server.PID()))
	if err != nil || len(threads) < 4 {
		t.Fatalf("%d threads (%v)", len(threads), err)
	}
	aside := 0
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			t.Fatal(err)
		}
		if got := sliceOf(id); got != want {
			t.Errorf("thread %d of %d may run for %s, not %s", id, len(threads), got, want)
		}
		switch priority, err := unix.Getpriority(unix.PRIO_PROCESS, id); {
		case err != nil:
			t.Error(err)
		case priority == 20-asideNice: // what the system tells is 20 less how nice it is
			aside++
		case priority != 20:
			t.Errorf("thread %d is nice by %d", id, 20-priority)
		}
	}
	if aside != rtm.Asides {
		t.Errorf("%d threads let others go before, not one for each of the %d lanes aside", aside, rtm.Asides)
	}
}
