package h2

import (
	"sync/atomic"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// Role is the side of a connection that the engine plays.
type Role uint8

// The two roles.
const (
	Server Role = iota
	Client
)

// Config bounds and tunes connections, which share one. The zero value of a
// field means its default; it must not be changed once a connection uses it.
type Config struct {
	// complete says that it has been through WithDefaults.
	complete bool

	// MaxConcurrentStreams is how many streams a client may have open; it is
	// told so in SETTINGS. Default 1000.
	MaxConcurrentStreams uint32
	// MaxOpenStreams is how many streams are opened to a server, where its own
	// limit is higher. 0, the default: only its limit counts.
	MaxOpenStreams uint32
	// InitialStreamWindow is how many bytes of DATA a peer may send on a stream
	// before some were taken on the other side. At least 65535, the default.
	InitialStreamWindow uint32
	// MaxStreamWindow is what the stream window may grow to for peers that use
	// it up faster than the round trip lets it be refilled. Default 4 MiB.
	MaxStreamWindow uint32
	// ConnWindow is how many bytes of DATA a peer may send on the connection
	// before they were received. It is given back on receipt. Default 1 MiB; it
	// grows with the stream window.
	ConnWindow uint32
	// MaxFrameSize is the largest frame payload accepted, from 16384 (the
	// default) to 2^24-1. Above 64 KiB, only DATA may use it.
	MaxFrameSize uint32
	// MaxHeaderListSize is the largest list of header fields accepted, counted
	// as RFC 9113 section 6.5.2 does. Default 64 KiB.
	MaxHeaderListSize uint32
	// MaxContinuations is how many CONTINUATION frames one header block may have,
	// whatever their size: they may be empty. Default 64, and as many as it takes
	// for MaxHeaderListSize in frames of the smallest size allowed.
	MaxContinuations uint32
	// HeaderTableSize bounds the compression tables of both directions (RFC 7541
	// section 4.2), in bytes as the RFC counts them. Default 4096, the RFC's.
	HeaderTableSize uint32
	// KeepaliveInterval is the silence after which a peer is pinged while
	// streams are open. 0: never.
	KeepaliveInterval time.Duration
	// KeepaliveTimeout is how long a pinged peer may stay silent. Default 20 s.
	KeepaliveTimeout time.Duration
	// HandshakeTimeout bounds the time until the peer's first SETTINGS. Default
	// 10 s.
	HandshakeTimeout time.Duration
	// StallTimeout is how long a peer may take nothing of what is to be written
	// to it before the connection is closed. Default 30 s.
	StallTimeout time.Duration
	// LingerTimeout is how long an ended connection is still read, so that the
	// peer gets what was written last: a socket that is closed with unread input
	// resets the connection, and the peer's kernel may then throw our last words
	// away. Default 1 s.
	LingerTimeout time.Duration
	// MaxOutput is how many bytes may wait in a connection's output before DATA
	// and header blocks are parked on their streams, where they can still be
	// dropped, take turns, and count against the Budget. Default 128 KiB.
	MaxOutput uint32
	// MaxControl is how large the output may grow by frames of all kinds before
	// nothing more is read from the peer. Default 1 MiB; at least MaxOutput.
	MaxControl uint32
	// MaxOwed is how many frames that the peer made us owe it (acknowledgements,
	// resets, window updates) may wait in the output before nothing more is read
	// from it. Frames that other connections cause do not count: where both ends
	// of a connection stopped reading because of those, neither would go on.
	// Default 12000.
	MaxOwed uint32
	// Nuisance is how many frames in a row that get nothing done (PING,
	// SETTINGS, empty DATA, resets and the like) a peer may send before it is
	// told ENHANCE_YOUR_CALM. Each second, and each exchange that ends well,
	// gives some back. Default 2000.
	Nuisance int32
	// PrematureResets is how many streams a client may end before they were
	// answered until their share is looked at: more than half of all is then too
	// many, and it is told ENHANCE_YOUR_CALM (rapid reset, CVE-2023-44487).
	// Default 500.
	PrematureResets uint32
	// PrematureAge is the age up to which an unanswered stream that ends counts for
	// that. Who waits longer has at most MaxConcurrentStreams open at a time, and
	// may just have short deadlines and an instance that hangs. Default 100 ms.
	PrematureAge time.Duration
	// Budget bounds what the streams of all connections together keep in
	// memory, and what those of one do: see [Budget.TakeShare]. nil: no bound.
	Budget *Budget
}

// WithDefaults returns a copy in which every field has a value.
func (cfg Config) WithDefaults() Config {
	cfg.complete = true
	def := func(p *uint32, v uint32) {
		if *p == 0 {
			*p = v
		}
	}
	def(&cfg.MaxConcurrentStreams, 1000)
	cfg.InitialStreamWindow = max(cfg.InitialStreamWindow, defaultInitialWindow)
	def(&cfg.MaxStreamWindow, 4<<20)
	cfg.InitialStreamWindow = min(cfg.InitialStreamWindow, maxConfiguredWindow)
	cfg.MaxStreamWindow = min(max(cfg.MaxStreamWindow, cfg.InitialStreamWindow), maxConfiguredWindow)
	def(&cfg.ConnWindow, 1<<20)
	cfg.ConnWindow = min(max(cfg.ConnWindow, cfg.InitialStreamWindow), maxConfiguredWindow)
	cfg.MaxFrameSize = min(max(cfg.MaxFrameSize, minMaxFrameSize), maxMaxFrameSize)
	def(&cfg.MaxHeaderListSize, 64<<10)
	def(&cfg.MaxContinuations, max(64, cfg.MaxHeaderListSize/minMaxFrameSize+1))
	def(&cfg.HeaderTableSize, hpack.DefaultTableSize)
	if cfg.KeepaliveTimeout == 0 {
		cfg.KeepaliveTimeout = 20 * time.Second
	}
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = 10 * time.Second
	}
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = 30 * time.Second
	}
	if cfg.LingerTimeout == 0 {
		cfg.LingerTimeout = lingerTime
	}
	def(&cfg.MaxOutput, maxOutput)
	def(&cfg.MaxControl, 1<<20)
	cfg.MaxControl = max(cfg.MaxControl, cfg.MaxOutput)
	def(&cfg.MaxOwed, maxOwed)
	if cfg.Nuisance == 0 {
		cfg.Nuisance = 2000
	}
	def(&cfg.PrematureResets, 500)
	if cfg.PrematureAge == 0 {
		cfg.PrematureAge = 100 * time.Millisecond
	}
	return cfg
}

