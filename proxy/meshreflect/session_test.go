package meshreflect_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// mixture is one service of each kind that is met.
func mixture() []*app {
	return []*app{
		greeter(),
		orders(),
		{name: "new", v1: true, files: []*descriptorpb.FileDescriptorProto{file("new.proto", "n", "New", nil, "M")}},
		{name: "old", alpha: true, files: []*descriptorpb.FileDescriptorProto{file("old.proto", "o", "Old", nil, "M")}},
		{name: "twin", v1: true, files: greeter().files},
		{name: "bare"},
		{name: "dead", dead: errDead},
		{name: "hung", v1: true, handle: hang},
	}
}

func TestListsTheWholeMeshOnce(t *testing.T) {
	inBubble(t, mixture(), func(t *testing.T, m *mesh) {
		want := withOwn("helloworld.Greeter", "n.New", "o.Old", "shop.Orders")
		start := time.Now()
		c := m.dial(t)
		if got := c.list(); !slices.Equal(got, want) {
			t.Errorf("listed %v, want %v", got, want)
		}
		if took := time.Since(start); took > timeout {
			t.Errorf("a hung service holds the list up for %v", took)
		}
		c.close()

		// Old clients speak v1alpha, whose messages are the same on the wire.
		stream, err := m.conn.NewStream(t.Context(), &v1.ServerReflection_ServiceDesc.Streams[0],
			"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
		if err != nil {
			t.Fatal(err)
		}
		c = &client{t, &grpc.GenericClientStream[v1.ServerReflectionRequest, v1.ServerReflectionResponse]{ClientStream: stream}}
		if got := c.list(); !slices.Equal(got, want) {
			t.Errorf("in v1alpha %v are listed", got)
		}
		c.close()
	})
}

// TestDescribesAllThatIsListed is "grpcurl describe" without a name.
func TestDescribesAllThatIsListed(t *testing.T) {
	inBubble(t, mixture(), func(t *testing.T, m *mesh) {
		c := m.dial(t)
		for _, name := range c.list() {
			if _, ok := c.describe(name).(protoreflect.ServiceDescriptor); !ok {
				t.Errorf("%s is described as something other than a service", name)
			}
		}
		c.close()
		for _, name := range []string{"greeter", "orders", "new", "old"} {
			if n := m.apps[name].canceled.Load(); n > 0 {
				t.Errorf("%d of %s's reflection streams were not ended in good order", n, name)
			}
		}
		c = m.dial(t)
		for _, symbol := range []string{"helloworld.Greeter.Call", "shop.Order", "common.Currency", "n.M", "o.Old.Call"} {
			c.describe(symbol)
		}
		c.close()
	})
}

func TestAnEmptyMeshReflectsReflection(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, m *mesh) {
		c := m.dial(t)
		if got := c.list(); !slices.Equal(got, ownNames) {
			t.Errorf("listed %v", got)
		}
		for _, name := range ownNames {
			c.describe(name)
		}
		c.describe("grpc.reflection.v1.ServerReflectionRequest")
		if got := c.files(c.ask(byName("grpc/reflection/v1/reflection.proto"))); got[0].GetPackage() != "grpc.reflection.v1" {
			t.Errorf("file by name: %v", got)
		}
		numbers := c.ask(allExtensions("grpc.reflection.v1.ServerReflectionRequest"))
		if numbers.GetAllExtensionNumbersResponse() == nil {
			t.Errorf("extension numbers: %v", numbers)
		}
		wantError(t, c.ask(extension("grpc.reflection.v1.ServerReflectionRequest", 9)), codes.NotFound)
		wantError(t, c.ask(bySymbol("helloworld.Greeter")), codes.NotFound, `the symbol "helloworld.Greeter"`)
		c.close()
	})
}

