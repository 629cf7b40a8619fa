package handover

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// greeting bounds the waits for what a predecessor does at once: it sends the
// estate, and tells the others.
const greeting = 30 * time.Second

// Predecessor is the process that this one replaces, as this one sees it. Of a nil
// Predecessor there is nothing to take over, and nobody is told anything.
type Predecessor struct {
	wire    *wire
	known   json.RawMessage
	sockets []Socket

	mu    sync.Mutex
	taken map[int]bool
}

// Inherit returns the predecessor that started this process, nil for none. It may
// be called once: it takes the variable and the descriptors away, so that no
// process that this one starts finds them.
func Inherit() (*Predecessor, error) {
	value, ok := os.LookupEnv(Variable)
	if !ok {
		return nil, nil
	}
	if err := os.Unsetenv(Variable); err != nil {
		return nil, err
	}
	descriptor, err := strconv.ParseUint(value, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%s is %q, which is no descriptor: it is set by a running pillion for the one that it starts, and by nobody else", Variable, value)
	}
	control := os.NewFile(uintptr(descriptor), "predecessor")
	defer func() { _ = control.Close() }()
	w, err := newWire(control)
	if err != nil {
		return nil, fmt.Errorf("%s=%s: the descriptor is no socket: %w", Variable, value, err)
	}
	p, err := meet(w, uintptr(descriptor)+1)
	if err != nil {
		w.close()
		return nil, fmt.Errorf("taking over from the running pillion: %w", err)
	}
	return p, nil
}

// meet takes the estate, whose sockets' descriptors begin at first.
func meet(w *wire, first uintptr) (*Predecessor, error) {
	w.until(time.Now().Add(greeting))
	defer w.until(time.Time{})
	estate, err := w.receive(sayEstate)
	if err != nil {
		return nil, err
	}
	if estate.Version != version {
		err := fmt.Errorf("its hand-over has version %d, this one's has %d: restart instead", estate.Version, version)
		_ = w.send(message{Say: sayFailed, Error: err.Error()})
		return nil, err
	}
	p := &Predecessor{wire: w, known: estate.Known, taken: map[int]bool{}}
	for n, s := range estate.Sockets {
		if s.Listener, err = inherit(first + uintptr(n)); err != nil {
			p.closeSockets()
			return nil, fmt.Errorf("socket %s: %w", s.Name, err)
		}
		p.sockets = append(p.sockets, s)
	}
	return p, nil
}

// Known reads what else the predecessor knew into v.
func (p *Predecessor) Known(v any) error {
	if p == nil || len(p.known) == 0 {
		return nil
	}
	return json.Unmarshal(p.known, v)
}

// Take returns the predecessor's socket of a name that listens where it is wanted.
// One of another name will do where the address is the same and says a port. Nil:
// there is none. A socket can be taken once.
func (p *Predecessor) Take(name, listen string) *Socket {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fits := range []func(Socket) bool{
		func(s Socket) bool { return s.Name == name && (s.Listen == listen || s.Borrowed) },
		func(s Socket) bool { return s.Listen == listen && !anyPort(listen) },
	} {
		for n, s := range p.sockets {
			if !p.taken[n] && fits(s) {
				p.taken[n] = true
				s.Name = name
				KeepFile(s.Listener, true) // the predecessor may go on with it yet
				return &s
			}
		}
	}
	return nil
}

// anyPort says whether an address leaves the port to the system.
func anyPort(listen string) bool {
	_, port, err := net.SplitHostPort(listen)
	return err == nil && port == "0"
}

// AwaitBegin tells the predecessor that this process could serve, and returns when
// it shall: at the predecessor's word, or where that one is gone without a word.
// The sockets that were not taken are closed.
func (p *Predecessor) AwaitBegin(ctx context.Context) error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	ready := message{Say: sayReady}
	for n := range p.sockets {
		if p.taken[n] {
			ready.Taken = append(ready.Taken, n)
		}
	}
	p.closeSockets()
	p.mu.Unlock()
	defer context.AfterFunc(ctx, func() { p.wire.until(time.Unix(1, 0)) })()
	_ = p.wire.send(ready) // if it is gone, that shows now
	_, err := p.wire.receive(sayBegin)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("stopped before the running pillion said to begin: %w", ctx.Err())
	case isGone(err):
		return nil
	}
	return err
}

// closeSockets closes those that were not taken.
func (p *Predecessor) closeSockets() {
	for n, s := range p.sockets {
		if !p.taken[n] {
			KeepFile(s.Listener, true)
			_ = s.Listener.Close()
		}
	}
}

// Begun tells the predecessor that this process serves, and returns when that one
// has told everybody else, or is gone: this process is in charge alone then.
func (p *Predecessor) Begun() {
	if p == nil {
		return
	}
	_ = p.wire.send(message{Say: sayBegun})
	p.wire.until(time.Now().Add(greeting))
	_, _ = p.wire.receive("") // the end of file
	p.wire.close()
}

// Failed tells the predecessor why this process cannot take over.
func (p *Predecessor) Failed(err error) {
	if p == nil {
		return
	}
	_ = p.wire.send(message{Say: sayFailed, Error: err.Error()})
}