const (
	// maxConfiguredWindow keeps sums of windows within 31 bits.
	maxConfiguredWindow = 1 << 29
	// maxOutput is the default of MaxOutput.
	maxOutput = 128 << 10
	// maxStreamOutput is how much of the output one stream may fill between two
	// flushes, so that a bulk stream does not queue ahead of all others.
	maxStreamOutput = 32 << 10
	// maxOwed is the default of MaxOwed.
	maxOwed = 12000
	// lingerTime is the default of LingerTimeout.
	lingerTime = time.Second
	// readBufferSize is what one read may bring.
	readBufferSize = 64 << 10
	// maxWholeFrame is the longest payload of a frame that is handled only once
	// it has come whole, as all but DATA are.
	maxWholeFrame = readBufferSize - frameHeaderLen
)

// Budget bounds the bytes that all connections of a process keep: parked output
// and what is kept for a retry. It is safe for concurrent use.
type Budget struct {
	limit int64
	used  *atomic.Int64
	// stuck is how many bytes may wait in the outputs of connections whose sockets do
	// not take them. They are not used up: none can be refused its own.
	stuck atomic.Int64
}

// NewBudget returns a budget of limit bytes.
func NewBudget(limit int64) *Budget { return NewCountedBudget(limit, new(atomic.Int64)) }

// NewCountedBudget returns a budget that keeps its count of reserved bytes where
// others can see it.
func NewCountedBudget(limit int64, used *atomic.Int64) *Budget {
	return &Budget{limit: limit, used: used}
}

// Take reserves n bytes. It reserves nothing and returns false where they would
// exceed the limit.
func (g *Budget) Take(n int) bool {
	if g == nil {
		return true
	}
	if g.used.Add(int64(n)) > g.limit {
		g.used.Add(int64(-n))
		return false
	}
	return true
}

// TakeShare is Take for somebody who holds have bytes of the budget already: it
// reserves nothing, too, where they would then hold more than is left to all
// others. So nobody alone gets more than half of it, two get a third each, and
// however many have their fill, there is something left for who comes next.
func (g *Budget) TakeShare(have int64, n int) bool {
	return g == nil || have+int64(n) <= g.limit-g.used.Load() && g.Take(n)
}

// Release gives n bytes back.
func (g *Budget) Release(n int) {
	if g != nil && n != 0 {
		g.used.Add(int64(-n))
	}
}

// Used returns the bytes reserved now.
func (g *Budget) Used() int64 {
	if g == nil {
		return 0
	}
	return g.used.Load()
}

// stick notes n bytes more that may wait for a socket.
func (g *Budget) stick(n int) {
	if g != nil {
		g.stuck.Add(int64(n))
	}
}

// crowded says that as many bytes as half of the budget may wait for sockets.
func (g *Budget) crowded() bool {
	return g != nil && g.stuck.Load() > g.limit/2
}

// tight says that more than half is used: windows must not grow now.
func (g *Budget) tight() bool {
	return g != nil && g.used.Load() > g.limit/2
}
