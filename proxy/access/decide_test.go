package access

import "testing"

// who refuses an RPC; "": nobody does.
func TestWhoRefuses(t *testing.T) {
	t.Parallel()
	const orders, second = `access policy "orders"`, `access policy "second"`
	both := func(rules ...string) []*Written { return []*Written{policy(t, "orders", rules...)} }
	for name, c := range map[string]struct {
		policies []*Written
		from     string
		path     string
		metadata string
		by       string
		audit    string
	}{
		"nothing is said":                             {path: list},
		"an allow lets in":                            {both("allow from=web"), web, list, "", "", ""},
		"an allow keeps others out":                   {both("allow from=web"), billing, list, "", orders, ""},
		"who has proven nothing is kept out":          {both("allow from=spiffe://*"), "", list, "", orders, ""},
		"who has proven anything is let in":           {both("allow from=spiffe://*"), foreign, list, "", "", ""},
		"an allow for all is for all":                 {both("allow methods=" + list), "", list, "", "", ""},
		"a deny alone lets others in":                 {both("deny from=web"), billing, list, "", "", ""},
		"a deny alone lets the unproven in":           {both("deny from=spiffe://*"), "", list, "", "", ""},
		"a deny goes before an allow":                 {both("allow from=web", "deny from=web methods="+place), web, place, "", orders, ""},
		"an allow for a method is for no other":       {both("allow from=web methods=" + list), web, place, "", orders, ""},
		"a prefix":                                    {both("allow from=web methods=/shop.Orders/*"), web, place, "", "", ""},
		"another prefix":                              {both("allow from=web methods=/shop.Orders/*"), web, refund, "", orders, ""},
		"a prefix within another":                     {both("deny methods=/shop.*", "allow methods=/shop.Orders/*"), web, list, "", orders, ""},
		"all methods":                                 {both("allow methods=*"), web, list, "", "", ""},
		"a trust domain":                              {both("allow from=spiffe://example.org"), web, list, "", "", ""},
		"another trust domain":                        {both("allow from=spiffe://example.org"), foreign, list, "", orders, ""},
		"a segment":                                   {both("allow from=spiffe://example.org/*/web"), web, list, "", "", ""},
		"the rest":                                    {both("allow from=spiffe://example.org/svc/**"), billing, list, "", "", ""},
		"metadata":                                    {both("allow x-team~a"), web, list, "x-team: a", "", ""},
		"other metadata":                              {both("allow x-team~a"), web, list, "x-team: b", orders, ""},
		"metadata that cannot be told allows nothing": {both("allow x-team~a"), web, list, "x-team: ?", orders, ""},
		"metadata that cannot be told is denied":      {both("deny x-team~a"), web, list, "x-team: ?", orders, ""},
		"audit lets through":                          {both("deny/audit from=web"), web, list, "", "", orders},
		"audit of an allow":                           {both("allow/audit from=web"), billing, list, "", "", orders},
		"audit of an allow that is for it":            {both("allow/audit from=web"), web, list, "", "", ""},
		"audit does not loosen":                       {both("allow from=web", "allow/audit from=billing"), billing, list, "", orders, ""},
		"audit adds to what is enforced":              {both("allow from=web", "allow/audit from=billing"), web, list, "", "", ""},
		"audit of a deny beside an allow":             {both("allow from=web", "deny/audit methods="+place), web, place, "", "", orders},
		"what is off is not there":                    {both("allow/off from=web", "deny/off"), billing, list, "", "", ""},
		"policies hold together, what one allows":     {[]*Written{policy(t, "orders", "allow from=web"), policy(t, "second", "allow from=billing")}, billing, list, "", "", ""},
		"policies hold together, what none allows":    {[]*Written{policy(t, "orders", "allow from=web"), policy(t, "second", "allow from=billing")}, foreign, list, "", orders + " (and 1 other)", ""},
		"policies hold together, what one denies":     {[]*Written{policy(t, "orders", "allow"), policy(t, "second", "deny from=web")}, web, list, "", second, ""},
		"of several that deny, the first is named": {
			[]*Written{policy(t, "orders", "deny from=spiffe://*"), policy(t, "second", "deny from=web")}, web, list, "", orders, "",
		},
		"of several that deny by metadata, the first is named": {
			[]*Written{policy(t, "orders", "deny methods=/shop.* x-team~a"), policy(t, "second", "deny methods="+list+" x-team~a")}, web, list, "x-team: a", orders, "",
		},
		"a path that a server may take for another is denied":      {both("deny methods=" + place), web, "/shop.Orders/%50lace", "", orders, ""},
		"a path that a server may take for another is not allowed": {both("allow methods=/shop.*"), web, place + "?x", "", orders, ""},
		"such a path is let through by what is for all":            {both("allow"), web, place + "?x", "", "", ""},
		"a name that nobody knows is nobody's":                     {both("allow from=..."), web, list, "", orders, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var metadata []string
			if c.metadata != "" {
				metadata = append(metadata, c.metadata)
			}
			caller := New(NewRules(c.policies...), nil, env).ForID(id(c.from))
			d := caller.Decide(c.path, request(c.path, metadata...))
			if d.By != c.by || d.Allowed != (c.by == "") || d.Audit != c.audit {
				t.Errorf("%+v, and by %q, audit %q is wanted", d, c.by, c.audit)
			}
		})
	}
}

func TestMessageNamesThePolicyAlone(t *testing.T) {
	t.Parallel()
	p := New(NewRules(policy(t, "orders", "allow from=billing methods="+list+" x-secret~s3cret")), nil, env)
	for from, want := range map[string]string{
		web: `access policy "orders" refuses spiffe://example.org/svc/web`,
		"":  `access policy "orders" refuses callers who have proven no identity`,
	} {
		caller := p.ForID(id(from))
		d := caller.Decide(place, request(place))
		if got := caller.Message(&d); got != want {
			t.Errorf("%s", got)
		}
	}
}
