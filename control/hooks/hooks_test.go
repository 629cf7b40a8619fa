package hooks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const key = "pillion/v1/transitions/greeter/canary/greeter-v2/00000000000000000007"

// transition is what hooks are told of here.
func transition() *controlv1.Transition {
	return &controlv1.Transition{State: &controlv1.RunState{Name: "greeter-v2", Service: "greeter", Number: 7, Phase: controlv1.Phase_PHASE_ROLLED_BACK, Document: []byte("long"),
		Guards: []*controlv1.GuardState{{Name: "errors/max", Evidence: []float64{-1, 1}, P: 0.5}}}}
}

// newStore returns a store with the transition in it.
func newStore(t *testing.T) *memkv.Store {
	t.Helper()
	store := memkv.New().Store()
	value, err := protojson.Marshal(transition())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Commit(t.Context(), kv.Op{Key: key, Value: value}); err != nil {
		t.Fatal(err)
	}
	return store
}

// answers waits until the history has so many answers, and returns them sorted.
func answers(t *testing.T, store *memkv.Store, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var have []string
	store.Watch(ctx, key, func(s kv.State) {
		for _, e := range s.Entries {
			var m controlv1.Transition
			if err := protojson.Unmarshal(e.Value, &m); err != nil {
				t.Error(err)
			}
			have = slices.Sorted(slices.Values(m.GetHooks()))
		}
		if len(have) >= n {
			cancel()
		}
	})
	if len(have) != n {
		t.Fatalf("the history has %q, not %d answers", have, n)
	}
	return have
}

func hook(name, command string, timeout time.Duration) *configv1.Hook {
	return &configv1.Hook{Name: name, To: &configv1.Hook_Command{Command: command}, Timeout: durationpb.New(timeout)}
}

