package identity

import (
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ConsulID is what a SPIFFE ID says that Consul's Connect CA has made for a service:
// spiffe://<trust domain>/ns/<ns>/dc/<dc>/svc/<service>, with /ap/<partition> before
// the rest where that is not "default".
type ConsulID struct {
	Service, Namespace, Partition, Datacenter string
}

const consulDefault = "default"

// ParseConsulID returns what an ID in Consul's form says.
func ParseConsulID(id spiffeid.ID) (ConsulID, bool) {
	if id.IsZero() {
		return ConsulID{}, false
	}
	c := ConsulID{Partition: consulDefault}
	rest := strings.TrimPrefix(id.Path(), "/")
	if partition, after, ok := cutPair("ap", rest); ok {
		c.Partition, rest = partition, after
	}
	var ok [3]bool
	c.Namespace, rest, ok[0] = cutPair("ns", rest)
	c.Datacenter, rest, ok[1] = cutPair("dc", rest)
	c.Service, rest, ok[2] = cutPair("svc", rest)
	if ok != [3]bool{true, true, true} || rest != "" {
		return ConsulID{}, false
	}
	return c, true
}

// cutPair takes "key/value" off the front of a path.
func cutPair(key, path string) (value, rest string, ok bool) {
	name, path, _ := strings.Cut(path, "/")
	if name != key {
		return "", "", false
	}
	value, rest, _ = strings.Cut(path, "/")
	return value, rest, value != ""
}

// ID returns the SPIFFE ID in Consul's form.
func (c ConsulID) ID(td spiffeid.TrustDomain) (spiffeid.ID, error) {
	text := scheme + td.Name()
	if c.Partition != "" && c.Partition != consulDefault {
		text += "/ap/" + c.Partition
	}
	return ParseID(text + "/ns/" + c.Namespace + "/dc/" + c.Datacenter + "/svc/" + c.Service)
}
