package hpack

import (
	"hash/maphash"
	"math/bits"
)

// hashSeed is new in each process, so that no peer can make fields that collide.
var hashSeed = maphash.MakeSeed()

// hashName hashes a name.
func hashName(name string) uint32 { return uint32(maphash.String(hashSeed, name)) }

// hashPair hashes a whole field.
func hashPair(nameHash uint32, value string) uint32 {
	const spread = 0x9e3779b1 // the golden ratio times 2^32: equal names and values must not cancel out
	return uint32(maphash.String(hashSeed, value)) ^ bits.RotateLeft32(nameHash, 15)*spread
}
