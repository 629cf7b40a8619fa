package relay

import (
	"fmt"
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/proxy/access"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// guarded is the inbound side's rig, whose callers may have an identity.
type guarded struct {
	*rig
	gate  *access.Gate
	conns []*h2.Conn
	ca    *identitytest.Authority
}

func newGuarded(t *testing.T, o options) *guarded {
	t.Helper()
	g := &guarded{gate: new(access.Gate), ca: identitytest.CA(t, "mesh.test")}
	o.Side, o.Access = telemetry.Inbound, g.gate
	g.rig = newRig(t, o)
	return g
}

// by connects a caller: who it has proven to be, "" for nobody.
func (g *guarded) by(path, name string) *scriptpeer.Peer {
	g.t.Helper()
	var peer *identity.Peer
	if path != "" {
		leaf := g.ca.Issue(path).Leaf
		id, err := identity.IDOf(leaf)
		if err != nil {
			g.t.Fatal(err)
		}
		peer = &identity.Peer{ID: id, Leaf: leaf}
	}
	here, there := net.Pipe()
	c := h2.New(h2.NewTransport(named{there}), h2.Server, g.http2, callers{g.proxy})
	own := spiffeid.RequireFromString("spiffe://mesh.test/svc/greeter")
	c.Data = NewCaller(peer, name, own, g.counters.Callers.Connected(telemetry.CallerKey{ID: path, Host: "caller"}))
	g.conns = append(g.conns, c)
	go c.Serve()
	p := scriptpeer.Client(g.t, here)
	g.t.Cleanup(p.Close)
	return p
}

// put puts rules in force, and has RPCs under way looked at.
func (g *guarded) put(rules ...access.Rule) {
	g.gate.Set(access.New(access.NewRules(&access.Written{Name: "who", Rules: rules}), nil, access.Env{}))
	g.proxy.Recheck(g.conns)
}

func from(t testing.TB, ids ...string) (all []access.From) {
	t.Helper()
	for _, id := range ids {
		f, err := access.ParseFrom(id)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	return all
}

func allow(from []access.From, methods ...string) access.Rule {
	r := access.Rule{Name: "1", Allow: true, From: from}
	for _, m := range methods {
		r.Methods = append(r.Methods, access.Selector{Path: m, Exact: true})
	}
	return r
}

// says is a condition on metadata: a field has this value.
type says [2]string

func (s says) Holds(fields []hpack.Field, _ bool) bool {
	return slices.ContainsFunc(fields, func(f hpack.Field) bool { return f.Name == s[0] && f.Value == s[1] })
}

func (s says) Why([]hpack.Field) string { return "no" }

// The app is told who calls by the sidecar alone, whatever callers say, and the rest of
// the request is as it was.
func TestClaimsOfCallers(t *testing.T) {
	simulated(t, func(t *testing.T) {
		// Each RPC is told a timeout, where the request has its own or at the end.
		g := newGuarded(t, options{Config: Config{MaxTimeout: 500 * time.Millisecond}})
		a := g.listen(1)[0]
		timeout := "grpc-timeout 500000u"
		for i, c := range []struct {
			caller *scriptpeer.Peer
			says   []string
			want   []string // of the fields that are about it, and the timeout
		}{
			{g.by("", ""), nil, []string{timeout}},
			{g.by("", ""), []string{"pillion-peer", "spiffe://mesh.test/svc/admin"}, []string{timeout}},
			{g.by("", ""), []string{"x-forwarded-client-cert", "a", "grpc-timeout", "1S", "pillion-peer", "b", "x-forwarded-client-cert", "c"}, []string{timeout}},
			{g.by("", ""), []string{"pillion-peer", "a", "pillion-peer", "b", "grpc-timeout", "1S"}, []string{timeout}},
			{g.by("/svc/web", "web"), []string{"grpc-timeout", "1S"}, []string{timeout, "pillion-peer spiffe://mesh.test/svc/web", "xfcc"}},
			{g.by("/svc/web", "web"), []string{"pillion-peer", "", "grpc-timeout", "1S", "x-forwarded-client-cert", "By=spiffe://mesh.test/svc/admin"}, []string{timeout, "pillion-peer spiffe://mesh.test/svc/web", "xfcc"}},
			{g.by("/svc/web", "web"), []string{"pillion-peer", "x"}, []string{"pillion-peer spiffe://mesh.test/svc/web", "xfcc", timeout}},
		} {
			c.caller.Request(1, "/a.B/C", true, append(slices.Clone(c.says), "x-last", "kept")...)
			frames := a.Conn().Frames()
			request := frames[len(frames)-1]
			var got []string
			last := ""
			for _, f := range request.Fields {
				switch f.Name {
				case wire.HeaderForwardedClientCert:
					if !strings.HasPrefix(f.Value, "By=spiffe://mesh.test/svc/greeter;Hash=") || !strings.HasSuffix(f.Value, ";URI=spiffe://mesh.test/svc/web") {
						t.Errorf("%d: the app is told %s", i, f.Value)
					}
					got = append(got, "xfcc")
				case wire.HeaderPeer, wire.HeaderTimeout:
					got = append(got, f.Name+" "+f.Value)
				case "x-last":
					last = f.Value
				}
			}
			if !slices.Equal(got, c.want) || last != "kept" {
				t.Errorf("%d: the app is told %q, want %q; all of it: %v", i, got, c.want, request.Fields)
			}
			a.Conn().TrailersOnly(request.Stream, "0")
			c.caller.Frames()
		}
	})
}

// On the outbound side nothing is removed: the app's own sidecar is not who it is
// believed by.
func TestClaimsOnTheOutboundSide(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{Config: Config{Side: telemetry.Outbound}})
		a := r.listen(1)[0]
		r.Request(1, "/a.B/C", true, "pillion-peer", "x")
		if f := a.Conn().Frames(); f[len(f)-1].Get("pillion-peer") != "x" {
			t.Errorf("the instance got %v", f)
		}
		a.Conn().TrailersOnly(1, "0")
		r.Frames()
	})
}

