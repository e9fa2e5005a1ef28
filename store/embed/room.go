package embed

import (
	"syscall"
	"time"
)

// What counts as the room of a store: the last of its disk, so that a disk on which
// much else lies is not taken for full.
const (
	roomMax  = 6 << 30 // octets…
	roomPart = 4       // … or that part of a small disk
	roomLook = time.Second
)

// Full is how much of the room is used up, in percent: of the last 6 GiB of the disk,
// or of its last quarter. Whoever asks turns work away while some is left, for a full
// disk ends the process; events that are in no record file yet take it up too.
func (s *Store) Full() (percent int) {
	now := time.Now().UnixMilli()
	if at := s.looked.Load(); now-at >= roomLook.Milliseconds() && s.looked.CompareAndSwap(at, now) {
		free, all, err := s.disk(s.dir)
		if err == nil {
			s.filled.Store(int64(filled(free, all)))
		}
	}
	return int(s.filled.Load())
}

func filled(free, all uint64) (percent int) {
	room := min(roomMax, all/roomPart)
	if room == 0 || free >= room {
		return 0
	}
	return int(100 - 100*free/room)
}

// disk is how much of the disk that a directory lies on is free, and how large it is.
func disk(dir string) (free, all uint64, err error) {
	var f syscall.Statfs_t
	if err := syscall.Statfs(dir, &f); err != nil {
		return 0, 0, err
	}
	return f.Bavail * uint64(f.Bsize), f.Blocks * uint64(f.Bsize), nil
}
