package kv

import (
	"context"
	"slices"
)

// Follow is the Watch of a store that can be read at any moment. It reads whenever it is
// told to, and hands over what is news. read returns what is below the prefix now; where
// the store cannot be asked, it says so in Err alone.
func Follow(ctx context.Context, prefix string, tell <-chan struct{}, read func() State, update func(State)) {
	if Refused(ctx, prefix, update) {
		return
	}
	var told State
	for first := true; ; {
		select {
		case <-ctx.Done():
			return
		case <-tell:
		}
		now := read()
		if ctx.Err() != nil {
			return
		}
		if now.Err != nil {
			now.Entries, now.Known = told.Entries, told.Known
		}
		if first || !same(told, now) {
			first, told = false, now
			update(now)
		}
	}
}

// Refused says that no key can begin with a prefix, so that it cannot be watched. It hands
// that over first, and waits until ctx ends.
func Refused(ctx context.Context, prefix string, update func(State)) bool {
	err := CheckPrefix(prefix)
	if err != nil {
		update(State{Err: err})
		<-ctx.Done()
	}
	return err != nil
}

func same(a, b State) bool {
	return a.Known == b.Known && (a.Err == nil) == (b.Err == nil) && (a.Err == nil || a.Err.Error() == b.Err.Error()) &&
		slices.EqualFunc(a.Entries, b.Entries, func(a, b Entry) bool { return a.Key == b.Key && a.Version == b.Version })
}
