package chain

import (
	"slices"
	"strconv"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// maxAttempts is how often an RPC may be sent.
const maxAttempts = 10

// retry says when an RPC is sent again; nil: never. Budget and waits are a sidecar's own
// defaults, which are those of Envoy as far as there are such.
func (t *translation) retry(d *Destination, where string) *configv1.RetryPolicy {
	if d.NumRetries == 0 && !d.RetryOnConnectFailure && len(d.RetryOn) == 0 && len(d.RetryOnStatusCodes) == 0 {
		return nil
	}
	r := &configv1.RetryPolicy{MaxAttempts: 2} // Envoy sends once more where it is not said
	if d.NumRetries > 0 {
		r.MaxAttempts = min(d.NumRetries, maxAttempts-1) + 1
		if d.NumRetries > maxAttempts-1 {
			t.refusef(t.service, kindRoute, "%s: num_retries is %d, more than the %d that a sidecar makes: it makes those", where, d.NumRetries, maxAttempts-1)
		}
	}
	on := slices.Clone(d.RetryOn)
	if d.RetryOnConnectFailure {
		on = append(on, "connect-failure")
	}
	for _, condition := range on {
		t.retryOn(r, condition, where)
	}
	if len(d.RetryOnStatusCodes) > 0 {
		t.notef("%s: retry_on_status_codes are those of HTTP, and what gRPC answers has 200: write retry_on = [\"unavailable\"] and such", where)
	}
	if len(r.GetConditions()) == 0 && len(r.GetRetryableStatusCodes()) == 0 {
		t.notef("%s: nothing of what is said there of retries happens to RPCs of gRPC, so none is sent again", where)
		return nil
	}
	return r
}

// What retry_on may say, in Consul's words. The statuses of gRPC are seen in an answer
// that has nothing but trailers, by Envoy as by a sidecar.
func (t *translation) retryOn(r *configv1.RetryPolicy, condition, where string) {
	add := func(list *[]string, words ...string) {
		for _, w := range words {
			if !slices.Contains(*list, w) {
				*list = append(*list, w)
			}
		}
	}
	switch condition {
	case "cancelled":
		add(&r.RetryableStatusCodes, "CANCELLED")
	case "deadline-exceeded":
		add(&r.RetryableStatusCodes, "DEADLINE_EXCEEDED")
	case "internal":
		add(&r.RetryableStatusCodes, "INTERNAL")
	case "resource-exhausted":
		add(&r.RetryableStatusCodes, "RESOURCE_EXHAUSTED")
	case "unavailable":
		add(&r.RetryableStatusCodes, "UNAVAILABLE")
	case "5xx", "gateway-error", "reset":
		// Of a status of HTTP there is none in gRPC; what is left is that there is no answer.
		add(&r.Conditions, "connect-failure", "reset-before-headers")
	case "connect-failure":
		add(&r.Conditions, "connect-failure")
	case "refused-stream":
		t.notef("%s: retry_on %q is what a sidecar does without being told (retry in its configuration)", where, condition)
	case "retriable-4xx", "envoy-ratelimited":
		t.notef("%s: retry_on %q happens to no RPC of gRPC", where, condition)
	default:
		t.refusef(t.service, kindRoute, "%s: retry_on %s is not known here: it is left out", where, strconv.Quote(cut(condition, 100)))
	}
}
