package meshreflect_test

import (
	"slices"
	"strings"
	"testing"

	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/pillion-proxy/pillion/proxy/meshreflect"
)

// chat has a method of each kind in one service, and another service in the
// same file.
func chat() *descriptorpb.FileDescriptorProto {
	f := file("chat.proto", "chat", "Chat", nil, "M")
	for name, streams := range map[string][2]bool{"Up": {true, false}, "Down": {false, true}, "Both": {true, true}} {
		f.Service[0].Method = append(f.Service[0].Method, &descriptorpb.MethodDescriptorProto{
			Name: new(name), InputType: new(".chat.M"), OutputType: new(".chat.M"),
			ClientStreaming: new(streams[0]), ServerStreaming: new(streams[1]),
		})
	}
	f.Service = append(f.Service, proto.CloneOf(f.Service[0]))
	f.Service[1].Name = new("Admin")
	f.Service[1].Method = f.Service[1].Method[:1]
	return f
}

func TestMethods(t *testing.T) {
	for _, alpha := range []bool{false, true} {
		a := &app{name: "chat", v1: !alpha, alpha: alpha, files: append(greeter().files, chat())}
		name := "v1"
		if alpha {
			name = "v1alpha"
		}
		t.Run(name, func(t *testing.T) {
			inBubble(t, []*app{a}, func(t *testing.T, m *mesh) {
				got, err := m.Methods(t.Context(), "chat")
				want := []meshreflect.Method{
					{FullMethod: "/chat.Admin/Call"},
					{FullMethod: "/chat.Chat/Both", ClientStream: true, ServerStream: true},
					{FullMethod: "/chat.Chat/Call"},
					{FullMethod: "/chat.Chat/Down", ServerStream: true},
					{FullMethod: "/chat.Chat/Up", ClientStream: true},
					{FullMethod: "/grpc.reflection." + name + ".ServerReflection/ServerReflectionInfo", ClientStream: true, ServerStream: true},
					{FullMethod: "/helloworld.Greeter/Call"},
				}
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("got %v, %v; want %v", got, err, want)
				}
				if n := a.canceled.Load(); n > 0 {
					t.Errorf("%d streams were not ended in good order", n)
				}
			})
		})
	}
}

func TestMethodsOfHostileServices(t *testing.T) {
	garbage := fileAnswer(chat())
	garbage.GetFileDescriptorResponse().FileDescriptorProto[0] = []byte("\xff\xff\xff")
	huge := file("huge.proto", "chat", "Chat", nil, "M")
	for range 10_001 {
		huge.Service[0].Method = append(huge.Service[0].Method, &descriptorpb.MethodDescriptorProto{Name: new("m")})
	}
	rootless := chat()
	rootless.Package = nil
	for name, test := range map[string]struct {
		answer *v1.ServerReflectionResponse // to any question but the list
		names  []string
		err    string
	}{
		"nothing of what it lists": {errorAnswer(5, "no"), nil, ""},
		"garbage":                  {garbage, nil, "the file with chat.Chat"},
		"too many methods":         {fileAnswer(huge), nil, "more than 10000 methods"},
		"services that it does not list": {fileAnswer(chat(), chat()),
			[]string{"/chat.Chat/Both", "/chat.Chat/Call", "/chat.Chat/Down", "/chat.Chat/Up"}, ""},
		"no package": {fileAnswer(rootless), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := &app{name: "bad", v1: true, handle: answerWith(func(q *v1.ServerReflectionRequest) *v1.ServerReflectionResponse {
				if _, ok := q.GetMessageRequest().(*v1.ServerReflectionRequest_ListServices); ok {
					return listing("chat.Chat")
				}
				return test.answer
			})}
			inBubble(t, []*app{a}, func(t *testing.T, m *mesh) {
				methods, err := m.Methods(t.Context(), "bad")
				var names []string
				for _, method := range methods {
					names = append(names, method.FullMethod)
				}
				if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
					t.Errorf("the error is %v, want one with %q", err, test.err)
				}
				if !slices.Equal(names, test.names) {
					t.Errorf("the methods are %v, want %v", names, test.names)
				}
			})
		})
	}
}

func TestMethodsOfAServiceThatFails(t *testing.T) {
	inBubble(t, []*app{{name: "hung", v1: true, handle: hang}, {name: "later", v1: true, handle: answerOnly(listing("a.B"))}}, func(t *testing.T, m *mesh) {
		for _, service := range []string{"hung", "later"} {
			_, err := m.Methods(t.Context(), service)
			if err == nil || !strings.Contains(err.Error(), `reflection of service "`+service+`": no answer within 2s`) {
				t.Errorf("%s: %v", service, err)
			}
		}
	})
}
