package downstream

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// linesPerPeriod is how many connections that ended badly are logged one by
	// one in each period. Somebody who attacks makes thousands of them a second,
	// and a log that is full is an outage of its own.
	linesPerPeriod = 5
	period         = 10 * time.Second
)

// endings logs why callers' connections were ended: the first few of each period
// one by one, the others in one line that says how many they were. It is safe for
// concurrent use.
type endings struct {
	logger *slog.Logger
	level  slog.Level
	// one is the message about a single ending, more that about many.
	one, more string

	mu     sync.Mutex
	timer  *time.Timer // runs from the first ending of a period to its end
	told   int
	untold int
	peer   string // of the last one that was not told
	err    error
}

// note logs an ending, or counts it.
func (e *endings) note(peer string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer == nil {
		e.timer = time.AfterFunc(period, e.sum)
	}
	if e.told++; e.told <= linesPerPeriod {
		e.log(e.one, "peer", peer, "err", err)
		return
	}
	e.untold++
	e.peer, e.err = peer, err
}

// sum ends a period.
func (e *endings) sum() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.timer = nil
	e.told = 0
	e.tellRest()
}

// close says what is not said yet.
func (e *endings) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
	e.tellRest()
}

func (e *endings) tellRest() {
	if e.untold > 0 {
		e.log(e.more, "left_out", e.untold, "last_peer", e.peer, "last_err", e.err)
	}
	e.untold, e.peer, e.err = 0, "", nil
}

func (e *endings) log(message string, args ...any) {
	e.logger.Log(context.Background(), e.level, message, args...)
}
