package kv

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Fence returns a store as somebody is to have it who may write only while a session holds
// a lock: each Commit fails with ErrNotHeld once it does not, even where who held it has not
// noticed yet. Its sessions are not bound to the lock.
func Fence(s Store, lock string, session Session) Store {
	return &fenced{Store: s, lock: Op{Key: lock, Holder: session.ID()}}
}

type fenced struct {
	Store
	lock Op
}

// Commit implements Store.
func (f *fenced) Commit(ctx context.Context, ops ...Op) error {
	err := f.Store.Commit(ctx, append(slices.Clip(ops), f.lock)...)
	if conflict, ok := errors.AsType[*ConflictError](err); ok && slices.Contains(conflict.Keys, f.lock.Key) {
		return fmt.Errorf("%s: key %q: %w", f.Describe(), f.lock.Key, ErrNotHeld)
	}
	return err
}
