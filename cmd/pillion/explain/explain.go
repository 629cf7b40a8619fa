// Package explain says what policies make of one RPC, and why: which rules were looked
// at, which policies hold, where the RPC goes, and which instances it may go to. It asks
// the same code that decides real RPCs, for a running sidecar as for files, and changes
// nothing. How people and programs are shown that is not its business but [Text]'s.
package explain

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	"github.com/pillion-proxy/pillion/proxy/access"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// World is what an RPC would meet.
type World struct {
	// Set is the policies.
	Set *policy.Set
	// Place says where a policy is written, Locate where a field of it is, which is the
	// path below the policy: "file:line:column", "" where that is not known. Both may
	// be nil.
	Place  func(policy string) string
	Locate func(policy, field string) string
	// Find says which service an RPC is addressed to, and by what.
	Find func(authority, path string) (service, by string)
	// Cluster returns the instances of a service, and what there is to say of them; nil:
	// there are none. done is called when they are not needed any more.
	Cluster func(ctx context.Context, service string) (c *upstream.Cluster, note string, done func())
	// ServiceID is `identity.service_id`, as [access.Names] wants it, and From the
	// sidecar's own SPIFFE ID; zero: there is none. RPCs come from it unless the request
	// says otherwise.
	ServiceID string
	From      spiffeid.ID
	// Caller is the service that RPCs come from unless the request says otherwise.
	Caller string
	// DefaultTimeout and MaxTimeout are the outbound side's; 0: none.
	DefaultTimeout, MaxTimeout time.Duration
	// Live: the policies know something, such as how many RPCs they have refused.
	Live bool
	// Now is the present time.
	Now time.Time

	access map[accessKey]*access.Policy // those that were asked already
}

// asking is the explanation of one RPC.
type asking struct {
	*World
	ctx      context.Context
	rpc      policy.RPC
	from     spiffeid.ID   // zero: the caller proves nothing
	asked    time.Duration // what the caller's grpc-timeout says; 0: nothing
	answer   *adminv1.ExplainResponse
	service  string // that the RPC is addressed to
	method   *policy.Method
	notes    []string
	settled  bool // chance is decided by a number
	clusters map[string]instances
	done     []func()
}

type instances struct {
	cluster *upstream.Cluster
	note    string
}

// Explain says what the world makes of an RPC. The error is about the request.
func Explain(ctx context.Context, w *World, request *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	a := &asking{World: w, ctx: ctx, answer: &adminv1.ExplainResponse{Version: w.Set.Version()}, clusters: map[string]instances{}}
	if err := a.read(request); err != nil {
		return nil, err
	}
	defer a.close()
	a.service, a.answer.ServiceBy = w.Find(a.rpc.Authority, a.rpc.Path)
	a.answer.Service, a.answer.Method = a.service, strings.TrimPrefix(a.rpc.Path, "/")
	if a.service == "" {
		a.notef("nothing says which service the RPC is addressed to: no policy but those for all services can hold")
	}
	view := w.Set.Service(a.service)
	a.method = view.Outbound(a.rpc.Path)
	for _, trace := range view.Explain(a.rpc.Path, false) {
		if ofAddressed(trace.Kind) {
			a.answer.InForce = append(a.answer.InForce, a.inForce(trace, a.service))
		}
	}
	for _, trace := range view.Explain(a.rpc.Path, true) {
		shown := a.inForce(trace, a.service)
		shown.State = "" // it is beside the other sidecar that something is known
		a.answer.Inbound = append(a.answer.Inbound, shown)
	}
	for _, chance := range a.decide() {
		for _, split := range a.divide(chance.Decision) {
			split.Share *= chance.Share
			a.answer.Outcomes = append(a.answer.Outcomes, a.outcome(&split))
		}
	}
	a.answer.Notes = a.notes
	return a.answer, nil
}

// ofAddressed says whether policies of a kind are those of the service that an RPC is
// addressed to, and not of the one that it is sent to.
func ofAddressed(k policy.Kind) bool {
	return k == policy.KindRoute || k == policy.KindTimeout || k == policy.KindRetry || k == policy.KindHedging ||
		k == policy.KindRateLimit || k == policy.KindFault
}

func (a *asking) notef(format string, args ...any) {
	if note := fmt.Sprintf(format, args...); !slices.Contains(a.notes, note) {
		a.notes = append(a.notes, note)
	}
}

// read takes over the request.
func (a *asking) read(request *adminv1.ExplainRequest) error {
	a.rpc = policy.RPC{
		Path: "/" + strings.TrimPrefix(request.GetMethod(), "/"), Authority: request.GetAuthority(),
		Caller: request.GetCaller(), Peer: "127.0.0.1", Random: func() uint64 { return request.GetRandom() },
	}
	if a.rpc.Caller == "" {
		a.rpc.Caller = a.Caller
	}
	if _, _, ok := wire.SplitPath(a.rpc.Path); !ok {
		return fmt.Errorf("method %q: write it as pkg.Service/Method", request.GetMethod())
	}
	a.settled = request.Random != nil
	if a.from = a.From; request.GetFrom() != "" {
		id, err := identity.ParseID(request.GetFrom())
		if err != nil {
			return fmt.Errorf("from: %w", err)
		}
		a.from = id
	}
	for _, m := range request.GetMetadata() {
		if err := CheckMetadata(m.GetKey(), m.GetValue()); err != nil {
			return err
		}
		a.rpc.Fields = append(a.rpc.Fields, hpack.Field{Name: m.GetKey(), Value: m.GetValue()})
		if m.GetKey() == wire.HeaderTimeout {
			d, err := wire.ParseTimeout(m.GetValue())
			if err != nil {
				return fmt.Errorf("metadata %q: %w", m.GetKey(), err)
			}
			a.asked = max(d, 1)
		}
	}
	return nil
}

