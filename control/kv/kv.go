// Package kv is a store of keys that many read and write at once: Consul's KV (package
// registry/consul), a folder (dirkv), memory (memkv). Package kvtest says in tests what
// all of them keep. It knows nothing of what is stored.
package kv

import (
	"context"
	"errors"
	"strings"
	"time"
)

const (
	// MaxValue bounds a value in bytes, as Consul does.
	MaxValue = 512 << 10
	// MaxOps bounds what one Commit may do, as Consul's transactions do.
	MaxOps = 64
	// MaxCommit bounds what the keys and values of a Commit of several ops hold together,
	// in bytes: Consul takes 512 KiB, and they grow by a third on their way.
	MaxCommit = 360 << 10
	// MaxKey bounds a key in bytes.
	MaxKey = 512
	// MaxElement bounds what is between two slashes of a key, in bytes: a folder's files
	// can be called no longer.
	MaxElement = 200
)

// Entry is a key with its value.
type Entry struct {
	Key   string
	Value []byte
	// Version tells this state of the key from all others that it had, and is never 0. A
	// key that is written what it has already keeps its version.
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

// Op is one part of a Commit: it changes a key, or, with Holder, is a condition alone.
type Op struct {
	Key string
	// Value is what the key is to have; nil: it is deleted.
	Value []byte
	// Version is the one that the key must have; 0: it must not be there.
	Version uint64
	// Any says that Version does not matter.
	Any bool
	// Holder is the ID of the session that must hold the key, by TryLock; nothing is
	// written to it, and the fields above are not set. Empty: the op is a change.
	Holder string
}

// ErrNotFound says that there is no such key.
var ErrNotFound = errors.New("there is no such key")

// ErrDenied says that the store's rules do not allow it. The error that wraps it says what
// is missing.
var ErrDenied = errors.New("permission denied")

// ErrLost says that a session has ended.
var ErrLost = errors.New("the session has ended")

// ErrNotHeld says that a lock is not held that must be, as others may hold it. Nothing was
// written.
var ErrNotHeld = errors.New("the lock is not held any more")

// ConflictError says that keys had not the versions, or the holders, that a Commit asked
// for. Nothing was written.
type ConflictError struct{ Keys []string }

func (e *ConflictError) Error() string {
	return "changed by somebody else meanwhile: " + strings.Join(e.Keys, ", ")
}

// Store is the store. Its methods may be called from many goroutines at once. What it
// returns and hands over is not to be changed. Prefixes are those of strings: they need not
// end with a slash. See CheckKey for what a key may be.
type Store interface {
	// Get returns an entry, or ErrNotFound. It sees all that was committed before.
	Get(ctx context.Context, key string) (Entry, error)
	// List returns all entries below a prefix, in the order of their keys. It sees all
	// that was committed before.
	List(ctx context.Context, prefix string) ([]Entry, error)
	// Watch hands each state below a prefix over to update, the first as soon as it is
	// known, until ctx ends, and then returns. Calls of one watch never overlap. Errors
	// do not end it: the state known last is handed over again, with the error, and once
	// more without it when it is over. It skips states that were soon followed by others,
	// never the last one, and never goes back to an older one.
	Watch(ctx context.Context, prefix string, update func(State))
	// Commit does all ops, or, with a ConflictError, ErrDenied or an error about the ops
	// themselves, none. After another error (the answer was lost) it may have done them
	// all: only reading tells. No key may be in it twice.
	Commit(ctx context.Context, ops ...Op) error
	// Session begins a session, which lives until it is closed or lost.
	Session(ctx context.Context, o SessionOptions) (Session, error)
	// Describe says what the store is, for messages: "Consul's KV at 127.0.0.1:8500".
	Describe() string
}

// The defaults of SessionOptions.
const (
	DefaultTTL       = 15 * time.Second
	DefaultLockDelay = time.Second
)

// SessionOptions are what a session is to be like.
type SessionOptions struct {
	// Name is for people.
	Name string
	// TTL is how long the session outlives a process that does not renew it; Consul takes
	// 10 s at least, and makes it twice as long. Default: DefaultTTL.
	TTL time.Duration
	// LockDelay is how long a lock cannot be taken after its session was lost, so that who
	// held it has noticed; a store that knows that its process is gone need not wait.
	// Default: DefaultLockDelay. It does not hold after Close or Unlock.
	LockDelay time.Duration
}

// WithDefaults fills in what was left out.
func (o SessionOptions) WithDefaults() SessionOptions {
	if o.TTL <= 0 {
		o.TTL = DefaultTTL
	}
	if o.LockDelay <= 0 {
		o.LockDelay = DefaultLockDelay
	}
	return o
}

// Session is what keys are tied to that go with the process that wrote them. It renews
// itself. What it has written is tied to it until it is deleted or another session's Put
// takes it over; a Commit to such a key changes nothing about that. A key is for Put or for
// TryLock, never for both. After Done all but Close fails with ErrLost.
type Session interface {
	// ID tells it from all others of the store's: see [Op].Holder.
	ID() string
	// Put writes a key that is deleted when the session ends. It takes it over from a
	// session that wrote it before, such as that of the same program before a restart.
	Put(ctx context.Context, key string, value []byte) error
	// TryLock writes a key, if no other session holds it, and says whether this one does
	// then. The key is deleted when the session ends. Who holds it already writes it anew.
	TryLock(ctx context.Context, key string, value []byte) (bool, error)
	// Unlock gives a lock back, and deletes its key. It does nothing where another session
	// holds it.
	Unlock(ctx context.Context, key string) error
	// Done is closed when the session is lost, or may be: it could not be renewed in time.
	// Whoever held a lock by it must not act on it from then on. It is closed before
	// another can take the lock, and by Close.
	Done() <-chan struct{}
	// Close ends the session, also one that may be lost: its keys are deleted, and its
	// locks can be taken at once. After an error the store does so itself, later.
	Close(ctx context.Context) error
}
