package sidecar

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// An access policy that is wrong refuses everybody where there is no version of it that
// was not: to let everybody in would be worse. Others' policies, and other kinds, do not.
func TestAWrongAccessPolicyRefusesEverybody(t *testing.T) {
	const (
		good   = "access: {rules: [{action: allow, from: [web]}]}}\n"
		broken = "access: {rules: [{action: alow, from: [web]}]}}\n"
	)
	for name, c := range map[string]struct {
		policies string
		want     []string
	}{
		"good":                    {"- {name: a, service: greeter, " + good, nil},
		"wrong":                   {"- {name: a, service: greeter, " + broken, []string{"a"}},
		"for all":                 {"- {name: a, service: '*', " + broken, []string{"a"}},
		"for nobody knows whom":   {"- {name: a, " + broken, []string{"a"}},
		"for another":             {"- {name: a, service: other, " + broken, nil},
		"what compiling finds":    {"- {name: a, service: greeter, access: {rules: [{name: x, action: allow}, {name: x, action: allow}]}}\n", []string{"a"}},
		"in audit alone":          {"- {name: a, service: greeter, access: {mode: audit, rules: [{action: alow}]}}\n", nil},
		"of another kind":         {"- {name: a, service: greeter, timeout: {defalt: 1s}}\n", nil},
		"of a kind that is not":   {"- {name: a, service: greeter, acess: {rules: []}}\n", []string{"a"}},
		"beside one that is good": {"- {name: b, service: greeter, " + good + "- {name: a, service: greeter, " + broken, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "mesh.yaml")
			if err := os.WriteFile(path, []byte("services: {}\npolicies:\n"+c.policies), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := configyaml.Effective(&configv1.Bootstrap{
				Service: &configv1.Service{Name: "greeter", Address: "127.0.0.1:1"}, Inbound: &configv1.Inbound{Listen: anyPort},
				Registry: &configv1.Registry{Source: &configv1.Registry_File{File: &configv1.FileRegistry{Path: path}}},
			})
			s, err := New(cfg, Options{Logger: slog.New(slog.DiscardHandler), LogLevel: new(slog.LevelVar)})
			if err != nil {
				t.Fatal(err)
			}
			defer s.closeAll()
			if got := s.policies.broken; !slices.Equal(got, c.want) {
				t.Errorf("everybody is refused by %q, want %q", got, c.want)
			}
			successor, err := New(cfg, Options{Logger: slog.New(slog.DiscardHandler), LogLevel: new(slog.LevelVar), Replaces: true})
			if err == nil {
				successor.closeAll()
			}
			if (err != nil) != (c.want != nil) || err != nil && !strings.Contains(err.Error(), `access policy "a" is wrong`) {
				t.Errorf("as a successor: %v", err)
			}
		})
	}
}
