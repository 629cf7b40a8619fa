package server

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// secretive makes a schema with a secret of each shape.
func secretive(t *testing.T) protoreflect.MessageDescriptor {
	t.Helper()
	field := func(n int32, name string, kind descriptorpb.FieldDescriptorProto_Type, label descriptorpb.FieldDescriptorProto_Label, redact bool) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: proto.String(name), Number: &n, Type: &kind, Label: &label}
		if kind == descriptorpb.FieldDescriptorProto_TYPE_MESSAGE {
			f.TypeName = proto.String(".Secretive")
		}
		if redact {
			f.Options = &descriptorpb.FieldOptions{DebugRedact: proto.Bool(true)}
		}
		return f
	}
	const (
		text     = descriptorpb.FieldDescriptorProto_TYPE_STRING
		raw      = descriptorpb.FieldDescriptorProto_TYPE_BYTES
		number   = descriptorpb.FieldDescriptorProto_TYPE_INT32
		nested   = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
		one      = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
		repeated = descriptorpb.FieldDescriptorProto_LABEL_REPEATED
	)
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("secretive.proto"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("Secretive"), Field: []*descriptorpb.FieldDescriptorProto{
			field(1, "marked", text, one, true),
			field(2, "password", text, one, false),
			field(3, "private_key", raw, one, false),
			field(4, "tokens", text, repeated, false),
			field(5, "token_file", text, one, false),
			field(6, "addresses", text, repeated, false),
			field(7, "name", text, one, false),
			field(8, "token_limit", number, one, false),
			field(9, "below", nested, repeated, false),
		}}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file.Messages().Get(0)
}

func TestRedacted(t *testing.T) {
	t.Parallel()
	schema := secretive(t)
	build := func(marked, password, key, token, address string) *dynamicpb.Message {
		fill := func() *dynamicpb.Message {
			m := dynamicpb.NewMessage(schema)
			fields := schema.Fields()
			set := func(name protoreflect.Name, v protoreflect.Value) { m.Set(fields.ByName(name), v) }
			set("marked", protoreflect.ValueOfString(marked))
			set("password", protoreflect.ValueOfString(password))
			set("private_key", protoreflect.ValueOfBytes([]byte(key)))
			m.Mutable(fields.ByName("tokens")).List().Append(protoreflect.ValueOfString(token))
			set("token_file", protoreflect.ValueOfString("/run/token"))
			list := m.Mutable(fields.ByName("addresses")).List()
			list.Append(protoreflect.ValueOfString("127.0.0.1:8500"))
			list.Append(protoreflect.ValueOfString("unix:///run/app.sock"))
			list.Append(protoreflect.ValueOfString("http://user@host"))
			list.Append(protoreflect.ValueOfString(address))
			set("name", protoreflect.ValueOfString("greeter"))
			set("token_limit", protoreflect.ValueOfInt32(7))
			return m
		}
		m := fill()
		m.Mutable(schema.Fields().ByName("below")).List().Append(protoreflect.ValueOfMessage(fill()))
		return m
	}
	secret := build("hunter2", "hunter2", "hunter2", "hunter2", "http://user:hunter2@host/x")
	want := build(hidden, hidden, hidden, hidden, "http://user:redacted@host/x")
	if got := redacted(secret); !proto.Equal(got, want) {
		t.Errorf("shown is %v, want %v", got, want)
	}
	if empty := dynamicpb.NewMessage(schema); !proto.Equal(redacted(empty), empty) {
		t.Error("an empty message is not shown as empty")
	}
}
