package meshreflect

import (
	"context"
	"fmt"
	"slices"
	"strings"

	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// maxMethods bounds how many methods of one service are taken note of.
const maxMethods = 10_000

// Method is what a service's descriptors say of one method.
type Method struct {
	// FullMethod is "/helloworld.Greeter/SayHello".
	FullMethod string
	// ClientStream and ServerStream say which side may send any number of
	// messages.
	ClientStream, ServerStream bool
}

// Methods asks one service of the mesh for its descriptors and returns the
// methods of all gRPC services that it lists, ordered by FullMethod. A gRPC
// service that it lists but has no descriptor of is left out.
func (m *Mesh) Methods(ctx context.Context, service string) ([]Method, error) {
	ctx, cancel := context.WithTimeout(ctx, m.opts.Timeout)
	defer cancel()
	c, answer, err := m.converse(ctx, ctx, service, listQuestion())
	if err != nil {
		return nil, fmt.Errorf("reflection of service %q: %w", service, err)
	}
	methods, err := c.methods(ctx, answer)
	if err != nil {
		c.abandon()
		return nil, fmt.Errorf("reflection of service %q: %w", service, err)
	}
	c.end(ctx)
	return methods, nil
}

// methods goes on from the answer to listQuestion to the methods.
func (c *conversation) methods(ctx context.Context, listed *v1.ServerReflectionResponse) ([]Method, error) {
	names, err := namesIn(listed, c.opts.MaxListBytes)
	if err != nil {
		return nil, err
	}
	wanted := make(map[string]bool, len(names))
	for _, name := range names {
		wanted[name] = true
	}
	var methods []Method
	for _, name := range names {
		if !wanted[name] { // in the same file as an earlier one
			continue
		}
		answer, err := c.ask(ctx, &v1.ServerReflectionRequest{
			MessageRequest: &v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name},
		})
		if err != nil {
			return nil, err
		}
		for _, encoded := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
			file := new(descriptorpb.FileDescriptorProto)
			if err := proto.Unmarshal(encoded, file); err != nil {
				return nil, fmt.Errorf("the file with %s: %w", name, err)
			}
			methods = appendMethods(methods, file, wanted)
		}
		if len(methods) > maxMethods {
			return nil, fmt.Errorf("it has more than %d methods", maxMethods)
		}
	}
	slices.SortFunc(methods, func(a, b Method) int { return strings.Compare(a.FullMethod, b.FullMethod) })
	return methods, nil
}

// appendMethods appends the methods of those gRPC services of a file that are
// still wanted, after which they no longer are.
func appendMethods(methods []Method, file *descriptorpb.FileDescriptorProto, wanted map[string]bool) []Method {
	for _, s := range file.GetService() {
		name := s.GetName()
		if file.GetPackage() != "" {
			name = file.GetPackage() + "." + name
		}
		if !wanted[name] {
			continue
		}
		wanted[name] = false
		for _, method := range s.GetMethod() {
			methods = append(methods, Method{
				FullMethod:   "/" + name + "/" + method.GetName(),
				ClientStream: method.GetClientStreaming(),
				ServerStream: method.GetServerStreaming(),
			})
		}
	}
	return methods
}
