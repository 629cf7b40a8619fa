package meshreflect_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/reflection"
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/pillion-proxy/pillion/proxy/meshreflect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// app is one service of the mesh as a test wants it: a real gRPC server.
type app struct {
	name   string
	files  []*descriptorpb.FileDescriptorProto
	v1     bool
	alpha  bool
	handle func(reflectionStream) error // instead of real reflection
	dead   error                        // what dialling says

	streams  atomic.Int64 // reflection streams begun
	refused  atomic.Int64 // reflection streams in a version that it does not speak
	canceled atomic.Int64 // reflection streams that ended other than in good order
	open     atomic.Int64
	dialled  atomic.Int64 // connections handed out
	closed   atomic.Int64 // of those, closed

	conn *grpc.ClientConn
}

// closeable is a connection of which it is known whether it was closed.
type closeable struct {
	grpc.ClientConnInterface
	app  *app
	once sync.Once
}

func (c *closeable) Close() error {
	c.once.Do(func() { c.app.closed.Add(1) })
	return nil
}

type reflectionStream = grpc.BidiStreamingServer[v1.ServerReflectionRequest, v1.ServerReflectionResponse]

// mesh is some apps and the Mesh that reflects them.
type mesh struct {
	t         *testing.T
	apps      map[string]*app
	services  func(context.Context) ([]string, error)
	answering func(context.Context, string) ([]string, error)
	opts      meshreflect.Options
	conn      *grpc.ClientConn // to a server that the Mesh is registered with
	*meshreflect.Mesh
}

// inBubble runs a test with a mesh in virtual time.
func inBubble(t *testing.T, apps []*app, test func(t *testing.T, m *mesh), change ...func(*mesh)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &mesh{t: t, apps: make(map[string]*app)}
		var names []string
		for _, a := range apps {
			a.start(t)
			m.apps[a.name] = a
			names = append(names, a.name)
		}
		m.services = func(context.Context) ([]string, error) { return names, nil }
		for _, c := range change {
			c(m)
		}
		m.opts.Services = m.services
		m.opts.Answering = m.answering
		m.opts.Dial = func(_ context.Context, service string) (grpc.ClientConnInterface, error) {
			a := m.apps[service]
			if a == nil {
				return nil, fmt.Errorf("there is no service %q", service)
			}
			if a.dead != nil {
				return nil, a.dead
			}
			a.dialled.Add(1)
			return &closeable{ClientConnInterface: a.conn, app: a}, nil
		}
		m.Mesh = meshreflect.New(m.opts)
		server := grpc.NewServer()
		m.Register(server)
		m.conn = serve(t, server)
		test(t, m)
		for _, a := range apps {
			synctest.Wait()
			if n := a.open.Load(); n > 0 {
				t.Errorf("%d reflection streams of %s are left open", n, a.name)
			}
			if dialled, closed := a.dialled.Load(), a.closed.Load(); closed != dialled {
				t.Errorf("%d of %d connections to %s were closed", closed, dialled, a.name)
			}
		}
	})
}

// serve runs a server in memory until the test is over.
func serve(t *testing.T, server *grpc.Server) *grpc.ClientConn {
	listener := bufconn.Listen(1 << 16)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient("passthrough:///memory",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
	})
	return conn
}

