package main

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/canary"
	"github.com/pillion-proxy/pillion/control/kv/dirkv"
	"github.com/pillion-proxy/pillion/control/requests"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

const canaryDocuments = `policies:
- name: parts
  service: greeter
  subsets: {subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}}}}
canaries:
- name: greeter-v2
  service: greeter
  stable: v1
  canary: v2
  steps: [{weight: 1000, manual: true}, {weight: 5000, manual: true}]
  guards: {errors: [{}]}
`

// elected has somebody do what commands ask for the service "greeter".
func (m *mesh) elected(t *testing.T) {
	t.Helper()
	store, err := dirkv.Open(m.store, dirkv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l := canary.Lead(canary.LeadOptions{ID: "sidecar-1"})(t.Context(), "greeter", store, func(*meshv1.ReportResponse) {})
	t.Cleanup(l.Close)
}

// What commands say of a canary from its file to its end, and of a shift.
func TestCanaryCommands(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "d.yaml", canaryDocuments)
	var all strings.Builder
	run := func(line string, args ...string) {
		t.Helper()
		all.WriteString(m.says(t, line, args...) + "\n")
	}
	run("apply -f d.yaml --author ann")
	run("canary status")
	run("canary status greeter-v2 --admin 127.0.0.1:1")
	m.elected(t)
	run("canary start greeter-v2 --author ann")
	run("canary promote greeter-v2 --author ann", "-m", "looks good")
	run("canary pause greeter-v2 --author bob")
	run("canary pause greeter-v2 --author bob")
	run("canary status")
	run("canary resume greeter-v2 --author bob")
	run("traffic shift shift --service greeter --from v1 --to v2 --steps 10%,50%,100% --hold 1m --author bob")
	run("canary promote greeter-v2 --fully --author ann")
	run("canary status greeter-v2 --wait")
	run("canary status greeter-v2")
	run("traffic shift shift --service greeter --from v1 --to v2 --steps 0.5%,50%,100% --hold 1m --author bob")
	run("get canary/shift -o yaml")
	run("canary abort shift --author bob")
	run("canary status shift --wait")
	run("delete canary/shift")
	run("canary abort shift --author bob")
	run("rollback canary/shift --author bob")
	run("canary start -f d.yaml --author ann", "-m", "once more")
	run("canary history greeter-v2")
	golden(t, "canary", all.String())
}

func TestWrongCanaryCommands(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "d.yaml", canaryDocuments, "none.yaml", "policies: []\n")
	var all strings.Builder
	m.says(t, "apply -f d.yaml")
	for _, line := range []string{
		"canary start", "canary start nothing", "canary start -f none.yaml", "canary start other -f d.yaml", "canary abort", "canary history nothing",
		"canary history greeter-v2", "canary start greeter-v2 --timeout 1ms", "canary pause greeter-v2 --timeout 0s", "canary status greeter-v2 -o xml",
		"canary status --wait", "canary status greeter-v2 --wait", "canary status greeter-v2 --wait --watch", "canary status greeter-v2 --wait -o json", "traffic shift",
		"traffic shift s --service greeter --from v1 --to v2 --steps 10%,5%",
		"traffic shift s --service greeter --from v1 --to v1 --steps 10%",
		"traffic shift s --service greeter --from v1 --to v3 --steps 10%",
		"traffic shift s --service greeter --from v1 --to v2 --steps 10",
		"traffic shift s --service greeter --from v1 --to v2 --steps 0.001%",
		"traffic shift s --service greeter --from v1 --to v2 --steps 101%",
		"traffic shift s --service greeter --from v1 --to v2 --steps NaN%",
	} {
		all.WriteString(m.says(t, line) + "\n")
	}
	golden(t, "canary_wrong", all.String())
}

