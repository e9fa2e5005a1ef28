package rtmtest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rtm/store/redis"
)

// quorum is the one of store/redis.
type quorum struct{ *redis.Quorum }

func init() { NewQuorum = func() Quorum { return quorum{&redis.Quorum{}} } }

func (q quorum) Proves(have, need int, all map[string]int64) bool {
	var list []redis.Acked
	for addr, offset := range all {
		list = append(list, redis.Acked{Addr: addr, Offset: offset})
	}
	return redis.Proves(have, need, q.Names(), list)
}

func (q quorum) Inherit(addr string) Quorum { return quorum{q.Quorum.Inherit(addr)} }

func (q quorum) Hear(watchers int, heard [][]Replica, attached []string) {
	lists := make([][]redis.Replica, len(heard))
	for i := range heard {
		for _, r := range heard[i] {
			lists[i] = append(lists[i], redis.Replica(r))
		}
	}
	q.Quorum.Hear(watchers, lists, attached)
}

var (
	seedFlag     = flag.Uint64("seed", 0, "simulate this seed only")
	seedsFlag    = flag.Uint64("seeds", 3000, "how many seeds to simulate")
	fromFlag     = flag.Uint64("from", 1, "the first of them")
	forFlag      = flag.Duration("for", 0, "go on with further seeds for that long")
	bugFlag      = flag.String("bug", "", "a mistake to plant")
	withoutFlag  = flag.String("without", "", "faults that do not happen")
	sessionsFlag = flag.Int("sessions", 0, "at most that many sessions")
	gatewaysFlag = flag.Int("gateways", 0, "at most that many gateways")
	untilFlag    = flag.Duration("until", 0, "traffic ends by then")
	traceFlag    = flag.Bool("trace", false, "tell what happens")
)

// kept is where worlds that once failed are kept.
const kept = "testdata/seeds"

// each runs consecutive seeds, on all cores, until run says no. A world is small
// and leaves much behind: it is collected less often than usual.
func each(from, count uint64, run func(seed uint64) bool) {
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	var next atomic.Uint64
	next.Store(from)
	var all sync.WaitGroup
	var stop atomic.Bool
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for !stop.Load() {
				seed := next.Add(1) - 1
				if seed >= from+count {
					return
				}
				if !run(seed) {
					stop.Store(true)
				}
			}
		})
	}
	all.Wait()
}

// TestSeed simulates worlds. One that fails is shrunk and kept.
func TestSeed(t *testing.T) {
	if *seedFlag != 0 {
		one(t)
		return
	}
	t.Run("kept", func(t *testing.T) {
		files, err := filepath.Glob(kept + "/*.txt")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			w, err := ParseWorld(string(b))
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if failures, _ := Run(w); len(failures) > 0 {
				t.Errorf("%s: %s\nagain with: %s", file, failures[0], w.Flags())
			}
		}
	})
	begun, done := time.Now(), atomic.Uint64{}
	tell := time.NewTicker(time.Minute)
	defer tell.Stop()
	for from := *fromFlag; !t.Failed(); from += *seedsFlag {
		each(from, *seedsFlag, func(seed uint64) bool {
			n := done.Add(1)
			select {
			case <-tell.C:
				t.Logf("%d worlds in %s, at seed %d", n, time.Since(begun).Round(time.Second), seed)
			default:
			}
			return simulate(t, seed)
		})
		if time.Since(begun) >= *forFlag {
			break
		}
	}
	took := time.Since(begun)
	t.Logf("%d worlds in %s: %.0f a minute", done.Load(), took.Round(time.Millisecond), float64(done.Load())/took.Minutes())
}

// one simulates the world that flags name.
func one(t *testing.T) {
	w := World{Seed: *seedFlag, Bug: *bugFlag, Sessions: *sessionsFlag, Gateways: *gatewaysFlag, Until: *untilFlag}
	if *withoutFlag != "" {
		w.Without = strings.Split(*withoutFlag, ",")
	}
	if *traceFlag {
		w.Trace = func(line string) { fmt.Println(line) }
	}
	failures, hash := Run(w)
	for _, f := range failures {
		t.Error(f)
	}
	w.Trace = nil
	if _, again := Run(w); again != hash {
		t.Error("the same world had another history")
	}
}

// simulate runs the world of a seed, some twice.
func simulate(t *testing.T, seed uint64) bool {
	w := World{Seed: seed, Bug: *bugFlag}
	failures, hash := Run(w)
	if seed%50 == 0 {
		if _, again := Run(w); again != hash {
			t.Errorf("%s had two different histories", w)
			return false
		}
	}
	if len(failures) == 0 {
		return true
	}
	small := Shrink(w)
	failures, _ = Run(small)
	file := filepath.Join(kept, fmt.Sprintf("%d.txt", seed))
	if err := os.MkdirAll(kept, 0o755); err != nil {
		t.Error(err)
	}
	text := fmt.Sprintf("# %s\n%s\n", failures[0], small)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Error(err)
	}
	t.Errorf("%s\nkept in rtmtest/%s; again with: %s", failures[0], file, small.Flags())
	return false
}

// TestPlantedBugsAreFound proves that the simulation sees each of Bugs, by the check
// that is there for it.
func TestPlantedBugsAreFound(t *testing.T) {
	for _, bug := range Bugs {
		t.Run(bug.Name, func(t *testing.T) {
			var mu sync.Mutex
			first, failure, others := uint64(0), "", make(map[string]int)
			each(1, 1000, func(seed uint64) bool {
				failures, _ := Run(World{Seed: seed, Bug: bug.Name})
				mu.Lock()
				defer mu.Unlock()
				by := ""
				for _, f := range failures {
					_, f, _ = strings.Cut(f, " ")
					check, _, _ := strings.Cut(f, ":")
					others[check]++
					if by == "" && slices.Contains(bug.By, check) {
						by = f
					}
				}
				if by != "" && (first == 0 || seed < first) {
					first, failure = seed, by
				}
				return by == ""
			})
			if first == 0 {
				t.Errorf("1,000 seeds did not find it by %v; other checks failed that often: %v", bug.By, others)
				return
			}
			t.Logf("seed %d: %s", first, failure)
		})
	}
}

// TestBugsNameChecks: each of Bugs is found by a check that there is, and each
// invariant has one that shows it is checked.
func TestBugsNameChecks(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	checks := make(map[string]bool)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`failf\("([^:"]+):`).FindAllStringSubmatch(string(b), -1) {
			checks[m[1]] = true
		}
	}
	shown := ""
	for _, bug := range Bugs {
		for _, by := range bug.By {
			if shown += " " + by; !checks[by] {
				t.Errorf("%s: no check is called %q", bug.Name, by)
			}
		}
	}
	for n := 1; n <= 12; n++ {
		if !regexp.MustCompile(fmt.Sprintf(`I%d\b`, n)).MatchString(shown) {
			t.Errorf("nothing shows that I%d is checked", n)
		}
	}
}

// TestShrink makes a world that fails as small as it can be, and reads it back.
func TestShrink(t *testing.T) {
	w := World{Seed: 2, Bug: "doubt-is-done"}
	small := Shrink(w)
	if failures, _ := Run(small); len(failures) == 0 {
		t.Errorf("%s does not fail", small)
	}
	if len(small.Without) == 0 || small.Sessions == 0 || small.Until == 0 {
		t.Errorf("%s is not small", small)
	}
	back, err := ParseWorld("# why\n" + small.String() + "\n")
	if err != nil || back.String() != small.String() {
		t.Errorf("%s is read as %s, %v", small, back, err)
	}
	t.Log(small.Flags())
}
