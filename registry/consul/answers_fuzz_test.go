package consul

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/registry"
)

// FuzzAnswers watches a service at an agent that answers anything: each line of the
// input is an answer (status, index, last contact, body), and they come round and
// round. The source must not panic, ask in a loop, or hand over what breaks the
// contract of a registry, and must go on once the agent makes sense again.
func FuzzAnswers(f *testing.F) {
	good := `[{"Node":{"Node":"n","Address":"10.0.0.9"},"Service":{"ID":"a","Port":7,"Meta":{"grpc-services":"a.A"}},"Checks":[]}]`
	f.Add([]byte("200 7 0 " + good))
	f.Add([]byte("200 7 0 " + good + "\n500 0 0 rpc error\n200 3 9999999 []"))
	f.Add([]byte("200 0 0 null\n200 -1 x {}\n200 18446744073709551615 0 [{}]\n404 1 1 <html>\n429 0 0 \n403 0 0 Permission denied"))
	f.Add([]byte("200 9 0 [null,{\"Service\":{\"ID\":\"x\",\"SocketPath\":\"rel\",\"Weights\":{\"Passing\":-5}},\"Checks\":[null]}]\n302 1 1 \n200 9 0 ["))
	f.Fuzz(func(t *testing.T, input []byte) {
		answers := bytes.Split(input, []byte("\n"))
		if len(answers) > 20 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			fake := newFakeAgent()
			fake.setApps("greeter", appEntry("a", 1))
			var asked atomic.Int64
			fake.failWith(func(*http.Request) (*http.Response, error) {
				return oddAnswer(answers[int(asked.Add(1)-1)%len(answers)]), nil
			})
			source, _ := newFakeSource(t, fake, Config{})
			ctx, cancel := context.WithCancel(t.Context())
			updated := &contract{t: t}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				source.Watch(ctx, "greeter", updated.update)
			}()
			after(time.Minute)
			// Two sides are asked for, each at most once in a moment that grows; a
			// new registration's answers may be asked for beside them.
			if n := asked.Load(); n > 1000 {
				t.Fatalf("%d questions in a minute", n)
			}
			_, _ = source.Answering(ctx, "a.A")
			_, _ = source.Services(ctx)
			fake.failWith(nil)
			after(10 * time.Minute)
			if s := updated.last; s == nil || s.Stale || len(s.Endpoints) != 1 || s.Endpoints[0].Address != "10.0.0.1:1" {
				t.Fatalf("after the agent makes sense again the service is %+v", s)
			}
			cancel()
			<-ended
		})
	})
}

// oddAnswer makes an answer of a line.
func oddAnswer(line []byte) *http.Response {
	parts := append(strings.SplitN(string(line), " ", 4), "", "", "", "")
	status, _ := strconv.Atoi(parts[0])
	return respond(min(max(status, 200), 599), map[string]string{
		"X-Consul-Index": parts[1], "X-Consul-Lastcontact": parts[2],
	}, parts[3])
}

// contract checks what a watch hands over, as registry.Source promises it.
type contract struct {
	t    *testing.T
	last *registry.Service
}

func (c *contract) update(s *registry.Service) {
	c.last = s
	if s == nil {
		return
	}
	if s.Name != "greeter" {
		c.t.Errorf("the service is called %q", s.Name)
	}
	for i, e := range s.Endpoints {
		if e.ID == "" || e.Weight < 1 || i > 0 && s.Endpoints[i-1].ID >= e.ID {
			c.t.Errorf("endpoint %d of %+v", i, s.Endpoints)
		}
		if _, _, err := registry.ParseAddress(e.Address); err != nil {
			c.t.Error(err)
		}
	}
	for _, name := range s.GRPC {
		if !isGRPCName(name) {
			c.t.Errorf("%q is no gRPC service", name)
		}
	}
}
