package policy

import (
	"encoding/base64"
	"strings"
	"unsafe"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// binaryBuffer is how long a decoded value may be for its buffer to be on the stack.
const binaryBuffer = 1024

// isBinary says whether a key's values are bytes, in base64 on the wire.
func isBinary(key string) bool { return strings.HasSuffix(key, "-bin") }

// decodeBinary decodes one value of a -bin key into buf, or into memory of its own
// where that is too short. Padding may be there or not, as gRPC says.
func decodeBinary(buf []byte, text string) ([]byte, bool) {
	encoding := base64.RawStdEncoding
	if len(text)%4 == 0 {
		encoding = base64.StdEncoding
	}
	if n := encoding.DecodedLen(len(text)); n > len(buf) {
		buf = make([]byte, n)
	}
	n, err := encoding.Decode(buf, unsafe.Slice(unsafe.StringData(text), len(text)))
	return buf[:n], err == nil
}

// metBinary says whether one of the key's values fulfils the condition. A field may
// have several, separated by commas (PROTOCOL-HTTP2). One that is not base64 fulfils
// none. A regular expression is tried on no more of them than on one long value.
func (c *condition) metBinary(fields []hpack.Field) bool {
	var buf [binaryBuffer]byte
	tried := 0
	for i := range fields {
		if fields[i].Name != c.key.text {
			continue
		}
		rest, more := fields[i].Value, true
		for more {
			var text string
			text, rest, more = strings.Cut(rest, ",")
			decoded, ok := decodeBinary(buf[:], text)
			if !ok {
				continue
			}
			// The string lives no longer than the buffer: nothing below keeps it.
			value := unsafe.String(unsafe.SliceData(decoded), len(decoded))
			if c.test != testRegex {
				if c.fulfilledBy(value) {
					return true
				}
				continue
			}
			if tried += len(value); tried > c.longest {
				return false
			}
			if c.matchesRegex(strings.Clone(value)) {
				return true
			}
			tried += anotherValue
		}
	}
	return false
}
