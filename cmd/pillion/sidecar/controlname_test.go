package sidecar

import (
	"net"
	"strings"
	"testing"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// Clients on one machine have different names among the sidecars, also where the system
// chooses their ports: reports of two with one name would be taken for one's.
func TestClientsNames(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for listen, want := range map[string]string{
		"127.0.0.1:0":            "-127.0.0.1_" + port,
		"127.0.0.1:15001":        "-127.0.0.1_15001",
		"unix:///run/pillion.so": "-_run_pillion.so",
	} {
		cfg := &configv1.Bootstrap{Outbound: &configv1.Outbound{Listen: listen}}
		if id := sidecarID(cfg, &socket{Listener: l}); !strings.HasSuffix(id, want) {
			t.Errorf("one that listens at %s is called %s, not …%s", listen, id, want)
		}
	}
	if id := sidecarID(&configv1.Bootstrap{Service: &configv1.Service{Id: "greeter-1"}}, nil); id != "greeter-1" {
		t.Errorf("one beside an app is called %s", id)
	}
}
