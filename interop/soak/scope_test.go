package soak

import (
	"os"
	"slices"
	"sync"
	"testing"
)

// scope is a test that ends before the test does: what is started in it ends
// with it, so that hours of starting and ending leave nothing behind here either.
type scope struct {
	testing.TB

	mu   sync.Mutex
	ends []func()
}

func newScope(t testing.TB) *scope {
	if s, is := t.(*scope); is {
		t = s.TB
	}

	return &scope{TB: t}
}

// Cleanup has f called when the scope ends, the last one first.
func (s *scope) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends = append(s.ends, f)
}

// TempDir is a folder that is removed when the scope ends.
func (s *scope) TempDir() string {
	folder, err := os.MkdirTemp("", "soak")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = os.RemoveAll(folder) })

	return folder
}

// end ends what was started in the scope.
func (s *scope) end() {
	s.mu.Lock()
	ends := s.ends
	s.ends = nil
	s.mu.Unlock()
	for _, f := range slices.Backward(ends) {
		f()
	}
}
