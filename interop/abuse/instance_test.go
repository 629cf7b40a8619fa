package abuse

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/abuse/attack"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// The services of a mesh with bad instances.
const (
	// wellService is what others do meanwhile: its instances are good.
	wellService = "well"
	// badService has the bad instance alone, mixedService a good one beside it.
	badService   = "bad"
	mixedService = "mixed"
)

// startInstance starts a bad instance. It ends with the test.
func startInstance(t testing.TB, instance attack.Instance) *attack.Running {
	t.Helper()

	running, err := instance.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(running.Stop)

	return running
}

// hasty is what keeps the tests of bad instances short: what is waited for in vain
// is waited for briefly. Instances that do begin have the default, for on a busy machine
// they may take seconds for it.
var hasty = map[string]any{"connections": map[string]any{"connect_timeout": "2s"}}

// Whatever an instance does, it costs the RPCs to it and no others; and each of
// those ends with a status that says which instance did what.
func TestBadInstances(t *testing.T) {
	t.Parallel()

	instances := attack.Instances()
	services := map[string]harness.Service{}
	good := load.StartApp(t, "good", "")
	services[wellService] = harness.Service{Endpoints: harness.Endpoints(good.Address)}
	running := make([]*attack.Running, len(instances))
	for i, instance := range instances {
		running[i] = startInstance(t, instance)
		services[serviceOf(badService, i)] = harness.Service{Endpoints: harness.Endpoints(running[i].Address)}
		services[serviceOf(mixedService, i)] = harness.Service{Endpoints: harness.Endpoints(running[i].Address, good.Address)}
	}
	mesh := harness.NewMesh(t, services)
	patient := harness.StartSidecar(t, harness.Config{Outbound: true, Mesh: mesh})
	impatient := harness.StartSidecar(t, harness.Config{Outbound: true, Mesh: mesh, Settings: hasty})
	startOthers := func(sidecar *harness.Sidecar) *load.Load {
		return load.Start(t, load.Dial(t, sidecar.Outbound, grpc.WithAuthority(wellService)),
			load.Options{PerSecond: 50, StreamEvery: 10})
	}
	besidePatient, besideImpatient := startOthers(patient), startOthers(impatient)

	// Most of them wait most of the time, so that more than there are processors
	// can be faced at a time.
	const atOnce = 5
	places := make(chan struct{}, atOnce)
	var facing sync.WaitGroup
	for i, instance := range instances {
		places <- struct{}{}
		facing.Go(func() {
			defer func() { <-places }()
			t.Run(instance.Name, func(t *testing.T) {
				sidecar, others := patient, besidePatient
				if instance.Waited {
					sidecar, others = impatient, besideImpatient
				}
				bad := load.Dial(t, sidecar.Outbound, grpc.WithAuthority(serviceOf(badService, i)), grpc.WithDisableRetry())
				faceAlone(t, bad, instance, running[i])
				mixed := load.Dial(t, sidecar.Outbound, grpc.WithAuthority(serviceOf(mixedService, i)), grpc.WithDisableRetry())
				faceBesideAGoodOne(t, mixed, instance)
				others.Check(t, "while an instance "+instance.Name)
				// The sidecar goes on trying, and would be attacked again and again.
				running[i].Stop()
			})
		})
	}
	facing.Wait()
	besidePatient.End(t)
	besideImpatient.End(t)
}

func serviceOf(kind string, i int) string {
	return kind + "-" + string(rune('a'+i/26/26)) + string(rune('a'+i/26%26)) + string(rune('a'+i%26))
}

