package downstream

import (
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
)

// sharing is a caller's connection whose transport shares a poller with others.
type sharing struct {
	net.Conn
	made *atomic.Int32
}

func (s sharing) Transport() h2.Transport {
	return &sharingTransport{Transport: h2.NewTransport(s.Conn), made: s.made}
}

type sharingTransport struct {
	h2.Transport
	made *atomic.Int32
}

func (s *sharingTransport) Waited() bool { return true }
func (s *sharingTransport) MakeWay()     { s.made.Add(1) }

// Who connects without end does not hold up those who are connected.
func TestAcceptingTakesTurns(t *testing.T) {
	simulated(t, func(t *testing.T) {
		const conns = 5
		r := newRig(t, 0)
		var made atomic.Int32
		for range conns {
			here, there := net.Pipe()
			r.listener.conns <- sharing{there, &made}
			scriptpeer.Client(t, here)
		}
		synctest.Wait()
		if n := made.Load(); n != conns {
			t.Errorf("%d connections made way for others %d times", conns, n)
		}
	})
}
