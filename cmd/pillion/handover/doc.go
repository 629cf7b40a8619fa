// Package handover passes the listening sockets of a running process, and what it
// knows, on to a process that replaces it. It does not listen, serve or drain:
// both processes do that themselves, at the moments that this package tells them.
//
// The running process starts the other one as its child, so that it is in the same
// service, sandbox and environment. They speak over a socket pair, in JSON objects:
//
//	running process             its successor
//	estate          ->                         what there is to take over; the sockets come as descriptors
//	                         <- ready          it could begin; these sockets it took
//	begin           ->                         it shall serve
//	                         <- begun          it serves; both do now
//	(end of file)   ->                         the running process accepts no connections any more, has let go
//	                                           of what only one may hold, and told everybody: it is alone in charge
//
// Until "begun" has come the running process goes on as if nothing had been,
// whatever happens to its successor. A successor that is left alone before
// "begin" (the running process crashed) begins: somebody has to.
package handover
