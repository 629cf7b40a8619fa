package consul

import (
	"context"
	"errors"
	"strconv"

	"github.com/hashicorp/consul/api"
)

// side is which of a service's two queries is meant.
type side int

const (
	appSide side = iota
	sidecarSide
	sides
)

// listing are a service's instances, and by which version of its subsets they were looked
// at.
type listing struct {
	instances []instance
	marks     uint64
}

// health asks for one side of a service once. Which subsets the instances are in is told
// by those that there are when the answer comes. A failure is logged under scope,
// unless ctx was cancelled.
func (a *agent) health(ctx context.Context, side side, service, scope string, subsets func() *subsetsOf, options *api.QueryOptions) asked[listing] {
	get, what := a.api.Health().Service, "read service "+strconv.Quote(service)
	if side == sidecarSide {
		get, what = a.api.Health().Connect, "read the sidecars of service "+strconv.Quote(service)
	}
	entries, meta, err := get(service, "", false, options.WithContext(ctx))
	if err == nil && meta.ResultsFilteredByACLs && len(entries) == 0 {
		err = errHidden
	}
	if err != nil {
		failure := a.explain(err, what, readRules(service)...)
		if !errors.Is(ctx.Err(), context.Canceled) {
			a.note(scope, failure)
		}

		return asked[listing]{err: failure}
	}

	if meta.ResultsFilteredByACLs {
		a.note(scope, a.explain(errHidden, what+" in full", readRules(service)...))
	} else {
		a.noteSuccess(scope)
	}

	now := subsets()

	return asked[listing]{
		value:   listing{instancesOf(entries, a.limits.Instances, now), now.at()},
		index:   meta.LastIndex,
		lagging: lags(meta),
	}
}

// lags says whether the server that answered has no leader, or has not heard from it
// for a while.
func lags(meta *api.QueryMeta) bool {
	// Answers from the agent's own stream of events never know a leader.
	leaderless := !meta.KnownLeader && meta.QueryBackend != api.QueryBackendStreaming

	return leaderless || meta.LastContact > maxLag
}

// errHidden stands for an answer out of which the ACLs took something.
var errHidden error = api.StatusError{Code: 403, Body: "results are hidden by ACLs"}
