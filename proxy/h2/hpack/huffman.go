package hpack

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"

	"golang.org/x/net/http2/hpack"
)

// The Huffman code of RFC 7541 Appendix B, taken from golang.org/x/net at start. It is canonical:
// codes in order of length, then of value, are consecutive numbers when padded to equal length.
// So codes too long for the lookup table, which no text in ASCII is full of, need only the first
// code of each length.

// lookupBits is how many bits of input one lookup sees: with 11, two of the commonest symbols
// (5 or 6 bits each) come out at once in most cases, and the table of 8 KiB leaves room in the L1
// cache.
const lookupBits = 11

// maxCodeBits is the length of the longest code. One such code, all ones, is EOS.
const maxCodeBits = 30

// minCodeBits is the length of the shortest code: n octets are at most n*8/minCodeBits symbols.
const minCodeBits = 5

// huffmanLookup is indexed by the next lookupBits bits of input. An entry is, from the lowest bit:
// 8 bits first symbol, 8 bits second symbol, 5 bits length of the first's code, 5 bits length of
// both, 2 bits number of symbols. 0: the code is longer than the lookup.
var huffmanLookup [1 << lookupBits]uint32

const (
	lookupFirstShift = 16
	lookupBothShift  = 21
	lookupCountShift = 26
	lookupBitsMask   = 0x1f
)

// codeClass is all codes of one length.
type codeClass struct {
	first uint32 // the smallest, padded with zeros at the right to 32 bits
	bits  uint8
	base  uint16 // where its symbols start in longSymbols
}

var (
	longClasses []codeClass // for codes longer than a lookup, in rising order
	longSymbols []byte      // in order of code; EOS would follow the last

	// firstClass is the class to begin the search with, by how many ones the input starts with.
	firstClass [33]uint8
)

func init() {
	type code struct {
		bits   uint8
		padded uint32
		symbol byte
	}
	codes := make([]code, 256)
	for s := range codes {
		// Eight equal symbols are a whole number of octets, as many as the code has bits.
		coded := hpack.AppendHuffmanString(nil, string(bytes.Repeat([]byte{byte(s)}, 8)))
		bits := len(coded)
		padded := binary.BigEndian.Uint32(coded) >> (32 - bits) << (32 - bits)
		codes[s] = code{uint8(bits), padded, byte(s)}
	}
	slices.SortFunc(codes, func(a, b code) int { return int(int64(a.padded) - int64(b.padded)) })

	for _, c := range codes {
		if c.bits <= lookupBits {
			start := c.padded >> (32 - lookupBits)
			for i := range uint32(1) << (lookupBits - c.bits) {
				bits := uint32(c.bits)
				huffmanLookup[start+i] = uint32(c.symbol) | bits<<lookupFirstShift | bits<<lookupBothShift | 1<<lookupCountShift
			}
			continue
		}
		if n := len(longClasses); n == 0 || longClasses[n-1].bits != c.bits {
			longClasses = append(longClasses, codeClass{c.padded, c.bits, uint16(len(longSymbols))})
		}
		longSymbols = append(longSymbols, c.symbol)
	}

	for ones := range firstClass {
		smallest := ^uint32(0) << (32 - ones)
		for i, c := range longClasses {
			if c.first <= smallest {
				firstClass[ones] = uint8(i)
			}
		}
	}

	// Where a second whole code fits behind the first, the entry has both.
	single := huffmanLookup
	for i, e := range single {
		if e == 0 {
			continue
		}
		first := e >> lookupFirstShift & lookupBitsMask
		next := single[uint32(i)<<first&(1<<lookupBits-1)]
		second := next >> lookupFirstShift & lookupBitsMask
		if next != 0 && first+second <= lookupBits {
			huffmanLookup[i] = e&0xff | next&0xff<<8 | first<<lookupFirstShift | (first+second)<<lookupBothShift | 2<<lookupCountShift
		}
	}
}

// longCode decodes a code that is longer than a lookup, from the next 32 bits of input. It reports
// false for EOS, which must not be in a string (RFC 7541 section 5.2).
func longCode(next uint32) (symbol byte, length uint, ok bool) {
	i := int(firstClass[bits.LeadingZeros32(^next)])
	for i+1 < len(longClasses) && longClasses[i+1].first <= next {
		i++
	}
	c := &longClasses[i]
	at := int(c.base) + int((next-c.first)>>(32-c.bits))
	if at >= len(longSymbols) {
		return 0, 0, false
	}
	return longSymbols[at], uint(c.bits), true
}

