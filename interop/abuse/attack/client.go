package attack

import (
	"context"
	"slices"
)

// Client is one way in which a client can abuse a port of the sidecar's.
type Client struct {
	Name string
	// What it does, in a sentence.
	What string
	// Want are the ends that are right, as [End.String] writes them.
	Want []string
	// Memory is the most that the process may ever have resident meanwhile, in
	// bytes.
	Memory int64
	// Lasts says that an attack is not ended by the sidecar, but only by its time.
	Lasts bool
	// Slow attacks wait for the sidecar's patience to end, and take no CPU.
	Slow bool
	// Run attacks once, over connections of its own, until it is ended or ctx is.
	// The error is one of the attacker's own: it got nowhere.
	Run func(ctx context.Context, address string) (End, error)
}

// Right says whether an end is one of those wanted.
func (c Client) Right(end End) bool { return slices.Contains(c.Want, end.String()) }

// The ends that the tables want.
const (
	calm       = "GOAWAY ENHANCE_YOUR_CALM"
	protocol   = "GOAWAY PROTOCOL_ERROR"
	flow       = "GOAWAY FLOW_CONTROL_ERROR"
	size       = "GOAWAY FRAME_SIZE_ERROR"
	compressed = "GOAWAY COMPRESSION_ERROR"
	tooSlow    = "GOAWAY SETTINGS_TIMEOUT"
	gone       = "closed"
	held       = "held"
	answered   = "answered"
)

// The bounds of memory. At rest a sidecar takes about 25 MB.
const (
	// ordinary is for what leaves nothing behind.
	ordinary = 64 << 20
	// bounded is for what the budget of buffered bytes (64 MiB by default) bounds:
	// that, as much again that waits for the garbage collector, and what is there
	// at rest.
	bounded = 192 << 20
)

// Clients are all attacks of clients.
func Clients() []Client {
	return slices.Concat(
		clientResets(),
	)
}