// TestStaysWithTheServiceOfTheSymbol has two services whose files of the same
// name differ.
func TestStaysWithTheServiceOfTheSymbol(t *testing.T) {
	inBubble(t, []*app{greeter(), orders()}, func(t *testing.T, m *mesh) {
		c := m.dial(t)
		for range 2 {
			c.ask(bySymbol("helloworld.Greeter"))
			if got := firstMessage(c.files(c.ask(byName("common.proto")))); got != "Salutation" {
				t.Errorf("after greeter's symbol, common.proto has %s", got)
			}
			c.ask(bySymbol("shop.Orders"))
			if got := firstMessage(c.files(c.ask(byName("common.proto")))); got != "Money" {
				t.Errorf("after orders' symbol, common.proto has %s", got)
			}
		}
		// A symbol in a file of that name at both, and of neither's service.
		c.ask(bySymbol("shop.Orders.Call"))
		c.ask(bySymbol("common.Salutation")) // only greeter has it
		if got := firstMessage(c.files(c.ask(byName("common.proto")))); got != "Salutation" {
			t.Errorf("after greeter's message, common.proto has %s", got)
		}
		// One that just the other has is found there, and moves nothing.
		c.files(c.ask(byName("orders.proto")))
		if got := firstMessage(c.files(c.ask(byName("common.proto")))); got != "Salutation" {
			t.Errorf("after orders' file, common.proto has %s", got)
		}
		c.close()
	})
}

// TestOneInstanceAnswersOneCaller counts streams: what follows from a symbol
// is asked on the stream that answered it.
func TestOneInstanceAnswersOneCaller(t *testing.T) {
	inBubble(t, []*app{greeter(), orders()}, func(t *testing.T, m *mesh) {
		c := m.dial(t)
		c.list()
		before := m.apps["greeter"].streams.Load()
		c.describe("helloworld.Greeter")
		c.describe("helloworld.Hello")
		c.ask(byName("common.proto"))
		c.ask(allExtensions("helloworld.Hello"))
		if n := m.apps["greeter"].streams.Load() - before; n != 1 {
			t.Errorf("it took %d streams", n)
		}
		c.close()
	})
}

func TestAnswersTheSameForTheSameQuestion(t *testing.T) {
	slow := orders()
	slow.name = "a-slow"
	slow.handle = answerWith(func(q *v1.ServerReflectionRequest) *v1.ServerReflectionResponse {
		time.Sleep(timeout / 2) // virtual
		if q.GetFileByFilename() == "" {
			return listing("shop.Orders")
		}
		return fileAnswer(orders().files[0])
	})
	last := greeter()
	last.name = "z-hung"
	last.handle = answerOnly(listing("helloworld.Greeter"))
	inBubble(t, []*app{slow, greeter(), last}, func(t *testing.T, m *mesh) {
		for range 3 {
			c := m.dial(t)
			c.list()
			start := time.Now()
			if got := firstMessage(c.files(c.ask(byName("common.proto")))); got != "Money" {
				t.Errorf("not the first service's common.proto, but one with %s", got)
			}
			if took := time.Since(start); took > timeout*3/4 {
				t.Errorf("services behind the first are waited for: %v", took)
			}
			c.close()
		}
	})
}

func TestNotFoundSaysWhoWasAsked(t *testing.T) {
	inBubble(t, mixture(), func(t *testing.T, m *mesh) {
		c := m.dial(t)
		wantError(t, c.ask(bySymbol("no.Such")), codes.NotFound, `the symbol "no.Such"`,
			"asked: greeter, new, old, orders, twin", "without reflection: bare",
			"no answer from: dead (no instance of it may take an RPC), hung (no answer within 2s)")
		wantError(t, c.ask(byName("no.proto")), codes.NotFound, `the file "no.proto"`, "asked: greeter")
		wantError(t, c.ask(extension("no.Such", 7)), codes.NotFound, `extension 7 of "no.Such"`)
		wantError(t, c.ask(allExtensions("no.Such")), codes.NotFound, `the type "no.Such"`)
		wantError(t, c.ask(&v1.ServerReflectionRequest{}), codes.InvalidArgument)
		c.close()
	})
}