// maxDecodedLen is how many octets n octets of Huffman code may become, and one to spare, which
// decodeHuffman needs.
func maxDecodedLen(n int) int { return n*8/minCodeBits + 1 }

// decodeHuffman decodes src into dst, which must have room for maxDecodedLen(len(src)) octets. It
// returns how many it wrote and whether src is valid.
func decodeHuffman(dst, src []byte) (int, bool) {
	var (
		n     int
		acc   uint64 // the bits not yet decoded, from the highest downwards
		nbits uint   // how many of acc's bits are counted; further ones are right, but will be read again
	)
	for len(src) >= 8 {
		acc |= binary.BigEndian.Uint64(src) >> nbits
		src = src[(63-nbits)>>3:]
		nbits |= 56
		for nbits >= lookupBits {
			e := huffmanLookup[acc>>(64-lookupBits)]
			if e == 0 {
				if nbits < maxCodeBits {
					break
				}
				symbol, bits, ok := longCode(uint32(acc >> 32))
				if !ok {
					return 0, false
				}
				dst[n] = symbol
				n++
				acc <<= bits & 63
				nbits -= bits
				continue
			}
			dst[n] = byte(e)
			dst[n+1] = byte(e >> 8)
			n += int(e >> lookupCountShift)
			bits := uint(e >> lookupBothShift & lookupBitsMask)
			acc <<= bits & 63
			nbits -= bits
		}
	}
	if bits := nbits + 8*uint(len(src)); bits <= 64 { // so it is with every string of up to eight octets
		acc |= loadUpTo7(src) >> (nbits & 63)
		nbits = bits
		src = nil
	}
	for {
		for nbits <= 56 && len(src) > 0 {
			acc |= uint64(src[0]) << ((56 - nbits) & 63)
			src = src[1:]
			nbits += 8
		}
		if nbits < 8 && isPadding(acc, nbits) {
			return n, true
		}
		e := huffmanLookup[acc>>(64-lookupBits)]
		bits := uint(e >> lookupBothShift & lookupBitsMask)
		switch {
		case e != 0 && bits <= nbits:
			dst[n] = byte(e)
			dst[n+1] = byte(e >> 8)
			n += int(e >> lookupCountShift)
		default:
			symbol, first, ok := firstCode(e, acc, nbits)
			if !ok {
				return 0, false
			}
			dst[n] = symbol
			n++
			bits = first
		}
		acc <<= bits & 63
		nbits -= bits
	}
}

// loadUpTo7 returns up to seven octets as the highest bits of an integer.
func loadUpTo7(p []byte) uint64 {
	n := len(p)
	switch {
	case n >= 4:
		return uint64(binary.BigEndian.Uint32(p))<<32 | uint64(binary.BigEndian.Uint32(p[n-4:]))<<(64-8*uint(n))
	case n > 0:
		m := n >> 1
		return uint64(p[0])<<56 | uint64(p[m])<<(56-8*uint(m)) | uint64(p[n-1])<<(64-8*uint(n))
	}
	return 0
}

// huffmanLen returns how many octets src decodes to, and whether it is valid.
func huffmanLen(src []byte) (int, bool) {
	var (
		n     int
		acc   uint64
		nbits uint
	)
	for {
		for nbits <= 56 && len(src) > 0 {
			acc |= uint64(src[0]) << ((56 - nbits) & 63)
			src = src[1:]
			nbits += 8
		}
		if nbits < 8 && isPadding(acc, nbits) {
			return n, true
		}
		_, bits, ok := firstCode(huffmanLookup[acc>>(64-lookupBits)], acc, nbits)
		if !ok {
			return 0, false
		}
		n++
		acc <<= bits & 63
		nbits -= bits
	}
}

// isPadding reports whether the last nbits bits, fewer than eight, are the ones that fill up a
// string's last octet (RFC 7541 section 5.2).
func isPadding(acc uint64, nbits uint) bool { return ^acc>>(64-nbits) == 0 }

// firstCode decodes one code at the front of acc, where the lookup gave e. It reports false if the
// code does not end within nbits bits, or is EOS.
func firstCode(e uint32, acc uint64, nbits uint) (symbol byte, bits uint, ok bool) {
	if e == 0 {
		symbol, bits, ok = longCode(uint32(acc >> 32))
	} else {
		symbol, bits, ok = byte(e), uint(e>>lookupFirstShift&lookupBitsMask), true
	}
	return symbol, bits, ok && bits <= nbits
}
