package plan

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/cmd/pillion/explain"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/recording"
)

// Plan is what a change would do.
type Plan struct {
	// Changes are the documents that change, by kind and name.
	Changes []*Change `json:"changes"`
	// Replayed is how many remembered RPCs were looked at, Moved how many of them would
	// fare otherwise, and Unreadable how many could not be looked at.
	Replayed   int `json:"replayed"`
	Moved      int `json:"moved"`
	Unreadable int `json:"unreadable,omitempty"`
	// Moves are what would become of them, those of the most RPCs first.
	Moves []*Move `json:"moves"`
	// Unknown are metadata keys and cookies that the policies before do not look at: it is
	// not remembered what RPCs had there, so they were looked at as if they had nothing.
	Unknown []string `json:"unknown,omitempty"`
	// Hidden are metadata keys and cookies that policies look at of which sidecars remember
	// no values, as they are secrets: RPCs were looked at as if they had other ones, or none.
	Hidden []string `json:"hidden,omitempty"`
	// LeftOut is how many further moves are not listed.
	LeftOut int `json:"left_out,omitempty"`
}

// Change is a document that changes.
type Change struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Service is what it is for, "*" for all.
	Service string `json:"service"`
	// Says is the policy's kind, such as "route"; "" where it is no policy.
	Says string `json:"says,omitempty"`
	// What is "added", "changed" or "deleted".
	What string `json:"what"`
	// Concerns says in words which RPCs it is about.
	Concerns string `json:"concerns"`
	// Fields are those that change.
	Fields []Field `json:"fields,omitempty"`
	// Sidecars is how many sidecars obey it, by their services; nil: it is not known.
	Sidecars map[string]int `json:"sidecars,omitempty"`
}

// Move is how RPCs of one kind would fare otherwise.
type Move struct {
	Service string `json:"service"`
	Method  string `json:"method"`
	Caller  string `json:"caller,omitempty"`
	// Aspect is in what: "destination", "deadline", "attempts", "rate limit" and so on.
	Aspect string `json:"aspect"`
	Before string `json:"before"`
	After  string `json:"after"`
	// RPCs is how many of those remembered.
	RPCs int `json:"rpcs"`
	// Example is the metadata of one of them.
	Example []string `json:"example,omitempty"`
}

// maxMoves bounds the moves that are listed.
const maxMoves = 1000

// Document is a document before or after; a nil one is not there.
type Document struct {
	Kind, Name, Service string
	Body                proto.Message
}

// Input is what a plan is made of.
type Input struct {
	// Before and After are all documents that change, pairwise.
	Before, After []*Document
	// Policies are all that hold before, and NewPolicies all that would hold after.
	Policies, NewPolicies []*configv1.Policy
	// Recorded are the RPCs to look at.
	Recorded []*adminv1.RecordedRPC
	// Now is the present time.
	Now time.Time
}

