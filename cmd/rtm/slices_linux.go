package main

import (
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// slice is how long the system lets a thread of this process run in one go, while
// others wait for the processor. Its own default, one to three milliseconds, is what a
// message waits for at each of its steps while all processors are busy.
const slice = 200 * time.Microsecond

// shortSlices asks the system for short time slices for all threads of the process,
// which those begin with that it starts later. Linux knows them from 6.12 on; before,
// nothing changes.
func shortSlices() {
	for range 2 { // a thread may have been started by one that was not done yet
		threads, _ := os.ReadDir("/proc/self/task")
		for _, t := range threads {
			id, err := strconv.Atoi(t.Name())
			if err != nil {
				continue
			}
			a, err := unix.SchedGetAttr(id, 0)
			if err != nil || a.Policy != unix.SCHED_NORMAL {
				continue
			}
			a.Runtime, a.Deadline, a.Period = uint64(slice), 0, 0
			unix.SchedSetAttr(id, a, 0)
		}
	}
}

// asideNice is how nice a thread aside is: beside one that is not, it gets a tenth of a
// processor that both want.
const asideNice = 10

// stepAside gives a goroutine a thread of its own, which gets what the process's others
// leave of the processor while that is full. The system's answer does not matter:
// where it refuses, nothing changes.
func stepAside() {
	runtime.LockOSThread()
	unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), asideNice)
}
