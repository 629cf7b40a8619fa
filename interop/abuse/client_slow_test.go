package abuse

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/abuse/attack"
)

// Clients that take their time, all at once: what they begin has to be finished
// within the sidecar's patience, and holds up nobody.
func TestClientsThatTakeTheirTime(t *testing.T) {
	t.Parallel()

	for _, side := range []string{outbound, inbound} {
		t.Run(side, func(t *testing.T) {
			t.Parallel()

			r := startRig(t, side, true, map[string]any{
				"http2": map[string]any{"handshake_timeout": "5s", "stall_timeout": "8s"},
			})
			r.during(t, slowMemory, func() {
				// They wait most of the time: no matter how many processors there are.
				var attacks sync.WaitGroup
				for _, client := range attack.Clients() {
					if client.Slow {
						attacks.Go(func() { takeTime(t, client, r.port) })
					}
				}
				attacks.Wait()
			})
			r.load.End(t)
		})
	}
}

// takeTime attacks once and checks the end.
func takeTime(t *testing.T, client attack.Client, port string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	began := time.Now()
	end, err := client.Run(ctx, port)
	if err != nil {
		t.Errorf("%s: %v", client.Name, err)

		return
	}
	t.Logf("%s: after %v: %v, %q", client.Name, time.Since(began).Round(100*time.Millisecond), end, end.Reason)
	if !client.Right(end) {
		t.Errorf("%s: ended with %v (%q), want one of %q", client.Name, end, end.Reason, client.Want)
	}
}

// slowMemory is what all of them together may have the sidecar hold: that of the
// one that takes most.
const slowMemory = 176 << 20

// Who speaks something else is told so where that is possible, and the log says
// what to do.
func TestStrangers(t *testing.T) {
	t.Parallel()

	r := startRig(t, outbound, false, nil)
	for _, client := range attack.Clients() {
		if client.Name != "HTTP/1.1" && client.Name != "TLS" {
			continue
		}
		end, err := client.Run(t.Context(), r.port)
		if err != nil {
			t.Fatal(err)
		}
		if client.Name == "HTTP/1.1" && (!strings.HasPrefix(end.Reason, "HTTP/1.1 505 ") || !strings.Contains(end.Reason, "gRPC over HTTP/2")) {
			t.Errorf("HTTP/1.1 is answered with %q", end.Reason)
		}
	}
	r.sidecar.Await(t, `a caller's connection was ended.*the client speaks HTTP/1`)
	r.sidecar.Await(t, `a caller's connection was ended.*the client speaks TLS, but this port is plaintext`)
	r.load.End(t)
}

// However many bad connections there are, the log tells of few, and how many it
// leaves out.
func TestBadConnectionsDoNotFillTheLog(t *testing.T) {
	t.Parallel()

	r := startRig(t, outbound, false, nil)
	for _, client := range attack.Clients() {
		if client.Name != "zeros" {
			continue
		}
		for range 200 {
			if _, err := client.Run(t.Context(), r.port); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.sidecar.Await(t, `more callers' connections were ended.*"left_out":\d+`)
	if lines := strings.Count(r.sidecar.Output(), "a caller's connection was ended"); lines > 50 {
		t.Errorf("the log has %d lines about 200 connections", lines)
	}
	r.load.End(t)
}
