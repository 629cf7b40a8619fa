package entries

import (
	"context"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/consul"
)

// checkLimit has as many RPCs wait as there may be, of different methods: another one ends
// at once, and comes nowhere, until they are let go.
func (m *mesh) checkLimit(t *testing.T, c testCase, conn *grpc.ClientConn) {
	t.Helper()
	attempts := func(id string) int { return m.apps[v1].attempts(id) + m.apps[v2].attempts(id) }
	name := newID()
	var going sync.WaitGroup
	release := sync.OnceFunc(func() {
		close(m.apps[v1].hold(name))
		close(m.apps[v2].hold(name))
	})
	defer going.Wait()
	defer release()
	for i := range c.limit {
		id := newID()
		going.Go(func() {
			method := []string{hello, bye}[i%2]
			if _, _, err := call(context.Background(), conn, method, map[string]string{askHold: name, askID: id}); err != nil {
				t.Errorf("an RPC within the limit: %v", err)
			}
		})
		consul.Eventually(t, "an RPC within the limit comes", func() bool { return attempts(id) > 0 })
	}
	id := newID()
	if _, _, err := call(t.Context(), conn, other, map[string]string{askID: id}); status.Code(err) != codes.Unavailable || attempts(id) > 0 {
		t.Errorf("an RPC above the limit: %v, and it came %d times", err, attempts(id))
	}
	release()
	going.Wait()
	consul.Eventually(t, "an RPC has room again", func() bool {
		_, _, err := call(t.Context(), conn, other, nil)
		return err == nil
	})
}

// checkEjection has one of two instances fail whatever comes, until no RPC comes there.
func (m *mesh) checkEjection(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	consul.Eventually(t, "all RPCs go to the instance that is well", func() bool {
		// So many would hardly go there by chance, one in two to the power of 30.
		for range 30 {
			head := with(fail(9, "14"), askAt, v1)
			head[askID] = newID()
			if said, _, err := call(t.Context(), conn, hello, head); err != nil || said.Instance != v2 {
				return false
			}
		}
		return true
	})
}

// checkConnecting waits for an RPC that ends because connecting took too long: long before
// the RPC's own deadline, which it would end by otherwise.
func (m *mesh) checkConnecting(t *testing.T, conn *grpc.ClientConn, pillion bool) {
	t.Helper()
	want := "connection timeout"
	if pillion {
		want = "context deadline exceeded"
	}
	last := ""
	defer func() {
		if t.Failed() {
			t.Logf("it ended last with %s", last)
		}
	}()
	consul.Eventually(t, "an RPC ends for want of a connection in time", func() bool {
		_, _, err := call(t.Context(), conn, hello, nil)
		last = status.Convert(err).String()
		return status.Code(err) == codes.Unavailable && strings.Contains(last, want)
	})
}
