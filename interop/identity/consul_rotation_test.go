package identity

import (
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// rotateFor is how long roots are rotated under load; the least is one rotation.
var rotateFor = flag.Duration("rotate", 0, "how long TestRootsRotateUnderLoad goes on rotating Consul's root")

// rotationKeys are what the roots are made of, one after the other.
var rotationKeys = []struct {
	kind string
	bits int
}{{"ec", 384}, {"rsa", 2048}, {"ec", 256}}

// Certificates live for half a minute (Consul dates them back by one), so that each is
// replaced every fifteen seconds or so and at once after a rotation. Meanwhile an
// intention changes to and fro. No RPC may fail of it.
func TestRootsRotateUnderLoad(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t,
		consul.WithConnect(map[string]any{"LeafCertTTL": "90s", "SkipValidate": true}), consul.WithDefaultIntention("deny"))
	intend(t, agent, "web", api.IntentionActionAllow)
	apps := []*load.App{load.StartApp(t, "a", ""), load.StartApp(t, "b", "")}
	var sidecars []*harness.Sidecar
	for _, app := range apps {
		sidecars = append(sidecars, harness.StartSidecar(t, harness.Config{
			Service: "greeter", App: app.Address,
			Settings: consulSettings(agent, "greeter", map[string]any{
				"service": map[string]any{"name": "greeter", "port": portOf(t, app.Address), "health_check": map[string]any{"disabled": true}},
			}),
		}))
	}
	web := harness.StartSidecar(t, harness.Config{Outbound: true, Settings: consulSettings(agent, "web", nil)})
	batch := harness.StartSidecar(t, harness.Config{Outbound: true, Settings: consulSettings(agent, "batch", nil)})
	sidecars = append(sidecars, web, batch)
	conn := load.Dial(t, web.Outbound, grpc.WithAuthority("greeter"))
	other := load.Dial(t, batch.Outbound, grpc.WithAuthority("greeter"))
	consul.Eventually(t, "greeter is found, and lets web in", func() bool {
		_, err := load.Who(t.Context(), conn)

		return err == nil
	})
	batchGets := func(code codes.Code) {
		t.Helper()
		consul.Eventually(t, "batch gets "+code.String(), func() bool {
			_, err := load.Who(t.Context(), other)

			return status.Code(err) == code
		})
	}
	batchGets(codes.PermissionDenied)

	l := load.Start(t, conn, load.Options{PerSecond: 300, StreamEvery: 50})
	began := time.Now()
	n := 0
	for ; n == 0 || time.Since(began) < *rotateFor; n++ {
		key := rotationKeys[n%len(rotationKeys)]
		before, certified := roots(t, agent), certificates(sidecars)
		consul.Eventually(t, "the root is rotated", func() bool { return rotateRoot(agent, key.kind, key.bits) })
		if roots(t, agent) == before {
			t.Error("the root is the same")
		}
		consul.Eventually(t, "all have certificates of the new root", func() bool {
			for i, count := range certificates(sidecars) {
				if count <= certified[i] {
					return false
				}
			}

			return true
		})
		l.Check(t, "the root is rotated")
		intend(t, agent, "batch", api.IntentionActionAllow)
		batchGets(codes.OK)
		intend(t, agent, "batch", api.IntentionActionDeny)
		batchGets(codes.PermissionDenied)
		l.More(t, 5*time.Second)
		l.Check(t, "certificates of the new root are in use")
	}
	l.End(t)
	t.Logf("%d rotations; each sidecar's certificates: %v", n, certificates(sidecars))
	for _, s := range sidecars {
		if strings.Contains(s.Output(), "PRIVATE KEY") {
			t.Error("the log holds a key")
		}
	}
}

// consulSettings are those of a sidecar whose registry and identity are Consul's.
func consulSettings(agent *consul.Agent, service string, further map[string]any) map[string]any {
	settings := map[string]any{
		"registry": map[string]any{"consul": map[string]any{"address": agent.Address, "allow_plaintext": false}},
		"identity": map[string]any{"consul": map[string]any{"service": service}},
	}
	for key, value := range further {
		settings[key] = value
	}

	return settings
}

// certificates is how many certificates each sidecar has had.
func certificates(sidecars []*harness.Sidecar) (counts []int) {
	for _, s := range sidecars {
		counts = append(counts, strings.Count(s.Output(), "certificate is in force"))
	}

	return counts
}

// intend has an intention for calls of greeter.
func intend(t testing.TB, agent *consul.Agent, source string, action api.IntentionAction) {
	t.Helper()

	_, err := agent.Client.Connect().IntentionUpsert(&api.Intention{
		SourceName: source, DestinationName: "greeter", SourceType: api.IntentionSourceConsul, Action: action,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
}

// rotateRoot has Connect's CA make a new root; false where it is busy.
func rotateRoot(agent *consul.Agent, kind string, bits int) bool {
	config, _, err := agent.Client.Connect().CAGetConfig(nil)
	if err != nil {
		return false
	}
	config.Config["PrivateKeyType"], config.Config["PrivateKeyBits"] = kind, bits
	config.State = nil
	_, err = agent.Client.Connect().CASetConfig(config, nil)

	return err == nil
}

// roots is which root is the active one.
func roots(t testing.TB, agent *consul.Agent) string {
	t.Helper()

	list, _, err := agent.Client.Connect().CARoots(nil)
	if err != nil {
		t.Fatal(err)
	}

	return list.ActiveRootID
}
