package docs_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/proxy/access"
)

// Callers may do what the table of docs/policy.md says.
func TestPolicyAccess(t *testing.T) {
	t.Parallel()
	own := spiffeid.RequireTrustDomainFromString("example.org")
	checked := 0
	for _, e := range examples(t) {
		_, table, ok := strings.Cut(e.text, "| a call of `greeter` by | of | is |\n")
		if !ok || strings.Contains(e.text[:len(e.text)-len(table)], "##") {
			continue
		}
		p := access.New(e.set.Service("greeter").Access(), nil, access.Env{TrustDomain: own, IDs: func(service string) []identity.Pattern {
			id, err := identity.ServiceID("", own, service)
			if err != nil {
				t.Fatal(err)
			}
			pattern, err := identity.ParsePattern(id.String())
			if err != nil {
				t.Fatal(err)
			}
			return []identity.Pattern{pattern}
		}})
		end := strings.Index(table, "\n\n")
		for _, row := range rows(table[:end]) {
			checked++
			var from spiffeid.ID
			if ids := ticked(row[0]); len(ids) > 0 {
				from = spiffeid.RequireFromString(ids[0])
			}
			rpc := rpcOf(t, row[1])
			d := p.ForID(from).Decide(rpc.Path, rpc.Fields)
			got := "let through"
			named := func(by string) string { return strings.ReplaceAll(strings.TrimPrefix(by, "access policy "), `"`, "`") }
			if !d.Allowed {
				got = "refused by " + named(d.By)
			} else if d.Audit != "" {
				got += ", audited by " + named(d.Audit)
			}
			if got != row[2] {
				t.Errorf("a call of %s by %s is %s, and not %s", row[1], fmt.Sprint(row[0]), got, row[2])
			}
		}
	}
	if checked != 9 {
		t.Errorf("%d calls were found, not 9", checked)
	}
}
