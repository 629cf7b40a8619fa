package registry

import (
	"context"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// Policies are the policies that a source knew at one moment. They are immutable
// once they were handed over.
type Policies struct {
	// List is in the source's order. Each of them is valid by itself, with its
	// defaults filled in. Where the source has one that is not, the last version of
	// it that was valid stands in its place.
	List []*configv1.Policy
	// Refused are those that are not valid.
	Refused []RefusedPolicy
	// Where is what the source calls itself, such as a file's path.
	Where string
	// Of is the service that generated policies were made for. Some may be about others,
	// where RPCs to it end. See WithFallback.
	Of string
	// Places says where in the source each policy is, by name: "mesh.yaml:12:5". A
	// source without such places has none.
	Places map[string]string
	// Locate says where in the source a field of a policy is, which is the path below
	// the policy: "mesh.yaml:12:5: policies[3].route". It may be nil.
	Locate func(policy, field string) string
	// Generated are made of what others say of services, such as Consul's configuration
	// entries. They hold where no policy of any source says otherwise; see WithFallback.
	Generated []*Policies
}

// RefusedPolicy is a version of a policy that does not hold because it is wrong, or a part
// of one that does not while the rest of it does.
type RefusedPolicy struct {
	// Policy is the policy's name, as far as it could be read.
	Policy string
	// Problem says on one line where it is wrong, and how.
	Problem string
	// Service is what it is for, "" where that could not be read.
	Service string
	// Access says that it refuses callers, or may be meant to: until there is a version
	// that holds, nobody is to be let in that it might have refused.
	Access bool
	// Partial says that it is a part alone that does not hold, the one that Problem names:
	// what Consul's configuration entries say and a sidecar does not do.
	Partial bool
}

// PolicySource is where policies are found.
type PolicySource interface {
	// WatchPolicies hands each state of the policies over to update, the first as
	// soon as it is known, until ctx ends, and then returns. Calls to update of one
	// watch never overlap.
	WatchPolicies(ctx context.Context, update func(*Policies))
}
