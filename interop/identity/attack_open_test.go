package identity

import (
	"context"
	"crypto/tls"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// openStream is an RPC that is under way, for as long as a test may take: one message was
// answered.
func openStream(t testing.TB, conn *grpc.ClientConn) grpc.BidiStreamingClient[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse] {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), 2*streamPatience)
	t.Cleanup(cancel)
	stream, err := testpb.NewTestServiceClient(conn).FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := roundTrip(stream); err != nil {
		t.Fatalf("a stream that was just opened: %v", err)
	}

	return stream
}

// roundTrip has one message of a stream answered.
func roundTrip(stream grpc.BidiStreamingClient[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	// EOF is what Send says of a stream that is over; Recv says how it ended.
	_ = stream.Send(&testpb.StreamingOutputCallRequest{})
	_, err := stream.Recv()

	return err
}

// A stream that was opened with a good certificate ends with it: when it expires, and when
// its root is no longer believed. So it is with the certificates of callers and of
// instances. Streams of others go on.
func TestAttackByStreamsThatOutliveTheirCertificate(t *testing.T) {
	t.Parallel()

	const life = 4 * time.Second
	ca, leaving := newAuthority(t), newAuthority(t)
	app := load.StartApp(t, "app", "")
	leaf := ca.Issue("/svc/" + appService)
	strict, strictFiles := startStrict(t, ca, app.Address, nil)
	ca.Write(strictFiles.folder, leaf, leaving)
	web := ca.Issue(callerPath)
	// through is a client beside a sidecar that calls an instance with a certificate that is
	// issued when it is first asked for. remove removes the root from those that are believed.
	through := func(issue func() *tls.Certificate) (conn *grpc.ClientConn, remove func()) {
		t.Helper()
		instance := load.StartApp(t, "instance", "", grpc.Creds(credentials.NewTLS(&tls.Config{
			ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return issue(), nil },
		})))
		files := proveBy(t, ca, web, leaving)
		sidecar := harness.StartSidecar(t, harness.Config{
			Outbound: true, Default: appService, Settings: files.settings(nil),
			Mesh: harness.NewMesh(t, map[string]harness.Service{appService: {Endpoints: harness.Endpoints(instance.Address)}}),
		})

		return load.Dial(t, sidecar.Outbound), func() { ca.Write(files.folder, web) }
	}
	direct := func(certificate *tls.Certificate) *grpc.ClientConn {
		t.Helper()

		return rpcsOver(t, strict.Inbound, shows(certificate))
	}

	caller, instance := openStream(t, direct(web)), openStream(t, first(through(func() *tls.Certificate { return leaf })))
	t.Run("ends", func(t *testing.T) {
		t.Run("the caller's expires", func(t *testing.T) {
			t.Parallel()
			certificate := ca.Issue(callerPath, identitytest.TTL(life))
			endsAt(t, direct(certificate), func() time.Time { return certificate.Leaf.NotAfter })
		})
		t.Run("the instance's expires", func(t *testing.T) {
			t.Parallel()
			issue := sync.OnceValue(func() *tls.Certificate { return ca.Issue("/svc/"+appService, identitytest.TTL(life)) })
			conn, _ := through(issue)
			endsAt(t, conn, func() time.Time { return issue().Leaf.NotAfter })
		})
		t.Run("the caller's root is removed", func(t *testing.T) {
			t.Parallel()
			endsAt(t, direct(leaving.Issue(callerPath)), func() time.Time {
				ca.Write(strictFiles.folder, leaf)

				return time.Now()
			})
		})
		t.Run("the instance's root is removed", func(t *testing.T) {
			t.Parallel()
			issue := sync.OnceValue(func() *tls.Certificate { return leaving.Issue("/svc/" + appService) })
			conn, remove := through(issue)
			endsAt(t, conn, func() time.Time {
				remove()

				return time.Now()
			})
		})
	})
	if err := roundTrip(caller); err != nil {
		t.Errorf("the stream of another caller: %v", err)
	}
	if err := roundTrip(instance); err != nil {
		t.Errorf("the stream to another instance: %v", err)
	}
}

func first[A, B any](a A, _ B) A { return a }

// endsAt opens a stream, which is to end at the time that is said then. There is no other
// after it.
func endsAt(t *testing.T, conn *grpc.ClientConn, end func() time.Time) {
	t.Helper()

	// That is a long time, because the machine may be busy with other things.
	const soon = 3 * time.Second

	stream := openStream(t, conn)
	at := end()
	_, err := stream.Recv()
	late := time.Since(at)
	t.Logf("the stream has ended %v late: %v", late.Round(time.Millisecond), err)
	if status.Code(err) != codes.Unavailable && status.Code(err) != codes.PermissionDenied {
		t.Errorf("the stream ends %v", err)
	}
	if late < 0 || late > soon {
		t.Errorf("the stream has ended %v late, want within %v", late, soon)
	}
	if name, err := load.Who(t.Context(), conn); err == nil {
		t.Errorf("an RPC afterwards was answered by %s", name)
	}
}
