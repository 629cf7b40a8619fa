package mesh

import (
	"context"
	"errors"
	"io"
	"runtime/debug"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

const (
	// helloTimeout is how long a stream may take to say whose it is.
	helloTimeout = 10 * time.Second
	maxHeaders   = 16 << 10
	// maxAnswer is how large an answer is that is taken of the elected sidecar: states
	// have documents in them.
	maxAnswer = 32 << 20
)

// answering answers pillion.mesh.v1. Everything that it is asked is from a stranger until
// it is checked.
type answering struct {
	meshv1.UnimplementedMeshServer
	*Member
}

// newServer makes what answers other sidecars.
func (m *Member) newServer() *grpc.Server {
	recovered := recovery.WithRecoveryHandlerContext(func(_ context.Context, panicked any) error {
		m.o.Logger.Error("control: answering a sidecar panicked", "panic", panicked, "stack", string(debug.Stack()))
		return status.Error(codes.Internal, "control: the call failed; the sidecar's log says more")
	})
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(m.o.Limits.ReportBytes), grpc.MaxHeaderListSize(maxHeaders),
		grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(recovery.UnaryServerInterceptor(recovered)),
		grpc.StreamInterceptor(recovery.StreamServerInterceptor(recovered)),
	)
	meshv1.RegisterMeshServer(server, answering{Member: m})
	return server
}

// elected returns where those report who report on a service.
func (m *Member) elected(service string) (*station, error) {
	s := m.seat(service)
	if st := s.led(); st != nil {
		return st, nil
	}
	who := "as far as it knows, nobody is"
	if s == nil {
		who = "nothing of it runs here"
	} else if now, _ := s.look(); now.leader != nil {
		who = now.leader.GetId() + " at " + now.leader.GetAddress() + " is"
	}
	return nil, status.Errorf(codes.FailedPrecondition, "control: sidecar %s is not elected for service %q: %s", m.o.ID, service, who)
}

// Report implements meshv1.MeshServer.
func (a answering) Report(stream grpc.BidiStreamingServer[meshv1.ReportRequest, meshv1.ReportResponse]) error {
	c, err := a.callerOf(stream.Context())
	if err != nil {
		return err
	}
	done, err := a.busy.stream(c)
	if err != nil {
		return err
	}
	defer done()
	reports := receive(stream, a.o.Limits.ReportsPerSecond)
	timer := time.NewTimer(helloTimeout)
	defer timer.Stop()
	var first received
	select {
	case first = <-reports:
	case <-timer.C:
		return status.Errorf(codes.DeadlineExceeded, "control: there was no hello within %v", helloTimeout)
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
	if first.err != nil {
		return first.err
	}
	hello, err := a.welcome(c, first.report.GetHello())
	if err != nil {
		return err
	}
	st, err := a.elected(hello.GetAbout())
	if err != nil {
		return err
	}
	r := &reporter{hello: hello, caller: c, replaced: make(chan struct{})}
	if err := st.enter(r); err != nil {
		return err
	}
	defer st.leave(r)
	if err := first.take(st, r); err != nil {
		return err
	}
	return converse(stream, st, r, reports)
}

// converse takes reports and says what is decided, until one of both ends it.
func converse(stream grpc.BidiStreamingServer[meshv1.ReportRequest, meshv1.ReportResponse], st *station, r *reporter, reports <-chan received) error {
	said, seq, changed := st.since(0)
	if err := stream.Send(said); err != nil { // also where it is empty: the reporter is heard
		return err
	}
	beat := time.NewTimer(heartbeat)
	defer beat.Stop()
	for {
		say := false
		select {
		case got := <-reports:
			if err := got.take(st, r); err != nil {
				return ended(err)
			}
		case <-changed:
			said, seq, changed = st.since(seq)
			say = true
		case <-beat.C:
			said, say = new(meshv1.ReportResponse), true
		case <-r.replaced:
			return status.Error(codes.AlreadyExists, "control: the same sidecar has begun to report anew")
		case <-st.ended:
			if said, _, _ = st.since(seq); !isBeat(said) {
				_ = stream.Send(said) // and who does not hear it learns it of the store
			}
			return st.why()
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
		if say {
			if err := stream.Send(said); err != nil {
				return err
			}
			beat.Reset(heartbeat)
		}
	}
}

// ended makes nothing of it that a reporter has ended its stream.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// received is a report, or why there is none.
type received struct {
	report *meshv1.ReportRequest
	err    error
}

// take hands a report over that was checked.
func (g received) take(st *station, r *reporter) error {
	if g.err != nil {
		return g.err
	}
	if err := check(g.report); err != nil {
		return err
	}
	r.take(st, g.report)
	return nil
}

// receive reads a stream to its end, no faster than so often in a second.
func receive(stream grpc.BidiStreamingServer[meshv1.ReportRequest, meshv1.ReportResponse], perSecond float64) <-chan received {
	reports := make(chan received)
	go func() {
		pace := newPace(perSecond)
		for {
			report, err := stream.Recv()
			select {
			case reports <- received{report, err}:
			case <-stream.Context().Done():
				return
			}
			if err != nil || !pace.wait(stream.Context(), proto.Size(report)) {
				return
			}
		}
	}()
	return reports
}

// Evidence implements meshv1.MeshServer.
func (a answering) Evidence(ctx context.Context, q *meshv1.EvidenceRequest) (*meshv1.EvidenceResponse, error) {
	return answer(ctx, a.Member, q.GetService(), q.GetName(), "canary", Leading.Evidence)
}

// Results implements meshv1.MeshServer.
func (a answering) Results(ctx context.Context, q *meshv1.ResultsRequest) (*meshv1.ResultsResponse, error) {
	return answer(ctx, a.Member, q.GetService(), q.GetName(), "experiment", Leading.Results)
}

// answer answers another sidecar's question.
func answer[T any](ctx context.Context, m *Member, service, name, kind string, ask func(Leading, string) *T) (*T, error) {
	c, err := m.callerOf(ctx)
	if err != nil {
		return nil, err
	}
	if !isName(service) || !isName(name) {
		return nil, status.Errorf(codes.InvalidArgument, "control: a question about a %s says which service's, and its name", kind)
	}
	if err := m.maySpeak(c, service); err != nil {
		return nil, err
	}
	done, err := m.busy.question()
	if err != nil {
		return nil, err
	}
	defer done()
	st, err := m.elected(service)
	if err != nil {
		return nil, err
	}
	return asked(st, name, kind, ask)
}

// asked asks the one who decides.
func asked[T any](st *station, name, kind string, ask func(Leading, string) *T) (*T, error) {
	var found *T
	if !st.decide(func(l Leading) { found = ask(l, name) }) {
		return nil, status.Error(codes.Unavailable, "control: another sidecar is about to be elected: ask again")
	}
	if found == nil {
		return nil, status.Errorf(codes.NotFound, "control: service %q has no %s %q", st.service, kind, name)
	}
	return found, nil
}