// CheckMetadata says what is wrong with a key or its value, as they are on the wire.
func CheckMetadata(key, value string) error {
	switch lower := strings.ToLower(key); {
	case key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' }):
		return fmt.Errorf("metadata %q: is no metadata key", key)
	case lower != key:
		return fmt.Errorf("metadata %q: keys are in lower case on the wire: write %q", key, lower)
	case strings.HasSuffix(key, "-bin"):
		if _, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "=")); err != nil {
			return fmt.Errorf("metadata %q: %q is not base64, as the values of -bin keys are on the wire", key, value)
		}
	case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }):
		return fmt.Errorf("metadata %q: %q has a character that metadata must not have: use printable ASCII, or a -bin key", key, value)
	}
	return nil
}

// decide looks at the rules.
func (a *asking) decide() []policy.Chance {
	if !a.method.Routes() {
		return []policy.Chance{{Decision: policy.Decision{Service: a.service}, Share: 1}}
	}
	route := a.method.Route
	var trace policy.Trace
	chances := route.Chances(&a.rpc, a.service, &trace)
	if len(chances) == 1 || a.settled {
		trace = policy.Trace{}
		chances = []policy.Chance{{Decision: route.Decide(&a.rpc, a.service, &trace), Share: 1}}
	}
	for i, rule := range trace.Rules {
		shown := &adminv1.RuleSeen{Policy: rule.Policy, Rule: rule.Rule, Matched: rule.Matched, Decided: rule.Decided, Why: rule.Why}
		// To find a place takes as long as to read the file: not for a thousand rules.
		if a.Locate != nil && (rule.Decided || rule.Matched && len(trace.Rules) <= maxLocated) {
			shown.Where = a.Locate(rule.Policy, fmt.Sprintf("route.rules[%d]", i))
		}
		a.answer.Rules = append(a.answer.Rules, shown)
	}
	if s := trace.Split; s != nil {
		a.answer.Split = splitSeen(s)
	}
	return chances
}

// divide looks at the split policies of the service where a decision sends the RPC.
func (a *asking) divide(d policy.Decision) []policy.SplitChance {
	if d.Rule != nil && d.Rule.Status != nil || d.Service == "" {
		return []policy.SplitChance{{Decision: d, Share: 1}}
	}
	splits := a.Set.Service(d.Service).Splits(a.rpc.Path)
	if !a.settled {
		return splits.Chances(&a.rpc, d)
	}
	var trace policy.Trace
	groups := splits.Decide(&a.rpc, &d, nil, &trace)
	return []policy.SplitChance{{Decision: d, Groups: groups, Share: 1, Seen: trace.Policies}}
}

func splitSeen(s *policy.SplitTrace) *adminv1.SplitSeen {
	seen := &adminv1.SplitSeen{
		Policy: s.Policy, Rule: s.Rule, Group: s.Group, Why: s.Why, Seed: s.Seed, Key: s.Key, Holds: s.Holds, Places: s.Places,
	}
	if s.Bucket >= 0 {
		bucket := uint32(s.Bucket)
		seen.Bucket = &bucket
	}
	for _, segment := range s.Segments {
		seen.Segments = append(seen.Segments, &adminv1.Segment{Group: segment.Group, From: uint32(segment.From), End: uint32(segment.End)})
	}
	return seen
}

// maxLocated is how many rules a route may have for all that match to be looked up in
// their file.
const maxLocated = 50

func (a *asking) place(policy string) string {
	if a.Place == nil || policy == "" {
		return ""
	}
	return a.Place(policy)
}

// inForce shows which policy of a kind holds.
func (a *asking) inForce(trace policy.KindTrace, service string) *adminv1.InForce {
	shown := &adminv1.InForce{
		Kind: trace.Kind.String(), Policy: trace.Policy, Where: a.place(trace.Policy),
		Service: trace.Service, Methods: trace.Methods,
	}
	if one, known := a.Set.Policy(trace.Policy); known {
		shown.Says = says(one.Source)
		if a.Live {
			shown.State = state(&one, service, a.Now)
		}
	}
	for _, lost := range trace.Lost {
		shown.Lost = append(shown.Lost, &adminv1.Lost{Policy: lost.Policy, Where: a.place(lost.Policy), Why: lost.Why})
	}
	return shown
}

// cluster returns the instances of a service; nil: none are known.
func (a *asking) cluster(service string) *upstream.Cluster {
	if a.Cluster == nil || service == "" {
		return nil
	}
	known, asked := a.clusters[service]
	if !asked {
		var done func()
		known.cluster, known.note, done = a.Cluster(a.ctx, service)
		a.clusters[service] = known
		if done != nil {
			a.done = append(a.done, done)
		}
	}
	if known.note != "" {
		a.notef("%s", known.note)
	}
	return known.cluster
}

func (a *asking) close() {
	for _, done := range a.done {
		done()
	}
}
