package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
)

const (
	defaultQueue = 4096
	// gather is how long the writer lets RPCs collect before it looks at the
	// queue again: waking a goroutine for every RPC costs more than writing its
	// line does.
	gather = 2 * time.Millisecond
	// flushAt is how many bytes of lines are written with one call at least,
	// while there are more.
	flushAt = 64 << 10
	// reportEvery is how long what was lost is added up before a warning says
	// so.
	reportEvery = 10 * time.Second
)

// AccessLogOptions says what the access log holds.
type AccessLogOptions struct {
	// Sample is the share of RPCs that are logged, from 0 (none) to 1 (all).
	Sample float64
	// Errors logs every RPC whose status is not OK. Without it they are
	// sampled as the others are.
	Errors bool
	// Queue is how many RPCs may wait to be written, 4,096 if 0. What comes
	// while it is full is dropped and counted.
	Queue int
	// Texts says how much of each string is logged.
	Texts TextLimits
	// Dropped counts the RPCs that should have been logged and were not;
	// usually Counters.AccessLogDropped. It may be nil.
	Dropped *atomic.Uint64
	// Logger hears of what was lost, at most once in 10 s. The default is
	// slog.Default().
	Logger *slog.Logger
	// Random decides what is sampled. The default is math/rand/v2's.
	Random func() uint64
}

// AccessLog writes a line of JSON for each RPC that it is told of, on a
// goroutine of its own. All methods may be called from many goroutines at once.
// On a nil *AccessLog, Want is false and Log, Reopen and Close do nothing.
type AccessLog struct {
	threshold uint64 // an RPC is sampled where a random number is below it
	all       bool   // every RPC is
	errors    bool
	random    func() uint64
	limit     int
	texts     TextLimits
	dropped   *atomic.Uint64
	logger    *slog.Logger
	out       *sink

	mu      sync.Mutex
	pending []*entry // RPCs to be written
	closed  bool
	wake    chan struct{} // has room for one; filled when pending is no longer empty

	entries sync.Pool
	done    chan struct{} // closed when the writer has ended

	losses losses
}

// NewAccessLog returns a log that writes to w and starts its writer, which ends
// with Close. w is not closed.
func NewAccessLog(w io.Writer, o AccessLogOptions) *AccessLog {
	return newAccessLog(&sink{w: w, name: "the access log"}, o)
}

// OpenAccessLog is NewAccessLog with "stdout", "stderr" or the path of a file,
// which is appended to and made if it is not there.
func OpenAccessLog(path string, o AccessLogOptions) (*AccessLog, error) {
	out, err := openSink(path)
	if err != nil {
		return nil, err
	}
	return newAccessLog(out, o), nil
}

func newAccessLog(out *sink, o AccessLogOptions) *AccessLog {
	l := &AccessLog{
		all:     o.Sample >= 1,
		errors:  o.Errors,
		random:  o.Random,
		limit:   o.Queue,
		texts:   o.Texts.withDefaults(),
		dropped: o.Dropped,
		logger:  o.Logger,
		out:     out,
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
	if o.Sample > 0 && !l.all {
		l.threshold = uint64(o.Sample * math.MaxUint64)
	}
	if l.random == nil {
		l.random = rand.Uint64
	}
	if l.limit <= 0 {
		l.limit = defaultQueue
	}
	if l.dropped == nil {
		l.dropped = new(atomic.Uint64)
	}
	if l.logger == nil {
		l.logger = slog.Default()
	}
	l.entries.New = func() any { return new(entry) }
	go l.run()
	return l
}

// Want decides whether an RPC that ended with code is to be logged, so that
// nobody makes a Record for nothing. Each call decides anew.
func (l *AccessLog) Want(code codes.Code) bool {
	switch {
	case l == nil:
		return false
	case l.all, l.errors && code != codes.OK:
		return true
	case l.threshold == 0:
		return false
	}
	return l.random() < l.threshold
}

// Log queues an RPC to be written, whatever Want says of it. It copies what it
// needs of r and never waits for the writer: where the queue is full, or the
// log closed, the RPC is dropped and counted.
func (l *AccessLog) Log(r *Record) {
	if l == nil {
		return
	}
	e := l.entries.Get().(*entry)
	e.set(r, &l.texts)
	l.mu.Lock()
	closed, waiting := l.closed, len(l.pending)
	queued := !closed && waiting < l.limit
	if queued {
		l.pending = append(l.pending, e)
	}
	l.mu.Unlock()
	switch {
	case queued && waiting == 0:
		l.signal()
	case queued: // the writer knows
	case closed:
		l.recycle(e)
		l.dropped.Add(1)
	default:
		l.recycle(e)
		l.lost(1, nil)
	}
}

// Reopen opens the log's file again by its path, after something renamed it
// (log rotation). On an error the log goes on with the file that it has. A log
// that is no file is left as it is.
func (l *AccessLog) Reopen() error {
	if l == nil {
		return nil
	}
	return l.out.reopen()
}

// Close writes what is queued and ends the writer, or gives up when ctx ends
// and says how many RPCs were not written. What Log is told afterwards is
// dropped. Closing again waits again.
func (l *AccessLog) Close(ctx context.Context) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	l.closed = true
	waiting := len(l.pending)
	l.mu.Unlock()
	l.signal()
	select {
	case <-l.done:
		l.losses.report(l)
		return l.out.close()
	case <-ctx.Done():
		return fmt.Errorf("%s: not written in time, at least %d RPCs are missing: %w", l.out.name, waiting, ctx.Err())
	}
}

// signal makes the writer look at the queue.
func (l *AccessLog) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run is the writer. It takes all that is queued at once, and leaves the queue
// the memory of what it took before.
func (l *AccessLog) run() {
	defer close(l.done)
	var (
		batch []*entry
		lines bytes.Buffer
	)
	handler := slog.NewJSONHandler(&lines, nil)
	for {
		<-l.wake
		time.Sleep(gather)
		l.mu.Lock()
		batch, l.pending = l.pending, batch[:0]
		closed := l.closed
		l.mu.Unlock()

		l.write(batch, handler, &lines)
		clear(batch)
		if closed {
			return
		}
	}
}

// write writes a batch with as few calls as it takes.
func (l *AccessLog) write(batch []*entry, handler slog.Handler, lines *bytes.Buffer) {
	var buffered uint64
	flush := func() {
		if lines.Len() == 0 {
			return
		}
		if err := l.out.write(lines.Bytes()); err != nil {
			l.lost(buffered, err)
		}
		lines.Reset()
		buffered = 0
	}
	for _, e := range batch {
		e.restore()
		if err := e.Record.write(handler); err != nil {
			l.lost(1, err)
		} else {
			buffered++
		}
		l.recycle(e)
		if lines.Len() >= flushAt {
			flush()
		}
	}
	flush()
}

// recycle keeps an entry for the next RPC, but no unusually large one.
func (l *AccessLog) recycle(e *entry) {
	if cap(e.text) > maxKeptText {
		return
	}
	e.Record = Record{}
	l.entries.Put(e)
}

// lost counts n RPCs that were not written because the queue was full, or for
// the reason given.
func (l *AccessLog) lost(n uint64, reason error) {
	l.dropped.Add(n)
	l.losses.add(l, n, reason)
}
