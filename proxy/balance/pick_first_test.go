package balance_test

import (
	"testing"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

func TestPickFirst(t *testing.T) {
	t.Parallel()
	hs := hosts(4)
	p := newPicker(balance.PickFirst, hs, []uint32{1, 100, 100, 100}, seeded(12))
	tried := -1
	for _, step := range []struct {
		what  string
		up    []int
		tried int
		want  int
	}{
		{"the first", []int{0, 1, 2, 3}, -1, 0},
		{"again the first", []int{0, 1, 2, 3}, -1, 0},
		{"a retry goes to the next", []int{0, 1, 2, 3}, 0, 1},
		{"which moves nobody else", []int{0, 1, 2, 3}, -1, 0},
		{"the first fails", []int{2, 3}, -1, 2},
		{"the first is back, but the third works", []int{0, 1, 2, 3}, -1, 2},
		{"a retry starts at the front", []int{0, 1, 2, 3}, 2, 0},
		{"the third fails: to the front", []int{0, 1, 3}, -1, 0},
		{"a retry finds the first down", []int{1, 3}, 1, 3},
		{"and leaves others with the first that is up", []int{0, 1, 3}, -1, 1},
		{"none", nil, -1, -1},
		{"only tried ones", []int{1}, 1, -1},
		{"one", []int{3}, -1, 3},
	} {
		for i, h := range hs {
			h.down.Store(true)
			for _, up := range step.up {
				if up == i {
					h.down.Store(false)
				}
			}
		}
		tried = step.tried
		got := -1
		if h, ok := p.Pick(query{Skip: func(h *host) bool { return h.id == tried }}); ok {
			got = h.id
		}
		if got != step.want {
			t.Errorf("%s: picked %d, want %d", step.what, got, step.want)
		}
	}
}
