package scale

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/status"
)

// settles waits, as `pillion status --wait` does, until the status says that all sidecars
// have what was written last.
func (f *fleet) settles(t *testing.T) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	changed := make(chan struct{}, 1)
	ended := make(chan struct{})
	watching, stop := context.WithCancel(ctx)
	defer func() { stop(); <-ended }()
	go func() {
		defer close(ended)
		f.people.Watch(watching, control.Root, func(kv.State) {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	}()
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("the status never says that all sidecars have the newest documents")
		}
		m, err := status.Read(ctx, f.people, "")
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if err == nil && m.Settled() && len(m.Sidecars) == f.size.sidecars {
			return time.Since(began)
		}
		time.Sleep(200 * time.Millisecond) // as the command does
	}
}

// during measures what something costs.
func (f *fleet) during(t *testing.T, do func()) taken {
	t.Helper()
	before := f.cost(t)
	do()
	return before.until(f.cost(t), f.size.sidecars)
}
