// Package mtls speaks mutual TLS with callers and instances: it shakes hands, has the
// peer prove who it is, and carries HTTP/2 connections as fast as plain sockets do. It
// does not know who may call what, nor which instance is who; it is told whom to expect.
//
// # The transport
//
// [crypto/tls] works on a connection in memory, and the bytes go in and out as those of
// a plain socket do: one system call reads what has come, all of it is decrypted, and
// the engine's reader handles it as one batch; a batch of frames is encrypted into one
// buffer, and one system call writes it. No goroutine stands between. What was
// encrypted and found no room in the socket stays pending (see [h2.Transport]): it
// is never encrypted twice, since every record has its number.
//
// # Handshakes
//
// A handshake runs in the goroutine of its connection. A flood of them must not take
// the processor from the RPCs of those who are connected: the steps that need the
// processor take turns, as many at a time as there are processors, and where they
// follow one another the poller is looked at before each. How many are under way is
// bounded; a caller has a place only from when his first message has come whole, and
// who keeps others waiting loses it.
//
// # Trust
//
// Peers are verified by the identity's state as it is at that moment, in
// VerifyConnection, which runs for resumed sessions too. A connection is attended as
// long as it is open ([TLS.Attend]): it ends when what the peer has proven no longer
// holds, and drains gently when there is a newer certificate to show.
package mtls