func TestNobodyAnsweringIsUnavailable(t *testing.T) {
	inBubble(t, []*app{{name: "dead", dead: errDead}, {name: "bare"}}, func(t *testing.T, m *mesh) {
		c := m.dial(t)
		wantError(t, c.ask(bySymbol("helloworld.Greeter")), codes.Unavailable, "no answer from: dead")
		c.close()
	})
}

// TestErrorsOfManyServicesStayReadable has a mesh fail in every way at once.
func TestErrorsOfManyServicesStayReadable(t *testing.T) {
	apps := []*app{
		{name: "z-unreadable", dead: errors.New("\xff" + strings.Repeat("no ", 1000))},
		{name: "z-denying", v1: true, handle: func(reflectionStream) error {
			return status.Error(codes.PermissionDenied, "not you")
		}},
	}
	for i := range 30 {
		apps = append(apps, &app{name: fmt.Sprintf("bare%02d", i)})
	}
	inBubble(t, apps, func(t *testing.T, m *mesh) {
		c := m.dial(t)
		answer := c.ask(bySymbol("no.Such"))
		wantError(t, answer, codes.Unavailable, "bare19 and 10 more", "z-denying (PERMISSION_DENIED: not you)", "z-unreadable (\ufffdno no")
		if n := len(answer.GetErrorResponse().GetErrorMessage()); n > 700 {
			t.Errorf("the message has %d bytes", n)
		}
		c.close()
	})
}

func TestUnknownMeshIsUnavailable(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, m *mesh) {
		c := m.dial(t)
		list := &v1.ServerReflectionRequest{MessageRequest: &v1.ServerReflectionRequest_ListServices{}}
		wantError(t, c.ask(list), codes.Unavailable, "the agent is away")
		wantError(t, c.ask(bySymbol("helloworld.Greeter")), codes.Unavailable, "the agent is away")
		c.close()
	}, func(m *mesh) {
		m.services = func(context.Context) ([]string, error) { return nil, errors.New("the agent is away") }
	})
}

// TestKnownOwnersAreAskedAlone says that a registry which knows who answers a
// gRPC service spares the rest of the mesh.
func TestKnownOwnersAreAskedAlone(t *testing.T) {
	inBubble(t, mixture(), func(t *testing.T, m *mesh) {
		c := m.dial(t)
		c.describe("helloworld.Greeter")
		c.describe("helloworld.Greeter.Call")
		c.close()
		for name, a := range m.apps {
			if n := a.streams.Load(); (n > 0) != (name == "greeter") {
				t.Errorf("%s was asked %d times", name, n)
			}
		}
		// What the registry does not know is looked for as ever.
		c = m.dial(t)
		c.describe("shop.Orders")
		c.close()
	}, func(m *mesh) {
		m.answering = func(_ context.Context, name string) ([]string, error) {
			if name == "helloworld.Greeter" {
				return []string{"greeter"}, nil
			}
			return nil, nil
		}
	})
}

func TestExtensions(t *testing.T) {
	extended := file("extended.proto", "ext", "", nil, "Base")
	extended.Syntax = new("proto2")
	extended.MessageType[0].ExtensionRange = []*descriptorpb.DescriptorProto_ExtensionRange{{Start: new(int32(100)), End: new(int32(200))}}
	extension17 := file("extension.proto", "ext", "Svc", []string{"extended.proto"}, "M")
	extension17.Syntax = new("proto2")
	extension17.Extension = []*descriptorpb.FieldDescriptorProto{{
		Name: new("more"), Number: new(int32(117)), Extendee: new(".ext.Base"),
		Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), Type: descriptorpb.FieldDescriptorProto_TYPE_INT32.Enum(),
	}}
	a := &app{name: "z", v1: true, files: []*descriptorpb.FileDescriptorProto{extended, extension17}}
	inBubble(t, []*app{greeter(), a}, func(t *testing.T, m *mesh) {
		c := m.dial(t)
		for range 2 { // with and without a current service that knows
			numbers := c.ask(allExtensions("ext.Base")).GetAllExtensionNumbersResponse()
			if !slices.Equal(numbers.GetExtensionNumber(), []int32{117}) || numbers.GetBaseTypeName() != "ext.Base" {
				t.Errorf("the numbers are %v", numbers)
			}
			if got := c.files(c.ask(extension("ext.Base", 117))); got[0].GetName() != "extension.proto" {
				t.Errorf("the extension is in %s", got[0].GetName())
			}
			wantError(t, c.ask(extension("ext.Base", 118)), codes.NotFound)
			c.describe("ext.Svc")
		}
		c.close()
	})
}

