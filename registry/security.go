package registry

// Security is what an endpoint speaks, as far as a registry knows.
type Security uint8

// What an endpoint may speak.
const (
	// SecurityUnknown: the registry does not say.
	SecurityUnknown Security = iota
	// SecurityPlaintext: plaintext alone.
	SecurityPlaintext
	// SecurityPermissive: mutual TLS, and plaintext too.
	SecurityPermissive
	// SecurityMTLS: mutual TLS alone.
	SecurityMTLS
)

var securityNames = [...]string{"unknown", "plaintext", "permissive", "mtls"}

// String returns the word for it, such as "mtls".
func (s Security) String() string {
	if int(s) >= len(securityNames) {
		return securityNames[SecurityUnknown]
	}
	return securityNames[s]
}
