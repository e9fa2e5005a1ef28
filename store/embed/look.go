package embed

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Look opens a directory to look at it: nothing is written, made or locked, and
// commits are refused. Where there is no store yet, the error is fs.ErrNotExist.
// A directory that a process has open is not for Look: see Holder.
func Look(c Config) (*Store, error) {
	if _, err := os.Stat(filepath.Join(c.Dir, "LOCK")); err != nil {
		return nil, fmt.Errorf("open %s: %w", c.Dir, fs.ErrNotExist)
	}
	return openDir(c, true, false)
}

// Holder is the process that has the store in a directory open; zero: none has.
// This process itself is not seen, and must not hold it: it would let it go.
func Holder(dir string) (pid int, err error) {
	f, err := os.Open(filepath.Join(dir, "LOCK"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &lock); err != nil {
		return 0, err
	}
	if lock.Type == syscall.F_UNLCK {
		return 0, nil
	}
	return int(lock.Pid), nil
}

// unlocked is a file system for one who only reads: a server that starts
// meanwhile must find no lock.
type unlocked struct{ vfs.FS }

// Lock implements vfs.FS.
func (unlocked) Lock(string) (io.Closer, error) { return nothing{}, nil }

// Unwrap implements vfs.FS.
func (u unlocked) Unwrap() vfs.FS { return u.FS }

type nothing struct{}

func (nothing) Close() error { return nil }
