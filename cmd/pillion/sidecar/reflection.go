package sidecar

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/meshreflect"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/registry"
)

// appReflection asks the local app by reflection what it answers.
type appReflection struct {
	name    string
	mesh    *meshreflect.Mesh
	metrics *telemetry.Metrics
	said    atomic.Pointer[[]string] // by services last; nil: nothing yet
}

func newAppReflection(service *configv1.Service, metrics *telemetry.Metrics) *appReflection {
	target := "passthrough:///" + service.GetAddress()
	if network, path, err := registry.ParseAddress(service.GetAddress()); err == nil && network == "unix" {
		target = "unix://" + path
	}
	return &appReflection{name: service.GetName(), metrics: metrics, mesh: meshreflect.New(meshreflect.Options{
		// Who asks does so every other second until the app is up. What is remembered
		// for longer, that it is not, would keep it unknown while it takes traffic.
		Lifetime: time.Second,
		Services: func(context.Context) ([]string, error) { return []string{service.GetName()}, nil },
		Dial: func(context.Context, string) (grpc.ClientConnInterface, error) {
			return grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		},
	})}
}

// services returns the full gRPC service names that the app answers.
func (a *appReflection) services(ctx context.Context) ([]string, error) {
	names, err := a.mesh.Lists(ctx, a.name)
	if err == nil {
		a.said.Store(&names)
	}
	return slices.Clone(names), err
}

// answers returns what services said last.
func (a *appReflection) answers() []string {
	if said := a.said.Load(); said != nil {
		return slices.Clone(*said)
	}
	return nil
}

// describe finds out what the app answers, and of which types its methods are, for
// the metrics' grpc_type, which cannot be seen on the wire. It asks until the app answers, and
// now and then later, since an app is replaced without its sidecar.
func (a *appReflection) describe(ctx context.Context) {
	const soon, later, patience = 5 * time.Second, 5 * time.Minute, 5 * time.Second
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		asking, cancel := context.WithTimeout(ctx, patience)
		var methods []meshreflect.Method
		_, err := a.services(asking)
		if err == nil {
			methods, err = a.mesh.Methods(asking, a.name)
		}
		cancel()
		wait.Reset(later)
		if err != nil { // not up yet, or it has no reflection
			wait.Reset(soon)
			continue
		}
		for _, m := range methods {
			a.metrics.Learn(m.FullMethod, telemetry.TypeOf(m.ClientStream, m.ServerStream))
		}
	}
}
