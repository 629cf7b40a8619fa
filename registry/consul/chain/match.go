package chain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// http reads what a route is for; nil: all.
func (r *Route) http() (*HTTPMatch, error) {
	if r.Definition == nil || r.Definition.Match == nil || len(r.Definition.Match.HTTP) == 0 {
		return nil, nil
	}
	var h *HTTPMatch
	decoder := json.NewDecoder(bytes.NewReader(r.Definition.Match.HTTP))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&h) //nolint:musttag // Consul writes its own names
	return h, err
}

// match translates what a route is for; nil: all RPCs. It says why that is none, or why
// it cannot be told.
func (t *translation) match(r *Route) (match *configv1.RouteMatch, never, problem string) {
	h, err := r.http()
	if err != nil {
		return nil, "", "it has a condition that is not known here: " + oneLine(err.Error())
	}
	if h == nil {
		return nil, "", ""
	}
	if len(h.QueryParam) > 0 {
		return nil, "it asks for a query parameter (query_param), which no RPC of gRPC has", ""
	}
	if len(h.Methods) > 0 && !slices.ContainsFunc(h.Methods, func(m string) bool { return strings.EqualFold(m, "POST") }) {
		return nil, "its methods are not POST, which all RPCs of gRPC are", ""
	}
	m := &configv1.RouteMatch{}
	if problem := h.path(m); problem != "" {
		return nil, "", problem
	}
	for i, header := range h.Header {
		conditions, problem := header.conditions()
		if problem != "" {
			return nil, "", fmt.Sprintf("header[%d]: %s", i, problem)
		}
		m.Metadata = append(m.Metadata, conditions...)
	}
	if len(m.GetMetadata()) > maxConditions {
		return nil, "", fmt.Sprintf("it has %d conditions on headers, and there may be %d at most", len(m.GetMetadata()), maxConditions)
	}
	if len(m.GetMethods()) == 0 && m.GetPathRegex() == "" && len(m.GetMetadata()) == 0 {
		return nil, "", ""
	}
	return m, "", ""
}

const (
	// maxConditions is how many conditions on metadata there may be.
	maxConditions = 64
	// The bounds of regular expressions: their length in bytes, and RE2's instructions.
	maxRegex        = 1024
	maxInstructions = 512
	maxMethod       = 512
	maxValue        = 8192
)

var (
	exactMethod  = regexp.MustCompile(`^/[A-Za-z_][A-Za-z0-9_.]*/[A-Za-z0-9_]+$`)
	wholeService = regexp.MustCompile(`^/[A-Za-z_][A-Za-z0-9_.]*/$`)
	methodsFront = regexp.MustCompile(`^/[A-Za-z_][A-Za-z0-9_.]*(/[A-Za-z0-9_]+)?$`)
)

// path translates the condition on the path, or says why it cannot be.
func (h *HTTPMatch) path(m *configv1.RouteMatch) (problem string) {
	var expression string
	switch exact, prefix := h.PathExact, h.PathPrefix; {
	case exact != "":
		if exactMethod.MatchString(exact) && len(exact) <= maxMethod && !h.CaseInsensitive {
			m.Methods = []string{exact[1:]}
			return ""
		}
		expression = regexp.QuoteMeta(exact)
	case prefix == "/":
		return ""
	case prefix != "":
		if len(prefix) < maxMethod && !h.CaseInsensitive {
			switch {
			case wholeService.MatchString(prefix):
				m.Methods = []string{prefix[1 : len(prefix)-1]}
				return ""
			case methodsFront.MatchString(prefix):
				m.Methods = []string{prefix[1:] + "*"}
				return ""
			}
		}
		expression = regexp.QuoteMeta(prefix) + "(?s:.*)"
	case h.PathRegex != "":
		m.PathRegex = h.PathRegex // which says itself whether case matters, as with Envoy
		return regexProblem("path_regex", h.PathRegex)
	default:
		return ""
	}
	if h.CaseInsensitive {
		expression = "(?i:" + expression + ")"
	}
	m.PathRegex = expression
	return regexProblem("the path", expression)
}

// regexProblem says why an expression cannot be used; "": it can.
func regexProblem(what, text string) string {
	if len(text) > maxRegex {
		return fmt.Sprintf("%s is longer than %d bytes as a regular expression", what, maxRegex)
	}
	tree, err := syntax.Parse(`\A(?:`+text+`)\z`, syntax.Perl)
	if err == nil {
		_, err = syntax.Parse(text, syntax.Perl)
	}
	if err != nil {
		return what + ": " + oneLine(err.Error())
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil || len(program.Inst) > maxInstructions {
		return fmt.Sprintf("%s takes more than %d instructions as a regular expression", what, maxInstructions)
	}
	return ""
}

// conditions translates a condition on a header, or says why it cannot be.
func (h *HeaderMatch) conditions() (list []*configv1.MetadataMatch, problem string) {
	key := lower(h.Name)
	asks := h.Exact + h.Regex + h.Prefix + h.Suffix
	switch {
	case key == "host" || strings.HasPrefix(key, ":"):
		return nil, fmt.Sprintf("%q is no metadata: rules see the path alone of what HTTP says of a request", h.Name)
	case !isKey(key):
		return nil, fmt.Sprintf("%q is no metadata key", h.Name)
	case strings.HasSuffix(key, "-bin") && asks != "":
		return nil, fmt.Sprintf("%q is compared in base64 there, and decoded here", h.Name)
	case len(asks) > maxValue:
		return nil, fmt.Sprintf("it asks for more than %d bytes", maxValue)
	}
	m := &configv1.MetadataMatch{Key: key, Invert: h.Invert}
	switch { // of several, the one that Consul's own sidecars look at
	case h.Exact != "":
		m.Condition = &configv1.MetadataMatch_Exact{Exact: h.Exact}
	case h.Regex != "":
		if problem := regexProblem("regex", h.Regex); problem != "" {
			return nil, problem
		}
		m.Condition = &configv1.MetadataMatch_Regex{Regex: h.Regex}
	case h.Prefix != "":
		m.Condition = &configv1.MetadataMatch_Prefix{Prefix: h.Prefix}
	case h.Suffix != "":
		m.Condition = &configv1.MetadataMatch_Suffix{Suffix: h.Suffix}
	case h.Present:
		m.Condition = &configv1.MetadataMatch_Present{Present: true}
	default:
		return nil, "" // Consul's own sidecars pass over it
	}
	list = []*configv1.MetadataMatch{m}
	if h.Invert && asks != "" {
		// With Envoy a key that is missing meets no condition on its value, one that is
		// turned around neither.
		list = append(list, &configv1.MetadataMatch{Key: key, Condition: &configv1.MetadataMatch_Present{Present: true}})
	}
	return list, ""
}