func (a *app) start(t *testing.T) {
	server := grpc.NewServer(
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			a.streams.Add(1)
			a.open.Add(1)
			defer a.open.Add(-1)
			err := handler(srv, stream)
			if err != nil && !errors.Is(err, errUnimplemented) {
				a.canceled.Add(1)
			}
			return err
		}),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
			a.refused.Add(1)
			return errUnimplemented
		}))
	files, types := a.registry(t)
	names := make(serviceNames)
	for _, file := range a.files {
		for _, s := range file.GetService() {
			names[file.GetPackage()+"."+s.GetName()] = grpc.ServiceInfo{}
		}
	}
	opts := reflection.ServerOptions{Services: names, DescriptorResolver: files, ExtensionResolver: types}
	impl := reflection.NewServerV1(opts)
	if a.handle != nil {
		impl = handler{a.handle}
	}
	if a.v1 {
		names["grpc.reflection.v1.ServerReflection"] = grpc.ServiceInfo{}
		v1.RegisterServerReflectionServer(server, impl)
	}
	if a.alpha {
		names["grpc.reflection.v1alpha.ServerReflection"] = grpc.ServiceInfo{}
		grpc_reflection_v1alpha.RegisterServerReflectionServer(server, reflection.NewServer(opts))
	}
	a.conn = serve(t, server)
}

