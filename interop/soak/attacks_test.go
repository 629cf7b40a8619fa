package soak

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/interop/abuse/attack"
	"github.com/pillion-proxy/pillion/interop/harness"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// attackPorts has clients attack, one after the other. How each is ended is
// proven in interop/abuse.
func attackPorts(a *acting) {
	a.attack(false, 100*time.Millisecond, 500*time.Millisecond)
}

// attackPortsSlowly has those attack who only hold connections.
func attackPortsSlowly(a *acting) {
	a.attack(true, 5*time.Second, time.Second)
}

func (a *acting) attack(slow bool, while, pause time.Duration) {
	for a.ctx.Err() == nil {
		clients := attack.Clients()
		a.Shuffle(len(clients), func(i, j int) { clients[i], clients[j] = clients[j], clients[i] })
		for _, client := range clients {
			if client.Slow != slow {
				continue
			}
			for name, address := range a.ways() {
				if !a.pause(pause/2, pause) {
					return
				}
				a.eventf("attacks: %s, %s", name, client.Name)
				ctx, cancel := context.WithTimeout(a.ctx, while)
				_, err := client.Run(ctx, address)
				// The deadline of the attack shows in the network before it does in ctx.
				if err != nil && ctx.Err() == nil && !timedOut(err) {
					a.s.Errorf("the attacker %q: %v", client.Name, err)
				}
				cancel()
			}
		}
	}
}

func timedOut(err error) bool {
	var timeout net.Error

	return errors.As(err, &timeout) && timeout.Timeout()
}

// callTooMuch makes more RPCs than the sidecars allow, for a moment.
func callTooMuch(a *acting) {
	const connections = 6 // each opens nearly 1,000 streams and holds them for 5s

	client := attack.Client{}
	for _, one := range attack.Clients() {
		if one.Name == "requests without an end" {
			client = one
		}
	}
	if client.Run == nil {
		a.s.Fatal("there is no attack of requests without an end any more")
	}
	for a.pause(time.Second, 2*time.Second) {
		for name, address := range a.ways() {
			end := a.bursts.begin()
			a.eventf("bursts: %s", name)
			ctx, cancel := context.WithTimeout(a.ctx, 2*time.Second)
			var calling sync.WaitGroup
			for range connections {
				calling.Go(func() { _, _ = client.Run(ctx, address) })
			}
			calling.Wait()
			cancel()
			a.awaitRoom()
			end()
			if !a.pause(20*time.Second, 40*time.Second) {
				return
			}
		}
	}
}

// awaitRoom waits until the sidecars have seen that the RPCs of a burst are over.
func (a *acting) awaitRoom() {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if !slices.ContainsFunc(a.observed(), func(o *observed) bool {
			return o.sample(a.s, a.began).InFlight > mostInbound/2
		}) {
			return
		}
	}
	a.s.Errorf("the RPCs of a burst are still there after %v", patience)
}

// callHostileInstances has instances attack the outbound sidecar, one after the
// other, each for as long as some RPCs to it last.
func callHostileInstances(a *acting) {
	for a.ctx.Err() == nil {
		instances := attack.Instances()
		a.Shuffle(len(instances), func(i, j int) { instances[i], instances[j] = instances[j], instances[i] })
		for _, instance := range instances {
			if !a.pause(100*time.Millisecond, 500*time.Millisecond) {
				return
			}
			a.eventf("hostile: %s", instance.Name)
			a.callHostile(instance)
		}
	}
}

func (a *acting) callHostile(instance attack.Instance) {
	running, err := instance.Start()
	if err != nil {
		a.s.Fatal(err)
	}
	defer running.Stop()
	a.mesh.Set(a.s, hostileService, harness.Service{Endpoints: harness.Endpoints(running.Address)})
	defer a.mesh.Set(a.s, hostileService, harness.Service{Endpoints: []harness.Endpoint{}})

	for page := "/endpoints?service=" + hostileService; !strings.Contains(a.outbound.Get(a.s, page), running.Address); {
		if !a.pause(20*time.Millisecond, 20*time.Millisecond) {
			return
		}
	}
	timeout := min(instance.Deadline, 2*time.Second)
	conn, hangUp := a.dial(a.outbound.Outbound, hostileService)
	defer hangUp()
	var calling sync.WaitGroup
	for range 5 {
		calling.Go(func() {
			ctx, cancel := context.WithTimeout(a.ctx, timeout)
			defer cancel()
			began := time.Now()
			err := hostileCall(ctx, conn, instance.Request)
			var wrong error
			if time.Since(began) > timeout+late {
				wrong = err
			}
			// Which statuses it may be is proven in interop/abuse.
			a.tally.note(a.s, "to hostile instances", status.Code(err), wrong)
		})
	}
	calling.Wait()
}

func hostileCall(ctx context.Context, conn *grpc.ClientConn, request attack.Request) error {
	client := testpb.NewTestServiceClient(conn)
	if request != attack.Open {
		message := &testpb.SimpleRequest{}
		if request == attack.Upload {
			message.Payload = &testpb.Payload{Body: make([]byte, 1<<20)}
		}
		_, err := client.UnaryCall(ctx, message)

		return err
	}
	stream, err := client.FullDuplexCall(ctx)
	for range 3 {
		if err != nil {
			break
		}
		err = exchange(stream)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}

	return err
}
