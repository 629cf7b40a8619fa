package main

import (
	"context"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/control/experiment"
	"github.com/pillion-proxy/pillion/control/kv/dirkv"
	controlmesh "github.com/pillion-proxy/pillion/control/mesh"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

const experimentDocuments = `experiments:
- name: checkout-button
  service: shop
  methods: [shop.Checkout/*]
  unit: {metadata: user-id}
  variants:
  - {name: blue, weight: 5000}
  - {name: green, weight: 5000}
  holdout: 500
  forced: {tester-1: green}
  measures:
  - success: {}
  - latency: {cap: 10s}
  - {name: revenue, reported: revenue, per_unit: sum, min_effect: 0.2}
`

// experimenter is an elected sidecar, and the admin port of one that asks it.
type experimenter struct {
	adminv1.UnimplementedAdminServer
	address string

	mu      sync.Mutex
	leading controlmesh.Leading
}

// elect has somebody lead the experiments of the service "shop".
func (m *mesh) elect(t *testing.T) *experimenter {
	t.Helper()
	store, err := dirkv.Open(m.store, dirkv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &experimenter{
		address: listener.Addr().String(),
		leading: experiment.Lead(experiment.LeadOptions{ID: "sidecar-1"})(t.Context(), "shop", store, func(*meshv1.ReportResponse) {}),
	}
	server := grpc.NewServer()
	adminv1.RegisterAdminServer(server, e)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		e.leading.Close()
	})
	return e
}

func (e *experimenter) GetResults(_ context.Context, q *adminv1.GetResultsRequest) (*adminv1.GetResultsResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.leading.Results(q.GetName()); r != nil {
		return &adminv1.GetResultsResponse{Results: r}, nil
	}
	return nil, status.Error(codes.NotFound, "admin: there is no such experiment")
}

// count has units be counted, of whom those in green earn a fifth more.
func (e *experimenter) count(t *testing.T, run uint64) {
	t.Helper()
	assignment := policy.NewAssignment([]int{5000, 5000})
	counts := &meshv1.ExperimentCounts{Name: "checkout-button", Run: run, Epoch: 7}
	for i := range uint64(8000) {
		unit := i*0x9E3779B97F4A7C15 + 1
		variant := assignment.Group(unit)
		revenue := float64(i%7) * (1 + 0.2*float64(variant))
		rpcs := 1 + i%4
		counts.Units = append(counts.Units, &meshv1.UnitCounts{Unit: unit, Variant: uint32(variant), Measures: []*meshv1.MeasureCounts{
			{Count: rpcs, Sum: float64(rpcs) - math.Floor(float64(i%50)/49)},
			{Count: rpcs, Sum: float64(rpcs) * (0.05 + 0.001*float64(i%40))},
			{Count: rpcs, Sum: revenue},
		}})
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	// The elected sidecar takes over what it has written after others see it in the store, and
	// does not compute results anew within a second.
	deadline := time.Now().Add(10 * time.Second)
	until := func(what string, is func() bool) {
		for !is() {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	variants := func() []*meshv1.VariantResults { return e.leading.Results("checkout-button").GetVariants() }
	until("the run does not come to be known", func() bool { return len(variants()) > 0 })
	e.leading.Take(&meshv1.Hello{Id: "sidecar-2", Process: 2, About: "shop"}, &meshv1.ReportRequest{Experiments: []*meshv1.ExperimentCounts{counts}})
	until("what was counted does not come to be known", func() bool { return variants()[0].GetUnits() > 0 })
}

// What commands say of an experiment from its plan to its report.
func TestExperimentCommands(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "d.yaml", experimentDocuments)
	var all strings.Builder
	e := m.elect(t)
	run := func(line string, args ...string) {
		t.Helper()
		text := strings.ReplaceAll(m.says(t, line, args...), e.address, "ADMIN")
		text = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d UTC`).ReplaceAllString(text, "2026-01-31 12:00 UTC")
		all.WriteString(text + "\n")
	}
	run("experiment plan -f d.yaml --units-per-day 5000 --baseline success=0.99 --baseline latency=0.07,0.03 --baseline revenue=3,2")
	run("experiment status")
	run("experiment start -f d.yaml --author ann", "-m", "does green sell better?")
	run("experiment status")
	e.count(t, 1)
	run("experiment report checkout-button --admin", e.address)
	run("experiment plan checkout-button --units-per-day 5000 --baseline-from checkout-button --admin", e.address)
	run("experiment start checkout-button --author bob")
	run("experiment stop checkout-button --author ann", "-m", "green it is")
	run("experiment report checkout-button --admin 127.0.0.1:1")
	run("experiment history checkout-button")
	golden(t, "experiment", all.String())

	page := filepath.Join(t.TempDir(), "report.html")
	if said := m.says(t, "experiment report checkout-button --admin 127.0.0.1:1 -o html --save", page); strings.Contains(said, "exit code") {
		t.Error(said)
	}
	if data, err := os.ReadFile(page); err != nil || !strings.Contains(string(data), "checkout-button") {
		t.Errorf("the page is %q, %v", data, err)
	}
	if said := m.says(t, "experiment report checkout-button --admin 127.0.0.1:1 -o json"); !strings.Contains(said, `"verdict": "better"`) {
		t.Errorf("as JSON: %s", said)
	}
}

func TestWrongExperimentCommands(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "d.yaml", experimentDocuments, "none.yaml", "policies: []\n")
	var all strings.Builder
	m.says(t, "apply -f d.yaml")
	for _, line := range []string{
		"experiment start", "experiment start nothing", "experiment start -f none.yaml", "experiment start other -f d.yaml",
		"experiment stop", "experiment stop checkout-button", "experiment report checkout-button", "experiment report checkout-button -o xml",
		"experiment history checkout-button", "experiment status checkout-button", "experiment start checkout-button --timeout 1ms",
		"experiment plan", "experiment plan nothing", "experiment plan -f none.yaml", "experiment plan checkout-button",
		"experiment plan checkout-button --baseline success", "experiment plan checkout-button --baseline success=x",
		"experiment plan checkout-button --baseline success=1,-1", "experiment plan checkout-button --baseline other=1,1",
		"experiment plan checkout-button --baseline success=0.5 --units-per-day -1", "experiment plan checkout-button --baseline-from checkout-button",
	} {
		all.WriteString(m.says(t, line) + "\n")
	}
	golden(t, "experiment_wrong", all.String())
}
