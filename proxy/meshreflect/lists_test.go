package meshreflect_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/types/descriptorpb"
)

func TestLists(t *testing.T) {
	inBubble(t, mixture(), func(t *testing.T, m *mesh) {
		for service, want := range map[string][]string{
			"greeter": withOwn("helloworld.Greeter"),
			"new":     {"grpc.reflection.v1.ServerReflection", "n.New"},
			"old":     {"grpc.reflection.v1alpha.ServerReflection", "o.Old"},
		} {
			if got, err := m.Lists(t.Context(), service); err != nil || !slices.Equal(got, want) {
				t.Errorf("Lists(%s) = %v, %v; want %v", service, got, err, want)
			}
		}
		for service, want := range map[string]string{
			"bare":    `reflection of service "bare": it does not offer reflection`,
			"dead":    `reflection of service "dead": no instance of it may take an RPC`,
			"hung":    `reflection of service "hung": no answer within 2s`,
			"nowhere": `there is no service "nowhere"`,
		} {
			if got, err := m.Lists(t.Context(), service); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Lists(%s) = %v, %v; want an error with %s", service, got, err, want)
			}
		}
	})
}

func TestListsAreRememberedForAWhile(t *testing.T) {
	inBubble(t, []*app{greeter(), {name: "dead", dead: errDead}}, func(t *testing.T, m *mesh) {
		g := m.apps["greeter"]
		names, err := m.Lists(t.Context(), "greeter")
		if err != nil {
			t.Fatal(err)
		}
		names[0] = "changed by the caller"
		c := m.dial(t)
		want := c.list()
		if n := g.streams.Load(); n != 1 {
			t.Errorf("greeter was asked %d times", n)
		}
		if !slices.Equal(want, withOwn("helloworld.Greeter")) {
			t.Errorf("listed %v", want)
		}

		// The dead one comes to life, and is found once it is asked again.
		m.apps["dead"].dead = nil
		m.apps["dead"].conn = g.conn
		if _, err := m.Lists(t.Context(), "dead"); err == nil {
			t.Error("a failure is not remembered at all")
		}
		time.Sleep(11 * time.Second) // virtual
		if _, err := m.Lists(t.Context(), "dead"); err != nil {
			t.Errorf("a failure is remembered too long: %v", err)
		}
		before := g.streams.Load()
		c.list()
		if n := g.streams.Load(); n != before+1 {
			t.Errorf("greeter's list of 11 s ago is not renewed")
		}
		c.close()
	})
}

// TestCallerInAHurryIsNoFaultOfTheService says that no failure is remembered
// that is the asker's own.
func TestCallerInAHurryIsNoFaultOfTheService(t *testing.T) {
	inBubble(t, []*app{greeter()}, func(t *testing.T, m *mesh) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := m.Lists(ctx, "greeter"); err == nil {
			t.Error("a cancelled question is answered")
		}
		if _, err := m.Lists(t.Context(), "greeter"); err != nil {
			t.Error(err)
		}
	})
}

