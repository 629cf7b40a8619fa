package server

import (
	"cmp"
	"time"
)

// Limits bound what one client, or all of them, may take of the sidecar. The port
// is for people, scrapers and probes; it shares the process with the traffic. The
// zero value of a field means its default.
type Limits struct {
	// Connections is how many may be open; more wait until one ends. Default 128.
	Connections int
	// Streams is how many requests one HTTP/2 connection may have under way.
	// Default 100.
	Streams int
	// HeaderBytes bounds a request's line and headers. Default 64 KiB.
	HeaderBytes int
	// RequestBytes bounds a gRPC request. Default 1 MiB.
	RequestBytes int
	// Scrapes is how many requests for /metrics are answered at once. Default 4.
	Scrapes int
	// ReadHeaderTimeout is how long a request's headers may take. Default 10 s.
	ReadHeaderTimeout time.Duration
	// RequestTimeout is how long an HTTP request may take, the time of a profile not
	// counted; the default is twice what a CPU profile takes that does not say how
	// long. gRPC streams last as long as their clients like. Default 1 min.
	RequestTimeout time.Duration
	// IdleTimeout closes a connection without requests. Default 5 min.
	IdleTimeout time.Duration
	// StallTimeout closes an HTTP/2 connection that takes no byte of what there is
	// for it. Default 30 s.
	StallTimeout time.Duration
	// Profile is the longest profile or trace that is given its time. Default
	// 10 min.
	Profile time.Duration
}

func (l Limits) withDefaults() Limits {
	l.Connections = cmp.Or(l.Connections, 128)
	l.Streams = cmp.Or(l.Streams, 100)
	l.HeaderBytes = cmp.Or(l.HeaderBytes, 64<<10)
	l.RequestBytes = cmp.Or(l.RequestBytes, 1<<20)
	l.Scrapes = cmp.Or(l.Scrapes, 4)
	l.ReadHeaderTimeout = cmp.Or(l.ReadHeaderTimeout, 10*time.Second)
	l.RequestTimeout = cmp.Or(l.RequestTimeout, time.Minute)
	l.IdleTimeout = cmp.Or(l.IdleTimeout, 5*time.Minute)
	l.StallTimeout = cmp.Or(l.StallTimeout, 30*time.Second)
	l.Profile = cmp.Or(l.Profile, 10*time.Minute)
	return l
}

const (
	// pingAfter is when an HTTP/2 connection that is silent is asked whether it
	// is still there.
	pingAfter   = time.Minute
	pingTimeout = 15 * time.Second
	// abandonAfter is how long requests may go on after Serve's context ended.
	abandonAfter = time.Second
	// maxBodyBytes bounds the body of a plain HTTP request. No page wants one.
	maxBodyBytes = 4 << 10
)
