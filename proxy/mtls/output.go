package mtls

import (
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
)

// ciphertext is a buffer of records on their way to the socket.
type ciphertext struct {
	b   []byte
	off int // what is written
}

const (
	// writeSize is how much is encrypted at a time: a socket that takes nothing shall
	// not make us hold more than that.
	writeSize = 64 << 10
	// maxKept is the capacity above which a buffer is not kept.
	maxKept = writeSize + writeSize/4
)

var ciphertexts = sync.Pool{New: func() any { return &ciphertext{b: make([]byte, 0, 8<<10)} }}

func (c *ciphertext) rest() []byte { return c.b[c.off:] }

func (c *ciphertext) free() {
	if cap(c.b) <= maxKept {
		c.b, c.off = c.b[:0], 0
		ciphertexts.Put(c)
	}
}

// fit returns a buffer of what is left, which may have to wait for long, followed by
// what came meanwhile.
func (c *ciphertext) fit(behind *ciphertext) *ciphertext {
	n := len(c.rest())
	if behind != nil {
		n += len(behind.rest())
	}
	if behind == nil && cap(c.b) < 2*n+1024 {
		return c
	}
	fitting := &ciphertext{b: make([]byte, 0, n)}
	fitting.b = append(fitting.b, c.rest()...)
	c.free()
	if behind != nil {
		fitting.b = append(fitting.b, behind.rest()...)
		behind.free()
	}
	return fitting
}

// output is what was encrypted and is not written yet. It is safe for concurrent use,
// and what was appended first is written first.
type output struct {
	under h2.Transport

	mu sync.Mutex
	// b is what nobody is writing.
	b *ciphertext
	// writing: somebody writes what came before b; idle says when he is done.
	writing bool
	idle    sync.Cond
	err     error
}

// append adds records.
func (o *output) append(p []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return
	}
	if o.b == nil {
		o.b = ciphertexts.Get().(*ciphertext)
	}
	o.b.b = append(o.b.b, p...)
}

// try writes what can be written without waiting. pending says that something is left.
// out says whether anything was written.
func (o *output) try() (pending, out bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writing {
		return true, true, nil
	}
	o.writing = true
	for o.b != nil && !pending {
		b := o.b
		o.b = nil
		o.mu.Unlock()
		n, _, err := o.under.TryWrite(b.rest())
		o.mu.Lock()
		out = out || n > 0
		if b.off += n; err != nil {
			o.fail(b, err)
		} else if len(b.rest()) > 0 {
			o.b, pending = b.fit(o.b), true
		} else {
			b.free()
		}
	}
	o.done()
	return pending, out, o.err
}

// finish writes all, waiting for the peer as long as each wait is shorter than stall.
func (o *output) finish(stall time.Duration) (out bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.writing {
		o.idle.Wait()
	}
	o.writing = true
	for o.b != nil {
		b := o.b
		o.b = nil
		o.mu.Unlock()
		n, err := o.under.Write(b.rest(), stall)
		o.mu.Lock()
		if out = out || n > 0; err != nil {
			b.off += n
			o.fail(b, err)
		} else {
			b.free()
		}
	}
	o.done()
	return out, o.err
}

// fail ends the output. o.mu is held.
func (o *output) fail(b *ciphertext, err error) {
	o.err = err
	b.free()
	if o.b != nil {
		o.b.free()
		o.b = nil
	}
}

// done says that nobody writes any more. o.mu is held.
func (o *output) done() {
	o.writing = false
	o.idle.Broadcast()
}
