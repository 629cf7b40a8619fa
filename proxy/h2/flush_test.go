package h2

import (
	"testing"
	"testing/synctest"
)

// busy is a transport that is handed more whenever it has written something, as
// by many other goroutines.
type busy struct {
	*simEnd
	tried int
	more  func()
}

func (w *busy) TryWrite(p []byte) (int, bool, error) {
	w.tried++
	if w.more != nil {
		w.more()
	}
	return w.simEnd.TryWrite(p)
}

func (w *busy) Waited() bool { return false }

// Who flushes a connection that others keep busy does not do it for them for
// ever: a reader has its own connection to read.
func TestFlushEnds(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStream(t, Client, initialWindow(1<<30))
		w := &busy{simEnd: r.engine}
		r.c.t = w
		sent := 0
		w.more = func() {
			if sent < 10000 {
				sent++
				var others Batch
				o.s.SendData(&others, []byte("x"), false)
				others.Done()
			}
		}
		o.write(1, false)
		if w.tried > 100 {
			t.Errorf("one flush wrote %d times", w.tried)
		}
		w.more = nil
		synctest.Wait()
		if n := len(r.drain()); n != sent+1 {
			t.Errorf("%d of %d frames came", n, sent+1)
		}
	})
}
