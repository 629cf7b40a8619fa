package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// Refusal says what is wrong with a policy.
type Refusal struct {
	// Policy is the policy's name.
	Policy string
	// Field is where, below the policy: "route.rules[2].to.subset"; "": the policy as
	// a whole.
	Field string
	// Message says what is wrong and what to do.
	Message string
	// Kept: what the policy said before stays in force.
	Kept bool
}

// Error writes the refusal on one line.
func (r Refusal) Error() string {
	where := "policy " + quoted(r.Policy)
	if r.Field != "" {
		where += ", " + r.Field
	}
	return where + ": " + r.Message
}

// problems collects what is wrong with one policy while it is compiled.
type problems struct {
	policy string
	env    *Env
	list   []Refusal
}

// addf reports that something is wrong with a field.
func (p *problems) addf(field, format string, args ...any) {
	p.list = append(p.list, Refusal{Policy: p.policy, Field: field, Message: fmt.Sprintf(format, args...)})
}

// at names an item of a list.
func at(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }

// of names an entry of a map, as protovalidate does.
func of(field, key string) string { return field + "[" + strconv.Quote(key) + "]" }

// quoted quotes what a person wrote.
func quoted(s string) string { return strconv.Quote(s) }

// keySyntaxProblem says why a text is no metadata key (gRPC's PROTOCOL-HTTP2:
// Header-Name); "": it is one.
func keySyntaxProblem(key string) string {
	if key == "" {
		return "is empty: name a metadata key"
	}
	if lower := strings.ToLower(key); lower != key {
		return quoted(key) + " has upper case letters, which no metadata key has on the wire: write " + quoted(lower)
	}
	for i := range len(key) {
		c := key[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.') {
			return quoted(key) + " is no metadata key: use letters, digits, '_', '-' and '.'"
		}
	}
	return ""
}