// TestConversationThatBrokeIsBegunAgain has a service end its stream after
// each answer, as one does that is restarted between two questions.
func TestConversationThatBrokeIsBegunAgain(t *testing.T) {
	a := greeter()
	a.handle = func(stream reflectionStream) error {
		if q, err := stream.Recv(); err == nil {
			if q.GetFileContainingSymbol() != "" {
				return stream.Send(fileAnswer(a.files[1]))
			}
			if q.GetFileByFilename() != "" {
				return stream.Send(fileAnswer(a.files[0]))
			}
			return stream.Send(listing("helloworld.Greeter"))
		}
		return nil
	}
	inBubble(t, []*app{a}, func(t *testing.T, m *mesh) {
		c := m.dial(t)
		for range 3 {
			c.describe("helloworld.Greeter")
		}
		c.close()
	})
}

func TestIdleConversationIsClosed(t *testing.T) {
	inBubble(t, []*app{greeter()}, func(t *testing.T, m *mesh) {
		c := m.dial(t)
		c.describe("helloworld.Greeter")
		synctest.Wait()
		if n := m.apps["greeter"].open.Load(); n != 1 {
			t.Errorf("%d streams are open, want 1", n)
		}
		time.Sleep(31 * time.Second) // virtual
		synctest.Wait()
		if n := m.apps["greeter"].open.Load(); n != 0 {
			t.Errorf("%d streams are open still", n)
		}
		c.describe("helloworld.Greeter")
		c.close()
	})
}

