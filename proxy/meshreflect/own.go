package meshreflect

import (
	"strings"

	"google.golang.org/grpc/codes"
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// ownNames are the services that a Mesh itself answers. It lists them even
// where no service of the mesh does, so it must be able to describe them.
var ownNames = []string{
	v1.ServerReflection_ServiceDesc.ServiceName,
	grpc_reflection_v1alpha.ServerReflection_ServiceDesc.ServiceName,
}

// ownFiles are the files that define them. They import nothing.
var ownFiles = func() *protoregistry.Files {
	files := new(protoregistry.Files)
	for _, file := range []protoreflect.FileDescriptor{
		v1.File_grpc_reflection_v1_reflection_proto,
		grpc_reflection_v1alpha.File_grpc_reflection_v1alpha_reflection_proto,
	} {
		if err := files.RegisterFile(file); err != nil {
			panic(err) // both are in protobuf's registry already, so they do not collide
		}
	}
	return files
}()

// answerAboutOwn answers a question about reflection itself. It returns nil if
// the question is about something else.
func answerAboutOwn(question *v1.ServerReflectionRequest) *v1.ServerReflectionResponse {
	switch q := question.GetMessageRequest().(type) {
	case *v1.ServerReflectionRequest_FileByFilename:
		if file, err := ownFiles.FindFileByPath(q.FileByFilename); err == nil {
			return answerWithFile(question, file)
		}
	case *v1.ServerReflectionRequest_FileContainingSymbol:
		if d, err := ownFiles.FindDescriptorByName(protoreflect.FullName(q.FileContainingSymbol)); err == nil {
			return answerWithFile(question, d.ParentFile())
		}
	case *v1.ServerReflectionRequest_FileContainingExtension:
		if ownMessage(q.FileContainingExtension.GetContainingType()) {
			return answerWithError(question, codes.NotFound, "reflection's messages have no extensions")
		}
	case *v1.ServerReflectionRequest_AllExtensionNumbersOfType:
		if ownMessage(q.AllExtensionNumbersOfType) {
			return &v1.ServerReflectionResponse{
				ValidHost: question.GetHost(), OriginalRequest: question,
				MessageResponse: &v1.ServerReflectionResponse_AllExtensionNumbersResponse{
					AllExtensionNumbersResponse: &v1.ExtensionNumberResponse{BaseTypeName: q.AllExtensionNumbersOfType},
				},
			}
		}
	}
	return nil
}

func ownMessage(name string) bool {
	_, err := ownFiles.FindDescriptorByName(protoreflect.FullName(name))
	return err == nil
}

func answerWithFile(question *v1.ServerReflectionRequest, file protoreflect.FileDescriptor) *v1.ServerReflectionResponse {
	b, err := proto.Marshal(protodesc.ToFileDescriptorProto(file))
	if err != nil {
		return answerWithError(question, codes.Internal, err.Error())
	}
	return &v1.ServerReflectionResponse{
		ValidHost: question.GetHost(), OriginalRequest: question,
		MessageResponse: &v1.ServerReflectionResponse_FileDescriptorResponse{
			FileDescriptorResponse: &v1.FileDescriptorResponse{FileDescriptorProto: [][]byte{b}},
		},
	}
}

// answerWithError is an answer that is an error. The message may quote what
// other servers wrote.
func answerWithError(question *v1.ServerReflectionRequest, code codes.Code, message string) *v1.ServerReflectionResponse {
	return &v1.ServerReflectionResponse{
		ValidHost: question.GetHost(), OriginalRequest: question,
		MessageResponse: &v1.ServerReflectionResponse_ErrorResponse{
			ErrorResponse: &v1.ErrorResponse{ErrorCode: int32(code), ErrorMessage: strings.ToValidUTF8(message, "\uFFFD")},
		},
	}
}
