package identity

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// DefaultServiceID is the template of a service's SPIFFE ID where nothing else is said.
const DefaultServiceID = scheme + trustDomainPlace + "/svc/" + servicePlace

// What stands for something in a template.
const (
	servicePlace     = "{service}"
	trustDomainPlace = "{trust_domain}"
)

// ServiceID returns the SPIFFE ID that the instances of a service have to prove:
// the template with "{service}" and "{trust_domain}" replaced. An empty template is
// [DefaultServiceID].
func ServiceID(template string, td spiffeid.TrustDomain, service string) (spiffeid.ID, error) {
	if template == "" {
		template = DefaultServiceID
	}
	if err := checkSegment(service); err != nil {
		return spiffeid.ID{}, fmt.Errorf("service %q has no SPIFFE ID: its name would be a part of the path, and %w", shorten(service), err)
	}
	id, err := ExpandID(template, td, service)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("service %q has no SPIFFE ID by the template %q: %w", service, template, err)
	}
	return id, nil
}

// ExpandID returns the SPIFFE ID that a text with "{service}" and "{trust_domain}" in
// it stands for.
func ExpandID(text string, td spiffeid.TrustDomain, service string) (spiffeid.ID, error) {
	if td.IsZero() && strings.Contains(text, trustDomainPlace) {
		return spiffeid.ID{}, fmt.Errorf("the own trust domain, for which %s stands in it, is not known yet", trustDomainPlace)
	}
	return ParseID(strings.NewReplacer(servicePlace, service, trustDomainPlace, td.Name()).Replace(text))
}

// ServiceOf is the inverse of [ServiceID]: the service whose instances prove this ID.
func ServiceOf(template string, td spiffeid.TrustDomain, id spiffeid.ID) (service string, ok bool) {
	if template == "" {
		template = DefaultServiceID
	}
	text := strings.ReplaceAll(template, trustDomainPlace, td.Name())
	places := strings.Count(text, servicePlace)
	before, _, _ := strings.Cut(text, servicePlace)
	whole := id.String()
	// All places stand for the same, so the lengths alone say how long it is.
	length := len(whole) - (len(text) - places*len(servicePlace))
	if places == 0 || length < places || length%places != 0 || !strings.HasPrefix(whole, before) {
		return "", false
	}
	service = whole[len(before) : len(before)+length/places]
	if checkSegment(service) != nil || strings.ReplaceAll(text, servicePlace, service) != whole {
		return "", false
	}
	return service, true
}

// NameOf is what a caller with this ID is called in policies, logs and metrics: the
// service that it proves to be, by the template or in Consul's form, or else its ID.
// Services of other trust domains, namespaces and partitions are not those that
// are meant by a mere name.
func NameOf(template string, td spiffeid.TrustDomain, id spiffeid.ID) string {
	if service, ok := ServiceOf(template, td, id); ok {
		return service
	}
	if c, ok := ParseConsulID(id); ok && id.MemberOf(td) && c.Namespace == consulDefault && c.Partition == consulDefault {
		return c.Service
	}
	return id.String()
}