// TestVersionIsRemembered says that a service which speaks v1alpha alone is
// not bothered with v1 each time, and that one which learns v1 is understood.
func TestVersionIsRemembered(t *testing.T) {
	old := &app{name: "old", alpha: true, files: greeter().files}
	inBubble(t, []*app{old}, func(t *testing.T, m *mesh) {
		for range 3 {
			if _, err := m.Lists(t.Context(), "old"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(11 * time.Second) // virtual
		}
		if n := old.refused.Load(); n != 1 {
			t.Errorf("it refused v1 %d times, want once", n)
		}
		newer := &app{name: "old", v1: true, files: greeter().files}
		newer.start(t)
		m.apps["old"] = newer
		for range 3 {
			if _, err := m.Lists(t.Context(), "old"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(11 * time.Second) // virtual
		}
		if n := newer.refused.Load(); n != 1 {
			t.Errorf("it refused v1alpha %d times, want once", n)
		}
	})
}

// TestHostileLists has a service answer with what no honest one does.
func TestHostileLists(t *testing.T) {
	for name, test := range map[string]struct {
		handle func(reflectionStream) error
		want   []string
		err    string
	}{
		"names that are none": {
			handle: answerOnly(listing("", "a,b", "a b", ".a", "a.", "1a", "x.Y", "x.Y", "A", strings.Repeat("é", 10))),
			want:   []string{"A", "x.Y"},
		},
		"too many names":  {handle: answerOnly(manyNames()), err: "more than 65536 bytes of names"},
		"too large":       {handle: answerOnly(listing(strings.Repeat("a", 5<<20))), err: "larger than max"},
		"another answer":  {handle: answerOnly(fileAnswer()), want: []string{}},
		"an empty answer": {handle: answerOnly(new(v1.ServerReflectionResponse)), want: []string{}},
		"an error":        {handle: answerOnly(errorAnswer(7, "go away")), err: "go away"},
		"an early end":    {handle: func(reflectionStream) error { return nil }, err: "without an answer"},
		"answers unasked for": {handle: func(stream reflectionStream) error {
			for stream.Send(listing("x.Y")) == nil {
			}
			return nil
		}, want: []string{"x.Y"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := &app{name: "bad", v1: true, handle: test.handle}
			inBubble(t, []*app{a, greeter()}, func(t *testing.T, m *mesh) {
				got, err := m.Lists(t.Context(), "bad")
				switch {
				case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
					t.Errorf("got %d names, %v; want an error with %q", len(got), err, test.err)
				case test.err == "" && (err != nil || !slices.Equal(got, test.want)):
					t.Errorf("got %v, %v; want %v", got, err, test.want)
				}
				c := m.dial(t)
				if got := c.list(); !slices.Contains(got, "helloworld.Greeter") {
					t.Errorf("it spoils the list: %v", got)
				}
				c.describe("helloworld.Greeter")
				c.close()
			})
		})
	}
}

func manyNames() *v1.ServerReflectionResponse {
	var names []string
	for i := range 10_000 {
		names = append(names, fmt.Sprintf("a.lot.of.Names%d", i))
	}
	return listing(names...)
}

func errorAnswer(code int32, message string) *v1.ServerReflectionResponse {
	return &v1.ServerReflectionResponse{MessageResponse: &v1.ServerReflectionResponse_ErrorResponse{
		ErrorResponse: &v1.ErrorResponse{ErrorCode: code, ErrorMessage: message},
	}}
}

func TestTooLargeAMesh(t *testing.T) {
	inBubble(t, []*app{greeter(), orders()}, func(t *testing.T, m *mesh) {
		c := m.dial(t)
		list := &v1.ServerReflectionRequest{MessageRequest: &v1.ServerReflectionRequest_ListServices{}}
		wantError(t, c.ask(list), 14, "the mesh has 2 services, and at most 1", ":authority")
		c.close()
		if n := m.apps["greeter"].streams.Load(); n > 0 {
			t.Errorf("greeter was asked %d times", n)
		}
	}, func(m *mesh) { m.opts.MaxServices = 1 })
}

func TestAsksSoManyAtOnce(t *testing.T) {
	var now, most atomic.Int64
	var apps []*app
	for i := range 20 {
		apps = append(apps, &app{name: fmt.Sprint("app", i), v1: true, handle: func(stream reflectionStream) error {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(100 * time.Millisecond) // virtual: all that may run, run by now
			defer now.Add(-1)
			return answerOnly(listing("a.B"))(stream)
		}})
	}
	inBubble(t, apps, func(t *testing.T, m *mesh) {
		first, second := m.dial(t), m.dial(t)
		done := make(chan []string)
		go func() { done <- first.list() }()
		second.list()
		<-done
		first.close()
		second.close()
		if n := most.Load(); n < 4 || n > 5 {
			t.Errorf("%d services were asked at once, want 5", n)
		}
	}, func(m *mesh) { m.opts.Concurrency = 5 })
}

// Who answered for a caller is told; who denied, failed or was asked for its
// methods is not.
func TestWhoAnsweredIsTold(t *testing.T) {
	var mu sync.Mutex
	var told []string
	take := func() []string {
		mu.Lock()
		defer mu.Unlock()
		defer func() { told = nil }()
		slices.Sort(told)
		return told
	}
	inBubble(t, []*app{greeter(), {name: "dead", dead: errDead}, {name: "chat", v1: true, files: []*descriptorpb.FileDescriptorProto{chat()}}}, func(t *testing.T, m *mesh) {
		if _, err := m.Methods(t.Context(), "greeter"); err != nil {
			t.Fatal(err)
		}
		if got := take(); got != nil {
			t.Errorf("Methods told of %v", got)
		}
		c := m.dial(t)
		c.list()
		if got, want := take(), []string{"chat", "greeter"}; !slices.Equal(got, want) {
			t.Errorf("a list told of %v, want %v", got, want)
		}
		c.list()
		if got := take(); got != nil {
			t.Errorf("a list that was remembered told of %v", got)
		}
		c.ask(&v1.ServerReflectionRequest{
			MessageRequest: &v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "chat.Chat"},
		})
		if got, want := take(), []string{"chat"}; !slices.Equal(got, want) {
			t.Errorf("a description told of %v, want %v", got, want)
		}
		c.close()
	}, func(m *mesh) {
		m.opts.Answered = func(service string) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, service)
		}
	})
}
