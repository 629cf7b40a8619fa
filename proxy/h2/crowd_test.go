package h2

import (
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
)

// Clients that take nothing hold little each once they are many: streams park what
// there is for them, and that is what the budget counts.
func TestManyPeersThatTakeNothing(t *testing.T) {
	simulated(t, func(t *testing.T) {
		const (
			clients = 40
			budget  = 1 << 20
		)
		g := NewBudget(budget)
		all := make([]*rig, clients)
		for i := range all {
			r := newServer(t, Config{Budget: g}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
			all[i] = r
			r.must(r.WriteWindowUpdate(0, 1<<30))
			r.room(0)
			for stream := range uint32(20) {
				r.headers(1+2*stream, true, post...)
				r.must(r.WritePing(false, [8]byte{})) // so that the connection is stuck
			}
			synctest.Wait()
			for stream := range 20 {
				o := r.w.stream(stream)
				o.send(false, ok...)
				o.write(32<<10, false)
			}
			synctest.Wait()
		}
		if n := g.stuck.Load(); n != clients*maxOutput {
			t.Errorf("%d bytes may wait for sockets, want %d", n, clients*maxOutput)
		}
		held := 0
		for _, r := range all {
			r.c.mu.Lock()
			if r.c.out != nil {
				held += cap(r.c.out.b)
			}
			r.c.mu.Unlock()
		}
		// Large outputs until half of the budget is in them, then small ones; each may
		// end with what a stream is let at once.
		if most := budget/2 + clients*(crowdedOutput+2*maxStreamOutput); held > most {
			t.Errorf("%d clients that take nothing hold %d bytes, want at most %d", clients, held, most)
		}
		if used := g.Used(); used > budget {
			t.Errorf("%d bytes are parked, of %d", used, budget)
		}
		for _, r := range all {
			r.end.Close()
			<-r.served
		}
		synctest.Wait()
		if n := g.stuck.Load(); n != 0 {
			t.Errorf("%d bytes still wait for sockets", n)
		}
	})
}
