package traffic

import (
	"strconv"
	"testing"

	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// An instance that is stopped is skipped at once, and used again when it is back
// at the same address, with nobody telling the sidecar.
func TestAnInstanceGoesAndComesBack(t *testing.T) {
	t.Parallel()

	leaving, staying := load.StartApp(t, "leaving", harness.FreeAddress(t)), load.StartApp(t, "staying", "")
	conn := load.Dial(t, harness.Outbound(t, leaving.Address, staying.Address).Outbound)

	if answered := shares(t, conn, 200); answered["leaving"] < 60 || answered["staying"] < 60 {
		t.Fatalf("answered by %v", answered)
	}

	// What is under way may finish.
	leaving.Stop()
	if answered := shares(t, conn, 200); answered["staying"] != 200 {
		t.Errorf("with one gone, answered by %v", answered)
	}

	back := load.StartApp(t, "leaving", leaving.Address)
	eventually(t, "the instance that came back answers", func() bool {
		if _, err := load.Who(t.Context(), conn); err != nil {
			t.Errorf("while an instance comes back: %v", err)
		}

		return back.Calls() > 0
	})
}

// A new instance takes traffic at once; one that is taken out gets no more.
func TestAnInstanceIsAddedAndTakenOut(t *testing.T) {
	t.Parallel()

	one, two := load.StartApp(t, "one", ""), load.StartApp(t, "two", "")
	mesh := harness.NewMesh(t, map[string]harness.Service{"app": {Endpoints: harness.Endpoints(one.Address)}})
	conn := load.Dial(t, harness.StartSidecar(t, harness.Config{Outbound: true, Default: "app", Mesh: mesh}).Outbound)
	if answered := shares(t, conn, 100); answered["one"] != 100 {
		t.Fatalf("answered by %v", answered)
	}

	mesh.Set(t, "app", harness.Service{Endpoints: harness.Endpoints(one.Address, two.Address)})
	began := time.Now()
	eventually(t, "the new instance answers", func() bool { shares(t, conn, 20); return two.Calls() > 0 })
	t.Logf("the new instance answered after %v", time.Since(began))

	mesh.Set(t, "app", harness.Service{Endpoints: harness.Endpoints(two.Address)})
	eventually(t, "the old instance answers no more", func() bool { return shares(t, conn, 20)["two"] == 20 })
	if answered := shares(t, conn, 200); answered["two"] != 200 {
		t.Errorf("answered by %v", answered)
	}
}

// Instances that close their connections for their age, as grpc-go servers can
// be told to: GOAWAY in two steps, many times while RPCs run.
func TestInstancesThatCloseConnectionsForTheirAge(t *testing.T) {
	t.Parallel()

	var addresses []string
	for i := range 3 {
		addresses = append(addresses, load.StartApp(t, strconv.Itoa(i), "", grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: 300 * time.Millisecond, MaxConnectionAgeGrace: patience,
		})).Address)
	}
	conn := load.Dial(t, harness.Outbound(t, addresses...).Outbound)

	// It fails the test itself if one fails.
	shares(t, conn, 4000)
}
