package mtls

import (
	"runtime"
	"sync/atomic"
	"time"
)

// turns are held by those who do the arithmetic of a handshake, from when a message of
// the peer's has come until the next one is waited for. Nobody waits for a peer while
// holding one.
type turns struct {
	taken chan struct{}
	// ended is when the last one was, as [time.Since] counts from began.
	began time.Time
	ended atomic.Int64
}

func newTurns() *turns {
	return &turns{taken: make(chan struct{}, runtime.GOMAXPROCS(0)), began: time.Now()}
}

// pause is how long there has to be no turn for the next one not to be one of many.
const pause = time.Millisecond

// take waits for a turn. Others are served in the order in which they asked. many says
// that turns follow one another: whoever has one makes way for others first.
func (t *turns) take() (many bool) {
	t.taken <- struct{}{}
	ended := t.ended.Load()
	return ended != 0 && time.Since(t.began)-time.Duration(ended) < pause
}

func (t *turns) giveBack() {
	t.ended.Store(int64(time.Since(t.began)))
	<-t.taken
}
