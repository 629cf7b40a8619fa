package routing

import (
	"iter"
	"maps"
)

// index is a map that is read without a lock and replaced to be changed. What came
// last stands apart, so that to add to it costs about as many copies as the square
// root of what it holds: callers choose the names, and can add one with each RPC.
type index[V any] struct{ most, last map[string]V }

// smallIndex is how many entries are copied without ado.
const smallIndex = 16

// get returns the zero value where there is no such entry.
func (x index[V]) get(key string) V {
	v, ok := x.most[key]
	if !ok {
		v = x.last[key]
	}
	return v
}

func (x index[V]) len() int { return len(x.most) + len(x.last) }

// with returns an index that has one more entry, which x has not.
func (x index[V]) with(key string, v V) index[V] {
	if n := len(x.last); n >= smallIndex && n*n > len(x.most) {
		merged := make(map[string]V, x.len()+1)
		maps.Copy(merged, x.most)
		maps.Copy(merged, x.last)
		x.most, x.last = merged, nil
	}
	last := make(map[string]V, len(x.last)+1)
	maps.Copy(last, x.last)
	last[key] = v
	return index[V]{x.most, last}
}

// without returns an index that lacks those for which gone says yes.
func (x index[V]) without(gone func(string, V) bool) (index[V], bool) {
	var left map[string]V
	for key, v := range x.all() {
		if !gone(key, v) {
			continue
		}
		if left == nil {
			left = make(map[string]V, x.len())
			maps.Insert(left, x.all())
		}
		delete(left, key)
	}
	if left == nil {
		return x, false
	}
	return index[V]{most: left}, true
}

// all goes through all entries, in no order.
func (x index[V]) all() iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for key, v := range x.most {
			if !yield(key, v) {
				return
			}
		}
		for key, v := range x.last {
			if !yield(key, v) {
				return
			}
		}
	}
}
