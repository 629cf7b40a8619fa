package mtls

import "runtime"

// turns are held by those who do the arithmetic of a handshake, from when a message of
// the peer's has come until the next one is waited for. Nobody waits for a peer while
// holding one.
type turns chan struct{}

func newTurns() turns { return make(turns, runtime.GOMAXPROCS(0)) }

// take waits for a turn. Others are served in the order in which they asked.
func (t turns) take() { t <- struct{}{} }

func (t turns) giveBack() { <-t }
