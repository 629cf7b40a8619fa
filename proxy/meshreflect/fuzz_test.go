package meshreflect

import (
	"slices"
	"strings"
	"testing"

	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// FuzzNames lists any answer at all, and expects names that are names, in
// order, each once and not too many.
func FuzzNames(f *testing.F) {
	const maxListBytes = 1000
	for _, name := range []string{"", "a.B", "a,b", strings.Repeat("a", maxListBytes+1)} {
		answer := &v1.ServerReflectionResponse{MessageResponse: &v1.ServerReflectionResponse_ListServicesResponse{
			ListServicesResponse: &v1.ListServiceResponse{Service: []*v1.ServiceResponse{{Name: name}, {Name: "a.B"}}},
		}}
		b, err := proto.Marshal(answer)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		answer := new(v1.ServerReflectionResponse)
		if proto.Unmarshal(b, answer) != nil {
			return
		}
		names, err := namesIn(answer, maxListBytes)
		if err != nil && names != nil {
			t.Errorf("%d names beside the error %v", len(names), err)
		}
		if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
			t.Errorf("not in order, or not each once: %q", names)
		}
		for _, name := range names {
			if !protoreflect.FullName(name).IsValid() {
				t.Errorf("%q is no name", name)
			}
		}
		if n := len(strings.Join(names, "")); n > maxListBytes {
			t.Errorf("%d bytes of names", n)
		}
	})
}

// FuzzMethods reads any file at all, and expects the methods of the wanted
// service alone, and those once.
func FuzzMethods(f *testing.F) {
	b, err := proto.Marshal(protodesc.ToFileDescriptorProto(v1.File_grpc_reflection_v1_reflection_proto))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, ownNames[0])
	f.Add([]byte{}, "")
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		file := new(descriptorpb.FileDescriptorProto)
		if proto.Unmarshal(b, file) != nil {
			return
		}
		wanted := map[string]bool{name: true}
		methods := appendMethods(nil, file, wanted)
		for _, m := range methods {
			if !strings.HasPrefix(m.FullMethod, "/"+name+"/") {
				t.Errorf("%q is not a method of %q", m.FullMethod, name)
			}
		}
		if again := appendMethods(nil, file, wanted); len(methods) > 0 && len(again) > 0 {
			t.Errorf("%d methods, and %d when read again", len(methods), len(again))
		}
	})
}
