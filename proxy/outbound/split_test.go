package outbound_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	"github.com/pillion-proxy/pillion/proxy/outbound"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/recording"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/registry/memory"
)

// measuring is an app that reports what it did in trailers.
type measuring struct{ app }

func (a *measuring) UnaryCall(ctx context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	_ = grpc.SetTrailer(ctx, metadata.Pairs("pillion-measure-cost", "1.5", "pillion-measure-bad", "x", "pillion-flags", "UF", "own", "1"))
	md, _ := metadata.FromIncomingContext(ctx)
	a.name = strings.Join(md.Get("pillion-group"), ",")
	return &grpc_testing.SimpleResponse{ServerId: a.name}, nil
}

// outcomes collects what observers are told.
type outcomes struct {
	mu   sync.Mutex
	told []string
}

type groupObserver struct {
	*outcomes
	key telemetry.GroupKey
}

func (o groupObserver) Ended(out *telemetry.Outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := fmt.Sprint(o.key.Policy, " ", o.key.Group, " ", out.Code, " ", out.Unit != 0)
	for _, m := range out.Measures {
		text += fmt.Sprint(" ", strings.Clone(m.Name), "=", m.Value)
	}
	o.told = append(o.told, text)
}

// From the app's trailers through its sidecar and the caller's to who observes a group; and
// nothing of it to the caller.
func TestMeasuresThroughTwoSidecars(t *testing.T) {
	t.Parallel()
	for name, beside := range map[string]bool{"with a sidecar beside the app": true, "with the app alone": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := &measuring{}
			address := serveAny(t, a)
			if beside {
				address, _ = sidecar(t, address)
			}
			cc, p := meshOf(t, outbound.Options{
				Source: memory.New(service("greeter", address)), Metrics: telemetry.NewMetrics(telemetry.Outbound), Counters: new(telemetry.Counters),
				DefaultService: "greeter", Caller: "web", Recording: recording.Options{Size: 10},
			})
			mesh, err := configyaml.ParseMesh("mesh.yaml", []byte(`
policies:
- {name: s, service: greeter, split: {match: {metadata: [{key: user, present: true}]}, split: {sticky: {key: {metadata: user}}, destinations: [{weight: 10000, group: blue}]}}}
- {name: versions, service: greeter, subsets: {subsets: {v1: {}}}}
`))
			if err != nil {
				t.Fatal(err)
			}
			seen := &outcomes{}
			set, refused := policy.Compile(mesh.GetPolicies(), nil, policy.Env{
				Observer: func(key telemetry.GroupKey) telemetry.Observer { return groupObserver{seen, key} },
			})
			if len(refused) > 0 {
				t.Fatal(refused)
			}
			p.SetPolicies(set)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if _, _, ok := p.SubsetEvents("other", "v1"); ok {
				t.Error("events are known of a service that nobody calls")
			}
			for i, user := range []string{"alice", ""} {
				ctx := metadata.AppendToOutgoingContext(ctx, "secret", "x")
				want := ""
				if user != "" {
					ctx, want = metadata.AppendToOutgoingContext(ctx, "user", user), "blue"
				}
				var trailer metadata.MD
				got, err := grpc_testing.NewTestServiceClient(cc).UnaryCall(ctx, &grpc_testing.SimpleRequest{}, grpc.Trailer(&trailer))
				if err != nil || got.GetServerId() != want {
					t.Fatalf("the app is told the group %q, want %q; %v", got.GetServerId(), want, err)
				}
				for key := range trailer {
					if strings.HasPrefix(key, "pillion-measure") {
						t.Errorf("RPC %d: the caller got %v", i, trailer)
					}
				}
				if len(trailer.Get("own")) != 1 {
					t.Errorf("RPC %d: the caller got %v", i, trailer)
				}
			}
			seen.mu.Lock()
			defer seen.mu.Unlock()
			if want := []string{"s blue OK true cost=1.5"}; !slices.Equal(seen.told, want) {
				t.Errorf("observers were told %q, want %q", seen.told, want)
			}
			all, oneIn := p.Recorded()
			if len(all) != 2 || oneIn != 1 || all[0].Service != "greeter" || all[0].Caller != "web" || all[0].Path != "/grpc.testing.TestService/UnaryCall" ||
				fmt.Sprint(all[0].Fields) != "[{user alice false false}]" || len(all[1].Fields) != 0 || time.Since(all[0].Time) > time.Minute {
				t.Errorf("%+v, one in %d", all, oneIn)
			}
			p.SetPolicies(nil)
			if all, _ := p.Recorded(); len(all) != 2 || len(all[0].Fields) != 0 {
				t.Errorf("no policy looks at anything, and there is %+v", all)
			}
			p.SetPolicies(set)
			if n, instances, ok := p.SubsetEvents("greeter", "v1"); n != 0 || instances != 1 || !ok {
				t.Errorf("%d events of %d instances, %v", n, instances, ok)
			}
			if _, _, ok := p.SubsetEvents("greeter", "v2"); ok {
				t.Error("events are known of a subset that is not there")
			}
		})
	}
}

func serveAny(t *testing.T, a grpc_testing.TestServiceServer) string {
	t.Helper()
	l := listen(t)
	s := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(s, a)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}