func TestCallerThatLeavesIsNotWaitedFor(t *testing.T) {
	inBubble(t, []*app{{name: "hung", v1: true, handle: hang}}, func(t *testing.T, m *mesh) {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := v1.NewServerReflectionClient(m.conn).ServerReflectionInfo(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(bySymbol("helloworld.Greeter")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it is being asked
		if n := m.apps["hung"].open.Load(); n != 1 {
			t.Fatalf("%d streams are open, want 1", n)
		}
		start := time.Now()
		cancel()
		synctest.Wait()
		if n := m.apps["hung"].open.Load(); n != 0 || time.Since(start) > 0 {
			t.Errorf("%d streams are open after %v", n, time.Since(start))
		}
	})
}

func TestBoundsOnCallers(t *testing.T) {
	inBubble(t, []*app{greeter()}, func(t *testing.T, m *mesh) {
		c := m.dial(t)
		answer := c.ask(bySymbol(strings.Repeat("x", 5000)))
		wantError(t, answer, codes.InvalidArgument)
		if proto.Size(answer) > 1000 {
			t.Errorf("a long question is answered with %d bytes", proto.Size(answer))
		}
		second := m.dial(t)
		second.list()
		third := m.dial(t)
		if _, err := third.stream.Recv(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a third caller of two gets %v", err)
		}
		second.close()
		synctest.Wait()
		third = m.dial(t)
		third.list()
		third.close()
		c.close()
	}, func(m *mesh) { m.opts.MaxSessions = 2 })
}

// Other bounds hold where they are set: on a question, on an answer, on what is
// remembered of a service.
func TestBoundsAreSet(t *testing.T) {
	inBubble(t, []*app{greeter()}, func(t *testing.T, m *mesh) {
		c := m.dial(t)
		wantError(t, c.ask(bySymbol(strings.Repeat("x", 101))), codes.InvalidArgument, "longer than 100 bytes")
		c.close()
		if _, err := m.Lists(t.Context(), "greeter"); err == nil || !strings.Contains(err.Error(), "more than 10 bytes of names") {
			t.Errorf("a list that is too long: %v", err)
		}
	}, func(m *mesh) { m.opts.MaxQuestionBytes, m.opts.MaxListBytes = 100, 10 })
	t.Run("answer", func(t *testing.T) {
		inBubble(t, []*app{greeter()}, func(t *testing.T, m *mesh) {
			if _, err := m.Methods(t.Context(), "greeter"); status.Code(errors.Unwrap(err)) != codes.ResourceExhausted {
				t.Errorf("an answer that is too long: %v", err)
			}
		}, func(m *mesh) { m.opts.MaxAnswerBytes = 20 })
	})
}

func TestBoundOnTheWholeAnswer(t *testing.T) {
	var apps []*app
	for i := range 40 {
		apps = append(apps, &app{name: fmt.Sprintf("hung%02d", i), v1: true, handle: hang})
	}
	apps = append(apps, greeter()) // its turn comes early, by its name
	inBubble(t, apps, func(t *testing.T, m *mesh) {
		start := time.Now()
		c := m.dial(t)
		if got := c.list(); !slices.Equal(got, withOwn("helloworld.Greeter")) {
			t.Errorf("listed %v", got)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
		c.close()
	}, func(m *mesh) { m.opts.Concurrency = 2 })
}

func allExtensions(name string) *v1.ServerReflectionRequest {
	return &v1.ServerReflectionRequest{MessageRequest: &v1.ServerReflectionRequest_AllExtensionNumbersOfType{AllExtensionNumbersOfType: name}}
}

func extension(name string, number int32) *v1.ServerReflectionRequest {
	return &v1.ServerReflectionRequest{MessageRequest: &v1.ServerReflectionRequest_FileContainingExtension{
		FileContainingExtension: &v1.ExtensionRequest{ContainingType: name, ExtensionNumber: number},
	}}
}

func listing(names ...string) *v1.ServerReflectionResponse {
	l := new(v1.ListServiceResponse)
	for _, name := range names {
		l.Service = append(l.Service, &v1.ServiceResponse{Name: name})
	}
	return &v1.ServerReflectionResponse{MessageResponse: &v1.ServerReflectionResponse_ListServicesResponse{ListServicesResponse: l}}
}

func fileAnswer(files ...*descriptorpb.FileDescriptorProto) *v1.ServerReflectionResponse {
	f := new(v1.FileDescriptorResponse)
	for _, file := range files {
		b, err := proto.Marshal(file)
		if err != nil {
			panic(err)
		}
		f.FileDescriptorProto = append(f.FileDescriptorProto, b)
	}
	return &v1.ServerReflectionResponse{MessageResponse: &v1.ServerReflectionResponse_FileDescriptorResponse{FileDescriptorResponse: f}}
}

// answerOnly is a handler that answers questions for the list and hangs at
// any other.
func answerOnly(list *v1.ServerReflectionResponse) func(reflectionStream) error {
	return func(stream reflectionStream) error {
		for {
			question, err := stream.Recv()
			if err != nil {
				return ended(err)
			}
			if _, ok := question.GetMessageRequest().(*v1.ServerReflectionRequest_ListServices); !ok {
				return hang(stream)
			}
			if err := stream.Send(list); err != nil {
				return err
			}
		}
	}
}

func wantError(t *testing.T, answer *v1.ServerReflectionResponse, code codes.Code, parts ...string) {
	t.Helper()
	failure := answer.GetErrorResponse()
	if failure == nil {
		t.Errorf("no error, but %v", answer)
		return
	}
	if codes.Code(failure.GetErrorCode()) != code {
		t.Errorf("the error is %v, want %v", codes.Code(failure.GetErrorCode()), code)
	}
	for _, part := range parts {
		if !strings.Contains(failure.GetErrorMessage(), part) {
			t.Errorf("the message lacks %q: %s", part, failure.GetErrorMessage())
		}
	}
}
