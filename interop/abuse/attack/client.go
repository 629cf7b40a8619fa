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
	overBudget = "RST_STREAM ENHANCE_YOUR_CALM"
	tooSlow    = "GOAWAY SETTINGS_TIMEOUT"
	gone       = "closed"
	held       = "held"
	answered   = "answered"
)

// The bounds of memory, about one and a half times what is measured of each attack
// by itself. Under load a sidecar takes about 32 MiB.
const (
	// ordinary is for what leaves nothing behind: up to 45 MiB.
	ordinary = 64 << 20
	// budgeted is for what fills the budget of buffered bytes, 64 MiB by default: up
	// to 120 MiB, with pieces that are not full, and what the garbage collector has
	// not yet come to.
	budgeted = 176 << 20
	// hoarded is for 8,000 RPCs besides, with headers of 4 KiB each that the budget
	// does not count: up to 160 MiB.
	hoarded = 256 << 20
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
