package rtmtest

import (
	"cmp"
	"slices"

	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// checkWrite holds each account that is written against I1 and I2.
func (m *Sim) checkWrite(w store.Write) {
	if w.Op != store.Put || w.Key.Kind != tenant.KindAccount {
		return
	}
	var a charging.Account
	if a.Decode(w.Bytes) != nil || a.DecodeAll() != nil {
		m.failf("%s cannot be decoded", w.Key)
		return
	}
	if !a.Check() {
		m.failf("I1, I2: %s: buckets and holds do not agree", w.Key)
	}
	for i := range a.Buckets {
		if held := held(&a, a.Buckets[i].Number); held != a.Buckets[i].Reserved {
			m.failf("I2: %s bucket %d has %d reserved, its sessions hold %d", w.Key, a.Buckets[i].Number, a.Buckets[i].Reserved, held)
		}
	}
}

func held(a *charging.Account, bucket uint32) (sum int64) {
	for i := range a.Sessions {
		for j := range a.Sessions[i].Groups {
			for _, h := range a.Sessions[i].Groups[j].Holds {
				if h.Bucket == bucket {
					sum += h.Amount
				}
			}
		}
	}
	return sum
}

// books is what the entries of all streams add up to.
type books struct {
	effects map[effect]int
	finals  map[string]int
	used    map[string]map[uint32]int64
	debited map[ledgerKey]int64
	credit  map[ledgerKey]int64
}

type effect struct {
	session string
	number  uint32
}

type ledgerKey struct {
	account string
	bucket  uint32
}

// checkEnd checks what must hold when faults have stopped and all is quiet.
func (m *Sim) checkEnd() {
	if len(m.failures) > 0 {
		return
	}
	b := m.readBooks()
	for _, k := range m.accounts {
		m.checkAccount(k, b)
	}
	for _, c := range m.calls {
		m.checkCall(c, b)
	}
}

func (m *Sim) readBooks() *books {
	b := &books{
		effects: make(map[effect]int), finals: make(map[string]int), used: make(map[string]map[uint32]int64),
		debited: make(map[ledgerKey]int64), credit: make(map[ledgerKey]int64),
	}
	partitions := make([]store.Partition, 0, len(m.store.streams))
	for p := range m.store.streams {
		partitions = append(partitions, p)
	}
	slices.SortFunc(partitions, func(a, c store.Partition) int { return cmp.Compare(a, c) })
	var e charging.Entry
	for _, p := range partitions {
		for _, ev := range m.store.streams[p] {
			if err := e.Decode(ev.Bytes); err != nil {
				m.failf("an event cannot be decoded")
				continue
			}
			b.add(&e)
		}
	}
	return b
}

func (b *books) add(e *charging.Entry) {
	name := string(e.Session)
	for _, mv := range e.Movements {
		k := ledgerKey{e.Account, mv.Bucket}
		b.debited[k] += mv.Debit
		b.credit[k] += mv.Credit
	}
	switch e.Sort {
	case charging.Message, charging.Supplementary:
		b.effects[effect{name, e.Request}]++
		if b.used[name] == nil {
			b.used[name] = make(map[uint32]int64)
		}
		for _, l := range e.Lines {
			b.used[name][l.Group] += l.Used.Octets
		}
	case charging.FinalRecord:
		b.finals[name]++
	}
}

// checkAccount: nothing is open or reserved, no timer is left, and the ledger
// is the balance (I3, I5, I12).
func (m *Sim) checkAccount(k store.Key, b *books) {
	var a charging.Account
	if err := a.Decode(m.store.Load([]store.Key{k})[0].Bytes); err != nil || !a.Exists {
		m.failf("%s is lost", k)
		return
	}
	for i := range a.Sessions {
		m.failf("I12: %s still has session %s open, due %s", k, a.Sessions[i].ID, a.Sessions[i].Wake)
	}
	if wake, ok := m.store.wakes[k]; ok {
		m.failf("I12: %s has a timer left, at %s", k, wake)
	}
	_, name := tenant.AccountOf(k)
	for i := range a.Buckets {
		bk := &a.Buckets[i]
		if bk.Reserved != 0 {
			m.failf("I5: %s bucket %d still has %d reserved", k, bk.Number, bk.Reserved)
		}
		if got := b.debited[ledgerKey{name, bk.Number}]; got != bk.Debited {
			m.failf("I3: %s bucket %d has debited %d, its ledger says %d", k, bk.Number, bk.Debited, got)
		}
		if got := b.credit[ledgerKey{name, bk.Number}]; got != bk.Credited {
			m.failf("I3: %s bucket %d was credited %d, its ledger says %d", k, bk.Number, bk.Credited, got)
		}
	}

}

// checkCall: what the gateway knows to be acknowledged took effect once (I6),
// and a session that was opened has one final record (I8).
func (m *Sim) checkCall(c *call, b *books) {
	for _, msg := range c.messages {
		n := b.effects[effect{c.name, msg.number}]
		if n > 1 {
			m.failf("I6: %s %s %d took effect %d times", c.name, msg.kind, msg.number, n)
		}
		if msg.answer != nil && msg.answer.Result == charging.Success && n != 1 {
			m.failf("I6: %s %s %d was acknowledged and took effect %d times", c.name, msg.kind, msg.number, n)
		}
		if c.opened && msg.kind == charging.Termination && msg.answer == nil && m.calm && msg.tries > resendsMax {
			m.failf("I12: %s %s %d was never answered", c.name, msg.kind, msg.number)
		}
	}
	if c.opened && b.finals[c.name] != 1 {
		m.failf("I8: %s has %d final records", c.name, b.finals[c.name])
	}
	for group, used := range c.used {
		if got := b.used[c.name][group]; got < used {
			m.failf("I3: %s group %d: %d octets acknowledged, %d recorded", c.name, group, used, got)
		}
	}
}