// registry has the app's files and those that the tests' files import.
func (a *app) registry(t *testing.T) (*protoregistry.Files, *protoregistry.Types) {
	files, types := new(protoregistry.Files), new(protoregistry.Types)
	register := func(file protoreflect.FileDescriptor) {
		if err := files.RegisterFile(file); err != nil {
			t.Fatal(err)
		}
		for i := range file.Extensions().Len() {
			if err := types.RegisterExtension(dynamicpb.NewExtensionType(file.Extensions().Get(i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	register(v1.File_grpc_reflection_v1_reflection_proto)
	register(grpc_reflection_v1alpha.File_grpc_reflection_v1alpha_reflection_proto)
	for _, f := range a.files {
		file, err := protodesc.NewFile(f, files)
		if err != nil {
			t.Fatal(err)
		}
		register(file)
	}
	return files, types
}

type serviceNames map[string]grpc.ServiceInfo

func (s serviceNames) GetServiceInfo() map[string]grpc.ServiceInfo { return s }

type handler struct{ handle func(reflectionStream) error }

func (h handler) ServerReflectionInfo(stream reflectionStream) error { return h.handle(stream) }

// ended is what a handler returns when there is no further question.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// hang is a handler that never answers.
func hang(stream reflectionStream) error {
	<-stream.Context().Done()
	return stream.Context().Err()
}

// answerWith is a handler that answers each question with what answer returns.
func answerWith(answer func(*v1.ServerReflectionRequest) *v1.ServerReflectionResponse) func(reflectionStream) error {
	return func(stream reflectionStream) error {
		for {
			question, err := stream.Recv()
			if err != nil {
				return ended(err)
			}
			if err := stream.Send(answer(question)); err != nil {
				return err
			}
		}
	}
}

// file is a proto file with a message for each of the fields' names, and a
// service, if it is named, with a unary method Call.
func file(path, pkg, service string, imports []string, messages ...string) *descriptorpb.FileDescriptorProto {
	f := &descriptorpb.FileDescriptorProto{
		Name: new(path), Package: new(pkg), Syntax: new("proto3"), Dependency: imports,
	}
	for _, name := range messages {
		f.MessageType = append(f.MessageType, &descriptorpb.DescriptorProto{Name: new(name)})
	}
	if service != "" {
		message := "." + pkg + "." + messages[0]
		f.Service = append(f.Service, &descriptorpb.ServiceDescriptorProto{
			Name: new(service),
			Method: []*descriptorpb.MethodDescriptorProto{
				{Name: new("Call"), InputType: new(message), OutputType: new(message)},
			},
		})
	}
	return f
}

// greeter and orders each have a file "common.proto", and not the same.
func greeter() *app {
	return &app{name: "greeter", v1: true, alpha: true, files: []*descriptorpb.FileDescriptorProto{
		file("common.proto", "common", "", nil, "Salutation"),
		file("greeter.proto", "helloworld", "Greeter", []string{"common.proto"}, "Hello"),
	}}
}

func orders() *app {
	return &app{name: "orders", v1: true, alpha: true, files: []*descriptorpb.FileDescriptorProto{
		file("common.proto", "common", "", nil, "Money", "Currency"),
		file("orders.proto", "shop", "Orders", []string{"common.proto"}, "Order"),
	}}
}

// client asks as grpcurl does.
type client struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[v1.ServerReflectionRequest, v1.ServerReflectionResponse]
}

// dial opens a reflection stream that ends with the test.
func (m *mesh) dial(t *testing.T) *client {
	stream, err := v1.NewServerReflectionClient(m.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &client{t, stream}
}

func (c *client) ask(question *v1.ServerReflectionRequest) *v1.ServerReflectionResponse {
	c.t.Helper()
	if err := c.stream.Send(question); err != nil {
		c.t.Fatal(err)
	}
	answer, err := c.stream.Recv()
	if err != nil {
		c.t.Fatal(err)
	}
	return answer
}

// close ends the stream and waits until the server has, too.
func (c *client) close() {
	c.t.Helper()
	_ = c.stream.CloseSend()
	if answer, err := c.stream.Recv(); err == nil {
		c.t.Errorf("one answer too many: %v", answer)
	}
}

func (c *client) list() []string {
	c.t.Helper()
	answer := c.ask(&v1.ServerReflectionRequest{MessageRequest: &v1.ServerReflectionRequest_ListServices{}})
	if answer.GetListServicesResponse() == nil {
		c.t.Fatalf("the services are not listed: %v", answer.GetErrorResponse())
	}
	var names []string
	for _, s := range answer.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	return names
}

func bySymbol(symbol string) *v1.ServerReflectionRequest {
	return &v1.ServerReflectionRequest{MessageRequest: &v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol}}
}

func byName(name string) *v1.ServerReflectionRequest {
	return &v1.ServerReflectionRequest{MessageRequest: &v1.ServerReflectionRequest_FileByFilename{FileByFilename: name}}
}

// files decodes the files of an answer.
func (c *client) files(answer *v1.ServerReflectionResponse) []*descriptorpb.FileDescriptorProto {
	c.t.Helper()
	if answer.GetFileDescriptorResponse() == nil {
		c.t.Fatalf("no file, but %v", answer)
	}
	var files []*descriptorpb.FileDescriptorProto
	for _, b := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
		f := new(descriptorpb.FileDescriptorProto)
		if err := proto.Unmarshal(b, f); err != nil {
			c.t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// describe finds a symbol with all that its file imports, as a client must
// that is to make a call, and asks for imports one by one as grpcurl does.
func (c *client) describe(symbol string) protoreflect.Descriptor {
	c.t.Helper()
	got := make(map[string]*descriptorpb.FileDescriptorProto)
	var queue []string
	add := func(files []*descriptorpb.FileDescriptorProto) {
		for _, f := range files {
			got[f.GetName()] = f
			queue = append(queue, f.GetDependency()...)
		}
	}
	add(c.files(c.ask(bySymbol(symbol))))
	for ; len(queue) > 0; queue = queue[1:] {
		if got[queue[0]] == nil {
			add(c.files(c.ask(byName(queue[0]))))
		}
	}
	set := new(descriptorpb.FileDescriptorSet)
	for _, f := range got {
		set.File = append(set.File, f)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		c.t.Fatal(err)
	}
	d, err := files.FindDescriptorByName(protoreflect.FullName(symbol))
	if err != nil {
		c.t.Fatalf("%s: %v", symbol, err)
	}
	return d
}

// firstMessage is what tells a greeter's common.proto from that of orders.
func firstMessage(files []*descriptorpb.FileDescriptorProto) string {
	return files[0].GetMessageType()[0].GetName()
}

var (
	errDead          = errors.New("no instance of it may take an RPC")
	errUnimplemented = status.Error(codes.Unimplemented, "unknown service")
)

var ownNames = []string{"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}

func withOwn(names ...string) []string {
	names = append(names, ownNames...)
	slices.Sort(names)
	return names
}

const timeout = 2 * time.Second // ServiceTimeout's default
