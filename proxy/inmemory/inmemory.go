// Package inmemory reaches gRPC servers that run within this process: by connections in
// memory, which to the rest of the proxy are those to one more instance. It does not know
// what the servers answer.
package inmemory

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/registry"
)

// size is that of a connection's buffers: one for each direction.
const size = 64 << 10

// Listener accepts connections from within the process.
type Listener struct{ *bufconn.Listener }

// Listen returns a listener, to be closed.
func Listen() *Listener { return &Listener{bufconn.Listen(size)} }

// Dial makes a connection to whoever accepts from the listener.
func (l *Listener) Dial(ctx context.Context) (net.Conn, error) {
	nc, err := l.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	return conn{nc}, nil
}

// conn lets go of its buffers when it is closed. Those of bufconn live until the last
// deadline has passed, and grpc-go sets one of 10s as it closes a connection: a question
// to each of 1,000 services would hold 128 MB for so long.
type conn struct{ net.Conn }

func (c conn) Close() error {
	_ = c.SetDeadline(time.Time{})
	return c.Conn.Close()
}

// Cluster returns a service whose one instance is a server within the process, which dial
// leads to. What becomes of its RPCs goes into counts.
func Cluster(name string, http2 *h2.Config, dial func(context.Context) (net.Conn, error), counts *telemetry.Service) *upstream.Cluster {
	opts := upstream.Options{HTTP2: http2, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dial(ctx)
	}}.WithDefaults()
	c := upstream.NewCluster(name, balance.PickFirst, &opts, counts)
	c.Update([]registry.Endpoint{{ID: name, Address: "unix:///" + name, Weight: 1}}, false)
	return c
}
