package inmemory

import (
	"runtime"
	"testing"
	"time"
)

// What was closed holds no memory, though its deadlines have not passed.
func TestClosedConnectionsInMemoryHoldNothing(t *testing.T) {
	const conns = 500
	listener := Listen()
	defer func() { _ = listener.Close() }()
	before := heap()
	for range conns {
		dialled := make(chan error, 1)
		go func() {
			nc, err := listener.Dial(t.Context())
			if err == nil {
				_ = nc.SetDeadline(time.Now().Add(time.Hour))
				err = nc.Close()
			}
			dialled <- err
		}()
		accepted, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if err := <-dialled; err != nil {
			t.Fatal(err)
		}
		_ = accepted.Close()
	}
	if now, most := heap(), before+conns*size/4; now > most {
		t.Errorf("%d connections that were closed left %d bytes, before %d, want at most %d", conns, now, before, most)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
