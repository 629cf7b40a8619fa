package meshreflect_test

import (
	"strings"
	"testing"

	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// TestVersionsAreTheSameOnTheWire is what lets the messages of v1 stand for
// those of v1alpha.
func TestVersionsAreTheSameOnTheWire(t *testing.T) {
	t.Parallel()
	definitions := func(file protoreflect.FileDescriptor) string {
		f := protodesc.ToFileDescriptorProto(file)
		f.Name, f.Options = nil, nil
		text := prototext.Format(proto.Message(f))
		return strings.ReplaceAll(text, string(file.Package()), "PACKAGE")
	}
	now := definitions(v1.File_grpc_reflection_v1_reflection_proto)
	alpha := definitions(grpc_reflection_v1alpha.File_grpc_reflection_v1alpha_reflection_proto)
	if now != alpha {
		t.Errorf("the versions differ:\n%s\n%s", now, alpha)
	}
}
