package server

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// shownControl knows the canary and the experiment "new" of the service "greeter".
type shownControl struct{}

func (shownControl) Recorded() *adminv1.ListRecordedResponse {
	return &adminv1.ListRecordedResponse{OneIn: 100, List: []*adminv1.RecordedRPC{{Service: "greeter", Path: "/a.B/C"}}}
}

func (c shownControl) Evidence(_ context.Context, service, name string) (*meshv1.EvidenceResponse, error) {
	state, err := c.find(service, name)
	return &meshv1.EvidenceResponse{State: state, Waiting: "for RPCs"}, err
}

func (c shownControl) Results(_ context.Context, service, name string) (*meshv1.ResultsResponse, error) {
	state, err := c.find(service, name)
	return &meshv1.ResultsResponse{State: state, Sidecars: 5}, err
}

func (shownControl) find(service, name string) (*controlv1.RunState, error) {
	switch {
	case service != "greeter":
		return nil, status.Error(codes.Unavailable, "nobody is elected")
	case name != "new":
		return nil, status.Error(codes.NotFound, "there is none of this name")
	}
	return &controlv1.RunState{Name: name, Service: service}, nil
}

func TestControl(t *testing.T) {
	t.Parallel()
	r := start(t, Options{Control: shownControl{}})
	client := adminv1.NewAdminClient(r.dial(t))
	recorded, err := client.ListRecorded(t.Context(), &adminv1.ListRecordedRequest{})
	if err != nil || recorded.GetOneIn() != 100 || recorded.GetList()[0].GetPath() != "/a.B/C" {
		t.Errorf("recorded: %v, %v", recorded, err)
	}
	for _, c := range []struct {
		service, name string
		code          codes.Code
		page          int
	}{
		{"greeter", "new", codes.OK, http.StatusOK},
		{"greeter", "old", codes.NotFound, http.StatusNotFound},
		{"other", "new", codes.Unavailable, http.StatusBadGateway},
		{"greeter", "", codes.InvalidArgument, http.StatusBadRequest},
		{"", "new", codes.InvalidArgument, http.StatusBadRequest},
	} {
		evidence, err := client.GetEvidence(t.Context(), &adminv1.GetEvidenceRequest{Service: c.service, Name: c.name})
		if status.Code(err) != c.code || err == nil && evidence.GetEvidence().GetWaiting() != "for RPCs" {
			t.Errorf("evidence of %q's %q: %v, %v", c.service, c.name, evidence, err)
		}
		results, err := client.GetResults(t.Context(), &adminv1.GetResultsRequest{Service: c.service, Name: c.name})
		if status.Code(err) != c.code || err == nil && results.GetResults().GetSidecars() != 5 {
			t.Errorf("results of %q's %q: %v, %v", c.service, c.name, results, err)
		}
		for _, page := range []string{"evidence", "results"} {
			got := r.do(t, "GET", "/control/"+page+"?service="+c.service+"&name="+c.name)
			if got.code != c.page || c.page != http.StatusOK && strings.Count(got.body, "\n") != 1 {
				t.Errorf("the page %s of %q's %q: %d %s", page, c.service, c.name, got.code, got.body)
			}
		}
	}
	if got := r.do(t, "GET", "/control/recorded"); got.code != http.StatusOK || !strings.Contains(got.body, `"path": "/a.B/C"`) {
		t.Errorf("the page of recorded RPCs: %d %s", got.code, got.body)
	}
}

func TestWithoutControl(t *testing.T) {
	t.Parallel()
	r := start(t, Options{})
	client := adminv1.NewAdminClient(r.dial(t))
	_, recorded := client.ListRecorded(t.Context(), &adminv1.ListRecordedRequest{})
	_, evidence := client.GetEvidence(t.Context(), &adminv1.GetEvidenceRequest{Service: "a", Name: "b"})
	_, results := client.GetResults(t.Context(), &adminv1.GetResultsRequest{Service: "a", Name: "b"})
	for _, err := range []error{recorded, evidence, results} {
		if status.Code(err) != codes.Unimplemented {
			t.Error(err)
		}
	}
	if got := r.do(t, "GET", "/control/recorded"); got.code != http.StatusNotFound {
		t.Errorf("the page: %d %s", got.code, got.body)
	}
}
