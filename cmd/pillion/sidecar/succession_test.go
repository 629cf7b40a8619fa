package sidecar

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// entry is a registration that another process may go on with.
type entry struct {
	mu       sync.Mutex
	released bool
	stands   bool
}

func (e *entry) change(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

func (e *entry) Close(context.Context) error {
	e.change(func() { e.stands = e.stands && e.released })
	return nil
}
func (e *entry) Release() { e.change(func() { e.released = true }) }
func (e *entry) Resume()  { e.change(func() { e.released = false }) }

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
			if err := s.Yield(); err != nil {
				t.Fatal(err)
			}
			end()
			for !s.leaving.Load() {
				time.Sleep(time.Millisecond)
			}
			select {
			case err := <-ended:
				t.Fatalf("it has ended while it is open who holds the registration: %v", err)
			case <-time.After(200 * time.Millisecond): // a drain without RPCs takes less
			}
			c.decide(s)
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if e.stands != c.stands {
				t.Errorf("is it registered: %v", e.stands)
			}
			if err := s.Yield(); err == nil || !strings.Contains(err.Error(), "begun to drain") {
				t.Errorf("an upgrade of what has ended: %v", err)
			}
		})
	}
}
