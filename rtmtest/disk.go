package rtmtest

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A Disk is the machine's, and knows what a loss of power would leave of the
// logs of the embedded store: what was synced, and no more than that for sure.
// It can also fail.
type Disk struct {
	vfs.FS
	Fail  atomic.Bool // from now on every sync of a log fails with EIO
	OnEIO func()      // called when one has failed; nil: nothing is

	mu    sync.Mutex // guards all below
	notes *os.File   // a line for each sync that is back; nil: none
	log   string
	done  int64
}

// NewDisk is a disk that writes what is synced to a file, in lines of a log's
// name and length. They outlive the process: a sync is written down before
// whoever wanted it is told. An empty name: no file.
func NewDisk(notes string) (*Disk, error) {
	d := &Disk{FS: vfs.Default}
	if notes == "" {
		return d, nil
	}
	var err error
	d.notes, err = os.OpenFile(notes, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	return d, err
}

// Synced is the log that was synced last, and up to where.
func (d *Disk) Synced() (log string, octets int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log, d.done
}

// note remembers that a log is synced up to there.
func (d *Disk) note(log string, octets int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log, d.done = log, octets
	if d.notes == nil {
		return nil
	}
	_, err := fmt.Fprintf(d.notes, "%s %d\n", log, octets)
	return err
}

// Create implements vfs.FS.
func (d *Disk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, category)
	return d.wrap(f, name, err)
}

// ReuseForWrite implements vfs.FS.
func (d *Disk) ReuseForWrite(old, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.ReuseForWrite(old, name, category)
	return d.wrap(f, name, err)
}

func (d *Disk) wrap(f vfs.File, name string, err error) (vfs.File, error) {
	if err != nil || filepath.Ext(name) != ".log" {
		return f, err
	}
	name = filepath.Base(name)
	if err := d.note(name, 0); err != nil {
		return nil, err
	}
	return &diskFile{File: f, disk: d, name: name}, nil
}

type diskFile struct {
	vfs.File
	disk    *Disk
	name    string
	written atomic.Int64
}

func (f *diskFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	f.written.Add(int64(n))
	return n, err
}

func (f *diskFile) Sync() error     { return f.sync(f.File.Sync) }
func (f *diskFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *diskFile) sync(do func() error) error {
	if f.disk.Fail.Load() {
		if f.disk.OnEIO != nil {
			f.disk.OnEIO()
		}
		return syscall.EIO
	}
	n := f.written.Load()
	if err := do(); err != nil {
		return err
	}
	return f.disk.note(f.name, n)
}

// LosePower makes of a store's directory, whose process is dead, what a loss of
// power may have left: each log is cut where its last sync ended, or behind
// that, as keep says of the octets that were not synced. It returns how many were
// dropped.
func LosePower(t testing.TB, dir, notes string, keep func(unsynced int64) int64) (dropped int64) {
	t.Helper()
	f, err := os.Open(notes)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	synced := make(map[string]int64)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, n := "", int64(0)
		if _, err := fmt.Sscanf(lines.Text(), "%s %d", &name, &n); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		synced[name] = n
	}
	for name, n := range synced {
		file := filepath.Join(dir, name)
		info, err := os.Stat(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if unsynced := info.Size() - n; unsynced > 0 {
			kept := min(max(keep(unsynced), 0), unsynced)
			dropped += unsynced - kept
			if err := os.Truncate(file, n+kept); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dropped
}
