// Package memkv is a kv.Store in memory, for tests and simulations: several processes see
// one Memory, each by a Store of its own that can be made slow, cut off or killed. It keeps
// nothing, and takes its time from the ordinary clock, so testing/synctest works with it.
package memkv

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/control/kv"
)

// Memory is what all its Stores see.
type Memory struct {
	// mu guards all of this, and of the Stores and sessions too.
	mu      sync.Mutex
	version uint64
	begun   int // sessions
	commits int
	keys    []string // in order
	entries map[string]*entry
	// delays are the keys that cannot be locked until then.
	delays  map[string]time.Time
	watches map[*watch]struct{}
}

type entry struct {
	value   []byte
	version uint64
	session *session // that it is deleted with, if any
}

// New returns a Memory with nothing in it.
func New() *Memory {
	return &Memory{entries: map[string]*entry{}, delays: map[string]time.Time{}, watches: map[*watch]struct{}{}}
}

// Store returns a view of the memory, as one process has it.
func (m *Memory) Store() *Store { return &Store{memory: m} }

// Commits is how many commits have changed something.
func (m *Memory) Commits() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.commits
}

// list is what is below a prefix. mu is held.
func (m *Memory) list(prefix string) []kv.Entry {
	var found []kv.Entry
	at, _ := slices.BinarySearch(m.keys, prefix)
	for _, key := range m.keys[at:] {
		if !strings.HasPrefix(key, prefix) {
			break
		}
		e := m.entries[key]
		found = append(found, kv.Entry{Key: key, Value: e.value, Version: e.version})
	}
	return found
}

// conflicts are the keys that have not the versions, or holders, they are to have. mu is
// held.
func (m *Memory) conflicts(ops []kv.Op) (keys []string) {
	for _, op := range ops {
		version, holder := uint64(0), ""
		if e := m.entries[op.Key]; e != nil {
			version = e.version
			if e.session != nil {
				holder = e.session.id
			}
		}
		if op.Holder != holder && op.Holder != "" || op.Holder == "" && !op.Any && op.Version != version {
			keys = append(keys, op.Key)
		}
	}
	return keys
}

// change does ops that nothing speaks against. mu is held.
func (m *Memory) change(ops ...kv.Op) {
	m.version++
	changed := false
	for _, op := range ops {
		e := m.entries[op.Key]
		switch {
		case op.Holder != "":
			continue
		case op.Value == nil && e == nil, op.Value != nil && e != nil && bytes.Equal(e.value, op.Value):
			continue
		case op.Value == nil:
			delete(m.entries, op.Key)
			at, _ := slices.BinarySearch(m.keys, op.Key)
			m.keys = slices.Delete(m.keys, at, at+1)
		case e == nil:
			m.entries[op.Key] = &entry{value: bytes.Clone(op.Value), version: m.version}
			at, _ := slices.BinarySearch(m.keys, op.Key)
			m.keys = slices.Insert(m.keys, at, op.Key)
		default:
			e.value, e.version = bytes.Clone(op.Value), m.version
		}
		changed = true
		for w := range m.watches {
			if strings.HasPrefix(op.Key, w.prefix) {
				w.wake()
			}
		}
	}
	if changed {
		m.commits++
	}
}

// end ends a session: its keys go, and its locks cannot be taken for a while. mu is held.
func (m *Memory) end(s *session, delay time.Duration) {
	if s.ended {
		return
	}
	s.ended = true
	s.giveUp()
	s.timer.Stop()
	var ops []kv.Op
	for key, e := range m.entries {
		if e.session != s {
			continue
		}
		ops = append(ops, kv.Op{Key: key, Any: true})
		if delay > 0 {
			m.delays[key] = time.Now().Add(delay)
		}
	}
	m.change(ops...)
}