// Make makes a plan. The error says that the policies after are wrong that were not before,
// in a line for each.
func Make(ctx context.Context, in *Input) (*Plan, error) {
	before, known := policy.Compile(in.Policies, nil, policy.Env{}) // what is wrong there holds nowhere
	after, refusals := policy.Compile(in.NewPolicies, nil, policy.Env{})
	// What was wrong already is not for this change to mend.
	refusals = slices.DeleteFunc(refusals, func(r policy.Refusal) bool { return slices.Contains(known, r) })
	if len(refusals) > 0 {
		var lines []string
		for _, r := range refusals {
			lines = append(lines, fmt.Sprintf("policy %s: %s: %s", r.Policy, r.Field, r.Message))
		}
		return nil, fmt.Errorf("%s", strings.Join(lines, "\n"))
	}
	p := &Plan{Unknown: after.Mentions().Beyond(before.Mentions()), Hidden: hidden(before.Mentions(), after.Mentions())}
	for i, old := range in.Before {
		if c := changeOf(old, in.After[i]); c != nil {
			p.Changes = append(p.Changes, c)
		}
	}
	slices.SortFunc(p.Changes, func(a, b *Change) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	if err := p.replay(ctx, in, before, after); err != nil {
		return nil, err
	}
	return p, nil
}

// hidden returns what policies look at of which no values are remembered.
func hidden(all ...*policy.Mentions) []string {
	found := map[string]bool{}
	for _, m := range all {
		for _, key := range m.Withheld() {
			found[fmt.Sprintf("metadata %q", key)] = true
		}
		for _, key := range m.Metadata() {
			if recording.Secret(key) {
				found[fmt.Sprintf("metadata %q", key)] = true
			}
		}
		for _, name := range m.Cookies() {
			if recording.Secret(name) {
				found[fmt.Sprintf("cookie %q", name)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// changeOf says what changes in a document; nil: nothing does.
func changeOf(before, after *Document) *Change {
	c := &Change{What: "changed"}
	shown := after
	switch {
	case before == nil && after == nil:
		return nil
	case before == nil:
		c.What = "added"
	case after == nil:
		c.What, shown = "deleted", before
	case proto.Equal(before.Body, after.Body):
		return nil
	}
	c.Kind, c.Name, c.Service = shown.Kind, shown.Name, shown.Service
	var old, now proto.Message
	if before != nil {
		old = before.Body
	}
	if after != nil {
		now = after.Body
	}
	c.Fields = Fields(old, now)
	c.Says, c.Concerns = concerns(shown.Body)
	return c
}

// concerns says which RPCs a document is about.
func concerns(m proto.Message) (says, text string) {
	switch d := m.(type) {
	case *configv1.Policy:
		says = kindOf(d)
		switch {
		case says == "access" || d.GetInbound():
			text = "RPCs that arrive at " + named(d.GetService())
		default:
			text = "RPCs to " + named(d.GetService())
		}
		text += methods(d.GetMethods())
		if rules := d.GetRoute().GetRules(); len(rules) > 0 {
			text += callers(rules)
		}
		return says, text
	case *configv1.Canary:
		return "", "RPCs to " + named(d.GetService()) + methods(d.GetMethods()) + ", once it is started"
	case *configv1.Experiment:
		return "", "RPCs to " + named(d.GetService()) + methods(d.GetMethods()) + ", once it is started"
	}
	return "", ""
}

func kindOf(p *configv1.Policy) string {
	m := p.ProtoReflect()
	if field := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind")); field != nil {
		return string(field.Name())
	}
	return ""
}

func named(service string) string {
	if service == policy.AllServices {
		return "all services"
	}
	return service
}

func methods(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return ", methods " + strings.Join(list, " ")
}

// callers says from whom RPCs come that a route has rules for.
func callers(rules []*configv1.RouteRule) string {
	names := map[string]bool{}
	for _, rule := range rules {
		from := rule.GetMatch().GetCallers()
		if len(from) == 0 {
			return " from all callers"
		}
		for _, name := range from {
			names[name] = true
		}
	}
	return " from " + strings.Join(slices.Sorted(maps.Keys(names)), ", ")
}

// moveKey tells moves apart.
type moveKey struct{ service, path, caller, aspect, before, after string }

// replay looks at how remembered RPCs would fare.
func (p *Plan) replay(ctx context.Context, in *Input, before, after *policy.Set) error {
	moves := map[moveKey]*Move{}
	for _, rpc := range in.Recorded {
		if err := ctx.Err(); err != nil {
			return err
		}
		old, err := fateOf(ctx, before, rpc, in.Now)
		if err != nil {
			p.Unreadable++
			continue
		}
		now, err := fateOf(ctx, after, rpc, in.Now)
		if err != nil {
			p.Unreadable++
			continue
		}
		p.Replayed++
		moved := false
		for _, aspect := range aspects {
			if old[aspect] == now[aspect] {
				continue
			}
			moved = true
			key := moveKey{rpc.GetService(), rpc.GetPath(), rpc.GetCaller(), aspect, old[aspect], now[aspect]}
			if moves[key] == nil {
				moves[key] = &Move{
					Service: key.service, Method: strings.TrimPrefix(key.path, "/"), Caller: key.caller,
					Aspect: aspect, Before: key.before, After: key.after, Example: example(rpc),
				}
			}
			moves[key].RPCs++
		}
		if moved {
			p.Moved++
		}
	}
	p.Moves = slices.SortedFunc(maps.Values(moves), func(a, b *Move) int {
		return cmp.Or(-cmp.Compare(a.RPCs, b.RPCs), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Method, b.Method),
			cmp.Compare(a.Caller, b.Caller), cmp.Compare(a.Aspect, b.Aspect), cmp.Compare(a.After, b.After), cmp.Compare(a.Before, b.Before))
	})
	if len(p.Moves) > maxMoves {
		p.LeftOut = len(p.Moves) - maxMoves
		p.Moves = p.Moves[:maxMoves]
	}
	return nil
}

// example writes an RPC's metadata as people do.
func example(rpc *adminv1.RecordedRPC) (fields []string) {
	for _, f := range rpc.GetMetadata() {
		fields = append(fields, f.GetKey()+": "+string(f.GetValue()))
	}
	return fields
}

// fateOf says what becomes of an RPC, by aspect.
func fateOf(ctx context.Context, set *policy.Set, rpc *adminv1.RecordedRPC, now time.Time) (map[string]string, error) {
	w := &explain.World{
		Set: set, Now: now,
		Find: func(string, string) (string, string) { return rpc.GetService(), "" },
	}
	request := &adminv1.ExplainRequest{Authority: rpc.GetService(), Method: strings.TrimPrefix(rpc.GetPath(), "/"), Caller: rpc.GetCaller()}
	for _, f := range rpc.GetMetadata() {
		request.Metadata = append(request.Metadata, &adminv1.Metadata{Key: f.GetKey(), Value: string(f.GetValue())})
	}
	answer, err := explain.Explain(ctx, w, request)
	if err != nil {
		return nil, err
	}
	return fate(request, answer), nil
}
