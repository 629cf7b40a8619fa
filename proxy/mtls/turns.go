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
	// Times are counted from began. since is when the present stretch of turns that
	// follow one another began, or others had their turns in it; ended is when the last
	// turn was over.
	began        time.Time
	since, ended atomic.Int64
}

func newTurns() *turns {
	return &turns{taken: make(chan struct{}, runtime.GOMAXPROCS(0)), began: time.Now()}
}

const (
	// pause is how long there has to be no turn for a stretch of them to be over.
	pause = time.Millisecond
	// stretch is how long turns may follow one another before others have theirs. It is
	// three or four turns: to make way for others costs a tenth of one.
	stretch = time.Millisecond
)

// take waits for a turn. Others are served in the order in which they asked. long says
// that turns have followed one another for long: whoever has this one makes way for
// others first.
func (t *turns) take() (long bool) {
	t.taken <- struct{}{}
	now := int64(time.Since(t.began))
	since := t.since.Load()
	switch {
	case now-t.ended.Load() > int64(pause) && len(t.taken) == 1:
		t.since.Store(now)
	case now-since > int64(stretch):
		return t.since.CompareAndSwap(since, now)
	}
	return false
}

func (t *turns) giveBack() {
	t.ended.Store(int64(time.Since(t.began)))
	<-t.taken
}
