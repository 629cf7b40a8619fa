package meshreflect

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// errNotAsked is why there is no list of a service when time ran out before
// its turn.
var errNotAsked = errors.New("it was not asked: there was no time left")

// peer is what is remembered of one service.
type peer struct {
	list  list
	until time.Time // when to ask for the list again
	alpha bool      // it speaks v1alpha and not v1
}

// list is the gRPC services that one service of the mesh answers, or why that
// is not known.
type list struct {
	service string
	names   []string // in alphabetical order
	err     error
}

// owns reports whether a symbol is one of the list's gRPC services or a method
// of one.
func (l *list) owns(symbol string) bool {
	return slices.ContainsFunc(l.names, func(name string) bool {
		rest, ok := strings.CutPrefix(symbol, name)
		return ok && (rest == "" || rest[0] == '.')
	})
}

// Lists returns the full names of the gRPC services that one service of the
// mesh says it answers, in alphabetical order; reflection and health, where it
// lists them, are among them. What it said lately is not asked again.
func (m *Mesh) Lists(ctx context.Context, service string) ([]string, error) {
	l := m.listOf(ctx, service)
	if l.err != nil {
		return nil, fmt.Errorf("reflection of service %q: %w", service, l.err)
	}
	return slices.Clone(l.names), nil
}

// lists returns the lists of all services of the mesh, in the order of the
// services' names.
func (m *Mesh) lists(ctx context.Context) ([]list, error) {
	services, err := m.opts.Services(ctx)
	if err != nil {
		return nil, fmt.Errorf("the services of the mesh are not known: %w", err)
	}
	services = slices.Compact(slices.Sorted(slices.Values(services)))
	if len(services) > m.opts.MaxServices {
		return nil, fmt.Errorf("the mesh has %d services, and at most %d are asked for reflection: name the service in :authority",
			len(services), m.opts.MaxServices)
	}
	m.forgetAllBut(services)
	lists := make([]list, len(services))
	for i, service := range services {
		lists[i] = list{service: service, err: errNotAsked}
	}
	m.forEach(ctx, len(services), func(i int) { lists[i] = m.listOf(ctx, services[i]) })
	return lists, nil
}

// listOf returns the list of a service as it was a short while ago.
func (m *Mesh) listOf(ctx context.Context, service string) list {
	m.mu.Lock()
	if p := m.peers[service]; p != nil && time.Now().Before(p.until) {
		defer m.mu.Unlock()
		return p.list
	}
	m.mu.Unlock()

	l := list{service: service}
	c, answer, err := m.converse(ctx, ctx, service, listQuestion())
	if err == nil {
		c.end(ctx)
		l.names, err = namesIn(answer, m.opts.MaxListBytes)
	}
	l.err = err
	if err == nil {
		m.answered(service)
	}

	if ctx.Err() == nil { // else it is no fault of the service's
		m.mu.Lock()
		defer m.mu.Unlock()
		p := m.peerOf(service)
		p.list, p.until = l, time.Now().Add(m.opts.Lifetime)
	}
	return l
}

func listQuestion() *v1.ServerReflectionRequest {
	return &v1.ServerReflectionRequest{MessageRequest: &v1.ServerReflectionRequest_ListServices{ListServices: "*"}}
}

// namesIn returns the names of an answer to listQuestion that are names. It is an
// error where they take more than so many bytes.
func namesIn(answer *v1.ServerReflectionResponse, most int) ([]string, error) {
	if failure := answer.GetErrorResponse(); failure != nil {
		return nil, errorOf(failure)
	}
	var names []string
	size := 0
	for _, s := range answer.GetListServicesResponse().GetService() {
		if name := s.GetName(); protoreflect.FullName(name).IsValid() {
			size += len(name)
			if size > most {
				return nil, fmt.Errorf("it lists more than %d bytes of names", most)
			}
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// peerOf returns what is remembered of a service. m.mu is held.
func (m *Mesh) peerOf(service string) *peer {
	p := m.peers[service]
	if p == nil {
		// Those of the mesh and as many that were only ever asked for by name.
		if len(m.peers) >= 2*m.opts.MaxServices {
			for other := range m.peers {
				delete(m.peers, other)
				break
			}
		}
		p = new(peer)
		m.peers[service] = p
	}
	return p
}

// forgetAllBut forgets the services that have left the mesh.
func (m *Mesh) forgetAllBut(services []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.peers, func(service string, _ *peer) bool {
		_, ok := slices.BinarySearch(services, service)
		return !ok
	})
}

func (m *Mesh) speaksAlpha(service string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[service]
	return p != nil && p.alpha
}

func (m *Mesh) setSpeaksAlpha(service string, alpha bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.peers[service]; p != nil || alpha {
		m.peerOf(service).alpha = alpha
	}
}