// Policies know a caller that has proven who it is by its service's name, and others by
// their address.
func TestPoliciesKnowTheCaller(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g := newGuarded(t, options{Config: Config{Random: even}})
		a := g.listen(1)[0]
		g.obey(`
- {name: few, service: greeter, inbound: true, rate_limit: {limits: [{requests: 2, interval: 60s, key: {caller: true}}]}}
- {name: batch, service: greeter, inbound: true, fault: {match: {callers: [batch]}, abort: {status: {code: ABORTED}, fraction: 10000}}}
`)
		for _, c := range []struct {
			caller *scriptpeer.Peer
			want   string
		}{
			{g.by("/svc/web", "web"), "0"},
			{g.by("/svc/web", "web"), "0"}, // on another connection
			{g.by("/svc/web", "web"), "8"},
			{g.by("/svc/other", "other"), "0"},
			{g.by("/svc/batch", "batch"), "10"},
			{g.by("", ""), "0"},
			{g.by("", ""), "0"},
			{g.by("", ""), "8"}, // all come from one address
		} {
			c.caller.Request(1, "/a.B/C", true)
			synctest.Wait()
			if len(a.Conns()) > 0 {
				for _, f := range a.Conn().Frames() {
					if f.Get(":path") != "" {
						a.Conn().TrailersOnly(f.Stream, "0")
					}
				}
			}
			if f := c.caller.Frames(); len(f) == 0 || f[len(f)-1].Get("grpc-status") != c.want {
				t.Errorf("the caller got %v, want status %s", f, c.want)
			}
		}
	})
}

// What access rules refuse is answered at once, and is none of the app's business.
func TestAccessDenied(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g := newGuarded(t, options{})
		a := g.listen(1)[0]
		g.put(allow(from(t, "spiffe://mesh.test/svc/web"), "/a.B/C"))
		web, other, nobody := g.by("/svc/web", "web"), g.by("/svc/other", "other"), g.by("", "")
		for _, c := range []struct {
			caller             *scriptpeer.Peer
			path, code         string
			message            string
			source, id, status string
		}{
			{web, "/a.B/C", "0", "", "web", "spiffe://mesh.test/svc/web", "OK"},
			{web, "/a.B/D", "7", `access policy "who" refuses spiffe://mesh.test/svc/web`, "web", "spiffe://mesh.test/svc/web", "PERMISSION_DENIED"},
			{other, "/a.B/C", "7", `access policy "who" refuses spiffe://mesh.test/svc/other`, "other", "spiffe://mesh.test/svc/other", "PERMISSION_DENIED"},
			{nobody, "/a.B/C", "7", `access policy "who" refuses callers who have proven no identity`, "", "", "PERMISSION_DENIED"},
		} {
			id := uint32(1)
			if c.path == "/a.B/D" {
				id = 3
			}
			c.caller.Request(id, c.path, true)
			if c.code == "0" {
				a.Conn().TrailersOnly(id, "0")
			}
			answer := c.caller.Frames()
			head := answer[len(answer)-1]
			flag := map[string]string{"7": "UAEX"}[c.code]
			if head.Get("grpc-status") != c.code || wire.DecodeMessage(head.Get("grpc-message")) != c.message || head.Get("pillion-flags") != flag || !head.End {
				t.Errorf("%s of %q: %v", c.path, c.id, answer)
			}
			g.logged(map[string]any{"source": c.source, "identity": c.id, "status": c.status, "flag": flag, "message": c.message})
		}
		if n := g.failures(wire.FlagAccessDenied); n != 0 {
			t.Errorf("%d failures of the app", n)
		}
		if n := g.counts.Attempts.Load(); n != 1 {
			t.Errorf("%d RPCs went to the app, want 1", n)
		}
		callers, _ := g.counters.Callers.Report()
		if len(callers) != 3 {
			t.Errorf("callers: %+v", callers)
		}
	})
}