// A canary that runs for another service than its document is for can be ended, and is not
// started for a second one beside that.
func TestCanaryThatWasMoved(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "d.yaml", canaryDocuments, "moved.yaml", strings.ReplaceAll(strings.Replace(canaryDocuments, "name: parts", "name: others", 1), "service: greeter", "service: other"))
	m.says(t, "apply -f d.yaml")
	m.elected(t)
	m.says(t, "canary start greeter-v2 --author ann")
	m.says(t, "delete canary/greeter-v2 --force")
	for _, c := range []struct{ line, want string }{
		{"canary start greeter-v2", "canary greeter-v2: it still runs for the service greeter, for which there is no document of it any more: end that first (pillion canary abort greeter-v2)"},
		{"apply -f moved.yaml", "canary/greeter-v2 created (revision 3)"},
		{"canary start greeter-v2", "canary greeter-v2: it still runs for the service greeter, for which there is no document of it any more: end that first (pillion canary abort greeter-v2)"},
		{"canary status greeter-v2", "canary greeter-v2 of greeter: running, step 1 of 2, 10%"},
		{"canary abort greeter-v2", "canary greeter-v2: aborted, step 1 of 2, 0%"},
		{"canary start greeter-v2 --timeout 0s", "canary greeter-v2: asked for, as request 1"},
	} {
		if said := m.says(t, c.line); !strings.Contains(said, c.want) {
			t.Errorf("%s, not %s", said, c.want)
		}
	}
}

// evidence answers for a sidecar.
type evidence struct {
	adminv1.UnimplementedAdminServer
	answer *meshv1.EvidenceResponse
}

func (e *evidence) GetEvidence(context.Context, *adminv1.GetEvidenceRequest) (*adminv1.GetEvidenceResponse, error) {
	return &adminv1.GetEvidenceResponse{Evidence: e.answer}, nil
}

// A running sidecar says what is counted just now.
func TestCanaryStatusLive(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "d.yaml", canaryDocuments)
	m.says(t, "apply -f d.yaml")
	m.elected(t)
	m.says(t, "canary start greeter-v2 --author ann")
	store, err := dirkv.Open(m.store, dirkv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	state, err := requests.State(t.Context(), store, requests.Subject{Kind: control.Canary, Service: "greeter", Name: "greeter-v2"})
	if err != nil || state == nil {
		t.Fatal(state, err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	adminv1.RegisterAdminServer(server, &evidence{answer: &meshv1.EvidenceResponse{
		State: state, Next: timestamppb.New(time.Now()), Waiting: "the step's time, 1m0s, to be over", Tripped: []string{"caller-3"},
		Guards: []*controlv1.GuardState{{Name: "errors/against_stable", P: 0.0421}},
		Tally:  &controlv1.Tally{StableRpcs: 9000, StableFailures: 9, CanaryRpcs: 1000, CanaryFailures: 5, StableLatency: 0.0123, CanaryLatency: 0.2, Sidecars: 5},
	}})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	golden(t, "canary_live", strings.ReplaceAll(m.says(t, "canary status greeter-v2 --admin", listener.Addr().String()), listener.Addr().String(), "ADMIN"))
}

// A state that somebody has written into the store as he likes harms no terminal.
func TestCanaryHostileState(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "d.yaml", canaryDocuments)
	m.says(t, "apply -f d.yaml")
	m.elected(t)
	m.says(t, "canary start greeter-v2 --author \x1b[31mann", "-m", "one\ntwo\x1b]0;title\x07")
	store, err := dirkv.Open(m.store, dirkv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	state, err := requests.State(t.Context(), store, requests.Subject{Kind: control.Canary, Service: "greeter", Name: "greeter-v2"})
	if err != nil {
		t.Fatal(err)
	}
	state.By, state.Reason = "\x1b[31mann", "one\ntwo\x1b]0;title\x07"
	for _, says := range []string{m.says(t, "canary status"), canaryText(io.Discard, &meshv1.EvidenceResponse{State: state}, false), m.says(t, "canary history greeter-v2")} {
		if strings.ContainsAny(says, "\x1b\x07") || !strings.Contains(says, "one two") {
			t.Errorf("%q", says)
		}
	}
}
