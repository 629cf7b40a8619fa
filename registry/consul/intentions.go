package consul

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/registry"
)

var _ registry.IntentionSource = (*Source)(nil)

// intentionPause bounds the pause between changes of intentions: who is revoked has to
// be out within a second. Only what is about the service itself wakes their query.
const intentionPause = 200 * time.Millisecond

// WatchIntentions hands over the intentions for calls of a service that is registered
// at the agent; see registry.IntentionSource. The token needs intentions:read for it,
// which service:read and service:write bring with them, and service:write to find out
// what holds by default.
//
// They are ordered as Consul's documentation says, which is how its own checks
// (`consul intention check`) decide. What Consul has its Envoys do differs from that
// where an intention for all callers of one service outranks one for one caller of all
// services: there the latter decides.
func (s *Source) WatchIntentions(ctx context.Context, service string, update func(*registry.Intentions)) {
	if !serviceName.MatchString(service) {
		<-ctx.Done() // there are none for what cannot be registered

		return
	}

	var polling sync.WaitGroup
	defer polling.Wait()
	scope := scopeIntentions(service)
	defer s.agent.troubles.forget(scope)
	defer s.agent.troubles.forget(scope + byDefault)
	answers := make(chan answer[*registry.Intentions])
	poller := &poller[*registry.Intentions]{agent: s.agent, out: answers, most: intentionPause, urgent: true, ask: func(ctx context.Context, options *api.QueryOptions) asked[*registry.Intentions] {
		return s.agent.askIntentions(ctx, service, options)
	}}
	polling.Go(func() { poller.run(ctx) })

	rotation := s.agent.tokens.ticker()
	defer rotation.Stop()
	var told *registry.Intentions
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-answers:
			if a.err == nil && (told == nil || !reflect.DeepEqual(told, a.value)) {
				told = a.value
				update(told)
			}
		case <-rotation.C:
			// A query that waits does so with the token that it began with.
			s.agent.tokens.current()
		}
	}
}

// byDefault ends the scope of troubles with finding out what holds without intentions.
const byDefault = " by default"

func scopeIntentions(service string) string { return "intentions of " + service }

// askIntentions asks for the intentions once, and for what they do not say themselves.
func (a *agent) askIntentions(ctx context.Context, service string, options *api.QueryOptions) asked[*registry.Intentions] {
	what := "read the intentions for service " + strconv.Quote(service)
	fail := func(err error, rules ...string) asked[*registry.Intentions] {
		failure := a.explain(err, what, rules...)
		if !errors.Is(ctx.Err(), context.Canceled) {
			a.note(scopeIntentions(service), failure)
		}

		return asked[*registry.Intentions]{err: failure}
	}

	// Not by the library's own call: its answer leaves out what an intention asks of
	// JWTs.
	matching := here(ctx, alteration{add: url.Values{"by": {"destination"}, "name": {service}}})
	var found map[string][]*intention
	meta, err := a.api.Raw().Query("/v1/connect/intentions/match", &found, options.WithContext(matching))
	if err != nil {
		return fail(err, rule("service", service, "read"))
	}
	roots := a.askAuthorities(ctx, &api.QueryOptions{})
	if roots.err != nil {
		return asked[*registry.Intentions]{err: roots.err}
	}
	allowed, err := a.askDefault(ctx, service, roots.value.trustDomain.Name(), meta.DefaultACLPolicy)
	if err != nil {
		return fail(err)
	}
	a.noteSuccess(scopeIntentions(service))

	return asked[*registry.Intentions]{
		value: &registry.Intentions{
			DefaultAllow: allowed, TrustDomain: roots.value.trustDomain.Name(), List: intentionsOf(found[service]),
		},
		index: meta.LastIndex, lagging: lags(meta),
	}
}

// nowhere is a namespace that no intention of the community edition is for, and in
// Consul Enterprise only one for callers of all namespaces.
const nowhere = "pillion-asks-for-the-default"

// askDefault finds out what holds for callers that no intention is for: the agent's
// default_intention_policy, else the default policy of the ACLs (aclPolicy, which each
// answer tells). Only the agent's verdict on a caller tells the former, so it is asked
// about one that cannot be. Where the token may not ask that, what is denied by the
// ACLs' default is denied, and so is all else: nothing is allowed by mistake.
func (a *agent) askDefault(ctx context.Context, service, trustDomain, aclPolicy string) (bool, error) {
	path := "/ns/" + nowhere + "/dc/dc/svc/nobody"
	if partition := a.scope.Partition; partition != "" && partition != consulDefault {
		path = "/ap/" + partition + path
	}
	question := api.AgentAuthorizeParams{Target: service, ClientCertURI: "spiffe://" + trustDomain + path}
	var verdict struct {
		Authorized bool
		Reason     string
	}
	ctx, cancel := context.WithTimeout(ctx, a.limits.CallTimeout)
	defer cancel()
	options := (&api.WriteOptions{}).WithContext(here(ctx, alteration{method: "POST"}))
	_, err := a.api.Raw().Write("/v1/agent/connect/authorize", question, &verdict, options)

	scope := scopeIntentions(service) + byDefault
	status, _ := errors.AsType[api.StatusError](err)
	switch {
	case err == nil:
		a.troubles.clear(scope)
		if strings.HasPrefix(verdict.Reason, "Default") {
			return verdict.Authorized, nil
		}

		return aclPolicy == "allow", nil
	case status.Code == http.StatusForbidden:
		if aclPolicy == "allow" {
			a.troubles.report(scope, a.explain(err, "ask what holds where there is no intention for service "+strconv.Quote(service)+" (so callers without one are refused)", rule("service", service, "write")))
		}

		return false, nil
	default:
		return false, err
	}
}
