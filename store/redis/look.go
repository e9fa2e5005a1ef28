package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// A Report is what a server says of itself, as far as it matters to a store.
type Report struct {
	Addr      string
	Version   string
	Role      string
	AOF       bool
	Fsync     string // appendfsync
	Replicas  int
	Memory    int64 // octets in use
	MemoryMax int64 // maxmemory; zero: none
	Machine   int64 // octets of the machine's memory; zero: unknown
	Policy    string
	Broken    string // why it takes no writes; empty: it takes them
	Format    string // what rtm wrote into it; empty: nothing yet
}

// A Doubt is something that a server may be used with, and what mends it.
type Doubt struct{ Text, Mend string }

// fullShare is how full a server's memory may be, in percent.
const fullShare = 80

// Look opens a server to look at it: nothing is written, not even into an empty
// one. With an error, the report may be there all the same.
func Look(ctx context.Context, c Config) (*Store, *Report, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s, r, err := open(ctx, c)
	if err != nil || r.Format == "" {
		return s, r, err
	}
	if err := checkFormat(r.Format); err != nil {
		s.client.Close()
		return nil, r, fmt.Errorf("redis at %s: %w", r.Addr, err)
	}
	return s, r, nil
}

// examine asks the server what it is.
func (s *Store) examine(ctx context.Context, addr string) (*Report, error) {
	text, err := s.client.Do(ctx, s.client.B().Info().Build()).ToString()
	if err != nil {
		return nil, err
	}
	in := make(map[string]string)
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			in[k] = v
		}
	}
	number := func(key string) int64 {
		n, _ := strconv.ParseInt(in[key], 10, 64)
		return n
	}
	r := &Report{
		Addr: addr, Version: in["redis_version"], Role: in["role"], AOF: in["aof_enabled"] == "1", Fsync: s.setting(ctx, "appendfsync"),
		Replicas: int(number("connected_slaves")), Memory: number("used_memory"), MemoryMax: number("maxmemory"),
		Machine: number("total_system_memory"), Policy: in["maxmemory_policy"],
	}
	switch {
	case r.AOF && in["aof_last_write_status"] == "err":
		r.Broken = "could not write its append-only file, and takes no writes until it can"
	case in["rdb_last_bgsave_status"] == "err" && s.setting(ctx, "stop-writes-on-bgsave-error") != "no":
		r.Broken = "could not write its last snapshot, and takes no writes until it can"
	}
	r.Format, err = s.client.Do(ctx, s.client.B().Get().Key(formatKey).Build()).ToString()
	if err != nil && !rueidis.IsRedisNil(err) {
		return r, err
	}
	return r, nil
}

func (s *Store) setting(ctx context.Context, name string) string {
	m, err := s.client.Do(ctx, s.client.B().ConfigGet().Parameter(name).Build()).AsStrMap()
	if err != nil {
		return ""
	}
	return m[name]
}

// refuse says why the server cannot be a store; nil: it can.
func (r *Report) refuse() error {
	major, _, _ := strings.Cut(r.Version, ".")
	switch n, _ := strconv.Atoi(major); {
	case n < 7:
		return fmt.Errorf("it is version %s; 7.0 or newer is needed", r.Version)
	case r.Role != "master":
		return errors.New("it is a replica: connect to its master")
	case r.MemoryMax != 0 && r.Policy != "noeviction":
		return fmt.Errorf("its maxmemory-policy is %s, which throws sessions away: CONFIG SET maxmemory-policy noeviction", r.Policy)
	case r.Broken != "":
		return fmt.Errorf("it %s: look into its log; is its disk full?", r.Broken)
	}
	return nil
}

// Doubts lists what a store on that server does not survive, or not for long.
func (r *Report) Doubts() (all []Doubt) {
	switch {
	case r.Replicas > 0:
		all = append(all, Doubt{"has replicas, but answers do not wait for them: a failover may lose the last second", "run it without automatic failover"})
	case !r.AOF:
		all = append(all, Doubt{"keeps no append-only file: if it stops, sessions and balances go back to its last snapshot", "CONFIG SET appendonly yes"})
	}
	most, name := r.MemoryMax, "its maxmemory"
	if most == 0 {
		most, name = r.Machine, "the machine's memory"
	}
	if most > 0 && r.Memory/fullShare > most/100 {
		all = append(all, Doubt{fmt.Sprintf("uses %d MiB, more than %d %% of %s: when that is full, it takes no writes", r.Memory>>20, fullShare, name),
			"give it more memory"})
	}
	return all
}
