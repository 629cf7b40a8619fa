package exact

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"
)

// Every message begins with the RPC's id, its own number, how many its stream
// has in each direction and the size of its body, and ends with a checksum.
const (
	headBytes  = 8 + 4 + 4 + 4
	checkBytes = 4
)

// head is what a message says of itself.
type head struct {
	id             uint64
	seq            uint32
	messages, size uint32
}

// way tells requests from answers, which have other bytes.
type way uint64

const (
	request way = 0x9e3779b97f4a7c15
	answer  way = 0xd1342543de82ef95
)

func (h head) message(w way) []byte {
	m := make([]byte, 0, headBytes+int(h.size)+checkBytes)
	m = binary.BigEndian.AppendUint64(m, h.id)
	m = binary.BigEndian.AppendUint32(m, h.seq)
	m = binary.BigEndian.AppendUint32(m, h.messages)
	m = binary.BigEndian.AppendUint32(m, h.size)
	// xorshift: no two messages have the same bytes at the same place.
	x := (h.id<<20 ^ uint64(h.seq) ^ uint64(w)) | 1
	for range h.size {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		m = append(m, byte(x))
	}

	return binary.BigEndian.AppendUint32(m, crc32.ChecksumIEEE(m)^uint32(w))
}

// parse reads a message that must be number seq of its direction.
func parse(m []byte, w way, seq uint32) (head, error) {
	if len(m) < headBytes+checkBytes {
		return head{}, fmt.Errorf("a message of %d bytes", len(m))
	}
	body, sum := m[:len(m)-checkBytes], binary.BigEndian.Uint32(m[len(m)-checkBytes:])
	if crc32.ChecksumIEEE(body)^uint32(w) != sum {
		return head{}, fmt.Errorf("message %d of %d bytes has a wrong checksum", seq, len(m))
	}
	h := head{
		id: binary.BigEndian.Uint64(m), seq: binary.BigEndian.Uint32(m[8:]),
		messages: binary.BigEndian.Uint32(m[12:]), size: binary.BigEndian.Uint32(m[16:]),
	}
	if int(h.size) != len(m)-headBytes-checkBytes {
		return head{}, fmt.Errorf("message %d has %d bytes, and says %d", seq, len(m)-headBytes-checkBytes, h.size)
	}
	if h.seq != seq {
		return head{}, fmt.Errorf("message %d came where %d was due", h.seq, seq)
	}

	return h, nil
}

// codec takes messages as bytes, and those of protobuf as such: an app may answer
// other services too.
type codec struct{}

func (codec) Name() string { return "exact" }

func (codec) Marshal(v any) ([]byte, error) {
	switch m := v.(type) {
	case *[]byte:
		return *m, nil
	case proto.Message:
		return proto.Marshal(m)
	}

	return nil, fmt.Errorf("message is %T, want *[]byte or a proto.Message", v)
}

func (codec) Unmarshal(data []byte, v any) error {
	switch m := v.(type) {
	case *[]byte:
		*m = append([]byte(nil), data...)

		return nil
	case proto.Message:
		return proto.Unmarshal(data, m)
	}

	return fmt.Errorf("message is %T, want *[]byte or a proto.Message", v)
}
