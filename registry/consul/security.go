package consul

import (
	"cmp"
	"strings"

	"github.com/pillion-proxy/pillion/registry"
)

const (
	// metaPillion is the meta key in which a Pillion says what its inbound speaks.
	metaPillion = "pillion"
	// speaksPlain is its value where that is plaintext.
	speaksPlain = "plain"
	// speaksPermissive is its value where that is mutual TLS, and plaintext too.
	speaksPermissive = "permissive"
	// speaksMTLS is its value where that is mutual TLS alone.
	speaksMTLS = "mtls"
)

// trustDomain stands for the dialler's own in what an endpoint has to prove; see
// registry.Endpoint.
const trustDomain = "{trust_domain}"

// consulDefault is the namespace, and the partition, that registrations of Consul's
// community edition are in without saying so.
const consulDefault = "default"

// spoken is the value of metaPillion for what an inbound speaks.
func spoken(security registry.Security) string {
	switch security {
	case registry.SecurityPermissive:
		return speaksPermissive
	case registry.SecurityMTLS:
		return speaksMTLS
	case registry.SecurityUnknown, registry.SecurityPlaintext:
	}

	return speaksPlain
}

// speaks is what a sidecar's inbound speaks, and whether it can be dialled at all.
// Sidecars that do not say so are not Pillions: Consul's speak mTLS alone, and with
// certificates of its Connect CA. What is not understood, a later Pillion's, is dialled by
// mTLS or not at all: least of all is its app called in plaintext past it.
func (i *instance) speaks(connect bool) (security registry.Security, usable bool) {
	switch i.meta[metaPillion] {
	case speaksPlain:
		return registry.SecurityPlaintext, true
	case speaksPermissive:
		return registry.SecurityPermissive, true
	case speaksMTLS:
		return registry.SecurityMTLS, true
	case "":
		return registry.SecurityMTLS, connect
	default:
		return registry.SecurityMTLS, true
	}
}

// before says which of two sidecars beside the same instance is dialled.
func (i *instance) before(other *instance) bool {
	if pillion := i.meta[metaPillion] != ""; pillion != (other.meta[metaPillion] != "") {
		return pillion
	}

	return i.id < other.id
}

// identity is the SPIFFE ID that Consul's Connect CA gives an app's service, and the
// name that Consul's sidecars ask for (SNI). There is none where Consul does not say
// in which datacentre the app is.
func (i *instance) identity() (ids []string, serverName string) {
	if i.service == "" || i.datacenter == "" {
		return nil, ""
	}
	namespace, partition := cmp.Or(i.namespace, consulDefault), cmp.Or(i.partition, consulDefault)

	path := "/ns/" + namespace + "/dc/" + i.datacenter + "/svc/" + i.service
	name := []string{i.service, namespace, i.datacenter, "internal", trustDomain}
	if partition != consulDefault {
		path = "/ap/" + partition + path
		name = []string{i.service, namespace, partition, i.datacenter, "internal-v1", trustDomain}
	}

	return []string{"spiffe://" + trustDomain + path}, strings.Join(name, ".")
}
