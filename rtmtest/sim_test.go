package rtmtest

import (
	"flag"
	"testing"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "simulate this seed only")
	seedsFlag = flag.Uint64("seeds", 1000, "how many seeds to simulate")
)

func TestSeed(t *testing.T) {
	first, last := uint64(1), *seedsFlag
	if *seedFlag != 0 {
		first, last = *seedFlag, *seedFlag
	}
	for seed := first; seed <= last; seed++ {
		failures, hash := Run(seed, "")
		for _, f := range failures {
			t.Errorf("seed %d: %s", seed, f)
		}
		if len(failures) > 0 {
			t.Fatalf("again with: go test ./rtmtest -run TestSeed -seed %d", seed)
		}
		if seed%50 == 0 {
			if _, again := Run(seed, ""); again != hash {
				t.Fatalf("seed %d gave two different histories", seed)
			}
		}
	}
}

func TestPlantedBugsAreFound(t *testing.T) {
	for _, bug := range Bugs {
		t.Run(bug, func(t *testing.T) {
			for seed := uint64(1); seed <= 1000; seed++ {
				if failures, _ := Run(seed, bug); len(failures) > 0 {
					t.Logf("seed %d: %s", seed, failures[0])
					return
				}
			}
			t.Errorf("1,000 seeds did not find it")
		})
	}
}
