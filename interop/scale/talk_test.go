package scale

import (
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// talk counts what sidecars say to who is elected, and hear.
type talk struct {
	reports     atomic.Int64
	said, heard atomic.Int64 // bytes, those of HTTP/2 and gRPC included
}

// spoken is what was said in a while.
type spoken struct {
	took                 time.Duration
	reports, said, heard int64
}

func (k *talk) during(do func()) spoken {
	began, reports, said, heard := time.Now(), k.reports.Load(), k.said.Load(), k.heard.Load()
	do()
	return spoken{time.Since(began), k.reports.Load() - reports, k.said.Load() - said, k.heard.Load() - heard}
}

func (s spoken) String() string {
	each := func(n int64) float64 { return float64(n) / s.took.Seconds() }
	return fmt.Sprintf("%.0f reports/s, %.0f KB/s said to who is elected and %.1f KB/s heard of it", each(s.reports), each(s.said)/1e3, each(s.heard)/1e3)
}

// countedConn is a connection of one who reports.
type countedConn struct {
	net.Conn
	talk *talk
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.talk.heard.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.talk.said.Add(int64(n))
	return n, err
}
