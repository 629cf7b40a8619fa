// Package upstream holds the instances of a service and the connections to
// them: it opens one when it is first needed, reuses it, opens more where the
// peer's stream limit demands it, leaves an instance alone that refuses
// connections, and closes what is idle or old. It does not know who calls.
//
// cluster.go is the service, table.go what RPCs see of it: views of its subsets, each
// of instances that are near and far, and how one of them is picked. locality.go,
// subset.go, slowstart.go and weights.go are what policies say of that, and refresh.go
// looks now and then at what picking goes by.
//
// What connections have to be is decided elsewhere; security.go asks, and has one take
// the place of another where that is not what it was.
//
// What policies leave instances alone for is in block.go. ejection.go, healthcheck.go
// and broken.go each have one reason for it, judges.go keeps them as the registry and
// the policy change, and outcome.go is how they learn of RPCs.
//
// # Locks
//
// A caller may hold its own lock while it calls in here; an [Instance]'s lock is
// taken next, a connection's last. A [Caller] is always told with no lock held.
// Judges' locks come after a cluster's and an RPC's, and before an instance's; what
// is called with an instance's held only sets a timer.
package upstream

import (
	"context"
	"math/rand/v2"
	"net"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/registry"
)

// Options tune the connections to instances. The zero value of a field means
// its default.
type Options struct {
	// HTTP2 configures the connections themselves; it must have been through
	// [h2.Config.WithDefaults].
	HTTP2 *h2.Config
	// Dial opens a connection. Default: net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Secure says what the connections to an endpoint of a service have to be; nil, and
	// where it returns nil: nothing. It is called at each update of the endpoints.
	Secure func(service string, e *registry.Endpoint) Security
	// ConnectTimeout bounds the opening of a connection, a TLS handshake included.
	// Default 5 s.
	ConnectTimeout time.Duration
	// BackoffBase is how long an instance that could not be connected to is
	// left alone the first time; each further time multiplies it by 1.6, up to
	// BackoffMax, with 20 % jitter (gRPC's connection backoff). Default 50 ms
	// to 3 s.
	BackoffBase, BackoffMax time.Duration
	// IdleTimeout closes a connection that had no stream for that long. Default
	// 5 min; negative: never.
	IdleTimeout time.Duration
	// MaxAge ends a connection gracefully at that age, with 10 % jitter (gRFC
	// A9). Default 0: never.
	MaxAge time.Duration
	// MaxConns bounds the connections to one instance. A second one is opened
	// only where the peer's stream limit is reached. Default 16.
	MaxConns int
	// MaxDraining bounds the connections to one instance that take no new streams
	// and still have some: as long as there are so many, no other is opened, or an
	// instance that says GOAWAY and never finishes would have a connection for each
	// RPC. Default 64.
	MaxDraining int
	// SlowConnect is how long RPCs wait for an instance's first connection while
	// another instance could take them. Connecting to one of the same region takes
	// a few milliseconds; one that hangs would hold its share of the RPCs for as
	// long as ConnectTimeout. Default 250 ms.
	SlowConnect time.Duration
	// DeadAfter is about how long a host that is gone without a word is believed
	// to be there; it means nothing where Dial is set. Default 30 s.
	DeadAfter time.Duration
	// MaxWaiting bounds the RPCs that wait for a connection to one instance.
	// Default 10000.
	MaxWaiting int
	// Meta is the local app's, to know which instances are near (see Locality).
	Meta map[string]string
	// Salt decides which instances this sidecar uses of very many (see
	// Policy.SubsetSize). Default: a random number.
	Salt uint64
	// Jitter returns a random number in [0, 1).
	Jitter func() float64
	// Random decides between instances. It is safe for concurrent use. Default:
	// math/rand/v2's.
	Random func() uint64
}

// WithDefaults returns a copy in which every field has a value.
func (o Options) WithDefaults() Options {
	def := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	if o.HTTP2 == nil {
		cfg := h2.Config{}.WithDefaults()
		o.HTTP2 = &cfg
	}
	def(&o.DeadAfter, 30*time.Second)
	if o.Dial == nil {
		o.Dial = newDialer(o.DeadAfter).DialContext
	}
	def(&o.ConnectTimeout, 5*time.Second)
	def(&o.SlowConnect, 250*time.Millisecond)
	def(&o.BackoffBase, 50*time.Millisecond)
	def(&o.BackoffMax, 3*time.Second)
	def(&o.IdleTimeout, 5*time.Minute)
	if o.MaxConns == 0 {
		o.MaxConns = 16
	}
	if o.MaxDraining == 0 {
		o.MaxDraining = 64
	}
	if o.MaxWaiting == 0 {
		o.MaxWaiting = 10000
	}
	if o.Jitter == nil {
		o.Jitter = rand.Float64
	}
	if o.Random == nil {
		o.Random = rand.Uint64
	}
	if o.Salt == 0 {
		o.Salt = rand.Uint64()
	}
	return o
}
