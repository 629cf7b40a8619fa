package sidecar

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// entry is a registration that another process may go on with.
type entry struct {
	mu        sync.Mutex
	released  bool
	stands    bool
	onRelease func()
}

func (e *entry) change(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

func (e *entry) Close(context.Context) error {
	e.change(func() { e.stands = false })
	return nil
}
func (e *entry) Release() {
	if e.onRelease != nil {
		e.onRelease()
	}
	e.change(func() { e.released = true })
}

// A sidecar that is to end while it is open whether a successor serves in its place
// leaves the registry if none does, and only then.
func TestEndDuringAnUpgrade(t *testing.T) {
	for name, c := range map[string]struct {
		decide func(*Sidecar)
		stands bool
	}{
		"the successor fails": {(*Sidecar).Resume, false},
		"it serves":           {func(s *Sidecar) { s.Succeeded(func(int) bool { return true }) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSidecar(t, &configv1.Bootstrap{
				Service: &configv1.Service{Name: "a", Address: "127.0.0.1:1"},
				Inbound: &configv1.Inbound{Listen: anyPort},
			})
			e := &entry{stands: true}
			s.registration = e
			ctx, end := context.WithCancel(t.Context())
			defer end()
			ended := make(chan error, 1)
			go func() { ended <- s.Run(ctx) }()
			<-s.Serving()
			if err := s.Stay(); err != nil {
				t.Fatal(err)
			}
			end()
			for !s.leaving.Load() {
				time.Sleep(time.Millisecond)
			}
			select {
			case err := <-ended:
				t.Fatalf("it has ended while it is open whether a successor serves: %v", err)
			case <-time.After(200 * time.Millisecond): // a drain without RPCs takes less
			}
			c.decide(s)
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if e.stands != c.stands {
				t.Errorf("is it registered: %v", e.stands)
			}
			if err := s.Stay(); err == nil || !strings.Contains(err.Error(), "begun to drain") {
				t.Errorf("an upgrade of what has ended: %v", err)
			}
		})
	}
}

// Before the successor may register, and callers see what it says of itself, all who
// connect reach it and not the process that it replaces. Nobody is refused meanwhile.
func TestTheSuccessorIsConnectedToBeforeItRegisters(t *testing.T) {
	s := newSidecar(t, &configv1.Bootstrap{
		Service:  &configv1.Service{Name: "a", Address: "127.0.0.1:1"},
		Inbound:  &configv1.Inbound{Listen: anyPort},
		Outbound: &configv1.Outbound{Listen: anyPort},
	})
	e := &entry{stands: true}
	s.registration = e
	ended := make(chan error, 1)
	go func() { ended <- s.Run(t.Context()) }()
	<-s.Serving()
	inherited := map[string]net.Listener{}
	for side, l := range s.listeners {
		file, err := l.Listener.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		if inherited[side], err = net.FileListener(file); err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
	}
	if err := s.Stay(); err != nil {
		t.Fatal(err)
	}
	reached := 0
	e.onRelease = func() {
		for side, l := range inherited {
			// Who waits first is served first: with two that accept, one in two is lost.
			for range 10 {
				c, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Errorf("%s: %v", side, err)
					return
				}
				_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(30 * time.Second))
				accepted, err := l.Accept()
				_ = c.Close()
				if err != nil {
					t.Errorf("a connection to the %s side does not reach the successor: %v", side, err)
					return
				}
				_ = accepted.Close()
				reached++
			}
		}
	}
	s.Succeeded(func(int) bool { return true })
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if reached != 20 || !e.stands {
		t.Errorf("%d connections have reached the successor; registered: %v", reached, e.stands)
	}
	for _, l := range inherited {
		_ = l.Close()
	}
}
