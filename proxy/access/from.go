package access

import (
	"fmt"
	"strings"

	"github.com/pillion-proxy/pillion/identity"
)

// From is a caller, or a set of callers, as a rule names them.
type From struct {
	service string           // "": it is the pattern
	pattern identity.Pattern // of SPIFFE IDs
}

const scheme = "spiffe://"

// ParseFrom reads a pattern of SPIFFE IDs (see [identity.ParsePattern]), or a service's
// name.
func ParseFrom(text string) (From, error) {
	if strings.Contains(text, "://") {
		pattern, err := identity.ParsePattern(text)
		return From{pattern: pattern}, err
	}
	if text == "" || strings.ContainsAny(text, "/*") {
		return From{}, fmt.Errorf("%q is neither a service's name nor a SPIFFE ID: write one, such as web or spiffe://example.org/svc/web", text)
	}
	return From{service: text}, nil
}

// String returns what was read.
func (f From) String() string {
	if f.service != "" {
		return f.service
	}
	return f.pattern.String()
}

// Service returns the service's name, if it is one.
func (f From) Service() string { return f.service }

// Patterns returns what the caller's SPIFFE ID has to match one of, given what the
// instances of a service prove (see [Env]); nil: no service proves anything.
func (f From) Patterns(ids func(service string) []identity.Pattern) []identity.Pattern {
	if f.service == "" {
		return []identity.Pattern{f.pattern}
	}
	if ids == nil {
		return nil
	}
	return ids(f.service)
}
