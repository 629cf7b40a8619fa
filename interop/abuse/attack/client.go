package attack

import (
	"cmp"
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
	// bytes, where attacks before had no higher bound.
	Memory int64
	// Lasts says that an attack is not ended by the sidecar, but only by its time.
	Lasts bool
	// Brief attacks say one thing and wait for the end.
	Brief bool
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
	refused    = "RST_STREAM REFUSED_STREAM"
	tooSlow    = "GOAWAY SETTINGS_TIMEOUT"
	gone       = "closed"
	held       = "held"
	answered   = "answered"
)

// The bounds of memory. At rest a sidecar takes about 25 MB.
const (
	// ordinary is for what leaves nothing behind.
	ordinary = 64 << 20
	// bounded is for what the budget of buffered bytes (64 MiB by default) bounds.
	// The memory that it takes is more: pieces that are not full, buffers on their
	// way to a socket, and as much again as all that until the garbage collector
	// has been there.
	bounded = 384 << 20
)

// Clients are all attacks of clients, those that may leave much memory behind last.
func Clients() []Client {
	all := slices.Concat(
		clientResets(), clientHeaders(), clientFloods(), clientWindows(), clientFrames(),
		clientStrangers(), clientSlow(),
	)
	slices.SortStableFunc(all, func(a, b Client) int { return cmp.Compare(a.Memory, b.Memory) })

	return all
}
