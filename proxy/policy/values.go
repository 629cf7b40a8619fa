package policy

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
func (v *values) of(rpc *RPC, k *key) (value string, count int) {
	if v != nil && v.known != nil {
		for i := range v.known {
			if known := &v.known[i]; known.key == k.text {
				return known.value, known.count
			}
		}
	}
	value, count = rpc.one(k)
	if count > 1 {
		value = string(appendJoined(nil, rpc.Fields, k.text))
	}
	if v != nil && (count > 1 || len(rpc.Fields) > manyFields) {
		v.remember(keyValue{k.text, value, count})
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
