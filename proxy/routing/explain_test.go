package routing

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
	"github.com/pillion-proxy/pillion/registry"
)

// away is a registry that cannot be reached.
type away struct{}

var errAway = errors.New("connection refused")

func (away) Watch(ctx context.Context, _ string, _ func(*registry.Service)) { <-ctx.Done() }
func (away) Answering(context.Context, string) ([]string, error)            { return nil, errAway }
func (away) Services(context.Context) ([]string, error)                     { return nil, errAway }

type told chan struct{}

func (t told) OnRoute(uint32) { close(t) }

// That nobody answers is known only where the registry could be asked: otherwise
// the caller shall try again, not believe that the method does not exist.
func TestAnRPCWithoutAuthorityWhileTheRegistryIsAway(t *testing.T) {
	t.Parallel()
	r := New(Options{Source: away{}, ResolveTimeout: time.Minute, NewCluster: func(string) *upstream.Cluster { return nil }})
	defer r.Close()
	const authority, path = "localhost:15001", "/helloworld.Greeter/SayHello"
	if !r.Find(nil, authority, path).Wait {
		t.Fatal("the registry is not asked")
	}
	asked := make(told)
	r.Await("", authority, path, asked, 1)
	<-asked
	if found := r.Find(nil, authority, path); found.Cluster != nil || found.Wait {
		t.Fatal("it is not settled")
	}
	code, flag, message := r.Explain("", authority, path)
	if code != codes.Unavailable || flag != wire.FlagNoHealthyUpstream || !strings.Contains(message, "helloworld.Greeter") {
		t.Errorf("%v %v: %s", code, flag, message)
	}
}
