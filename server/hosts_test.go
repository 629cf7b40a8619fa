package server

import (
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
)

func TestHosts(t *testing.T) {
	t.Parallel()
	known := newHosts([]string{"Admin.Internal."})
	for host, want := range map[string]bool{
		"":                          true,
		"localhost":                 true,
		"LOCALHOST:15000":           true,
		"localhost.:15000":          true,
		"greeter.localhost:15000":   true,
		"127.0.0.1":                 true,
		"127.0.0.1:15000":           true,
		"10.1.2.3:15000":            true,
		"[::1]:15000":               true,
		"[::1]":                     true,
		"[fe80::1]:15000":           true,
		"[fe80::1%eth0]:15000":      false,
		"admin.internal":            true,
		"admin.internal:15000":      true,
		"evil.example":              false,
		"evil.example:15000":        false,
		"127.0.0.1.evil.example":    false,
		"localhost.evil.example":    false,
		"notlocalhost":              false,
		"internal":                  false,
		"evil.example:admin:15000":  false,
		"[evil.example]:15000":      false,
		"%2Frun%2Fadmin.sock":       false,
		"127.0.0.1:80@evil.example": false,
	} {
		if got := known.allows(host); got != want {
			t.Errorf("host %q: %v, want %v", host, got, want)
		}
	}
}

// FuzzHosts shows that nothing put before a foreign name gets it through.
func FuzzHosts(f *testing.F) {
	for _, before := range []string{"", "127.0.0.1", "localhost", "[::1]:80", "127.0.0.1:80@", "fe80::1%", "["} {
		f.Add(before)
	}
	f.Fuzz(func(t *testing.T, before string) {
		for _, host := range []string{before + ".evil.example", before + ".evil.example:15000", before + ".evil.example."} {
			if hosts(nil).allows(host) {
				t.Errorf("host %q is allowed", host)
			}
		}
	})
}

func TestUnknownHostIsRefused(t *testing.T) {
	t.Parallel()
	r := start(t, Options{})
	for _, set := range []func(*http.Protocols, bool){(*http.Protocols).SetHTTP1, (*http.Protocols).SetUnencryptedHTTP2} {
		got := fetch(t, r.client(t, set), "GET", "http://evil.example/config")
		if got.code != http.StatusForbidden || !strings.Contains(got.body, `"evil.example"`) || !strings.Contains(got.body, "admin.listen") {
			t.Errorf("%d %q", got.code, got.body)
		}
	}
	_, err := adminv1.NewAdminClient(r.dial(t, grpc.WithAuthority("evil.example"))).GetConfig(t.Context(), &adminv1.GetConfigRequest{})
	wantCode(t, err, codes.PermissionDenied)
}
