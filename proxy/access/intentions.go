package access

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/registry"
)

// wildcard stands for any name in intentions.
const wildcard = "*"

// intentions are Consul's, by whom they are for.
type intentions struct {
	list    []intention
	first   map[source]int32 // the first one for each source, as it is written
	byOther *intention       // what holds for those for whom none is
}

// source is who an intention is for.
type source struct{ domain, partition, namespace, service string }

// intention is what holds for the callers that it is for.
type intention struct {
	byDefault   bool // what holds where none of the permissions matches
	permissions *permissions
	refused     *refusal
}

// compileIntentions compiles intentions; nil where none has to be passed.
func (p *Policy) compileIntentions(in *registry.Intentions) *intentions {
	if in == nil && !p.env.AwaitIntentions {
		return nil
	}
	tally := p.tally(Intentions)
	x := &intentions{first: map[source]int32{}, byOther: &intention{
		refused: &refusal{"this sidecar, which does not know Consul's intentions yet,", tally},
	}}
	if in == nil {
		return x
	}
	x.byOther.refused.by = "the default of Consul's intentions"
	x.byOther.byDefault = in.DefaultAllow
	x.list = make([]intention, 0, len(in.List))
	for i := range in.List {
		from, ok := p.sourceOf(in, &in.List[i])
		if !ok {
			continue
		}
		if _, taken := x.first[from]; taken {
			continue // an earlier one is for the same callers
		}
		x.first[from] = int32(len(x.list))
		x.list = append(x.list, compileIntention(&in.List[i], in.DefaultAllow, tally))
	}
	return x
}

// sourceOf returns who an intention is for. It is false where it is for nobody.
func (p *Policy) sourceOf(in *registry.Intentions, one *registry.Intention) (source, bool) {
	domain := one.TrustDomain
	if domain == "" && one.Peer == "" {
		domain = in.TrustDomain
		if domain == "" {
			domain = p.env.TrustDomain.Name()
		}
	}
	return source{strings.ToLower(domain), one.Partition, one.Namespace, one.Service}, domain != ""
}

func compileIntention(one *registry.Intention, defaultAllow bool, tally *tally) intention {
	i := intention{
		byDefault: one.Allow,
		refused:   &refusal{fmt.Sprintf("intention %q to %q", one.Service, one.Destination), tally},
	}
	if len(one.Permissions) > 0 {
		i.byDefault = defaultAllow
		i.permissions = compilePermissions(one.Permissions)
	}
	return i
}

// of returns what holds for a caller: nil where there are no intentions.
func (x *intentions) of(id spiffeid.ID) *intention {
	if x == nil {
		return nil
	}
	consul, ok := identity.ParseConsulID(id)
	if !ok {
		return x.byOther
	}
	first := int32(none)
	for _, partition := range [...]string{consul.Partition, wildcard} {
		for _, namespace := range [...]string{consul.Namespace, wildcard} {
			for _, service := range [...]string{consul.Service, wildcard} {
				if i, found := x.first[source{id.TrustDomain().Name(), partition, namespace, service}]; found {
					first = earlier(first, i)
				}
			}
		}
	}
	if first == none {
		return x.byOther
	}
	return &x.list[first]
}

// refuses returns who refuses an RPC; nil: nobody does.
func (i *intention) refuses(path string, odd bool, fields []hpack.Field) *refusal {
	allowed := i.byDefault
	if i.permissions != nil {
		if found := i.permissions.first(path, odd, fields); found != nil {
			allowed = found.allow
		}
	}
	if allowed {
		return nil
	}
	return i.refused
}
