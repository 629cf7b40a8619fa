package wire_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

// TestOKPathAllocatesNothing is not parallel: AllocsPerRun counts what every
// goroutine allocates.
func TestOKPathAllocatesNothing(t *testing.T) {
	buf := make([]byte, 0, 16)
	frame := appendMessage(nil, 0, 100)
	var m wire.Messages
	for name, f := range map[string]func(){
		"ParseTimeout":  func() { _, _ = wire.ParseTimeout("4999321u") },
		"AppendTimeout": func() { buf = wire.AppendTimeout(buf[:0], 5*time.Second) },
		"EncodeMessage": func() { wire.EncodeMessage("greeter refuses connections") },
		"DecodeMessage": func() { wire.DecodeMessage("greeter refuses connections; 100% of them") },
		"ParseStatus":   func() { wire.ParseStatus("14") },
		"StatusName":    func() { _, _ = wire.StatusName(codes.Unavailable), wire.StatusName(99) },
		"IsGRPC":        func() { wire.IsGRPC("Application/grpc+proto") },
		"SplitPath":     func() { wire.SplitPath("/helloworld.Greeter/SayHello") },
		"Feed":          func() { m.Feed(frame[:3]); m.Feed(frame[3:]) },
		"Flag":          func() { _ = wire.ParseFlag("URX").String() },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}
