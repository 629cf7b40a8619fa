package policy

import (
	"fmt"
	"strings"
)

// selector is a set of methods: one, or those whose path begins so.
type selector struct {
	path  string // with the leading slash; "": all
	exact bool
}

// everything selects all methods.
var everything = selector{}

// parseSelector reads a selector as `policies.methods` documents it.
func parseSelector(text string) (selector, error) {
	prefix, star := strings.CutSuffix(text, "*")
	switch {
	case text == "*":
		return everything, nil
	case text == "":
		return selector{}, fmt.Errorf(`names no method: write "package.Service/Method", "package.Service", "package.*" or "*"`)
	case strings.HasPrefix(text, "/"):
		return selector{}, fmt.Errorf("%q begins with a slash: write %q", text, text[1:])
	case strings.Contains(prefix, "*"):
		return selector{}, fmt.Errorf(`%q has a "*" that is not its end: only what begins alike can be selected`, text)
	case strings.Count(text, "/") > 1:
		return selector{}, fmt.Errorf(`%q has more than one slash: write "package.Service/Method"`, text)
	case star:
		return selector{path: "/" + prefix}, nil
	case strings.HasSuffix(text, "/"):
		return selector{}, fmt.Errorf("%q names no method: write %q for all of the service", text, strings.TrimSuffix(text, "/"))
	case strings.Contains(text, "/"):
		return selector{path: "/" + text, exact: true}, nil
	default:
		return selector{path: "/" + text + "/"}, nil
	}
}

// String writes the selector in the way that people would.
func (s selector) String() string {
	switch {
	case s.path == "":
		return "*"
	case s.exact:
		return s.path[1:]
	case strings.HasSuffix(s.path, "/") && len(s.path) > 2:
		return s.path[1 : len(s.path)-1]
	default:
		return s.path[1:] + "*"
	}
}

// selects says whether the method at a path is in the set.
func (s selector) selects(path string) bool {
	if s.exact {
		return path == s.path
	}
	return strings.HasPrefix(path, s.path)
}

// covers says whether all methods of the other are in the set.
func (s selector) covers(other selector) bool {
	if s.exact {
		return s == other
	}
	return strings.HasPrefix(other.path, s.path)
}

// overlaps says whether a method may be in both.
func (s selector) overlaps(other selector) bool { return s.covers(other) || other.covers(s) }

// compare orders selectors by how exact they are: the result is positive where s is
// the more exact one. It means something only for two that select the same method.
func (s selector) compare(other selector) int {
	if s.exact != other.exact {
		if s.exact {
			return 1
		}
		return -1
	}
	return len(s.path) - len(other.path)
}

// grpcService returns the front of a path up to the slash that ends the gRPC
// service's name ("/helloworld.Greeter/"), or "" where there is none.
func grpcService(path string) string {
	if len(path) < 2 {
		return ""
	}
	end := strings.IndexByte(path[1:], '/')
	if end < 0 {
		return ""
	}
	return path[:end+2]
}
