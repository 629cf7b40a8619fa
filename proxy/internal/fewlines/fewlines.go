// Package fewlines logs what others may cause as often as they like: the first few of
// each period one by one, and the rest in one line that says how many they were. It does
// not decide what is worth a line.
package fewlines

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// Each is how many lines there are of a kind in each period. Somebody who attacks
	// causes thousands a second, and a log that is full is an outage of its own.
	Each = 5
	// Period is how long it takes until there may be as many again.
	Period = 10 * time.Second
)

// Log logs things of one kind. It is safe for concurrent use.
type Log struct {
	// Logger is told of them. It must be set.
	Logger *slog.Logger
	Level  slog.Level
	// One is the message about a single thing, More that about those that were left out.
	One, More string

	mu     sync.Mutex
	timer  *time.Timer // runs from the first of a period to its end
	told   int
	untold int
	last   []any // what the last one that was not told had to say
	closed bool
}

// Note logs a thing, or counts it. The arguments are keys and values by turns.
func (l *Log) Note(args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer == nil && !l.closed {
		l.timer = time.AfterFunc(Period, l.sum)
	}
	if l.told++; l.told <= Each {
		l.log(l.One, args...)
		return
	}
	l.untold++
	l.last = args
}

// sum ends a period.
func (l *Log) sum() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer, l.told = nil, 0
	l.tellRest()
}

// Close says what is not said yet.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.tellRest()
}

func (l *Log) tellRest() {
	if l.untold > 0 {
		args := []any{"left_out", l.untold}
		for i, arg := range l.last {
			if key, is := arg.(string); is && i%2 == 0 {
				arg = "last_" + key
			}
			args = append(args, arg)
		}
		l.log(l.More, args...)
	}
	l.untold, l.last = 0, nil
}

func (l *Log) log(message string, args ...any) {
	l.Logger.Log(context.Background(), l.Level, message, args...)
}
