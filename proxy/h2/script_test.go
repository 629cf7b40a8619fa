package h2

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/net/http2"
	xhpack "golang.org/x/net/http2/hpack"
)

// script makes frames of fuzz input: each octet chooses what is sent next, or a
// part of it, so that what a fuzzer changes at random mostly stays a conversation
// that gets somewhere, and is wrong in one place.
type script struct {
	rest []byte
	role Role // of the engine that gets the frames
	out  bytes.Buffer
	fr   *http2.Framer
	enc  *xhpack.Encoder
	blk  bytes.Buffer
	next uint32 // the stream that a client opens next
}

// maxScript bounds what a script sends, in bytes.
const maxScript = 192 << 10

// play returns what the script of a peer sends after its preface. The first octet
// says whether the input is a script at all: it may stand for itself.
func play(role Role, input []byte) []byte {
	if len(input) == 0 {
		return nil
	}
	if input[0]&1 == 1 {
		return input[1:]
	}
	s := &script{rest: input[1:], role: role, next: 1}
	s.fr = http2.NewFramer(&s.out, nil)
	s.fr.AllowIllegalWrites = true
	s.enc = xhpack.NewEncoder(&s.blk)
	if input[0]&2 == 0 {
		s.write(s.fr.WriteSettings())
	}
	for len(s.rest) > 0 && s.out.Len() < maxScript {
		s.step()
	}
	return s.out.Bytes()
}

// write is for the errors of a writer that has none.
func (s *script) write(error) {}

