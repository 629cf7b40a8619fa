package consul

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// kind is why the agent gave no answer, in so far as something else is to be
// done about it.
type kind int

const (
	// unreachable: no HTTP answer at all.
	unreachable kind = iota
	// denied: the token may not (403), or hides what is asked about.
	denied
	// limited: too many connections or calls (429).
	limited
	// rejected: the request is wrong for this agent (4xx).
	rejected
	// missing: no such thing (404).
	missing
	// failing: the agent or its servers cannot answer now (5xx, or nonsense).
	failing
)

// failure is an error of the agent's, in one line that says what to do.
type failure struct {
	kind kind
	text string
	// cause is what the client library said.
	cause error
}

func (f *failure) Error() string { return f.text }

// goingOn is what becomes of a call that failed, where it is made again.
const goingOn = "; going on with what is known and trying again"

// last returns the failure of a call that is not made again.
func (f *failure) last() *failure {
	last := *f
	last.text = strings.Replace(f.text, goingOn, "", 1)

	return &last
}

// kindOf tells one trouble from another. An agent that is away fails each
// query a little differently (refused, reset, timed out); that is one trouble.
func kindOf(err error) string {
	failure, ok := errors.AsType[*failure](err)
	if !ok {
		return err.Error()
	}
	switch failure.kind {
	case unreachable:
		return "unreachable"
	case limited:
		return "limited"
	case failing:
		return "failing"
	default:
		return failure.text
	}
}

func (f *failure) Unwrap() error { return f.cause }

// lacking is how Consul says which permission is missing:
// Permission denied: token with AccessorID '…' lacks permission 'service:write' on "greeter".
var lacking = regexp.MustCompile(`lacks permission '([a-z]+):([a-z]+)'(?: on "([^"]*)")?`)

// explain makes a failure of an error that a call to the agent returned. what
// says what was being done ("read service \"greeter\""), rules are the ACL rules
// that it needs, named where Consul does not say which one is missing.
func (a *agent) explain(err error, what string, rules ...string) *failure {
	cause := err
	status, isStatus := errors.AsType[api.StatusError](err)
	if !isStatus {
		if nonsense, ok := errors.AsType[unusable](err); ok {
			return &failure{
				kind: failing, cause: cause,
				text: fmt.Sprintf("consul: the agent at %s could not %s: %v%s", a.address, what, oneLine(nonsense), goingOn),
			}
		}
		if urlErr, ok := errors.AsType[*url.Error](err); ok {
			err = urlErr.Err
		} else if !isNetwork(err) {
			return &failure{
				kind: failing, cause: cause,
				text: fmt.Sprintf("consul: %s at %s: the answer is not Consul's: %v; check that the address is the agent's HTTP port", what, a.address, oneLine(err)),
			}
		}

		return &failure{
			kind: unreachable, cause: cause,
			text: fmt.Sprintf("consul: no answer from the agent at %s: %v%s; check that it runs and that the address is right", a.address, oneLine(err), goingOn),
		}
	}

	said := oneLine(errors.New(strings.TrimSpace(status.Body)))
	switch {
	case status.Code == http.StatusForbidden:
		if match := lacking.FindStringSubmatch(status.Body); match != nil {
			rules = []string{rule(match[1], match[3], match[2])}
		}
		advice := "add to its policy: " + strings.Join(rules, " and ")
		if strings.Contains(status.Body, "ACL not found") || strings.Contains(status.Body, "Cannot find namespace") {
			advice = "the token is unknown to Consul (deleted, expired, or of another cluster): use another one, with " + strings.Join(rules, " and ")
		}

		return &failure{kind: denied, cause: cause, text: fmt.Sprintf("consul: the ACL token may not %s: %v; %s", what, said, advice)}
	case strings.Contains(status.Body, "Connect must be enabled"):
		return &failure{kind: failing, cause: cause, text: fmt.Sprintf("consul: the agent at %s cannot %s: Connect is not enabled; set connect { enabled = true } in the configuration of Consul's servers%s", a.address, what, goingOn)}
	case status.Code == http.StatusTooManyRequests:
		return &failure{kind: limited, cause: cause, text: fmt.Sprintf("consul: the agent at %s limits us: %v; asking less often; if that is its limit of connections, raise limits.http_max_conns_per_client in its configuration", a.address, said)}
	case status.Code == http.StatusNotFound:
		return &failure{kind: missing, cause: cause, text: fmt.Sprintf("consul: %s: %v", what, said)}
	case status.Code < 500:
		return &failure{kind: rejected, cause: cause, text: fmt.Sprintf("consul: the agent at %s refuses to %s: HTTP %d: %v", a.address, what, status.Code, said)}
	default:
		return &failure{kind: failing, cause: cause, text: fmt.Sprintf("consul: the agent at %s cannot %s now: HTTP %d: %v%s", a.address, what, status.Code, said, goingOn)}
	}
}

// rule is an ACL rule as a policy spells it.
func rule(resource, name, access string) string {
	if name == "" {
		return fmt.Sprintf(`%s_prefix "" { policy = %q }`, resource, access)
	}

	return fmt.Sprintf(`%s %q { policy = %q }`, resource, name, access)
}

// readRules are what it takes to see a service's instances and sidecars.
func readRules(service string) []string {
	return []string{
		rule("service", service, "read"),
		rule("service", service+sidecarSuffix, "read"),
		rule("node", "", "read"),
	}
}

// unusable is an error about what an answer of Consul's says.
type unusable struct{ error }

func (u unusable) Unwrap() error { return u.error }

// isNetwork says whether an error arose below HTTP, outside a *url.Error: while
// the answer's body was read.
func isNetwork(err error) bool {
	var timeout interface{ Timeout() bool }

	return errors.As(err, &timeout) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, context.Canceled)
}

// note logs a failure of one scope ("service greeter"), or of the agent as a
// whole, and makes the budget smaller where the agent says that we ask too much.
func (a *agent) note(scope string, err *failure) {
	switch err.kind {
	case unreachable:
		a.troubles.report(scopeAgent, err)
	case limited:
		a.absence.end()
		a.troubles.report(scopeLimit, err)
		if a.budget.shrink() {
			a.closeIdle()
		}
	case denied, rejected, missing, failing:
		a.answered()
		a.troubles.report(scope, err)
	}
}

// noteSuccess says that a call of a scope went well.
func (a *agent) noteSuccess(scope string) {
	a.answered()
	a.troubles.clear(scope)
	if a.troubles.in(scopeLimit) && a.budget.calm() {
		a.troubles.clear(scopeLimit)
	}
}

// answered says that the agent is there, whatever it answered.
func (a *agent) answered() {
	a.contact.Store(time.Now().UnixNano())
	a.absence.end()
	a.troubles.clear(scopeAgent)
}
