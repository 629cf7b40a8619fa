package downstream

import (
	"context"
	"testing"

	"github.com/pillion-proxy/pillion/proxy/h2"
)

// Where nobody is connected nothing is cut off, however little time there is.
func TestShutdownWithoutTimeOrConnections(t *testing.T) {
	t.Parallel()
	cfg := h2.Config{}.WithDefaults()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		if err := New(Options{HTTP2: &cfg}).Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
