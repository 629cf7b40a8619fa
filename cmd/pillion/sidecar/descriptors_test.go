package sidecar

import (
	"math"
	"testing"

	"github.com/pillion-proxy/pillion/proxy/downstream"
)

func TestConnectionsWithin(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		files           uint64
		listeners, want int
	}{
		{0, 1, 1},
		{20, 1, 1},
		{64, 1, 16},
		{256, 1, 171},
		{1024, 1, 683},
		{1024, 2, 342},
		{20_000, 2, 7244},
		{math.MaxUint64, 1, downstream.ConnsFor(1<<30 - 1<<28)},
	} {
		got := connectionsWithin(test.files, test.listeners)
		if got != test.want {
			t.Errorf("%d files, %d listeners: %d connections, want %d", test.files, test.listeners, got, test.want)
		}
		if sockets := uint64(downstream.Sockets(got) * test.listeners); test.files >= 64 && sockets > test.files*3/4 {
			t.Errorf("%d files, %d listeners: %d sockets", test.files, test.listeners, sockets)
		}
	}
}
