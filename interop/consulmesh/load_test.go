package consulmesh

import (
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/pillion-proxy/pillion/interop/load"
)

// usualLoad is what runs while something happens.
var usualLoad = load.Options{PerSecond: 300}

// dialGreeter connects to a sidecar as a client does that names the service
// greeter.
func dialGreeter(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()

	return load.Dial(t, address, grpc.WithAuthority("greeter"))
}

// bothLoads are two clients of one sidecar: one that names the service, and one
// that knows no names.
type bothLoads map[string]*load.Load

func startBothLoads(t *testing.T, address string) bothLoads {
	t.Helper()

	return bothLoads{
		"by name":          load.Start(t, dialGreeter(t, address), load.Options{PerSecond: usualLoad.PerSecond / 2}),
		"by what it calls": load.Start(t, load.Dial(t, address), load.Options{PerSecond: usualLoad.PerSecond / 2}),
	}
}

func (b bothLoads) more(t *testing.T, while time.Duration) {
	t.Helper()

	for _, l := range b {
		l.More(t, while)
		while = 0 // it has passed for the others as well
	}
}

func (b bothLoads) check(t *testing.T, during string) {
	t.Helper()

	for how, l := range b {
		l.Check(t, during+", "+how)
	}
}

func (b bothLoads) end(t *testing.T) {
	t.Helper()

	for how, l := range b {
		t.Log(how + ":")
		l.End(t)
	}
}
