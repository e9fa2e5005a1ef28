package diameter

import (
	"encoding/binary"
	"errors"
	"testing"
)

// A message of MessageMax octets is framed, one that is longer is not, whatever of it is there.
func TestMessageMax(t *testing.T) {
	head := func(n uint32) []byte {
		b := make([]byte, HeaderLength)
		binary.BigEndian.PutUint32(b, 1<<24|n)
		return b
	}
	if n, err := FrameLength(head(64<<10), MessageMax); n != 64<<10 || err != nil {
		t.Errorf("64 KiB: %d, %v", n, err)
	}
	var e *FrameError
	if _, err := FrameLength(head(64<<10+4), MessageMax); !errors.As(err, &e) || e.Result != InvalidMessageLength {
		t.Errorf("four octets more: %v", err)
	}
}