// octet returns the next octet of the input, 0 at its end.
func (s *script) octet() byte {
	if len(s.rest) == 0 {
		return 0
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	return b
}

func pick[T any](s *script, from ...T) T { return from[int(s.octet())%len(from)] }

// stream returns the id of a stream, mostly of one that is or was open.
func (s *script) stream() uint32 {
	b := s.octet()
	switch {
	case b < 250:
		return 1 + 2*uint32(b%8)
	case b == 250:
		return 0
	case b == 251:
		return s.next + 8
	case b == 252:
		return maxStreamID
	}
	return 2 * uint32(b-252)
}

func (s *script) step() {
	switch op := s.octet() % 20; op {
	case 0, 1, 2, 3:
		s.headers(s.next, s.requestFields())
		s.next += 2 * uint32(pick(s, 1, 1, 1, 1, 1, 1, 2, 9))
	case 4, 5:
		s.headers(s.stream(), s.trailerFields())
	case 6, 7, 8, 9:
		s.data()
	case 10:
		s.write(s.fr.WriteRSTStream(s.stream(), http2.ErrCode(s.octet())))
	case 11, 12:
		s.write(s.fr.WriteWindowUpdate(pick(s, 0, s.stream()), pick(s, uint32(1), 0, 100, 65535, 1<<16, 1<<30, maxWindow, 1<<31)))
	case 13:
		s.settings()
	case 14:
		s.write(s.fr.WritePing(s.octet()&1 == 1, [8]byte{s.octet()}))
	case 15:
		s.write(s.fr.WritePriority(s.stream(), http2.PriorityParam{StreamDep: s.stream(), Weight: s.octet()}))
	case 16:
		if s.octet() < 60 {
			s.write(s.fr.WriteGoAway(s.stream(), http2.ErrCode(s.octet()), []byte("bye")))
		}
	case 17:
		s.odd()
	case 18: // any header block
		n := int(s.octet()) % 24
		block := s.rest[:min(n, len(s.rest))]
		s.rest = s.rest[len(block):]
		s.block(pick(s, s.next, s.stream()), block)
	case 19: // the same once more, later
		if p := s.out.Bytes(); len(p) > 0 {
			n := min(len(p), 9+int(s.octet()))
			s.out.Write(bytes.Clone(p[len(p)-n:]))
		}
	}
}

// requestFields are those of a request, or of an answer where the engine is a
// client.
func (s *script) requestFields() []string {
	if s.role == Client {
		s.next = 1 + 2*uint32(s.octet()%4) // of those that it has opened, mostly
		list := []string{":status", pick(s, "200", "200", "200", "100", "103", "404", "101", "99", "1000", "abc", "")}
		return s.more(list)
	}
	list := []string{
		":method", pick(s, "POST", "POST", "POST", "GET", "CONNECT", ""),
		":scheme", pick(s, "http", "http", "https", "ftp", ""),
		":path", pick(s, "/", "/a.B/C", "*", "x y", ""),
		":authority", pick(s, "a", "greeter:80", ""),
	}
	switch s.octet() % 16 {
	case 0:
		list = list[2:]
	case 1:
		list = list[:4]
	case 2:
		list = append(list, ":path", "/")
	case 3:
		list = append(list, ":status", "200")
	case 4:
		list = append(list, "x", "y", ":authority", "b")
	case 5:
		list = append(list[:6], "host", "h")
	}
	return s.more(list)
}

func (s *script) trailerFields() []string {
	return s.more(pick(s, []string{"grpc-status", "0"}, nil, []string{":status", "200"}, []string{"grpc-message", "a%20b"}))
}

// more adds fields that matter to HTTP/2, and some that do not.
func (s *script) more(list []string) []string {
	list = append([]string(nil), list...)
	for range s.octet() % 4 {
		list = append(list, pick(s,
			[]string{"content-length", pick(s, "5", "0", "100", "20000", "5, 5", "-1", "x", "")},
			[]string{"te", pick(s, "trailers", "gzip", "")},
			[]string{"x", string([]byte{s.octet()})},
			[]string{string([]byte{'x', s.octet()}), "y"},
			[]string{pick(s, "connection", "upgrade", "keep-alive", "proxy-connection", "transfer-encoding", "host", "", "grpc-timeout"), "a"},
			[]string{"long", string(bytes.Repeat([]byte{'z'}, 16*int(s.octet())))},
			[]string{"content-type", "application/grpc"},
		)...)
	}
	return list
}

// headers sends fields as a header section of one frame or of many.
func (s *script) headers(id uint32, pairs []string) {
	s.blk.Reset()
	if s.octet() == 7 {
		s.enc.SetMaxDynamicTableSize(uint32(s.octet()) * 16)
	}
	for i := 0; i < len(pairs); i += 2 {
		s.write(s.enc.WriteField(xhpack.HeaderField{Name: pairs[i], Value: pairs[i+1], Sensitive: i == 8}))
	}
	s.block(id, bytes.Clone(s.blk.Bytes()))
}

func (s *script) block(id uint32, block []byte) {
	how := s.octet()
	p := http2.HeadersFrameParam{StreamID: id, EndStream: how&1 == 1, EndHeaders: how&6 != 6}
	if how&24 == 24 {
		p.PadLength = s.octet()
	}
	if how&96 == 96 {
		p.Priority = http2.PriorityParam{StreamDep: pick(s, 0, 1, id), Weight: 1, Exclusive: true}
	}
	if p.EndHeaders {
		p.BlockFragment = block
		s.write(s.fr.WriteHeaders(p))
		return
	}
	cut := min(int(s.octet())%8, len(block))
	p.BlockFragment = block[:cut]
	s.write(s.fr.WriteHeaders(p))
	for block = block[cut:]; len(block) > 8 && how&128 != 0; block = block[8:] {
		s.write(s.fr.WriteContinuation(id, false, block[:8]))
	}
	s.write(s.fr.WriteContinuation(id, how < 250, block))
}

func (s *script) data() {
	n := pick(s, 5, 0, 1, 5, 100, 5, 16384, 10000, 16385)
	id, how := s.stream(), s.octet()
	p := bytes.Repeat([]byte{'a' + s.octet()%26}, n)
	if how&6 != 6 {
		s.write(s.fr.WriteData(id, how&1 == 1, p))
		return
	}
	pad := int(s.octet())
	s.write(s.fr.WriteDataPadded(id, how&1 == 1, p[:max(0, n-pad-1)], make([]byte, pad)))
}

func (s *script) settings() {
	if how := s.octet(); how < 30 {
		s.write(s.fr.WriteSettingsAck())
		return
	}
	var list []http2.Setting
	for range s.octet() % 3 {
		list = append(list, http2.Setting{
			ID:  http2.SettingID(s.octet() % 8),
			Val: pick(s, uint32(0), 1, 100, 4096, 16384, 65535, 1<<20, maxMaxFrameSize, maxWindow, 1<<31),
		})
	}
	s.write(s.fr.WriteSettings(list...))
}

// odd sends a frame whose type, flags, length or stream may be wrong.
func (s *script) odd() {
	typ, flags, id := s.octet()%18, s.octet(), s.stream()
	n := int(s.octet()) % 20
	payload := s.rest[:min(n, len(s.rest))]
	s.rest = s.rest[len(payload):]
	length := len(payload)
	if s.octet() == 255 {
		length += int(binary.BigEndian.Uint16([]byte{s.octet(), s.octet()}))
	}
	s.out.Write(appendFrameHeader(nil, length, frameType(typ), flags, id|uint32(flags)&1<<31))
	s.out.Write(payload)
}
