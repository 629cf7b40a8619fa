// Package kv is a store of keys that many read and write at once: Consul's KV
// (consulkv), a folder (dirkv), memory (memkv). It knows nothing of what is stored.
package kv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	// MaxValue bounds a value in bytes, as Consul does.
	MaxValue = 512 << 10
	// MaxOps bounds what one Commit may do, as Consul's transactions do.
	MaxOps = 64
)

// Entry is a key with its value.
type Entry struct {
	Key   string
	Value []byte
	// Version tells this state of the key from all others that it had, and is never 0.
	Version uint64
}

// State is what is below a prefix at one moment.
type State struct {
	// Entries are in the order of their keys.
	Entries []Entry
	// Err says why this may be out of date: the store cannot be asked. The entries are
	// those known last, nil where nothing is known yet.
	Err error
	// Known says that the store has answered at least once.
	Known bool
}

// Op is one part of a Commit.
type Op struct {
	Key string
	// Value is what the key is to have; nil: it is deleted.
	Value []byte
	// Version is the one that the key must have; 0: it must not be there.
	Version uint64
	// Any says that Version does not matter.
	Any bool
}

// ErrNotFound says that there is no such key.
var ErrNotFound = errors.New("there is no such key")

// ErrDenied says that the store's rules do not allow it.
var ErrDenied = errors.New("permission denied")

// ConflictError says that keys had not the versions that a Commit asked for. Nothing was
// written.
type ConflictError struct{ Keys []string }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("changed by somebody else meanwhile: %s", strings.Join(e.Keys, ", "))
}

// Store is the store. Its methods may be called from many goroutines at once.
type Store interface {
	// Get returns an entry, or ErrNotFound. It sees all that was committed before.
	Get(ctx context.Context, key string) (Entry, error)
	// List returns all entries below a prefix, in the order of their keys. It sees all
	// that was committed before.
	List(ctx context.Context, prefix string) ([]Entry, error)
	// Watch hands each state below a prefix over to update, the first as soon as it is
	// known, until ctx ends, and then returns. Calls of one watch never overlap. Errors
	// do not end it: the state known last is handed over again, with the error.
	Watch(ctx context.Context, prefix string, update func(State))
	// Commit does all ops, or, with a ConflictError or another error, none.
	Commit(ctx context.Context, ops ...Op) error
	// Session begins a session, which lives until it is closed or lost.
	Session(ctx context.Context, o SessionOptions) (Session, error)
	// Describe says what the store is, for messages: "Consul's KV at 127.0.0.1:8500".
	Describe() string
}

// SessionOptions are what a session is to be like.
type SessionOptions struct {
	// Name is for people.
	Name string
	// TTL is how long the session outlives a process that does not renew it; Consul takes
	// 10 s at least, and up to twice as long. Default: 15 s.
	TTL time.Duration
	// LockDelay is how long a lock cannot be taken after its session was lost, so that who
	// held it has noticed. Default: 1 s. It does not hold after Close or Unlock.
	LockDelay time.Duration
}

// Session is what keys are tied to that go with the process that wrote them.
type Session interface {
	// Put writes a key that is deleted when the session ends.
	Put(ctx context.Context, key string, value []byte) error
	// TryLock writes a key, if no other session holds it, and says whether this one does
	// then. The key is deleted when the session ends.
	TryLock(ctx context.Context, key string, value []byte) (bool, error)
	// Unlock gives a lock back, and deletes its key.
	Unlock(ctx context.Context, key string) error
	// Done is closed when the session is lost, or may be: it could not be renewed in time.
	// Whoever held a lock by it must not act on it from then on.
	Done() <-chan struct{}
	// Close ends the session.
	Close(ctx context.Context) error
}