// faceAlone makes RPCs to a service whose only instance is bad, and looks how they
// end, and how the connection does.
func faceAlone(t *testing.T, conn *grpc.ClientConn, instance attack.Instance, running *attack.Running) {
	t.Helper()

	errs := callAtOnce(t, conn, instance, 5)
	for _, err := range errs {
		judge(t, err, instance, running.Address)
	}
	if len(instance.Ends) > 0 {
		select {
		case <-running.Away():
		case <-time.After(patience / 3):
			t.Errorf("the sidecar does not end the connection; RPCs ended with %v", errs)
		}
		for code := range running.Ends() {
			if !slices.Contains(instance.Ends, code) {
				t.Errorf("the sidecar ended the connection with %v, want %v", code, instance.Ends)
			}
		}
	} else if ends := running.Ends(); len(ends) > 0 {
		t.Logf("the sidecar ended connections with %v", ends)
	}
	if most := 100; running.Connections() > most {
		t.Errorf("the sidecar made %d connections for 5 RPCs, want at most %d", running.Connections(), most)
	}
}

// judge looks at the end of an RPC to a bad instance.
func judge(t *testing.T, err error, instance attack.Instance, address string) {
	t.Helper()

	code := status.Code(err)
	if len(instance.Codes) > 0 && !slices.Contains(instance.Codes, code) {
		t.Errorf("an RPC ended with %v, want one of %v", err, instance.Codes)

		return
	}
	// Where its own deadline passes, the client does not wait for the sidecar's word.
	if err == nil || !instance.Own || code == codes.DeadlineExceeded {
		return
	}
	if message := status.Convert(err).Message(); !strings.Contains(message, address) || !strings.Contains(message, instance.Says) {
		t.Errorf("an RPC ended with %q, want one that names %s and says %q", message, address, instance.Says)
	}
}

// faceBesideAGoodOne makes RPCs to a service that has a good instance, too, and
// looks how many fail.
func faceBesideAGoodOne(t *testing.T, conn *grpc.ClientConn, instance attack.Instance) {
	t.Helper()

	const atOnce, rounds, tries = 4, 3, 5
	some := func(rounds int) (failed int, last error) {
		for range rounds {
			for _, err := range callAtOnce(t, conn, instance, atOnce) {
				if err != nil {
					failed, last = failed+1, err
				}
			}
		}

		return failed, last
	}
	// Where connecting to the good one takes long, RPCs go to the other.
	if !instance.Elsewhere {
		await(t, func() bool { failed, _ := some(1); return failed < atOnce }, "an RPC that ends well at the good instance")
	}
	const made = atOnce * rounds
	most := made / 2 // the good one has its half of them
	if instance.Elsewhere {
		most = 0
	}
	for try := 1; ; try++ {
		failed, last := some(rounds)
		if failed <= most {
			return
		}
		if try == tries || instance.Elsewhere {
			t.Errorf("%d of %d RPCs failed though there is a good instance, want at most %d, the last: %v", failed, made, most, last)

			return
		}
		// On a busy machine short deadlines pass at the good one, too.
		t.Logf("%d of %d RPCs failed within %v, the last: %v", failed, made, instance.Deadline, last)
		instance.Deadline *= 2
	}
}

// callAtOnce makes RPCs as the instance wants them, and returns their errors.
func callAtOnce(t *testing.T, conn *grpc.ClientConn, instance attack.Instance, count int) []error {
	t.Helper()

	errs := make([]error, count)
	var calling sync.WaitGroup
	for i := range errs {
		calling.Go(func() { errs[i] = call(t.Context(), conn, instance) })
	}
	calling.Wait()

	return errs
}

// call makes one RPC as the instance wants it.
func call(ctx context.Context, conn *grpc.ClientConn, instance attack.Instance) error {
	ctx, cancel := context.WithTimeout(ctx, instance.Deadline)
	defer cancel()

	client := testpb.NewTestServiceClient(conn)
	if instance.Request != attack.Open {
		request := &testpb.SimpleRequest{}
		if instance.Request == attack.Upload {
			request.Payload = &testpb.Payload{Body: make([]byte, 1<<20)}
		}
		_, err := client.UnaryCall(ctx, request)

		return err
	}

	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for range 3 {
		if err := stream.Send(&testpb.StreamingOutputCallRequest{}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return ignoreEnd(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	_, err = stream.Recv()

	return ignoreEnd(err)
}

func ignoreEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}

	return err
}
