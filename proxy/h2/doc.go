// Package h2 is an HTTP/2 connection engine (RFC 9113) made for a proxy. It
// speaks both roles over any transport: server towards clients, client towards
// instances. It knows nothing of gRPC, of routes or of policies.
//
// # How it is driven
//
// One goroutine reads each connection. It parses everything that one read
// brought and hands each event to the stream's [Owner]. An owner usually
// answers by sending on a stream of another connection; what it sends is only
// appended to that connection's output. When the batch of events is done, each
// connection that was appended to is flushed once ([Batch.Done]). That is where
// the speed comes from: few system calls and no goroutine between the two sides
// of an RPC.
//
// A reader never waits for another connection. A flush is a write that does not
// block; what the socket does not take goes to a writer goroutine, which lives
// until the output is drained.
//
// A reader that always finds more to do makes way for others now and then, in the
// middle of a batch too, and so does whoever does much at a time for one connection:
// while a processor is busy, nobody looks which other connections have become
// readable.
//
// # Locks
//
// Each connection has one lock, [Conn.mu]. It guards the connection and all its
// streams. Nothing is called with it held that takes another lock, and nothing
// does I/O with it held. An owner may hold a lock of its own while it calls into
// a connection, never the other way round: every call to an [Owner] or a
// [Handler] is made with no lock held.
//
// # Memory of streams
//
// A [Stream] belongs to its owner, who may reuse it, and itself, for another RPC
// once [Owner.OnClosed] was called. Since a call may be under way in another
// goroutine at that time, every event carries the generation of the stream that
// it is meant for: an owner compares it under its own lock and ignores an event
// of an earlier life.
//
// # Flow control
//
// A stream's window is given back to the sender only as the owner says that the
// bytes went on ([Stream.Consume]); the connection's window is given back on
// receipt, so that one slow stream does not hold up all that share the
// connection. What a receiver cannot take yet is parked on the sending stream,
// bounded by the window that the sender was given and by a [Budget] for the
// whole process. Parked output goes out round-robin.
//
// # How a connection ends
//
// Whatever ends it, all owners and then the handler are told once, and what is in
// the output is still written: a GOAWAY, or the last answers to a slow client.
// After that the connection is read, and what comes thrown away, for a moment
// more: a socket that is closed with unread input takes back what the peer has
// not read yet. A write that fails ends nothing by itself: what the peer had sent
// before is still worth reading, above all which streams it has not processed.
package h2
