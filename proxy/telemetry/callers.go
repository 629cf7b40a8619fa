package telemetry

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxCallers is the default of Callers.Max.
const maxCallers = 1000

// CallerKey says who calls: an identity that was proven, or none, and from where.
type CallerKey struct {
	// ID is the SPIFFE ID; "": the caller came without TLS.
	ID string
	// Host is its address without the port.
	Host string
}

// Callers remembers who called: a bounded number, of which the one whose last RPC is
// longest ago makes room for another. The zero value is ready for use. It must not be
// copied.
type Callers struct {
	// Max is how many are remembered; 0 stands for 1,000. It must be set before use.
	Max int

	mu        sync.Mutex
	known     map[CallerKey]*callerEntry
	forgotten uint64
}

// callerEntry is one caller. It is guarded by Callers.mu.
type callerEntry struct {
	CallerReport
	conns map[*CallerConn]bool
}

// CallerConn is one connection of a caller's. Its RPCs are counted on it alone, so that
// those of several connections do not contend.
type CallerConn struct {
	rpcs        atomic.Uint64
	first, last atomic.Int64 // when an RPC came, Unix time in nanoseconds; 0: none did
	listed      atomic.Bool  // of has it
	of          *Callers
	key         CallerKey
	closed      bool // guarded by of.mu
}

// CallerReport is what is known of a caller.
type CallerReport struct {
	CallerKey
	RPCs        uint64
	Connections int // that are open now
	// First and Last are when RPCs came.
	First, Last time.Time
}

// Connected says that a caller has connected; whoever does tells Closed once. What comes
// over the connection is counted from its first RPC on.
func (c *Callers) Connected(key CallerKey) *CallerConn { return &CallerConn{of: c, key: key} }

// RPC counts an RPC. It takes no lock but for the first, and where the caller was
// forgotten meanwhile. A nil CallerConn counts nothing.
func (cc *CallerConn) RPC(now time.Time) {
	if cc == nil {
		return
	}
	cc.rpcs.Add(1)
	at := now.UnixNano()
	cc.last.Store(at)
	if !cc.listed.Load() {
		cc.first.CompareAndSwap(0, at)
		cc.of.add(cc)
	}
}

// Closed says that the connection has ended.
func (cc *CallerConn) Closed() {
	c := cc.of
	c.mu.Lock()
	defer c.mu.Unlock()
	cc.closed = true
	if e := c.known[cc.key]; e != nil && e.conns[cc] {
		delete(e.conns, cc)
		e.add(cc)
	}
}

// add makes room for a connection's caller.
func (c *Callers) add(cc *CallerConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cc.closed {
		return // a late RPC
	}
	e := c.known[cc.key]
	if e == nil {
		if c.known == nil {
			c.known = make(map[CallerKey]*callerEntry)
		}
		if len(c.known) >= cmp.Or(c.Max, maxCallers) {
			c.forget()
		}
		e = &callerEntry{CallerReport: CallerReport{CallerKey: cc.key}, conns: make(map[*CallerConn]bool)}
		c.known[cc.key] = e
	}
	e.conns[cc] = true
	cc.listed.Store(true)
}

// forget makes room for a tenth, so that it costs those who share that tenth next to
// nothing each: in a large mesh callers that were forgotten come back all the time. Those
// who have proven who they are go first, since whether anybody comes without that must not
// be forgotten; and then who has not called for the longest. c.mu is held.
func (c *Callers) forget() {
	type candidate struct {
		*callerEntry
		last time.Time
	}
	all := make([]candidate, 0, len(c.known))
	for _, e := range c.known {
		all = append(all, candidate{e, e.report().Last})
	}
	plain := func(e candidate) int {
		if e.ID == "" {
			return 1
		}
		return 0
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(plain(a)-plain(b), a.last.Compare(b.last))
	})
	for _, e := range all[:max(1, len(all)/10)] {
		for cc := range e.conns {
			cc.listed.Store(false) // it comes back with its next RPC
		}
		delete(c.known, e.CallerKey)
		c.forgotten++
	}
}

// add adds what a connection has counted.
func (r *CallerReport) add(cc *CallerConn) {
	r.RPCs += cc.rpcs.Load()
	if at := cc.first.Load(); at != 0 {
		if first := time.Unix(0, at); r.First.IsZero() || first.Before(r.First) {
			r.First = first
		}
		if last := time.Unix(0, cc.last.Load()); last.After(r.Last) {
			r.Last = last
		}
	}
}

// report sums an entry up.
func (e *callerEntry) report() CallerReport {
	r := e.CallerReport
	r.Connections = len(e.conns)
	for cc := range e.conns {
		r.add(cc)
	}
	return r
}

// Report returns what is remembered, the caller that called last first, and how many
// more there were.
func (c *Callers) Report() (all []CallerReport, forgotten uint64) {
	c.mu.Lock()
	for _, e := range c.known {
		all = append(all, e.report())
	}
	forgotten = c.forgotten
	c.mu.Unlock()
	slices.SortFunc(all, func(a, b CallerReport) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Host, b.Host))
	})
	return all, forgotten
}