// What is in mode audit is let through, and told of.
func TestAccessAudited(t *testing.T) {
	simulated(t, func(t *testing.T) {
		var told []string
		g := newGuarded(t, options{Config: Config{Audited: func(caller, path, by string) { told = append(told, caller+" "+path+" "+by) }}})
		a := g.listen(1)[0]
		rule := allow(from(t, "spiffe://mesh.test/svc/web"))
		rule.Mode = access.Audit
		g.put(rule)
		other := g.by("/svc/other", "other")
		other.Request(1, "/a.B/C", true)
		a.Conn().TrailersOnly(1, "0")
		if f := other.Frames(); f[len(f)-1].Get("grpc-status") != "0" {
			t.Errorf("the caller got %v", f)
		}
		synctest.Wait()
		if want := []string{`spiffe://mesh.test/svc/other /a.B/C access policy "who"`}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}

// RPCs under way that are refused by other rules end at once, wherever they are, and
// those that are not go on.
func TestAccessTakenAway(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g := newGuarded(t, options{})
		a := g.listen(1)[0]
		both := from(t, "spiffe://mesh.test/svc/web", "spiffe://mesh.test/svc/other")
		g.put(allow(both))
		web, other := g.by("/svc/web", "web"), g.by("/svc/other", "other")
		web.Request(1, "/a.B/Waiting", false) // not answered yet
		web.Request(3, "/a.B/Between", false) // between two messages of the answer
		web.Request(5, "/a.B/Within", false)  // within one
		web.Request(7, "/a.B/Kept", false)
		other.Request(1, "/a.B/C", false)
		app := a.Conn()
		ids := map[string]uint32{}
		for _, f := range app.Frames() {
			if path := f.Get(":path"); path != "" {
				ids[path] = f.Stream
			}
		}
		for _, path := range []string{"/a.B/Between", "/a.B/Within", "/a.B/Kept"} {
			app.Response(ids[path])
			app.Message(ids[path], 10, false)
		}
		app.Data(ids["/a.B/Within"], []byte{0, 0, 0, 0, 9, 1}, false)
		web.Frames()
		other.Frames()
		app.Frames()

		began := time.Now()
		g.put(allow(both, "/a.B/C"), allow(both[:1], "/a.B/Kept"))
		synctest.Wait()
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
		ends := map[uint32]string{}
		for _, f := range web.Frames() {
			switch {
			case f.Get("grpc-status") != "":
				ends[f.Stream] += "status " + f.Get("grpc-status") + " " + f.Get("pillion-flags")
			case f.Type == http2.FrameRSTStream && f.Code != http2.ErrCodeNo: // the rest of the request is not wanted
				ends[f.Stream] += f.String()
			}
		}
		if len(ends) != 3 || ends[1] != "status 7 UAEX" || ends[3] != "status 7 UAEX" || !strings.Contains(ends[5], "INADEQUATE_SECURITY") {
			t.Errorf("RPCs ended as %v", ends)
		}
		if f := other.Frames(); len(f) != 0 {
			t.Errorf("another caller got %v", f)
		}
		cancelled := map[uint32]bool{}
		for _, f := range app.Frames() {
			if f.Type == http2.FrameRSTStream {
				cancelled[f.Stream] = true
			}
		}
		if len(cancelled) != 3 || cancelled[ids["/a.B/Kept"]] || cancelled[ids["/a.B/C"]] {
			t.Errorf("the app's RPCs %v were cancelled, of %v", cancelled, ids)
		}
		app.Message(ids["/a.B/Kept"], 10, false)
		app.Trailers(ids["/a.B/Kept"], "0")
		app.TrailersOnly(ids["/a.B/C"], "0")
		if f := web.Frames(); len(f) < 2 || f[1].Get("grpc-status") != "0" {
			t.Errorf("the RPC that goes on: %v", f)
		}
		if f := other.Frames(); len(f) < 1 || f[0].Get("grpc-status") != "0" {
			t.Errorf("the other caller's: %v", f)
		}
	})
}

