package identity

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	scheme = "spiffe://"
	// maxID and maxTrustDomain are the most bytes that the SPIFFE ID specification
	// (section 2.3) has every implementation support, and none may exceed.
	maxID          = 2048
	maxTrustDomain = 255
)

// ParseID reads a SPIFFE ID in its one canonical form. It is as strict as go-spiffe,
// and holds the specification's bounds of length besides.
func ParseID(text string) (spiffeid.ID, error) {
	if err := checkID(text); err != nil {
		return spiffeid.ID{}, fmt.Errorf("%q is not a SPIFFE ID: %w", shorten(text), err)
	}
	// What both accept is an ID: neither's slip alone lets anything in.
	id, err := spiffeid.FromString(text)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%q is not a SPIFFE ID: %w", shorten(text), err)
	}
	return id, nil
}

// checkID holds a text against the SPIFFE ID specification, section 2.
func checkID(text string) error {
	rest, ok := strings.CutPrefix(text, scheme)
	if !ok {
		return errors.New("it does not begin with spiffe://")
	}
	if len(text) > maxID {
		return fmt.Errorf("it has %d bytes, and %d is the most", len(text), maxID)
	}
	domain, path, hasPath := strings.Cut(rest, "/")
	if err := checkTrustDomain(domain); err != nil {
		return err
	}
	if !hasPath {
		return nil
	}
	for segment := range strings.SplitSeq(path, "/") {
		if err := checkSegment(segment); err != nil {
			return err
		}
	}
	return nil
}

func checkTrustDomain(name string) error {
	switch {
	case name == "":
		return errors.New("it has no trust domain")
	case len(name) > maxTrustDomain:
		return fmt.Errorf("its trust domain has %d bytes, and %d is the most", len(name), maxTrustDomain)
	}
	for i := range len(name) {
		if c := name[i]; !lower(c) && !digit(c) && !mark(c) {
			return fmt.Errorf("its trust domain has a %q, and only lower-case letters, digits, '.', '-' and '_' are allowed", c)
		}
	}
	return nil
}

func checkSegment(segment string) error {
	switch segment {
	case "":
		return errors.New("its path has an empty segment")
	case ".", "..":
		return errors.New("its path has a segment of dots alone")
	}
	for i := range len(segment) {
		if c := segment[i]; !lower(c) && !upper(c) && !digit(c) && !mark(c) {
			return fmt.Errorf("its path has a %q, and only letters, digits, '.', '-' and '_' are allowed", c)
		}
	}
	return nil
}

func lower(c byte) bool { return 'a' <= c && c <= 'z' }
func upper(c byte) bool { return 'A' <= c && c <= 'Z' }
func digit(c byte) bool { return '0' <= c && c <= '9' }
func mark(c byte) bool  { return c == '.' || c == '-' || c == '_' }

// shorten keeps what a peer has sent from filling the log.
func shorten(text string) string {
	const most = 200
	if len(text) <= most {
		return text
	}
	return text[:most] + "…"
}

// IDOf returns the SPIFFE ID of a certificate: that of its one URI SAN. The SAN is
// taken as it stands in the certificate: what a URL parser would make the same as
// an ID (another case of the scheme, an empty fragment) is not one.
func IDOf(cert *x509.Certificate) (spiffeid.ID, error) {
	uris, err := uriNames(cert)
	if err != nil {
		return spiffeid.ID{}, err
	}
	switch {
	case len(uris) == 0 && len(cert.DNSNames) > 0:
		return spiffeid.ID{}, fmt.Errorf("has no SPIFFE ID (a URI SAN), only the DNS name %q", shorten(cert.DNSNames[0]))
	case len(uris) == 0:
		return spiffeid.ID{}, errors.New("has no SPIFFE ID (a URI SAN)")
	case len(uris) > 1:
		return spiffeid.ID{}, fmt.Errorf("has %d URI SANs, and just one is allowed: %q and %q are among them", len(uris), shorten(uris[0]), shorten(uris[1]))
	case len(cert.URIs) != 1:
		return spiffeid.ID{}, errors.New("has a URI SAN that crypto/x509 does not see")
	}
	id, err := ParseID(uris[0])
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("has a URI SAN that will not do: %w", err)
	}
	if id.Path() == "" {
		return spiffeid.ID{}, fmt.Errorf("has the SPIFFE ID %s, which has no path: that is a trust domain, and nobody in it", id)
	}
	return id, nil
}

// subjectAltName is RFC 5280, section 4.2.1.6.
var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// uriTag is that of uniformResourceIdentifier in a GeneralName.
const uriTag = 6

// uriNames are a certificate's URI SANs as they stand in it.
func uriNames(cert *x509.Certificate) (uris []string, err error) {
	for _, extension := range cert.Extensions {
		if !extension.Id.Equal(subjectAltName) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(extension.Value, &names); err != nil || len(rest) > 0 {
			return nil, errors.New("has names (SANs) that cannot be parsed")
		}
		for _, name := range names {
			if name.Class == asn1.ClassContextSpecific && name.Tag == uriTag {
				uris = append(uris, string(name.Bytes))
			}
		}
	}
	return uris, nil
}
