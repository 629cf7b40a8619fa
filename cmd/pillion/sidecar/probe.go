package sidecar

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http2"
)

// Probe finds out whether the data plane makes progress: it connects to each side as
// a caller does, and has a PING answered. So the accept loop, a reader and the locks
// of the connections are seen to move; no RPC is made. Where connections come faster
// than they are taken in, the probe waits behind them: that they are taken in is
// progress then. A sidecar that drains has nothing to probe.
func (s *Sidecar) Probe(ctx context.Context) error {
	var inbound, outbound error
	var probing sync.WaitGroup
	if s.inbound != nil {
		probing.Go(func() { inbound = s.probe(ctx, sideInbound, s.inbound.HeldBack) })
	}
	if s.outbound != nil {
		probing.Go(func() { outbound = s.probe(ctx, sideOutbound, s.outbound.HeldBack) })
	}
	probing.Wait()
	return cmp.Or(outbound, inbound)
}

// probe probes one side. heldBack counts the connections that were taken in late: one
// that nobody is before, as the probe's own where few come, is none of them.
func (s *Sidecar) probe(ctx context.Context, side string, heldBack func() uint64) error {
	if s.leaving.Load() {
		return nil
	}
	l, before := s.listeners[side], heldBack()
	err := ping(ctx, l.Addr().Network(), reachable(l.Addr()))
	for queueFull(err) && ctx.Err() == nil {
		select {
		case <-time.After(fullPause):
		case <-ctx.Done():
		}
		err = ping(ctx, l.Addr().Network(), reachable(l.Addr()))
	}
	// It may have begun to drain meanwhile. And where this process or machine is
	// out of something, connections that there are may move all the same.
	if err == nil || s.leaving.Load() || exhausted(err) || heldBack() != before {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", side, address(l), err)
}

// fullPause is the wait until a Unix socket is tried again whose queue is full: unlike
// TCP, the system says so at once.
const fullPause = 10 * time.Millisecond

func queueFull(err error) bool { return errors.Is(err, syscall.EAGAIN) }

// reachable is where a listener can be dialled from this machine.
func reachable(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return a.String()
	}
	local := net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: tcp.Port}
	return local.String()
}

func exhausted(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// ping makes a connection and waits until the sidecar has answered on it: to the
// PING, or, where there are too many connections, by GOAWAY or by closing it.
func ping(ctx context.Context, network, where string) error {
	nc, err := new(net.Dialer).DialContext(ctx, network, where)
	if err != nil {
		return err
	}
	defer func() { _ = nc.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := nc.SetDeadline(deadline); err != nil {
			return err
		}
	}
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })()

	hello := bytes.NewBufferString(http2.ClientPreface)
	payload := [8]byte{'p', 'i', 'l', 'l', 'i', 'o', 'n', '?'}
	framer := http2.NewFramer(hello, nc)
	if err := errors.Join(framer.WriteSettings(), framer.WritePing(false, payload)); err != nil {
		return err
	}
	if _, err := nc.Write(hello.Bytes()); err != nil {
		return turnedAway(err)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return turnedAway(err)
		}
		switch f := frame.(type) {
		case *http2.PingFrame:
			if f.IsAck() && f.Data == payload {
				return nil
			}
		case *http2.GoAwayFrame:
			return nil
		}
	}
}

// turnedAway is nil where an error says that the connection was accepted and then
// ended, which takes a data plane that moves.
func turnedAway(err error) error {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, e) {
			return nil
		}
	}
	return fmt.Errorf("no answer to a PING: %w", err)
}
