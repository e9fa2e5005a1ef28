package rtmtest

import "time"

// A place is a machine: of the store's nodes, of Sentinels, of instances.
type place uint8

// Of the first cluster the places come first, then those of instances, then those of
// other clusters.
const (
	nodesMax            = 3
	clusterPlaces       = 2 * nodesMax // as many Sentinels as nodes
	firstInstance place = clusterPlaces
	instancesMax        = 4
	clustersMax         = 3
	placesMax           = clustersMax*clusterPlaces + instancesMax
)

// clusterPlace is the first place of a cluster.
func clusterPlace(index int) place {
	if index == 0 {
		return 0
	}
	return place(index*clusterPlaces + instancesMax)
}

// A network carries messages between places. A link that is clogged keeps what
// is sent over it, as TCP does, until it is free or reset.
type network struct {
	m       *Sim
	places  place                       // so many there are
	clogged [placesMax][placesMax]uint8 // how many faults clog the link
	held    []carried
}

// A carried message waits for its link to be free.
type carried struct {
	a, b place
	run  func()
}

func (w *network) open(a, b place) bool { return w.clogged[a][b] == 0 }

// carry does run at b after d, or when the link is free again.
func (w *network) carry(a, b place, d time.Duration, run func()) {
	w.m.after(d, func() {
		if !w.open(a, b) {
			w.held = append(w.held, carried{a, b, run})
			return
		}
		run()
	})
}

func (w *network) clog(a, b place) {
	if a != b {
		w.clogged[a][b]++
		w.clogged[b][a]++
	}
}

// free opens a link. Connections that were reset meanwhile have lost what they
// carried.
func (w *network) free(a, b place) {
	if w.clogged[a][b] == 0 {
		return
	}
	w.clogged[a][b]--
	w.clogged[b][a]--
	if w.clogged[a][b] > 0 {
		return
	}
	reset := w.m.oneIn(2)
	kept := w.held[:0]
	for _, p := range w.held {
		switch {
		case p.a != a && p.a != b || p.b != a && p.b != b:
			kept = append(kept, p)
		case !reset:
			w.m.after(w.m.upTo(200*time.Millisecond), p.run)
		}
	}
	clear(w.held[len(kept):])
	w.held = kept
	for _, c := range w.m.clusters {
		c.reconnect(a, b)
	}
}

func (w *network) freeAll() {
	for a := range place(placesMax) {
		for b := range a {
			for w.clogged[a][b] > 0 {
				w.free(a, b)
			}
		}
	}
}

// send lets a message between a gateway and an instance travel: late, twice, or
// not at all. It returns how often.
func (m *Sim) send(deliver func()) (copies int) {
	if m.strikes(hazardDrop) {
		return 0
	}
	m.after(m.travel(), deliver)
	if !m.strikes(hazardDuplicate) {
		return 1
	}
	m.after(m.travel(), deliver)
	return 2
}

// travel is how long a message takes, for most a little, for some very long, so
// that they are overtaken.
func (m *Sim) travel() time.Duration {
	if m.strikes(hazardDelay) {
		return m.upTo(6 * time.Second)
	}
	return m.upTo(20 * time.Millisecond)
}
