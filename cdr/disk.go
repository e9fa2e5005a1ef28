package cdr

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A Disk is a directory that a Follower writes its files in. What Write and
// Rename did is on disk when they return; what Remove did may come back after a
// loss of power.
type Disk interface {
	// Names lists all files, by name.
	Names() ([]string, error)
	Has(name string) bool
	Open(name string) (io.ReadCloser, error)
	// Write makes a file of these parts, in the place of one of that name.
	Write(name string, parts [][]byte) error
	// Rename gives a file another name, in the place of one of that name.
	Rename(from, to string) error
	Remove(name string) error
}

// A directory is a Disk of the machine.
type directory string

func (d directory) path(name string) string { return filepath.Join(string(d), name) }

func (d directory) Names() (names []string, err error) {
	entries, err := os.ReadDir(string(d))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (d directory) Has(name string) bool {
	_, err := os.Lstat(d.path(name))
	return !errors.Is(err, fs.ErrNotExist)
}

func (d directory) Open(name string) (io.ReadCloser, error) { return os.Open(d.path(name)) }

func (d directory) Write(name string, parts [][]byte) error {
	file, err := os.Create(d.path(name))
	if err != nil {
		return err
	}
	defer file.Close()
	for _, p := range parts {
		if _, err := file.Write(p); err != nil {
			return err
		}
	}
	if err := file.Sync(); err != nil {
		return err
	}
	return d.sync() // a file that is on disk may still have no name there
}

func (d directory) Rename(from, to string) error {
	if err := os.Rename(d.path(from), d.path(to)); err != nil {
		return err
	}
	return d.sync()
}

func (d directory) Remove(name string) error { return os.Remove(d.path(name)) }

// sync brings the names of the files to disk.
func (d directory) sync() error {
	dir, err := os.Open(string(d))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
