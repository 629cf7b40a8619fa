package policy

import (
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// HashKey finds that of an RPC by which it is told from others: for the groups of a
// sticky split, for instances chosen by hash, and for the buckets of a rate limit.
type HashKey struct {
	metadata key    // its text is "": it is another
	cookie   string // a cookie's name; both "": the caller
}

// Key returns the key's text. It is false where the RPC has none, or an empty one:
// whoever is not named must not be taken for one and the same. The text is valid as
// long as the RPC's strings are.
func (k *HashKey) Key(rpc *RPC) (key string, found bool) {
	switch {
	case k == nil:
		return "", false
	case k.metadata.text != "":
		value, count := rpc.one(&k.metadata)
		if count > 1 {
			value = string(appendJoined(nil, rpc.Fields, k.metadata.text))
		}
		return value, value != ""
	case k.cookie != "":
		key, _ = rpc.cookie(k.cookie)
		return key, key != ""
	case rpc.Caller != "":
		return rpc.Caller, true
	default:
		return rpc.Peer, rpc.Peer != ""
	}
}

// Hash returns XXH64 of the key, the same in every process. It is false where the RPC
// has no key.
func (k *HashKey) Hash(rpc *RPC) (hash uint64, found bool) { return k.seeded(rpc, 0) }

// seeded returns XXH64 of the key with a seed.
func (k *HashKey) seeded(rpc *RPC, seed uint64) (hash uint64, found bool) {
	key, found := k.Key(rpc)
	if !found {
		return 0, false
	}
	return seededHash(seed, key), true
}

// String says what the key is, for people.
func (k *HashKey) String() string {
	switch {
	case k == nil:
		return "nothing"
	case k.metadata.text != "":
		return "metadata " + quoted(k.metadata.text)
	case k.cookie != "":
		return "cookie " + quoted(k.cookie)
	}
	return "caller"
}

// compileHashKey compiles a key; nil where there is none.
func (p *problems) compileHashKey(field string, m *configv1.HashKey) *HashKey {
	switch from := m.GetFrom().(type) {
	case *configv1.HashKey_Metadata:
		if reason := conditionKeyProblem(from.Metadata); reason != "" {
			p.addf(field+".metadata", "%s", reason)
		}
		return &HashKey{metadata: newKey(from.Metadata)}
	case *configv1.HashKey_Cookie:
		p.checkCookie(field+".cookie", from.Cookie)
		return &HashKey{cookie: from.Cookie}
	case *configv1.HashKey_Caller:
		return &HashKey{}
	}
	if m != nil {
		p.addf(field, "names nothing: write metadata, cookie or caller")
	}
	return nil
}
