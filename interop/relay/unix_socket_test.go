package relay

import (
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
	"google.golang.org/grpc"
)

// The app listens on a Unix socket; so do the sidecars on the last of the routes.
func TestAnAppOnAUnixSocket(t *testing.T) {
	t.Parallel()

	listener, address := listenUnix(t)
	serveApp(t, listener, methods{"Echo": echo})

	forEachRoute(t, address, func(t *testing.T, conn *grpc.ClientConn) {
		got, err := call(t.Context(), conn, "Echo", []byte("hello"))
		if err != nil || string(got) != "hello" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// A service whose instances listen on both kinds of address uses both.
func TestInstancesOfBothKinds(t *testing.T) {
	t.Parallel()

	who := func(name string) methods {
		return methods{"Who": func(stream grpc.ServerStream) error {
			return stream.SendMsg(new([]byte(name)))
		}}
	}
	listener, unix := listenUnix(t)
	serveApp(t, listener, who("unix"))
	tcp := startApp(t, who("tcp"))

	conn := dial(t, harness.Outbound(t, unix, tcp).Outbound)
	answers := map[string]int{}
	for range 100 {
		got, err := call(t.Context(), conn, "Who", nil)
		if err != nil {
			t.Fatal(err)
		}
		answers[string(got)]++
	}
	if answers["unix"] < 30 || answers["tcp"] < 30 {
		t.Errorf("answers: %v", answers)
	}
}
