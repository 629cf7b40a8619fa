package network

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// Network is hosts and the wires between them.
type Network struct {
	seed uint64
	stop chan struct{}
	wg   sync.WaitGroup
	lost atomic.Int64
	all  atomic.Int64

	mu    sync.Mutex
	hosts []*Host
	wires map[ends]*wire
}

type ends struct{ from, to *Host }

type wire struct {
	Wire

	dice *rand.Rand
}

// New returns a network without hosts, which ends with the test. The test is
// skipped where this user cannot make network namespaces.
func New(t testing.TB, seed uint64) *Network {
	t.Helper()

	n := &Network{seed: seed, stop: make(chan struct{}), wires: map[ends]*wire{}}
	t.Cleanup(n.close)

	return n
}

// Host adds a host. The first gets 10.99.0.1, and so on.
func (n *Network) Host(t testing.TB, name string) *Host {
	t.Helper()

	n.mu.Lock()
	defer n.mu.Unlock()

	h, err := newHost(name, netip.AddrFrom4([4]byte{10, 99, 0, byte(len(n.hosts) + 1)}))
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.ENOENT) {
		t.Skipf("no network namespace with a TUN device can be made here (%v): run this test as root, where /dev/net/tun is", err)
	}
	if err != nil {
		t.Fatalf("host %s: %v", name, err)
	}
	h.box = newInbox(h.tun)
	n.hosts = append(n.hosts, h)
	n.wg.Go(func() { h.box.run(n.stop) })
	n.wg.Go(func() { n.carry(h) })

	return h
}

// Set decides what happens to packets from one host to another.
func (n *Network) Set(from, to *Host, w Wire) {
	n.mu.Lock()
	defer n.mu.Unlock()

	n.wire(from, to).Wire = w
}

// Between decides what happens to packets between two hosts, in both directions.
func (n *Network) Between(a, b *Host, w Wire) {
	n.Set(a, b, w)
	n.Set(b, a, w)
}

// Around decides what happens to packets between a host and all others that
// there are.
func (n *Network) Around(h *Host, w Wire) {
	n.mu.Lock()
	hosts := append([]*Host(nil), n.hosts...)
	n.mu.Unlock()
	for _, other := range hosts {
		if other != h {
			n.Between(h, other, w)
		}
	}
}

// Lost is how many packets were lost on wires; Sent is how many were sent.
func (n *Network) Lost() int { return int(n.lost.Load()) }

// Sent is how many packets hosts have sent to each other.
func (n *Network) Sent() int { return int(n.all.Load()) }

// wire returns the wire between two hosts. n.mu is held.
func (n *Network) wire(from, to *Host) *wire {
	w := n.wires[ends{from, to}]
	if w == nil {
		a, b := from.IP.As4(), to.IP.As4()
		w = &wire{dice: rand.New(rand.NewPCG(n.seed, uint64(a[3])<<8|uint64(b[3])))}
		n.wires[ends{from, to}] = w
	}

	return w
}

// carry takes the packets that a host sends to where they go.
func (n *Network) carry(from *Host) {
	buffer := make([]byte, 1<<16)
	for {
		size, err := from.tun.Read(buffer)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			continue // the link is down
		}
		n.forward(from, buffer[:size])
	}
}

const (
	ipv4Header      = 20
	ipv4Destination = 16
)

func (n *Network) forward(from *Host, data []byte) {
	if len(data) < ipv4Header || data[0]>>4 != 4 {
		return // IPv6's search for routers
	}
	ip := netip.AddrFrom4([4]byte(data[ipv4Destination:ipv4Header]))

	n.mu.Lock()
	defer n.mu.Unlock()

	for _, to := range n.hosts {
		if to.IP != ip || to == from {
			continue
		}
		n.all.Add(1)
		w := n.wire(from, to)
		after := w.fates(w.dice)
		if after == nil {
			n.lost.Add(1)
		}
		for _, d := range after {
			to.box.put(append([]byte(nil), data...), d)
		}
	}
}

func (n *Network) close() {
	close(n.stop)
	n.mu.Lock()
	hosts := n.hosts
	n.mu.Unlock()
	for _, h := range hosts {
		h.close()
	}
	n.wg.Wait()
}
