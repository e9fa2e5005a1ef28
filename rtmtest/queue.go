package rtmtest

import "time"

// A queue holds what is going to happen, by time and then in the order in which
// it was put: a heap of four children a node, which is shallow.
type queue struct {
	heap  []event
	order uint64
}

type event struct {
	at    time.Duration
	order uint64
	run   func()
}

func (e *event) before(f *event) bool {
	return e.at < f.at || e.at == f.at && e.order < f.order
}

func (q *queue) push(at time.Duration, run func()) {
	q.order++
	e := event{at, q.order, run}
	q.heap = append(q.heap, e)
	i := len(q.heap) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !e.before(&q.heap[up]) {
			break
		}
		q.heap[i] = q.heap[up]
		i = up
	}
	q.heap[i] = e
}

func (q *queue) pop() (first event, ok bool) {
	n := len(q.heap) - 1
	if n < 0 {
		return first, false
	}
	first = q.heap[0]
	e := q.heap[n]
	q.heap[n].run = nil
	q.heap = q.heap[:n]
	if n == 0 {
		return first, true
	}
	i := 0
	for {
		least := 4*i + 1
		if least >= n {
			break
		}
		for c := least + 1; c < min(4*i+5, n); c++ {
			if q.heap[c].before(&q.heap[least]) {
				least = c
			}
		}
		if e.before(&q.heap[least]) {
			break
		}
		q.heap[i] = q.heap[least]
		i = least
	}
	q.heap[i] = e
	return first, true
}
