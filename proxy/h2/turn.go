package h2

import (
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// turn is how long a reader has kept a processor from others. Go asks the system
// which connections have become readable when a processor has nothing left to run,
// and every 10 ms otherwise: a reader that always finds something more to do would
// hold up all others for as long. It belongs to the reader.
type turn struct {
	began time.Time // zero: its first batch that was not waited for is still to come
	work  int       // in the present batch
}

const (
	// turnTime is how long a turn may take before the reader makes way: long beside
	// what that costs, and short beside what RPCs take.
	turnTime = 200 * time.Microsecond
	// turnWork is about as much work as takes half of that, in bytes of header sections,
	// as they came and as RFC 9113 section 6.5.2 counts what they say. They are what
	// costs far more than it takes to send.
	turnWork = 64 << 10
	// sectionWork is what a header section costs however short it is.
	sectionWork = 512
	// turnEnds is how many RPCs the end of their connection ends in one turn.
	turnEnds = 32
)

// decoded notes a header section of as many bytes.
func (t *turn) decoded(size int) { t.work += size + sectionWork }

// long says that a batch that is not done yet is a whole turn's work.
func (t *turn) long() bool { return t.work >= turnWork }

// over says whether the turn of a reader is over that is done with a batch, which
// began at now, and that had waited for it or not. One that had waited has let others
// run since: a turn begins with the first batch that did not.
func (t *turn) over(now time.Time, waited bool) bool {
	t.work = 0
	switch {
	case waited:
		t.began = time.Time{}
	case t.began.IsZero():
		t.began = now
	case now.Sub(t.began) >= turnTime:
		t.began = time.Time{}
		return true
	}
	return false
}

// wayMaker is a transport whose reader shares processors with others that wait for
// the runtime's poller.
type wayMaker interface {
	// Waited says whether the last Read had to wait.
	Waited() bool
	// MakeWay returns once others that have become readable had their turns.
	MakeWay()
}

// MakeWay has its caller wait until others that have become readable had their turns,
// where the connection's transport shares a poller with them. No lock may be held.
func (c *Conn) MakeWay() {
	if w, ok := c.t.(wayMaker); ok {
		w.MakeWay()
	}
}

// turnstile lets goroutines pass one by one, each as the poller has looked what has
// become readable. Whatever that made run has run before: a goroutine that waits for
// the poller itself has the processor run dry, which [runtime.Gosched] has not.
type turnstile struct {
	once sync.Once
	// mine holds who is about to pass. Others wait in the order they came: of many
	// long turns, one is taken between two looks.
	mine chan struct{}
	r, w *os.File
	wait syscall.RawConn // of r
}

// wayside is the process's: there is one poller.
var wayside turnstile

// pass waits for the poller.
func (t *turnstile) pass() {
	t.once.Do(t.open)
	if t.wait == nil {
		runtime.Gosched()
		return
	}
	t.mine <- struct{}{}
	asked := false
	_ = t.wait.Read(func(fd uintptr) (done bool) {
		var p [1]byte
		if !asked {
			// What is written before the poller is waited for is not waited for.
			asked = true
			_, err := t.w.Write(p[:])
			return err != nil
		}
		_, err := syscall.Read(int(fd), p[:])
		return err != syscall.EAGAIN && err != syscall.EINTR
	})
	runtime.Gosched() // others may have been found after this one
	<-t.mine
}

// open opens what there is to wait for. Without a file descriptor to spare, nobody
// waits.
func (t *turnstile) open() {
	r, w, err := os.Pipe()
	if err != nil {
		return
	}
	wait, err := r.SyscallConn()
	if err != nil {
		return
	}
	t.r, t.w, t.wait, t.mine = r, w, wait, make(chan struct{}, 1)
}
