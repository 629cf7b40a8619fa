// Package routing finds which service an RPC is for. It watches a service from
// the first RPC on that asks for it until nobody does any more, so that a
// sidecar's memory follows what its app uses and not the size of the mesh. It
// does not know how an RPC gets to a service.
//
// The order in which an RPC's destination is looked for:
//
//  1. :authority, if it names a service: "greeter", "greeter:443",
//     "greeter.service.consul", "greeter.virtual.consul";
//  2. the gRPC service name of :path, if just one service says that it answers
//     it; health and reflection do not count, since all answer them;
//  3. the default destination.
//
// Reflection that names no service is answered for the whole mesh.
package routing

import (
	"context"
	"log/slog"
	"time"

	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/registry"
)

// Options say where services are found. The zero value of a field means its
// default.
type Options struct {
	Source registry.Source
	// NewCluster makes the cluster of a service.
	NewCluster func(service string) *upstream.Cluster
	// Default is the service that takes what no other is found for; "": none.
	Default string
	// Declared are services that are watched from the start and for ever.
	Declared []string
	// Reflection answers reflection for the whole mesh; nil: nobody does.
	Reflection *upstream.Cluster
	// Learn asks a service which gRPC services it answers. It is used for those
	// that do not say so in the registry; nil: they are not asked.
	Learn func(ctx context.Context, service string) ([]string, error)
	// ResolveTimeout bounds how long an RPC waits for the registry's first word
	// on a service. Default 2 s.
	ResolveTimeout time.Duration
	// IdleTimeout is how long a service that no RPC asks for is still watched.
	// Default 15 min.
	IdleTimeout time.Duration
	// MaxNames bounds the services and the gRPC service names that are remembered,
	// which callers choose: so many of either. Default 10000.
	MaxNames int
	// MaxWaiting bounds the RPCs that wait for one of them. Default 10000.
	MaxWaiting int
	// NotFoundTTL is how long "there is no such service" is believed, unless the
	// registry says otherwise before. RPCs that have somewhere else to go do not wait
	// for it to be asked again. Default 2 s.
	NotFoundTTL time.Duration
	Logger      *slog.Logger
}

const (
	// answeringTTL is how long it is believed who answers a gRPC service name.
	// It is asked again in the background when an RPC comes after that.
	answeringTTL = 10 * time.Second
	// maxName is the longest name of a service, or of a gRPC service, in bytes.
	// Registries allow less; callers would not.
	maxName = 255
	// unansweredTTL is how long a service is still watched of which the registry
	// has said nothing in time, while no RPC asks for it; and how long it is
	// remembered that nobody answers a name, where RPCs go to the default destination.
	unansweredTTL = time.Minute
)

func (o Options) withDefaults() Options {
	if o.ResolveTimeout == 0 {
		o.ResolveTimeout = 2 * time.Second
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = 15 * time.Minute
	}
	if o.MaxNames == 0 {
		o.MaxNames = 10000
	}
	if o.MaxWaiting == 0 {
		o.MaxWaiting = 10000
	}
	if o.NotFoundTTL == 0 {
		o.NotFoundTTL = 2 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}
