package registry

import (
	"net"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, network, address string }{
		{"127.0.0.1:50051", "tcp", "127.0.0.1:50051"},
		{"localhost:0", "tcp", "localhost:0"},
		{":15001", "tcp", ":15001"},
		{"[::1]:80", "tcp", "[::1]:80"},
		{"[fe80::1%eth0]:80", "tcp", "[fe80::1%eth0]:80"},
		{"greeter.example_zone.internal:65535", "tcp", "greeter.example_zone.internal:65535"},
		{"unix:///run/app.sock", "unix", "/run/app.sock"},
		{"unix:///run/a b/app.sock", "unix", "/run/a b/app.sock"},
		{"unix:///" + strings.Repeat("x", maxSocketPath-1), "unix", "/" + strings.Repeat("x", maxSocketPath-1)},
	} {
		network, address, err := ParseAddress(c.in)
		if err != nil || network != c.network || address != c.address {
			t.Errorf("ParseAddress(%q) = %q, %q, %v; want %q, %q", c.in, network, address, err, c.network, c.address)
		}
	}
}

func TestParseAddressRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, says string }{
		{"", "want host:port"},
		{"127.0.0.1", "want host:port"},
		{"::1:80", "IPv6 in brackets"},
		{"127.0.0.1:", `port ""`},
		{"127.0.0.1:65536", `port "65536"`},
		{"127.0.0.1:-1", `port "-1"`},
		{"127.0.0.1:http", `port "http"`},
		{"local host:80", `"local host" is not a host name`},
		{"host/path:80", `"host/path" is not a host name`},
		{"http://127.0.0.1:80", "want host:port"},
		{"unix:run/app.sock", "write unix:///run/app.sock"},
		{"unix:/run/app.sock", "write unix:///run/app.sock"},
		{"unix://run/app.sock", "is absolute"},
		{"unix://", "is absolute"},
		{"unix:///" + strings.Repeat("x", maxSocketPath), "at most 107 bytes, this one 108"},
		{"unix:///run/\x00", "zero byte"},
	} {
		_, _, err := ParseAddress(c.in)
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("ParseAddress(%q): error %v; want one line with %q", c.in, err, c.says)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, seed := range []string{"127.0.0.1:1", "[::1]:80", "unix:///a", "unix:", ":", "\x00:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		network, address, err := ParseAddress(s)
		switch {
		case err != nil:
			if network != "" || address != "" {
				t.Errorf("an error, and still %q, %q", network, address)
			}
		case network == "tcp":
			if _, _, err := net.SplitHostPort(address); err != nil {
				t.Errorf("%q was let through: %v", s, err)
			}
		case network != "unix" || !strings.HasPrefix(address, "/"):
			t.Errorf("ParseAddress(%q) = %q, %q", s, network, address)
		}
	})
}
