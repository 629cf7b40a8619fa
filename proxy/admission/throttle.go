package admission

import "sync/atomic"

// Throttle bounds what is sent again because an instance was overloaded, so that
// an overload of all instances is not made worse by it. It counts as gRFC A6 does
// for retries: each refusal takes a token, each RPC that an instance accepts gives
// back a tenth of one, and nothing is sent again while half of them are gone. So
// in a lasting overload at most one RPC is sent again for ten that are accepted.
// The zero value is ready for use.
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

// Accepted gives a tenth of a token back.
func (t *Throttle) Accepted() {
	for {
		old := t.missing.Load()
		if old == 0 || t.missing.CompareAndSwap(old, old-1) {
			return
		}
	}
}
