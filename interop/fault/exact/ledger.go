package exact

import (
	"fmt"
	"sync"
)

// Ledger is what the apps of a mesh saw of RPCs.
type Ledger struct {
	mu      sync.Mutex
	next    uint64
	reached map[uint64][]string // the apps that an RPC reached
	running int
	wrong   []error
}

// NewLedger returns an empty one.
func NewLedger() *Ledger { return &Ledger{reached: map[uint64][]string{}} }

func (l *Ledger) newID() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++

	return l.next
}

func (l *Ledger) began() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running++
}

func (l *Ledger) ended() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
}

func (l *Ledger) reach(id uint64, app string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reached[id] = append(l.reached[id], app)
	if len(l.reached[id]) > 1 {
		l.wrong = append(l.wrong, fmt.Errorf("RPC %d was processed by %v", id, l.reached[id]))
	}
}

func (l *Ledger) spoilt(id uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Errorf("RPC %d: %w", id, err))
}

// Running is how many RPCs the apps have under way.
func (l *Ledger) Running() int {
	l.mu.Lock()
	defer l.mu.Unlock()

	return l.running
}

// Wrong is what must never be: RPCs that were processed twice, and messages that
// were not what was sent.
func (l *Ledger) Wrong() []error {
	l.mu.Lock()
	defer l.mu.Unlock()

	return append([]error(nil), l.wrong...)
}
