package access

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

const (
	list    = "/shop.Orders/List"
	place   = "/shop.Orders/Place"
	refund  = "/shop.Payments/Refund"
	web     = "spiffe://example.org/svc/web"
	billing = "spiffe://example.org/svc/billing"
	foreign = "spiffe://other.example/svc/web"
)

// env has services named as by the default of `identity.service_id`.
var env = Env{
	TrustDomain: spiffeid.RequireTrustDomainFromString("example.org"),
	IDs: func(service string) []identity.Pattern {
		pattern, err := identity.ParsePattern("spiffe://example.org/svc/" + service)
		if err != nil {
			return nil
		}
		return []identity.Pattern{pattern}
	},
}

// id is the SPIFFE ID of a text; "": none.
func id(text string) spiffeid.ID {
	if text == "" {
		return spiffeid.ID{}
	}
	return spiffeid.RequireFromString(text)
}

// policy reads rules, one a line: an action, an optional mode after a slash, and then
// what has to hold, as `from=… methods=… key:value`. Lists have commas between.
func policy(tb testing.TB, name string, rules ...string) *Written {
	tb.Helper()
	w := &Written{Name: name}
	for i, text := range rules {
		words := strings.Fields(text)
		action, mode, _ := strings.Cut(words[0], "/")
		rule := Rule{Name: string(rune('1' + i)), Allow: action == "allow"}
		var ok bool
		if rule.Mode, ok = ParseMode(mode); !ok || action != "allow" && action != "deny" {
			tb.Fatalf("the test's own rule: %q", text)
		}
		for _, word := range words[1:] {
			if key, value, isMetadata := strings.Cut(word, "~"); isMetadata {
				rule.Metadata = has{key, value}
				continue
			}
			what, list, _ := strings.Cut(word, "=")
			for one := range strings.SplitSeq(list, ",") {
				switch what {
				case "from":
					from, err := ParseFrom(one)
					if err != nil {
						tb.Fatal(err)
					}
					rule.From = append(rule.From, from)
				case "methods":
					s := Selector{Path: one, Exact: true}
					if prefix, ok := strings.CutSuffix(one, "*"); ok {
						s = Selector{Path: prefix}
					}
					rule.Methods = append(rule.Methods, s)
				default:
					tb.Fatalf("the test's own rule: %q", text)
				}
			}
		}
		w.Rules = append(w.Rules, rule)
	}
	return w
}

// has is met by a request with a field, and unsure where its value is "?".
type has struct{ key, value string }

func (h has) Holds(fields []hpack.Field, unsure bool) bool {
	for _, f := range fields {
		if f.Name == h.key {
			if f.Value == "?" {
				return unsure
			}
			return f.Value == h.value
		}
	}
	return false
}

func (h has) Why([]hpack.Field) string { return h.key + " is not " + h.value }

// request is the fields of a request with metadata, as "key: value".
func request(path string, metadata ...string) []hpack.Field {
	fields := []hpack.Field{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: path},
		{Name: ":authority", Value: "orders"}, {Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}
	for _, text := range metadata {
		key, value, _ := strings.Cut(text, ": ")
		fields = append(fields, hpack.Field{Name: key, Value: value})
	}
	return fields
}
