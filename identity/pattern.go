package identity

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Pattern is a set of SPIFFE IDs, as the `from` of access rules names them: one ID, in
// which "*" stands for one segment of the path and a "**" at its end for one or more
// that follow; a trust domain without a path, for all in it; or "spiffe://*", for all
// there are. It is comparable. The zero Pattern matches nothing.
type Pattern struct {
	text string
	kind patternKind
	// domain is the trust domain's name, path what follows it without the first slash.
	domain, path string
}

type patternKind uint8

const (
	patternNone patternKind = iota
	patternAll
	patternDomain
	patternExact
	patternPath
)

// ParsePattern reads a pattern.
func ParsePattern(text string) (Pattern, error) {
	p, err := parsePattern(text)
	if err != nil {
		return Pattern{}, fmt.Errorf("%q is no pattern of SPIFFE IDs: %w", shorten(text), err)
	}
	return p, nil
}

func parsePattern(text string) (Pattern, error) {
	p := Pattern{text: text}
	rest, ok := strings.CutPrefix(text, scheme)
	if !ok {
		return Pattern{}, errors.New("it does not begin with spiffe://")
	}
	if len(text) > maxID {
		return Pattern{}, fmt.Errorf("it has %d bytes, and %d is the most", len(text), maxID)
	}
	if rest == "*" {
		p.kind = patternAll
		return p, nil
	}
	var hasPath bool
	p.domain, p.path, hasPath = strings.Cut(rest, "/")
	if strings.Contains(p.domain, "*") {
		return Pattern{}, errors.New(`"*" stands for segments of a path, not of a trust domain; "spiffe://*" are all who have an identity`)
	}
	if err := checkTrustDomain(p.domain); err != nil {
		return Pattern{}, err
	}
	p.kind = patternDomain
	if !hasPath {
		return p, nil
	}
	p.kind = patternExact
	for rest, more := p.path, true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		switch {
		case segment == "*", segment == "**" && !more:
			p.kind = patternPath
		case segment == "**":
			return Pattern{}, errors.New(`"**" may only be its last segment`)
		case strings.Contains(segment, "*"):
			return Pattern{}, fmt.Errorf(`"*" stands for a whole segment, not for a part of one as in %q`, segment)
		default:
			if err := checkSegment(segment); err != nil {
				return Pattern{}, err
			}
		}
	}
	return p, nil
}

// Matches says whether an ID is one of them. The zero ID, of who has proven none, never
// is. It does not allocate.
func (p Pattern) Matches(id spiffeid.ID) bool {
	if id.IsZero() {
		return false
	}
	switch p.kind {
	case patternAll:
		return true
	case patternDomain:
		return id.TrustDomain().Name() == p.domain
	case patternExact:
		return id.String() == p.text
	case patternPath:
		return id.TrustDomain().Name() == p.domain && id.Path() != "" && matchPath(p.path, id.Path()[1:])
	case patternNone:
	}
	return false
}

// matchPath holds a path against a pattern, segment by segment.
func matchPath(pattern, path string) bool {
	for {
		want, patternRest, morePattern := strings.Cut(pattern, "/")
		if want == "**" {
			return true
		}
		got, pathRest, morePath := strings.Cut(path, "/")
		if want != "*" && want != got || morePattern != morePath {
			return false
		}
		if !morePattern {
			return true
		}
		pattern, path = patternRest, pathRest
	}
}

// Exact returns the one ID that the pattern matches, if it matches just one.
func (p Pattern) Exact() (spiffeid.ID, bool) {
	if p.kind != patternExact {
		return spiffeid.ID{}, false
	}
	id, err := ParseID(p.text)
	return id, err == nil
}

// String returns the pattern as it was written.
func (p Pattern) String() string { return p.text }
