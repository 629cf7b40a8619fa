package access

import (
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
)

// anyDatacenter is a datacenter's name that stands for all, until it is replaced.
const anyDatacenter = "any-datacenter"

// Names returns what [Env.IDs] is where the instances of services prove IDs made by a
// template (see [identity.ServiceID]) in a trust domain. Without a template and with an
// own ID in Consul's form they are Consul's, in the own namespace and partition and in
// any datacenter. Names that cannot be part of an ID are nobody's.
func Names(template string, own spiffeid.ID, td spiffeid.TrustDomain) func(service string) []identity.Pattern {
	return func(service string) []identity.Pattern {
		var id spiffeid.ID
		var err error
		consul, is := identity.ParseConsulID(own)
		if is = is && template == ""; is {
			consul.Service, consul.Datacenter = service, anyDatacenter
			id, err = consul.ID(td)
		} else {
			id, err = identity.ServiceID(template, td, service)
		}
		if err != nil {
			return nil
		}
		text := id.String()
		if is {
			text = strings.Replace(text, "/dc/"+anyDatacenter+"/", "/dc/*/", 1)
		}
		pattern, err := identity.ParsePattern(text)
		if err != nil {
			return nil
		}
		return []identity.Pattern{pattern}
	}
}
