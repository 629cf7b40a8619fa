package h2

import (
	"sync/atomic"
	"time"
)

// Role is the side of a connection that the engine plays.
type Role uint8

// The two roles.
const (
	Server Role = iota
	Client
)

// Config bounds and tunes a connection. The zero value of a field means its
// default; it must not be changed once a connection uses it.
type Config struct {
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
	// Nuisance is how many frames in a row that get nothing done (PING,
	// SETTINGS, empty DATA, resets and the like) a peer may send before it is
	// told ENHANCE_YOUR_CALM. Each second, and each exchange that ends well,
	// gives some back. Default 2000.
	Nuisance int32
	// Budget bounds what the streams of all connections together keep in
	// memory. nil: no bound.
	Budget *Budget
}

// WithDefaults returns a copy in which every field has a value.
func (cfg Config) WithDefaults() Config {
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
	if cfg.KeepaliveTimeout == 0 {
		cfg.KeepaliveTimeout = 20 * time.Second
	}
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = 10 * time.Second
	}
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = 30 * time.Second
	}
	if cfg.Nuisance == 0 {
		cfg.Nuisance = 2000
	}
	return cfg
}

const (
	// maxConfiguredWindow keeps sums of windows within 31 bits.
	maxConfiguredWindow = 1 << 29
	// maxOutput is how much may wait in a connection's output before DATA and
	// header blocks are parked on their streams, where they can still be
	// dropped and take turns.
	maxOutput = 128 << 10
	// maxStreamOutput is how much of it one stream may put there between two
	// flushes, so that a bulk stream does not queue ahead of all others.
	maxStreamOutput = 32 << 10
	// maxOwed is how many frames that the peer made us owe it (acknowledgements,
	// resets, window updates) may wait in the output before nothing more is read
	// from it. Frames that other connections cause do not count: where both ends
	// of a connection stopped reading because of those, neither would go on.
	maxOwed = 12000
	// maxControl is how large the output may grow by frames of all kinds before
	// nothing more is read.
	maxControl = 1 << 20
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

// tight says that more than half is used: windows must not grow now.
func (g *Budget) tight() bool {
	return g != nil && g.used.Load() > g.limit/2
}
