package admission

import "sync/atomic"

// Throttle bounds what is sent again because an instance was overloaded, so that
// an overload of all instances is not made worse by it. What is sent again takes a
// token, and gives it back if it is accepted then: where only some instances are
// overloaded, all RPCs that these refuse go to the others. Each RPC that an
// instance accepts gives back a tenth of a token, so that in a lasting overload of
// all at most one RPC is sent again in vain for ten that are accepted. gRFC A6
// throttles retries by the same count, but takes tokens for failures that are not
// sent again too: then one instance that refuses much would end it for all.
// The zero value is ready for use.
type Throttle struct {
	missing atomic.Int64 // tenths of tokens
}

const (
	// throttleTokens is how many there are, in tenths.
	throttleTokens = 50 * tenths
	tenths         = 10
)

// Take takes a token, if there is one: an RPC may be sent again.
func (t *Throttle) Take() bool {
	for {
		old := t.missing.Load()
		if old+tenths > throttleTokens {
			return false
		}
		if t.missing.CompareAndSwap(old, old+tenths) {
			return true
		}
	}
}

// Accepted gives a tenth of a token back for an RPC that an instance accepted, and
// the one that it took where it was sent again.
func (t *Throttle) Accepted(again bool) {
	back := int64(1)
	if again {
		back += tenths
	}
	for {
		old := t.missing.Load()
		if old == 0 || t.missing.CompareAndSwap(old, max(old-back, 0)) {
			return
		}
	}
}
