// Package server serves the admin port, which people and tools talk to: the
// admin API, health, reflection and channelz over gRPC, and metrics, readiness,
// configuration, endpoints and profiles over HTTP, all on one listener without
// TLS. It only shows: what there is to show it is given through the interfaces
// in [Options]. It knows nothing of the proxies.
//
// One net/http server speaks HTTP/1.1 and HTTP/2 with prior knowledge and hands
// gRPC requests to grpc.Server.ServeHTTP. The other way, to tell connections
// apart by their first bytes and give some to grpc-go's own transport, cannot
// work for one connection that carries both, and has to answer SETTINGS before
// it can know which kind it has, because some gRPC clients wait for them. What
// ServeHTTP lacks does not matter here: it is slower, and channelz lists no
// sockets for it.
package server
