package admission

import "sync/atomic"

// Throttle bounds what is sent again because an instance was overloaded, so that
// an overload of all instances is not made worse by it. It counts as gRFC A6 does
// for retries: each refusal takes a token, each RPC that an instance accepts gives
// back a tenth of one, and nothing is sent again while half of them are gone. One
// that was sent again and accepted gives its whole token back too: where only some
// instances are overloaded, all RPCs that these refuse go to the others. The zero
// value is ready for use.
type Throttle struct {
	missing atomic.Int64 // tenths of tokens
}

const (
	// throttleTokens is how many there are, in tenths.
	throttleTokens = 100 * tenths
	tenths         = 10
)

// Refused takes a token for a refusal, and says whether the RPC may be sent
// again.
func (t *Throttle) Refused() bool {
	for {
		old := t.missing.Load()
		now := min(old+tenths, throttleTokens)
		if old == now || t.missing.CompareAndSwap(old, now) {
			return now <= throttleTokens/2
		}
	}
}

// Accepted gives a tenth of a token back for an RPC that an instance accepted, and
// a whole one with it where another had refused the RPC.
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