// Rules that look at metadata look at what the caller sent, however long ago, though the
// request was changed on its way. Where nothing was kept of it, since no rule wanted
// that, the RPC has to be made again.
func TestAccessByMetadata(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g := newGuarded(t, options{budget: 1 << 20})
		a := g.listen(1)[0]
		tenant := func(value string, then ...access.Rule) []access.Rule {
			return append(then, access.Rule{Name: "tenant", Allow: true, Metadata: says{"x-tenant", value}})
		}
		web := g.by("/svc/web", "web")
		open := func(id uint32, pairs ...string) {
			t.Helper()
			web.Request(id, "/a.B/C", false, pairs...)
			app := a.Conn()
			app.Response(id)
			app.Message(id, 1, false)
			app.Frames()
			web.Frames()
		}
		status := func() map[uint32]string {
			ends := map[uint32]string{}
			for _, f := range web.Frames() {
				if s := f.Get("grpc-status"); s != "" {
					ends[f.Stream] = s + " " + f.Get("pillion-flags")
				}
			}
			return ends
		}
		open(1, "x-tenant", "a") // nothing is kept of it
		g.put(tenant("a")...)
		if got := status(); len(got) != 1 || got[1] != "14 UAEX" {
			t.Errorf("an RPC of which nothing was kept: %v", got)
		}
		open(3, "x-tenant", "a")
		open(5, "x-tenant", "a", "x-large", strings.Repeat("x", 6000))
		if n := g.cfgBudget(); n < 6000 {
			t.Errorf("%d bytes of the budget are taken for a request of 6000", n)
		}
		g.put(tenant("a", allow(from(t, "spiffe://mesh.test/svc/other")))...) // other rules, to the same effect
		if got := status(); len(got) != 0 {
			t.Errorf("RPCs that may go on: %v", got)
		}
		g.put(tenant("b")...)
		if got := status(); len(got) != 2 || got[3] != "7 UAEX" || got[5] != "7 UAEX" {
			t.Errorf("RPCs of another tenant: %v", got)
		}
		g.put() // nothing restricts anything
		open(7)
		g.put(allow(from(t, "spiffe://mesh.test/svc/web")))
		if got := status(); len(got) != 0 {
			t.Errorf("an RPC of which nothing need be known: %v", got)
		}
		a.Conn().Trailers(7, "0")
		web.Frames()
	})
}

func (g *guarded) cfgBudget() int64 { return g.http2.Budget.Used() }

// 10,000 RPCs under way are looked at again within a second, and in steps.
func TestRecheckOfMany(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g := newGuarded(t, options{http2: h2.Config{MaxConcurrentStreams: 2000}})
		a := g.listen(1)[0]
		const conns, each = 5, 200
		var peers []*scriptpeer.Peer
		for range conns {
			p := g.by("/svc/web", "web")
			for i := range each {
				p.Request(uint32(2*i+1), "/a.B/C", false)
			}
			peers = append(peers, p)
		}
		synctest.Wait()
		a.Conn().Frames()
		g.put(allow(from(t, "spiffe://mesh.test/svc/other")))
		for _, p := range peers {
			n := 0
			for _, f := range p.Frames() {
				if f.Get("grpc-status") == "7" {
					n++
				}
			}
			if n != each {
				t.Errorf("%d RPCs of a connection ended, want %d", n, each)
			}
		}
	})
}

// A caller's identity and access rules allocate nothing for an RPC.
func TestIdentityAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has pools forget some of what they are given")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	cost := map[string]float64{}
	for _, name := range []string{"none", "identity", "rules"} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuarded(t, options{Config: Config{Random: even}})
			a := g.listen(1)[0]
			p := g.by("", "")
			if name != "none" {
				p = g.by("/svc/web", "web")
			}
			if name == "rules" {
				var rules []access.Rule
				for i := range 1000 {
					rules = append(rules, allow(from(t, fmt.Sprintf("spiffe://mesh.test/svc/web%d", i))))
				}
				g.put(append(rules, allow(from(t, "spiffe://mesh.test/svc/web"), "/a.B/C"))...)
			}
			id := uint32(1)
			var more []string
			if name == "none" { // as many fields, for the test's peers
				more = []string{"pillion-pear", "x", "x-forwarded-client-cart", "x"}
			}
			exchange := func() {
				p.Request(id, "/a.B/C", true, more...)
				a.Conn().Frames()
				a.Conn().TrailersOnly(id, "0")
				if f := p.Frames(); len(f) != 1 || f[0].Get("grpc-status") != "0" {
					t.Fatalf("the caller got %v", f)
				}
				id += 2
			}
			const rpcs = 400
			for range rpcs {
				exchange()
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range rpcs {
				exchange()
			}
			runtime.ReadMemStats(&after)
			cost[name] = float64(after.Mallocs-before.Mallocs) / rpcs
		})
	}
	for name, n := range cost {
		if n > cost["none"]+0.5 {
			t.Errorf("with %s an RPC takes %.2f allocations, without %.2f", name, n, cost["none"])
		}
	}
	t.Log(cost)
}
