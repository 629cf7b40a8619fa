package fault

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/net/http2"
)

// Direction is a way through the proxy.
type Direction uint8

// The two directions.
const (
	// ToServer is from the peer that connected to the one that listens.
	ToServer Direction = iota
	// ToClient is the way back.
	ToClient
)

// String names the direction.
func (d Direction) String() string {
	if d == ToServer {
		return "to the server"
	}

	return "to the client"
}

// Faults is what the proxy does to connections. The zero value is a faithful
// proxy.
type Faults struct {
	// ToServer and ToClient are what happens to bytes on their way, of the
	// connections that are open too.
	ToServer, ToClient Flow
	// Accept is what happens to new connections.
	Accept Accept
	// Cut ends connections at a place, if it is not nil. Places are counted from
	// the time at which this very pointer was set, or from the connection's begin.
	Cut *Cut
}

// Both are faults that treat both directions alike.
func Both(flow Flow) Faults { return Faults{ToServer: flow, ToClient: flow} }

// Flow is what happens to bytes on their way in one direction.
type Flow struct {
	// Delay is how long each byte is on its way, and up to Jitter more. They stay
	// in order.
	Delay, Jitter time.Duration
	// BytesPerSecond bounds the bandwidth of each connection. 0: no bound.
	BytesPerSecond int
	// Chunk is the most bytes that are written at a time. 1 delivers byte by byte.
	// 0: as they come.
	Chunk int
	// Stall keeps all bytes, also those that were on their way, and the end.
	Stall Stall
	// Overtake holds about every second batch of bytes until another connection
	// has delivered some in the same direction, but no longer than this. 0: not.
	Overtake time.Duration
}

// Stall says whether bytes go on at all, and what their sender sees if they do not.
type Stall uint8

// The kinds of stalls.
const (
	// Flowing is none.
	Flowing Stall = iota
	// Unread takes no more from the sender: its kernel's buffers fill, and its
	// writes block.
	Unread
	// Held goes on taking bytes, up to 4 MiB a connection: their sender sees them
	// acknowledged, and hears no more of them.
	Held
)

// Accept says what becomes of a new connection.
type Accept uint8

// What may become of one.
const (
	// Forward connects it through.
	Forward Accept = iota
	// Drop connects it through and closes both sides at once.
	Drop
	// Reset sends it an RST instead of connecting it through.
	Reset
	// Mute takes it and leaves it alone: nothing is connected, read or written,
	// until the proxy does something else with new connections. Then it is reset.
	Mute
	// Refuse has nobody listen.
	Refuse
)

// Ending is how a connection ends.
type Ending uint8

// The endings.
const (
	// Close sends both peers a FIN, and reads on for a moment so that no RST follows.
	Close Ending = iota
	// Abort sends both peers an RST.
	Abort
	// HalfClose sends a FIN in the direction concerned only. What comes from there
	// afterwards is thrown away; the other direction goes on.
	HalfClose
	// Vanish delivers nothing more in either direction and says nothing; what
	// comes is acknowledged and thrown away. The proxy's end resets it.
	Vanish
)

// String names the ending.
func (e Ending) String() string {
	return [...]string{"close", "abort", "half-close", "vanish"}[e]
}

// Cut ends a connection at a place of its traffic.
type Cut struct {
	Direction Direction
	Ending    Ending
	// Bytes is after how many bytes; it counts where Frame is nil.
	Bytes int64
	// Frame finds a place by HTTP/2's frames.
	Frame *FramePlace
	// Connections is how many are cut. 0: each that comes to the place.
	Connections int
}

// FramePlace is a place in a connection's frames.
type FramePlace struct {
	// Type is which frames count; AnyType counts all.
	Type http2.FrameType
	// Nth is which of them, from 1 on (0 is 1 too).
	Nth int
	// FromEnd counts Offset from behind the frame's last byte instead of from its
	// first; there it may be negative.
	FromEnd bool
	// Offset is how many bytes further the place is.
	Offset int
}

// AnyType is a [FramePlace.Type] that all frames have.
const AnyType http2.FrameType = 0xff

// String describes the place.
func (p FramePlace) String() string {
	name, from := p.Type.String(), "start"
	if p.Type == AnyType {
		name = "frame"
	}
	if p.FromEnd {
		from = "end"
	}

	return fmt.Sprintf("%s %d's %s%+d", name, max(p.Nth, 1), from, p.Offset)
}

// String describes the cut.
func (c Cut) String() string {
	place := fmt.Sprintf("%d bytes", c.Bytes)
	if c.Frame != nil {
		place = c.Frame.String()
	}

	return fmt.Sprintf("%s %s at %s", c.Ending, c.Direction, place)
}

// String describes the faults, for the log of a run.
func (f Faults) String() string {
	var parts []string
	if f.ToServer != (Flow{}) {
		parts = append(parts, fmt.Sprintf("to the server %+v", f.ToServer))
	}
	if f.ToClient != (Flow{}) {
		parts = append(parts, fmt.Sprintf("to the client %+v", f.ToClient))
	}
	if f.Accept != Forward {
		parts = append(parts, [...]string{"forward", "drop", "reset", "mute", "refuse"}[f.Accept]+" new connections")
	}
	if f.Cut != nil {
		parts = append(parts, f.Cut.String())
	}
	if parts == nil {
		return "no fault"
	}

	return strings.Join(parts, ", ")
}
