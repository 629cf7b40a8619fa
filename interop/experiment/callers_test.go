package experiment

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/load"
)

// user is somebody who makes RPCs.
type user struct {
	number   int
	name     string // in metadata; "": none
	session  string // in a cookie; "": none
	force    string // what the user asks for
	notCount bool   // the RPCs of the user do not count
}

// users are so many, whose session is their name: the parts of a layer are of the same
// people then, whatever tells them apart.
func users(n int) (list []user) {
	for i := range n {
		name := fmt.Sprint("user-", i)
		list = append(list, user{number: i, name: name, session: name})
	}

	return list
}

// testers are those that experiments' documents force into a variant, and one who asks for
// it.
func testers() []user {
	return []user{
		{number: 100001, name: "tester-green", notCount: true},
		{number: 100002, name: "tester-blue", notCount: true},
		{number: 100003, session: "tester-short", notCount: true},
		{number: 100004, name: "asker", force: "green", notCount: true},
	}
}

// outcome is what a caller knows of an RPC.
type outcome struct {
	user    user
	sidecar int
	answer  answer
}

// callers make RPCs through sidecars.
type callers struct {
	t     *testing.T
	conns []*grpc.ClientConn

	mu   sync.Mutex
	seen []outcome
}

func startCallers(t *testing.T, m *mesh) *callers {
	t.Helper()

	c := &callers{t: t}
	for _, address := range m.outbounds() {
		c.conns = append(c.conns, load.Dial(t, address))
	}

	return c
}

// round has each user make an RPC, by way of the sidecar that via says; below 0: none.
func (c *callers) round(perSecond int, list []user, via func(u user) int) {
	const workers = 8
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			tick := time.NewTicker(time.Second * workers / time.Duration(perSecond))
			defer tick.Stop()
			for i := w; i < len(list); i += workers {
				if sidecar := via(list[i]); sidecar >= 0 {
					<-tick.C
					c.call(list[i], sidecar)
				}
			}
		})
	}
	all.Wait()
}

func (c *callers) call(u user, sidecar int) {
	md := metadata.Pairs("x-number", fmt.Sprint(u.number))
	for key, value := range map[string]string{"x-user": u.name, "cookie": "theme=dark; session=" + u.session, "pillion-force": u.force} {
		if value != "" && !strings.HasSuffix(value, "=") {
			md.Set(key, value)
		}
	}
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(context.Background(), md), patience)
	defer cancel()
	var header, trailer metadata.MD
	response, err := testpb.NewTestServiceClient(c.conns[sidecar]).UnaryCall(ctx, &testpb.SimpleRequest{}, grpc.Header(&header), grpc.Trailer(&trailer))
	text := response.GetUsername()
	if err != nil {
		text = status.Convert(err).Message()
	}
	o := outcome{user: u, sidecar: sidecar}
	if json.Unmarshal([]byte(text), &o.answer) != nil || o.answer.Failed != (err != nil) {
		c.t.Errorf("%s by way of sidecar %d: %q, %v", u.name, sidecar, text, err)

		return
	}
	for _, key := range append(keys(header), keys(trailer)...) {
		if strings.HasPrefix(key, "pillion-measure") {
			c.t.Errorf("%s by way of sidecar %d is shown %s", u.name, sidecar, key)
		}
	}
	if got := strings.Join(trailer.Get("app-trailer"), ","); got != "kept" {
		c.t.Errorf("%s by way of sidecar %d: the app's own trailer is %q", u.name, sidecar, got)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, o)
}

func keys(md metadata.MD) (list []string) {
	for key := range md {
		list = append(list, key)
	}

	return list
}

// outcomes are those of all RPCs so far.
func (c *callers) outcomes() []outcome {
	c.mu.Lock()
	defer c.mu.Unlock()

	return append([]outcome(nil), c.seen...)
}

// sums are what RPCs of a variant come to, as reports are to say it.
type sums struct {
	rpcs, failed int
	// units has the revenue of each RPC of each unit.
	units map[string][]float64
}

// mean is that of the units' means.
func (s *sums) mean() (mean float64) {
	for _, values := range s.units {
		sum := 0.0
		for _, v := range values {
			sum += v
		}
		mean += sum / float64(len(values)) / float64(len(s.units))
	}

	return mean
}

// sumsOf adds up what counts, by variant.
func (c *callers) sumsOf(experiment string) map[string]*sums {
	variants := map[string]*sums{}
	for _, o := range c.outcomes() {
		variant := o.answer.Variants[experiment]
		if variant == "" || o.user.notCount {
			continue
		}
		s := variants[variant]
		if s == nil {
			s = &sums{units: map[string][]float64{}}
			variants[variant] = s
		}
		s.rpcs++
		if o.answer.Failed {
			s.failed++
		}
		unit := o.user.name
		s.units[unit] = append(s.units[unit], o.answer.Revenue)
	}

	return variants
}
