package scriptpeer

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// ErrRefused is what dialling an address fails with that nobody listens at.
var ErrRefused = errors.New("connection refused")

// Network is a network in memory: what is dialled there is handed to the test.
type Network struct {
	t testing.TB

	mu    sync.Mutex
	hosts map[string]*Host
	dials map[string]int
}

// Host is an address of a Network that somebody listens at.
type Host struct {
	// Delay is how long a connection to it takes.
	Delay time.Duration
	// Silent hosts do not send SETTINGS by themselves.
	Silent bool
	// GoAway hosts send SETTINGS and GOAWAY in one write, and take no streams.
	GoAway bool
	// Leaving is how many connections it treats so, before it takes others.
	Leaving int
	// Settings is what its connections begin with.
	Settings []http2.Setting

	t     testing.TB
	mu    sync.Mutex
	conns []*Peer
}

// NewNetwork returns a network where nobody listens.
func NewNetwork(t testing.TB) *Network {
	return &Network{t: t, hosts: map[string]*Host{}, dials: map[string]int{}}
}

// Listen has connections to an address accepted.
func (n *Network) Listen(address string, settings ...http2.Setting) *Host {
	return n.Add(address, &Host{Settings: settings})
}

// Add has connections to an address accepted by a host.
func (n *Network) Add(address string, h *Host) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h.t = n.t
	n.hosts[address] = h
	return h
}

// Remove has connections to an address refused from now on.
func (n *Network) Remove(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.hosts, address)
}

// Dials returns how often an address was dialled, once nothing moves any more.
func (n *Network) Dials(address string) int {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[address]
}

// Dial is for upstream.Options.
func (n *Network) Dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dials[address]++
	h := n.hosts[address]
	n.mu.Unlock()
	if h == nil {
		return nil, ErrRefused
	}
	if h.Delay > 0 {
		select {
		case <-time.After(h.Delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	here, there := net.Pipe()
	go h.accept(there)
	return here, nil
}

func (h *Host) accept(conn net.Conn) {
	p := silentServer(h.t, conn)
	h.mu.Lock()
	leaves := h.GoAway || h.Leaving > 0
	h.Leaving--
	h.mu.Unlock()
	if leaves {
		p.write(func() error {
			_, err := conn.Write([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00" + // SETTINGS
				"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")) // GOAWAY 0 NO_ERROR
			return err
		})
	} else if !h.Silent {
		_ = p.settings(h.Settings) // the test may have ended the connection by now
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns = append(h.conns, p)
}

// Conns returns the connections that came so far, once nothing moves any more.
func (h *Host) Conns() []*Peer {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*Peer(nil), h.conns...)
}

// Conn returns the connection that came last, or fails the test.
func (h *Host) Conn() *Peer {
	h.t.Helper()
	conns := h.Conns()
	if len(conns) == 0 {
		h.t.Fatal("no connection came")
	}
	return conns[len(conns)-1]
}
