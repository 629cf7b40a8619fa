// Package registry says where the services of the mesh are: it defines what a
// source of that knowledge (a file, Consul) hands over. It knows nothing of
// HTTP/2, of RPCs or of how an instance is picked.
package registry

import (
	"context"
)

// Service is one service of the mesh as a source knew it at one moment. It is
// immutable once it was handed over.
type Service struct {
	// Name is the service's name in the mesh, such as "greeter".
	Name string
	// GRPC lists the full gRPC service names that the service says it answers
	// ("helloworld.Greeter"). It is nil where the service does not say.
	GRPC []string
	// Endpoints are the instances that may take traffic, ordered by ID. It may
	// be empty: the service is known, but nobody is there.
	Endpoints []Endpoint
	// Stale says that the source has lost touch with where it learns from, and
	// that this is what it knew last.
	Stale bool
}

// Endpoint is one instance of a service.
type Endpoint struct {
	// ID is unique within the service and stays the same over updates:
	// Consul's service id, or the address where the source has no id.
	ID string
	// Address is what to dial, as ParseAddress takes it: "host:port" or
	// "unix:///path". Beside an instance that has a sidecar it is the sidecar's.
	Address string
	// Weight is the share of traffic relative to the other endpoints', at least 1.
	Weight uint32
	// Meta is what the registry knows of the instance, such as "version".
	Meta map[string]string
	// Tags are the instance's tags, in the registry's order.
	Tags []string
	// Security is what the instance speaks.
	Security Security
	// Identities are the SPIFFE IDs of which the instance has to prove one, in which
	// "{trust_domain}" stands for the dialler's own. Nil: the registry does not say.
	Identities []string
	// ServerName is what to ask for in the TLS handshake (SNI), with the same
	// placeholder; "" for nothing.
	ServerName string
}

// Source is where services are found. Its methods may be called from many
// goroutines at once.
type Source interface {
	// Watch hands each state of a service over to update, the first as soon as
	// it is known, until ctx ends, and then returns. Calls to update of one
	// watch never overlap, and update must not block. update(nil) says that
	// there is no such service. An error of the source's own (an agent that
	// cannot be reached) never ends a watch and never hands nil over: the last
	// known state is handed over again, marked Stale, and the source goes on
	// trying.
	Watch(ctx context.Context, service string, update func(*Service))

	// Answering returns the names of the services that say they answer a full
	// gRPC service name, in alphabetical order. None is no error.
	Answering(ctx context.Context, grpcService string) ([]string, error)

	// Services returns the names of all services known, in alphabetical order.
	Services(ctx context.Context) ([]string, error)
}
