package control

import (
	"fmt"
	"strings"
)

// Root is what all keys begin with.
const Root = "pillion/v1/"

// Kind is what a document is.
type Kind string

// The kinds.
const (
	Policy     Kind = "policy"
	Canary     Kind = "canary"
	Experiment Kind = "experiment"
)

// Kinds are all there are.
var Kinds = []Kind{Policy, Canary, Experiment}

// allServices stands for "*" in keys. No service can be called so.
const allServices = "_all"

func inKey(service string) string {
	if service == "*" {
		return allServices
	}
	return service
}

// MaxNumber is the highest number of a state, a run or a request. Nobody comes to it by
// counting, but somebody may write it into the store: 1 comes after it, see Next. What has a
// higher one is refused.
const MaxNumber = 1 << 62

// Next returns the number that comes after another.
func Next(n uint64) uint64 {
	if n >= MaxNumber {
		return 1
	}
	return n + 1
}

// After says whether the number a comes after b, at once or later.
func After(a, b uint64) bool {
	if wraps := a == 1 && b >= MaxNumber; wraps || b == 1 && a >= MaxNumber {
		return wraps
	}
	return a > b
}

// Of people: written by those who apply, read by sidecars.

// ServicePrefix is where the documents for a service are ("*": those for all), and what
// people ask of its canaries and experiments.
func ServicePrefix(service string) string { return Root + "services/" + inKey(service) + "/" }

// DocumentKey is where a document is, a controlv1.Document in JSON.
func DocumentKey(kind Kind, service, name string) string {
	return ServicePrefix(service) + string(kind) + "/" + name
}

// RequestKey is where the last request for a canary or an experiment is, a
// controlv1.Request in JSON.
func RequestKey(kind Kind, service, name string) string {
	return ServicePrefix(service) + "request/" + string(kind) + "/" + name
}

// HistoryPrefix is where all revisions of a document are. Names are unique in the mesh,
// so a document may move from one service to another.
func HistoryPrefix(kind Kind, name string) string {
	return Root + "history/" + string(kind) + "/" + name + "/"
}

// HistoryKey is where a revision is, a controlv1.Document in JSON.
func HistoryKey(kind Kind, name string, revision uint64) string {
	return HistoryPrefix(kind, name) + number(revision)
}

// Of sidecars: written by them, under prefixes that policies are not below.

// StatePrefix is where the states of a service's canaries and experiments are.
func StatePrefix(service string) string { return Root + "state/" + inKey(service) + "/" }

// StateKey is where the state of a canary or experiment is, a controlv1.RunState in JSON.
func StateKey(kind Kind, service, name string) string {
	return StatePrefix(service) + string(kind) + "/" + name
}

// TransitionsPrefix is where the history of a canary or experiment is.
func TransitionsPrefix(kind Kind, service, name string) string {
	return Root + "transitions/" + inKey(service) + "/" + string(kind) + "/" + name + "/"
}

// TransitionKey is where a transition is, a controlv1.Transition in JSON.
func TransitionKey(kind Kind, service, name string, n uint64) string {
	return TransitionsPrefix(kind, service, name) + number(n)
}

// LeaderKey is the lock of the sidecar that is elected for a service. It holds a
// controlv1.Leader in JSON.
func LeaderKey(service string) string { return Root + "leaders/" + inKey(service) }

// StatusPrefix is where sidecars say how they are.
//
// Its name shares no first letter with others below Root. Where nothing is below a prefix,
// Consul wakes those who watch it at each change below the deepest node of its tree of keys
// that leads there, and sidecars watch much that is not there. Were that node the parent of
// all statuses, each status would wake each sidecar's watches: a thousand sidecars that
// say how they are would wake a million. See Anchors.
const StatusPrefix = Root + "reports/"

// Anchors are keys that sidecars write, so that what is watched and not there is apart from
// the statuses in Consul's tree of keys, whatever else there is. They say nothing. Those
// who read what is beside them pass them over.
func Anchors() []string { return []string{Root + "leaders/" + anchor, Root + "state/" + anchor} }

// anchor stands where services do, and below them kinds. None can be called so.
const anchor = "_"

// ServiceAnchors are keys that sidecars write which are about to watch the states and the
// lock of a service. While there is nothing but them, Consul counts what is below the
// prefixes from when they were written. Without them it has nothing to count from, and
// answers such watches at each change of anything in its KV.
func ServiceAnchors(service string) []string {
	return []string{StatePrefix(service) + anchor, LeaderKey(service) + "/" + anchor}
}

// IsAnchor says whether a key is one of Anchors or ServiceAnchors.
func IsAnchor(key string) bool {
	return strings.HasSuffix(key, "/"+anchor) && (strings.HasPrefix(key, Root+"leaders/") || strings.HasPrefix(key, Root+"state/"))
}

// StatusKey is where one of them does, a controlv1.SidecarStatus in JSON. A pure client
// has the service "".
func StatusKey(service, id string) string {
	if service == "" {
		service = "_"
	}
	return StatusPrefix + service + "/" + id
}

// number has keys in the order of their numbers.
func number(n uint64) string { return fmt.Sprintf("%020d", n) }

// ParseServiceKey takes a key below ServicePrefix(service) apart: a document's kind and
// name, and whether it is a request for that.
func ParseServiceKey(service, key string) (kind Kind, name string, request, ok bool) {
	rest, ok := strings.CutPrefix(key, ServicePrefix(service))
	if !ok {
		return "", "", false, false
	}
	rest, request = strings.CutPrefix(rest, "request/")
	first, name, ok := strings.Cut(rest, "/")
	kind = Kind(first)
	ok = ok && name != "" && !strings.Contains(name, "/") && (kind == Canary || kind == Experiment || kind == Policy && !request)
	return kind, name, request, ok
}
