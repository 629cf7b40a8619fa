package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// Whatever a caller claims to be, the app is told what he has proven, or nothing.
func TestAttackByForgedHeaders(t *testing.T) {
	t.Parallel()

	ca := newAuthority(t)
	app := startMeshApp(t, appService)
	leaf := ca.Issue("/svc/" + appService)
	inbound := func(settings map[string]any, tls string) *harness.Sidecar {
		t.Helper()
		address := harness.FreeAddress(t)
		all := map[string]any{"inbound": map[string]any{"listen": address, "tls": tls}}
		maps.Copy(all, settings)

		return harness.StartSidecar(t, harness.Config{
			Service: appService, App: app.Address, InboundListen: address, Mesh: harness.NewMesh(t, nil), Settings: all,
		})
	}
	files := proveBy(t, ca, leaf).settings(nil)
	strict, permissive, off := inbound(files, "strict"), inbound(files, "permissive"), inbound(nil, "off")
	web := ca.Issue(callerPath)
	// outbound is the sidecar beside the client who forges.
	outbound := func(tls string, instance *harness.Sidecar) *grpc.ClientConn {
		t.Helper()
		address := harness.FreeAddress(t)
		settings := proveBy(t, ca, web).settings(nil)
		settings["outbound"] = map[string]any{"listen": address, "tls": tls, "default_service": appService}
		sidecar := harness.StartSidecar(t, harness.Config{
			Outbound: true, OutboundListen: address, Settings: settings,
			Mesh: harness.NewMesh(t, map[string]harness.Service{appService: {Endpoints: harness.Endpoints(instance.Inbound)}}),
		})

		return load.Dial(t, sidecar.Outbound)
	}

	hash := sha256.Sum256(web.Leaf.Raw)
	proven := map[string][]string{
		"pillion-peer": {harness.ServiceID("web")},
		"x-forwarded-client-cert": {
			"By=" + harness.ServiceID(appService) + ";Hash=" + hex.EncodeToString(hash[:]) + ";URI=" + harness.ServiceID("web"),
		},
	}
	admin := harness.ServiceID("admin")
	forgeries := map[string][]string{
		"nothing":        nil,
		"one":            {"pillion-peer", admin},
		"both":           {"pillion-peer", admin, "x-forwarded-client-cert", "URI=" + admin},
		"several":        {"pillion-peer", admin, "pillion-peer", admin, "x-forwarded-client-cert", "URI=" + admin, "x-forwarded-client-cert", "By=x;URI=" + admin},
		"what is proven": {"pillion-peer", harness.ServiceID("web"), "x-forwarded-client-cert", proven["x-forwarded-client-cert"][0]},
		"what is empty":  {"pillion-peer", "", "x-forwarded-client-cert", ""},
	}
	for _, way := range []struct {
		name string
		conn *grpc.ClientConn
		want map[string][]string
	}{
		{"by TLS to strict", rpcsOver(t, strict.Inbound, shows(web)), proven},
		{"by TLS to permissive", rpcsOver(t, permissive.Inbound, shows(web)), proven},
		{"in plaintext to permissive", load.Dial(t, permissive.Inbound), nil},
		{"in plaintext to off", load.Dial(t, off.Inbound), nil},
		{"through the caller's sidecar", outbound("strict", strict), proven},
		{"through the caller's sidecar, in plaintext", outbound("permissive", permissive), nil},
	} {
		for name, forged := range forgeries {
			t.Run(way.name+": "+name, func(t *testing.T) {
				ctx := metadata.NewOutgoingContext(context.Background(), metadata.Pairs(append(forged, "x-kept", "as it is")...))
				if _, err := load.Who(ctx, way.conn); err != nil {
					t.Fatal(err)
				}
				head := <-app.heads
				for _, key := range harness.Proven {
					if got := head[key]; !slices.Equal(got, way.want[key]) {
						t.Errorf("the app is told %s: %q, want %q", key, got, way.want[key])
					}
				}
				if got := head["x-kept"]; !slices.Equal(got, []string{"as it is"}) {
					t.Errorf("other metadata: %q", got)
				}
			})
		}
	}
}
