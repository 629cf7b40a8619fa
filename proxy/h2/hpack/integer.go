package hpack

// maxIntegerOctets bounds the octets that may follow an integer's prefix (RFC 7541 section 5.1
// leaves the limit to us). Nine carry 63 bits, so the sum cannot overflow.
const maxIntegerOctets = 9

// readInteger reads an integer whose prefix is the bits of mask in p[0] (RFC 7541 section 5.1). It
// returns what follows the integer. p must not be empty.
func readInteger(p []byte, mask byte) (uint64, []byte, error) {
	v := uint64(p[0] & mask)
	p = p[1:]
	if v < uint64(mask) {
		return v, p, nil
	}
	for i := range maxIntegerOctets {
		if i == len(p) {
			return 0, nil, errTruncated
		}
		v += uint64(p[i]&0x7f) << (7 * i)
		if p[i] < 0x80 {
			return v, p[i+1:], nil
		}
	}
	return 0, nil, errInteger
}

// appendInteger writes v with a prefix of the bits in mask; the pattern's bits go above it (RFC
// 7541 section 5.1).
func appendInteger(dst []byte, pattern, mask byte, v uint64) []byte {
	if v < uint64(mask) {
		return append(dst, pattern|byte(v))
	}
	dst = append(dst, pattern|mask)
	v -= uint64(mask)
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}
