package consul

import (
	"context"
	"maps"
	"net/http"
	"net/url"
)

// alteration is what is changed about a request that the client library has no words
// for. It travels in the request's context.
type alteration struct {
	method string     // instead of the library's; empty: that one
	add    url.Values // parameters
}

type alterationKey struct{}

// here makes requests ask the agent about itself and its own datacentre, wherever
// services are looked for, and alters them.
func here(ctx context.Context, change alteration) context.Context {
	return context.WithValue(ctx, alterationKey{}, change)
}

// altered returns the request as its context says.
func altered(req *http.Request) *http.Request {
	change, ok := req.Context().Value(alterationKey{}).(alteration)
	if !ok {
		return req
	}
	req = req.Clone(req.Context())
	if change.method != "" {
		req.Method = change.method
	}
	query := req.URL.Query()
	query.Del("dc")
	maps.Copy(query, change.add)
	req.URL.RawQuery = query.Encode()

	return req
}