// Commands get the transition as JSON, none of the sidecar's variables, and no shell; what
// they answer is in the history, on one line and bounded.
func TestCommands(t *testing.T) {
	t.Setenv("PILLION_SECRET", "hush")
	dir := t.TempDir()
	script := filepath.Join(dir, "hook")
	if err := os.WriteFile(script, []byte("#!/bin/sh\ncat > \"$1\"\nenv > \"$1.env\"\necho 'got it'\nprintf '\\033[31mred\\n'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	store := newStore(t)
	tell := New(Options{Store: store, Commands: []*configv1.HookCommand{
		{Name: "good", Run: []string{script, filepath.Join(dir, "$HOME;x")}},
		{Name: "bad", Run: []string{"/bin/sh", "-c", "echo no such room >&2; exit 3"}},
		{Name: "slow", Run: []string{"/bin/sh", "-c", "sleep 60 & wait"}},
		{Name: "loud", Run: []string{"/bin/sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x"}},
		{Name: "missing", Run: []string{filepath.Join(dir, "nothing")}},
	}})
	defer tell.Close()
	tell.Tell([]*configv1.Hook{
		hook("a", "good", 20*time.Second), hook("b", "bad", 20*time.Second), hook("c", "slow", 50*time.Millisecond),
		hook("d", "loud", 20*time.Second), hook("e", "missing", 20*time.Second), hook("f", "nobody", 20*time.Second),
	}, transition(), key)
	got := answers(t, store, 6)
	for i, want := range []string{
		"a: got it ?[31mred", "b: failed: exit status 3: no such room", "c: failed: it took longer than 50ms", "d: " + strings.Repeat("x", maxAnswer),
		"e: failed: fork/exec " + filepath.Join(dir, "nothing") + ": no such file or directory",
		`f: failed: control.commands of this sidecar's bootstrap has no "nobody"`,
	} {
		if got[i] != want {
			t.Errorf("%q, not %q", got[i], want)
		}
	}
	input, err := os.ReadFile(filepath.Join(dir, "$HOME;x"))
	if err != nil {
		t.Fatal(err)
	}
	var told controlv1.Transition
	if err := protojson.Unmarshal(input, &told); err != nil || told.GetState().GetNumber() != 7 || told.GetState().GetDocument() != nil ||
		len(told.GetState().GetGuards()) != 1 || told.GetState().GetGuards()[0].GetP() != 0.5 || told.GetState().GetGuards()[0].GetEvidence() != nil {
		t.Errorf("told %s, %v", input, err)
	}
	if lines := strings.SplitAfter(string(input), "\n"); len(lines) != 2 || lines[1] != "" {
		t.Errorf("it is not told on one line: %q", input)
	}
	environment, err := os.ReadFile(filepath.Join(dir, "$HOME;x.env"))
	if err != nil || strings.Contains(string(environment), "hush") || !strings.Contains(string(environment), "PATH=") {
		t.Errorf("the environment is %s, %v", environment, err)
	}
}

// listener is a service that wants to be told.
type listener struct {
	meshv1.UnimplementedHooksServer
	heard atomic.Uint64
}

func (l *listener) Transition(_ context.Context, r *meshv1.TransitionRequest) (*meshv1.TransitionResponse, error) {
	l.heard.Store(r.GetTransition().GetState().GetNumber())
	if l.heard.Load() == 8 {
		return nil, status.Error(codes.FailedPrecondition, "not now")
	}
	return &meshv1.TransitionResponse{}, nil
}

// Services of the mesh are told by RPC.
func TestServices(t *testing.T) {
	t.Parallel()
	at, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, listens := grpc.NewServer(), &listener{}
	meshv1.RegisterHooksServer(server, listens)
	go func() { _ = server.Serve(at) }()
	defer server.Stop()
	store := newStore(t)
	tell := New(Options{Store: store, Dial: func(_ context.Context, service string) (grpc.ClientConnInterface, func(), error) {
		if service != "chat" {
			return nil, nil, fmt.Errorf("there is no service %q", service)
		}
		conn, err := grpc.NewClient("passthrough:///"+at.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		return conn, func() { _ = conn.Close() }, err
	}})
	defer tell.Close()
	to := func(name, service string) *configv1.Hook {
		return &configv1.Hook{Name: name, To: &configv1.Hook_Service{Service: service}}
	}
	tell.Tell([]*configv1.Hook{to("a", "chat"), to("b", "nowhere")}, transition(), key)
	if got := answers(t, store, 2); got[0] != "a: ok" || got[1] != `b: failed: there is no service "nowhere"` {
		t.Errorf("%q", got)
	}
	later := transition()
	later.State.Number = 8
	tell.Tell([]*configv1.Hook{to("c", "chat")}, later, key)
	if got := answers(t, store, 3); got[2] != "c: failed: FailedPrecondition: not now" || listens.heard.Load() != 8 {
		t.Errorf("%q, %d", got, listens.heard.Load())
	}
	without := New(Options{Store: store})
	defer without.Close()
	without.Tell([]*configv1.Hook{to("d", "chat")}, later, key)
	if got := answers(t, store, 4); got[3] != "d: failed: this sidecar cannot call services of the mesh: it has no outbound" {
		t.Errorf("%q", got)
	}
}

// Hooks that hang hold nothing up: what is beyond a bound is not told, and Close ends them.
func TestHooksThatHang(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	entered := make(chan struct{}, maxRunning)
	tell := New(Options{Store: store, Dial: func(ctx context.Context, _ string) (grpc.ClientConnInterface, func(), error) {
		entered <- struct{}{}
		<-ctx.Done()
		return nil, nil, errors.New("ended")
	}})
	var list []*configv1.Hook
	for i := range maxRunning {
		list = append(list, &configv1.Hook{Name: fmt.Sprintf("h%02d", i), To: &configv1.Hook_Service{Service: "x"}, Timeout: durationpb.New(time.Hour)})
	}
	tell.Tell(list, transition(), key)
	for range maxRunning {
		<-entered
	}
	tell.Tell([]*configv1.Hook{hook("more", "x", time.Hour)}, transition(), key)
	if got := answers(t, store, 1); got[0] != "more: failed: not told: 16 hooks are under way already" {
		t.Errorf("%q", got)
	}
	tell.Close()
	tell.Tell(list, transition(), key) // does nothing
	(*Teller)(nil).Tell(list, transition(), key)
}
