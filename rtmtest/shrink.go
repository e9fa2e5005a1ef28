package rtmtest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// String is w as a file of testdata/seeds has it, on one line:
//
//	seed 17 without drop,crash sessions 3 gateways 1 until 20s
func (w World) String() string {
	s := fmt.Sprintf("seed %d", w.Seed)
	if w.Bug != "" {
		s += " bug " + w.Bug
	}
	if len(w.Without) > 0 {
		s += " without " + strings.Join(w.Without, ",")
	}
	if w.Sessions > 0 {
		s += fmt.Sprintf(" sessions %d", w.Sessions)
	}
	if w.Gateways > 0 {
		s += fmt.Sprintf(" gateways %d", w.Gateways)
	}
	if w.Until > 0 {
		s += fmt.Sprintf(" until %s", w.Until)
	}
	return s
}

// Flags is the command that runs w again.
func (w World) Flags() string {
	f := strings.Fields(w.String())
	for i := 0; i < len(f); i += 2 {
		f[i] = "-" + f[i]
	}
	return "go test ./rtmtest -run TestSeed " + strings.Join(f, " ")
}

// ParseWorld is the inverse of String. Lines that begin with # say why it is
// kept.
func ParseWorld(text string) (w World, err error) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0][0] == '#' {
			continue
		}
		for i := 0; i+1 < len(f) && err == nil; i += 2 {
			switch value := f[i+1]; f[i] {
			case "seed":
				w.Seed, err = strconv.ParseUint(value, 10, 64)
			case "bug":
				w.Bug = value
			case "without":
				w.Without = strings.Split(value, ",")
			case "sessions":
				w.Sessions, err = strconv.Atoi(value)
			case "gateways":
				w.Gateways, err = strconv.Atoi(value)
			case "until":
				w.Until, err = time.ParseDuration(value)
			default:
				err = fmt.Errorf("%q is not known", f[i])
			}
		}
	}
	if err == nil && w.Seed == 0 {
		err = fmt.Errorf("%q names no seed", text)
	}
	return w, err
}

// Shrink leaves out of a world that fails what it fails without: faults first,
// then sessions and gateways, then time, and again as long as that helps.
func Shrink(w World) World {
	fails := func(w World) bool {
		failures, _ := Run(w)
		return len(failures) > 0
	}
	for before := (World{}); before.String() != w.String(); {
		before = w
		w = fewer(w, fails)
		w = least(w, 64, w.Sessions, func(w *World, n int) { w.Sessions = n }, fails)
		w = least(w, 4, w.Gateways, func(w *World, n int) { w.Gateways = n }, fails)
		w = least(w, int(trafficMax/time.Second), int(w.Until/time.Second), func(w *World, n int) { w.Until = time.Duration(n) * time.Second }, fails)
	}
	return w
}

// fewer leaves out faults, one by one.
func fewer(w World, fails func(World) bool) World {
	m := newSim(w)
	for f := range hazardsEnd {
		if m.rates[f] == 0 {
			continue
		}
		less := w
		less.Without = append(slices.Clone(w.Without), f.String())
		if fails(less) {
			w = less
		}
	}
	return w
}

// least lowers one measure of w, which is now so much or at most from, as far as
// it fails: by halves and then by one.
func least(w World, from, now int, set func(*World, int), fails func(World) bool) World {
	n := from
	if now > 0 {
		n = now
	}
	for step := n / 2; step > 0; step /= 2 {
		for n-step > 0 {
			less := w
			if set(&less, n-step); !fails(less) {
				break
			}
			w, n = less, n-step
		}
	}
	return w
}
