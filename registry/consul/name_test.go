package consul

import (
	"fmt"
	"net/url"
	"path"
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	t.Parallel()
	isDatacenter := func(name string) bool { return name == "dc2" || name == "1" }
	for _, test := range []struct {
		name, service, dc string
		ok                bool
	}{
		{"greeter", "greeter", "", true},
		{"greeter_2-b", "greeter_2-b", "", true},
		{"greeter.dc2", "greeter", "dc2", true},
		{"greeter.v1", "greeter.v1", "", true},
		{"greeter.v1.dc2", "greeter.v1", "dc2", true},
		{"dc2", "dc2", "", true},
		{"10.0.0.7", "10.0.0.7", "", true},
		{"", "", "", false},
		{".", "", "", false},
		{"..", "", "", false},
		{"a..b", "", "", false},
		{".dc2", "", "", false},
		{"greeter.", "", "", false},
		{"../agent/self", "", "", false},
		{"greeter?dc=dc2", "", "", false},
		{"greeter%2f", "", "", false},
		{"greeter:443", "", "", false},
		{"gréeter", "", "", false},
		{strings.Repeat("a", 253), strings.Repeat("a", 253), "", true},
		{strings.Repeat("a", 254), "", "", false},
	} {
		service, dc, ok := ParseName(test.name, isDatacenter)
		if service != test.service || dc != test.dc || ok != test.ok {
			t.Errorf("%q: got %q, %q, %t", test.name, service, dc, ok)
		}
	}
}

// A name is one step of a URL's path, and stays that.
func FuzzParseName(f *testing.F) {
	for _, name := range []string{"greeter", "greeter.dc2", "..", "a/b", "%2e%2e"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		service, dc, ok := ParseName(name, func(s string) bool { return len(s) < 4 })
		if !ok {
			return
		}
		if joined := strings.TrimSuffix(fmt.Sprintf("%s.%s", service, dc), "."); joined != name {
			t.Fatalf("%q became %q and %q", name, service, dc)
		}
		made := url.URL{Path: "/v1/health/service/" + service}
		if made.RequestURI() != "/v1/health/service/"+service || path.Clean(made.Path) != made.Path {
			t.Fatalf("%q changes its URL: %s", service, made.RequestURI())
		}
	})
}
