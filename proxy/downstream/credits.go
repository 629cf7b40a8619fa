package downstream

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
)

const (
	// maxCredits bounds the addresses that are remembered.
	maxCredits = 1024
	// evictFrom is among how many the one to forget is chosen where there are more.
	evictFrom = 8
	// networkBits is how much of an IPv6 address says whose it is: the rest is its
	// owner's to choose.
	networkBits = 64
)

// credits remember what callers have used of their credit while it grows again, so
// that nobody gets a new one by connecting anew. It is safe for concurrent use.
type credits struct {
	cfg *h2.Config

	mu sync.Mutex
	of map[netip.Addr]h2.Credit
}

// get returns the credit of an address's next connection.
func (c *credits) get(peer net.Addr, now time.Time) h2.Credit {
	key := origin(peer)
	c.mu.Lock()
	defer c.mu.Unlock()
	credit, known := c.of[key]
	if known && credit.Restored(c.cfg, now) {
		delete(c.of, key)
	}
	return credit
}

// charge notes what a connection has used.
func (c *credits) charge(peer net.Addr, now time.Time, spent int) {
	if spent == 0 {
		return
	}
	key := origin(peer)
	c.mu.Lock()
	defer c.mu.Unlock()
	credit, known := c.of[key]
	if !known && len(c.of) >= maxCredits {
		c.evict(now)
	}
	credit.Charge(c.cfg, now, spent)
	if c.of == nil {
		c.of = map[netip.Addr]h2.Credit{}
	}
	c.of[key] = credit
}

// evict forgets, of some addresses, the one that would be forgotten first. c.mu is
// held.
func (c *credits) evict(now time.Time) {
	var first netip.Addr
	var least time.Duration = -1
	seen := 0
	for key, credit := range c.of {
		wait := credit.Wait(c.cfg, now)
		if credit.Restored(c.cfg, now) {
			first = key
			break
		}
		if least < 0 || wait < least {
			first, least = key, wait
		}
		if seen++; seen == evictFrom {
			break
		}
	}
	delete(c.of, first)
}

// origin is what is known of who is behind an address. All callers over Unix
// sockets are one.
func origin(peer net.Addr) netip.Addr {
	tcp, is := peer.(*net.TCPAddr)
	if !is {
		return netip.Addr{}
	}
	addr := tcp.AddrPort().Addr().Unmap()
	if addr.Is6() {
		if network, err := addr.WithZone("").Prefix(networkBits); err == nil {
			return network.Addr()
		}
	}
	return addr
}
