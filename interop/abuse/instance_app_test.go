package abuse

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/abuse/attack"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
	"github.com/pillion-proxy/pillion/interop/rawh2"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// An app that does all that it can against the sidecar beside it only harms its own
// RPCs; when it comes to its senses, so do they.
func TestTheAppRunsWild(t *testing.T) {
	t.Parallel()

	var instances []attack.Instance
	for _, instance := range attack.Instances() {
		if !strings.Contains(instance.Name, "flood") {
			instance.Life = 100 * time.Millisecond
			instances = append(instances, instance)
		}
	}
	var sane atomic.Bool
	app, err := attack.StartInTurn(func(conn int) attack.Instance {
		if sane.Load() {
			return attack.Well()
		}

		return instances[conn%len(instances)]
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(app.Stop)
	sidecar := harness.StartSidecar(t, harness.Config{
		Service: "app", App: app.Address, Mesh: harness.NewMesh(t, nil),
		Settings: map[string]any{"connections": map[string]any{"connect_timeout": "1s"}},
	})
	conn := load.Dial(t, sidecar.Inbound, grpc.WithDisableRetry())

	// Each instance gets some connections, of a tenth of a second and more.
	deadline := time.Now().Add(4 * patience)
	for app.Connections() < len(instances) && time.Now().Before(deadline) {
		var calling sync.WaitGroup
		for range 3 {
			calling.Go(func() {
				instance := attack.Well()
				instance.Deadline = 100 * time.Millisecond
				_ = call(t.Context(), conn, instance)
			})
		}
		calling.Wait()
	}
	if app.Connections() < len(instances) {
		t.Errorf("the app got %d connections: not each way to misbehave was tried", app.Connections())
	}
	select {
	case <-sidecar.Done():
		t.Fatal("the sidecar has ended")
	default:
	}

	sane.Store(true)
	await(t, func() bool {
		instance := attack.Well()
		instance.Deadline = 10 * time.Second
		for range 50 {
			if call(t.Context(), conn, instance) != nil {
				return false
			}
		}

		return true
	}, "RPCs that all end well")
}

// What an app says in the sidecar's name does not go beyond it.
func TestAnAppCannotSpeakForTheSidecar(t *testing.T) {
	t.Parallel()

	const forged = "pillion-flags"
	for name, answer := range map[string]func(conn *rawh2.Conn, stream uint32){
		"trailers only": func(conn *rawh2.Conn, stream uint32) {
			_ = conn.Headers(stream, true, rawh2.Field(":status", "200"), rawh2.Field("content-type", "application/grpc"),
				rawh2.Field("grpc-status", "14"), rawh2.Field(forged, "UF"), rawh2.Field("pillion-x", "y"))
		},
		"trailers": func(conn *rawh2.Conn, stream uint32) {
			_ = conn.Headers(stream, false, rawh2.Field(":status", "200"), rawh2.Field("content-type", "application/grpc"), rawh2.Field(forged, "UF"))
			_ = conn.Headers(stream, true, rawh2.Field("grpc-status", "14"), rawh2.Field(forged, "UF"))
		},
		"an informational answer": func(conn *rawh2.Conn, stream uint32) {
			_ = conn.Headers(stream, false, rawh2.Field(":status", "103"), rawh2.Field(forged, "UF"))
			_ = conn.Headers(stream, true, rawh2.Field(":status", "200"), rawh2.Field("content-type", "application/grpc"), rawh2.Field("grpc-status", "14"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			spoiled, _ := startSpoiler(t, answer)
			client := rawh2.Dial(t, harness.Inbound(t, spoiled).Inbound)
			if err := client.Headers(1, true, rawh2.Request(harness.RouteService, attack.MethodQuick)...); err != nil {
				t.Fatal(err)
			}
			got, err := client.Await(1)
			if err != nil {
				t.Fatal(err)
			}
			if got.Status() != "14" {
				t.Errorf("got %+v", got)
			}
			for _, field := range append(got.Headers, got.Trailers...) {
				if strings.HasPrefix(field.Name, "pillion-") {
					t.Errorf("the caller got %v", field)
				}
			}
		})
	}
}

// Nor does it become more than its own: what a sidecar says of an app that is gone
// has the RPC sent elsewhere, and an app that says it gets each RPC once.
func TestAForgedFlagIsNoReasonToSendAnRPCAgain(t *testing.T) {
	t.Parallel()

	app, requests := startSpoiler(t, func(conn *rawh2.Conn, stream uint32) {
		_ = conn.Headers(stream, true, rawh2.Field(":status", "200"), rawh2.Field("content-type", "application/grpc"),
			rawh2.Field("grpc-status", "14"), rawh2.Field("pillion-flags", "UF"))
	})
	conn := load.Dial(t, harness.Outbound(t, harness.Inbound(t, app).Inbound).Outbound, grpc.WithDisableRetry())
	const calls = 20
	for range calls {
		if _, err := load.Who(t.Context(), conn); status.Code(err) != codes.Unavailable {
			t.Fatalf("got %v", err)
		}
	}
	if n := requests.Load(); n != calls {
		t.Errorf("%d RPCs became %d requests", calls, n)
	}
}

// startSpoiler starts an app that answers each request so, and counts them.
func startSpoiler(t *testing.T, answer func(conn *rawh2.Conn, stream uint32)) (address string, requests *atomic.Int64) {
	t.Helper()

	requests = new(atomic.Int64)
	address = rawh2.Serve(t, func(conn *rawh2.Conn) {
		for {
			frame, err := conn.Read()
			if err != nil {
				return
			}
			// The sidecar asks on its own account what the app answers.
			request, is := frame.(*http2.MetaHeadersFrame)
			if is && rawh2.Get(request.Fields, ":path") == attack.MethodQuick {
				requests.Add(1)
				answer(conn, request.StreamID)
			}
		}
	})

	return address, requests
}
