package server

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
)

type shownPolicies struct{}

func (shownPolicies) Policies() *adminv1.Policies {
	return &adminv1.Policies{Version: "abc", List: []*adminv1.PolicyStatus{{
		Name: "a", State: adminv1.PolicyState_POLICY_STATE_KEPT, Problems: []string{"p.yaml:1:1: wrong"},
	}}}
}

func (shownPolicies) Explain(_ context.Context, request *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	return &adminv1.ExplainResponse{Service: request.GetAuthority()}, nil
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	r := start(t, Options{Policies: shownPolicies{}})
	client := adminv1.NewAdminClient(r.dial(t))
	config, err := client.GetConfig(t.Context(), &adminv1.GetConfigRequest{})
	if err != nil || config.GetPolicies().GetVersion() != "abc" || config.GetPolicies().GetList()[0].GetProblems()[0] != "p.yaml:1:1: wrong" {
		t.Errorf("%v %v", config, err)
	}
	answer, err := client.Explain(t.Context(), &adminv1.ExplainRequest{Authority: "greeter", Method: "a.B/C"})
	if err != nil || answer.GetService() != "greeter" {
		t.Errorf("%v %v", answer, err)
	}
	// What does not keep the schema's rules never comes so far.
	for _, wrong := range []*adminv1.ExplainRequest{
		{}, {Method: "Hello"}, {Method: "a.B/C", Authority: strings.Repeat("x", 1025)},
		{Method: "a.B/C", Metadata: []*adminv1.Metadata{{}}}, {Method: "a.B/C", Metadata: make([]*adminv1.Metadata, 1001)},
	} {
		for i, m := range wrong.GetMetadata() {
			if m == nil {
				wrong.Metadata[i] = &adminv1.Metadata{Key: "k"}
			}
		}
		if _, err := client.Explain(t.Context(), wrong); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", wrong.GetMethod(), err)
		}
	}
}

func TestWithoutPolicies(t *testing.T) {
	t.Parallel()
	r := start(t, Options{})
	if _, err := adminv1.NewAdminClient(r.dial(t)).Explain(t.Context(), &adminv1.ExplainRequest{Method: "a.B/C"}); status.Code(err) != codes.Unimplemented {
		t.Error(err)
	}
}
