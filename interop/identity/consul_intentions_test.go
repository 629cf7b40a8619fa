package identity

import (
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// While RPCs run, intentions for one of the callers come, change and go by Consul's API:
// what they say holds within a second, for streams that are open too. Another caller, of
// whom nothing is changed, notices nothing.
func TestConsulIntentionsChangeUnderLoad(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t, consul.WithConnect(nil), consul.WithDefaultIntention("deny"))
	// Else Consul takes no permissions.
	http := &api.ProxyConfigEntry{Kind: api.ProxyDefaults, Name: api.ProxyConfigGlobal, Config: map[string]any{"protocol": "grpc"}}
	if _, _, err := agent.Client.ConfigEntries().Set(http, nil); err != nil {
		t.Fatal(err)
	}
	say := func(web *api.SourceIntention) {
		t.Helper()
		sources := []*api.SourceIntention{{Name: "batch", Action: api.IntentionActionAllow}}
		if web != nil {
			web.Name = "web"
			sources = append(sources, web)
		}
		if _, _, err := agent.Client.ConfigEntries().Set(&api.ServiceIntentionsConfigEntry{
			Kind: api.ServiceIntentions, Name: "greeter", Sources: sources,
		}, nil); err != nil {
			t.Fatal(err)
		}
	}
	say(nil)

	app := load.StartApp(t, "greeter", "")
	greeter := harness.StartSidecar(t, harness.Config{Service: "greeter", App: app.Address, Settings: consulSettings(agent, "greeter", map[string]any{
		"service": map[string]any{"name": "greeter", "port": portOf(t, app.Address), "health_check": map[string]any{"disabled": true}},
	})})
	dial := func(service string) *grpc.ClientConn {
		t.Helper()

		return load.Dial(t, harness.StartSidecar(t, harness.Config{
			Outbound: true, Settings: consulSettings(agent, service, nil),
		}).Outbound, grpc.WithAuthority("greeter"))
	}
	web, batch := dial("web"), dial("batch")
	consul.Eventually(t, "greeter is found, and lets batch in", func() bool {
		_, err := load.Who(t.Context(), batch)

		return err == nil
	})
	consul.Eventually(t, "greeter is found, and does not let web in", func() bool {
		_, err := load.Who(t.Context(), web)

		return status.Code(err) == codes.PermissionDenied
	})

	l := load.Start(t, batch, load.Options{PerSecond: 200, StreamEvery: 10})
	control := load.StartControl(t)
	took := map[string]time.Duration{}
	// within waits until a method ends so for web.
	within := func(what string, stream bool, want codes.Code) {
		t.Helper()
		began := time.Now()
		consul.Eventually(t, what, func() (holds bool) {
			took[what] = time.Since(began)
			var err error
			if stream {
				_, err = load.Converse(t.Context(), web, 1)
			} else {
				_, err = load.Who(t.Context(), web)
			}
			if code := status.Code(err); code != codes.OK && code != codes.PermissionDenied {
				t.Fatalf("%s: %v", what, err)
			}

			return status.Code(err) == want
		})
	}
	// ends waits until an open stream is ended.
	ends := func(what string, stream grpc.BidiStreamingClient[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) {
		t.Helper()
		began := time.Now()
		if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", what, err)
		}
		took[what] = time.Since(began)
	}

	lasting := openStream(t, batch)
	say(&api.SourceIntention{Action: api.IntentionActionAllow})
	within("an intention is created that allows", false, codes.OK)
	stream := openStream(t, web)
	say(&api.SourceIntention{Action: api.IntentionActionDeny})
	ends("the stream of a caller that is denied", stream)
	within("it is changed, and denies", false, codes.PermissionDenied)

	unary := &api.IntentionPermission{Action: api.IntentionActionAllow, HTTP: &api.IntentionHTTPPermission{PathExact: testService + "UnaryCall"}}
	all := &api.IntentionPermission{Action: api.IntentionActionAllow, HTTP: &api.IntentionHTTPPermission{PathPrefix: testService}}
	say(&api.SourceIntention{Permissions: []*api.IntentionPermission{all}})
	within("it is changed, and permits all methods", true, codes.OK)
	stream = openStream(t, web)
	say(&api.SourceIntention{Permissions: []*api.IntentionPermission{unary}})
	ends("the stream of a method that is not permitted any more", stream)
	within("it is changed, and permits another method", false, codes.OK)
	if _, err := load.Converse(t.Context(), web, 1); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a method that is not permitted: %v", err)
	}

	say(&api.SourceIntention{Action: api.IntentionActionAllow})
	within("it is changed, and allows again", true, codes.OK)
	stream = openStream(t, web)
	say(nil)
	ends("the stream of a caller whose intention is deleted", stream)
	within("it is deleted", false, codes.PermissionDenied)

	if err := roundTrip(lasting); err != nil {
		t.Errorf("the stream of a caller of whom nothing was changed: %v", err)
	}
	l.End(t)
	// A second, and what the machine itself makes things wait for.
	most := time.Second + 20*control.Stop()
	for what, took := range took {
		t.Logf("%s: %v", what, took.Round(time.Millisecond))
		if took > most {
			t.Errorf("%s: it took %v, want at most %v", what, took, most)
		}
	}
	if refused := greeter.Metric(t, "pillion_access_denied_total", "consul-intentions"); refused == 0 {
		t.Error("what was refused is not counted")
	}
}
