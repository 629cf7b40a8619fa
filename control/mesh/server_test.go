package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/identity/identitytest"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// noID is nobody's.
var noID spiffeid.ID

// as is a context of RPCs that the inbound side says come from somebody; "": nobody.
func as(ctx context.Context, id string) context.Context {
	if id == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, wire.HeaderPeer, id)
}

// stranger dials a sidecar as the inbound side would.
func (r *rig) stranger(to *side) meshv1.MeshClient {
	r.t.Helper()
	cc, err := to.connect(&controlv1.Leader{Address: to.address}, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = cc.Close() })
	return meshv1.NewMeshClient(cc)
}

// says begins a stream with reports, and returns how it ends; nil: it is taken.
func says(ctx context.Context, c meshv1.MeshClient, reports ...*meshv1.ReportRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Report(ctx)
	if err != nil {
		return err
	}
	for _, r := range reports {
		_ = stream.Send(r) // what is wrong Recv says
	}
	time.AfterFunc(time.Second, cancel)
	for {
		if _, err := stream.Recv(); err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

func hello(id, service string) *meshv1.ReportRequest {
	return &meshv1.ReportRequest{Hello: &meshv1.Hello{Id: id, Service: service, Process: 1, About: greeter}}
}

func about(c *meshv1.CanaryCounts) *meshv1.ReportRequest {
	return &meshv1.ReportRequest{Canaries: []*meshv1.CanaryCounts{c}}
}

func of(e *meshv1.ExperimentCounts) *meshv1.ReportRequest {
	return &meshv1.ReportRequest{Experiments: []*meshv1.ExperimentCounts{e}}
}

// secured gives a sidecar an identity of this authority's.
func secured(t *testing.T, ca *identitytest.Authority, path string, mode Mode) func(*Options) {
	t.Helper()
	keeper, _ := identitytest.Keeper(t, ca.State(ca.Issue(path)))
	return func(o *Options) { o.Security = &Security{Keeper: keeper, Inbound: mode} }
}

// Who may report, and who may ask.
func TestWhoMayReport(t *testing.T) {
	const consul = "/ns/default/dc/dc1/svc/"
	for name, c := range map[string]struct {
		own  string // of the elected sidecar; "": it has no identity
		mode Mode
		as   string
		of   string
		want codes.Code // of reports
		asks codes.Code
	}{
		"its service":                      {"/svc/a", Strict, "spiffe://mesh.test/svc/web", "web", codes.OK, codes.OK},
		"no service":                       {"/svc/a", Strict, "spiffe://mesh.test/svc/web", "", codes.OK, codes.OK},
		"another's service":                {"/svc/a", Strict, "spiffe://mesh.test/svc/web", "api", codes.PermissionDenied, codes.OK},
		"the elected one's service":        {"/svc/a", Strict, "spiffe://mesh.test/svc/web", "a", codes.PermissionDenied, codes.OK},
		"what is no part of an ID":         {"/svc/a", Strict, "spiffe://mesh.test/svc/web", "web/../a", codes.PermissionDenied, codes.OK},
		"of Consul":                        {consul + "a", Strict, "spiffe://mesh.test" + consul + "web", "web", codes.OK, codes.OK},
		"of Consul in another datacenter":  {consul + "a", Strict, "spiffe://mesh.test/ns/default/dc/dc2/svc/web", "web", codes.OK, codes.OK},
		"of Consul in another namespace":   {consul + "a", Strict, "spiffe://mesh.test/ns/x/dc/dc1/svc/web", "web", codes.PermissionDenied, codes.OK},
		"another trust domain":             {"/svc/a", Strict, "spiffe://other.test/svc/web", "web", codes.PermissionDenied, codes.PermissionDenied},
		"another trust domain, no service": {"/svc/a", Permissive, "spiffe://other.test/svc/web", "", codes.PermissionDenied, codes.PermissionDenied},
		"nobody, where TLS is strict":      {"/svc/a", Strict, "", "web", codes.Unauthenticated, codes.Unauthenticated},
		"nobody, where it is permissive":   {"/svc/a", Permissive, "", "web", codes.OK, codes.OK},
		"nobody, where there is no TLS":    {"", Plaintext, "", "web", codes.OK, codes.OK},
		"who is no ID":                     {"/svc/a", Permissive, "web", "web", codes.Unauthenticated, codes.Unauthenticated},
		"who may not call the app":         {"/svc/a", Strict, "spiffe://mesh.test/svc/refused", "refused", codes.PermissionDenied, codes.PermissionDenied},
		"nobody, where May says so":        {"/svc/a", Permissive, "", "unproven", codes.PermissionDenied, codes.PermissionDenied},
		"who stands beside it":             {"/svc/a", Strict, "spiffe://mesh.test/svc/" + greeter, greeter, codes.OK, codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			ca := identitytest.CA(t, "mesh.test")
			simulated(t, func(t *testing.T, r *rig) {
				s := r.add("elected", func(o *Options) {
					if c.own != "" {
						secured(t, ca, c.own, c.mode)(o)
					}
					o.May = func(peer spiffeid.ID, service string) error {
						if peer.IsZero() && c.of == "unproven" {
							return errors.New("access policy says no")
						}
						if (strings.HasSuffix(peer.Path(), "/refused") || strings.HasSuffix(peer.Path(), "/"+greeter)) && service == greeter {
							return errors.New("access policy says no")
						}
						return nil
					}
				})
				s.Set(greeter, true)
				l := r.elect()
				client, ctx := r.stranger(s), as(t.Context(), c.as)
				err := says(ctx, client, hello("a", c.of), about(&meshv1.CanaryCounts{Name: "new", Canary: &meshv1.GroupCounts{Codes: map[uint32]uint64{0: 9}}}))
				if status.Code(err) != c.want || err != nil && strings.Contains(status.Convert(err).Message(), "\n") {
					t.Errorf("it is told %v", err)
				}
				if rpcs, _ := l.sum(); (rpcs == 9) != (err == nil) {
					t.Errorf("%d RPCs are known", rpcs)
				}
				for _, from := range l.hellos {
					if from.GetId() == "a" && from.GetProcess() == 1 {
						t.Error("who is elected is told the number of a process as it is, which others may claim too")
					}
				}
				if _, err := client.Evidence(ctx, &meshv1.EvidenceRequest{Service: greeter, Name: "new"}); status.Code(err) != c.asks {
					t.Errorf("who asks is told %v", err)
				}
			})
		})
	}
}

// Who proves another identity cannot change what a sidecar has counted, whatever it says
// of its name and process; the same sidecar can, also when another is elected.
func TestCountsAreWhose(t *testing.T) {
	ca := identitytest.CA(t, "mesh.test")
	simulated(t, func(t *testing.T, r *rig) {
		s := r.add("elected", secured(t, ca, "/svc/a", Permissive))
		s.Set(greeter, true)
		l := r.elect()
		client := r.stranger(s)
		count := func(id string, process, n uint64) {
			t.Helper()
			h := &meshv1.ReportRequest{Hello: &meshv1.Hello{Id: "web-1", Process: process, About: greeter}}
			h.Canaries = []*meshv1.CanaryCounts{{Name: "new", Canary: &meshv1.GroupCounts{Codes: map[uint32]uint64{0: n}}}}
			if err := says(as(t.Context(), id), client, h); err != nil {
				t.Error(err)
			}
		}
		count("spiffe://mesh.test/svc/web", 1, 5)
		count("spiffe://mesh.test/svc/other", 1, 100) // another's
		count("", 1, 1000)                            // nobody's
		count("spiffe://mesh.test/svc/web", 2, 10000) // another process'
		count("spiffe://mesh.test/svc/web", 1, 7)     // the same again
		if rpcs, n := l.sum(); rpcs != 11107 || n != 5 {
			t.Errorf("%d RPCs of %d processes are known: %v", rpcs, n, l.rpcs)
		}
	})
}

// What no sidecar says ends the stream, and is not taken.
func TestHostileReports(t *testing.T) {
	long := strings.Repeat("x", 300)
	many := func(n int) map[uint32]uint64 {
		m := map[uint32]uint64{}
		for i := range n {
			m[uint32(i)] = 1
		}
		return m
	}
	units := func(n int, u *meshv1.UnitCounts) (all []*meshv1.UnitCounts) {
		for range n {
			all = append(all, u)
		}
		return all
	}
	empty := new(meshv1.MeasureCounts)
	for name, reports := range map[string][]*meshv1.ReportRequest{
		"no hello":             {about(&meshv1.CanaryCounts{Name: "new"})},
		"no id":                {{Hello: &meshv1.Hello{About: greeter}}},
		"a long id":            {hello(long, "")},
		"a long service":       {hello("a", long)},
		"an id of two lines":   {hello("a\nb", "")},
		"about nothing":        {{Hello: &meshv1.Hello{Id: "a"}}},
		"a canary of no name":  {hello("a", ""), about(&meshv1.CanaryCounts{})},
		"a canary's long name": {hello("a", ""), about(&meshv1.CanaryCounts{Name: long})},
		"a canary's two lines": {hello("a", ""), about(&meshv1.CanaryCounts{Name: "a\nb"})},
		"a long guard":         {hello("a", ""), about(&meshv1.CanaryCounts{Name: "a", Tripped: long})},
		"a long reason":        {hello("a", ""), about(&meshv1.CanaryCounts{Name: "a", Reason: strings.Repeat("x", 2000)})},
		"many statuses":        {hello("a", ""), about(&meshv1.CanaryCounts{Name: "a", Stable: &meshv1.GroupCounts{Codes: many(18)}})},
		"many buckets":         {hello("a", ""), about(&meshv1.CanaryCounts{Name: "a", Canary: &meshv1.GroupCounts{Buckets: many(300)}})},
		"many canaries":        {hello("a", ""), {Canaries: make([]*meshv1.CanaryCounts, 257)}},
		"many experiments":     {hello("a", ""), {Experiments: make([]*meshv1.ExperimentCounts, 257)}},
		"an experiment's name": {hello("a", ""), of(&meshv1.ExperimentCounts{Name: "\x00"})},
		"a variant":            {hello("a", ""), of(&meshv1.ExperimentCounts{Name: "a", Units: units(1, &meshv1.UnitCounts{Variant: 16})})},
		"many measures": {hello("a", ""), of(&meshv1.ExperimentCounts{Name: "a", Units: units(1, &meshv1.UnitCounts{
			Measures: []*meshv1.MeasureCounts{
				empty, empty, empty, empty, empty, empty, empty, empty, empty, empty, empty, empty, empty, empty, empty, empty, empty,
				empty, empty, empty, empty, empty, empty, empty, empty, empty, empty, empty, empty, empty, empty, empty, empty,
			},
		})})},
		"no number":  {hello("a", ""), of(&meshv1.ExperimentCounts{Name: "a", Units: units(1, &meshv1.UnitCounts{Measures: []*meshv1.MeasureCounts{{Sum: math.NaN()}}})})},
		"infinity":   {hello("a", ""), of(&meshv1.ExperimentCounts{Name: "a", Units: units(1, &meshv1.UnitCounts{Measures: []*meshv1.MeasureCounts{{Sum: math.Inf(-1)}}})})},
		"many units": {hello("a", ""), of(&meshv1.ExperimentCounts{Name: "a", Units: units(200_001, &meshv1.UnitCounts{})})},
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T, r *rig) {
				s := r.several(1)[0]
				l := r.elect()
				before := l.taken()
				err := says(t.Context(), r.stranger(s), reports...)
				if status.Code(err) != codes.InvalidArgument || strings.Contains(status.Convert(err).Message(), "\n") {
					t.Errorf("it is told %v", err)
				}
				if l.taken() > before+1 { // the hello alone
					t.Error("it was taken")
				}
			})
		})
	}
}

