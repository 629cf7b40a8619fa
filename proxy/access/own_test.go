package access

import (
	"slices"
	"testing"
)

// Rules that name the sidecar's own methods hold for those alone, and others do not.
func TestOwnMethods(t *testing.T) {
	t.Parallel()
	const (
		report   = OwnPrefix + "Report"
		byPolicy = `access policy "p"`
	)
	all := []string{"", web, billing, foreign}
	for name, c := range map[string]struct {
		rules []string
		// report and call are who may report, and who may call the app.
		report, call []string
	}{
		"nothing is said":               {nil, all, all},
		"of the app's methods":          {[]string{"allow from=web methods=" + list}, all, []string{web}},
		"of all methods":                {[]string{"deny from=web", "deny methods=/pillion.*"}, all, []string{"", billing, foreign}},
		"who may report":                {[]string{"allow from=web methods=" + OwnPrefix + "*"}, []string{web}, all},
		"who may report, and who call":  {[]string{"allow from=web methods=" + report, "allow from=billing"}, []string{web}, []string{billing}},
		"who may not report":            {[]string{"deny from=web methods=" + report}, []string{"", billing, foreign}, all},
		"both in one rule":              {[]string{"allow from=web methods=" + report + "," + list}, []string{web}, []string{web}},
		"who has an identity at all":    {[]string{"allow from=spiffe://example.org methods=" + report}, []string{web, billing}, all},
		"only to be told of":            {[]string{"allow/audit from=web methods=" + report}, all, all},
		"not in force":                  {[]string{"deny/off methods=" + report}, all, all},
		"another of the sidecar's own":  {[]string{"deny methods=" + OwnPrefix + "Results"}, all, all},
		"it is none of the sidecar's":   {[]string{"deny methods=/pillion.mesh.v1.MeshX/Report"}, all, all},
		"a service that begins so also": {[]string{"deny from=web methods=" + list, "allow methods=" + OwnPrefix + "*"}, all, []string{"", billing, foreign}},
	} {
		p := New(NewRules(policy(t, "p", c.rules...)), nil, env)
		var reporting, calling []string
		for _, from := range all {
			caller := p.ForID(id(from))
			switch by := caller.RefusedOwn(report); by {
			case "":
				reporting = append(reporting, from)
			case byPolicy:
			default:
				t.Errorf("%s: %q refuses %s", name, by, from)
			}
			if caller.Decide(list, nil).Allowed {
				calling = append(calling, from)
			}
		}
		if !slices.Equal(reporting, c.report) || !slices.Equal(calling, c.call) {
			t.Errorf("%s: %q may report and %q call, want %q and %q", name, reporting, calling, c.report, c.call)
		}
	}
}
