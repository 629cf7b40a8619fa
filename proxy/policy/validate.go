package policy

import configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"

// Validate says what is wrong with policies of which each keeps the schema's rules and
// has its defaults filled in; nothing: all of them would be in force.
func Validate(policies []*configv1.Policy) []Refusal {
	_, refusals := Compile(policies, nil, Env{})
	return refusals
}