// Who says nothing, too much, too often, or comes too often is bounded.
func TestBounds(t *testing.T) {
	t.Run("silent", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *rig) {
			client := r.stranger(r.several(1)[0])
			stream, err := client.Report(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err = stream.Recv(); status.Code(err) != codes.DeadlineExceeded {
				t.Error(err)
			}
		})
	})
	t.Run("too large", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *rig) {
			client := r.stranger(r.several(1)[0])
			r.elect()
			if err := says(t.Context(), client, hello("a", ""), about(&meshv1.CanaryCounts{Name: strings.Repeat("x", 5<<20)})); status.Code(err) != codes.ResourceExhausted {
				t.Error(err)
			}
		})
	})
	t.Run("too often", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *rig) {
			s := r.several(1)[0]
			l := r.elect()
			stream, err := r.stranger(s).Report(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			before := l.taken()
			go func() {
				_ = stream.Send(hello("a", ""))
				for stream.Send(about(&meshv1.CanaryCounts{Name: "new"})) == nil {
				}
			}()
			time.Sleep(10 * time.Second)
			if n := l.taken() - before; n > burst+10*20+1 || n < 10*20 {
				t.Errorf("%d reports were read in 10 s", n)
			}
		})
	})
	t.Run("too many", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *rig) {
			s := r.add("elected", func(o *Options) { o.Limits = Limits{Reporters: 4, Known: 6} })
			s.Set(greeter, true)
			r.elect()
			client := r.stranger(s)
			open := func(id string, n int) (grpc.BidiStreamingClient[meshv1.ReportRequest, meshv1.ReportResponse], error) {
				stream, err := client.Report(as(t.Context(), id))
				if err != nil {
					t.Fatal(err)
				}
				_ = stream.Send(hello(fmt.Sprint(id, n), ""))
				_, err = stream.Recv()
				return stream, err
			}
			var last grpc.BidiStreamingClient[meshv1.ReportRequest, meshv1.ReportResponse]
			for i, want := range []codes.Code{codes.OK, codes.OK, codes.ResourceExhausted} {
				stream, err := open("spiffe://mesh.test/svc/greedy", i)
				if status.Code(err) != want {
					t.Errorf("stream %d: %v", i, err)
				}
				if err == nil {
					last = stream
				}
			}
			if _, err := open("spiffe://mesh.test/svc/other", 0); err != nil {
				t.Errorf("another is refused: %v", err)
			}
			for i, want := range []codes.Code{codes.OK, codes.ResourceExhausted} { // three processes of one are known
				if err := last.CloseSend(); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				stream, err := open("spiffe://mesh.test/svc/greedy", 10+i)
				if status.Code(err) != want {
					t.Errorf("process %d: %v", i, err)
				}
				last = stream
			}
		})
	})
	t.Run("too many questions", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *rig) {
			s := r.add("elected", func(o *Options) { o.Limits.Questions = 1 })
			s.Set(greeter, true)
			r.elect()
			l := r.leader()
			l.hangs = make(chan struct{})
			client := r.stranger(s)
			ask := func() error {
				_, err := client.Evidence(t.Context(), &meshv1.EvidenceRequest{Service: greeter, Name: "new"})
				return err
			}
			first := make(chan error, 1)
			go func() { first <- ask() }()
			synctest.Wait()
			if err := ask(); status.Code(err) != codes.ResourceExhausted {
				t.Error(err)
			}
			close(l.hangs)
			if err := <-first; err != nil {
				t.Error(err)
			}
		})
	})
}

