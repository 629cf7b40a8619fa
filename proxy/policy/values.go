package policy

import "github.com/pillion-proxy/pillion/proxy/h2/hpack"

// values remembers the values of the keys that a decision looked at last: many rules
// may ask for the same key, and callers choose how often it stands in a request. Where
// a look costs next to nothing, which is with nearly all requests, nothing is
// remembered.
type values struct {
	known *[4]keyValue
	next  int
}

type keyValue struct {
	key, value string
	count      int
}

// manyFields is how many fields a request may have for looks at each to be cheap.
const manyFields = 64

// of returns the values of a key, joined by commas, and how many there are. A nil v
// remembers nothing.
func (v *values) of(fields []hpack.Field, key string) (value string, count int) {
	if v != nil && v.known != nil {
		for i := range v.known {
			if k := &v.known[i]; k.key == key {
				return k.value, k.count
			}
		}
	}
	value, count = one(fields, key)
	if count > 1 {
		value = string(appendJoined(nil, fields, key))
	}
	if v != nil && (count > 1 || len(fields) > manyFields) {
		v.remember(keyValue{key, value, count})
	}
	return value, count
}

func (v *values) remember(k keyValue) {
	if v.known == nil {
		v.known = new([4]keyValue)
	}
	v.known[v.next] = k
	v.next = (v.next + 1) % len(v.known)
}
