package consul

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
)

// alteration is what is changed about a request that the client library has no words
// for. It travels in the request's context.
type alteration struct {
	method string     // instead of the library's; empty: that one
	add    url.Values // parameters
	// absent: that there is no such thing (404) is an answer, "null", which can be waited
	// for as any other.
	absent bool
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

// answered returns the answer to a request as its context says.
func answered(req *http.Request, resp *http.Response) *http.Response {
	change, _ := req.Context().Value(alterationKey{}).(alteration)
	if !change.absent || resp.StatusCode != http.StatusNotFound {
		return resp
	}
	_ = resp.Body.Close()
	is := *resp
	is.StatusCode, is.Status, is.ContentLength = http.StatusOK, "200 OK", -1
	is.Body = io.NopCloser(strings.NewReader("null"))

	return &is
}
