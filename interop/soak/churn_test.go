package soak

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pillion-proxy/pillion/interop/fault/exact"
	"github.com/pillion-proxy/pillion/interop/harness"
	"google.golang.org/grpc/codes"
)

// slot is a place at which instances come and go; the address stays.
type slot struct {
	app, sidecar string // addresses; a slot without a sidecar has the first alone
	name         string

	life    *scope // nil while there is no instance
	process *harness.Sidecar
	server  *app
}

func (s *slot) address() string {
	if s.sidecar != "" {
		return s.sidecar
	}

	return s.app
}

func (s *slot) start(a *acting) {
	s.life = newScope(a.t)
	s.server = startApp(s.life, s.name, s.app, a.ledger)
	if s.sidecar != "" {
		s.process = harness.StartSidecar(s.life, harness.Config{
			Binary: a.binary, Service: churnService, App: s.app, InboundListen: s.sidecar,
			Mesh: harness.NewMesh(s.life, nil), Settings: map[string]any{"drain": map[string]any{"timeout": "2s"}},
		})
	}
}

// drain ends the instance as a service manager does.
func (s *slot) drain(a *acting) {
	if s.process != nil {
		s.process.Signal(a.s, syscall.SIGTERM)
		// RPCs that take longer than the drain may are cut off, and that is said.
		if code := s.process.Wait(a.s); code != 0 && !strings.Contains(s.process.Output(), "were cut off") {
			a.s.Errorf("a sidecar ended with %d on SIGTERM:\n%s", code, s.process.Output())
		}
	}
	drained := make(chan struct{})
	go func() {
		s.server.server.GracefulStop()
		close(drained)
	}()
	select {
	case <-drained:
	case <-time.After(2 * time.Second):
	}
	s.stop()
	<-drained
}

// stop ends it as a crash does.
func (s *slot) stop() {
	s.life.end()
	s.life, s.process, s.server = nil, nil, nil
}

// churnInstances has instances, half of them behind sidecars of their own, come,
// go, crash and drain, announced and not.
func churnInstances(a *acting) {
	slots := make([]*slot, 4)
	for i := range slots {
		slots[i] = &slot{name: "churn-" + strconv.Itoa(i), app: harness.FreeAddress(a.s)}
		if i%2 == 0 {
			slots[i].sidecar = harness.FreeAddress(a.s)
		}
	}
	defer func() {
		for _, s := range slots {
			if s.life != nil {
				s.stop()
			}
		}
	}()
	for a.pause(50*time.Millisecond, 800*time.Millisecond) {
		s := slots[a.IntN(len(slots))]
		switch {
		case s.life == nil:
			a.eventf("instances: %s starts", s.name)
			s.start(a)
		case a.IntN(2) == 0:
			a.eventf("instances: %s crashes", s.name)
			s.stop()
		default:
			a.eventf("instances: %s drains", s.name)
			s.drain(a)
		}
		if a.IntN(3) == 0 {
			continue // the registry hears of it later
		}
		var endpoints []harness.Endpoint
		for _, s := range slots {
			if s.life != nil || a.IntN(4) == 0 {
				endpoints = append(endpoints, harness.Endpoint{Address: s.address(), Weight: 1 + a.IntN(5)})
			}
		}
		a.mesh.Set(a.s, churnService, harness.Service{Endpoints: append([]harness.Endpoint{}, endpoints...)})
	}
}

// churnRegistry edits the mesh file, well and badly.
func churnRegistry(a *acting) {
	const names = 40
	added := map[string]bool{}
	defer func() {
		for name := range added {
			a.mesh.Remove(a.s, name)
		}
	}()
	target := startApp(a.s, "added", "", a.ledger).address
	for a.pause(100*time.Millisecond, time.Second) {
		switch a.IntN(4) {
		case 0:
			bad := []string{"", "services: [", "services: {x: {endpoints: [{address: nowhere}]}}", "\x00\xff", "polices: []"}[a.IntN(5)]
			a.eventf("registry: a bad file: %q", bad)
			if bad == "" {
				break // an empty file is a mesh without services
			}
			a.mesh.Replace(a.s, bad)
			a.pause(0, time.Second)
			a.steady(1)
		case 1:
			a.steady(1 + a.IntN(100))
		default:
			name := fmt.Sprintf("added-%d", a.IntN(names))
			if added[name] {
				a.eventf("registry: %s goes", name)
				a.mesh.Remove(a.s, name)
				delete(added, name)
			} else {
				a.eventf("registry: %s comes", name)
				a.mesh.Set(a.s, name, harness.Service{Endpoints: harness.Endpoints(target)})
				added[name] = true
			}
			if a.IntN(2) == 0 {
				a.pause(0, time.Second) // the sidecar knows of it by now
			}
			conn, hangUp := a.dial(a.outbound.Outbound, name)
			a.disturbed(a.ctx, "service that comes and goes", conn, exact.Unary, exact.Shape{}, 5*time.Second,
				codes.OK, codes.Unavailable, codes.Unimplemented, codes.ResourceExhausted, codes.DeadlineExceeded)
			hangUp()
		}
	}
}

// steady changes what does not matter of the steady service.
func (a *acting) steady(weight int) {
	a.mesh.Set(a.s, steadyService, harness.Service{Endpoints: []harness.Endpoint{
		{Address: a.inboundAddress(), Weight: weight, Meta: map[string]string{"version": strconv.Itoa(a.IntN(9))}},
	}})
}
