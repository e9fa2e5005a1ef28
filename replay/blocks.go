package replay

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Blocks of pcapng that are passed on.
const (
	blockSection   = 0x0A0D0D0A
	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockEnhanced  = 6
)

// Bounds of pcapng.
const (
	blockHead     = 12      // octets of a block that holds nothing
	enhancedHead  = 20      // octets before a packet
	interfacesMax = 1 << 12 // of a section
)

// blocks passes on what of a pcapng file is needed to read its packets: blocks of
// a length that can be, and packets without options. All others, which may hold
// anything and as much of it as they like, are left out. A packet that is too
// long, or longer than its block, is passed on empty, so that frames keep their
// numbers.
//
//	0      4              8                      length-4
//	| type | total length | body …               | total length |
type blocks struct {
	r      *bufio.Reader
	order  binary.ByteOrder
	out    []byte // to be read
	memory []byte
	at     int64 // where the next block should begin
	links  int   // interfaces of this section
}

// Read implements io.Reader.
func (b *blocks) Read(p []byte) (int, error) {
	for len(b.out) == 0 {
		if err := b.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.out)
	b.out = b.out[n:]
	return n, nil
}

// next reads a block. Errors: io.EOF between two blocks.
func (b *blocks) next() error {
	head, err := b.r.Peek(blockHead)
	if err != nil {
		if len(head) > 0 {
			return b.short(err)
		}
		return err
	}
	if binary.LittleEndian.Uint32(head) == blockSection {
		switch binary.LittleEndian.Uint32(head[8:]) {
		case 0x1A2B3C4D:
			b.order = binary.LittleEndian
		case 0x4D3C2B1A:
			b.order = binary.BigEndian
		default:
			return fmt.Errorf("the section at octet %d has no byte order", b.at)
		}
		b.links = 0
	}
	if b.order == nil {
		return errors.New("it does not begin with a section")
	}
	kind, n := b.order.Uint32(head), int64(b.order.Uint32(head[4:]))
	if n < blockHead || n%4 != 0 {
		return fmt.Errorf("the block at octet %d says that it is %d octets long", b.at, n)
	}
	at := b.at
	b.at += n
	switch kind {
	case blockSection, blockInterface:
		if kind == blockInterface {
			b.links++
		}
		if n > packetMax || b.links > interfacesMax {
			return fmt.Errorf("the block at octet %d is one that nobody writes", at)
		}
		return b.whole(int(n))
	case blockEnhanced, blockPacket, blockSimple:
		return b.packet(kind, n)
	default:
		return b.skip(n)
	}
}

func (b *blocks) skip(n int64) error {
	_, err := io.CopyN(io.Discard, b.r, n)
	return b.short(err)
}

// short is the error for a file that ends within a block: one that whoever reads
// takes for no proper end.
func (b *blocks) short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the file ends in a block, which is to go on until octet %d", b.at)
	}
	return err
}

// take reads n octets into memory.
func (b *blocks) take(n int) ([]byte, error) {
	if cap(b.memory) < n {
		b.memory = make([]byte, n)
	}
	b.memory = b.memory[:n]
	_, err := io.ReadFull(b.r, b.memory)
	return b.memory, b.short(err)
}

// whole passes on a block as it is.
func (b *blocks) whole(n int) (err error) {
	b.out, err = b.take(n)
	return err
}

// packet passes on a packet of a block that is n octets long.
func (b *blocks) packet(kind uint32, n int64) error {
	fixed := int64(enhancedHead)
	if kind == blockSimple {
		fixed = 4
	}
	if n < blockHead+fixed {
		return fmt.Errorf("the block at octet %d is too short for a packet", b.at-n)
	}
	if n > packetMax {
		block, err := b.take(int(8 + fixed))
		if err != nil {
			return err
		}
		b.pass(block, kind, 0)
		return b.skip(n - 8 - fixed)
	}
	block, err := b.take(int(n))
	if err != nil {
		return err
	}
	room := n - blockHead - fixed
	held := room // of a simple packet the interface knows
	if kind != blockSimple {
		held = int64(b.order.Uint32(block[20:]))
	}
	if held > room {
		held = 0
	}
	b.pass(block[:8+fixed+(held+3)&^3], kind, uint32(held))
	return nil
}

// pass passes on a block's head and packet, of which held octets count.
func (b *blocks) pass(block []byte, kind, held uint32) {
	n := uint32(len(block)) + 4
	b.order.PutUint32(block[4:], n)
	if kind == blockSimple {
		if whole := b.order.Uint32(block[8:]); whole > held {
			b.order.PutUint32(block[8:], held)
		}
	} else {
		b.order.PutUint32(block[20:], held)
	}
	b.out = append(block, 0, 0, 0, 0)
	b.order.PutUint32(b.out[len(block):], n)
	b.memory = b.out[:cap(b.out)]
}