// A sidecar that is not elected says who is; one that connects a second time takes the
// place of its first stream.
func TestOthersThanExpected(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		all := r.several(2)
		l := r.elect()
		for _, s := range all {
			if s == l.by {
				continue
			}
			err := says(t.Context(), r.stranger(s), hello("a", ""))
			if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), l.by.id+" at "+l.by.address+" is") {
				t.Errorf("who is not elected says %v", err)
			}
		}
		other := hello("a", "")
		other.Hello.About = "else"
		if err := says(t.Context(), r.stranger(l.by), other); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("of another service it says %v", err)
		}
		client := r.stranger(l.by)
		first, err := client.Report(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = first.Send(hello("a", ""))
		if _, err := first.Recv(); err != nil {
			t.Fatal(err)
		}
		second, err := client.Report(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = second.Send(hello("a", ""))
		if _, err := second.Recv(); err != nil {
			t.Fatal(err)
		}
		if _, err := first.Recv(); status.Code(err) != codes.AlreadyExists {
			t.Errorf("the first stream ends %v", err)
		}
		synctest.Wait()
		if ids := l.ids(); len(ids) != 3 {
			t.Errorf("%v report", ids)
		}
	})
}

// What a stream still brings after another has taken its place is not taken: it would
// make counts go backwards.
func TestReplacedStream(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		s := r.several(1)[0]
		l := r.elect()
		st := s.seat(greeter).led()
		report := func(n uint64) *meshv1.ReportRequest {
			return about(&meshv1.CanaryCounts{Name: "new", Canary: &meshv1.GroupCounts{Codes: map[uint32]uint64{0: n}}})
		}
		var streams [2]*reporter
		for i := range streams {
			streams[i] = &reporter{hello: &meshv1.Hello{Id: "a", Process: 5}, replaced: make(chan struct{})}
			if err := st.enter(streams[i]); err != nil {
				t.Fatal(err)
			}
		}
		streams[1].take(st, report(9))
		streams[0].take(st, report(8))
		st.leave(streams[0])
		if rpcs, _ := l.sum(); rpcs != 9 || len(l.ids()) != 2 || st.count() != 1 {
			t.Errorf("%d RPCs are known, of %v", rpcs, l.ids())
		}
		st.leave(streams[1])
		streams[1].take(st, report(10))
		if rpcs, _ := l.sum(); rpcs != 9 || len(l.ids()) != 1 || st.count() != 0 {
			t.Errorf("when it has gone, %d RPCs are known, of %v", rpcs, l.ids())
		}
	})
}
