package wire

import (
	"strings"
	"unicode/utf8"
)

const upperHex = "0123456789ABCDEF"

// EncodeMessage writes s as a grpc-message: percent-encoded, so that any text
// fits into a header. It returns s itself where nothing needs encoding.
//
// The protocol leaves spaces as they are, but HTTP/2 forbids a field value
// that starts or ends with one (RFC 9113, section 8.2.1): there they are
// encoded too. A message is Unicode text; a byte of s that is not UTF-8
// becomes U+FFFD.
func EncodeMessage(s string) string {
	first := 0
	for ; first < len(s); first++ {
		if !literal(s, first) {
			break
		}
	}
	if first == len(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 2*(len(s)-first))
	b.WriteString(s[:first])
	for i := first; i < len(s); {
		if literal(s, i) {
			b.WriteByte(s[i])
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		i += size
		var enc [utf8.UTFMax]byte
		for _, c := range enc[:utf8.EncodeRune(enc[:], r)] {
			b.WriteByte('%')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&0xf])
		}
	}
	return b.String()
}

// literal reports whether the byte of s at i stands for itself in a
// grpc-message.
func literal(s string, i int) bool {
	c := s[i]
	if c == ' ' {
		return i != 0 && i != len(s)-1
	}
	return c > ' ' && c <= '~' && c != '%'
}

// DecodeMessage reads a grpc-message. It is lenient, as the protocol demands:
// a '%' that two hexadecimal digits do not follow stays as it is. It returns s
// itself where nothing is encoded. The result need not be UTF-8.
func DecodeMessage(s string) string {
	first := nextEncoded(s, 0)
	if first == len(s) {
		return s
	}
	b := make([]byte, 0, len(s))
	for from := 0; ; {
		b = append(b, s[from:first]...)
		if first == len(s) {
			return string(b)
		}
		hi, _ := unhex(s[first+1])
		lo, _ := unhex(s[first+2])
		b = append(b, hi<<4|lo)
		from = first + 3
		first = nextEncoded(s, from)
	}
}

// nextEncoded returns where the next encoded byte of s at or after from
// begins, len(s) if there is none.
func nextEncoded(s string, from int) int {
	for from < len(s) {
		i := strings.IndexByte(s[from:], '%')
		if i < 0 || from+i+2 >= len(s) {
			break
		}
		i += from
		if _, ok := unhex(s[i+1]); ok {
			if _, ok := unhex(s[i+2]); ok {
				return i
			}
		}
		from = i + 1
	}
	return len(s)
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
