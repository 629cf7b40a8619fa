package retry

import "sync/atomic"

// ThrottlingOptions are gRPC's retryThrottling: a bucket of MaxTokens. Each failure
// takes one, each success gives TokenRatio back, of which three decimal places count
// (gRFC A6).
type ThrottlingOptions struct {
	MaxTokens  int
	TokenRatio float64
}

// throttle counts tokens in thousandths.
type throttle struct {
	most, ratio int64
	missing     atomic.Int64
}

const thousand = 1000

func newThrottle(o ThrottlingOptions) *throttle {
	return &throttle{most: int64(o.MaxTokens) * thousand, ratio: int64(o.TokenRatio * thousand)}
}

// allowed says whether more than half of the tokens are there.
func (t *throttle) allowed() bool { return t.missing.Load()*2 < t.most }

func (t *throttle) failure() {
	for {
		old := t.missing.Load()
		if t.missing.CompareAndSwap(old, min(old+thousand, t.most)) {
			return
		}
	}
}

func (t *throttle) success() {
	for {
		old := t.missing.Load()
		if old == 0 || t.missing.CompareAndSwap(old, max(old-t.ratio, 0)) {
			return
		}
	}
}
