package registry

import "context"

// Intentions are who may call one service, as Consul's service-intentions say. They
// are immutable once they were handed over.
type Intentions struct {
	// DefaultAllow is what holds for callers that no intention is for.
	DefaultAllow bool
	// TrustDomain is that of the callers in List that name none of their own.
	TrustDomain string
	// List is in the order of precedence: the first that is for a caller decides.
	List []Intention
}

// Intention is what holds for the callers that it is for.
type Intention struct {
	// Service, Namespace and Partition are the caller's; "*" stands for any. Namespace
	// and Partition are "default" where Consul has none.
	Service, Namespace, Partition string
	// Peer is the name of the cluster peer that the caller is in, "" for none. What
	// names a peer whose trust domain is not known is for nobody.
	Peer string
	// TrustDomain is the caller's where that is not Intentions.TrustDomain.
	TrustDomain string
	// Allow is what holds where there are no Permissions.
	Allow bool
	// Permissions are what holds for single requests: the first that matches decides.
	// Where none does, Consul's own rule for that holds.
	Permissions []IntentionPermission
	// Destination is what the intention is for: "greeter" or "*".
	Destination string
}

// IntentionPermission allows or denies the requests that it matches: all that it says
// must hold.
type IntentionPermission struct {
	Allow bool
	// At most one of PathExact, PathPrefix, PathRegex is there.
	PathExact, PathPrefix, PathRegex string
	// Methods are HTTP methods; gRPC's is always POST.
	Methods []string
	Headers []IntentionHeader
	// Unsupported says that there is more to it than this, such as JWT claims: it
	// matches no request if it allows, and every request if it denies.
	Unsupported string
}

// IntentionHeader is a condition on a header. At most one of the texts, or Present, is
// there.
type IntentionHeader struct {
	Name                                   string
	Present                                bool
	Exact, Prefix, Suffix, Contains, Regex string
	IgnoreCase, Invert                     bool
}

// IntentionSource is where intentions are found.
type IntentionSource interface {
	// WatchIntentions hands each state of the intentions for calls of a service over to
	// update, the first as soon as it is known, until ctx ends, and then returns. Calls
	// to update of one watch never overlap. While the source fails what was known last
	// goes on holding; nothing is handed over before anything is known.
	WatchIntentions(ctx context.Context, service string, update func(*Intentions))
}
