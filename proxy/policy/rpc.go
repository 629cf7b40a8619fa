package policy

import (
	"math/bits"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// RPC is what policies look at. Its strings need to be valid only during a call, so
// they may lie in memory that is used again.
type RPC struct {
	// Path is :path, such as "/helloworld.Greeter/SayHello".
	Path string
	// Authority is :authority.
	Authority string
	// Caller is the service that the RPC comes from; "": it is not known.
	Caller string
	// Peer is the caller's address without a port. It stands for a caller who is not
	// known.
	Peer string
	// Fields are the request's fields. Pseudo fields among them are not looked at.
	Fields []hpack.Field
	// Random draws evenly from all numbers. It is called at most once for each
	// decision, and only where something is left to chance.
	Random func() uint64

	marks marks // of Fields
}

// shares is what fractions and weights are parts of.
const shares = 10_000

// dice draws what is left to chance in one decision. All draws come of one random
// number and the number of what is drawn for, so they do not depend on how many
// rules were looked at before, or in which order. It has along what the decision knows
// of the metadata already.
type dice struct {
	random func() uint64
	base   uint64
	drawn  bool
	values values
}

// roll draws a number below shares for the thing of that number.
func (d *dice) roll(n uint64) uint32 {
	if !d.drawn {
		d.base, d.drawn = d.random(), true
	}
	return share(mix(d.base + n*0x9e3779b97f4a7c15))
}

// share maps a number that is evenly distributed to one below shares, evenly.
func share(n uint64) uint32 {
	hi, _ := bits.Mul64(n, shares)
	return uint32(hi)
}

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood 2014): neighbours come out
// independent.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// one returns the value of a metadata key, where it stands just once, and how often
// it stands there.
func one(fields []hpack.Field, key string) (value string, count int) {
	for i := range fields {
		if fields[i].Name == key {
			if count == 0 {
				value = fields[i].Value
			}
			count++
		}
	}
	return value, count
}

// appendJoined appends the values of a key, joined by commas.
func appendJoined(dst []byte, fields []hpack.Field, key string) []byte {
	first := true
	for i := range fields {
		if fields[i].Name != key {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, fields[i].Value...)
	}
	return dst
}
