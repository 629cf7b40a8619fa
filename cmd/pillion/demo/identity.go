package demo

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pillion-proxy/pillion/identity/dev"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
)

// trustDomain is the demo's. Its sidecars talk by mutual TLS, as they would in earnest;
// only the CA is one that the demo makes, and forgets.
const trustDomain = "demo.example"

// makeCA makes the CA of which all sidecars get their certificates.
func (f *fleet) makeCA() error {
	_, err := dev.Create(filepath.Join(f.dir, "ca"), spiffeid.RequireTrustDomainFromString(trustDomain))
	return err
}

// identity is the part of a bootstrap that says who a sidecar is.
func (f *fleet) identity(service string) string {
	return fmt.Sprintf("identity: {dev: {ca: ca, id: %q}}\n", "spiffe://"+trustDomain+"/svc/"+service)
}

// whoCalls asks the apps' sidecars who has called them, and how. What cannot be asked is
// left out.
func (f *fleet) whoCalls(ctx context.Context) (told []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), scrapeTimeout)
	defer cancel()
	for i, s := range f.beside {
		callers, err := callersOf(ctx, s.at["admin"])
		if err != nil {
			continue
		}
		for _, c := range callers {
			proven := "without TLS"
			if c.GetSpiffeId() != "" {
				proven = "by mutual TLS as " + c.GetSpiffeId()
			}
			told = append(told, fmt.Sprintf("greeter %s was called %d times from %s, %s", f.names[i], c.GetRpcs(), c.GetHost(), proven))
		}
	}
	slices.SortFunc(told, strings.Compare)
	return told
}

func callersOf(ctx context.Context, admin string) ([]*adminv1.Caller, error) {
	conn, err := grpc.NewClient("passthrough:///"+admin, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	answer, err := adminv1.NewAdminClient(conn).ListCallers(ctx, &adminv1.ListCallersRequest{})
	return answer.GetCallers(), err
}
