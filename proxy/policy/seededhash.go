package policy

import (
	"encoding/binary"
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// The primes of XXH64.
const (
	prime1 = 0x9E3779B185EBCA87
	prime2 = 0xC2B2AE3D27D4EB4F
	prime3 = 0x165667B19E3779F9
	prime4 = 0x85EBCA77C2B2AE63
	prime5 = 0x27D4EB2F165667C5
)

// seededHash returns XXH64 with a seed. Package xxhash has that as a digest alone, which
// is to be set up and filled; short keys, as most are, take no more than the end of the
// algorithm (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md).
func seededHash(seed uint64, key string) uint64 {
	if seed == 0 {
		return xxhash.Sum64String(key)
	}
	if len(key) >= 32 {
		var d xxhash.Digest
		d.ResetWithSeed(seed)
		_, _ = d.WriteString(key) // never fails
		return d.Sum64()
	}
	var buf [32]byte
	rest := buf[:copy(buf[:], key)]
	h := seed + prime5 + uint64(len(key))
	for ; len(rest) >= 8; rest = rest[8:] {
		h ^= bits.RotateLeft64(binary.LittleEndian.Uint64(rest)*prime2, 31) * prime1
		h = bits.RotateLeft64(h, 27)*prime1 + prime4
	}
	if len(rest) >= 4 {
		h ^= uint64(binary.LittleEndian.Uint32(rest)) * prime1
		h = bits.RotateLeft64(h, 23)*prime2 + prime3
		rest = rest[4:]
	}
	for _, b := range rest {
		h ^= uint64(b) * prime5
		h = bits.RotateLeft64(h, 11) * prime1
	}
	h = (h ^ h>>33) * prime2
	h = (h ^ h>>29) * prime3
	return h ^ h>>32
}
